#!/bin/bash
# kcache beside Debian's dkms: every package of this Debian release that builds for the newest 6.1 kernel in some minutes, for
# two kernels, in one and the same system (tests/corpus/room.sh), as root. Takes half an hour. Prints a line for each thing that
# was measured: its name, and seconds.
#
#   benches/beside_dkms.sh KCACHE [PACKAGE]...      a kcache binary; other packages than all
#
# What is written lies on a file system in an image on this machine's disk, for dkms and for kcache, so that fsync costs both what it does there.
# dkms is run as its hook for a new kernel runs it (`dkms autoinstall`). Its state for two more kernels, which only `dkms status`
# is asked about, is a copy of that for the first.
set -euo pipefail
export LC_ALL=C

here=$(dirname "$(realpath "$0")")
fixtures=$KCACHE_FIXTURES
cache=${KCACHE_CORPUS:-$HOME/.cache/kcache-corpus}
room=$cache/bench
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=/dev/null
. "$fixtures/env"
two=("$K61_OLD" "$K61_NEW")
kernels=("${two[@]}" "$K61_CLOUD" "$K612")
kcache=$(realpath "$1")
shift
release=bookworm
base=/ unpacked=$fixtures/root debs=$fixtures/debs
# shellcheck source=/dev/null
. "$here/../tests/corpus/archive.sh"
# shellcheck source=/dev/null
. "$here/../tests/corpus/room.sh"

[ "$(id -u)" = 0 ] || { echo "overlayfs needs root" >&2; exit 1; }
[ "${BENCH_NAMESPACE-}" ] || BENCH_NAMESPACE=1 exec unshare --mount "$0" "$kcache" "$@"

# Those that tests/corpus/table.md says are built; openafs takes half an hour with dkms.
packages() {
    if [ $# != 0 ]; then printf '%s\n' "$@"; return; fi
    awk -F ' *\\| *' '$3 ~ /^6\.1\./ && $4 == "built" && $5 == "built" && $2 != "openafs-modules-dkms" {print $2}' "$here/../tests/corpus/table.md"
}

say() { printf '%s\n' "$*" >&2; }
need() { command -v "$1" >/dev/null || APT_CONFIG='' apt-get -qq install --no-install-recommends -y "$1" >&2; }

# within NAME COMMAND...: what it writes stays in an upper layer of that name.
within() { local upper=$room/$1; shift; inside "$upper" "$room/packages" "$@"; }

# timed NAME LAYER TIMES BEFORE COMMAND: prints how long the command took, inside, so many times; what it says goes to a file, and
# how it ends is of no matter: some packages do not build. More than once means with warm caches, so it is run once more than
# that. BEFORE is run each time, and not measured.
timed() {
    local name=$1 layer=$2
    sync
    # shellcheck disable=SC2016
    within "$layer" bash -c '
        name=$1 times=$2 before=$3 command=$4
        for ((round = times > 1 ? 0 : 1; round <= times; round++)); do
            eval "$before" >/dev/null 2>&1
            start=$EPOCHREALTIME
            eval "$command" >"/var/said-$name" 2>&1
            awk -v name="$name" -v round="$round" -v a="$start" -v b="$EPOCHREALTIME" \
                "BEGIN {if (round) printf \"%s\t%.3f\n\", name, b - a}"
        done' timed "$name" "${@:3}"
}

for tool in ccache gawk; do need "$tool"; done
dpkg -s libxtables-dev libelf-dev >/dev/null 2>&1 || APT_CONFIG='' apt-get -qq install --no-install-recommends -y libxtables-dev libelf-dev >&2
mkdir -p "$cache/debs" "$room"
trap 'umount "$room" 2>/dev/null; rm -f "$cache/bench.img"' EXIT
truncate -s 16G "$cache/bench.img"
mkfs.ext4 -q -F "$cache/bench.img"
mount -o loop "$cache/bench.img" "$room"
dkms=$(download dkms)
make_room .
for kernel in "${kernels[@]}"; do depmod -b "$room/system/usr" "$kernel"; done # as its package does
mkdir -p "$room/packages"
count=0
for package in $(packages "$@"); do
    unpack_source "$(download "$package")" "$room/packages"
    count=$((count + 1))
done
printf 'packages\t%s\n' "$count"

dkms_add='for conf in /usr/src/*/dkms.conf; do dkms add "$(dirname "$conf")"; done'
dkms_install="for kernel in ${two[*]}; do dkms autoinstall -k \$kernel; done"
dkms_install_one="dkms autoinstall -k $K61_NEW"
of_two="-k ${two[0]} -k ${two[1]}"
of_all=$(printf -- '-k %s ' "${kernels[@]}")

within dkms bash -c "$dkms_add" >/dev/null 2>&1
timed dkms-cold dkms 1 : "$dkms_install"
timed kcache-cold kcache 1 : "kcache install $of_two"
within kcache bash -c "kcache install $of_all" >/dev/null 2>&1 || true # the other kernels
# dkms with a compiler cache that has seen it all: once to fill it, once more in a system without builds. One kernel is enough.
ccache='export PATH=/usr/lib/ccache:$PATH CCACHE_DIR=/var/ccache'
within ccache bash -c "$dkms_add" >/dev/null 2>&1
within ccache bash -c "$ccache; $dkms_install_one" >/dev/null 2>&1 || true
rm -rf "$room/ccache/var/lib/dkms" "$room/ccache/usr/lib/modules" "$room/ccache/lib"
within ccache bash -c "$dkms_add" >/dev/null 2>&1
timed dkms-ccache ccache 1 "$ccache" "$dkms_install_one"
within dkms bash -c "
    for kernel in $K61_CLOUD $K612; do
        for built in /var/lib/dkms/*/*/$K61_NEW; do cp -a \"\$built\" \"\${built%/*}/\$kernel\"; done
        mkdir -p /lib/modules/\$kernel/updates && cp -a /lib/modules/$K61_NEW/updates/. /lib/modules/\$kernel/updates/
    done"
timed kcache-warm kcache 3 "kcache remove --all $of_two" "kcache install $of_two"
timed kcache-warm-one kcache 3 "kcache remove --all -k $K61_NEW" "kcache install -k $K61_NEW"
timed kcache-nothing kcache 3 : "kcache install $of_all"
timed dkms-status dkms 3 : "dkms status"
