//! kcache under the name `dkms`.

use fs_err as fs;

use super::{Stage, k};
use crate::host::Host;
use crate::packages::{broken, hello, with_makefile};

fn stage(host: &Host) -> Stage<'_> {
    Stage {
        command: |host, words| host.called("dkms", words),
        program: "dkms",
        ..Stage::on(host).without_json()
    }
}

#[test]
fn dkms() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let stage = stage(&host);
    stage.shows("dkms/help", &["--help"]);
    stage.shows("dkms/version", &["--version"]);
    stage.shows("dkms/status-empty", &["status"]);
    let forgotten = |host: &Host| fs::remove_dir_all(host.root().join("var/lib/dkms")).unwrap_or_default();
    stage.before(&forgotten).shows("dkms/added", &["add", "hello/1.0"]);
    stage.shows("dkms/already-added", &["add", "hello/1.0"]);
    stage.shows("dkms/status-added", &["status"]);
    let empty = |host: &Host| {
        fs::remove_dir_all(host.store()).unwrap_or_default();
        fs::remove_dir_all(host.root().join("var/lib/dkms/hello/1.0").join(k())).unwrap_or_default();
    };
    stage.before(&empty).shows("dkms/built", &["build", "hello/1.0", "-k", k()]);
    stage.shows("dkms/already-built", &["build", "hello/1.0", "-k", k()]);
    let removed = |host: &Host| {
        host.kcache(&["remove", "--all"]).exits(0);
    };
    stage.before(&removed).shows("dkms/installed", &["install", "hello/1.0", "-k", k()]);
    stage.shows("dkms/already-installed", &["install", "hello/1.0", "-k", k()]);
    stage.shows("dkms/status-installed", &["status"]);
    let installed = |host: &Host| {
        host.kcache(&["install", "hello"]).exits(0);
    };
    stage.before(&installed).shows("dkms/uninstalled", &["uninstall", "hello/1.0", "-k", k()]);
    let added = |host: &Host| {
        host.called("dkms", &["add", "hello/1.0"]).output().unwrap();
        installed(host);
    };
    stage.before(&added).shows("dkms/removed", &["remove", "hello/1.0", "--all"]);
    stage.shows("dkms/not-added", &["remove", "hello/1.0", "--all"]);
}

#[test]
fn mistakes() {
    let host = Host::new(&[k()]);
    broken(&host);
    with_makefile(&host, "excluded", "", "obj-m := excluded.o\n", "BUILD_EXCLUSIVE_KERNEL=\"^5\"\n");
    let forgotten = |host: &Host| fs::remove_dir_all(host.root().join("var/lib/dkms")).unwrap_or_default();
    let stage = stage(&host).before(&forgotten);
    stage.shows("dkms/no-action", &[]);
    stage.shows("dkms/unknown-action", &["instal", "hello/1.0"]);
    stage.shows("dkms/unknown-option", &["--bogus"]);
    stage.shows("dkms/no-module", &["build", "-k", k()]);
    stage.shows("dkms/no-source", &["add", "hello/1.0"]);
    stage.shows("dkms/no-headers", &["install", "broken/1.0", "-k", "9.9.9"]);
    stage.shows("dkms/build-failed", &["install", "broken/1.0", "-k", k()]);
    stage.shows("dkms/excluded", &["build", "excluded/1.0", "-k", k()]);
    stage.shows("dkms/autoinstall-failed", &["autoinstall", "-k", k()]);
}
