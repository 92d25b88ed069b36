# shellcheck shell=bash
# Access to Debian's archive with package lists of our own, because the machine's may lack contrib, non-free and other releases.
# Sourced; needs say(), $release, $cache (for lists and downloads) and $debs (earlier downloads of others).

mirror=${KCACHE_MIRROR:-http://deb.debian.org/debian}
# What packages of the whole corpus want for their builds, beyond dkms (their Depends).
tools=(libxtables-dev libelf-dev gawk bzip2 pkg-config perl python3 file)
components='main contrib non-free non-free-firmware'

# From here on apt-get and apt-cache see the release alone, as if nothing was installed. The lists are a day old at most. With
# with_sources=1, they have main's source packages too.
look_at_release() {
    local lists=$cache/apt/$release${with_sources:+-sources} from suite
    [ "${APT_CONFIG-}" != "$lists/apt.conf" ] || return 0
    mkdir -p "$lists"/{lists,archives}/partial
    from='[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]'
    for suite in "$mirror $release" "$mirror $release-updates" "$mirror $release-backports" "$mirror-security $release-security"; do
        printf 'deb %s %s %s\n' "$from" "$suite" "$components"
    done >"$lists/sources.list"
    [ -z "${with_sources-}" ] || printf 'deb-src %s %s %s main\n' "$from" "$mirror" "$release" >>"$lists/sources.list"
    cat >"$lists/apt.conf" <<-END
	Dir::State::lists "$lists/lists";
	Dir::State::status "/dev/null";
	Dir::Cache "$lists";
	Dir::Etc::sourcelist "$lists/sources.list";
	Dir::Etc::sourceparts "/dev/null";
	Dir::Etc::preferencesparts "/dev/null";
	APT::Sandbox::User "root";
	END
    export APT_CONFIG=$lists/apt.conf
    if [ -z "$(find "$lists/updated" -mmin -1440 2>/dev/null)" ]; then
        apt-get -qq update >&2
        touch "$lists/updated"
    fi
}

# Downloads a package as it is now and prints the file's name, which holds its version. What the tests have of it is as good.
download() {
    local file
    for file in "$debs/$1"_*.deb; do
        if [ -e "$file" ]; then printf '%s\n' "$file"; return; fi
    done
    look_at_release
    file=$(apt-get -qq download --print-uris "$1" | awk '{print $2}')
    [ -n "$file" ] || { say "$release has no package $1"; return 1; }
    # By rename: what is there is whole.
    [ -e "$cache/debs/$file" ] || {
        mkdir -p "$cache/debs/new" && (cd "$cache/debs/new" && apt-get -qq download "$1" >&2) && mv "$cache/debs/new/$file" "$cache/debs/"
    } || return
    printf '%s\n' "$cache/debs/$file"
}

# All -dkms packages of the release.
dkms_packages() {
    look_at_release
    apt-cache search --names-only -- '-dkms$' | awk '$1 !~ /^dh-dkms$|-test-dkms$/ {print $1}' | sort
}

# What a package, a file, depends on: the first of each choice.
depends_of() {
    dpkg-deb -f "$1" Depends Pre-Depends | sed 's/^[A-Za-z-]*: //' | tr ',' '\n' | sed 's/|.*//' | awk '{print $1}'
}

# The newest kernel of each series, as releases: the newest headers that have their image beside them.
newest_kernels() {
    local name series seen=' '
    look_at_release
    apt-cache pkgnames linux-headers- | grep -Ex 'linux-headers-[0-9.]+(-[0-9]+|\+deb[0-9.]+)-amd64' | sort -rV | while read -r name; do
        name=${name#linux-headers-}
        series=$(cut -d. -f1,2 <<<"$name")
        [[ $seen != *" $series "* ]] || continue
        apt-get -qq download --print-uris "linux-image-$name" "linux-headers-$name" >/dev/null 2>&1 || continue
        seen+="$series "
        echo "$name"
    done
}

# unpack_kernel RELEASE DIR: a kernel's headers, what they include, the programs they run, its image and modules.
unpack_kernel() {
    local name deb queue=("linux-headers-$1" "linux-image-$1") seen=' '
    while [ ${#queue[@]} != 0 ]; do
        name=${queue[0]}
        queue=("${queue[@]:1}")
        [[ $seen != *" $name "* ]] || continue
        seen+="$name "
        deb=$(download "$name")
        dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner -C "$2" --exclude=./usr/share --keep-directory-symlink
        mapfile -t -O ${#queue[@]} queue < <(depends_of "$deb" | grep -E '^linux-(headers|kbuild|image|binary|modules|base)-[0-9]')
    done
}

# Another release's system, made once, with what dkms, kcache, the kernels' headers and $tools depend on; sets $base, $unpacked and
# $debs for room.sh, and $kernels: $CORPUS_KERNELS, or the newest of each series.
of_release() {
    local kernel compilers include
    base=$cache/system/$release unpacked=$cache/kernels/$release debs=/nonexistent
    read -ra kernels <<<"${CORPUS_KERNELS:-$(newest_kernels | xargs)}"
    mkdir -p "$unpacked"/{boot,usr/{lib,src}}
    [ -e "$unpacked/lib" ] || ln -s usr/lib "$unpacked/lib"
    for kernel in "${kernels[@]}"; do
        [ -e "$unpacked/stamp-$kernel" ] || { say "unpacking $kernel"; unpack_kernel "$kernel" "$unpacked"; touch "$unpacked/stamp-$kernel"; }
    done
    [ ! -e "$base/stamp" ] || return 0
    say "making a system of $release, once"
    command -v debootstrap >/dev/null || APT_CONFIG='' apt-get -qq install --no-install-recommends -y debootstrap >&2
    rm -rf "$base"
    mkdir -p "$base"
    compilers=$(for kernel in "${kernels[@]}"; do depends_of "$(download "linux-headers-$kernel")"; done | grep -oE '^gcc-[0-9]+' | sort -u)
    include=$(echo "${tools[@]}" "$compilers" bubblewrap kmod make patch libc6-dev libelf1t64 zstd xz-utils pahole lsb-release \
        qemu-system-x86 | tr ' ' ',')
    APT_CONFIG='' debootstrap --variant=minbase --include="$include" "$release" "$base" "$mirror" >"$cache/debootstrap.log" 2>&1 \
        || { say "debootstrap: $(tail -n 3 "$cache/debootstrap.log")"; return 1; }
    rm -f "$base"/var/cache/apt/archives/*.deb
    touch "$base/stamp"
}
