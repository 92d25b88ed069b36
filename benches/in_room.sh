# shellcheck shell=bash
# A system for timing kcache and dkms, each with a layer of its own (tests/corpus/room.sh), for scripts that run as root with a kcache
# binary as first argument. Sourced, after $kernels is set.
#
# dkms and kcache both write to a file system in an image on this machine's disk, so that fsync costs both the same.
export LC_ALL=C

here=$(dirname "$(realpath "$0")")
fixtures=$KCACHE_FIXTURES
cache=${KCACHE_CORPUS:-$HOME/.cache/kcache-corpus}
room=$cache/bench
release=bookworm
base=/ unpacked=$fixtures/root debs=$fixtures/debs
PATH=$PATH:/usr/sbin:/sbin
kcache=$(realpath "$1")
say() { printf '%s\n' "$*" >&2; }
# shellcheck source=/dev/null
. "$here/../tests/corpus/archive.sh"
# shellcheck source=/dev/null
. "$here/../tests/corpus/room.sh"

[ "$(id -u)" = 0 ] || { say "overlayfs needs root"; exit 1; }
[ "${BENCH_NAMESPACE-}" ] || BENCH_NAMESPACE=1 exec unshare --mount "$0" "$@"

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

# prepare PACKAGE...: the system, with these packages' sources.
prepare() {
    local package kernel
    mkdir -p "$cache/debs" "$room"
    trap 'umount "$room" 2>/dev/null; rm -f "$cache/bench.img"' EXIT
    truncate -s 16G "$cache/bench.img"
    mkfs.ext4 -q -F "$cache/bench.img"
    mount -o loop "$cache/bench.img" "$room"
    dkms=$(download dkms)
    make_room .
    for kernel in "${kernels[@]}"; do depmod -b "$room/system/usr" "$kernel"; done # as its package does
    mkdir -p "$room/packages"
    for package; do unpack_source "$(download "$package")" "$room/packages"; done
}
