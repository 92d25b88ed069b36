//! `status`, `check` and `explain`; `metrics` and `report`, which say the same to programs and browsers; `boot-test`.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fs_err as fs;

use super::{Stage, k};
use crate::host::{FIXTURES, Host};
use crate::packages::{broken, hello, plain, with_makefile};

/// A host with a package in each state for the newest kernel, and nothing built for the other.
fn host_with_each_state() -> Host {
    let host = Host::new(&[&FIXTURES.old, k()]);
    hello(&host, "");
    plain(&host, "edited", "");
    plain(&host, "damaged", "");
    broken(&host);
    with_makefile(&host, "excluded", "", "obj-m := excluded.o\n", "BUILD_EXCLUSIVE_KERNEL=\"^5\"\n");
    host.write_config("[[policy]]\npackage = 'broken'\nis = 'optional'\n");
    host.kcache(&["install", "-k", k()]).exits(0);
    plain(&host, "edited", "since");
    plain(&host, "late", "");
    fs::write(&host.modules(k())["damaged/damaged.ko"], "").unwrap();
    let foreign = host.kernel(k()).join("updates/dkms");
    fs::create_dir_all(&foreign).unwrap();
    fs::write(foreign.join("foreign.ko"), "no module").unwrap();
    host
}

#[test]
fn status_and_check() {
    let host = Host::without_kernels();
    Stage::on(&host).shows("status/empty", &["status"]);
    Stage::on(&host).shows("check/empty", &["check"]);

    let host = Host::new(&[k()]);
    hello(&host, "");
    let stage = Stage::on(&host);
    stage.shows("status/missing", &["status"]);
    stage.shows("check/missing", &["check"]);
    stage.shows("check/built", &["check", "--build"]);
    host.kcache(&["install"]).exits(0);
    stage.shows("status/ready", &["status"]);
    stage.shows("check/ready", &["check"]);
    stage.shows("check/ready-in-one-line", &["check", "-q"]);
    stage.shows("metrics/ready", &["metrics"]);
    respin(&host);
    stage.without_json().shows("check/other-build-of-the-kernel", &["check"]);
}

/// Another build of the kernel gets the same name.
fn respin(host: &Host) {
    let image = host.root().join(format!("boot/vmlinuz-{}", k()));
    let mut bytes = fs::read(&image).unwrap();
    let at = bytes.windows(6).position(|window| window == b"#1 SMP").unwrap();
    bytes[at + 1] = b'9';
    fs::write(image, bytes).unwrap();
}

#[test]
fn each_state_at_once() {
    let host = host_with_each_state();
    let stage = Stage::on(&host);
    stage.shows("status/each-state", &["status"]);
    stage.shows_colours("status/colours", &["status"]);
    stage.without_json().shows("status/verbose", &["-v", "status"]);
    stage.without_json().shows("check/each-state", &["check"]);
    stage.shows("check/one-line", &["check", "-q"]);
    stage.shows("install/dry-run-repairs", &["install", "--dry-run", "-k", k()]);
    stage.shows("metrics/wrong-name", &["metrics", "--textfile", "kcache.txt"]);
    stage.shows("report/written", &["report", "--html", "report.html"]);
    stage.shows("report/dry-run", &["report", "--html", "report.html", "--dry-run"]);
}

#[test]
fn explain() {
    let host = Host::new(&[k()]);
    let source = hello(&host, "first");
    let stage = Stage::on(&host);
    let words = ["explain", "hello"];
    stage.shows("explain/first-build", &words);
    host.kcache(&["build", "hello"]).exits(0);
    stage.without_json().shows("explain/in-the-store", &words);
    fs::write(source.join("more.h"), "").unwrap();
    stage.shows("explain/changed-source", &words);
    fs::remove_file(source.join("more.h")).unwrap();
    let config = host.headers(k()).join("include/config/auto.conf");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}CONFIG_ADDED=y\n")).unwrap();
    stage.without_json().shows("explain/changed-config", &words);
    fs::write(&config, text).unwrap();
    let conf = source.join("dkms.conf");
    let recipe = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, format!("{recipe}MAKE=\"make CC=gcc KDIR=$kernel_source_dir\"\n")).unwrap();
    stage.without_json().shows("explain/changed-recipe", &words);
    fs::write(&conf, format!("{recipe}BUILD_EXCLUSIVE_KERNEL=\"^5\"\n")).unwrap();
    stage.without_json().shows("explain/excluded", &words);
    broken(&host);
    host.kcache(&["build", "broken"]).exits(4);
    stage.without_json().shows("explain/failed", &["explain", "broken"]);
}

#[test]
fn boot_test() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let stage = Stage::on(&host);
    stage.shows("boot-test/dry-run-before-a-build", &["boot-test", "--dry-run", "-k", k()]);
    host.kcache(&["install"]).exits(0);
    stage.shows("boot-test/dry-run", &["boot-test", "--dry-run", "-k", k()]);
    stage.shows("boot-test/no-qemu", &["boot-test", "-k", k(), "--qemu", "/nowhere/qemu"]);
    let qemu = host.dir().join("qemu");
    script(&qemu, "echo 'Kernel panic - not syncing: no init'");
    stage.shows("boot-test/panic", &["boot-test", "-k", k(), "--qemu", qemu.to_str().unwrap()]);
}

fn script(path: &Path, line: &str) {
    fs::write(path, format!("#!/bin/sh\n{line}\n")).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}
