//! Packages' scripts for the system they are installed on: not run, unless the administrator says so.

use crate::host::{FIXTURES, Host, is_root, run};
use crate::packages::{script, with_makefile};
use fs_err as fs;
use std::path::Path;
use std::process::Command;

const CONF: &str =
    "POST_INSTALL=\"after.sh $kernelver  x\"\nPRE_INSTALL=\"before.sh\"\nPOST_REMOVE=\"gone.sh\"\n";

/// A host with a package that has scripts, and with what a script needs to run in a chroot.
fn host() -> Host {
    let host = Host::new(&[&FIXTURES.new]);
    let source = with_makefile(&host, "hello", "x", "obj-m := hello.o\n", CONF);
    script(&source, "before.sh", "[[ ! -e /refuse ]] && echo before >>/said");
    script(&source, "after.sh", "echo after $# $1 $(<data) >>/said; exit 7");
    script(&source, "gone.sh", "echo gone >>/said");
    fs::write(source.join("data"), "read").unwrap();
    host
}

/// bash, and the libraries that it is linked with.
fn add_bash(host: &Host) {
    add_program(host, "bash");
}

/// A program where this machine has it, and the libraries that it is linked with.
fn add_program(host: &Host, name: &str) {
    let place = |dir: &&str| Path::new(dir).join(name).is_file();
    let program =
        format!("{}/{name}", ["/bin", "/usr/bin", "/usr/sbin"].iter().find(|dir| place(dir)).unwrap());
    let ldd = Command::new("ldd").arg(&program).output().unwrap();
    let text = String::from_utf8(ldd.stdout).unwrap();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for file in [program.as_str()].into_iter().chain(libraries) {
        let to = host.root().join(file.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        run(Command::new("cp").arg(file).arg(to));
    }
}

fn allow(host: &Host) {
    host.write_config("package-scripts = [\"hel*\"]\n");
}

fn said(host: &Host) -> String {
    fs::read_to_string(host.root().join("said")).unwrap_or_default()
}

#[test]
fn scripts_for_the_system_are_not_run_and_one_line_reports_it() {
    let host = host();
    let run = host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(0);
    let lines: Vec<&str> = run.stderr.lines().filter(|line| line.contains("PRE_INSTALL")).collect();
    assert_eq!(lines.len(), 1, "{}", run.shown());
    assert!(
        lines[0].contains("POST_INSTALL") && lines[0].contains("package-scripts = [\"hello\"]"),
        "{}",
        lines[0]
    );
    // Nothing was changed, so there was nothing to run.
    let again = host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(0);
    assert!(!again.stderr.contains("PRE_INSTALL"), "{}", again.shown());
    assert_eq!(said(&host), "");
}

#[test]
fn scripts_that_are_allowed_run_in_the_system_that_is_worked_on() {
    if !is_root() {
        return;
    }
    let host = host();
    add_bash(&host);
    allow(&host);
    let install = host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(0);
    install.says(&["warning: hello/1.0", "POST_INSTALL script (after.sh", "ended with status 7"]);
    assert_eq!(said(&host), format!("before\nafter 2 {} read\n", FIXTURES.new));
    host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(0);
    host.kcache(&["remove", "hello", "-k", &FIXTURES.new]).exits(0);
    assert!(said(&host).ends_with("read\ngone\n"), "{}", said(&host));
    assert!(!Path::new("/said").exists());
    assert_eq!(fs::read_dir(host.store().join("tmp")).unwrap().count(), 0, "copies of the source are gone");
}

/// What the script of an image tries: each line says what it could do.
const TRIES: &str = "
exec >>/said
id -u
grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status
mknod /node b 8 0 2>/dev/null && echo mknod
(mount -t tmpfs none /mnt) 2>/dev/null && echo mount
rm -rf /run/mount
for file in /proc/sys/kernel/{hostname,core_pattern,printk} /proc/sysrq-trigger; do (: >>$file) 2>/dev/null && echo $file; done
[[ -e $SECRET || -e /oldroot || -e /newroot ]] && echo host files
[[ -e /run/host.sock ]] && echo sockets
ls /sys /run
for pid in /proc/[0-9]*; do tr '\\0' ' ' <$pid/cmdline; done | grep -c kcache-tests-[n]eighbour
chroot /proc/1/root true 2>/dev/null && echo chroot
echo written >/etc/made; stat -c %u /etc/made
";

#[test]
fn a_script_under_another_root_can_write_that_root_and_nothing_else() {
    if !is_root() {
        return;
    }
    let host = host();
    add_bash(&host);
    for program in ["id", "grep", "mknod", "mount", "ls", "rm", "tr", "chroot", "stat"] {
        add_program(&host, program);
    }
    let secret = host.dir().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::create_dir_all(host.root().join("run")).unwrap();
    fs::create_dir_all(host.root().join("etc")).unwrap();
    fs::write(host.root().join("run/host.sock"), "").unwrap();
    let source = host.root().join("usr/src/hello-1.0");
    script(&source, "after.sh", &TRIES.replace("$SECRET", secret.to_str().unwrap()));
    allow(&host);
    let mut neighbour =
        Command::new("bash").args(["-c", "exec -a kcache-tests-neighbour sleep 600"]).spawn().unwrap();
    let run = host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(0);
    neighbour.kill().unwrap();
    neighbour.wait().unwrap();
    // CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, of a namespace of its own.
    let expect =
        "before\n0\nCapEff:\t000000000000001b\nNoNewPrivs:\t1\nSeccomp:\t2\n/run:\nkcache\n\n/sys:\n0\n0\n";
    assert_eq!(said(&host), expect, "{}", run.shown());
    assert_eq!(fs::read_to_string(host.root().join("etc/made")).unwrap(), "written\n");
}

#[test]
fn a_script_under_another_root_has_no_descriptor_of_the_callers() {
    if !is_root() {
        return;
    }
    let host = host();
    add_bash(&host);
    let source = host.root().join("usr/src/hello-1.0");
    script(&source, "after.sh", "echo after >>/said; for fd in /proc/self/fd/*; do echo >$fd/written; done");
    allow(&host);
    let outside = host.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    let caller = format!("exec 9<{} && exec \"$@\"", outside.display());
    let run = host.kcache_under(&["bash", "-c", &caller, "bash"], &["install", "hello", "-k", &FIXTURES.new]);
    assert_eq!(said(&host), "before\nafter\n", "{}", run.shown());
    assert!(!outside.join("written").exists(), "written outside the root");
}

#[test]
fn an_image_does_not_allow_its_own_scripts() {
    let host = host();
    add_bash(&host);
    allow(&host);
    let mut command = host.image(&["install", "hello", "-k", &FIXTURES.new]);
    let run = crate::host::Run::from(command.output().unwrap()).exits(0);
    run.says(&[
        "etc/kcache: ignored settings: package-scripts",
        "PRE_INSTALL, POST_INSTALL",
        "are not run",
        "--config",
    ]);
    assert_eq!(said(&host), "");
}

#[test]
fn a_script_before_that_fails_keeps_its_package_out() {
    if !is_root() {
        return;
    }
    let host = host();
    add_bash(&host);
    allow(&host);
    crate::packages::plain(&host, "other", "y");
    fs::write(host.root().join("refuse"), "").unwrap();
    let run = host.kcache(&["install", "-k", &FIXTURES.new]).exits(4).one_error();
    run.says(&["hello/1.0", "PRE_INSTALL script (before.sh) ended with status 1"]);
    let installed: Vec<String> = host.modules(&FIXTURES.new).into_keys().collect();
    assert_eq!(installed.len(), 1, "{installed:?}");
    assert!(installed[0].starts_with("other/"));
}

#[test]
fn a_script_under_another_root_leaves_no_process() {
    if !is_root() {
        return;
    }
    let host = host();
    add_bash(&host);
    add_program(&host, "sleep");
    add_program(&host, "setsid");
    let left = format!("kcache-tests-left-{}", std::process::id());
    let source = host.root().join("usr/src/hello-1.0");
    let leave = format!("setsid bash -c 'trap \"\" HUP TERM; exec -a {left} sleep 300' & echo after >>/said");
    script(&source, "after.sh", &leave);
    allow(&host);
    let run = host.kcache(&["install", "hello", "-k", &FIXTURES.new]);
    assert_eq!(said(&host), "before\nafter\n", "{}", run.shown());
    let is_left = |process: &Path| {
        fs::read(process.join("cmdline")).is_ok_and(|line| line.starts_with(left.as_bytes()))
    };
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(processes.filter(|process| is_left(process)).count(), 0);
}
