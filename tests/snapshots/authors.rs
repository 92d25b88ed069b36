//! `init` and `lint`.

use fs_err as fs;

use super::{Stage, k};
use crate::host::Host;
use crate::packages::{hello, insists_on_uname, with_makefile};

#[test]
fn init() {
    let host = Host::new(&[k()]);
    let source = hello(&host, "");
    let words = ["init", source.to_str().unwrap()];
    let stage = Stage::on(&host);
    stage.shows("init/dry-run", &[&words[..], &["--dry-run"]].concat());
    let nothing = |_: &Host| fs::remove_file(source.join("kcache.toml")).unwrap_or_default();
    stage.before(&nothing).shows("init/written", &words);
    stage.shows("init/exists", &words);
    let empty = host.write_package("empty", &[("README", String::new())]);
    stage.shows("init/no-package", &["init", empty.to_str().unwrap()]);
}

#[test]
fn lint() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    insists_on_uname(&host);
    let source = with_makefile(&host, "bad", "", "obj-m := bad.o\n", "");
    fs::write(source.join("bad.c"), "int x;\n").unwrap();
    let stage = Stage::on(&host);
    stage.shows("lint/no-findings", &["lint", "hello"]);
    stage.shows("lint/findings", &["lint", "running", "bad"]);
    stage.shows("lint/unknown-rule", &["lint", "running", "--allow", "uname"]);
    stage.shows("lint/no-package", &["lint"]);
}
