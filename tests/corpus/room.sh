# shellcheck shell=bash
# A system to build in: this machine's own, or another, with kernels, dkms, kcache and packages laid over it (overlayfs). For
# scripts that run in a mount namespace of their own. They set these variables:
#
#   $base        the system below
#   $unpacked    holds the kernels, unpacked: lib/modules/*, usr/src/*, usr/lib/linux-kbuild-*, boot/*
#   $room        an empty file system
#   $kernels     an array of releases
#   $dkms        Debian's package of dkms
#   $kcache      the program
#   $store       if set, kcache's store, instead of one in the layer of its own

# make_room PART...: of each kernel's tree these parts, its headers, configuration and image.
make_room() {
    local kernel part common
    mkdir -p "$room"/{merged,system/boot,system/usr/{src,bin,lib/modules}}
    dpkg-deb -x "$dkms" "$room/system"
    cp "$kcache" "$room/system/usr/bin/kcache"
    # dkms depends on it; Makefiles that name no version call it.
    [ -e "$base/usr/bin/gcc" ] || ln -s "$(basename "$(find "$base/usr/bin" -name 'gcc-[0-9]*' | sort | tail -n 1)")" "$room/system/usr/bin/gcc"
    for kernel in "${kernels[@]}"; do
        mkdir -p "$room/system/usr/lib/modules/$kernel"
        # Where its packages put them: in /boot, or, since Debian's 7.x, in its own directory.
        for part in config vmlinuz; do
            if [ -e "$unpacked/boot/$part-$kernel" ]; then
                cp -a "$unpacked/boot/$part-$kernel" "$room/system/boot/"
            else
                cp -a "$unpacked/lib/modules/$kernel/$part" "$room/system/usr/lib/modules/$kernel/"
            fi
        done
        for part in "$@"; do cp -a "$unpacked/lib/modules/$kernel/$part" "$room/system/usr/lib/modules/$kernel/"; done
        common=$(sed -n 's|^include /usr/src/\(.*\)/Makefile$|\1|p' "$unpacked/usr/src/linux-headers-$kernel/Makefile")
        cp -a "$unpacked/usr/src/linux-headers-$kernel" "$room/system/usr/src/"
        [ -e "$room/system/usr/src/$common" ] || cp -a "$unpacked/usr/src/$common" "$room/system/usr/src/"
    done
    cp -a "$unpacked"/usr/lib/linux-kbuild-* "$room/system/usr/lib/"
}

# unpack_source DEB DIR: a package's source, to be laid over the system.
unpack_source() {
    rm -rf "$room/deb"
    dpkg-deb -x "$1" "$room/deb"
    mkdir -p "$2/usr/src"
    cp -a "$room/deb/usr/src/." "$2/usr/src/" # a package's own /lib would hide the link that / has there
}

# inside UPPER PACKAGES COMMAND...: runs a command in the system; UPPER is what it and those before it wrote.
inside() {
    local upper=$1 packages=$2 status=0
    shift 2
    rm -rf "$room/inner"
    mkdir -p "$upper" "$room/inner"
    mount -t overlay corpus -o "lowerdir=$packages:$room/system:$base,upperdir=$upper,workdir=$room/inner" "$room/merged"
    mount -t proc proc "$room/merged/proc"
    mount --rbind /dev "$room/merged/dev"
    mount -t tmpfs tmpfs "$room/merged/tmp"
    mkdir -p "$room/merged/var/lib/dkms" "$room/merged/var/cache/kcache"
    [ -z "${store-}" ] || mount --bind "$store" "$room/merged/var/cache/kcache"
    chroot "$room/merged" "$@" || status=$?
    # What it ended may still be on its way out.
    for _ in {1..50}; do umount --recursive "$room/merged" 2>/dev/null && break; sleep 0.1; done
    ! mountpoint -q "$room/merged" || return 1
    return "$status"
}
