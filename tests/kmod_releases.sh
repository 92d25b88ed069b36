#!/bin/bash
# Compares the indexes that kcache makes without depmod with those of depmod of every release of kmod whose output kcache knows.
#
#   tests/kmod_releases.sh [VERSION...]      all of them; needs git, gcc, and the headers of liblzma and libzstd
#
# The releases come from kmod's git repository, or from a copy of it: KMOD_GIT=DIR. Each depmod is compiled in a temporary directory, for
# the comparison only: by hand, because half of the releases have a build system that the other half no longer has.
set -euo pipefail

cd "$(dirname "$0")/.."
known=$(sed -n 's/^    ("\([0-9.]*\)", .*/\1/p' kernel/src/index/kmod.rs)
[ $# -gt 0 ] || mapfile -t all <<<"$known"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone --quiet --bare "${KMOD_GIT:-https://github.com/kmod-project/kmod}" "$work/git"

# What the build systems would find out about a system with glibc.
configuration() {
    printf '#define %s\n' '_GNU_SOURCE 1' 'PACKAGE "kmod"' "VERSION \"$1\"" 'KMOD_FEATURES "+ZSTD +XZ -ZLIB -LIBCRYPTO"' \
        'SYSCONFDIR "/etc"' 'ROOTPREFIX ""' 'DISTCONFDIR "/usr/lib"' 'MODULE_DIRECTORY "/lib/modules"' \
        'ENABLE_ZSTD 1' 'ENABLE_XZ 1' 'ENABLE_LOGGING 1' 'HAVE___XSTAT 0' 'HAVE_DECL___GETTID 0'
    # Since 34 their values are asked for, before that whether there are any.
    [ "${1%%.*}" -lt 34 ] || printf '#define ENABLE_%s 0\n' ZLIB OPENSSL DEBUG ELFDBG {ZSTD,XZ,ZLIB}_DLOPEN
    printf '#define HAVE_%s 1\n' DECL_STRNDUPA SECURE_GETENV STRUCT_STAT_ST_MTIM DECL_BE32TOH DECL_BASENAME BASENAME \
        FOPEN64 STAT64 FSTAT64 OPEN64 LSTAT64 NORETURN STATIC_ASSERT \
        __BUILTIN_{CLZ,TYPES_COMPATIBLE_P,UADDLL_OVERFLOW,UADD_OVERFLOW,UADDL_OVERFLOW,UMUL_OVERFLOW,UMULL_OVERFLOW,UMULLL_OVERFLOW}
    printf '#include <%s.h>\n' stdio stdnoreturn
}

compile() {
    local into=$work/$1
    mkdir "$into"
    git -C "$work/git" archive "v$1" | tar -x -C "$into"
    configuration "$1" >"$into/config.h"
    cat >"$into/main.c" <<-'END'
	#include <stddef.h>
	#include "tools/kmod.h"
	extern const struct kmod_cmd kmod_cmd_compat_depmod;
	int main(int count, char **words) { return kmod_cmd_compat_depmod.cmd(count, words); }
	END
    (
        cd "$into"
        rm -f libkmod/*-zlib.c
        gcc -O1 -w -include config.h -I. -o depmod main.c tools/depmod.c tools/log.c shared/*.c libkmod/*.c -lzstd -llzma
    )
}

failed=0
for version in "${@:-${all[@]}}"; do
    compile "$version"
    printf 'kmod %s: ' "$version"
    if DEPMOD=$work/$version/depmod ${CARGO:-cargo} test --quiet --locked -p kcache-kernel --lib -- index >"$work/log" 2>&1; then
        sed -n 's/^test result: //p' "$work/log"
    else
        failed=1
        echo FAILED
        cat "$work/log"
    fi
done
exit "$failed"
