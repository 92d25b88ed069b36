#!/bin/bash
# Tests which modules a real kernel loads under Secure Boot: one that kcache signed with a key that the firmware knows, an unsigned
# one, one signed with another key, and one that was changed after signing. Only the first may load. `make test-secureboot` calls it
# with the kcache to test and a directory of its own.
#
# OVMF comes with a key for tests, which is in its `db`. The test signs the kernel's image with it, so that the firmware boots it, and
# has kcache sign a module. Debian's kernels then lock down and trust `db` for modules too. It needs no KVM and takes three minutes.
set -euo pipefail

kcache=$1
work=$2
fixtures=$KCACHE_FIXTURES
firmware=/usr/share/OVMF
snakeoil=/usr/share/ovmf/PkKek-1-snakeoil
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=/dev/null
. "$fixtures/env"
kernel=$K61_NEW
root=$work/root

for file in "$firmware/OVMF_CODE_4M.secboot.fd" "$snakeoil.key" /usr/bin/sbsign /usr/bin/qemu-system-x86_64 /usr/bin/cpio; do
    [[ -e $file ]] || { echo "$file is not there: apt install ovmf sbsigntool qemu-system-x86 cpio busybox-static" >&2; exit 2; }
done

make_root() {
    rm -rf "$work"
    mkdir -p "$root"/{boot,etc/kcache,lib/modules,usr/src,usr/lib}
    cp -a --reflink=auto "$fixtures/root/usr/lib/linux-kbuild-6.1" "$root/usr/lib/"
    local path
    for path in "boot/vmlinuz-$kernel" "boot/config-$kernel" "lib/modules/$kernel" "usr/src/linux-headers-$kernel" \
        "usr/src/linux-headers-${kernel%-amd64}-common"; do
        cp -a --reflink=auto "$fixtures/root/$path" "$root/${path%/*}/"
    done
    depmod -b "$root" "$kernel"
    cp -a --reflink=auto "$fixtures"/packages/usr/src/acpi-call-* "$root/usr/src/"
    (umask 077 && cp "$snakeoil.key" "$root/etc/kcache/mok.key" && echo snakeoil >"$root/etc/kcache/mok.pass"
    openssl req -new -x509 -newkey rsa:2048 -nodes -subj /CN=stranger -keyout "$root/etc/kcache/other.key" \
        -out "$root/etc/kcache/other.crt" 2>/dev/null)
    cp "$snakeoil.pem" "$root/etc/kcache/mok.crt"
}

# Installs with these lines in [signing], and takes the module out as a file of this name.
install_as() {
    printf '[signing]\n%s\n' "$2" >"$root/etc/kcache/config.toml"
    "$kcache" --root "$root" --config "$root/etc/kcache/config.toml" --store "$work/store" install acpi-call -k "$kernel" >&2
    cp "$root/lib/modules/$kernel/updates"/kcache-*/acpi-call/acpi_call.ko "$work/initramfs/$1.ko"
}

make_initramfs() {
    mkdir -p "$work/initramfs"/{bin,proc,sys,dev}
    cp /usr/bin/busybox "$work/initramfs/bin/"
    install_as unsigned 'key = "/etc/kcache/other.key"
certificate = "/etc/kcache/other.crt"
when = "never"'
    install_as stranger 'key = "/etc/kcache/other.key"
certificate = "/etc/kcache/other.crt"'
    install_as good 'key = "/etc/kcache/mok.key"
certificate = "/etc/kcache/mok.crt"
passphrase-file = "/etc/kcache/mok.pass"'
    # One letter of its text, under the old signature.
    LC_ALL=C sed 's/license=GPL/license=gpl/' "$work/initramfs/good.ko" >"$work/initramfs/changed.ko"
    if cmp -s "$work/initramfs/good.ko" "$work/initramfs/changed.ko"; then
        echo "nothing in it was changed" >&2
        exit 2
    fi
    cat >"$work/initramfs/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t securityfs none /sys/kernel/security
$b dmesg -n 1
echo "RESULT lockdown $($b cat /sys/kernel/security/lockdown)"
for module in unsigned stranger changed good; do
    if told=$($b insmod /$module.ko 2>&1); then
        echo "RESULT $module loaded"
        $b rmmod acpi_call
    else
        echo "RESULT $module refused: ${told##*: }"
    fi
done
$b dmesg | $b grep -iE 'secure ?boot|lockdown|module verification|PKCS|Loaded X.509' | $b sed 's/^/LOG /'
echo RESULT end
$b poweroff -f
INIT
    chmod 755 "$work/initramfs/init"
    (cd "$work/initramfs" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"
}

sign_image() {
    (umask 077 && openssl rsa -in "$snakeoil.key" -passin pass:snakeoil -out "$work/plain.key" 2>/dev/null)
    sbsign --key "$work/plain.key" --cert "$snakeoil.pem" --output "$work/vmlinuz" "$root/boot/vmlinuz-$kernel" 2>/dev/null
}

boot() {
    cp "$firmware/OVMF_VARS_4M.snakeoil.fd" "$work/vars.fd"
    timeout 600 qemu-system-x86_64 -M q35,smm=on -accel tcg -cpu max,la57=off -m 1024 -nographic -no-reboot -nic none \
        -global driver=cfi.pflash01,property=secure,value=on \
        -drive "if=pflash,format=raw,unit=0,file=$firmware/OVMF_CODE_4M.secboot.fd,readonly=on" \
        -drive "if=pflash,format=raw,unit=1,file=$work/vars.fd" \
        -kernel "$1" -initrd "$work/initrd" -append 'console=ttyS0 panic=-1 quiet' </dev/null >"$2" 2>&1 || true
}

expect() {
    if grep -qE "^RESULT $1" "$work/console"; then
        echo "ok: $1"
    else
        echo "not found on the console: $1" >&2
        failed=1
    fi
}

make_root
make_initramfs
sign_image
boot "$work/vmlinuz" "$work/console"
tr -d '\r' <"$work/console" | sed -n 's/^.*\(RESULT\|LOG\) /\1 /p' >"$work/told"
mv "$work/told" "$work/console.told" && cp "$work/console.told" "$work/console"
sed -n 's/^LOG //p' "$work/console"
failed=0
expect 'lockdown none \[integrity\] confidentiality'
rejected='(Key was rejected by service|Required key not available|Operation not permitted)'
expect "unsigned refused: $rejected"
expect "stranger refused: $rejected"
expect "changed refused: $rejected"
expect 'good loaded'
exit "$failed"
