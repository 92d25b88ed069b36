//! `install`, `build` and what they leave: `log`, `remove`, `rollback`.

use fs_err as fs;

use super::{Stage, k};
use crate::host::{FIXTURES, Host};
use crate::packages::{broken, hello, plain, prebuilt, with_makefile};

/// The store as it was before anything was built.
fn empty_the_store(host: &Host) {
    let _ = fs::remove_dir_all(host.store());
}

fn nothing_installed(host: &Host) {
    host.kcache(&["remove", "--all"]).exits(0);
}

fn nothing_at_all(host: &Host) {
    nothing_installed(host);
    empty_the_store(host);
}

#[test]
fn install() {
    let host = Host::new(&[k()]);
    let stage = Stage::on(&host);
    stage.shows("install/no-package", &["install"]);
    hello(&host, "first");
    stage.shows("install/dry-run", &["install", "--dry-run"]);
    stage.before(&nothing_at_all).shows("install/built", &["install", "hello"]);
    stage.before(&nothing_installed).shows("install/from-the-store", &["install", "hello"]);
    stage.shows("install/nothing-to-change", &["install", "hello"]);
    stage.before(&nothing_installed).shows("install/verbose", &["-v", "install", "hello"]);

    broken(&host);
    stage.before(&empty_the_store).without_json().shows("install/build-failed", &["install", "broken"]);
    stage.shows("install/failure-remembered", &["install", "broken"]);
    stage.shows("log/failed", &["log", "broken"]);
    stage.before(&nothing_at_all).without_json().shows("install/one-of-two-fails", &["install", "-j1"]);
    plain(&host, "absent", "");
    stage.before(&nothing_installed).shows("install/not-in-a-cache", &["install", "--no-build"]);
    let makefile = "obj-m := excluded.o\n";
    with_makefile(&host, "excluded", "", makefile, "BUILD_EXCLUSIVE_KERNEL=\"^5\"\n");
    hello(&host, "second");
    stage.shows("install/dry-run-of-each-kind", &["install", "--dry-run"]);
    stage.shows("install/excluded", &["install", "excluded"]);
}

#[test]
fn modules_that_are_refused() {
    let host = Host::new(&[&FIXTURES.old, k()]);
    hello(&host, "");
    host.kcache(&["install", "hello", "-k", &FIXTURES.old]).exits(0);
    let (_, module) = host.modules(&FIXTURES.old).pop_first().unwrap();
    prebuilt(&host, "wrong", &fs::read(module).unwrap());
    Stage::on(&host).shows("install/refused", &["install", "wrong", "-k", k()]);

    let grub = host.root().join("boot/grub");
    fs::create_dir(&grub).unwrap();
    let entry = format!("menuentry 'Debian' {{\n linux /boot/vmlinuz-{} ro module.sig_enforce=1\n}}\n", k());
    fs::write(grub.join("grub.cfg"), entry).unwrap();
    Stage::on(&host).shows("install/unsigned", &["install", "hello", "-k", k()]);
}

#[test]
fn without_headers() {
    let host = Host::without_headers(k());
    hello(&host, "");
    let stage = Stage::on(&host);
    stage.shows("install/no-kernel-with-headers", &["install"]);
    stage.shows("install/no-headers", &["install", "hello", "-k", k()]);
    stage.shows("status/no-headers", &["status"]);
    stage.shows("explain/no-headers", &["explain", "hello"]);
}

#[test]
fn build() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let stage = Stage::on(&host);
    stage.shows("build/dry-run", &["build", "--dry-run"]);
    stage.shows("log/never-built", &["log", "hello"]);
    stage.before(&empty_the_store).shows("build/built", &["build", "hello"]);
    stage.shows("build/already-built", &["build", "hello"]);
    stage.shows("log/built", &["log", "hello"]);
    stage.without_json().shows("build/reproducible", &["build", "--check", "hello"]);
    let source = plain(&host, "random", "");
    let makefile = "obj-m := random.o\nccflags-y += -DRANDOM='\"$(shell od -An -N8 -tx8 /dev/urandom)\"'\n";
    fs::write(source.join("Makefile"), makefile).unwrap();
    let code = fs::read_to_string(source.join("random.c")).unwrap();
    fs::write(source.join("random.c"), format!("{code}MODULE_VERSION(RANDOM);\n")).unwrap();
    host.kcache(&["build", "random"]).exits(0);
    stage.shows("build/not-reproducible", &["build", "--check", "random"]);
}

#[test]
fn remove_and_rollback() {
    let host = Host::new(&[k()]);
    let stage = Stage::on(&host);
    stage.shows("remove/nothing", &["remove", "--all"]);
    stage.shows("rollback/no-previous", &["rollback"]);
    let source = hello(&host, "first");
    plain(&host, "second", "");
    let install = |host: &Host| {
        host.kcache(&["install"]).exits(0);
    };
    stage.before(&install).shows("remove/dry-run", &["remove", "hello", "--dry-run"]);
    stage.before(&install).shows("remove/one-of-two", &["remove", "hello"]);
    stage.before(&install).shows("remove/all", &["remove", "--all"]);
    stage.before(&install).shows("remove/unknown", &["remove", "helo"]);
    stage.shows("remove/no-package", &["remove"]);
    let upgraded = |host: &Host| {
        host.kcache(&["install", "--rebuild"]).exits(0);
    };
    let code = fs::read_to_string(source.join("hello.c")).unwrap();
    fs::write(source.join("hello.c"), format!("{code}MODULE_VERSION(\"2\");\n")).unwrap();
    upgraded(&host);
    stage.shows("rollback/dry-run", &["rollback", "--dry-run"]);
    stage.shows("rollback/previous", &["rollback"]);
}
