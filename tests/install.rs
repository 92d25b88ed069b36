//! Installation and its undoing, alone and in company.

use crate::host::{FIXTURES, Host, Record, Run};
use crate::packages::{TRIO, hello, plain, trio};
use fs_err as fs;
use std::process::Stdio;

#[track_caller]
fn description(host: &Host) -> String {
    host.modinfo(&FIXTURES.new, "hello", "description")
}

#[test]
fn a_hit_after_a_miss_installs_the_same_without_compiling() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "first");
    let install = ["install", "-k", FIXTURES.new.as_str(), "--json"];
    let miss = host.kcache(&install).exits(0).outcome();
    let installed = host.tree();
    host.kcache(&["remove", "hello", "-k", &FIXTURES.new]).exits(0);
    let hit = host.kcache(&install).exits(0).outcome();
    assert_eq!((miss.how.as_deref(), hit.how.as_deref()), (Some("built"), Some("store")));
    assert_eq!((miss.state, miss.modules, miss.key), (hit.state, hit.modules, hit.key));
    let only_modules = |mut tree: std::collections::BTreeMap<std::path::PathBuf, String>| {
        tree.retain(|path, _| path.to_string_lossy().contains(".ko"));
        tree
    };
    assert_eq!(only_modules(installed), only_modules(host.tree()));
}

#[test]
fn installing_what_is_installed_changes_nothing() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "first");
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    let before = host.tree();
    let run = host.kcache(&["install", "-k", &FIXTURES.new, "--json"]).exits(0);
    assert!(run.stdout.contains("\"changed\":false"), "{}", run.shown());
    assert_eq!(before, host.tree());
}

#[test]
fn what_is_installed_waits_for_nobody_and_what_is_not_does() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "first");
    let install = ["install", "-k", FIXTURES.new.as_str()];
    host.kcache(&install).exits(0);
    let lock = host.root().join(format!("lib/modules/.kcache-{}.lock", FIXTURES.new));
    let held = std::fs::File::create(&lock).unwrap();
    held.lock().unwrap();
    fs::create_dir_all(host.root().join("etc/kcache")).unwrap();
    fs::write(host.root().join("etc/kcache/config.toml"), "lock-timeout = 1\n").unwrap();
    host.kcache(&install).exits(0).says(&["nothing to change"]);
    let (_, module) = host.modules(&FIXTURES.new).pop_first().unwrap();
    fs::write(module, "damaged").unwrap();
    host.kcache(&install).exits(8).one_error();
    drop(held);
    host.kcache(&install).exits(0);
}

#[test]
fn modules_lie_in_a_generation_and_modprobe_finds_them() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "found");
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    let (name, path) = host.modules(&FIXTURES.new).pop_first().unwrap();
    assert!(name.starts_with("hello/hello.ko"), "{name}");
    let generation = path.parent().unwrap().parent().unwrap();
    assert!(generation.file_name().unwrap().to_str().unwrap().starts_with("kcache-"));
    let told: serde_json::Value =
        serde_json::from_slice(&fs::read(generation.join("generation.json")).unwrap()).unwrap();
    assert!(told.to_string().contains("\"hello\""), "{told}");
    assert!(Host::resolved(&host.root(), &FIXTURES.new, &["hello"])["hello"].is_some());
}

#[test]
fn remove_of_the_last_package_leaves_the_tree_as_it_was() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "first");
    plain(&host, "second", "");
    let before = host.tree();
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    host.kcache(&["remove", "hello", "-k", &FIXTURES.new]).exits(0);
    let left: Vec<_> = host.modules(&FIXTURES.new).into_keys().collect();
    assert!(left.len() == 1 && left[0].starts_with("second/"), "{left:?}");
    host.kcache(&["remove", "second", "-k", &FIXTURES.new]).exits(0);
    assert_eq!(before, host.tree());
}

#[test]
fn rollback_brings_back_the_previous_generation() {
    let host = Host::new(&[&FIXTURES.new]);
    for text in ["first", "second"] {
        hello(&host, text);
        host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    }
    assert_eq!(description(&host), "second");
    host.kcache(&["rollback", "-k", &FIXTURES.new]).exits(0);
    assert_eq!(description(&host), "first");
}

#[test]
fn modules_of_others_are_not_touched() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "ours");
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    let dkms = host.kernel(&FIXTURES.new).join("updates/dkms");
    let (_, ours) = host.modules(&FIXTURES.new).pop_first().unwrap();
    fs::create_dir(&dkms).unwrap();
    fs::copy(&ours, dkms.join("theirs.ko")).unwrap();
    hello(&host, "ours, newer");
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    host.kcache(&["remove", "hello", "-k", &FIXTURES.new]).exits(0);
    assert!(dkms.join("theirs.ko").exists());
    assert!(Host::resolved(&host.root(), &FIXTURES.new, &["theirs"])["theirs"].is_some());
}

#[test]
fn a_dry_run_reports_and_changes_nothing() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "first");
    let before = host.tree();
    let run = host.kcache(&["install", "hello", "-k", &FIXTURES.new, "--dry-run"]).exits(0);
    assert!(run.shown().contains("hello"), "{}", run.shown());
    assert_eq!(before, host.tree());
    for part in ["entries", "objects"] {
        let count = fs::read_dir(host.store().join(part)).map_or(0, Iterator::count);
        assert_eq!(count, 0, "{part} in the store");
    }

    host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(0);
    let installed = host.tree();
    host.kcache(&["remove", "hello", "-k", &FIXTURES.new, "--dry-run"]).exits(0);
    assert_eq!(installed, host.tree());
}

#[test]
fn two_kernels_in_one_run_each_get_their_own() {
    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    trio(&host, "for each");
    host.kcache(&["install", "-k", "all"]).exits(0);
    for kernel in [&FIXTURES.old, &FIXTURES.new] {
        for module in TRIO {
            assert!(host.modinfo(kernel, module, "vermagic").starts_with(&format!("{kernel} ")));
        }
    }
}

#[test]
fn a_kernel_that_cannot_be_changed_keeps_no_other_from_it() {
    let (first, second) = (FIXTURES.old.as_str(), FIXTURES.new.as_str());
    let host = Host::new(&[first, second]);
    for text in ["before", "now"] {
        hello(&host, text);
        host.kcache(&["install", "-k", "all"]).exits(0);
    }
    let held = std::fs::File::create(host.root().join(format!("lib/modules/.kcache-{first}.lock"))).unwrap();
    held.lock().unwrap();
    fs::create_dir_all(host.root().join("etc/kcache")).unwrap();
    fs::write(host.root().join("etc/kcache/config.toml"), "lock-timeout = 1\n").unwrap();
    let told = |run: &Run| {
        let of = |record| match record {
            Record::Generation { kernel, changed, .. } => Some((kernel, !changed)),
            _ => None,
        };
        run.records().into_iter().filter_map(of).collect::<Vec<_>>()
    };
    let each = [(first.to_owned(), true), (second.to_owned(), false)];
    for command in [&["rollback"][..], &["remove", "hello"]] {
        let run = host.kcache(&[command, &["-k", "all", "--json"]].concat()).exits(8);
        assert_eq!(told(&run), each, "{command:?}: {}", run.shown());
    }
    assert_eq!(host.modules(first).len(), 1);
    assert!(host.modules(second).is_empty());
}

/// Runs kcache with each of these argument lists at the same time.
fn at_once(host: &Host, runs: &[&[&str]]) -> Vec<Run> {
    let start = |arguments: &&[&str]| {
        host.command(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = runs.iter().map(start).collect();
    children.into_iter().map(|child| Run::from(child.wait_with_output().unwrap())).collect()
}

#[test]
fn two_processes_with_the_same_request_both_succeed() {
    let host = Host::new(&[&FIXTURES.new]);
    trio(&host, "once");
    let install = ["install", "-k", FIXTURES.new.as_str()];
    for run in at_once(&host, &[&install, &install]) {
        run.exits(0);
    }
    assert_eq!(host.modules(&FIXTURES.new).len(), 3);
    assert!(Host::resolved(&host.root(), &FIXTURES.new, &TRIO).values().all(Option::is_some));
}

#[test]
fn two_processes_for_two_kernels_do_not_disturb_each_other() {
    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    trio(&host, "each");
    let (old, new) = (["install", "-k", FIXTURES.old.as_str()], ["install", "-k", FIXTURES.new.as_str()]);
    for run in at_once(&host, &[&old, &new]) {
        run.exits(0);
    }
    for kernel in [&FIXTURES.old, &FIXTURES.new] {
        for module in TRIO {
            assert!(host.modinfo(kernel, module, "vermagic").starts_with(&format!("{kernel} ")));
        }
    }
}

#[test]
fn a_user_installs_into_a_root_of_their_own() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "mine");
    let host = host.owned_by_a_user();
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    assert_eq!(description(&host), "mine");
    host.kcache(&["build", "hello", "-k", &FIXTURES.new, "--check"]).exits(0);
}

#[test]
fn promise_5_a_corrupt_object_of_the_store_is_reported_and_built_again() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "sound");
    host.kcache(&["build", "hello", "-k", &FIXTURES.new]).exits(0);
    let damaged = corrupt_objects(&host);
    let run = host.kcache(&["install", "-k", &FIXTURES.new, "--json"]).exits(0);
    assert!(damaged.iter().any(|digest| run.stderr.contains(digest)), "{}", run.shown());
    assert_eq!(run.outcome().how.as_deref(), Some("built"));
    assert_eq!(description(&host), "sound");
}

/// Replaces each object of the store by its first half; returns their digests.
fn corrupt_objects(host: &Host) -> Vec<String> {
    let mut digests = Vec::new();
    for directory in fs::read_dir(host.store().join("objects")).unwrap() {
        for object in fs::read_dir(directory.unwrap().path()).unwrap().map(|entry| entry.unwrap().path()) {
            let bytes = fs::read(&object).unwrap();
            fs::remove_file(&object).unwrap();
            fs::write(&object, &bytes[..bytes.len() / 2]).unwrap();
            digests.push(object.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    assert!(!digests.is_empty());
    digests
}
