#!/bin/bash
# Builds third-party source trees, each a directory in DIR, with dkms, with `make` as people would, and with kcache, and prints a
# table. Needs root. Nothing of the trees is changed, kept or sent anywhere.
#
#   CORPUS=DIR make corpus-trees
#   tests/corpus/trees.sh KCACHE DIR            a kcache binary, and the directory of the trees (clones, unpacked releases)
#   CORPUS_KERNELS="R..."                       other kernels of the fixtures than the newest of 6.1 and of 6.12
#   DIR/NAME.make                               a file with the command that the README of the tree DIR/NAME gives, instead of `make`
#
# All three run in the same system, this machine's with the kernels laid over it (tests/corpus/room.sh), in a mount namespace of their
# own. `uname -r` answers with the kernel. `make` runs at the top; if that makes no module, in the directory nearest to the top that
# has a Makefile or Kbuild file with obj-m, and if that makes none, Kbuild's own command runs there. dkms is tried if there is a dkms.conf. Fails if one of the others builds a tree, and kcache does not.
set -euo pipefail
export LC_ALL=C

here=$(dirname "$(realpath "$0")")
fixtures=$KCACHE_FIXTURES
kcache=$(realpath "$1")
trees=$(realpath "${2:?"usage: trees.sh KCACHE DIR"}")
limit=${CORPUS_SECONDS:-900}
PATH=$PATH:/usr/sbin:/sbin
say() { printf 'corpus: %s\n' "$*" >&2; }
# shellcheck source=/dev/null
. "$here/room.sh"
# shellcheck source=/dev/null
. "$fixtures/env"

[ "$(id -u)" = 0 ] || { say "overlayfs needs root"; exit 1; }
[ "${CORPUS_NAMESPACE-}" ] || CORPUS_NAMESPACE=1 exec unshare --mount "$0" "$@"

read -ra kernels <<<"${CORPUS_KERNELS:-$K61_NEW $K612}"
base=/ unpacked=$fixtures/root store=
dkms=$(echo "$fixtures"/debs/dkms_*.deb)
room=$(mktemp -d)
trap 'umount --recursive "$room"; rmdir "$room"' EXIT
mount -t tmpfs -o mode=755 corpus "$room"
make_room build source
for part in as system/etc; do mkdir -p "$room/$part"; done


# Runs a command in a copy of a tree; sets state, modules and seconds. The modules are what it leaves.
try() {
    local name=$1 kernel=$2 start status=0
    shift 2
    rm -rf "$room/upper"
    mkdir -p "$room/package/opt/as"
    printf '#!/bin/sh\ncase "$*" in -r|--kernel-release) echo %s ;; *) exec /usr/bin/uname "$@" ;; esac\n' "$kernel" \
        >"$room/package/opt/as/uname"
    chmod +x "$room/package/opt/as/uname"
    start=$EPOCHREALTIME
    # shellcheck disable=SC2016
    inside "$room/upper" "$room/package" timeout "$limit" bash -c "cd /opt/trees/'$name' && PATH=/opt/as:\$PATH && $1" try "${@:2}" \
        >"$room/log" 2>&1 || status=$?
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f", b - a}')
    modules=$(cat "$room/upper/var/modules" 2>/dev/null || echo 0)
    [ "$modules" != 0 ] && [ "$status" = 0 ] && state=built || state=fails
    [ "$status" != 77 ] || state=excluded
}

by_make() { # NAME KERNEL
    local command=make
    [ ! -e "$trees/$1.make" ] || command=$(cat "$trees/$1.make")
    # shellcheck disable=SC2016
    try "$1" "$2" 'find . -name "*.ko" -delete
        ( eval "$1" ); status=$?
        if [ -z "$(find . -name "*.ko" -print -quit)" ]; then
            part=$(grep -rlE --include=Makefile --include=Kbuild "^[[:space:]]*obj-(m|\\$)" . | awk -F/ "{print NF, \$0}" | sort -n | head -n 1 | cut -d" " -f2)
            [ -z "$part" ] || { cd "$(dirname "$part")"; make; status=$?; }
            [ "$(find . -name "*.ko" -print -quit)" ] || { make -C "/lib/modules/$2/build" M="$PWD" modules; status=$?; }
        fi
        cd /opt/trees; find . -name "*.ko" | wc -l >/var/modules; exit $status' "$command" "$2"
}

by_dkms() {
    # shellcheck disable=SC2016
    try "$1" "$2" 'read -r name version < <(set +eu; kernelver=$1; . ./dkms.conf >/dev/null 2>&1; echo "$PACKAGE_NAME $PACKAGE_VERSION")
        cp -a . "/usr/src/$name-$version"
        dkms build -m "$name" -v "$version" -k "$1"; status=$?
        cat "/var/lib/dkms/$name/$version/build/make.log" 2>/dev/null
        find "/var/lib/dkms/$name/$version/$1" -name "*.ko*" 2>/dev/null | wc -l >/var/modules; exit $status' "$2"
}

by_kcache() {
    # shellcheck disable=SC2016
    try "$1" "$2" '/usr/bin/kcache --json build "$PWD" -k "$1" >/var/json; status=$?
        cat /var/json
        grep -q "\"state\":\"excluded\"" /var/json && exit 77
        grep -o "\"modules\":\[[^]]*\]" /var/json | grep -o "\.ko\"" | wc -l >/var/modules; exit $status' "$2"
}

built_by_make=0 built_by_dkms=0 built_by_kcache=0 count=0 wrong=()
printf '| tree | kernel | make | dkms | kcache | modules | make, s | dkms, s | kcache, s | kcache says |\n|---|---|---|---|---|---|---|---|---|---|\n'
for tree in "$trees"/*/; do
    name=$(basename "$tree")
    rm -rf "$room/package"
    mkdir -p "$room/package/opt/trees"
    cp -a --no-preserve=ownership "$tree" "$room/package/opt/trees/$name"
    rm -rf "$room/package/opt/trees/$name/.git"
    for kernel in "${kernels[@]}"; do
        say "$name, $kernel"
        count=$((count + 1))
        by_make "$name" "$kernel"; make=$state make_seconds=$seconds
        theirs=- theirs_seconds=
        if [ -e "$tree/dkms.conf" ]; then
            by_dkms "$name" "$kernel"
            theirs=$state theirs_seconds=$seconds
        fi
        by_kcache "$name" "$kernel"
        error=
        [ "$state" != fails ] || error=$(grep -oE '"error":"([^"\\]|\\.)*' "$room/log" | head -n 1 | cut -c10-119)
        [ "$state" != fails ] || [ "$error" ] || error=$(grep -m 1 '^error: ' "$room/log" | cut -c1-110 || true)
        printf '| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n' "$name" "$kernel" "$make" "$theirs" "$state" "$modules" \
            "$make_seconds" "$theirs_seconds" "$seconds" "${error//|/\\|}"
        [ "$make" != built ] || built_by_make=$((built_by_make + 1))
        [ "$theirs" != built ] || built_by_dkms=$((built_by_dkms + 1))
        [ "$state" != built ] || built_by_kcache=$((built_by_kcache + 1))
        [ "$state" != fails ] || [[ "$make $theirs" != *built* ]] || wrong+=("$name on $kernel")
    done
done
printf '\n%d builds: make %d, dkms %d, kcache %d; %d where kcache falls short\n' \
    "$count" "$built_by_make" "$built_by_dkms" "$built_by_kcache" "${#wrong[@]}"
[ ${#wrong[@]} = 0 ] || { printf -- '- %s\n' "${wrong[@]}"; exit 1; }
