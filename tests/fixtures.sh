#!/bin/bash
# Downloads the input of the tests, the demo and the benchmarks: kernels that this machine does not run, and third-party
# module packages, both of Debian 12 and from Debian's own archive. The machine itself may have Debian 12 or 13.
#
#   tests/fixtures.sh             get what is missing; a second run takes no time and needs no network
#   tests/fixtures.sh --refresh   look for newer kernels in the archive
#   tests/fixtures.sh --kernels   skip what only the tests need: servers for shared caches, QEMU
#   tests/fixtures.sh --packages  print what apt installs for --kernels, and do nothing
#   tests/fixtures.sh --services  also compile what `make test-services` takes: Garage, cargo-deny, Debian 13's depmod
#
# It writes to ${KCACHE_FIXTURES:-~/.cache/kcache-fixtures}:
#
#   apt/                          package lists of Debian 12, because the machine's may be of another release
#   debs/NAME_VERSION_ARCH.deb    as downloaded; apt has checked them against the archive's signatures
#   root/                         the kernels, unpacked: /lib/modules/*, /usr/src/linux-headers-*, /usr/lib/linux-kbuild-*, /boot/*
#   packages/usr/src/*            the module packages' sources, unpacked
#   garage/bin/garage             an S3 store, compiled from crates.io
#   cargo-deny/bin/cargo-deny     a checker of dependencies' licences and sources, likewise
#   kmod/depmod                   depmod of Debian 13, compiled from its source package
#   env                           K61_OLD=, K61_NEW=, K61_CLOUD=, K612=: which releases those are today
#   stamp                         written last; without it the rest may be incomplete
#
# Concurrent runs wait for each other. A killed run leaves no stamp, and the next one starts again from the debs that exist.
# Nothing else on the machine changes, except for packages that apt installs.
set -euo pipefail
export LC_ALL=C

cache=${KCACHE_FIXTURES:-$HOME/.cache/kcache-fixtures}
garage=2.5.0
# Of contrib and non-free, which the machine's package lists may leave out. Kept as downloaded.
others=(r8168-dkms)
packages=(v4l2loopback-dkms acpi-call-dkms xtables-addons-dkms jool-dkms dm-writeboost-dkms bbswitch-dkms dkms)

say() { printf 'fixtures: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }
release=bookworm debs=$cache/debs
# shellcheck source=tests/corpus/archive.sh
. "$(dirname "$0")/corpus/archive.sh"

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "not root and no sudo here: as root, run: $*"
    fi
}

# The package lists may be absent (a fresh container) or older than the archive (a file that has left it).
update_lists() {
    say "updating apt's package lists"
    as_root apt-get -qq update >&2
}

install_with_apt() {
    say "installing: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "$@" >&2 && return
    update_lists
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends -y "$@" >&2
}

# Each line: the program that is looked for, and the Debian package that has it.
tools() {
    cat <<-END
	cc          build-essential
	make        make
	bwrap       bubblewrap
	depmod      kmod
	patch       patch
	cpio        cpio
	xz          xz-utils
	zstd        zstd
	pahole      pahole
	strace      strace
	setpriv     util-linux
	flock       util-linux
	dpkg-deb    dpkg
	END
}

# The same for what only the tests need: servers of shared caches, which they run on ports of their own, what those are tried
# and compared with, a machine to boot kernels in, and file systems to cut the power of.
servers() {
    cat <<-END
	nginx            nginx
	docker-registry  docker-registry
	openssl          openssl
	softhsm2-util    softhsm2
	skopeo           skopeo
	curl             curl
	zstd             zstd
	b3sum            b3sum
	ccache           ccache
	qemu-system-x86_64 qemu-system-x86
	mkfs.ext4        e2fsprogs
	mkfs.xfs         xfsprogs
	mkfs.btrfs       btrfs-progs
	END
}

# The packages of those programs, read from standard input, that are not here.
missing() {
    local program package
    while read -r program package; do
        command -v "$program" >/dev/null || echo "$package"
    done
}

install_tools() {
    local missing
    PATH=$PATH:/usr/sbin:/sbin
    mapfile -t missing < <(tools | missing)
    # objtool, of linux-kbuild, is linked with it. All is read: a ldconfig that is cut short would count as one that failed.
    ldconfig -p | grep 'libelf\.so\.1 ' >/dev/null || missing+=(libelf1)
    [ ${#missing[@]} = 0 ] || install_with_apt "${missing[@]}"

    command -v cargo >/dev/null || die "cargo is not here: install Rust with https://rustup.rs"
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 \
        || rustup component add rustfmt clippy
}

install_servers() {
    local package missing policy=/usr/sbin/policy-rc.d
    mapfile -t missing < <(servers | missing)
    [ ${#missing[@]} != 0 ] || return 0
    # Where there is no policy yet, the packages' scripts are told to start nothing (invoke-rc.d(8)).
    if [ ! -e $policy ]; then
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
        printf '#!/bin/sh\nexit 101\n' | as_root install -m 0755 /dev/stdin $policy
    fi
    install_with_apt "${missing[@]}"
    # Nor at the next boot.
    if [ -d /run/systemd/system ]; then
        for package in "${missing[@]}"; do as_root systemctl -q disable "$package" 2>/dev/null || true; done
    fi
}

install_garage() {
    local found
    found=$("$cache/garage/bin/garage" --version 2>/dev/null) || true
    case $found in *":$garage "*) return 0 ;; esac
    say "compiling Garage $garage, once; two cores take a quarter of an hour"
    CARGO_TARGET_DIR=$cache/garage-target cargo install -q "garage@$garage" --locked --force --root "$cache/garage" \
        --no-default-features --features bundled-libs,sqlite
    rm -rf "$cache/garage-target"
}

install_deny() {
    [ ! -x "$cache/cargo-deny/bin/cargo-deny" ] || return 0
    say "compiling cargo-deny, once; two cores take some minutes"
    CARGO_TARGET_DIR=$cache/cargo-deny-target cargo install -q cargo-deny --locked --root "$cache/cargo-deny"
    rm -rf "$cache/cargo-deny-target"
}

# Modules' indexes are compared with those of Debian 13's depmod, whose program does not run with Debian 12's C library.
install_kmod() {
    [ ! -x "$cache/kmod/depmod" ] || return 0
    local missing
    say "compiling Debian 13's kmod, once"
    mapfile -t missing < <(printf '%s\n' 'meson meson' 'ninja ninja-build' 'pkg-config pkgconf' | missing)
    [ -e /usr/include/lzma.h ] || missing+=(liblzma-dev)
    [ -e /usr/include/zstd.h ] || missing+=(libzstd-dev)
    [ ${#missing[@]} = 0 ] || install_with_apt "${missing[@]}"
    rm -rf "$cache/kmod-new"
    mkdir -p "$cache/kmod-new"
    (
        cd "$cache/kmod-new"
        release=trixie with_sources=1
        look_at_release
        apt-get -qq source --download-only kmod >&2
        tar -xf kmod_*.orig.tar.*
        meson setup -Dzstd=enabled -Dxz=enabled -Dzlib=disabled -Dopenssl=disabled -Dmanpages=false \
            -Dbashcompletiondir=no -Dfishcompletiondir=no -Dzshcompletiondir=no build kmod-*/
        ninja -C build
    ) >"$cache/kmod.log" 2>&1 || { tail -n 5 "$cache/kmod.log" >&2; die "kmod could not be compiled: $cache/kmod.log"; }
    mkdir -p "$cache/kmod"
    cp "$cache/kmod-new/build/kmod" "$cache/kmod/depmod" # it is depmod by its name
    rm -rf "$cache/kmod-new"
}

# The compilers are those that the kernels' own headers packages depend on.
install_compilers() {
    local compiler missing=()
    for compiler in $COMPILERS; do
        command -v "$compiler" >/dev/null || missing+=("$compiler")
    done
    [ ${#missing[@]} = 0 ] || install_with_apt "${missing[@]}"
}

downloadable() { apt-get -qq download --print-uris "$1" >/dev/null 2>&1; }

# The newest COUNT headers packages whose whole name matches and that can be downloaded with their kernel's image, newest
# first. A package of the dpkg database that has left the archive has a name but no file, and for some hours of an update
# the archive has headers whose image is still to be signed.
newest() {
    local pattern=$1 count=$2 name
    apt-cache pkgnames linux-headers- | grep -Ex "$pattern" | sort -rV | while read -r name; do
        downloadable "$name" && downloadable "linux-image-${name#linux-headers-}" && echo "$name"
    done | sed "${count}q"
}

listed_depends_of() { apt-cache show --no-all-versions "$1" | sed -n 's/^Depends: //p' | tr ',|' '\n\n' | awk '{print $1}'; }

# Sets K61_NEW, K61_OLD, K61_CLOUD and K612 by looking at what the archive has today.
choose_kernels() {
    local found
    mapfile -t found < <(newest 'linux-headers-6\.1\.0-[0-9]+-amd64' 2)
    [ ${#found[@]} = 2 ] || { say "apt does not know two kernels 6.1 of Debian 12"; return 1; }
    K61_NEW=${found[0]#linux-headers-}
    K61_OLD=${found[1]#linux-headers-}
    K61_CLOUD=$(newest 'linux-headers-6\.1\.0-[0-9]+-cloud-amd64' 1)
    K61_CLOUD=${K61_CLOUD#linux-headers-}
    K612=$(newest 'linux-headers-6\.12\.[0-9]+\+deb12-amd64' 1)
    K612=${K612#linux-headers-}
    [ -n "$K61_CLOUD" ] && [ -n "$K612" ] || { say "apt knows no cloud kernel or no kernel 6.12"; return 1; }
}

# The packages that one kernel consists of: its headers, what they include, the programs they run, its image.
kernel_packages() {
    echo "linux-headers-$1"
    echo "linux-image-$1"
    listed_depends_of "linux-headers-$1" | grep -E '^linux-(headers-.*-common|kbuild-.*)$'
}

# Downloads what is not there yet, and lists all in new/list. A deb is known by its file name, which holds its version;
# it comes into debs/ by rename, so a file there is whole.
fetch_listed() {
    local name file wanted=()
    mkdir -p "$cache/debs" "$cache/new/debs"
    for name in "$@"; do
        file=$(apt-get -qq download --print-uris "$name" | awk '{print $2}')
        [ -n "$file" ] || { say "apt does not know $name"; return 1; }
        echo "$file" >>"$cache/new/list"
        [ -e "$cache/debs/$file" ] || wanted+=("$name")
    done
    [ ${#wanted[@]} != 0 ] || return 0
    say "downloading ${#wanted[@]} packages"
    # The sandbox user _apt may not write where the cache lies; apt verifies the files all the same.
    (cd "$cache/new/debs" && apt-get -qq -o APT::Sandbox::User=root download "${wanted[@]}" >&2) || return
    mv "$cache"/new/debs/*.deb "$cache/debs/"
}

unpack() {
    local file into
    mkdir -p "$cache/new/root" "$cache/new/packages"
    while read -r file; do
        case $file in
            linux-*) into=root ;;
            *) into=packages ;;
        esac
        dpkg-deb --fsys-tarfile "$cache/debs/$file" | tar -x --no-same-owner -C "$cache/new/$into" --exclude=./usr/share
    done <"$cache/new/list"
}

# Chooses and downloads. Fails where the package lists are older than the archive.
fetch() {
    local kernel wanted
    rm -rf "$cache/new"
    mkdir -p "$cache/new"
    choose_kernels || return
    say "kernels: $K61_OLD, $K61_NEW, $K61_CLOUD, $K612"
    mapfile -t wanted < <(
        for kernel in "$K61_OLD" "$K61_NEW" "$K61_CLOUD" "$K612"; do kernel_packages "$kernel"; done | sort -u
    )
    fetch_listed "${wanted[@]}" "${packages[@]}"
}

describe() {
    local kernel compilers
    compilers=$(for kernel in "$K61_NEW" "$K612"; do listed_depends_of "linux-headers-$kernel"; done | grep -oE 'gcc-[0-9]+' | sort -u | xargs)
    cat <<-END
	K61_OLD=$K61_OLD
	K61_NEW=$K61_NEW
	K61_CLOUD=$K61_CLOUD
	K612=$K612
	COMPILERS="$compilers"
	END
}

# Fetches and unpacks everything, with package lists of its own.
refresh() {
    look_at_release
    fetch || { apt-get -qq update >&2; fetch; }
    say "unpacking"
    unpack
    describe >"$cache/new/env"
    publish
}

# Puts what was fetched in the place of what was there; the stamp, gone first and back last, makes it one step.
publish() {
    rm -f "$cache/stamp"
    rm -rf "$cache/root" "$cache/packages" "$cache/env"
    mv "$cache"/new/{root,packages,env} "$cache/"
    printf '%s' "$version" >"$cache/stamp"
    rm -rf "$cache/new"
}

if [ "${1-}" = --packages ]; then
    tools | awk '{print $2}' | sort -u
    exit
fi
install_tools
mkdir -p "$cache"
exec 9>"$cache/lock"
flock -n 9 || { say "waiting for another run"; flock 9; }

# Another edition of this script may want other packages.
version=$(sha256sum <"$0")
if [ "${1-}" = --refresh ] || [ "$(cat "$cache/stamp" 2>/dev/null)" != "$version" ]; then
    # In a shell of its own: what follows looks at the machine's lists.
    (refresh)
fi
# shellcheck source=/dev/null
. "$cache/env"
install_compilers
if [ "${1-}" != --kernels ]; then
    # Likewise.
    for name in "${others[@]}"; do (download "$name" >/dev/null); done
    install_servers
fi
if [ "${1-}" = --services ]; then
    install_garage
    install_deny
    install_kmod
fi
