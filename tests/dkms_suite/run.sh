#!/bin/bash
# Runs DKMS's own test suite, run_test.sh of Debian's source package dkms, with kcache as `dkms`, and prints a table: each command
# whose exit code, and each `dkms status` whose lines, are not those that the suite expects, with the reason. Needs root; a quarter
# of an hour. `make test-dkms-suite` runs it.
#
#   tests/dkms_suite/run.sh KCACHE      a kcache binary
#   SUITE_OF=dkms                       DKMS itself instead, to see which expectations hold in this system at all
#   SUITE_LOG=FILE                      keep what the suite printed
#
# The suite runs in a system of Debian 13 that debootstrap creates once (tests/corpus/archive.sh), with the release's own kernel
# laid over it (overlayfs), in a mount namespace of its own: nothing of it reaches this machine or is left. The source package is
# downloaded once, and nothing of it is part of kcache. The suite stops at its first difference; overrides.sh makes it note that
# and go on. Reasons for differences are in reasons.tsv. One without a reason there makes the script fail.
set -euo pipefail
export LC_ALL=C

here=$(dirname "$(realpath "$0")")
cache=${KCACHE_CORPUS:-$HOME/.cache/kcache-corpus}
release=trixie
# Longest that the whole may take, in seconds: it is four times what it needs.
limit=3600
PATH=$PATH:/usr/sbin:/sbin

say() { printf 'dkms suite: %s\n' "$*" >&2; }
[ "$(id -u)" = 0 ] || { say "overlayfs needs root"; exit 1; }
[ "${SUITE_NAMESPACE-}" ] || SUITE_NAMESPACE=1 exec unshare --mount --pid --fork --kill-child --propagation private "$0" "$@"
kcache=$(realpath "$1")

# shellcheck source=/dev/null
. "$here/../corpus/archive.sh"
# The oldest series is the release's own; the others are backports.
[ "${CORPUS_KERNELS-}" ] || CORPUS_KERNELS=$(debs=/nonexistent newest_kernels | tail -n 1)
of_release
# shellcheck disable=SC2154  # of_release sets them
kernel=${kernels[0]}

# Downloads and unpacks the suite, once.
suite=$cache/dkms-source/$release
if [ ! -e "$suite/stamp" ]; then
    say "downloading the source package dkms"
    rm -rf "$suite"
    mkdir -p "$suite/tree"
    (unset APT_CONFIG; with_sources=1 look_at_release; cd "$suite" && apt-get -qq --tar-only --download-only source dkms >&2)
    tar -xf "$suite"/dkms_*.orig.tar.* --strip-components=1 --no-same-owner -C "$suite/tree"
    touch "$suite/stamp"
fi

room=$(mktemp -d /dev/shm/kcache-dkms-suite.XXXXXX)
trap 'umount -lR "$room/merged" 2>/dev/null || true; umount -l "$room" 2>/dev/null || true; rmdir "$room"' EXIT
mount -t tmpfs -o mode=755 suite "$room"
mkdir -p "$room"/{merged,upper,inner,system/usr/{bin,sbin,lib/dkms}}
# shellcheck disable=SC2154
lower=$room/system:$cache/kernels/$release:$base
if [ "${SUITE_OF-}" = dkms ]; then
    # shellcheck disable=SC2034  # for download
    debs=/nonexistent
    dpkg-deb -x "$(download dkms)" "$room/system"
else
    cp "$kcache" "$room/system/usr/bin/kcache"
    ln -s ../bin/kcache "$room/system/usr/sbin/dkms"
    ln -s ../../bin/kcache "$room/system/usr/lib/dkms/common.postinst"
    # The suite has packages with scripts, which run only if the administrator allows it.
    mkdir -p "$room/system/etc/kcache"
    echo 'package-scripts = ["dkms_*"]' >"$room/system/etc/kcache/config.toml"
fi
[ -e "$base/usr/bin/gcc" ] || ln -s "$(basename "$(find "$base/usr/bin" -name 'gcc-[0-9]*' | sort | tail -n 1)")" "$room/system/usr/bin/gcc"
mount -t overlay suite -o "lowerdir=$lower,upperdir=$room/upper,workdir=$room/inner" "$room/merged"
mount -t proc proc "$room/merged/proc"
mount --rbind /dev "$room/merged/dev"
mount -t sysfs sysfs "$room/merged/sys"
mount -t tmpfs tmpfs "$room/merged/tmp"
mkdir -p "$room/merged/etc/dkms/framework.conf.d" "$room/merged/var/lib/dkms" "$room/merged/root/suite"
cp -a "$suite/tree/." "$room/merged/root/suite/"
cp "$here/overrides.sh" "$room/merged/root/overrides.sh"
# After the suite's own functions, before its first test.
sed -i 's|^mod_compression_ext=$|. /root/overrides.sh; &|' "$room/merged/root/suite/run_test.sh"
grep -q overrides.sh "$room/merged/root/suite/run_test.sh" || { say "this run_test.sh has another form: mend overrides.sh"; exit 1; }

log=${SUITE_LOG:-$room/log}
say "running $(grep -cE '^ *run_with_expected' "$suite/tree/run_test.sh") commands for $kernel"
[ -d "$room/merged/lib/modules/$kernel" ] || { say "there is no kernel $kernel"; exit 1; }
chroot "$room/merged" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C KERNEL_VER="$kernel" \
    timeout --kill-after=10 "$limit" bash /root/suite/run_test.sh </dev/null >"$log" 2>&1 || say "the suite ended with $?"
grep -qF '*** All tests successful' "$log" || { say "the suite did not come to its end: $(tail -n 3 "$log")"; exit 1; }
"$here/table.py" "$here/reasons.tsv" "$kernel" <"$log"
