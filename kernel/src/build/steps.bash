# Functions for the steps of a recipe. Set before: the variables that recipes may use.

# As DKMS, for ./configure and for Makefiles other than the kernel's: the compiler that the kernel names.
config=$kernel_source_dir/.config strip=strip objcopy=objcopy readelf=readelf
CC=$(sed -n 's/^CONFIG_CC_VERSION_TEXT="\{0,1\}\([^" ]*\).*/\1/p' "$config" 2>/dev/null)
if grep -q '^CONFIG_CC_IS_CLANG=y' "$config" 2>/dev/null; then
    CC=clang strip=llvm-strip objcopy=llvm-objcopy readelf=llvm-readelf
    export LLVM=1
    grep -q '^CONFIG_LD_IS_LLD=y' "$config" && export LD=ld.lld KERNEL_LD=ld.lld
fi
if type -P "$CC" >/dev/null; then export CC KERNEL_CC=$CC; else unset CC; fi
unset config

# The administrator's patches are added to the package's, or replace them.
if [[ -d /etc/dkms/$module/patches ]]; then
    mkdir -p patches
    cp -dR --remove-destination "/etc/dkms/$module/patches/." patches || exit
fi

# Results for other packages; DKMS fills the directory before POST_BUILD runs.
kept=$dkms_tree/$module/$module_version/$kernelver/$arch
kept_debug=$dkms_tree/$module/$module_version/debug

say() { printf 'kcache: $ %s\n' "$1"; }
run() {
    say "$1"
    ( eval "$1" ) || { status=$?; printf 'kcache: failed with status %d\n' $status; exit $status; }
}
apply() {
    [[ -e $1 ]] || { say "patch -p1 < $1"; echo "$1: no such patch"; exit 1; }
    run "patch -p1 --no-backup-if-mismatch < '$1'"
}
clean() {
    say "$1"
    ( eval "$1" ) || printf 'kcache: warning: cleaning ended with status %d\n' $?
}
# Runs a script of the package, or the administrator's of the same name. If it fails, as a ./configure does that does not
# support the kernel, nothing after it is run, as in DKMS since 3.1.
hook() {
    local directory=$PWD command
    [[ -x /etc/dkms/$module/${1%% *} ]] && directory=/etc/dkms/$module
    command=$directory/$1
    say "$1"
    if [[ -x ${command%% *} ]]; then
        ( cd "$directory" && exec $command ) || { status=$?; printf 'kcache: failed with status %d\n' $status; exit $status; }
    else
        printf 'kcache: warning: %s is not executable and was skipped\n' "${1%% *}"
    fi
}
# Attempts: whether one is still wanted, and if so the source for it, as it was before any other, without modules in it.
fresh() {
    [[ -z ${attempt_built-} ]] || return 1
    if [[ -n ${attempt_made-} ]]; then
        printf 'kcache: trying another command\n'
        find . -mindepth 1 -delete && cp -dR --preserve=mode,timestamps "$source_tree/$module-$module_version/." . || exit
    fi
    attempt_made=1
    find . -type f -name '*.ko' -delete
}
attempt() {
    local status=0
    say "$1"
    ( eval "$1" ) || status=$?
    if (( status )); then
        : "${attempt_failed:=$status}"
        printf 'kcache: failed with status %d\n' "$status"
    elif [[ -n $(find . -type f -name '*.ko' -print -quit) ]]; then
        attempt_built=1
    else
        printf 'kcache: built no module\n'
    fi
}
# If none has built a module, the build ends as the first failed one did.
attempted() { [[ -n ${attempt_built-} ]] || exit "${attempt_failed:-0}"; }
# A file that strip cannot read is not a module; the later checks report it in detail.
strip_all() {
    local ko
    while IFS= read -rd '' ko; do strip_one "$ko" "${ko##*/}"; done < <(find . -type f -name '*.ko' -print0)
}
strip_one() {
    local sections
    [[ -s $1 ]] || return 0
    sections=$("$readelf" -SW "$1" 2>/dev/null)
    if [[ $sections == *' .debug_info '* ]]; then
        split_debug "$1" "$kept_debug/$2.debug" && return
        printf 'kcache: warning: %s: its debug information is lost\n' "$2"
    elif [[ $sections == *' .gnu_debuglink '* ]]; then
        return 0 # split by an earlier step, or by the package itself
    fi
    "$strip" -g "$1" || :
}
# Moves debug information to a file of its own, whose name and CRC the module contains. The linker has already hashed it
# into the build-id, so the module's bytes depend on nothing new.
split_debug() {
    rm -f "$2"
    "$objcopy" --only-keep-debug "$1" "$2" && "$strip" -g "$1" && "$objcopy" --add-gnu-debuglink="$2" "$1" && return
    rm -f "$2"
    return 1
}
keep_symvers() {
    mkdir -p "$kept/module"
    [[ ! -s Module.symvers ]] || cp Module.symvers "$kept/module/" || exit
}
# For a tree whose kernel part is a directory in it.
keep_symvers_below() {
    local found
    mapfile -d '' found < <(find . -type f -name Module.symvers -size +0 -print0)
    mkdir -p "$kept/module"
    (( ${#found[@]} != 1 )) || cp "${found[0]}" "$kept/module/" || exit
}
# Copies a module under the name it is installed by, unless it is a link, below a link that leads out, or set-user-id.
keep() {
    [[ ! -f $1 || -L $1 || -u $1 || -g $1 || $(readlink -f "$1") != "$PWD"/* ]] || cp "$1" "$kept/module/$2" || exit
}
