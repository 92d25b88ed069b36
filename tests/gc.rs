//! What the store loses, and what it never does.

use crate::host::{FIXTURES, Host, Run};
use crate::packages::{hello, plain};
use fs_err as fs;
use std::fs::{File, FileTimes};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

/// Makes all files of the store a month old.
fn age(host: &Host) {
    let month = SystemTime::now() - Duration::from_secs(30 * 86400);
    for file in files(host) {
        File::open(file).unwrap().set_times(FileTimes::new().set_modified(month)).unwrap();
    }
}

fn files(host: &Host) -> Vec<PathBuf> {
    let below =
        |dir: &Path| fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let shards = ["entries", "objects"].iter().flat_map(|part| below(&host.store().join(part)));
    shards.flat_map(|shard| below(&shard)).collect()
}

fn configure(host: &Host, text: &str) {
    fs::create_dir_all(host.root().join("etc/kcache")).unwrap();
    fs::write(host.root().join("etc/kcache/config.toml"), text).unwrap();
}

/// The packages whose builds went, or would go.
fn packages(run: &Run) -> Vec<String> {
    let records = run.stdout.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let entries = records.filter(|record| record["type"] == "entry");
    let mut names: Vec<String> = entries.map(|entry| entry["package"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

fn installed(host: &Host, kernel: &str) -> String {
    host.modinfo(kernel, "hello", "description")
}

#[test]
fn the_installed_and_the_previous_generation_are_kept_and_a_dry_run_lists_the_rest() {
    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    hello(&host, "first");
    host.kcache(&["install", "-k", "all"]).exits(0);
    hello(&host, "second");
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    plain(&host, "spare", "");
    host.kcache(&["build", "spare", "-k", "all"]).exits(0);
    age(&host);
    let before = files(&host);
    let planned = host.kcache(&["gc", "--max-size", "0", "--dry-run"]).exits(0);
    assert_eq!((planned.stdout.matches("spare/").count(), planned.stdout.lines().count()), (2, 2));
    assert_eq!(files(&host), before);
    let done =
        host.kcache(&["gc", "--max-size", "0"]).exits(0).says(&["deleted 2 entries", "max-size not reached"]);
    assert_eq!(planned.stdout, done.stdout);
    let again = host.kcache(&["gc", "--max-size", "0", "--json"]).exits(0);
    assert_eq!(again.prints(&["\"entries\":0,\"objects\":0"]).stdout.lines().count(), 1);

    host.kcache(&["rollback", "-k", &FIXTURES.new]).exits(0);
    hello(&host, "first");
    host.kcache(&["remove", "hello", "-k", &FIXTURES.old]).exits(0);
    host.kcache(&["install", "hello", "--no-build", "-k", &FIXTURES.old]).exits(0);
    assert_eq!([&FIXTURES.old, &FIXTURES.new].map(|kernel| installed(&host, kernel)), ["first", "first"]);
}

#[test]
fn settings_limit_the_store_and_flags_override_them() {
    let host = Host::new(&[&FIXTURES.new]);
    for text in ["first", "second"] {
        hello(&host, text);
        host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    }
    plain(&host, "pinned", "");
    let key =
        host.kcache(&["build", "pinned", "-k", &FIXTURES.new, "--json"]).exits(0).outcome().key.unwrap();
    age(&host);
    configure(&host, &format!("[gc]\nmax-size = '0'\nkeep-previous = false\npins = ['{key}']\n"));
    host.kcache(&["config"]).prints(&[
        "gc.max-size = 0",
        "gc.keep-previous = false",
        &format!("gc.pins = {key}"),
    ]);
    let roomy = host.kcache(&["gc", "--max-size", "1T", "--json"]).exits(0);
    assert!(packages(&roomy).is_empty());
    let tight = host.kcache(&["gc", "--json"]).exits(0);
    assert_eq!(packages(&tight), ["hello"]);
    host.kcache(&["rollback", "-k", &FIXTURES.new])
        .exits(1)
        .says(&["is not in the store", "hint: "])
        .one_error();
    assert_eq!(installed(&host, &FIXTURES.new), "second");
    configure(&host, "");
    host.kcache(&["gc", "--max-size", "0", "--json"]).exits(0).prints(&["\"package\":\"pinned\""]);
}

#[test]
fn without_a_limit_only_dead_data_is_deleted_and_never_within_the_grace_period() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "first");
    host.kcache(&["build", "-k", &FIXTURES.new]).exits(0);
    host.kcache(&["gc", "--max-size", "0"])
        .exits(0)
        .says(&["deleted 0 entries", "1 within the grace period"]);
    age(&host);
    host.kcache(&["gc"]).exits(0).says(&["no limit is set", "deleted 0 entries and 0 objects"]);
    let entry = files(&host).into_iter().find(|path| path.extension().unwrap() == "json").unwrap();
    fs::remove_file(entry).unwrap();
    let objects = files(&host).len();
    host.kcache(&["gc"]).exits(0).says(&[&format!("deleted 0 entries and {objects} objects")]);
    assert!(objects > 1 && files(&host).is_empty());
}

#[test]
fn nothing_is_deleted_where_it_is_unknown_what_is_installed() {
    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    hello(&host, "first");
    host.kcache(&["install", "-k", "all"]).exits(0);
    age(&host);
    let before = files(&host);
    let (_, module) = host.modules(&FIXTURES.old).pop_first().unwrap();
    let manifest = module.parent().unwrap().parent().unwrap().join("generation.json");
    let whole = fs::read(&manifest).unwrap();
    let refused = || {
        let path = manifest.display().to_string();
        host.kcache(&["gc", "--max-size", "0"]).exits(1).says(&[&path, &FIXTURES.old]).one_error();
        assert_eq!(files(&host), before);
    };
    fs::write(&manifest, &whole[..whole.len() / 2]).unwrap();
    host.kcache(&["gc", "--max-size", "0"]).exits(0).says(&["deleted 0 entries"]); // the copy tells
    fs::remove_file(manifest.with_extension("json.copy")).unwrap();
    refused();
    fs::remove_file(host.kernel(&FIXTURES.old).join("modules.dep.bin")).unwrap();
    refused();
    fs::remove_file(&manifest).unwrap();
    refused();
    fs::write(&manifest, whole).unwrap();
    host.kcache(&["gc", "--max-size", "0"]).exits(0).says(&["deleted 0 entries"]);
}

#[test]
fn installs_beside_it_succeed_though_it_spares_nothing() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "first");
    for _ in 0..4 {
        host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
        host.kcache(&["remove", "hello", "-k", &FIXTURES.new]).exits(0);
        age(&host);
        let start = |arguments: &[&str]| {
            let mut command = host.command(arguments);
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let runs =
            [&["install", "-k", FIXTURES.new.as_str()][..], &["gc", "--max-size", "0", "--grace", "0"]];
        for run in runs.map(start) {
            Run::from(run.wait_with_output().unwrap()).exits(0);
        }
        assert_eq!(installed(&host, &FIXTURES.new), "first");
        host.kcache(&["check", "-k", &FIXTURES.new]).exits(0);
    }
}

#[test]
fn mistakes_are_reported_before_anything_is_done() {
    let host = Host::without_kernels();
    host.kcache(&["gc", "--max-size", "2X"]).exits(2);
    host.kcache(&["gc", "--max-age", "30"]).exits(2).says(&["a time like 30d"]);
    host.kcache(&["gc", "--grace", "soon"]).exits(2).says(&["a time like 30d"]);
    for wrong in ["max-size = 'big'", "max-age = '30'", "pins = ['x']", "max_size = '1G'"] {
        configure(&host, &format!("[gc]\n{wrong}\n"));
        host.kcache(&["gc"]).exits(2).says(&["config.toml"]).one_error();
    }
    configure(&host, "");
    host.kcache(&["gc"]).exits(0);
    assert!(!host.store().exists());
    fs::create_dir(host.store()).unwrap();
    for part in ["entries", "objects", "lock", "tmp"] {
        fs::create_dir(host.store().join(part)).unwrap();
    }
    fs::write(host.store().join("format"), "1\n").unwrap();
    host.kcache(&["gc"]).exits(0).says(&["warning: no kernel is installed"]);
}
