//! kcache inside of another system, in a chroot whose `/` is no mount point: as in the scripts of image builders.

use std::process::Command;

use fs_err as fs;

use crate::host::{FIXTURES, Host, PATH, Run, is_root, run};
use crate::packages::hello;

fn k() -> &'static str {
    &FIXTURES.new
}

/// Makes a host's root a system that can be entered, with this machine's programs and libraries, and runs kcache in it.
const ENTER: &str = r#"set -e; cd "$1"
    for made in proc dev tmp run etc store; do mkdir -p $made; done
    cp -a /etc/passwd /etc/group /etc/ld.so.cache etc/; [ ! -d /etc/alternatives ] || cp -a /etc/alternatives etc/
    for dir in /bin /sbin /lib64 /lib/*-linux-gnu; do mkdir -p ".$dir"; mount --bind "$dir" ".$dir"; done
    mount -t overlay overlay -o "lowerdir=$PWD/usr:/usr" usr
    mount -t proc proc proc; mount --rbind /dev dev; mount -t tmpfs tmpfs tmp
"#;

/// Runs kcache in a chroot to the host's root; for root only.
pub fn kcache(host: &Host, arguments: &[&str]) -> Run {
    enter(host, "exec /kcache --store /store \"$0\" \"$@\"", arguments)
}

/// Runs a script in the chroot.
pub fn enter(host: &Host, script: &str, arguments: &[&str]) -> Run {
    outside(
        host,
        "root=$1 script=$2; shift 2; exec chroot \"$root\" sh -c \"$script\" \"$@\"",
        &[&[script], arguments].concat(),
    )
}

/// Runs a script that gets the root as its first argument, in a mount namespace in which it can be entered.
fn outside(host: &Host, script: &str, arguments: &[&str]) -> Run {
    fs::copy(env!("CARGO_BIN_EXE_kcache"), host.root().join("kcache")).unwrap();
    let root = host.root().display().to_string();
    let mut command = Command::new("unshare");
    command.args([
        "-m",
        "--propagation",
        "private",
        "bash",
        "-c",
        &format!("{ENTER}{script}"),
        "bash",
        &root,
    ]);
    Run::from(command.args(arguments).env_clear().env("PATH", PATH).env("TMPDIR", "/tmp").output().unwrap())
}

#[test]
fn in_a_plain_chroot_packages_are_built_and_installed() {
    if !is_root() {
        return; // entering another root needs root
    }
    let host = Host::new(&[k()]);
    hello(&host, "");
    kcache(&host, &["install", "-k", k()]).exits(0).prints(&["hello/1.0  installed  built in"]);
    kcache(&host, &["check", "-k", k()]).exits(0).prints(&["hello/1.0  ready"]);
    // The mount was kcache's own, and the working directory is the caller's.
    assert!(!host.root().join("usr/usr").exists());
    let source = host.root().join("usr/src/hello-1.0");
    fs::create_dir(host.root().join("work")).unwrap();
    run(Command::new("cp").arg("-r").arg(source).arg(host.root().join("work/hello")));
    enter(&host, "cd /work && exec /kcache --store /store explain hello -k \"$0\"", &[k()])
        .exits(0)
        .prints(&["hello/1.0"]);
}

#[test]
fn mounts_of_a_plain_chroot_stay_in_kcaches_own_namespace() {
    if !is_root() {
        return; // entering another root needs root
    }
    let host = Host::new(&[k()]);
    hello(&host, "");
    // On a machine whose mounts are shared, as systemd has them.
    let script = "mount --make-rshared / && before=$(wc -l </proc/self/mountinfo) && \
        chroot \"$1\" /kcache --store /store explain hello -k \"$2\" >/dev/null && test \"$before\" = \"$(wc -l </proc/self/mountinfo)\"";
    outside(&host, script, &[k()]).exits(0);
}

#[test]
fn another_root_is_built_for_in_a_chroot() {
    if !is_root() {
        return; // entering another root needs root
    }
    let host = Host::new(&[k()]);
    hello(&host, "");
    // Where this machine has the tree must not be seen from inside.
    let script = "umount -l dev/shm; mount --rbind \"$1\" \"$1\"; cd \"$1\"; mkdir inner; mount --rbind . inner; \
        exec chroot . /kcache --root /inner --store /store build -k \"$2\"";
    outside(&host, script, &[k()]).exits(0).prints(&["hello/1.0  built"]);
}
