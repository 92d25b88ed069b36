#!/bin/bash
# Demonstrates kcache: installs the modules of third-party packages for two kernels that this machine does not run.
# `make demo` calls it with cargo's target directory; it writes only under TARGET/demo.
set -euo pipefail

target=$1
kcache=$target/release/kcache
fixtures=$KCACHE_FIXTURES
demo=$target/demo
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=/dev/null
. "$fixtures/env"

say() { printf '\n'; printf '%s\n' "$@"; }

# Runs kcache on the demo's system and store, after showing what is run, and remembers how long it took.
times=()
run() {
    local name=$1 start=$EPOCHREALTIME seconds
    shift
    printf '$ kcache --root root --store store %s\n' "$*"
    "$kcache" --root "$demo/root" --store "$demo/store" "$@"
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }')
    times+=("$(printf '%8s s  %s' "$seconds" "$name")")
}

# A system as Debian's packages leave it: image, headers, module indexes.
make_root() {
    local kernel path
    rm -rf "$demo"
    mkdir -p "$demo"/root/{boot,lib/modules,usr/src,usr/lib}
    cp -a --reflink=auto "$fixtures"/root/usr/lib/linux-kbuild-6.1 "$demo/root/usr/lib/"
    for kernel in "$K61_OLD" "$K61_NEW"; do
        for path in "boot/vmlinuz-$kernel" "boot/config-$kernel" "lib/modules/$kernel" "usr/src/linux-headers-$kernel" \
            "usr/src/linux-headers-${kernel%-amd64}-common"; do
            cp -a --reflink=auto "$fixtures/root/$path" "$demo/root/${path%/*}/"
        done
        depmod -b "$demo/root" "$kernel"
    done
    for path in v4l2loopback acpi-call jool; do
        cp -a --reflink=auto "$fixtures"/packages/usr/src/$path-* "$demo/root/usr/src/"
    done
}

say "This machine runs kernel $(uname -r). Under $demo lies another system, with two kernels and their headers" \
    "($K61_OLD and $K61_NEW, neither of them running) and the sources of three packages" \
    "from Debian's archive; jool builds three modules. The store is empty."
make_root
printf '$ ls root/lib/modules root/usr/src\n'
(cd "$demo" && ls root/lib/modules root/usr/src)

say "1. A miss. Nothing like this was ever built here: each package is compiled in a sandbox (no network, not as root)" \
    "where the machine seems to run $K61_OLD, its modules are checked against that kernel, and installed."
run "miss: compiled, checked, installed for $K61_OLD" install -k "$K61_OLD"

say "2. A hit. The modules are removed, as on a reinstalled host that kept its store or reaches another's." \
    "The same command finds the builds under their keys (source, recipe, kernel, headers, compiler) and only installs."
run "remove" remove v4l2loopback acpi-call jool-dkms -k "$K61_OLD"
run "hit: looked up and installed for $K61_OLD" install -k "$K61_OLD"

say "3. The second kernel, $K61_NEW: a kernel update. It has headers of its own, so its modules are another build."
run "second kernel: compiled, checked, installed for $K61_NEW" install -k "$K61_NEW"

say "4. The verdict: may this system reboot into either kernel? Exit code 0 says yes, 3 says not yet."
run "verdict" check

say "5. What was installed says itself which kernel it is for:"
for kernel in "$K61_OLD" "$K61_NEW"; do
    printf '$ modprobe -d root -S %s --show-depends v4l2loopback\n' "$kernel"
    (cd "$demo" && modprobe -d "$demo/root" -S "$kernel" --show-depends v4l2loopback | sed "s|$demo/||")
    printf '$ modinfo -F vermagic ...\n'
    find "$demo/root/lib/modules/$kernel/updates" -name 'v4l2loopback.ko*' -exec modinfo -F vermagic {} \;
done

say "Times:" "${times[@]}"
