#!/usr/bin/env python3
"""What dkms and kcache made of the same packages, as a table. tests/corpus/run.sh calls it.

table.py RELEASE PAIRS            lines of PACKAGE KERNEL RESULT-OF-DKMS RESULT-OF-KCACHE; exit 1 where kcache falls short
table.py --compare OURS THEIRS    how the modules of two results differ, in one word: in names, modinfo, symbols; "same"
table.py --extract STORE RESULT   takes the modules that RESULT/json names out of kcache's store (docs/formats.md)
"""
import base64
import json
import os
import re
import struct
import subprocess
import sys
import tempfile

SIGNATURE = {"sig_id", "signer", "sig_key", "sig_hashalgo", "signature"}  # dkms signs while it builds, kcache on installing
INTRODUCTION = """## {release}

| package | kernel | dkms | kcache | modules | modinfo | symbols | bits | again | loads | dkms, s | kcache, s | kcache says |
|---|---|---|---|---|---|---|---|---|---|---|---|---|"""
MAGIC = b"~Module signature appended~\n"


def text(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return ""


def records(path, kind):
    lines = [json.loads(line) for line in text(path).splitlines()]
    return [line for line in lines if line["type"] == kind]


def extract(store, result):
    os.makedirs(f"{result}/modules", exist_ok=True)
    for record in records(f"{result}/json", "result"):
        with open(f"{result}/seconds", "w") as file:
            file.write(f"{record['seconds']:.1f}\n")
        if not record["modules"]:
            continue
        key = record["key"]
        envelope = json.loads(text(f"{store}/entries/{key[:2]}/{key}.json"))
        for output in json.loads(base64.b64decode(envelope["payload"]))["outputs"]:
            if output["name"].endswith(".ko"):
                packed = f"{store}/objects/{output['digest'][:2]}/{output['digest']}.zst"
                with open(f"{result}/modules/{output['name']}", "wb") as file:
                    subprocess.run(["zstd", "-dcq", packed], stdout=file, check=True)


def plain(path):
    """A module's bytes, unpacked and without an appended signature (include/linux/module_signature.h)."""
    unpack = {".xz": ["xz", "-dc"], ".gz": ["gzip", "-dc"], ".zst": ["zstd", "-dcq"]}.get(os.path.splitext(path)[1], ["cat"])
    data = subprocess.run([*unpack, path], stdout=subprocess.PIPE, check=True).stdout
    if data.endswith(MAGIC):
        trailer = data[-len(MAGIC) - 12:-len(MAGIC)]
        data = data[:-len(MAGIC) - 12 - int.from_bytes(trailer[8:], "big")]
    return data


def facts(data):
    """modinfo's fields, nm's symbols and the bytes of a module; those without the link to debug information, which dkms has not."""
    with tempfile.NamedTemporaryFile(suffix=".ko") as file:
        file.write(data)
        file.flush()
        run = lambda *command: subprocess.run([*command, file.name], capture_output=True, check=True).stdout
        fields = sorted(f for f in run("modinfo", "-0").split(b"\0") if f.split(b":")[0].decode() not in SIGNATURE | {"filename"})
        symbols = [b" ".join(line.split()[:2]) for line in sorted(run("nm", "-f", "posix").split(b"\n"))]
        run("objcopy", "--remove-section=.gnu_debuglink")
        with open(file.name, "rb") as rewritten:
            return fields, symbols, rewritten.read()


def sections(data):
    """A module's sections by name (elf(5), ELFCLASS64)."""
    offset, = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + size * at) for at in range(count)]
    text = data[headers[names][4]:]
    filled = [header for header in headers if header[1] != 8]  # SHT_NOBITS
    return {text[name:text.index(b"\0", name)].decode(): data[at:at + length] for name, _, _, _, at, length in filled}


def modules(result):
    names = sorted(os.listdir(f"{result}/modules"))
    return {re.sub(r"\.ko(\.\w+)?$", "", name): facts(plain(f"{result}/modules/{name}")) for name in names}


def left_out(result):
    """Modules that kcache did not take, because nothing exports what they need: it says so."""
    return set(re.findall(r"(?:left out|skipping module): (\S+)\.ko needs the symbol", text(f"{result}/log")))


def same(ours, theirs, part):
    alike = [name for name in theirs if name in ours and ours[name][part] == theirs[name][part]]
    return "all" if len(alike) == len(theirs) == len(ours) else f"{len(alike)} of {len(theirs)}"


def bits(ours, theirs):
    """How many are the same to the bit, and which sections are not; the build-id follows from them."""
    found = set()
    for name in ours.keys() & theirs.keys():
        left, right = sections(ours[name][2]), sections(theirs[name][2])
        found |= {part for part in left if left[part] != right.get(part)} - {".note.gnu.build-id"}
    return ": ".join([same(ours, theirs, 2), *([", ".join(sorted(found))] if found else [])])


def compare(ours, theirs):
    """Modules by name, modinfo and symbols: what holds also for `make`, which builds in another directory and strips nothing."""
    left, right = modules(ours), modules(theirs)
    right = {name: data for name, data in right.items() if name not in left_out(ours)}
    if left.keys() != right.keys():
        fewer, more = sorted(right.keys() - left.keys()), sorted(left.keys() - right.keys())
        return f"{len(left)} of {len(right)}:" + "".join(f" -{name}" for name in fewer) + "".join(f" +{name}" for name in more)
    parts = [(part, same(left, right, at)) for at, part in ((0, "modinfo"), (1, "symbols"))]
    return ", ".join(f"{part} {alike}" for part, alike in parts if alike != "all") or "same"


def dkms_state(result):
    status = text(f"{result}/status").strip()
    return {"0": "built", "77": "excluded"}.get(status, "fails")


def kcache_state(result):
    states = {record["state"] for record in records(f"{result}/json", "result")}
    return {"fetched": "built", "failed": "fails"}.get(*states, *states) if len(states) == 1 else "error"


def row(package, kernel, dkms, kcache):
    left, right = dkms_state(dkms), kcache_state(kcache)
    cells = [package, kernel, left, right]
    fine = left == right or (left == "fails" and right == "built")
    theirs, ours, without = modules(dkms), modules(kcache), left_out(kcache)
    theirs = {name: data for name, data in theirs.items() if name not in without}
    if left == right == "built":
        cells += [f"{len(ours)}, {len(without)} left out" if without else str(len(ours))]
        cells += [same(ours, theirs, 0), same(ours, theirs, 1), bits(ours, theirs)]
        fine = fine and cells[5] == cells[6] == "all"
    else:
        cells += [str(len(ours) or ""), "", "", ""]
    again = {record["state"] for record in records(f"{kcache}/again", "result")}
    cells.append("same" if right == "built" and again == {"built"} else "" if right != "built" else "differ")
    fine = fine and cells[-1] != "differ"
    loaded = [record["state"] for record in records(f"{kcache}/boot", "module")]
    well = [state for state in loaded if state in ("loads", "no-device")]
    cells.append("" if not loaded else "all" if well == loaded else f"{len(well)} of {len(loaded)}")
    fine = fine and well == loaded
    cells += [text(f"{dkms}/seconds").strip(), text(f"{kcache}/seconds").strip()]
    errors = [record["error"] or "" for record in records(f"{kcache}/json", "result")]
    cells.append(errors[0].splitlines()[0].replace("|", "\\|")[:110] if errors and errors[0] else "")
    return cells, fine


def main():
    if sys.argv[1] == "--extract":
        return extract(*sys.argv[2:])
    if sys.argv[1] == "--compare":
        return print(compare(*sys.argv[2:]))
    rows = [row(*line.split()) for line in text(sys.argv[2]).splitlines()]
    print(INTRODUCTION.format(release=sys.argv[1]))
    for cells, _ in rows:
        print("| " + " | ".join(cells) + " |")
    wrong = [f"{cells[0]} on {cells[1]}" for cells, fine in rows if not fine]
    count = lambda at, state: sum(cells[at] == state for cells, _ in rows)
    print(f"\n{len(rows)} builds: dkms {count(2, 'built')}, kcache {count(3, 'built')}; {len(wrong)} where kcache falls short")
    for line in wrong:
        print(f"- {line}")
    return 1 if wrong else 0


sys.exit(main())
