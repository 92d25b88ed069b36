//! A key is the same whoever asks, from wherever, and in whatever language.

use crate::host::{FIXTURES, Host, Run};
use crate::packages::hello;
use fs_err as fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, UNIX_EPOCH};

#[track_caller]
fn key(run: Run) -> String {
    let key = run.exits(0).json()["key"].as_str().map(str::to_owned);
    key.expect("a package whose inputs are all there has a key")
}

fn explain() -> [&'static str; 5] {
    ["--json", "explain", "hello", "-k", FIXTURES.new.as_str()]
}

#[test]
fn language_time_zone_umask_and_directory_are_no_part_of_it() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "the same");
    let expect = key(host.kcache(&explain()));
    for line in [
        "LC_ALL=tr_TR.UTF-8 LANG=de_DE.UTF-8 exec",
        "TZ=Pacific/Kiritimati SOURCE_DATE_EPOCH=1 exec",
        "umask 077; exec",
        "umask 000; cd /; exec",
        "KBUILD_BUILD_USER=me KBUILD_BUILD_HOST=here CC=false MAKEFLAGS=-j3 exec",
    ] {
        let line = format!("{line} \"$@\"");
        assert_eq!(key(host.kcache_under(&["sh", "-c", &line, "sh"], &explain())), expect, "{line}");
    }
}

#[test]
fn owner_and_times_of_the_source_are_no_part_of_it() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "the same");
    let expect = key(host.kcache(&explain()));
    for entry in fs::read_dir(&source).unwrap() {
        let path = entry.unwrap().path();
        let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(1_000_000)).unwrap();
        if crate::host::is_root() {
            chown(&path, Some(1234), Some(1234)).unwrap();
        }
    }
    assert_eq!(key(host.kcache(&explain())), expect);
    let run = fs::metadata(source.join("hello.c")).unwrap().permissions().mode() | 0o111;
    fs::set_permissions(source.join("hello.c"), PermissionsExt::from_mode(run)).unwrap();
    assert_ne!(key(host.kcache(&explain())), expect, "whether a file is a program does matter");
}

#[test]
fn the_order_that_files_were_made_in_is_no_part_of_it() {
    let hosts = [Host::new(&[&FIXTURES.new]), Host::new(&[&FIXTURES.new])];
    let source = hosts[0].root().join("usr/src/hello-1.0");
    hello(&hosts[0], "the same");
    let mut names: Vec<_> = fs::read_dir(&source).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    let copy = hosts[1].root().join("usr/src/hello-1.0");
    fs::create_dir_all(&copy).unwrap();
    for name in names.iter().rev() {
        fs::copy(source.join(name), copy.join(name)).unwrap();
    }
    assert_eq!(key(hosts[0].kcache(&explain())), key(hosts[1].kcache(&explain())));
}
