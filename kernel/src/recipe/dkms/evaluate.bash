# Evaluates dkms.conf and the administrator's overrides, decides with bash what only bash can decide (regular expressions),
# and prints the result as names and values, each ended by NUL. Set before: the variables that recipes may use, conf, and given.

directives=(CLEAN AUTOINSTALL NO_WEAK_MODULES PACKAGE_NAME PACKAGE_VERSION OBSOLETE_BY
    POST_ADD POST_BUILD POST_INSTALL POST_REMOVE PRE_BUILD PRE_INSTALL
    BUILD_DEPENDS BUILD_DEPENDS_REBUILD BUILD_EXCLUSIVE_KERNEL BUILD_EXCLUSIVE_KERNEL_MIN BUILD_EXCLUSIVE_KERNEL_MAX
    BUILD_EXCLUSIVE_ARCH BUILD_EXCLUSIVE_CONFIG MAKE MAKE_MATCH PATCH PATCH_MATCH STRIP
    BUILT_MODULE_NAME BUILT_MODULE_LOCATION DEST_MODULE_NAME DEST_MODULE_LOCATION
    REMAKE_INITRD MODULES_CONF MODULES_CONF_OBSOLETES MODULES_CONF_ALIAS_TYPE MODULES_CONF_OBSOLETE_ONLY)

# Prints the directives as assignments, in the shell that has read a file. What the file leaves behind does not count:
# options, traps, functions with the names of builtins, IFS. In POSIX mode, `set`, `trap` and `unset` are never functions.
# `exit` in a file ends up here too; with a status other than 0, it refuses to be read.
_kcache_give() {
    POSIXLY_CORRECT=1
    set +euxC -f
    trap - EXIT ERR DEBUG RETURN
    unset -f declare echo shopt
    unset POSIXLY_CORRECT
    shopt -u xpg_echo
    IFS=$' \t\n'
    if [[ $1 != read ]]; then
        [[ $1 == 0 ]] || return "$1"
        echo _kcache_exited=1 >>"$_kcache_out"
    fi
    for _kcache_name in "${_kcache_directives[@]}"; do
        declare -n _kcache_array=$_kcache_name
        for _kcache_i in "${!_kcache_array[@]}"; do
            echo "$_kcache_name[$_kcache_i]=\""${_kcache_array[_kcache_i]}\"
        done >>"$_kcache_out"
        unset -n _kcache_array
    done
    return 0
}

take() {
    bash -n "$1" || exit 65
    local out=/tmp/.kcache-directives
    >$out
    (
        _kcache_directives=("${directives[@]}") _kcache_out=$out
        trap '_kcache_give $?' EXIT
        . "$1"
        _kcache_give read
    ) >/dev/null || {
        echo "$1: it ends itself with status $?"
        exit 1
    }
    . $out
}

record() { printf '%s\0' "$@"; }
note() { record note "$1"; }

# Notes about elements that DKMS ignores, because it iterates from 0 to the number of elements.
beyond_a_hole() {
    declare -n array=$1
    local index
    for index in "${!array[@]}"; do
        ((index < ${#array[@]})) || note "$1[$index] is never used, as in DKMS: an element before it is missing"
    done
}

# The conditions on a kernel in the directives' elements with this index.
limits() {
    local kernel=${BUILD_EXCLUSIVE_KERNEL[$1]} arch_is=${BUILD_EXCLUSIVE_ARCH[$1]}
    [[ $kernel && ! $kernelver =~ $kernel ]] && record excluded "BUILD_EXCLUSIVE_KERNEL$2 is $kernel"
    [[ $arch_is && ! $arch =~ $arch_is ]] && record excluded "BUILD_EXCLUSIVE_ARCH$2 is $arch_is"
    record min "${BUILD_EXCLUSIVE_KERNEL_MIN[$1]}" max "${BUILD_EXCLUSIVE_KERNEL_MAX[$1]}"
    record config "${BUILD_EXCLUSIVE_CONFIG[$1]}"
}

take "$conf"
for _file in "$module" "$module-$module_version" "$module-$module_version-$kernelver" \
        "$module-$module_version-$kernelver-$arch" "$module--$kernelver" "$module--$kernelver-$arch"; do
    [[ -e /etc/dkms/$_file.conf ]] && take "/etc/dkms/$_file.conf"
done
for _given in "${given[@]}"; do
    _name=${_given%%=*}
    if [[ ! $_name =~ ^([A-Z_]+)(\[[0-9]+\])?$ || " ${directives[*]} " != *" ${BASH_REMATCH[1]} "* ]]; then
        echo "unknown directive $_name"
        exit 1
    fi
    printf -v "$_name" %s "${_given#*=}"
done

make_command=
[[ ${MAKE_MATCH[0]} ]] || make_command=${MAKE[0]}
for ((i = 0; i < ${#MAKE[@]}; i++)); do
    [[ ${MAKE[i]} && ${MAKE_MATCH[i]} && $kernelver =~ ${MAKE_MATCH[i]} ]] && make_command=${MAKE[i]}
done

printf '\0kcache answers\0'
record name "$PACKAGE_NAME" version "$PACKAGE_VERSION" make "$make_command" clean "$CLEAN"
record pre_build "$PRE_BUILD" post_build "$POST_BUILD" automatic "$AUTOINSTALL" obsolete_by "$OBSOLETE_BY"
record pre_install "$PRE_INSTALL" post_install "$POST_INSTALL" post_add "$POST_ADD" post_remove "$POST_REMOVE"
for package in "${BUILD_DEPENDS[@]}"; do record depends "$package"; done
for ((i = 0; i < ${#PATCH[@]}; i++)); do
    [[ ${PATCH[i]} && ( ! ${PATCH_MATCH[i]} || $kernelver =~ ${PATCH_MATCH[i]} ) ]] && record patch "${PATCH[i]}"
done
beyond_a_hole MAKE
beyond_a_hole PATCH
for name in REMAKE_INITRD MODULES_CONF MODULES_CONF_OBSOLETES MODULES_CONF_ALIAS_TYPE MODULES_CONF_OBSOLETE_ONLY; do
    declare -n array=$name
    ((${#array[@]})) && note "$name is deprecated and does nothing"
    unset -n array
done
[[ $_kcache_exited ]] && note "it calls \`exit\`, after which DKMS itself reads nothing of it"
[[ $NO_WEAK_MODULES ]] && note "NO_WEAK_MODULES has no effect: kcache makes no weak modules"
[[ $BUILD_DEPENDS_REBUILD ]] && note "BUILD_DEPENDS_REBUILD has no effect: what is built against counts always"
[[ $CLEAN && ! $CLEAN =~ ^(/usr)?(/bin/)?true$ ]] && note "CLEAN is deprecated in DKMS 3; it is run before the build"
[[ $OBSOLETE_BY ]] && note "OBSOLETE_BY is deprecated; BUILD_EXCLUSIVE_KERNEL_MAX takes its place"

limits 0
size=0
for count in ${#BUILT_MODULE_NAME[@]} ${#BUILT_MODULE_LOCATION[@]} ${#DEST_MODULE_NAME[@]} ${#DEST_MODULE_LOCATION[@]}; do
    ((count > size)) && size=$count
done
for ((i = 0; i < size; i++)); do
    built=${BUILT_MODULE_NAME[i]}
    [[ ! $built ]] && ((${#DEST_MODULE_LOCATION[@]} == 1)) && built=$PACKAGE_NAME
    record module "$i" built "$built" location "${BUILT_MODULE_LOCATION[i]}" dest "${DEST_MODULE_NAME[i]:-$built}"
    record dest_location "${DEST_MODULE_LOCATION[i]}" strip "${STRIP[i]:-${STRIP[0]:-yes}}"
    limits "$i" "[$i]"
done
exit 0
