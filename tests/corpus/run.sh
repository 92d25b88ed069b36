#!/bin/bash
# Builds every -dkms package of a Debian release, including contrib and non-free, for each kernel series with dkms itself and with
# kcache, and compares. Needs root. `make corpus` takes hours, half of them in dkms; `make test` does the same with three small
# packages and one kernel.
#
#   tests/corpus/run.sh KCACHE [PACKAGE]...     a kcache binary; only these packages, by Debian's names
#   CORPUS_RELEASE=trixie                       another release than bookworm, with its own compiler and dkms
#   CORPUS_KERNELS="R..."                       other kernels than the newest of each series
#   CORPUS_BOOT="zfs ..."                       load the modules of these in `kcache boot-test` too; by dkms.conf's names
#   KCACHE_VERIFY=1                             keep kcache's store from run to run: builds that it finds there, by the same tools or
#                                               by others that it lets stand in, are built again and compared
#
# Both run in the same system: this machine's, or one that debootstrap creates once for the release, with the kernels, the packages
# and dkms laid over it (overlayfs), in a mount namespace of its own, so that nothing of it is left behind or reaches /usr/src,
# /lib/modules or /var here. kcache builds each package once, and once more with `--check`, in another directory and as another user.
# A package's dependencies are present too, built and installed for dkms.
#
# Results are kept in ~/.cache/kcache-corpus/results, and reused while package, kernel and tool (for kcache, its binary) stay the
# same. An interrupted run continues where it stopped. Prints the table that is kept in tests/corpus/table.md; fails if dkms builds
# and kcache does not, or if their modules differ, except for modules that kcache leaves out, with a warning, because nothing
# exports a symbol they need.
set -euo pipefail
export LC_ALL=C

here=$(dirname "$(realpath "$0")")
fixtures=$KCACHE_FIXTURES
cache=${KCACHE_CORPUS:-$HOME/.cache/kcache-corpus}
room=$cache/room
PATH=$PATH:/usr/sbin:/sbin
release=${CORPUS_RELEASE:-bookworm}

kcache=$(realpath "$1")
say() { printf 'corpus: %s\n' "$*" >&2; }
# shellcheck source=/dev/null
. "$here/archive.sh"
# shellcheck source=/dev/null
. "$here/room.sh"

[ "$(id -u)" = 0 ] || { say "overlayfs needs root"; exit 1; }
[ "${CORPUS_NAMESPACE-}" ] || CORPUS_NAMESPACE=1 exec unshare --mount "$0" "$@"

# The system and the kernels of Debian 12 are those that the tests have.
of_fixtures() {
    # shellcheck source=/dev/null
    . "$fixtures/env"
    base=/ unpacked=$fixtures/root debs=$fixtures/debs
    read -ra kernels <<<"${CORPUS_KERNELS:-$K61_NEW $K612}"
    # Some packages only are taken to need nothing that is not here.
    [ "$1" != 0 ] || for tool in "${tools[@]}"; do
        dpkg -s "$tool" >/dev/null 2>&1 || APT_CONFIG='' apt-get -qq install --no-install-recommends -y "$tool" >&2
    done
}

# Runs a command in a system of this machine, the kernels, both tools and one package; $room/upper is what it wrote.
within() {
    rm -rf "$room/upper"
    inside "$room/upper" "$room/package" "$@"
}

# dkms: RESULT/status, seconds, log, modules/. FIRST... are packages to be installed before, NAME/VERSION.
build_with_dkms() {
    local result=$1 kernel=$2 name=$3 version=$4 status=0 built
    shift 4
    # shellcheck disable=SC2016
    within bash -c '
        kernel=$1 name=$2 version=$3; shift 3
        for first; do dkms install "$first" -k "$kernel" || :; done
        start=$EPOCHREALTIME
        dkms build -m "$name" -v "$version" -k "$kernel"; status=$?
        awk -v a="$start" -v b="$EPOCHREALTIME" "BEGIN {printf \"%.1f\\n\", b - a}" >/var/seconds
        exit $status' build "$kernel" "$name" "$version" "$@" >"$result/log" 2>&1 || status=$?
    cp "$room/upper/var/seconds" "$result/seconds"
    built=$room/upper/var/lib/dkms/$name/$version
    cat "$built/$kernel/x86_64/log/make.log" "$built/build/make.log" >>"$result/log" 2>/dev/null || true
    mkdir -p "$result/modules"
    cp "$built/$kernel/x86_64/module/"*.ko* "$result/modules/" 2>/dev/null || true
    echo "$status" >"$result/status"
}

# kcache: the same, and RESULT/json, RESULT/again (what --check says), RESULT/boot (what boot-test says). What it builds before, it finds out.
build_with_kcache() {
    local result=$1 kernel=$2 name=$3 status=0 boot=
    [[ " ${CORPUS_BOOT-} " != *" $name "* ]] || boot=yes
    # shellcheck disable=SC2016
    within bash -c '
        kcache --json build "$1" -k "$2" >/tmp/json 2>/var/first.err; status=$?
        kcache log "$1" -k "$2" >/var/log.txt 2>&1
        kcache --json build --check "$1" -k "$2" >/var/again 2>/var/again.err
        [ -z "$3" ] || [ $status != 0 ] || {
            depmod "$2"
            kcache install "$1" -k "$2" >/var/boot.err 2>&1 && kcache --json boot-test "$1" -k "$2" >/var/boot 2>>/var/boot.err
        }
        mv /tmp/json /var/json; exit $status' build "$name" "$kernel" "$boot" || status=$?
    cp "$room/upper/var/"{json,again} "$result/"
    cp "$room/upper/var/boot" "$result/" 2>/dev/null || true
    cat "$room"/upper/var/{first.err,log.txt,again.err} >"$result/log"
    cat "$room"/upper/var/boot.err >>"$result/log" 2>/dev/null || true
    python3 "$here/table.py" --extract "${store:-$room/upper/var/cache/kcache}" "$result"
    echo "$status" >"$result/status"
}

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

# The package and version that a directory's dkms.conf names.
called() {
    # shellcheck disable=SC1091
    (set +eu; kernelver=${kernels[0]}; . "$1/dkms.conf" >/dev/null 2>&1; echo "$PACKAGE_NAME $PACKAGE_VERSION")
}

shift
mkdir -p "$cache"/{results,room}
if [ "$release" = bookworm ]; then of_fixtures $#; else of_release; fi
dkms=$(download dkms)
# In memory: no layer of an overlayfs may lie below another, and the lowest may be this machine's own root.
mount -t tmpfs -o mode=755 corpus "$room"
make_room build source ${CORPUS_BOOT:+kernel modules.builtin modules.builtin.modinfo modules.order}
edition=$(sha256sum <"$kcache" | cut -c1-12)
if [ -n "${KCACHE_VERIFY-}" ]; then
    # Until tomorrow an interrupted run continues; then everything is compared anew.
    edition+=-verify-$(date +%F) store=$cache/store/$release
    mkdir -p "$store"
fi
wanted=("$@")
[ $# != 0 ] || mapfile -t wanted < <(dkms_packages)

for package in "${wanted[@]}"; do
    deb=$(download "$package")
    rm -rf "$room/package"
    for needed in $(depends_of "$deb" | grep -E -- '-dkms$' || true); do unpack_source "$(download "$needed")" "$room/package"; done
    first=()
    for source in "$room/package"/usr/src/*/; do [ ! -e "$source/dkms.conf" ] || first+=("$(called "$source" | tr ' ' /)"); done
    unpack_source "$deb" "$room/package"
    for source in "$room/deb"/usr/src/*/; do
        read -r name version < <(called "$source")
        for kernel in "${kernels[@]}"; do
            echo "$package $kernel $(have dkms "$(basename "$dkms" .deb)" "$kernel" "$deb" "$name" "$version" "${first[@]}") $(have kcache "$edition" "$kernel" "$deb" "$name" "$version")"
        done
    done
done >"$cache/pairs-$release"
python3 "$here/table.py" "$release" "$cache/pairs-$release"
