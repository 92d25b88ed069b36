#!/bin/bash
# Compares the verdicts of `kcache check` for ten real packages on three real kernels with what each kernel does when it is booted and
# loads the modules. `make verdicts` calls it with cargo's target directory; it writes only under TARGET/verdicts. It prints one line
# per package and kernel, and fails if the two contradict each other.
set -euo pipefail

target=$1
kcache=$target/release/kcache
fixtures=$KCACHE_FIXTURES
work=$target/verdicts
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=/dev/null
. "$fixtures/env"
kernels=("$K61_OLD" "$K61_NEW" "$K612")
packages=(v4l2loopback acpi-call bbswitch dm-writeboost jool-dkms)
more=(vpoll-dkms ddcci-dkms tp-smapi-dkms librem-ec-acpi-dkms openrazer-driver-dkms)

# Five packages of the tests' own fixtures, and five that are downloaded for this alone.
make_root() {
    local kernel path deb
    mkdir -p "$work"/root/{boot,lib/modules,usr/src,usr/lib} "$work/debs" "$work/more"
    for path in usr/lib/linux-kbuild-6.1 "usr/lib/linux-kbuild-${K612%-amd64}"; do
        cp -a --reflink=auto "$fixtures/root/$path" "$work/root/usr/lib/"
    done
    for kernel in "${kernels[@]}"; do
        for path in "boot/vmlinuz-$kernel" "boot/config-$kernel" "lib/modules/$kernel" "usr/src/linux-headers-$kernel" \
            "usr/src/linux-headers-${kernel%-amd64}-common"; do
            cp -a --reflink=auto "$fixtures/root/$path" "$work/root/${path%/*}/"
        done
        depmod -b "$work/root" "$kernel"
    done
    for path in "${packages[@]}"; do
        cp -a --reflink=auto "$fixtures/packages/usr/src/$path"-* "$work/root/usr/src/"
    done
    (cd "$work/debs" && apt-get -qq -o APT::Sandbox::User=root download "${more[@]}")
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/more"; done
    cp -a "$work"/more/usr/src/* "$work/root/usr/src/"
}

run() { "$kcache" --root "$work/root" --store "$work/store" "$@"; }

rm -rf "$work"
make_root
run install >/dev/null || true
run check --json >"$work/check.json" || true
for kernel in "${kernels[@]}"; do
    run boot-test -k "$kernel" --json || true
done >"$work/boot-test.json"

python3 - "$work" <<'END'
import json, sys

work = sys.argv[1]
checked = json.load(open(f"{work}/check.json"))
booted = [json.loads(line) for line in open(f"{work}/boot-test.json")]
modules = [record for record in booted if record["type"] == "module"]
contradictions = 0
print(f"{'package':<26} {'kernel':<24} {'check':<11} {'boot-test':<44} reason")
for package in checked["packages"]:
    for release, standing in sorted(package["kernels"].items()):
        own = [m for m in modules if m["package"] == package["name"] and m["kernel"] == release]
        said = ", ".join(f"{m['module']} {m['state']}" for m in own) or "nothing to load"
        agree = (standing["state"] == "ready") == bool(own) and all(m["state"] in ("loads", "no-device") for m in own)
        contradictions += not agree
        reason = (standing["reason"] or "") + ("" if agree else "  CONTRADICTION")
        print(f"{package['name']:<26} {release:<24} {standing['state']:<11} {said:<44} {reason}".rstrip())
print(f"{contradictions} contradictions")
sys.exit(contradictions > 0)
END
