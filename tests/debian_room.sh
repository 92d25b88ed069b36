# A disposable Debian system: an overlay of the one that tests/apt.sh created, until the shell ends.
# Sourced by tests that run in a mount and pid namespace of their own. Needs $base and $deb; sets $work and $root.
# shellcheck shell=bash

say() { printf '%s\n' "$*"; }
die() { say "FAILED: $*"; exit 1; }

# Makes the system, with kcache in it.
enter() {
    local minor
    work=$(mktemp -d /dev/shm/kcache-apt.XXXXXX)
    trap 'umount -lR "$root" 2>/dev/null; umount -l "$work/over" 2>/dev/null; rm -rf "$work"' EXIT
    root=$work/root
    mkdir "$work/over" "$root"
    mount -t tmpfs none "$work/over"
    mkdir "$work/over/upper" "$work/over/work"
    mount -t overlay -o "lowerdir=$base/bookworm,upperdir=$work/over/upper,workdir=$work/over/work" none "$root"
    mount -t proc proc "$root/proc"
    mount -t tmpfs -o mode=755 none "$root/dev"
    for minor in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 "$root/dev/${minor%:*}" c 1 "${minor#*:}"; done
    mknod -m 666 "$root/dev/tty" c 5 0
    ln -s /proc/self/fd "$root/dev/fd"
    mkdir "$root/dev/shm" "$root/dev/pts"
    mount -t tmpfs none "$root/tmp"
    # Debian's services must not start, nor must dpkg wait for a disk.
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod +x "$root/usr/sbin/policy-rc.d"
    echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/fast"
    # The initramfs holds what is named, and little else: that makes it quickly.
    sed -i 's/^MODULES=.*/MODULES=list/' "$root/etc/initramfs-tools/initramfs.conf"
    mkdir "$root/debs"
    cp "$deb" "$root/debs/kcache.deb"
    for package in "$base"/debs/*.deb; do ln "$package" "$root/debs/" 2>/dev/null || cp "$package" "$root/debs/"; done
    apt_get install /debs/kcache.deb
}

# Runs a command there, as an administrator's shell over ssh would with nobody at the keyboard. Its output is in $work/log.
in_root() {
    chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive TERM=dumb \
        "$@" </dev/null >"$work/log" 2>&1
}

must() { in_root "$@" || die "$* ended with $?: $(tail -n 20 "$work/log")"; }
apt_get() { must apt-get -y --no-install-recommends --allow-downgrades -o APT::Sandbox::User=root "$@"; }
