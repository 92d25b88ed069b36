//! Inputs that somebody edits while they are used. What is admitted was made from what its key says.

use super::stopped::{halting, place_of, tell};
use super::{Running, check_store, wait_until};
use crate::host::{FIXTURES, Host, Run};
use crate::packages::plain;
use fs_err as fs;
use std::path::{Path, PathBuf};

fn k() -> &'static str {
    &FIXTURES.new
}

fn build(host: &Host) -> Running {
    Running::start(host, &["build", "halting", "-k", k(), "--json"])
}

/// A build that nobody disturbs.
fn undisturbed(host: &Host, arguments: &[&str]) -> Run {
    let run = Running::start(host, arguments);
    let place = place_of(host);
    tell(&place, "go");
    tell(&place, "end");
    run.end()
}

/// One build, with an edit before it compiles and another one after.
fn disturbed(host: &Host, before: impl Fn(), after: impl Fn()) -> Run {
    let mut run = build(host);
    let place = place_of(host);
    before();
    tell(&place, "go");
    wait_until("the compiler", || place.join("compiled").exists() || run.has_ended());
    after();
    tell(&place, "end");
    run.end()
}

fn header(host: &Host) -> PathBuf {
    host.headers(k()).join("include/generated/autoconf.h")
}

/// Other bytes, with the times that were there before.
fn overwrite(path: &Path, text: &str) {
    let metadata = fs::metadata(path).unwrap();
    fs::write(path, text).unwrap();
    let times = std::fs::FileTimes::new()
        .set_modified(metadata.modified().unwrap())
        .set_accessed(metadata.accessed().unwrap());
    fs::File::options().write(true).open(path).unwrap().file().set_times(times).unwrap();
}

fn entries(host: &Host) -> usize {
    let shards = fs::read_dir(host.store().join("entries")).unwrap().map(|shard| shard.unwrap().path());
    shards.map(|shard| fs::read_dir(shard).unwrap().count()).sum()
}

#[test]
fn headers_that_were_edited_during_a_build_and_put_back_spoil_it() {
    let host = Host::new(&[k()]);
    halting(&host);
    let header = header(&host);
    let was = fs::read_to_string(&header).unwrap();
    let other = format!("{was}/* edited */\n");
    let run = disturbed(&host, || overwrite(&header, &other), || overwrite(&header, &was));
    run.exits(4).prints(&["the headers of kernel", "changed during the run"]);
    assert_eq!(entries(&host), 0, "something was admitted");
    // Left as edited: the same.
    let run = disturbed(&host, || overwrite(&header, &other), || ());
    run.exits(4).prints(&["the headers of kernel", "changed during the run"]);
    assert_eq!(entries(&host), 0, "something was admitted");
    overwrite(&header, &was);
    undisturbed(&host, &["build", "halting", "-k", k()]).exits(0);
    assert_eq!(check_store(&host), 1);
}

#[test]
fn a_source_that_is_edited_during_a_build_is_another_build() {
    let host = Host::new(&[k()]);
    let file = halting(&host).join("halting.c");
    let was = fs::read_to_string(&file).unwrap();
    let edit = || overwrite(&file, &was.replace("as it was", "not as it"));
    let first = disturbed(&host, edit, || ()).exits(0).outcome();
    // The edited source has another key, and the first one's modules are of the source that it says.
    let second = undisturbed(&host, &["build", "halting", "-k", k(), "--json"]).exits(0).outcome();
    assert_ne!(first.key, second.key);
    overwrite(&file, &was);
    host.kcache(&["install", "halting", "-k", k()]).exits(0);
    assert_eq!(host.modinfo(k(), "halting", "description"), "as it was");
    let run = undisturbed(&host, &["build", "halting", "-k", k(), "--check", "--json"]).exits(0);
    assert_eq!(run.outcome().key, first.key);
    assert_eq!(check_store(&host), 2);
}

/// `dkms.conf` is a program, and it may take its time.
#[test]
fn a_recipe_that_is_edited_while_it_is_read_is_not_remembered_for_the_source_as_it_was() {
    let host = Host::new(&[k()]);
    let source = plain(&host, "slow", "");
    let (conf, more) = (source.join("dkms.conf"), source.join("more"));
    let text = fs::read_to_string(&conf).unwrap();
    let text = format!(
        "{text}\nsleep {SLEEP}; while [ ! -e $source_tree/slow-1.0/go ]; do sleep {SLEEP}; done\n. $source_tree/slow-1.0/more\n"
    );
    fs::write(&conf, text).unwrap();
    fs::write(&more, "").unwrap();
    let attempt = |during: &str| {
        let run = Running::start(&host, &["build", "slow", "-k", k(), "--json"]);
        wait_until("the recipe", is_asleep);
        fs::write(&more, during).unwrap();
        fs::write(source.join("go"), "").unwrap();
        run.end()
    };
    attempt("BUILD_EXCLUSIVE_KERNEL='^nothing'\n")
        .exits(4)
        .prints(&["the source of slow", "changed during the run"]);
    fs::write(&more, "").unwrap();
    fs::remove_file(source.join("go")).unwrap();
    // The source as it was: nobody was ever told by it that the package is excluded. Again it changes, by the file `go`.
    let run = attempt("").exits(4).prints(&["the source of slow", "changed during the run"]);
    assert_ne!(run.outcome().state, "excluded", "{}", run.shown());
    host.kcache(&["build", "slow", "-k", k()]).exits(0);
}

/// No other process sleeps for exactly so long.
const SLEEP: &str = "0.4219";

fn is_asleep() -> bool {
    let processes = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().path().join("cmdline"));
    processes
        .into_iter()
        .any(|path| fs::read(path).is_ok_and(|line| line == format!("sleep\0{SLEEP}\0").as_bytes()))
}
