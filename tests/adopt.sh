#!/bin/bash
# Tests `kcache adopt` on a host where DKMS itself, Debian's script, has built and installed modules.
#
#   tests/adopt.sh TARGET        TARGET: cargo's target directory, with a release build; needs root, downloads the package dkms
#
# The host is this machine's own system with two kernels, DKMS, kcache and two packages laid over it (overlayfs), in a mount
# namespace of its own: nothing of it reaches /usr/src, /lib/modules or /var here, or is left afterwards. DKMS installs, kcache
# takes over and gives back; then every file and link must be as DKMS left it, and the indexes must have the same content. At each
# step modprobe must find the expected modules.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin

fixtures=${KCACHE_FIXTURES:-$HOME/.cache/kcache-fixtures}
# shellcheck source=/dev/null
. "$fixtures/env"
kernels=("$K61_CLOUD" "$K612")
packages=(acpi-call-1.2.2 bbswitch-0.8)
modules=(acpi_call bbswitch)

say() { printf '%s\n' "$*"; }
die() { say "FAILED: $*"; exit 1; }

[ "$(id -u)" = 0 ] || die "overlayfs needs root"
[ "${ADOPT_NAMESPACE-}" ] || ADOPT_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"

# The layers lie in memory: overlayfs wants none of them below another, and the lowest is this machine's own root.
make_host() {
    local kernel
    mount -t tmpfs -o mode=755 adopt "$room"
    mkdir -p "$room"/{merged,upper,inner} "$room/system/usr/"{src,bin,lib/modules} "$room/system/var/lib/dkms" "$room/system/etc/kcache"
    (cd "$room" && apt-get -qq -o APT::Sandbox::User=root download dkms)
    dpkg-deb -x "$room"/dkms_*.deb "$room/system"
    cp "$kcache" "$room/system/usr/bin/kcache"
    cp -a "${packages[@]/#/$fixtures/packages/usr/src/}" "$room/system/usr/src/"
    cp -a "$fixtures"/root/usr/lib/linux-kbuild-* "$room/system/usr/lib/"
    mkdir "$room/system/boot"
    for kernel in "${kernels[@]}"; do
        cp -a "$fixtures/root/boot/"{config,vmlinuz}"-$kernel" "$room/system/boot/"
        cp -a "$fixtures/root/lib/modules/$kernel" "$room/system/usr/lib/modules/"
        cp -a "$fixtures/root/usr/src/linux-headers-$kernel" "$fixtures/root$(readlink "$fixtures/root/lib/modules/$kernel/source")" "$room/system/usr/src/"
    done
    mount -t overlay adopt -o "lowerdir=$room/system:/,upperdir=$room/upper,workdir=$room/inner" "$room/merged"
    mount -t proc proc "$room/merged/proc"
    mount --rbind /dev "$room/merged/dev"
    mount -t tmpfs tmpfs "$room/merged/tmp"
}

# Runs a command there. What it prints is in $room/log.
within() { chroot "$room/merged" "$@" </dev/null >"$room/log" 2>"$room/errors" || die "$* ended with $?: $(cat "$room/log" "$room/errors")"; }

# Where modprobe finds the modules, for each kernel.
resolves() {
    local kernel module path
    for kernel in "${kernels[@]}"; do
        for module in "${modules[@]}"; do
            path=$(chroot "$room/merged" modprobe -S "$kernel" --show-depends "$module" | tail -n 1)
            case $path in *"/$kernel/updates/$1"*) ;; *) die "$kernel: modprobe finds '$path' for $module, expected $1" ;; esac
        done
    done
}

# Every file, link and directory of DKMS's and of the kernels' trees, by its bytes; the indexes by what they say.
written() {
    local kernel
    cd "$room/merged"
    find var/lib/dkms usr/lib/modules/{"${kernels[0]}","${kernels[1]}"} -name 'modules.*' -prune -o -printf '%p %y %m %l\n' | sort
    find var/lib/dkms usr/lib/modules/{"${kernels[0]}","${kernels[1]}"} -name 'modules.*' -prune -o -type f -print0 | sort -z | xargs -0 sha256sum
    for kernel in "${kernels[@]}"; do sort "usr/lib/modules/$kernel/modules."{dep,alias,symbols,softdep}; done
}

kcache=$(realpath "$1/release/kcache")
room=$(mktemp -d)
trap 'umount -lR "$room/merged" 2>/dev/null || true; umount -l "$room" 2>/dev/null || true; rmdir "$room"' EXIT
make_host

for kernel in "${kernels[@]}"; do
    within depmod "$kernel"
    for package in "${packages[@]}"; do
        within dkms install "${package%-*}/${package##*-}" -k "$kernel"
    done
done
within dkms status
cp "$room/log" "$room/status"
say "dkms has installed:"; sed 's/^/    /' "$room/status"
resolves dkms/
written >"$room/before"

# What kcache says as dkms is what dkms says.
within ln -s /usr/bin/kcache /tmp/dkms
within /tmp/dkms status
diff "$room/status" "$room/log" || die "kcache as dkms does not say the same"

within kcache adopt
resolves kcache-
[ -z "$(find "$room/merged/usr/lib/modules/"*/updates/dkms -name '*.ko*' 2>/dev/null)" ] || die "files of dkms are left"
within kcache check -k "${kernels[0]}" -k "${kernels[1]}"
within dkms status
say "kcache has taken over"

within kcache adopt --undo
resolves dkms/
written >"$room/after"
diff "$room/before" "$room/after" || die "not all is as it was"
within dkms status
diff "$room/status" "$room/log" || die "dkms does not say what it said"
for kernel in "${kernels[@]}"; do within depmod "$kernel"; done
written >"$room/after"
diff "$room/before" "$room/after" || die "depmod makes another index"
within dkms remove bbswitch/0.8 --all
say "kcache has given back, and dkms goes on"
