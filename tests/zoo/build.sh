#!/bin/bash
# Builds the zoo: tiny kernels of every kind that a module can be built for, each laid out as one way of packaging leaves it.
#
#   tests/zoo/build.sh [NAME]...     the kinds of kinds.tsv that are not there yet; or only these
#   ZOO_WORK=DIR                     where sources and objects are, 3 GB; by default in the fixtures, and deleted at the end
#
# The kernels are compiled from Debian's newest linux-source, once: a minute to some minutes each. What is kept is a root for each,
# ${KCACHE_FIXTURES:-~/.cache/kcache-fixtures}/zoo/NAME.tar.zst, some 10 MB. A kind whose compiler or tool this machine lacks
# is left out, with the reason in NAME.skipped. What the packaging targets would do (make bindeb-pkg, binrpm-pkg, pacman-pkg) is done by
# the kernel's own scripts that they run, without dpkg, rpm and pacman.
# shellcheck disable=SC2030,SC2031  # each kind is built in a shell of its own, which functions share
set -euo pipefail
export LC_ALL=C
here=$(dirname "$(realpath "$0")")
fixtures=${KCACHE_FIXTURES:-$HOME/.cache/kcache-fixtures}
zoo=$fixtures/zoo
work=${ZOO_WORK:-$zoo/work}
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'zoo: %s\n' "$*" >&2; }
# shellcheck disable=SC2034  # for archive.sh
release=trixie cache=$work debs=/nonexistent
# shellcheck source=tests/corpus/archive.sh
. "$here/../corpus/archive.sh"

mkdir -p "$zoo" "$work"
exec 9>"$zoo/lock"
flock -n 9 || { say "waiting for another run"; flock 9; }

# Unpacks the source, once; sets $source.
unpack_source() {
    local package
    source=$work/linux
    [ ! -e "$source/.stamp" ] || return 0
    package=$(look_at_release; apt-cache pkgnames linux-source- | grep -Ex 'linux-source-[0-9.]+' | sort -V | tail -n 1)
    say "unpacking $package"
    rm -rf "$source"
    mkdir -p "$source"
    dpkg-deb --fsys-tarfile "$(download "$package")" | tar -x --to-stdout "./usr/src/$package.tar.xz" | tar -xJ --strip-components=1 \
        -C "$source" --exclude='*/Documentation/[a-jl-z]*' --exclude="$package/tools/testing/*"
    touch "$source/.stamp"
}

# What differs from tree to tree on make's command line, and the programs that it needs.
variables_of() {
    case $1 in
        clang | lto) echo LLVM=-19 ;;
    esac
}
needs_of() {
    case $1 in
        clang | lto) echo clang-19 clang-19 ld.lld-19 lld-19 llvm-objcopy-19 llvm-19 ;;
        randstruct) echo "$(gcc -print-file-name=plugin)/include/plugin.h" "gcc-$(gcc -dumpversion)-plugin-dev" ;;
        dwarf) echo /usr/include/elfutils/libdw.h libdw-dev pahole pahole ;;
    esac
    echo flex flex bison bison bc bc /usr/include/libelf.h libelf-dev /usr/include/openssl/opensslv.h libssl-dev
}

# The Debian packages that a tree's kernels need and this machine lacks.
lacking() {
    local words program package
    read -ra words <<<"$(needs_of "$1" | xargs)"
    while [ ${#words[@]} != 0 ]; do
        program=${words[0]} package=${words[1]} words=("${words[@]:2}")
        [ -e "$program" ] || command -v "$program" >/dev/null || echo "$package"
    done | sort -u | xargs
}

kbuild() {
    # shellcheck disable=SC2046
    nice make -s -j"${ZOO_JOBS:-$(nproc)}" -C "$source" O="$objects" KBUILD_BUILD_TIMESTAMP=2000-01-01 KBUILD_BUILD_USER=zoo \
        KBUILD_BUILD_HOST=zoo $(variables_of "$tree") "$@" </dev/null
}

# Says which symbols a configuration did not take, as when the compiler cannot do it.
configure() {
    local symbol wanted
    mkdir -p "$objects"
    kbuild KCONFIG_ALLCONFIG="$here/base.config" allnoconfig >/dev/null
    for symbol in $symbols; do
        case $symbol in
            -*) wanted=(--disable "${symbol#-}") ;;
            *) wanted=(--enable "$symbol") ;;
        esac
        "$source/scripts/config" --file "$objects/.config" "${wanted[@]}"
    done
    "$source/scripts/config" --file "$objects/.config" --set-str LOCALVERSION "$suffix"
    kbuild olddefconfig
    for symbol in $symbols; do
        case $symbol in
            -*) ! grep -q "^CONFIG_${symbol#-}=y" "$objects/.config" || echo "$symbol" ;;
            *) grep -q "^CONFIG_$symbol=y" "$objects/.config" || echo "$symbol" ;;
        esac
    done
}

install_modules() { kbuild INSTALL_MOD_PATH="$1" INSTALL_MOD_STRIP=1 DEPMOD=true modules_install; }
headers_for_modules() { kbuild run-command KBUILD_RUN_COMMAND="\"\${srctree}/scripts/package/install-extmod-build\" $1"; }
image() { install -D -m 0644 "$objects/arch/x86/boot/bzImage" "$1"; }
as_debian() {
    image "$root/boot/vmlinuz-$kernel"
    cp "$objects/.config" "$root/boot/config-$kernel"
}

# make bindeb-pkg (scripts/package/builddeb).
deb() {
    install_modules "$root"
    rm -f "$root/lib/modules/$kernel/build"
    as_debian
    headers_for_modules "$root/usr/src/linux-headers-$kernel"
    ln -s "/usr/src/linux-headers-$kernel" "$root/lib/modules/$kernel/build"
}

# make binrpm-pkg (scripts/package/kernel.spec). Its %post copies the image to /boot.
rpm() {
    image "$root/lib/modules/$kernel/vmlinuz"
    install_modules "$root"
    cp "$objects/.config" "$root/lib/modules/$kernel/config"
    as_debian
    ln -fns "/usr/src/kernels/$kernel" "$root/lib/modules/$kernel/build"
    headers_for_modules "$root/usr/src/kernels/$kernel"
}

# make pacman-pkg (scripts/package/PKGBUILD). /lib is a link.
pacman() {
    local modules=$root/usr/lib/modules/$kernel
    ln -s usr/lib "$root/lib"
    image "$modules/vmlinuz"
    echo linux-upstream >"$modules/pkgbase"
    install_modules "$root/usr"
    rm -f "$modules/build"
    headers_for_modules "$modules/build"
    cp "$objects/.config" "$modules/build/.config"
    ln -sr "$modules/build" "$root/usr/src/linux-upstream"
}

# What a build of modules reads of a source tree, and of the objects beside it.
copy_source() {
    mkdir -p "$1"
    (cd "$source" && find Makefile Kbuild Kconfig arch/x86/Makefile* arch/x86/Kbuild arch/Kconfig scripts include arch/x86/include \
        tools/include tools/objtool tools/build tools/scripts \( -type f -o -type l \) ! -name '*.o' -print0) \
        | tar -c -C "$source" --null -T - | tar -x -C "$1"
}
copy_objects() {
    mkdir -p "$1"
    (cd "$objects" && find .config Module.symvers System.map include scripts arch/x86/include tools/objtool/objtool \( -type f -o -type l \) \
        ! -name '*.o' ! -name '.*.cmd' -print0) | tar -c -C "$objects" --null -T - | tar -x -C "$1"
}

# SUSE's kernel-source and kernel-default-devel: a source, and an O= tree whose Makefile names it relatively.
suse() {
    local tree=/usr/src/linux-$version-obj/x86_64/default
    install_modules "$root/usr"
    ln -s usr/lib "$root/lib"
    as_debian
    copy_source "$root/usr/src/linux-$version"
    copy_objects "$root$tree"
    printf 'export KBUILD_OUTPUT = %s\ninclude ../../../linux-%s/Makefile\n' "$tree" "$version" >"$root$tree/Makefile"
    ln -fns "$tree" "$root/usr/lib/modules/$kernel/build"
    ln -fns "/usr/src/linux-$version" "$root/usr/lib/modules/$kernel/source"
}

# make O=DIR modules_install and install, by hand: both links lead to where it was built.
by_hand() {
    install_modules "$root"
    as_debian
    copy_source "$root/usr/src/mine/linux"
    copy_objects "$root/usr/src/mine/objects"
    # As `outputmakefile` of the top Makefile writes it, and prepare0's link.
    printf '# Automatically generated by %s: don'\''t edit\nexport KBUILD_OUTPUT = %s\ninclude %s\n' /usr/src/mine/linux/Makefile \
        /usr/src/mine/objects /usr/src/mine/linux/Makefile >"$root/usr/src/mine/objects/Makefile"
    ln -s /usr/src/mine/linux "$root/usr/src/mine/objects/source"
    ln -fns /usr/src/mine/objects "$root/lib/modules/$kernel/build"
    ln -fns /usr/src/mine/linux "$root/lib/modules/$kernel/source"
}

# Gentoo's: built in place in /usr/src/linux-RELEASE, to which /usr/src/linux leads.
gentoo() {
    install_modules "$root"
    as_debian
    copy_source "$root/usr/src/linux-$kernel"
    copy_objects "$root/usr/src/linux-$kernel"
    ln -s "linux-$kernel" "$root/usr/src/linux"
    ln -fns "/usr/src/linux-$kernel" "$root/lib/modules/$kernel/build"
}

build() {
    local lacks lost kernel version root objects=$work/objects-$tree
    rm -f "$zoo/$name.skipped"
    lacks=$(lacking "$tree")
    if [ -n "$lacks" ]; then
        echo "not installed: $lacks" >"$zoo/$name.skipped"
        return 0
    fi
    unpack_source
    lost=$(configure | xargs)
    if [ -n "$lost" ]; then
        echo "Kconfig did not take $lost with this machine's compiler" >"$zoo/$name.skipped"
        return 0
    fi
    kbuild bzImage modules
    kernel=$(kbuild kernelrelease)
    version=${kernel%-default}
    root=$work/root
    rm -rf "$root"
    mkdir -p "$root"/{boot,usr/{lib,src}}
    "$layout"
    depmod -b "$root" "$kernel"
    # With what the kernel's own modules are signed with; it is in this kernel alone.
    [ ! -e "$objects/certs/signing_key.pem" ] || ! grep -q ^CONFIG_MODULE_SIG=y "$objects/.config" \
        || install -D -m 0600 "$objects/certs/signing_key.pem" "$root/etc/kernel/signing_key.pem"
    echo "$kernel" >"$root/release"
    tar -c --owner=0 --group=0 -C "$root" . | zstd -q -9 -f -o "$zoo/$name.tar.zst.new"
    mv "$zoo/$name.tar.zst.new" "$zoo/$name.tar.zst"
    rm -rf "$root"
}

while IFS=$'\t' read -r name tree layout suffix symbols; do
    [[ $name != \#* ]] || continue
    if [ $# != 0 ]; then [[ " $* " == *" $name "* ]] || continue; fi
    [ ! -e "$zoo/$name.tar.zst" ] || continue
    # In a shell of its own, so that one that does not build leaves the others. Not behind `||`, where it would go on after an error.
    set +e
    (set -e; build) >"$work/$name.log" 2>&1
    status=$?
    set -e
    if [ $status != 0 ]; then
        say "$name: not built: $(tail -n 1 "$work/$name.log")"
        echo "its kernel did not build" >"$zoo/$name.skipped"
    else
        say "$name: $(cat "$zoo/$name.skipped" 2>/dev/null || echo built)"
    fi
done <"$here/kinds.tsv"
[ -n "${ZOO_WORK-}" ] || rm -rf "$work"
