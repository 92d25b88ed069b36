#!/bin/bash
# Builds the Debian package of kcache from a compiled binary:
#
#   packaging/deb.sh BINARY DIRECTORY        writes DIRECTORY/kcache_VERSION_ARCH.deb and prints its path
#
# The package contains the program, links to it under dkms's names, the hooks and units in the directories for packages, and the
# documentation. The program itself writes the hooks, so the package cannot differ from `kcache hooks install`.
set -euo pipefail
export LC_ALL=C
umask 022

binary=$(realpath "$1")
directory=$2
top=$(realpath "$(dirname "$0")/..")
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$top/Cargo.toml" | head -n 1)
arch=$(dpkg --print-architecture)
# Two runs on one commit give the same bytes.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$top" log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

mkdir -p "$directory"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"

install -D -m 0755 "$binary" "$stage/usr/bin/kcache"
"$binary" --root "$stage" --quiet hooks install --vendor --program /usr/bin/kcache debian kernel-install boot >/dev/null

# Links under dkms's names; preinst and postrm divert dkms's own files.
mkdir -p "$stage/usr/sbin" "$stage/usr/lib/dkms"
ln -s ../bin/kcache "$stage/usr/sbin/dkms"
ln -s ../../bin/kcache "$stage/usr/lib/dkms/common.postinst"

doc=$stage/usr/share/doc/kcache
install -D -m 0644 -t "$doc" "$top/README.md" "$top/docs/kcache.schema.json" "$top/LICENSE-MIT" "$top/LICENSE-APACHE"
# In a directory of its own as in the source, so that links between the pages resolve and the two README.md do not collide.
install -D -m 0644 -t "$doc/docs" "$top"/docs/*.md "$top/docs/report.png"
ln -s ../kcache.schema.json "$doc/docs/kcache.schema.json"
gzip -9n <"$top/CHANGELOG.md" >"$doc/changelog.gz"
cat "$top/LICENSE-MIT" >"$doc/copyright"

# The newest symbol version of the C library that the program needs.
libc=$(objdump -T "$binary" | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1)
mkdir "$stage/DEBIAN"
cat >"$stage/DEBIAN/control" <<END
Package: kcache
Version: $version
Architecture: $arch
Maintainer: ${DEB_MAINTAINER:-kcache <kcache@localhost>}
Installed-Size: $(du -sk --apparent-size "$stage" | cut -f1)
Depends: libc6 (>= ${libc#GLIBC_}), libgcc-s1, kmod, bubblewrap (>= 0.7), patch, make, util-linux
Recommends: build-essential
Provides: dkms (= 3.2.2-1+kcache)
Section: kernel
Priority: optional
Description: third-party kernel modules, ready before the reboot
 A content-addressed build cache and installer for out-of-tree Linux kernel
 modules. When a kernel is installed, the modules of all packages under
 /usr/src are looked up, fetched or built for it, checked, and in place
 before its initramfs is made.
END
(cd "$stage" && find etc -type f | sort | sed 's,^,/,') >"$stage/DEBIAN/conffiles"
install -m 0755 "$top"/packaging/debian/{preinst,postinst,postrm} "$stage/DEBIAN/"

find "$stage" -depth -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
package=$directory/kcache_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$stage" "$package" >/dev/null
echo "$package"
