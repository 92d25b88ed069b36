#!/bin/bash
# What `apt upgrade` did to a Debian host: the kernels' headers and kbuild's programs that its archive still has, oldest first. Downloads
# them (tests/corpus/archive.sh) and prints what benches/history.rs replays:
#
#   benches/history.sh bookworm|trixie
#
#   system DIR                      a system of the release with its compiler, unless this machine is one
#   package DEB                     a module package
#   step KERNEL KBUILD DEB...       a kernel that was added, the version of linux-kbuild since then, and the files that came with it
#
# Debian 12 has one linux-kbuild-6.1 for all kernels 6.1: each update of any of them replaces it. A step has the oldest one that the
# archive still has and the kernel's headers accept. Since Debian 13 each kernel has its own.
set -euo pipefail
export LC_ALL=C

here=$(dirname "$(realpath "$0")")
cache=${KCACHE_CORPUS:-$HOME/.cache/kcache-corpus}
release=$1 debs=/nonexistent
say() { printf 'history: %s\n' "$*" >&2; }
# shellcheck source=/dev/null
. "$here/../tests/corpus/archive.sh"
mkdir -p "$cache/debs"
look_at_release

# Those that are built in seconds and need no module of the kernel's, for its image is not downloaded; the first eight that the
# release has.
packages=(acpi-call bbswitch ddcci tp-smapi gost-crypto langford vpoll adv-17v35x xtrx lime-forensics)
case $release in
    bookworm) headers='linux-headers-6\.1\.0-[0-9]+-amd64' ;;
    *)
        headers='linux-headers-[0-9.]+\+deb[0-9.]+-amd64'
        [ -e "$cache/system/$release/stamp" ] || { say "no system of $release: CORPUS_RELEASE=$release make corpus makes one"; exit 3; }
        printf 'system\t%s\n' "$cache/system/$release"
        ;;
esac

# All versions of packages that the archive has, a line each with the package's name.
versions() { apt-cache madison "$@" | awk -F ' *[|] *' '{gsub(" ", "", $1); print $2, $1}' | sort -u; }

dkms_packages >"$cache/dkms-$release"
for name in "${packages[@]}"; do grep -x "$name-dkms" "$cache/dkms-$release" || :; done | head -n 8 | while read -r name; do
    printf 'package\t%s\n' "$(download "$name")"
done

# The oldest version of linux-kbuild that satisfies what a file of headers depends on, as PACKAGE=VERSION.
kbuild_of() {
    local name least version
    read -r name least < <(dpkg-deb -f "$1" Depends | tr ',' '\n' | sed -n 's/^ *\(linux-kbuild-[^ ]*\)\( (>= \(.*\))\)\?$/\1 \3/p')
    versions "$name" | while read -r version _; do
        [ -n "$least" ] && dpkg --compare-versions "$version" lt "$least" && continue
        echo "$version"
    done | sort -V | sed "1s/^/$name=/;q"
}

before=
mapfile -t kernels < <(apt-cache pkgnames linux-headers- | grep -Ex "$headers")
versions "${kernels[@]}" | sort -rV | awk '!seen[$2]++' | sort -V | while read -r version name; do
    deb=$(download "$name=$version")
    common=$(dpkg-deb -f "$deb" Depends | grep -oE 'linux-headers-[^ ]*-common')
    kbuild=$(kbuild_of "$deb")
    [ -n "$kbuild" ] || { say "$name: the archive has no linux-kbuild for it"; continue; }
    files=$deb$'\t'$(download "$common=$version")
    [ "$kbuild" = "$before" ] || files+=$'\t'$(download "$kbuild")
    before=$kbuild
    printf 'step\t%s\t%s\t%s\n' "${name#linux-headers-}" "${kbuild#*=}" "$files"
done
