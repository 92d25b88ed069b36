//! kcache inside of another system, in a chroot whose `/` is no mount point: as in the scripts of image builders.

use fs_err as fs;

use crate::host::{Host, PATH, Run};

/// Makes a host's root a system that can be entered, with this machine's programs and libraries, and runs kcache in it.
const ENTER: &str = r#"set -e; cd "$1"; shift
    for made in proc dev tmp run etc store; do mkdir -p $made; done
    cp -a /etc/passwd /etc/group /etc/ld.so.cache etc/; [ ! -d /etc/alternatives ] || cp -a /etc/alternatives etc/
    for dir in /bin /sbin /lib64 /lib/*-linux-gnu; do mkdir -p ".$dir"; mount --bind "$dir" ".$dir"; done
    mount -t overlay overlay -o "lowerdir=$PWD/usr:/usr" usr
    mount -t proc proc proc; mount --rbind /dev dev; mount -t tmpfs tmpfs tmp
    exec chroot . /kcache --store /store "$@""#;

/// Runs kcache in a chroot to the host's root; for root only.
pub fn kcache(host: &Host, arguments: &[&str]) -> Run {
    fs::copy(env!("CARGO_BIN_EXE_kcache"), host.root().join("kcache")).unwrap();
    let root = host.root().display().to_string();
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "--propagation", "private", "bash", "-c", ENTER, "bash", &root]).args(arguments);
    Run::from(command.env_clear().env("PATH", PATH).env("TMPDIR", "/tmp").output().unwrap())
}
