#!/bin/bash
# Runs a command of this project in a Debian system of another release, with that release's compilers, kmod and libraries.
#
#   tests/on_debian.sh RELEASE COMMAND...     as in tests/on_debian.sh trixie make demo; root
#
# The system is made once, by debootstrap, in ${KCACHE_FIXTURES:-~/.cache/kcache-fixtures}/systems/RELEASE. The command sees it with
# the project, the fixtures and Rust laid over it, where they are on this machine. What it writes elsewhere goes to memory, in a mount and
# pid namespace of its own, so that nothing stays mounted or running.
set -euo pipefail
export LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin

[ $# -ge 2 ] || { echo "usage: tests/on_debian.sh RELEASE COMMAND..." >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "on_debian.sh: debootstrap and overlayfs need root" >&2; exit 1; }
release=$1
shift
here=$(dirname "$(realpath "$0")")
project=$(dirname "$here")
export KCACHE_FIXTURES=${KCACHE_FIXTURES:-$HOME/.cache/kcache-fixtures}
system=$KCACHE_FIXTURES/systems/$release
mirror=${KCACHE_MIRROR:-http://deb.debian.org/debian}

prepare() {
    local packages
    [ ! -e "$system/stamp" ] || return 0
    command -v debootstrap >/dev/null || apt-get -qq install --no-install-recommends -y debootstrap
    packages=$("$here/fixtures.sh" --packages | paste -sd,)
    echo "on_debian.sh: making a Debian system of $release in $system, once" >&2
    rm -rf "$system"
    mkdir -p "$system"
    debootstrap --variant=minbase --include="$packages,gcc-12,ca-certificates,git,libelf1t64,procps,iproute2" \
        "$release" "$system/root" "$mirror" >"$system/log" 2>&1 \
        || { tail -n 3 "$system/log" >&2; exit 1; }
    rm -f "$system"/root/var/cache/apt/archives/*.deb
    touch "$system/stamp"
}

# Shows a directory of this machine at the same place.
show() {
    [ -d "$1" ] || return 0
    mkdir -p "$root$1"
    mount --rbind "$1" "$root$1"
}

if [ -z "${ON_DEBIAN-}" ]; then
    mkdir -p "$KCACHE_FIXTURES"
    (exec 9>"$KCACHE_FIXTURES/systems.lock"; flock 9; prepare)
    ON_DEBIAN=1 exec unshare --mount --pid --fork --kill-child --propagation private "$0" "$release" "$@"
fi
layers=/mnt
root=$layers/root
mount -t tmpfs layers "$layers"
mkdir "$layers"/{upper,work,root}
mount -t overlay system -o "lowerdir=$system/root,upperdir=$layers/upper,workdir=$layers/work" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/tmp"
for directory in "$project" "$KCACHE_FIXTURES" "${CARGO_TARGET_DIR:-}" "${CARGO_HOME:-$HOME/.cargo}" "${RUSTUP_HOME:-$HOME/.rustup}"; do
    show "$directory"
done
cp -L /etc/resolv.conf "$root/etc/"
# How this machine reaches the archive.
apt-config dump | grep '^Acquire::[^ ]*[Pp]roxy\|^Acquire::Check' >"$root/etc/apt/apt.conf.d/99host" || true
# Servers that tests install do not start by themselves.
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod +x "$root/usr/sbin/policy-rc.d"
# Not chroot(1): in a chroot nobody may make a user namespace. A shell remains as the first process and reaps orphans.
mkdir "$root/.machine"
cd "$root"
pivot_root . .machine
# shellcheck disable=SC2016
exec /bin/bash -c 'umount -l /.machine && rmdir /.machine && cd "$1" && shift && "$@"; exit $?' bash "$project" "$@"
