#!/usr/bin/env python3
"""Prints the table of tests/dkms_suite/run.sh: table.py REASONS KERNEL <LOG

REASONS has a regular expression and a reason a line, separated by a tab. It is searched for in `CODE expected got command`,
`STATUS module: expected / got` and `CHECK words`, with the kernel's release as K. The first that is found is the reason.
Ends with 1 if a difference has none.
"""

import re
import sys


def read(log, kernel):
    """The differences, as lines to be searched, and how many comparisons were equal, by kind."""
    same, other = {}, []
    for line in log:
        if not line.startswith("@@"):
            continue
        kind, *fields = line[2:].rstrip("\n").replace(kernel, "K").split("\t")
        if kind == "CODE":
            at, expected, got, command = fields[:4]
            text = None if expected == got else f"CODE {expected} {got} {command}"
        elif kind == "STATUS":
            at, is_same, module, expected, got = fields[:5]
            text = None if is_same == "same" else f"STATUS {module}: {expected or '-'} / {got or '-'}"
        elif kind == "CHECK":
            at, text = fields[0], f"CHECK {fields[1]}"
        elif kind == "TEXT":
            kind = f"TEXT {fields[1]}"
            text = None
        else:
            continue
        if text is None:
            same[kind] = same.get(kind, 0) + 1
        else:
            other.append((int(at), kind, text))
    return same, other


def main():
    reasons = []
    with open(sys.argv[1], encoding="utf-8") as file:
        for line in file:
            if line.strip() and not line.startswith("#"):
                pattern, reason = line.rstrip("\n").split("\t", 1)
                reasons.append((re.compile(pattern), reason))
    same, other = read(sys.stdin, sys.argv[2])
    print("| compared | equal | different |\n|---|---:|---:|")
    for kind, words in (("CODE", "exit codes"), ("STATUS", "states (`dkms status`)")):
        print(f"| {words} | {same.get(kind, 0)} | {sum(kind == k for _, k, _ in other)} |")
    print(f"| other checks, which print nothing if equal | | {sum(k == 'CHECK' for _, k, _ in other)} |")
    print(f"| texts, word for word | {same.get('TEXT same', 0)} | {same.get('TEXT other', 0)} |")
    print("\n| line of run_test.sh | expected, got | reason |\n|---:|---|---|")
    unknown = 0
    for at, _, text in other:
        reason = next((reason for pattern, reason in reasons if pattern.search(text)), None)
        unknown += reason is None
        print(f"| {at} | `{text}` | {reason or '**none**'} |")
    print(f"\n{len(other)} differences, {unknown} without a reason")
    return 1 if unknown else 0


sys.exit(main())
