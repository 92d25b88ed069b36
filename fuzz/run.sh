#!/bin/sh
# Runs every fuzz target, or those named, two at a time, FUZZ_SECONDS each (3600), then prints a table of the results.
#
#   fuzz/run.sh [TARGET]...
#
# Interesting inputs are kept in fuzz/target/corpus, where the next run continues; failing inputs in fuzz/artifacts. The exit status
# is 1 if there were any.
set -eu
cd "$(dirname "$0")/.."
export FUZZ_SECONDS="${FUZZ_SECONDS:-3600}"

if [ "${1:-}" = --one ]; then
    target=$2
    mkdir -p "fuzz/target/corpus/$target" fuzz/target/logs
    # A store, or a kernel's tree, is made here and left behind; and memory is enough for it.
    TMPDIR=$(mktemp -d "${TMPDIR:-/dev/shm}/kcache-fuzz-XXXXXX")
    export TMPDIR
    trap 'rm -rf "$TMPDIR"' EXIT
    dictionary=$(ls "fuzz/dictionaries/$target" 2>/dev/null || true)
    # Rust without unsafe code needs no sanitizer, and is several times as fast without.
    cargo +nightly fuzz run --sanitizer none "$target" "fuzz/target/corpus/$target" "fuzz/corpus/$target" -- \
        -max_total_time="$FUZZ_SECONDS" -max_len=16384 -timeout=20 -rss_limit_mb=1024 -print_final_stats=1 \
        ${dictionary:+-dict="$dictionary"} >"fuzz/target/logs/$target" 2>&1 || true
    exit
fi

# Artifacts that are newer than this are of this run.
mkdir -p fuzz/target fuzz/artifacts
started=$(mktemp fuzz/target/started-XXXXXX)
trap 'rm -f "$started"' EXIT
cargo +nightly fuzz build --sanitizer none
[ $# -gt 0 ] || set -- $(cargo +nightly fuzz list)
printf '%s\n' "$@" | xargs -P 2 -n 1 fuzz/run.sh --one

failed=0
printf '%-12s %12s %8s %8s\n' target runs corpus crashes
for target; do
    log=fuzz/target/logs/$target
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    corpus=$(sed -n 's/.* corp: \([0-9]*\).*/\1/p' "$log" | tail -n 1)
    crashes=$(find "fuzz/artifacts/$target" -type f -newer "$started" 2>/dev/null | wc -l)
    printf '%-12s %12s %8s %8s\n' "$target" "${runs:-none}" "${corpus:-none}" "$crashes"
    # One that did not run to its end has found nothing for want of running.
    if [ "$crashes" != 0 ] || [ -z "$runs" ]; then failed=1; fi
done
exit $failed
