#!/bin/bash
# Times the most common packages, one by one, for a new kernel: Debian's dkms, kcache with an empty store, kcache with a hit, and a second
# host that fetches over HTTP. Needs root and ten minutes. Prints a line for each measurement: its name, and seconds.
#
#   benches/large.sh KCACHE
#
# dkms installs one package as its own maintainer script does (`dkms install`). The second host has an empty store and compiles
# nothing; the cache is served by python3's http.server on a port of the loopback interface.
set -euo pipefail
# shellcheck source=/dev/null
. "$KCACHE_FIXTURES/env"
kernels=("$K61_NEW")
# shellcheck source=benches/in_room.sh
. "$(dirname "$0")/in_room.sh"
kernel=$K61_NEW port=18973

prepare zfs-dkms nvidia-kernel-dkms
within builder bash -c 'mkdir -p /etc/kcache /srv/cache && kcache -q keys generate --name builder
    printf "[[cache]]\nurl = \"file:///srv/cache\"\nwrite = true\n" >/etc/kcache/config.toml' >&2
mkdir -p "$room/second/etc/kcache/trusted-keys"
cp "$room"/builder/etc/kcache/trusted-keys/* "$room/second/etc/kcache/trusted-keys/"
printf '[[cache]]\nurl = "http://127.0.0.1:%s/"\n' "$port" >"$room/second/etc/kcache/config.toml"
for package in zfs nvidia-current; do
    version=$(cd "$room/packages/usr/src" && ls -d "$package"-[0-9]* | sed "s/^$package-//")
    timed "dkms-$package" dkms 1 : "dkms install $package/$version -k $kernel"
    timed "miss-$package" builder 1 : "kcache install $package -k $kernel"
    timed "hit-$package" builder 3 "kcache remove $package -k $kernel" "kcache install $package -k $kernel"
    # What no installation can do without: the same bytes written and synced.
    timed "copy-$package" builder 3 'rm -rf /var/copy; mkdir /var/copy' \
        "for module in /lib/modules/$kernel/updates/kcache-*/$package/*.ko; do dd if=\$module of=/var/copy/\${module##*/} bs=1M conv=fsync; done"
    python3 -m http.server --bind 127.0.0.1 --directory "$room/builder/srv/cache" "$port" >/dev/null 2>&1 &
    server=$!
    timed "fetch-$package" second 3 "kcache remove $package -k $kernel; rm -rf /var/cache/kcache" "kcache install $package -k $kernel"
    within second grep -q fetched "/var/said-fetch-$package" || { say "the second host did not fetch $package"; kill "$server"; exit 1; }
    kill "$server"
    wait "$server" || true
done
