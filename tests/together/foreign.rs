//! Others who work on the same kernel: `depmod` on the live tree, and module files that come and go as DKMS's do. They know
//! nothing of kcache's locks.

use super::{Running, check_litter, is_torture, say, wait_until, with_depmod};
use crate::host::{FIXTURES, Host, PATH};
use crate::packages::plain;
use fs_err as fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn k() -> &'static str {
    &FIXTURES.new
}

/// A host with a package that is built, and a module of somebody else's that is not in place yet.
fn host() -> (Host, PathBuf) {
    let host = Host::new(&[k()]);
    plain(&host, "foreign", "");
    host.kcache(&["install", "foreign", "-k", k()]).exits(0);
    let (_, module) = host.modules(k()).pop_first().unwrap();
    let theirs = host.dir().join("foreign.ko");
    fs::copy(module, &theirs).unwrap();
    host.kcache(&["remove", "foreign", "-k", k()]).exits(0);
    fs::remove_dir_all(host.root().join("usr/src/foreign-1.0")).unwrap();
    plain(&host, "ours", "");
    host.kcache(&["build", "-k", k()]).exits(0);
    (host, theirs)
}

/// As DKMS does it.
fn dkms_installs(host: &Host, theirs: &Path) {
    let place = host.kernel(k()).join("updates/dkms");
    fs::create_dir_all(&place).unwrap();
    fs::copy(theirs, place.join("foreign.ko")).unwrap();
    depmod(host);
}

fn dkms_removes(host: &Host) {
    fs::remove_file(host.kernel(k()).join("updates/dkms/foreign.ko")).unwrap();
    depmod(host);
}

/// Its exit code is its own business: what it reads may vanish under it.
fn depmod(host: &Host) {
    Command::new("depmod").env("PATH", PATH).arg("-b").arg(host.root()).arg(k()).output().unwrap();
}

fn is_found(host: &Host, module: &str) -> bool {
    Host::resolved(&host.root(), k(), &[module])[module].is_some()
}

/// While kcache's own depmod is at work, before or after it has read the tree, somebody does something and is done.
fn meanwhile(
    script: &str,
    act: impl Fn(&Host, &Path),
    before: impl Fn(&Host, &Path),
) -> (Host, crate::host::Run) {
    let (host, theirs) = host();
    before(&host, &theirs);
    let run = Running::of(&host, with_depmod(&host, &["install", "ours", "-k", k()], script), "install");
    wait_until("kcache's depmod", || host.root().join("here").exists());
    act(&host, &theirs);
    fs::write(host.root().join("go"), "").unwrap();
    let run = run.end();
    (host, run)
}

const BEFORE: &str = "[ -e here ] || { touch here; while [ ! -e go ]; do sleep 0.02; done; }; depmod \"$@\"";
const AFTER: &str =
    "depmod \"$@\" || exit; [ -e here ] || { touch here; while [ ! -e go ]; do sleep 0.02; done; }";

#[test]
fn a_module_that_came_while_ours_was_indexed_is_in_the_indexes_too() {
    for script in [BEFORE, AFTER] {
        let (host, run) = meanwhile(script, dkms_installs, |_, _| ());
        run.exits(0);
        assert!(is_found(&host, "ours") && is_found(&host, "foreign"), "{script}");
        check_litter(&host);
    }
}

#[test]
fn a_module_that_went_while_ours_was_indexed_is_not_listed_any_more() {
    for script in [BEFORE, AFTER] {
        let (host, run) = meanwhile(script, |host, _| dkms_removes(host), dkms_installs);
        run.exits(0);
        // `resolved` fails where the indexes lead to a file that is not there.
        assert!(is_found(&host, "ours") && !is_found(&host, "foreign"), "{script}");
        check_litter(&host);
    }
}

#[test]
fn beside_depmod_and_dkms_nothing_of_others_is_lost_and_the_next_run_has_it_all() {
    let (host, theirs) = host();
    let digest = blake3::hash(&fs::read(&theirs).unwrap());
    let (done, indexed) = (AtomicBool::new(false), AtomicUsize::new(0));
    let rounds = if is_torture() { 100 } else { 5 };
    let mut runs = Vec::new();
    std::thread::scope(|threads| {
        let others = threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                dkms_installs(&host, &theirs);
                let left = fs::read(host.kernel(k()).join("updates/dkms/foreign.ko")).unwrap();
                assert_eq!(blake3::hash(&left), digest, "their file is another");
                dkms_removes(&host);
                indexed.fetch_add(2, Ordering::Relaxed);
            }
            dkms_installs(&host, &theirs);
        });
        for _ in 0..rounds {
            let act = if host.modules(k()).is_empty() { "install" } else { "remove" };
            runs.push(Running::start(&host, &[act, "ours", "-k", k()]).end());
        }
        done.store(true, Ordering::Relaxed);
        others.join().unwrap();
    });
    let ended = |code| runs.iter().filter(|run| run.code == Some(code)).count();
    let (done, behind, crowded) = (ended(0), ended(2), ended(8));
    for run in &runs {
        match run.code {
            Some(0) => {}
            // A depmod of theirs had read the tree before the commit, and wrote its indexes after it.
            Some(2) => assert!(run.stderr.contains("'ours' is not installed"), "{}", run.shown()),
            Some(8) => assert!(run.stderr.contains("another program keeps changing"), "{}", run.shown()),
            _ => panic!("{}", run.shown()),
        }
    }
    host.kcache(&["install", "ours", "-k", k()]).exits(0);
    assert!(is_found(&host, "ours") && is_found(&host, "foreign"));
    assert_eq!(blake3::hash(&fs::read(host.kernel(k()).join("updates/dkms/foreign.ko")).unwrap()), digest);
    check_litter(&host);
    assert!(done > 0, "not one run came to an end");
    say(&format!(
        "{rounds} runs beside {} of depmod: {done} done, {behind} found that depmod had overlooked the last one, {crowded} gave up",
        indexed.into_inner()
    ));
}
