//! Mistakes typed or configured, and a user who may not write.

use fs_err as fs;
use std::os::unix::fs::PermissionsExt;

use super::{Stage, k};
use crate::host::{FIXTURES, Host};
use crate::packages::hello;

#[test]
fn typed() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let stage = Stage::on(&host);
    stage.without_json().shows("mistakes/no-command", &[]);
    stage.shows("mistakes/unknown-command", &["instal"]);
    stage.shows("mistakes/unknown-option", &["install", "--rebiuld"]);
    stage.shows("mistakes/options-in-conflict", &["install", "--rebuild", "--no-build"]);
    stage.shows("mistakes/no-value", &["install", "-k"]);
    stage.shows("mistakes/wrong-value", &["install", "--jobs", "many"]);
    stage.shows("mistakes/unknown-package", &["install", "helo"]);
    stage.shows("mistakes/no-such-package", &["install", "nvidia"]);
    stage.shows("mistakes/no-such-directory", &["install", "./hello"]);
    stage.shows("mistakes/unknown-kernel", &["install", "-k", &k().replace("amd64", "amd46")]);
    stage.shows("mistakes/no-such-kernel", &["check", "-k", "rpi"]);
    stage.shows("mistakes/no-default-kernel", &["check", "-k", "default"]);
    stage.shows("mistakes/no-dry-run", &["keys", "generate", "--dry-run"]);
    stage.shows("mistakes/no-such-cache", &["install", "--cache", "gopher://cache.example.org/"]);
    fs::write(host.root().join("usr/src/hello-1.0/dkms.conf"), "PACKAGE_NAME=hello\nif then fi (\n").unwrap();
    stage.shows("mistakes/recipe-is-no-bash", &["install", "hello"]);
}

#[test]
fn configured() {
    let host = Host::new(&[]);
    let stage = Stage::on(&host);
    let wrong = |text: &str| fs::write(host.dir().join("kcache.toml"), text).unwrap();
    let words = ["--config", "kcache.toml", "status"];
    stage.shows("mistakes/no-such-config", &words);
    wrong("jbos = 3\n");
    stage.shows("mistakes/unknown-setting", &words);
    wrong("jobs = \n");
    stage.shows("mistakes/config-is-no-toml", &words);
    wrong("jobs = 'many'\n");
    stage.shows("mistakes/setting-of-another-type", &words);
    wrong("[[policy]]\npackage = 'broken'\nis = 'ignored'\n");
    stage.shows("mistakes/unknown-policy", &words);
    fs::write(host.store(), "").unwrap();
    stage.shows("mistakes/store-is-a-file", &["install"]);
}

#[test]
fn a_user_who_may_not_write() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let host = host.owned_by_a_user();
    let stage = Stage::on(&host);
    let read_only = |mode: u32| {
        fs::set_permissions(host.root().join("lib/modules"), PermissionsExt::from_mode(mode)).unwrap();
        fs::set_permissions(host.kernel(k()), PermissionsExt::from_mode(mode)).unwrap();
    };
    read_only(0o555);
    stage.shows("mistakes/not-root", &["install", "hello"]);
    read_only(0o755); // so that the host can be deleted
}
