//! `gc`, `verify`, `hooks`, `config` and `adopt`.

use fs_err as fs;
use std::fs::{File, FileTimes};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime};

use super::{Stage, k};
use crate::dkms::installed_by_dkms;
use crate::host::{Host, run};
use crate::packages::{broken, hello, plain};

/// The files below a directory of the store.
fn files(host: &Host, part: &str) -> Vec<PathBuf> {
    let found = run(Command::new("find").arg(host.store().join(part)).args(["-type", "f"])).stdout;
    let mut files: Vec<PathBuf> = String::from_utf8(found).unwrap().lines().map(PathBuf::from).collect();
    files.sort();
    files
}

/// Makes all builds a month old, and not used since.
fn age(host: &Host) {
    let index = rusqlite::Connection::open(host.store().join("index.sqlite")).unwrap();
    index.execute("UPDATE entry SET used = used - 30 * 86400", []).unwrap();
    let month = SystemTime::now() - Duration::from_secs(30 * 86400);
    for file in [files(host, "entries"), files(host, "objects")].concat() {
        File::open(file).unwrap().set_times(FileTimes::new().set_modified(month)).unwrap();
    }
}

#[test]
fn gc() {
    let host = Host::new(&[k()]);
    let stage = Stage::on(&host);
    stage.shows("gc/no-store", &["gc"]);
    hello(&host, "");
    host.kcache(&["install"]).exits(0);
    stage.shows("gc/no-limit", &["gc"]);
    plain(&host, "spare", "");
    let spare = |host: &Host| {
        host.kcache(&["build", "spare"]).exits(0);
        age(host);
    };
    stage.before(&spare).shows("gc/dry-run", &["gc", "--max-age", "7d", "--dry-run"]);
    stage.before(&spare).shows("gc/deleted", &["gc", "--max-age", "7d"]);
    stage.before(&spare).shows("gc/limit-not-reached", &["gc", "--max-size", "0"]);
    stage.shows("gc/wrong-size", &["gc", "--max-size", "2X"]);
}

#[test]
fn verify() {
    let host = Host::new(&[k()]);
    let stage = Stage::on(&host);
    stage.shows("verify/no-store", &["verify"]);
    hello(&host, "");
    host.kcache(&["install"]).exits(0);
    stage.shows("verify/intact", &["verify"]);
    let damage = |host: &Host| {
        host.kcache(&["install"]).exits(0);
        let (_, module) = host.modules(k()).pop_first().unwrap();
        fs::write(module, "").unwrap();
        fs::write(&files(host, "entries")[0], "{").unwrap();
    };
    stage.before(&damage).shows("verify/corrupt", &["verify"]);
    stage.before(&damage).shows("verify/repaired", &["verify", "--repair"]);
    let elsewhere = host.dir().join("elsewhere");
    let lose = |host: &Host| {
        let _ = fs::rename(&elsewhere, host.store());
        host.kcache(&["install"]).exits(0);
        let (_, module) = host.modules(k()).pop_first().unwrap();
        fs::remove_file(module).unwrap();
        fs::rename(host.store(), &elsewhere).unwrap();
    };
    stage.before(&lose).shows("verify/cannot-be-repaired", &["verify", "--repair"]);
}

#[test]
fn hooks() {
    let host = Host::without_kernels();
    let stage = Stage::on(&host);
    stage.shows("hooks/no-family", &["hooks", "install"]);
    stage.shows("hooks/status-absent", &["hooks", "status"]);
    let all = ["hooks", "install", "debian", "kernel-install", "pacman", "boot"];
    stage.shows("hooks/dry-run", &[&all[..], &["--dry-run"]].concat());
    let none = |host: &Host| {
        host.kcache(&["hooks", "remove", "--force"]).exits(0);
    };
    stage.before(&none).shows("hooks/installed", &all);
    stage.shows("hooks/already-installed", &all);
    let hook = host.root().join("etc/kernel/postinst.d/do-kcache");
    let text = fs::read_to_string(&hook).unwrap();
    fs::write(&hook, text.replace("exec ", "exec nice ")).unwrap();
    fs::write(host.root().join("etc/kernel/postrm.d/do-kcache"), "#!/bin/sh\n").unwrap();
    stage.shows("hooks/status", &["hooks", "status"]);
    stage.shows("hooks/changed", &all);
    let again = |host: &Host| {
        host.kcache(&["hooks", "install", "--force", "debian"]).exits(0);
    };
    stage.before(&again).shows("hooks/removed", &["hooks", "remove", "debian"]);
    stage.shows("hooks/unknown-family", &["hooks", "install", "suse"]);
}

#[test]
fn hook_events() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let stage = Stage::on(&host).without_json();
    let of_kernel = |event: &'static str| ["hooks", "run", event, k()];
    host.kcache(&["build"]).exits(0);
    stage.shows("hooks/booted-and-not-ready", &["hooks", "run", "booted", k()]);
    let removed = |host: &Host| {
        host.kcache(&["remove", "--all"]).exits(0);
    };
    stage.before(&removed).shows("hooks/kernel-installed", &of_kernel("kernel-installed"));
    stage.shows("hooks/headers-installed", &of_kernel("headers-installed"));
    stage.before(&removed).shows("hooks/boot", &of_kernel("boot"));
    let installed = |host: &Host| {
        host.kcache(&["install"]).exits(0);
    };
    stage.before(&installed).shows("hooks/kernel-removed", &of_kernel("kernel-removed"));
    broken(&host);
    host.kcache(&["check", "--build"]).exits(3);
    stage.shows("hooks/build-failed", &of_kernel("kernel-installed"));
    host.write_config("on-failure = 'block'\n");
    stage.shows("hooks/build-failed-and-blocks", &of_kernel("kernel-installed"));
    fs::remove_file(host.kernel(k()).join("build")).unwrap();
    fs::remove_dir_all(host.headers(k())).unwrap();
    fs::remove_dir_all(host.store()).unwrap();
    stage.before(&removed).shows("hooks/kernel-without-headers", &of_kernel("kernel-installed"));
    stage.shows("hooks/unknown-event", &of_kernel("kernel-frobnicated"));
}

#[test]
fn config() {
    let host = Host::without_kernels();
    let stage = Stage::on(&host);
    stage.shows("config/defaults", &["config"]);
    let text = "jobs = 3\npackages = ['hello']\nforeign = 'require'\n\n\
        [[cache]]\nurl = 'https://user:secret@cache.example.org/'\nwrite = true\n\n\
        [[policy]]\npackage = 'nvidia*'\nkernel = '6.*'\nis = 'optional'\n\n\
        [signing]\nkey = '/etc/keys/one.key'\ncertificate = '/etc/keys/one.crt'\n\n\
        [gc]\nmax-size = '20G'\nmax-age = '90d'\n";
    host.write_config(text);
    stage.shows("config/everything", &["config"]);
}

#[test]
fn adopt() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let stage = Stage::on(&host);
    stage.shows("adopt/nothing-to-adopt", &["adopt"]);
    stage.shows("adopt/nothing-to-give-back", &["adopt", "--undo"]);
    installed_by_dkms(&host, k());
    stage.shows("adopt/dry-run", &["adopt", "--dry-run"]);
    let given_back = |host: &Host| {
        host.kcache(&["adopt", "--undo"]).exits(0);
    };
    stage.before(&given_back).shows("adopt/adopted", &["adopt"]);
    let adopted = |host: &Host| {
        host.kcache(&["adopt"]).exits(0);
    };
    stage.before(&adopted).shows("adopt/given-back", &["adopt", "--undo"]);
    fs::remove_dir_all(host.root().join("usr/src/hello-1.0")).unwrap();
    stage.shows("adopt/no-source", &["adopt"]);
}
