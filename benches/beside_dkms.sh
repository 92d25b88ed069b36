#!/bin/bash
# Compares kcache with Debian's dkms: every package of this Debian release that builds for the newest 6.1 kernel within minutes, for
# two kernels, in the same system (tests/corpus/room.sh). Needs root and half an hour. Prints a line for each measurement: its name,
# and seconds.
#
#   benches/beside_dkms.sh KCACHE [PACKAGE]...      a kcache binary; only these packages
#
# dkms is run as its hook for a new kernel runs it (`dkms autoinstall`). Its state for two more kernels, used only by `dkms status`,
# is a copy of the first kernel's.
set -euo pipefail
# shellcheck source=/dev/null
. "$KCACHE_FIXTURES/env"
two=("$K61_OLD" "$K61_NEW")
kernels=("${two[@]}" "$K61_CLOUD" "$K612")
# shellcheck source=benches/in_room.sh
. "$(dirname "$0")/in_room.sh"
shift

# Those of main that tests/corpus/table.md says are built; openafs takes half an hour with dkms, and ZFS and NVIDIA are benches/large.sh's.
packages() {
    if [ $# != 0 ]; then printf '%s\n' "$@"; return; fi
    awk -F ' *\\| *' '$3 ~ /^6\.1\./ && $4 == "built" && $5 == "built" && $2 !~ /^(openafs|zfs|nvidia|broadcom|r8125|r8168)-/ {print $2}' "$here/../tests/corpus/table.md"
}

for tool in ccache gawk; do need "$tool"; done
dpkg -s libxtables-dev libelf-dev >/dev/null 2>&1 || APT_CONFIG='' apt-get -qq install --no-install-recommends -y libxtables-dev libelf-dev >&2
mapfile -t measured < <(packages "$@")
prepare "${measured[@]}"
printf 'packages\t%s\n' "${#measured[@]}"

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
