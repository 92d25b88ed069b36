#!/bin/bash
# Tests ZFS as on hosts with a root file system on ZFS: Debian's zfs-dkms and zfs-initramfs, installed by apt in systems of their own,
# with kcache as dkms. Kernel and ZFS are installed in one run of apt or one after the other, in both orders, and the resulting
# initramfs must contain the very module that kcache installed.
#
#   tests/zfs.sh DEB        DEB: the package of kcache; needs root, the system that tests/apt.sh created, and the archive
#
# ZFS is compiled in the first system; the others find that build in the store. Each system is an overlay of the one in
# ${KCACHE_FIXTURES:-~/.cache/kcache-fixtures}/debootstrap, in a mount and pid namespace of its own, so that nothing stays mounted or
# running afterwards, whatever happened.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin

fixtures=${KCACHE_FIXTURES:-$HOME/.cache/kcache-fixtures}
base=$fixtures/debootstrap
cache=$fixtures/zfs debs=$fixtures/debs release=bookworm
# shellcheck source=/dev/null
. "$fixtures/env"
# shellcheck source=tests/debian_room.sh
. "$(dirname "$0")/debian_room.sh"
# shellcheck source=tests/corpus/archive.sh
. "$(dirname "$0")/corpus/archive.sh"
kernel=$K61_NEW
modules=(icp spl zavl zcommon zfs zlua znvpair zunicode zzstd)

scenario() {
    say "== $1"
    unshare --mount --pid --fork --kill-child --propagation private "$0" --inside "$deb" "$shared" "$2" || die "$1"
}

# All that zfs-dkms and zfs-initramfs need beyond what the system has, dkms aside, which kcache stands in for.
download_zfs() {
    look_at_release
    mkdir -p "$cache/system"
    cp "$base/bookworm/var/lib/dpkg/status" "$cache/status"
    apt-get -qq -o Dir::State::status="$cache/status" -o Debug::NoLocking=1 --no-install-recommends --print-uris -y install \
        zfs-dkms zfs-initramfs | awk '{print $2}' | sed 's/_.*//' | grep -vx dkms | while read -r name; do
        cp "$(debs=/nonexistent download "$name")" "$cache/system/"
    done
}

prepare_system() {
    enter
    rm -rf "$root/var/cache/kcache"
    mkdir -p "$root/var/cache/kcache"
    mount --bind "$shared" "$root/var/cache/kcache"
    cp "$cache"/system/*.deb "$root/debs/"
    rm -f "$root"/debs/*+again*
    # zfs-dkms wants the headers of a kernel to be there before it; its own build would be of the running one.
    apt_get install "$(file linux-kbuild-6.1)" "$(file "linux-headers-${kernel%-amd64}-common")"
}

file() { (cd "$root" && ls -d debs/"$1"_*.deb | sed 's,^,/,' | head -n 1); }
kernel_files() { file "linux-headers-$kernel"; file "linux-image-$kernel"; }
zfs_files() { (cd "$cache/system" && ls -- *.deb) | sed 's,^,/debs/,'; }

# The nine modules are found by modprobe, the initramfs holds zfs and what it needs, and those are the same bytes.
ready() {
    local module found inside
    for module in "${modules[@]}"; do
        found=$(chroot "$root" modprobe -S "$kernel" --show-depends "$module" | tail -n 1)
        case $found in *updates/kcache-*/zfs/"$module".ko*) ;; *) die "modprobe finds '$found' for $module" ;; esac
    done
    rm -rf "$root/tmp/initramfs"
    chroot "$root" unmkinitramfs "/boot/initrd.img-$kernel" /tmp/initramfs
    for module in zfs spl; do
        inside=$(find "$root/tmp/initramfs" -name "$module.ko")
        [ -n "$inside" ] || die "$module is not in the initramfs"
        cmp -s "$inside" "$(find "$root/lib/modules/$kernel/updates" -name "$module.ko")" || die "the initramfs has another $module"
    done
    must kcache check -k "$kernel"
    # What comes before the kernel's own hooks leaves their initramfs nothing to be made for again.
    grep -E 'zfs' "$work/log" | sed 's/^/    /'
}

# shellcheck disable=SC2046
one_run() {
    apt_get install $(zfs_files) $(kernel_files)
    ready
    # Without it in the initramfs the host would not find its root file system.
    rm -rf "$root/tmp/empty" && mkdir "$root/tmp/empty"
    (cd "$root/tmp/empty" && find . | cpio --quiet -o -H newc >"$root/boot/initrd.img-$kernel")
    ! in_root kcache check -k "$kernel" || die "check does not miss zfs in the initramfs: $(cat "$work/log")"
    grep -qF 'lacks zfs, which /usr/share/initramfs-tools/hooks/zfs includes' "$work/log" || die "$(cat "$work/log")"
    must update-initramfs -u -k "$kernel"
    ready
}
# shellcheck disable=SC2046
zfs_then_kernel() { apt_get install $(zfs_files); apt_get install $(kernel_files); ready; }
# shellcheck disable=SC2046
kernel_then_zfs() { apt_get install $(kernel_files); apt_get install $(zfs_files); ready; }

if [ "${1-}" = --inside ]; then
    deb=$2 shared=$3
    prepare_system
    "$4"
    exit
fi
[ "$(id -u)" = 0 ] || die "this needs root: it makes systems of its own and installs packages in them"
[ -e "$base/stamp" ] || die "tests/apt.sh has not made its system yet: make test-apt"
deb=$(realpath "$1")
download_zfs
shared=$(mktemp -d /dev/shm/kcache-shared.XXXXXX)
trap 'rm -rf "$shared"' EXIT
chmod 755 "$shared"
scenario "ZFS and a kernel in one run of apt" one_run
scenario "ZFS, then a kernel" zfs_then_kernel
scenario "a kernel, then ZFS" kernel_then_zfs
say "ZFS is in place before each reboot"
