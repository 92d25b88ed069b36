#!/bin/bash
# Runs a command on this machine as if the fixtures' kernels were installed on it: in /lib/modules, with headers in /usr/src and images
# in /boot. What it writes there goes to memory, in a mount namespace of its own. For the tests, which must pass on hosts with kernels
# of their own and on those without; root.
#
#   tests/with_kernels.sh COMMAND...
set -euo pipefail

fixtures=$(realpath "${KCACHE_FIXTURES:-$HOME/.cache/kcache-fixtures}/root")
[ "$(id -u)" = 0 ] || { echo "with_kernels.sh: overlayfs needs root" >&2; exit 1; }
[ "${WITH_KERNELS-}" ] || WITH_KERNELS=1 exec unshare --mount --propagation private "$0" "$@"

layers=/mnt
mount -t tmpfs kernels "$layers"
mkdir "$layers"/{usr,usr-work,modules,modules-work}
mount -t overlay kernels -o "lowerdir=$fixtures/usr:/usr,upperdir=$layers/usr,workdir=$layers/usr-work" /usr
mkdir -p /usr/lib/modules
mount -t overlay kernels -o "lowerdir=$fixtures/lib/modules:/usr/lib/modules,upperdir=$layers/modules,workdir=$layers/modules-work" /usr/lib/modules
mount --bind "$fixtures/boot" /boot
mount -o remount,bind,ro /boot
for kernel in /usr/lib/modules/*; do depmod "${kernel##*/}"; done
exec "$@"
