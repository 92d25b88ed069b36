#!/bin/bash
# Tests the hooks in a Debian system of its own, with its own apt and dpkg, and Debian's own kernel packages.
#
#   tests/apt.sh DEB        DEB: the package of kcache; needs root
#
# Kernels are installed, upgraded and removed in every order of image and headers. After each step the script checks whether the
# modules are installed, whether they were before the initramfs was generated, apt's exit code, and what files are left.
#
# Created once in ${KCACHE_FIXTURES:-~/.cache/kcache-fixtures}/debootstrap:
#
#   bookworm/          the system: Debian 12 with initramfs-tools, a compiler and what kcache depends on
#   debs/              the kernel's packages without compression, which saves half a minute per test, and a copy as a later version
#   stamp              written last
#
# Each test works on an overlay of the system, in a mount and pid namespace of its own, so that nothing stays mounted or running
# afterwards, whatever happened.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin

fixtures=${KCACHE_FIXTURES:-$HOME/.cache/kcache-fixtures}
base=$fixtures/debootstrap
mirror=${KCACHE_MIRROR:-http://deb.debian.org/debian}
# shellcheck source=/dev/null
. "$fixtures/env"
# shellcheck source=tests/debian_room.sh
. "$(dirname "$0")/debian_room.sh"
release=$K61_NEW
include=initramfs-tools,kmod,linux-base,bubblewrap,make,patch,gcc-12,libc6-dev,linux-compiler-gcc-12-x86,libelf1,zstd

# --- once -------------------------------------------------------------------------------------------------------------

package_of() { find "$fixtures/debs" -name "$1_*.deb" | sort -V | tail -n 1; }

# Packs a package again, without compression; with a second argument as a later version that is the same otherwise.
repack() {
    local deb=$1 later=${2-} tree
    tree=$(mktemp -d)
    dpkg-deb -R "$deb" "$tree"
    if [ -n "$later" ]; then
        sed -i "s/^Version: .*/&+$later/" "$tree/DEBIAN/control"
    fi
    dpkg-deb --root-owner-group -Znone --build "$tree" "$base/debs" >/dev/null
    rm -rf "$tree"
}

prepare() {
    local version name
    version=$(cat "$0" "$fixtures/env" | sha256sum)
    [ "$(cat "$base/stamp" 2>/dev/null)" != "$version" ] || return 0
    command -v debootstrap >/dev/null || apt-get -qq install --no-install-recommends -y debootstrap
    rm -rf "$base"
    mkdir -p "$base/debs"
    say "making a Debian system in $base, once"
    debootstrap --variant=minbase --include=$include bookworm "$base/bookworm" "$mirror" >"$base/log" 2>&1 \
        || die "debootstrap: $(tail -n 3 "$base/log")"
    rm -f "$base"/bookworm/var/cache/apt/archives/*.deb
    for name in "linux-image-$release" "linux-headers-$release" "linux-headers-${release%-amd64}-common" linux-kbuild-6.1; do
        repack "$(package_of "$name")"
    done
    repack "$(package_of "linux-image-$release")" again
    printf %s "$version" >"$base/stamp"
}

# --- a test's system --------------------------------------------------------------------------------------------------

# Runs a function of this script in a system of its own, which is $root there.
scenario() {
    say "== $1"
    unshare --mount --pid --fork --kill-child --propagation private "$0" --inside "$deb" "$2" || die "$1"
}

prepare_system() {
    enter
    echo v4l2loopback >>"$root/etc/initramfs-tools/modules"
    cp -r "$fixtures"/packages/usr/src/{v4l2loopback,acpi-call}-* "$root/usr/src/"
}

debs() {
    local name file
    for name in "$@"; do
        file=$(cd "$root/debs" && ls "${name}"_*_*.deb | grep -v +again | head -n 1)
        echo "/debs/$file"
    done
}

image=linux-image-$release
headers=(linux-kbuild-6.1 "linux-headers-${release%-amd64}-common" "linux-headers-$release")
tree=lib/modules/$release

install_image() { apt_get install "$(debs "$image")"; }
# shellcheck disable=SC2046
install_headers() { apt_get install $(debs "${headers[@]}"); }

# --- what must hold ---------------------------------------------------------------------------------------------------

says() { grep -qF -- "$1" "$work/log" || die "'$1' is not said: $(cat "$work/log")"; }
says_not() { ! grep -qF -- "$1" "$work/log" || die "'$1' is said: $(cat "$work/log")"; }

# Both modules are installed, found by modprobe, and one of them is in the initramfs: the same bytes.
ready() {
    local module found inside
    for module in v4l2loopback acpi_call; do
        found=$(chroot "$root" modprobe -S "$release" --show-depends "$module" | tail -n 1)
        case $found in *updates/kcache-*"$module".ko*) ;; *) die "modprobe finds '$found' for $module" ;; esac
    done
    rm -rf "$root/tmp/initramfs"
    chroot "$root" unmkinitramfs "/boot/initrd.img-$release" /tmp/initramfs
    inside=$(find "$root/tmp/initramfs" -name v4l2loopback.ko)
    [ -n "$inside" ] || die "v4l2loopback is not in the initramfs"
    cmp -s "$inside" "$(find "$root/$tree/updates" -name v4l2loopback.ko)" || die "the initramfs has another v4l2loopback"
    chroot "$root" kcache check -k "$release" >"$work/log" 2>&1 || die "kcache check: $(cat "$work/log")"
}

# Nothing of kcache's is in /lib/modules, and nothing at all of the kernel but what is named.
nothing_left() {
    local left
    left=$(cd "$root" && find lib/modules -mindepth 1 2>/dev/null | grep -vxF "$(printf '%s\n' "${@:-none}")" || true)
    [ -z "$left" ] || die "these are left: $left"
}

# --- orders -----------------------------------------------------------------------------------------------------------

headers_then_image() {
    install_headers
    says "building its modules now, to be installed with it"
    [ ! -e "$root/$tree/updates" ] || die "modules are installed for a kernel that is not there"
    install_image
    says "$release: ready"
    says_not "compiling"
    ready
    # Headers that go leave the kernel as ready as it was.
    apt_get purge "linux-headers-$release"
    [ -n "$(find "$root/$tree/updates" -name acpi_call.ko)" ] || die "the modules went with the headers"
    apt_get remove "$image"
    nothing_left
    apt_get purge "$image"
    nothing_left
}

image_then_headers() {
    install_image
    says "not ready: no headers and no cached build"
    nothing_of_kcache=$(find "$root/lib/modules" -name '*kcache*')
    [ -z "$nothing_of_kcache" ] || die "$nothing_of_kcache"
    install_headers
    says "regenerating the initramfs"
    says "$release: ready"
    ready
    # The image goes, the headers stay, and so do their links.
    apt_get purge "$image"
    nothing_left "$tree" "$tree/build" "$tree/source"
}

both_at_once() {
    # shellcheck disable=SC2046
    apt_get install $(debs "$image" "${headers[@]}")
    says "$release: ready"
    ready
    # A foreign module in the tree is nobody's to remove but its owner's.
    mkdir -p "$root/$tree/updates/dkms"
    echo theirs >"$root/$tree/updates/dkms/theirs.ko"
    apt_get purge "$image" "linux-headers-$release"
    [ "$(cat "$root/$tree/updates/dkms/theirs.ko")" = theirs ] || die "a foreign module is gone"
    nothing_of_kcache=$(find "$root/lib/modules" -name '*kcache*')
    [ -z "$nothing_of_kcache" ] || die "$nothing_of_kcache"
}

upgrade_of_the_same_release() {
    # shellcheck disable=SC2046
    apt_get install $(debs "$image" "${headers[@]}")
    apt_get install --reinstall "$(debs "$image")"
    ready
    # A module that went missing comes back with the kernel's next version.
    rm -r "$root/$tree"/updates/kcache-*/acpi-call
    apt_get install "/debs/$(cd "$root/debs" && ls "$image"_*+again_*.deb)"
    ready
    in_root sh -c 'kcache remove --all' || die "$(cat "$work/log")"
    [ -e "$root/$tree/modules.dep.bin" ] || die "the kernel's own indexes went with the last package"
}

a_package_that_fails() {
    mkdir "$root/usr/src/broken-1.0"
    printf 'PACKAGE_NAME=broken\nPACKAGE_VERSION=1.0\nBUILT_MODULE_NAME[0]=broken\nDEST_MODULE_LOCATION[0]=/extra\nAUTOINSTALL=yes\n' \
        >"$root/usr/src/broken-1.0/dkms.conf"
    echo 'obj-m := broken.o' >"$root/usr/src/broken-1.0/Makefile"
    echo 'int broken(void) { return no_such_name; }' >"$root/usr/src/broken-1.0/broken.c"
    install_headers
    says "warning: do not reboot into $release"
    # Told, and forgiven.
    install_image
    says "warning: do not reboot into $release"
    says "broken"
    [ -n "$(find "$root/$tree/updates" -name acpi_call.ko)" ] || die "the other packages are not installed"
    apt_get purge "$image"
    # Told, and not forgiven.
    mkdir -p "$root/etc/kcache"
    echo 'on-failure = "block"' >"$root/etc/kcache/config.toml"
    if in_root apt-get -y install "$(debs "$image")"; then die "apt did not fail: $(cat "$work/log")"; fi
    says "warning: do not reboot into $release"
    # Once the cause is gone, dpkg goes on where it was.
    rm -r "$root/usr/src/broken-1.0"
    in_root dpkg --configure -a || die "dpkg --configure -a: $(cat "$work/log")"
    says "$release: ready"
    ready
}

kcache_is_removed() {
    # shellcheck disable=SC2046
    apt_get install $(debs "$image" "${headers[@]}")
    apt_get remove kcache
    [ -e "$root/etc/kernel/postinst.d/do-kcache" ] || die "the configuration files went with a mere removal"
    apt_get install --reinstall "$(debs "$image")"
    [ -n "$(find "$root/$tree/updates" -name acpi_call.ko)" ] || die "the modules went with kcache"
    apt_get purge kcache
    left=$(find "$root/etc/kernel" "$root/usr/lib/systemd" "$root/var/cache/kcache" -name '*kcache*' 2>/dev/null || true)
    [ -z "$left" ] || die "these are left: $left"
}

kcache_in_the_same_run() {
    apt_get purge kcache
    # dpkg configures the kernel first, whose hooks are run without kcache's.
    # shellcheck disable=SC2046
    apt_get install $(debs "$image" "${headers[@]}") /debs/kcache.deb
    says "$release: ready"
    ready
}

kcache_comes_later() {
    apt_get purge kcache
    # shellcheck disable=SC2046
    apt_get install $(debs "$image" "${headers[@]}")
    apt_get install /debs/kcache.deb
    says "regenerating the initramfs"
    says "$release: ready"
    ready
    # Only the first configuration does that.
    in_root kcache remove --all || die "$(cat "$work/log")"
    apt_get install --reinstall /debs/kcache.deb
    says_not "$release: ready"
}

# What the hook adds to an installation. Numbers for people, asserted nowhere.
how_long() {
    # shellcheck disable=SC2046
    apt_get install $(debs "$image" "${headers[@]}")
    local hook="kcache hooks run kernel-installed $release"
    seconds() {
        local start=$EPOCHREALTIME
        in_root sh -c "$1" || die "$1: $(cat "$work/log")"
        printf '%8s s  %s\n' "$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.2f", b - a }')" "$2"
    }
    in_root kcache remove --all -k "$release"
    rm -rf "$root/var/cache/kcache"
    seconds "$hook" "the hook, two packages to compile"
    in_root kcache remove --all -k "$release"
    seconds "$hook" "the hook, a hit: both are in the store"
    seconds "$hook" "the hook again, nothing to change"
    seconds "depmod $release" "for comparison: depmod alone"
    seconds "update-initramfs -u -k $release" "for comparison: the smallest initramfs"
    seconds "kcache hooks run boot $release" "at boot, nothing to put right"
}

# ----------------------------------------------------------------------------------------------------------------------

if [ "${1-}" = --inside ]; then
    deb=$2
    prepare_system
    "$3"
    exit
fi
[ "$(id -u)" = 0 ] || die "this needs root: it makes a system of its own and installs packages in it"
deb=$(realpath "$1")
prepare
scenario "headers before the image; headers go; the image goes; purge" headers_then_image
scenario "the image before its headers; the image goes, the headers stay" image_then_headers
scenario "both at once; purge beside a foreign module" both_at_once
scenario "reinstallation and upgrade of the same release" upgrade_of_the_same_release
scenario "a package that fails: warn, then block" a_package_that_fails
scenario "kcache itself is removed and purged" kcache_is_removed
scenario "kcache and the kernel in one run" kcache_in_the_same_run
scenario "kcache after the kernel" kcache_comes_later
scenario "how long it takes" how_long
say "all orders went as they should"
