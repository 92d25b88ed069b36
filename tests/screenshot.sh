#!/bin/bash
# Recreates the figure in docs/report.md. `make screenshot` calls it with cargo's target directory; it writes only TARGET/screenshot
# and docs/report.png.
#
# It shows the report of a host "web1", whose modules a host "builder1" compiled with real kernels' headers. Both are this machine in
# namespaces of their own (mounts, host name), so that the page shows realistic paths and names. Builds are kept under
# TARGET/screenshot: the first run takes a quarter of an hour on two cores, later ones two minutes.
set -euo pipefail

target=$1
here=$(cd "$(dirname "$0")/.." && pwd)
work=$target/screenshot
# shellcheck source=/dev/null
. "$KCACHE_FIXTURES/env"
PATH=$PATH:/usr/sbin:/sbin

die() { printf 'screenshot: %s\n' "$*" >&2; exit 1; }

if [ "${2-}" != inside ]; then
    [ "$(id -u)" = 0 ] || die "only root can make the namespaces that it takes"
    command -v chromium >/dev/null || die "install the package chromium"
    command -v pngquant >/dev/null || die "install the package pngquant"
    exec unshare --mount --uts "$0" "$target" inside
fi

# A system as Debian's packages leave it, with four kernels. The 6.1 cloud kernel came without headers.
make_root() {
    local kernel path
    rm -rf "$work/root" "$work/web1"
    mkdir -p "$work"/root/{boot,etc/kcache,lib/modules,usr/src,usr/lib}
    cp -a --reflink=auto "$KCACHE_FIXTURES"/root/usr/lib/linux-kbuild-* "$work/root/usr/lib/"
    for kernel in "$K61_OLD" "$K61_NEW" "$K61_CLOUD" "$K612"; do
        for path in "boot/vmlinuz-$kernel" "boot/config-$kernel" "lib/modules/$kernel" "usr/src/linux-headers-$kernel"; do
            cp -a --reflink=auto "$KCACHE_FIXTURES/root/$path" "$work/root/${path%/*}/"
        done
    done
    cp -a --reflink=auto "$KCACHE_FIXTURES"/root/usr/src/linux-headers-*-common "$work/root/usr/src/"
    for kernel in "$K61_OLD" "$K61_NEW" "$K61_CLOUD" "$K612"; do
        depmod -b "$work/root" "$kernel"
    done
    cp -a --reflink=auto "$KCACHE_FIXTURES"/packages/usr/src/* "$work/root/usr/src/"
}

# kcache on this machine as it looks in here, with a store.
kcache() {
    local store=$1
    shift
    "$target/debug/kcache" --store "$store" "$@"
}

# Names and places that exist only in here: kernels, packages, settings, a cache, and the kernel that runs.
make_root
mount -t tmpfs none /mnt
mkdir -p /mnt/{kcache,usr,usr-work,etc,etc-work} "$work/cache"
mount --bind "$work/cache" /mnt/kcache
mount -t overlay web1 -o "lowerdir=$work/root/usr:/usr,upperdir=/mnt/usr,workdir=/mnt/usr-work" /usr
mount -t overlay web1 -o "lowerdir=/etc,upperdir=/mnt/etc,workdir=/mnt/etc-work" /etc
mkdir -p /usr/lib/modules
mount --bind "$work/root/lib/modules" /usr/lib/modules
mount --bind "$work/root/usr/src" /usr/src
mount --bind "$work/root/boot" /boot
echo "$K61_OLD" >"$work/osrelease"
mount --bind "$work/osrelease" /proc/sys/kernel/osrelease

etc=/etc/kcache
rm -rf $etc
mkdir $etc
printf '[[cache]]\nurl = "file:///mnt/kcache"\nwrite = true\n' >$etc/config.toml
hostname builder1
if [ -e "$work/signing-key.pem" ]; then
    mkdir -p $etc/trusted-keys
    cp -p "$work/signing-key.pem" $etc/
    cp -p "$work/builder1.pem" $etc/trusted-keys/
else
    kcache "$work/builder1" keys generate
    cp -p $etc/signing-key.pem $etc/trusted-keys/builder1.pem "$work/"
fi
kcache "$work/builder1" build -k all || [ $? = 4 ] # some packages do not compile on the newest kernel
kcache "$work/builder1" push -k all >/dev/null || true
rm $etc/signing-key.pem

# bbswitch is for laptops; the cloud's kernel is not to wait for it.
cat >$etc/config.toml <<-END
	default-kernel = "$K61_NEW"
	[[cache]]
	url = "file:///mnt/kcache"
	[[policy]]
	package = "bbswitch"
	kernel = "*-cloud-*"
	is = "optional"
END
hostname web1
kcache "$work/web1" install -k "$K61_OLD" -k "$K61_NEW" -k "$K612" || [ $? = 4 ]
kcache "$work/web1" install acpi-call dm-writeboost -k "$K61_CLOUD"

# Since then somebody has removed headers, edited a source, and a disk has lost a bit.
rm -r "/usr/src/linux-headers-$K61_CLOUD"
printf '/* a local change */\n' >>"$(echo /usr/src/acpi-call-*/acpi_call.c)"
kcache "$work/web1" install acpi-call -k "$K61_NEW"
damaged=$(find "/lib/modules/$K61_OLD/updates" -name 'bbswitch.ko*')
printf 'x' | dd of="$damaged" bs=1 seek=100 conv=notrunc status=none

kcache "$work/web1" report --html "$work/report.html"
HOME=$work chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$work/chromium" \
    --window-size=1180,1500 --force-device-scale-factor=1 --screenshot="$work/report.png" "file://$work/report.html" 2>/dev/null
pngquant --force --quality 70-95 --output "$here/docs/report.png" "$work/report.png"
ls -l "$here/docs/report.png"
