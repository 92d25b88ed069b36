#!/bin/bash
# kcache in the place of dkms: Debian's own -dkms packages, installed by apt in systems of their own that have no dkms.
#
#   tests/apt_dkms.sh DEB        DEB: the package of kcache; needs root, and the system that tests/apt.sh has made
#
# The first system compiles and shares what it has built; the second, as fresh, fetches all of it and compiles nothing. Then
# packages go again, and dkms itself comes and gets its place back.
#
# Each system is an overlay of the one in ${KCACHE_FIXTURES:-~/.cache/kcache-fixtures}/debootstrap, in a mount and pid
# namespace of its own: nothing is mounted or running when it is over, whatever happened in it.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin

fixtures=${KCACHE_FIXTURES:-$HOME/.cache/kcache-fixtures}
base=$fixtures/debootstrap
# shellcheck source=/dev/null
. "$fixtures/env"
release=$K61_NEW
names=(acpi-call bbswitch dm-writeboost v4l2loopback)
modules=(acpi_call bbswitch dm_writeboost v4l2loopback)

say() { printf '%s\n' "$*"; }
die() { say "FAILED: $*"; exit 1; }

scenario() {
    say "== $1"
    unshare --mount --pid --fork --kill-child --propagation private "$0" --inside "$deb" "$shared" "$2" || die "$1"
}

enter() {
    work=$(mktemp -d /dev/shm/kcache-apt.XXXXXX)
    trap 'umount -lR "$root" 2>/dev/null; umount -l "$work/over" 2>/dev/null; rm -rf "$work"' EXIT
    root=$work/root
    mkdir "$work/over" "$root"
    mount -t tmpfs none "$work/over"
    mkdir "$work/over/upper" "$work/over/work"
    mount -t overlay -o "lowerdir=$base/bookworm,upperdir=$work/over/upper,workdir=$work/over/work" none "$root"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 none "$root/dev"
    mknod -m 666 "$root/dev/null" c 1 3
    mknod -m 666 "$root/dev/zero" c 1 5
    mknod -m 666 "$root/dev/full" c 1 7
    mknod -m 666 "$root/dev/random" c 1 8
    mknod -m 666 "$root/dev/urandom" c 1 9
    mknod -m 666 "$root/dev/tty" c 5 0
    ln -s /proc/self/fd "$root/dev/fd"
    mkdir "$root/dev/shm" "$root/dev/pts" "$root/cache" "$root/debs"
    mount -t tmpfs none "$root/tmp"
    mount --bind "$shared" "$root/cache"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/fast"
    sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
    cp "$deb" "$root/debs/kcache.deb"
    cp "$base"/debs/*.deb "$root/debs/"
    for name in "${names[@]}"; do cp "$fixtures/debs/${name}-dkms_"*.deb "$root/debs/"; done
    rm -f "$root"/debs/*+again*
    apt_get install /debs/kcache.deb
    apt_get install "$(file "linux-image-$release")" "$(file linux-kbuild-6.1)" \
        "$(file "linux-headers-${release%-amd64}-common")" "$(file "linux-headers-$release")"
}

# Runs a command there, with nobody at the keyboard. Its output is in $work/log.
in_root() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive TERM=dumb \
        "$@" </dev/null >"$work/log" 2>&1
}

must() { in_root "$@" || die "$* ended with $?: $(tail -n 20 "$work/log")"; }
apt_get() { must apt-get -y --no-install-recommends -o APT::Sandbox::User=root "$@"; }
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
    enter
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
