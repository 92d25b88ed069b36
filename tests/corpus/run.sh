#!/bin/bash
# Every -dkms package of this Debian release, built for two kernel series with dkms itself and with kcache, side by side.
# As root. `make corpus` takes an hour, half of it dkms; `make test` does the same with two small packages and one kernel.
#
#   tests/corpus/run.sh KCACHE [PACKAGE]...     a kcache binary; some packages only, by Debian's names
#   CORPUS_KERNELS="R..."                       other kernels than the newest of each series
#
# Both run in one and the same system: this machine's, with the kernels, the packages and dkms laid over it (overlayfs),
# in a mount namespace of its own, so that nothing of it is left behind or reaches /usr/src, /lib/modules or /var here.
# kcache builds each package once, and once more with `--check`, in another directory and as another user.
#
# What a tool made of a package is kept in ~/.cache/kcache-corpus/RESULTS, and not made again while package, kernel and tool
# stay the same; kcache counts as the same while its binary does. A run that was ended goes on where it was. Prints the table
# that is kept in tests/corpus/table.md; fails where dkms builds and kcache does not, or where they made different modules,
# those aside that kcache leaves out, and says so, because nothing exports what they need.
set -euo pipefail
export LC_ALL=C

here=$(dirname "$(realpath "$0")")
fixtures=$KCACHE_FIXTURES
cache=${KCACHE_CORPUS:-$HOME/.cache/kcache-corpus}
room=$cache/room
PATH=$PATH:/usr/sbin:/sbin
# shellcheck source=/dev/null
. "$fixtures/env"
read -ra kernels <<<"${CORPUS_KERNELS:-$K61_NEW $K612}"
# What packages of the whole corpus want for their builds, beyond dkms (their Depends).
tools=(libxtables-dev libelf-dev gawk bzip2 pkg-config perl)

kcache=$(realpath "$1")
say() { printf 'corpus: %s\n' "$*" >&2; }
# shellcheck source=/dev/null
. "$here/room.sh"

[ "$(id -u)" = 0 ] || { say "overlayfs needs root"; exit 1; }
[ "${CORPUS_NAMESPACE-}" ] || CORPUS_NAMESPACE=1 exec unshare --mount "$0" "$@"

packages() {
    if [ $# != 0 ]; then printf '%s\n' "$@"; return; fi
    apt-cache search --names-only -- '-dkms$' | awk '$1 != "dh-dkms" {print $1}' | sort
}

# Runs a command in a system of this machine, the kernels, both tools and one package; $room/upper is what it wrote.
within() {
    rm -rf "$room/upper"
    inside "$room/upper" "$room/package" "$@"
}

# dkms: RESULT/status, seconds, log, modules/.
build_with_dkms() {
    local result=$1 kernel=$2 name=$3 version=$4 status=0 start=$EPOCHREALTIME built
    within dkms build -m "$name" -v "$version" -k "$kernel" >"$result/log" 2>&1 || status=$?
    seconds "$start" >"$result/seconds"
    built=$room/upper/var/lib/dkms/$name/$version
    cat "$built/$kernel/x86_64/log/make.log" "$built/build/make.log" >>"$result/log" 2>/dev/null || true
    mkdir -p "$result/modules"
    cp "$built/$kernel/x86_64/module/"* "$result/modules/" 2>/dev/null || true
    echo "$status" >"$result/status"
}

# kcache: the same, and RESULT/json, RESULT/again (what --check says).
build_with_kcache() {
    local result=$1 kernel=$2 name=$3 status=0
    # shellcheck disable=SC2016
    within bash -c '
        kcache --json build "$1" -k "$2" >/tmp/json 2>/var/first.err; status=$?
        kcache log "$1" -k "$2" >/var/log.txt 2>&1
        kcache --json build --check "$1" -k "$2" >/var/again 2>/var/again.err
        mv /tmp/json /var/json; exit $status' build "$name" "$kernel" || status=$?
    cp "$room/upper/var/json" "$result/json"
    cp "$room/upper/var/again" "$result/again"
    cat "$room"/upper/var/{first.err,log.txt,again.err} >"$result/log"
    python3 "$here/table.py" --extract "$room/upper/var/cache/kcache" "$result"
    echo "$status" >"$result/status"
}

seconds() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f\n", b - a}'; }

# One result, unless it is there; its directory's name holds all that it depends on.
have() {
    local tool=$1 edition=$2 kernel=$3 deb=$4
    shift 4
    local result
    result=$cache/results/$(basename "$deb" .deb)/$kernel/$tool-$edition
    [ -e "$result/status" ] || {
        say "$(basename "$deb" .deb), $kernel: $tool"
        rm -rf "$result"
        mkdir -p "$result"
        "build_with_$tool" "$result" "$kernel" "$@"
    }
    printf '%s\n' "$result"
}

mkdir -p "$cache"/{debs,results,room}
[ $# -gt 1 ] || for tool in "${tools[@]}"; do dpkg -s "$tool" >/dev/null 2>&1 || apt-get -qq install --no-install-recommends -y "$tool" >&2; done
dkms=$(download dkms)
# In memory: no layer of an overlayfs may lie below another, and the lowest is this machine's own root.
mount -t tmpfs -o mode=755 corpus "$room"
make_room build source
edition=$(sha256sum <"$kcache" | cut -c1-12)

shift
for package in $(packages "$@"); do
    deb=$(download "$package")
    rm -rf "$room/package"
    unpack_source "$deb" "$room/package"
    for conf in "$room/package"/usr/src/*/dkms.conf; do
        # shellcheck disable=SC1090
        read -r name version < <(set +eu; kernelver=$K61_NEW; . "$conf" >/dev/null 2>&1; echo "$PACKAGE_NAME $PACKAGE_VERSION")
        for kernel in "${kernels[@]}"; do
            echo "$package $kernel $(have dkms "$(basename "$dkms" .deb)" "$kernel" "$deb" "$name" "$version") $(have kcache "$edition" "$kernel" "$deb" "$name" "$version")"
        done
    done
done >"$cache/pairs"
python3 "$here/table.py" "$cache/pairs"
