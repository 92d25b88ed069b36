#!/bin/bash
# kcache's units under a real systemd, with control groups (v2), on the kernel that the modules are for: a Debian system in a
# disposable VM boots three times.
#
#   tests/systemd.sh KCACHE DIR       a kcache binary; DIR is for the disk image and the logs
#
#   first boot    nothing is installed. kcache-retry.service, hardened as it is, builds and installs; its builds have control
#                 groups with limits
#   second boot   systemd-modules-load loads a module of kcache's; then its file is deleted
#   third boot    kcache-boot.service has restored the file from the store before systemd-modules-load wanted it
#
# Needs root for debootstrap, and network for that, once: the system is kept in $KCACHE_FIXTURES/systemd. Six minutes, as the VM is
# emulated in software.
set -euo pipefail
export LC_ALL=C

kcache=$(realpath "$1")
mkdir -p "$2"
dir=$(realpath "$2")
base=$KCACHE_FIXTURES/systemd
# shellcheck source=/dev/null
. "$KCACHE_FIXTURES/env"
kernel=$K61_NEW
PATH=$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*"; }
die() { say "FAILED: $*"; exit 1; }
[ "$(id -u)" = 0 ] || die "debootstrap needs root"
[ "${IN_NAMESPACE-}" ] || IN_NAMESPACE=1 exec unshare --mount --propagation private "$0" "$@"

# The program, and the Debian package that has it.
for tool in debootstrap:debootstrap qemu-system-x86_64:qemu-system-x86 cpio:cpio busybox:busybox-static mkfs.ext4:e2fsprogs; do
    command -v "${tool%%:*}" >/dev/null || die "run: apt install ${tool#*:}"
done
file -L "$(command -v busybox)" 2>/dev/null | grep -q 'statically linked' || die "run: apt install busybox-static file"

if [ ! -e "$base/stamp" ]; then
    say "making a Debian system, once"
    rm -rf "$base"
    mkdir -p "$base"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,kmod,bubblewrap,make,patch,gcc-12,libelf1,pahole \
        bookworm "$base/system" "${KCACHE_MIRROR:-http://deb.debian.org/debian}" >"$base/log" 2>&1 || die "debootstrap: $(tail -n 3 "$base/log")"
    rm -f "$base"/system/var/cache/apt/archives/*.deb
    touch "$base/stamp"
fi

# What the guest does at each boot. It reports on the serial console.
guest() {
    cat <<'END'
#!/bin/bash
boot=$(($(cat /root/boot) + 1))
echo $boot >/root/boot
kernel=$(uname -r)
report() { echo "GUEST: boot $boot: $*"; }
check() { local what=$1; shift; if "$@" >/tmp/said 2>&1; then report "ok: $what"; else report "NOT: $what: $(head -c 2000 /tmp/said)"; fi; }
succeeded() { [ "$(systemctl show -p Result --value "$1")" = success ]; }

for unit in kcache-boot kcache-ready; do check "$unit.service succeeded" succeeded $unit.service; done
check "no unit failed" test -z "$(systemctl --failed --plain --no-legend)"
check "the timer is active" systemctl is-active kcache-retry.timer
case $boot in
    1)
        check "nothing is installed" test ! -e "/lib/modules/$kernel/updates"
        systemctl start kcache-retry.service
        limited=
        while [ "$(systemctl is-active kcache-retry.service)" = active ]; do
            for group in /sys/fs/cgroup/*/kcache-[0-9]*-[0-9]*; do
                grep -qx '[0-9]*' "$group/memory.max" 2>/dev/null && grep -qx '[0-9]*' "$group/pids.max" && limited=yes
            done
            sleep 1
        done
        check "builds had control groups with limits" test "$limited"
        check "no control group is left" test -z "$(find /sys/fs/cgroup -maxdepth 2 -name 'kcache-[0-9]*-[0-9]*')"
        check "kcache-retry.service succeeded" succeeded kcache-retry.service
        check "kcache-retry.service installed the modules" kcache check
        ;;
    2)
        check "systemd-modules-load loaded the module" grep -q '^acpi_call ' /proc/modules
        check "its file is deleted" rm /lib/modules/"$kernel"/updates/kcache-*/acpi-call/acpi_call.ko
        ;;
    3)
        check "systemd-modules-load loaded the restored module" grep -q '^acpi_call ' /proc/modules
        check "all is ready" kcache check
        ;;
esac
journalctl -b --no-pager -o cat -u 'kcache-*' | sed 's/^/GUEST journal: /'
sync
[ $boot = 3 ] && systemctl poweroff || systemctl reboot
END
}

system=$dir/system
rm -rf "$dir/over" "$system"
mkdir -p "$dir"/over/{upper,work} "$system"
trap 'umount -l "$system"; rm -rf "$dir/over" "$dir/disk" "$dir/initrd.d"' EXIT
mount -t overlay -o "lowerdir=$base/system,upperdir=$dir/over/upper,workdir=$dir/over/work" none "$system"

headers=$KCACHE_FIXTURES/root/usr/src/linux-headers-$kernel
common=$(sed -n 's|^include /usr/src/\(.*\)/Makefile$|\1|p' "$headers/Makefile")
mkdir -p "$system"/{etc/kcache,usr/lib/modules,usr/src}
cp -a "$headers" "$KCACHE_FIXTURES/root/usr/src/$common" "$system/usr/src/"
cp -a "$KCACHE_FIXTURES"/root/usr/lib/linux-kbuild-* "$system/usr/lib/"
cp -a "$KCACHE_FIXTURES/root/lib/modules/$kernel" "$system/usr/lib/modules/"
cp -a "$KCACHE_FIXTURES/root/boot/"*"-$kernel" "$system/boot/"
cp -a "$KCACHE_FIXTURES"/packages/usr/src/{acpi-call,v4l2loopback}-* "$system/usr/src/"
depmod -b "$system" "$kernel"
install -m 755 "$kcache" "$system/usr/bin/kcache"
printf 'packages = ["acpi-call", "v4l2loopback"]\n' >"$system/etc/kcache/config.toml"
echo acpi_call >"$system/etc/modules-load.d/acpi-call.conf"
: >"$system/etc/machine-id"
echo 0 >"$system/root/boot"
guest >"$system/root/guest"
chmod 755 "$system/root/guest"
cat >"$system/etc/systemd/system/guest.service" <<END
[Unit]
After=multi-user.target kcache-ready.service
[Service]
Type=idle
ExecStart=/root/guest
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
END
mkdir -p "$system/etc/systemd/system/multi-user.target.wants"
ln -s ../guest.service "$system/etc/systemd/system/multi-user.target.wants/"
chroot "$system" /usr/bin/kcache hooks install >/dev/null

truncate -s 4G "$dir/disk"
mkfs.ext4 -q -F -d "$system" "$dir/disk"

# An initramfs that only mounts the disk.
mkdir -p "$dir"/initrd.d/{bin,dev,proc,sys,disk,modules}
cp "$(command -v busybox)" "$dir/initrd.d/bin/busybox"
for module in virtio_pci virtio_blk crc32c_generic ext4; do
    modprobe -d "$system" -S "$kernel" --show-depends "$module"
done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | while read -r file; do
    cp "$file" "$dir/initrd.d/modules/"
    basename "$file" >>"$dir/initrd.d/order"
done
cat >"$dir/initrd.d/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
while read -r module; do insmod "/modules/$module"; done </order
until [ -e /dev/vda ]; do sleep 1; done
mount -t ext4 /dev/vda /disk
mount -o move /dev /disk/dev
exec switch_root /disk /sbin/init
END
chmod 755 "$dir/initrd.d/init"
ln -s busybox "$dir/initrd.d/bin/sh"
(cd "$dir/initrd.d" && find . | cpio --quiet -o -H newc | gzip -1) >"$dir/initrd"

for boot in 1 2 3; do
    say "boot $boot"
    timeout 900 qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 2048 -nographic -no-reboot -net none \
        -kernel "$system/boot/vmlinuz-$kernel" -initrd "$dir/initrd" -append 'console=ttyS0 panic=1 rw systemd.show_status=0' \
        -drive "file=$dir/disk,format=raw,if=virtio" >"$dir/boot-$boot.log" 2>&1 </dev/null || die "the VM: $dir/boot-$boot.log"
    tr -d '\r' <"$dir/boot-$boot.log" | grep -a '^GUEST: ' || die "the guest reported nothing: $dir/boot-$boot.log"
    ! grep -aq '^GUEST: .* NOT: ' "$dir/boot-$boot.log" || die "boot $boot: $dir/boot-$boot.log"
done
say "passed"
