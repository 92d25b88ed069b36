#!/bin/bash
# Tests kcache as dkms: Debian's own -dkms packages, installed by apt in systems of their own without dkms.
#
#   tests/apt_dkms.sh DEB        DEB: the package of kcache; needs root, and the system that tests/apt.sh created
#
# The first system compiles and pushes its builds; the second, equally fresh, fetches all of them and compiles nothing. Then the
# packages are removed, and dkms itself is installed and gets its files back.
#
# Each system is an overlay of the one in ${KCACHE_FIXTURES:-~/.cache/kcache-fixtures}/debootstrap, in a mount and pid namespace of
# its own, so that nothing stays mounted or running afterwards, whatever happened.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin

fixtures=${KCACHE_FIXTURES:-$HOME/.cache/kcache-fixtures}
base=$fixtures/debootstrap
# shellcheck source=/dev/null
. "$fixtures/env"
# shellcheck source=tests/debian_room.sh
. "$(dirname "$0")/debian_room.sh"
release=$K61_NEW
names=(acpi-call bbswitch dm-writeboost v4l2loopback)
modules=(acpi_call bbswitch dm_writeboost v4l2loopback)

scenario() {
    say "== $1"
    unshare --mount --pid --fork --kill-child --propagation private "$0" --inside "$deb" "$shared" "$2" || die "$1"
}

prepare_system() {
    local name
    enter
    mkdir "$root/cache"
    mount --bind "$shared" "$root/cache"
    for name in "${names[@]}"; do cp "$fixtures/debs/${name}-dkms_"*.deb "$root/debs/"; done
    rm -f "$root"/debs/*+again*
    apt_get install "$(file "linux-image-$release")" "$(file linux-kbuild-6.1)" \
        "$(file "linux-headers-${release%-amd64}-common")" "$(file "linux-headers-$release")"
}

file() { (cd "$root" && ls -d debs/"$1"_*.deb | sed 's,^,/,' | head -n 1); }

says() { grep -qF -- "$1" "$work/log" || die "'$1' is not said: $(cat "$work/log")"; }

install_packages() {
    # shellcheck disable=SC2046
    apt_get install $(for name in "${names[@]}"; do file "$name-dkms"; done)
    sed 's/^/    /' "$work/log" | grep -E 'Done\.|Loading|fetched|compil|Skipped' || true
}

# Every module is found by modprobe, and dkms says so.
installed() {
    local module
    for module in "${modules[@]}"; do
        found=$(chroot "$root" modprobe -S "$release" --show-depends "$module" | tail -n 1)
        case $found in *updates/kcache-*"$module".ko* | *updates/kcache-*"${module//_/-}".ko*) ;; *) die "modprobe finds '$found' for $module" ;; esac
    done
    must dkms status
    [ "$(grep -cE "^[a-z0-9-]+/[^,]+, $release, x86_64: installed\$" "$work/log")" = ${#names[@]} ] \
        || die "dkms status: $(cat "$work/log")"
    sed 's/^/    /' "$work/log"
}

# What kcache has counted since the system was made.
counted() {
    must kcache metrics
    grep -E '^kcache_(builds|fetches|lookups)' "$work/log" | sed 's/^/    /'
}

builds_and_shares() {
    must kcache keys generate --name one
    printf '[[cache]]\nurl = "file:///cache/store"\nwrite = true\n' >"$root/etc/kcache/config.toml"
    install_packages
    installed
    counted
    cp "$(find "$root/etc/kcache/trusted-keys" -type f | head -n 1)" "$shared/one.pem"
    must kcache push --all
    [ -n "$(find "$shared/store" -name '*.zst' 2>/dev/null)" ] || die "nothing was shared"

    apt_get remove acpi-call-dkms
    must dkms status
    ! grep -q acpi-call "$work/log" || die "dkms status still has acpi-call: $(cat "$work/log")"
    [ -z "$(find "$root/lib/modules/$release" -name 'acpi_call*')" ] || die "acpi_call is still in the tree"
    [ -n "$(find "$root/lib/modules/$release" -name 'bbswitch*')" ] || die "bbswitch went with acpi-call"
    apt_get remove "${names[@]/%/-dkms}"
    [ -z "$(find "$root/lib/modules/$release/updates" -name '*.ko*' 2>/dev/null)" ] || die "modules are left"
    must dkms status
    [ ! -s "$work/log" ] || die "dkms status: $(cat "$work/log")"
}

fetches() {
    mkdir -p "$root/etc/kcache"
    must kcache keys trust /cache/one.pem --name one
    printf '[[cache]]\nurl = "file:///cache/store"\n' >"$root/etc/kcache/config.toml"
    install_packages
    installed
    counted
    says 'kcache_builds_total{result="built"} 0'
    # What was made here would bear no signature: it has no key of its own.
    for entry in "$root"/var/cache/kcache/entries/*/*.json; do
        grep -q '"sig"' "$entry" || die "$entry was built here"
    done
}

beside_dkms() {
    local real
    real=$(find "$shared" -name 'dkms_*.deb' | head -n 1)
    [ -n "$real" ] || { say "    the package dkms cannot be downloaded: passed over"; return 0; }
    cp "$real" "$root/debs/dkms.deb"
    install_packages
    must dpkg --force-depends -i /debs/dkms.deb
    [ "$(readlink "$root/usr/sbin/dkms")" = ../bin/kcache ] || die "dkms took its name back"
    [ -f "$root/usr/sbin/dkms.distrib" ] || die "dkms was not put aside"
    installed
    # The next kernel event: dkms's hook calls the drop-in, after kcache's own has done everything.
    must run-parts --arg="$release" /etc/kernel/postinst.d
    installed
    must dpkg -i /debs/kcache.deb
    [ -f "$root/usr/sbin/dkms.distrib" ] || die "an upgrade gave dkms its name back"
    must dpkg --force-depends -r kcache
    head -c 11 "$root/usr/sbin/dkms" | grep -q '#!/bin/bash' || die "dkms did not come back"
    [ -f "$root/usr/lib/dkms/common.postinst" ] && [ ! -L "$root/usr/lib/dkms/common.postinst" ] || die "common.postinst did not come back"
    [ ! -e "$root/usr/sbin/dkms.distrib" ] || die "dkms.distrib is left"
    must dpkg -i /debs/kcache.deb
    must dpkg --force-depends -P kcache
    must dpkg-divert --list '*dkms*'
    [ ! -s "$work/log" ] || die "diversions are left: $(cat "$work/log")"
}

if [ "${1-}" = --inside ]; then
    deb=$2 shared=$3
    prepare_system
    "$4"
    exit
fi
[ "$(id -u)" = 0 ] || die "this needs root: it makes systems of its own and installs packages in them"
[ -e "$base/stamp" ] || die "tests/apt.sh has not made its system yet: make test-apt"
deb=$(realpath "$1")
shared=$(mktemp -d /dev/shm/kcache-shared.XXXXXX)
trap 'rm -rf "$shared"' EXIT
chmod 755 "$shared"
mkdir "$shared/store"
(cd "$shared" && apt-get -qq download dkms) 2>/dev/null || true
scenario "the first system builds, and shares" builds_and_shares
scenario "the second one fetches, and compiles nothing" fetches
scenario "dkms comes and goes" beside_dkms
say "kcache has stood in for dkms"
