#!/bin/bash
# Builds third-party source trees, each a directory in DIR, with dkms, with `make` as people would, and with kcache, and prints a
# table. Needs root. Nothing of the trees is changed, kept or sent anywhere.
#
#   CORPUS=DIR make corpus-trees
#   tests/corpus/trees.sh KCACHE DIR            a kcache binary, and the directory of the trees (clones, unpacked releases)
#   tests/corpus/trees.sh KCACHE DIR NAME...    some of the trees only
#   CORPUS_RELEASE=trixie                       another release than bookworm, with its own compiler and dkms (tests/corpus/run.sh)
#   CORPUS_KERNELS="R..."                       other kernels than the newest of 6.1 and of 6.12, or the newest of each of the release
#   CORPUS_RESULTS=RESULTS                      keeps logs, modules and what `kcache init` and `kcache lint` say, each in
#                                               RESULTS/NAME/KERNEL/{make,dkms,kcache}/
#   DIR/NAME.make                               a file with the command that the README of the tree DIR/NAME gives, instead of `make`
#   DIR/NAME.dir                                a file with the directory in the tree that is meant, where that is not its top
#
# All three run in the same system, this machine's or the release's with the kernels laid over it (tests/corpus/room.sh), in a mount
# namespace of their own. `uname -r` answers with the kernel. `make` runs at the top; if that makes no module, in the directory
# nearest to the top that has a Makefile or Kbuild file with obj-m, and if that makes none, Kbuild's own command runs there. dkms is
# tried if there is a dkms.conf. Fails if one of the others builds a tree, and kcache does not, or builds fewer modules than `make` or others than dkms.
set -euo pipefail
export LC_ALL=C

here=$(dirname "$(realpath "$0")")
fixtures=$KCACHE_FIXTURES
kcache=$(realpath "$1")
trees=$(realpath "${2:?"usage: trees.sh KCACHE DIR [NAME]..."}")
limit=${CORPUS_SECONDS:-900}
cache=${KCACHE_CORPUS:-$HOME/.cache/kcache-corpus}
release=${CORPUS_RELEASE:-bookworm}
PATH=$PATH:/usr/sbin:/sbin
say() { printf 'corpus: %s\n' "$*" >&2; }
# shellcheck source=/dev/null
. "$here/archive.sh"
# shellcheck source=/dev/null
. "$here/room.sh"

[ "$(id -u)" = 0 ] || { say "overlayfs needs root"; exit 1; }
[ "${CORPUS_NAMESPACE-}" ] || CORPUS_NAMESPACE=1 exec unshare --mount "$0" "$@"
shift 2

if [ "$release" = bookworm ]; then
    # shellcheck source=/dev/null
    . "$fixtures/env"
    base=/ unpacked=$fixtures/root debs=$fixtures/debs
    read -ra kernels <<<"${CORPUS_KERNELS:-$K61_NEW $K612}"
else
    of_release
fi
store=
dkms=$(download dkms)
room=$(mktemp -d)
trap 'umount --recursive "$room"; rmdir "$room"' EXIT
mount -t tmpfs -o mode=755 corpus "$room"
results=$room/results
[ -z "${CORPUS_RESULTS-}" ] || { mkdir -p "$CORPUS_RESULTS"; results=$(realpath "$CORPUS_RESULTS"); }
make_room build source
for part in as system/etc; do mkdir -p "$room/$part"; done

# Runs a command in a copy of a tree; sets state, modules and seconds, and fills RESULT/{log,status,seconds,modules/}. The modules are
# those that it leaves in /var/modules.
try() {
    local result=$1 name=$2 kernel=$3 start status=0 directory=.
    shift 3
    [ ! -e "$trees/$name.dir" ] || directory=$(cat "$trees/$name.dir")
    rm -rf "$room/upper" "$result"
    mkdir -p "$room/package/opt/as" "$result/modules"
    printf '#!/bin/sh\ncase "$*" in -r|--kernel-release) echo %s ;; *) exec /usr/bin/uname "$@" ;; esac\n' "$kernel" \
        >"$room/package/opt/as/uname"
    chmod +x "$room/package/opt/as/uname"
    start=$EPOCHREALTIME
    inside "$room/upper" "$room/package" timeout "$limit" bash -c \
        "mkdir -p /var/modules; cd /opt/trees/'$name'/'$directory' && PATH=/opt/as:\$PATH && $1" try "${@:2}" >"$result/log" 2>&1 || status=$?
    seconds=$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f", b - a}')
    echo "$status" >"$result/status"
    cp "$room"/upper/var/modules/*.ko* "$result/modules/" 2>/dev/null || true
    modules=$(find "$result/modules" -name '*.ko*' | wc -l)
    [ "$modules" != 0 ] && [ "$status" = 0 ] && state=built || state=fails
    [ "$status" != 77 ] || state=excluded
}

by_make() { # RESULT NAME KERNEL
    local command=make
    [ ! -e "$trees/$2.make" ] || command=$(cat "$trees/$2.make")
    # shellcheck disable=SC2016
    try "$1" "$2" "$3" 'find /opt/trees -name "*.ko" -delete
        ( eval "$1" ); status=$?
        if [ -z "$(find . -name "*.ko" -print -quit)" ]; then
            part=$(grep -rlE --include=Makefile --include=Kbuild "^[[:space:]]*obj-(m|\$)" . | awk -F/ "{print NF, \$0}" | sort -n | head -n 1 | cut -d" " -f2)
            [ -z "$part" ] || { cd "$(dirname "$part")"; make; status=$?; }
            [ "$(find . -name "*.ko" -print -quit)" ] || { make -C "/lib/modules/$2/build" M="$PWD" modules; status=$?; }
        fi
        find /opt/trees -name "*.ko" -exec cp {} /var/modules/ \; ; exit $status' "$command" "$3"
}

by_dkms() {
    # shellcheck disable=SC2016
    try "$1" "$2" "$3" 'read -r name version < <(set +eu; kernelver=$1; . ./dkms.conf >/dev/null 2>&1; echo "$PACKAGE_NAME $PACKAGE_VERSION")
        cp -a . "/usr/src/$name-$version"
        dkms build -m "$name" -v "$version" -k "$1"; status=$?
        cat "/var/lib/dkms/$name/$version/build/make.log" 2>/dev/null
        cp "/var/lib/dkms/$name/$version/$1/x86_64/module/"*.ko* /var/modules/ 2>/dev/null; exit $status' "$3"
}

by_kcache() {
    # shellcheck disable=SC2016
    try "$1" "$2" "$3" 'kcache --json build "$PWD" -k "$1" >/var/json; status=$?
        kcache log "$PWD" -k "$1" >/var/log.txt 2>&1
        kcache install "$PWD" -k "$1" >/var/install.txt 2>&1; echo "exit $?" >>/var/install.txt
        kcache lint "$PWD" >/var/lint.txt 2>&1; echo "exit $?" >>/var/lint.txt
        kcache init "$PWD" --kernel "$1" >/var/init.txt 2>&1; echo "exit $?" >>/var/init.txt
        cat kcache.toml >>/var/init.txt 2>/dev/null
        grep -q "\"state\":\"excluded\"" /var/json && exit 77
        exit $status' "$3"
    cp "$room"/upper/var/{json,log.txt,install.txt,lint.txt,init.txt} "$1/" 2>/dev/null || true
    python3 "$here/table.py" --extract "$room/upper/var/cache/kcache" "$1"
    modules=$(find "$1/modules" -name '*.ko*' | wc -l)
    [ "$modules" = 0 ] || [ "$(cat "$1/status")" != 0 ] || state=built
}

built_by_make=0 built_by_dkms=0 built_by_kcache=0 count=0 wrong=()
printf '| tree | kernel | make | dkms | kcache | modules | as make | as dkms | make, s | dkms, s | kcache, s | kcache says |\n'
printf '|---|---|---|---|---|---|---|---|---|---|---|---|\n'
if [ $# = 0 ]; then
    for tree in "$trees"/*/; do set -- "$@" "$(basename "$tree")"; done
fi
for name; do
    rm -rf "$room/package"
    mkdir -p "$room/package/opt/trees"
    cp -a --no-preserve=ownership "$trees/$name" "$room/package/opt/trees/$name"
    rm -rf "$room/package/opt/trees/$name/.git"
    directory=.
    [ ! -e "$trees/$name.dir" ] || directory=$(cat "$trees/$name.dir")
    for kernel in "${kernels[@]}"; do
        say "$name, $kernel"
        result=$results/$name/$kernel
        count=$((count + 1))
        by_make "$result/make" "$name" "$kernel"; make=$state make_seconds=$seconds
        theirs=- theirs_seconds=
        if [ -e "$trees/$name/$directory/dkms.conf" ]; then
            by_dkms "$result/dkms" "$name" "$kernel"
            theirs=$state theirs_seconds=$seconds
        fi
        by_kcache "$result/kcache" "$name" "$kernel"
        error= as_make= as_dkms=
        [ "$state" != fails ] || error=$(grep -oE '"error":"([^"\]|\\.)*' "$result/kcache/json" 2>/dev/null | head -n 1 | cut -c10-119 || true)
        [ "$state" != fails ] || [ "$error" ] || error=$(grep -m 1 '^error: ' "$result/kcache/log" | cut -c1-110 || true)
        [ "$state/$make" != built/built ] || as_make=$(python3 "$here/table.py" --compare "$result/kcache" "$result/make")
        [ "$state/$theirs" != built/built ] || as_dkms=$(python3 "$here/table.py" --compare "$result/kcache" "$result/dkms")
        printf '| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n' "$name" "$kernel" "$make" "$theirs" "$state" "$modules" \
            "$as_make" "$as_dkms" "$make_seconds" "$theirs_seconds" "$seconds" "${error//|/\\|}"
        [ "$make" != built ] || built_by_make=$((built_by_make + 1))
        [ "$theirs" != built ] || built_by_dkms=$((built_by_dkms + 1))
        [ "$state" != built ] || built_by_kcache=$((built_by_kcache + 1))
        [ "$state" != fails ] || [[ "$make $theirs" != *built* ]] || wrong+=("$name on $kernel")
        [[ "$as_make" != *' -'* && "$as_dkms" != *' of '* ]] || wrong+=("$name on $kernel: other modules")
    done
done
printf '\n%d builds: make %d, dkms %d, kcache %d; %d where kcache falls short\n' \
    "$count" "$built_by_make" "$built_by_dkms" "$built_by_kcache" "${#wrong[@]}"
[ ${#wrong[@]} = 0 ] || { printf -- '- %s\n' "${wrong[@]}"; exit 1; }
