//! A process that holds a lock and does not go on: stopped, as by a debugger, a frozen container or a suspended machine.

use super::{Running, check_litter, check_store, installed, is_torture, wait_until, with_depmod};
use crate::host::{FIXTURES, Host, Run};
use crate::packages::{plain, with_makefile};
use fs_err as fs;
use rustix::process::Signal;
use std::path::PathBuf;

/// Seconds of patience; a person's would be ten minutes.
fn patience() -> &'static str {
    if is_torture() { "30" } else { "3" }
}

/// The same wish as somebody with little patience has it.
fn impatient(host: &Host, arguments: &[&str]) -> Run {
    let mut command = host.command(arguments);
    command.env("KCACHE_LOCK_TIMEOUT", patience());
    Running::of(host, command, &arguments.join(" ")).end()
}

/// Waits until a run has said that it waits.
fn wait_for_wait(run: &Running) {
    wait_until("a word about waiting", || run.said().contains("waiting for another kcache"));
}

#[test]
fn of_a_kernel() {
    let k = FIXTURES.new.as_str();
    let host = Host::new(&[k]);
    plain(&host, "first", "");
    plain(&host, "second", "");
    host.kcache(&["build", "-k", k]).exits(0);
    let script = "touch here; while [ ! -e go ]; do sleep 0.05; done; depmod \"$@\"";
    let install = ["install", "first", "-k", k];
    let holder = Running::of(&host, with_depmod(&host, &install, script), "the holder");
    wait_until("the holder in its transaction", || host.root().join("here").exists());
    holder.signal(Signal::STOP);
    let run = impatient(&host, &["install", "second", "-k", k]).exits(8).one_error();
    run.says(&["waiting for another kcache to finish with", k, "still working on"]);
    let patient = Running::start(&host, &["install", "second", "-k", k]);
    wait_for_wait(&patient);
    fs::write(host.root().join("go"), "").unwrap();
    holder.signal(Signal::CONT);
    holder.end().exits(0);
    patient.end().exits(0);
    assert_eq!(installed(&host, k), ["first", "second"].map(str::to_owned).into());
    check_litter(&host);
}

/// A package whose build says that it has begun, waits to be told to go on, says that it has compiled, and waits to be told
/// to end: by files beside its source in the scratch tree.
pub fn halting(host: &Host) -> PathBuf {
    let makefile = "obj-m := halting.o\n\
        all:\n\ttouch begun; while [ ! -e go ]; do sleep 0.02; done\n\
        \t$(MAKE) -C $(kernel_source_dir) M=$(CURDIR) modules\n\
        \ttouch compiled; while [ ! -e end ]; do sleep 0.02; done\n";
    with_makefile(
        host,
        "halting",
        "as it was",
        makefile,
        "MAKE=\"make all kernel_source_dir=$kernel_source_dir\"\n",
    )
}

/// The place of such a build, once it has begun.
pub fn place_of(host: &Host) -> PathBuf {
    let tmp = host.store().join("tmp");
    let mut place = None;
    wait_until("the build", || {
        let scratches =
            fs::read_dir(&tmp).map(|dir| dir.map(|entry| entry.unwrap().path()).collect::<Vec<_>>());
        place = scratches
            .unwrap_or_default()
            .into_iter()
            .map(|dir| dir.join("build"))
            .find(|dir| dir.join("begun").exists());
        place.is_some()
    });
    place.unwrap()
}

pub fn tell(place: &std::path::Path, word: &str) {
    fs::write(place.join(word), "").unwrap();
}

#[test]
fn of_a_key() {
    let k = FIXTURES.new.as_str();
    let host = Host::new(&[k]);
    halting(&host);
    let build = ["build", "halting", "-k", k, "--json"];
    let holder = Running::start(&host, &build);
    let place = place_of(&host);
    holder.signal(Signal::STOP);
    let run = impatient(&host, &build).exits(8).one_error();
    run.says(&["waiting for another kcache to finish with", "lock/", "timed out after"]);
    let patient = Running::start(&host, &build);
    wait_for_wait(&patient);
    tell(&place, "go");
    tell(&place, "end");
    holder.signal(Signal::CONT);
    assert_eq!(holder.end().exits(0).outcome().how.as_deref(), Some("built"));
    assert_eq!(patient.end().exits(0).outcome().how.as_deref(), Some("store"));
    assert_eq!(check_store(&host), 1);
    check_litter(&host);
}

/// Somebody in the middle of a change to the index, which SQLite lets nobody else in beside.
#[test]
fn of_the_index() {
    let k = FIXTURES.new.as_str();
    let host = Host::new(&[k]);
    plain(&host, "first", "");
    plain(&host, "second", "");
    host.kcache(&["build", "first", "-k", k]).exits(0);
    let index = rusqlite::Connection::open(host.store().join("index.sqlite")).unwrap();
    index.execute_batch("BEGIN IMMEDIATE").unwrap();
    let run = impatient(&host, &["build", "second", "-k", k]);
    assert!(run.code == Some(8), "{}", run.shown());
    run.one_error().says(&["waiting for another kcache", "index.sqlite", "timed out after"]);
    let patient = Running::start(&host, &["install", "-k", k]);
    wait_for_wait(&patient);
    index.execute_batch("ROLLBACK").unwrap();
    patient.end().exits(0);
    assert_eq!(installed(&host, k), ["first", "second"].map(str::to_owned).into());
    check_store(&host);
}
