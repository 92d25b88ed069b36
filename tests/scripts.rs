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
    let ldd = Command::new("ldd").arg("/bin/bash").output().unwrap();
    let text = String::from_utf8(ldd.stdout).unwrap();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/'));
    for file in ["/bin/bash"].into_iter().chain(libraries) {
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
fn scripts_for_the_system_are_not_run_and_one_line_says_so() {
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
    install.says(&["warning: hello/1.0", "its POST_INSTALL (after.sh", "ended with status 7"]);
    assert_eq!(said(&host), format!("before\nafter 2 {} read\n", FIXTURES.new));
    host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(0);
    host.kcache(&["remove", "hello", "-k", &FIXTURES.new]).exits(0);
    assert!(said(&host).ends_with("read\ngone\n"), "{}", said(&host));
    assert!(!Path::new("/said").exists());
    let left = fs::read_dir(host.root().join("var/lib/kcache")).unwrap().count();
    assert_eq!(left, 0, "copies of the source are gone");
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
    run.says(&["hello/1.0", "its PRE_INSTALL (before.sh) ended with status 1"]);
    let installed: Vec<String> = host.modules(&FIXTURES.new).into_keys().collect();
    assert_eq!(installed.len(), 1, "{installed:?}");
    assert!(installed[0].starts_with("other/"));
}
