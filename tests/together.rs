//! Many at once: processes of kcache beside each other, beside others who work on the same kernel, and beside a clock and files
//! that change under them.
//!
//! Every run must end by itself, with an exit code that is documented, and what is installed in the end must be what some order
//! of the runs would have left. Who waits says so. A watchdog ends what does not end: how long anything takes is never judged.
//!
//! `KCACHE_TORTURE=1` asks for the whole instead of a sample; `KCACHE_SEED=N` repeats a run.

mod clock;
mod foreign;
mod meanwhile;
mod stopped;

use crate::host::{FIXTURES, Host, Run};
use crate::packages::plain;
use fs_err as fs;
use kcache::store::{Store, Waiting};
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing here takes a tenth of it.
const FOREVER: Duration = Duration::from_secs(600);

/// Whether everything is asked for.
fn is_torture() -> bool {
    std::env::var_os("KCACHE_TORTURE").is_some()
}

#[expect(
    clippy::print_stderr,
    reason = "figures and what was left out, for who runs the tests with --nocapture"
)]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Returns when something has come about; fails when it does not.
#[track_caller]
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < FOREVER, "{what}: never");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A run that is under way. What it prints goes to files, so that nobody has to read along.
struct Running {
    what: String,
    child: Child,
    printed: [PathBuf; 2],
}

impl Running {
    fn start(host: &Host, arguments: &[&str]) -> Running {
        Running::of(host, host.command(arguments), &arguments.join(" "))
    }

    fn of(host: &Host, mut command: Command, what: &str) -> Running {
        let printed = ["out", "err"].map(|stream| {
            tempfile::Builder::new()
                .prefix(stream)
                .tempfile_in(host.dir())
                .unwrap()
                .into_temp_path()
                .keep()
                .unwrap()
        });
        let [out, err] = printed.each_ref().map(|path| fs::File::create(path).unwrap().into_file());
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap();
        Running { what: what.to_owned(), child, printed }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        // Where a run on another root goes on in a second process, whoever stops the run stops both.
        let pid = pid.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            let _ = rustix::process::kill_process(rustix::process::Pid::from_raw(child).unwrap(), signal);
        }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.printed[1]).unwrap()
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What came of it; one that does not end is killed, and that is a failure.
    #[track_caller]
    fn end(mut self) -> Run {
        let start = Instant::now();
        while !self.has_ended() {
            if start.elapsed() > FOREVER {
                let said = self.said();
                self.child.kill().unwrap();
                panic!("`{}` does not end; so far it said\n{said}", self.what);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let status = self.child.wait().unwrap();
        let [stdout, stderr] = self.printed.each_ref().map(|path| fs::read(path).unwrap());
        self.printed.iter().for_each(|path| fs::remove_file(path).unwrap());
        Run::from(std::process::Output { status, stdout, stderr })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The packages that are installed for a kernel, each of which modprobe finds with its module of the same name.
#[track_caller]
fn installed(host: &Host, kernel: &str) -> BTreeSet<String> {
    let modules = host.modules(kernel);
    let packages: Vec<&str> = modules.keys().map(|name| name.split('/').next().unwrap()).collect();
    for (name, found) in Host::resolved(&host.root(), kernel, &packages) {
        assert!(found.is_some(), "{name} is there for {kernel}, and modprobe does not find it");
    }
    packages.into_iter().map(str::to_owned).collect()
}

/// Nothing is left beside the kernels' trees, and in the store nothing that somebody was still at.
#[track_caller]
fn check_litter(host: &Host) {
    for dir in [host.root().join("lib/modules"), host.store().join("lock"), host.store().join("tmp")] {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let litter: Vec<String> =
            names.filter(|name| name.starts_with('.') || !name.contains("amd64")).collect();
        assert!(litter.is_empty(), "left behind: {litter:?}");
    }
}

/// Every entry of the store has all its objects, whole, and a row; returns how many there are.
#[track_caller]
fn check_store(host: &Host) -> usize {
    let waiting = Waiting { limit: FOREVER, print: &|_| () };
    let store = Store::open_existing(&host.store(), &waiting).unwrap().expect("there is a store");
    let rows = store.find(&[]).unwrap();
    for row in &rows {
        let entry = store.lookup(&row.key).unwrap().expect("what the index lists is there");
        for output in &entry.manifest().outputs {
            let object = store.read_object(&output.digest, output.size).unwrap();
            assert!(object.is_some(), "{} of {} is missing", output.name, row.key);
        }
    }
    assert_eq!(store.reindex().unwrap(), rows.len() as u64, "entries that the index does not list");
    rows.len()
}

/// Reproducible chance.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let seed = std::env::var("KCACHE_SEED").ok().map(|seed| seed.parse().unwrap());
        Dice(seed.unwrap_or_else(|| RandomState::new().hash_one("seed")))
    }

    fn below(&mut self, end: usize) -> usize {
        let hash = blake3::hash(&self.0.to_le_bytes());
        self.0 = u64::from_le_bytes(hash.as_bytes()[..8].try_into().unwrap());
        (self.0 % end as u64) as usize
    }
}

/// A host with some packages of one module each, all built, and a directory to push to.
fn crowd(kernels: &[&str], packages: &[String]) -> Host {
    let host = Host::new(kernels);
    packages.iter().for_each(|name| drop(plain(&host, name, "first")));
    fs::create_dir(host.dir().join("cache")).unwrap();
    host.kcache(&["build", "-k", "all"]).exits(0);
    host
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("pkg{n}")).collect()
}

#[test]
fn concurrent_installs_of_different_packages_all_succeed_and_report_whom_they_wait_for() {
    let k = FIXTURES.new.as_str();
    let packages = names(if is_torture() { 16 } else { 4 });
    let host = crowd(&[k], &packages);
    let install = |name| ["install", name, "-k", k];
    let (first, others) = packages.split_first().unwrap();
    // The first is in the middle of its transaction until all others have come upon it.
    let script = "touch here; while [ ! -e go ]; do sleep 0.05; done; depmod \"$@\"";
    let holder = Running::of(&host, with_depmod(&host, &install(first.as_str()), script), "the holder");
    wait_until("the holder in its transaction", || host.root().join("here").exists());
    let runs: Vec<Running> =
        others.iter().map(|name| Running::start(&host, &install(name.as_str()))).collect();
    for run in &runs {
        wait_until("a word about waiting", || run.said().contains("waiting for another kcache"));
    }
    fs::write(host.root().join("go"), "").unwrap();
    for run in runs.into_iter().chain([holder]) {
        run.end().exits(0);
    }
    assert_eq!(installed(&host, k), packages.iter().cloned().collect());
    check_litter(&host);
    check_store(&host);
}

#[test]
fn processes_that_make_the_same_entry_on_an_empty_store_build_it_once() {
    let k = FIXTURES.new.as_str();
    let host = Host::new(&[k]);
    plain(&host, "wanted", "by all");
    let runs =
        (0..if is_torture() { 16 } else { 4 }).map(|_| Running::start(&host, &["build", "-k", k, "--json"]));
    let runs: Vec<Run> = runs.collect::<Vec<_>>().into_iter().map(|run| run.end().exits(0)).collect();
    let built = runs.iter().filter(|run| run.outcome().how.as_deref() == Some("built")).count();
    assert_eq!(built, 1, "built {built} times");
    assert_eq!(check_store(&host), 1);
    check_litter(&host);
}

/// What one process is asked to do.
#[derive(Clone, Debug)]
enum Act {
    Install(String),
    Remove(String),
    RollBack,
    Push,
    Rebuild(String),
    Check,
    // `gc` and `verify` belong here, with exit code 0, in every round.
}

impl Act {
    fn some(dice: &mut Dice, packages: &[String]) -> Act {
        let package = packages[dice.below(packages.len())].clone();
        match dice.below(12) {
            0..5 => Act::Install(package),
            5..8 => Act::Remove(package),
            8 => Act::RollBack,
            9 => Act::Push,
            10 => Act::Rebuild(package),
            _ => Act::Check,
        }
    }

    fn start(&self, host: &Host, kernel: &str) -> Running {
        let cache = format!("file://{}", host.dir().join("cache").display());
        let arguments: &[&str] = match self {
            Act::Install(package) => &["install", package, "-k", kernel],
            Act::Remove(package) => &["remove", package, "-k", kernel],
            Act::RollBack => &["rollback", "-k", kernel],
            Act::Push => &["push", "--all", "--unsigned", "--to", &cache],
            Act::Rebuild(package) => &["build", package, "--rebuild", "-k", kernel],
            Act::Check => &["check", "-k", kernel],
        };
        Running::start(host, arguments)
    }

    /// How it may end, whatever the others do.
    fn exits(&self) -> &[i32] {
        match self {
            Act::Install(_) | Act::Push | Act::Rebuild(_) => &[0],
            // Another one may have removed it, or left nothing to go back to.
            Act::Remove(_) | Act::RollBack => &[0, 2],
            // The packages that are not installed now are missing.
            Act::Check => &[0, 3],
        }
    }
}

/// Whether a package may be installed after some acts that ran at once: the last one in some order has decided.
fn may_be(package: &str, was: bool, acts: &[(Act, bool)], is: bool) -> bool {
    let installs = acts.iter().any(|(act, _)| matches!(act, Act::Install(name) if name == package));
    let removes = acts.iter().any(|(act, done)| *done && matches!(act, Act::Remove(name) if name == package));
    let goes_back = acts.iter().any(|(act, done)| *done && matches!(act, Act::RollBack));
    match (installs, removes) {
        _ if goes_back => true,
        (true, true) => true,
        (true, false) => is,
        (false, true) => !is,
        (false, false) => is == was,
    }
}

#[test]
fn what_many_do_at_once_is_what_some_order_of_them_would_have_done() {
    let kernels = [FIXTURES.old.as_str(), FIXTURES.new.as_str()];
    let (packages, mut dice) = (names(5), Dice::new());
    let host = crowd(&kernels, &packages);
    let (rounds, most) = if is_torture() { (60, 16) } else { (3, 8) };
    let mut before: BTreeMap<&str, BTreeSet<String>> =
        kernels.iter().map(|k| (*k, BTreeSet::new())).collect();
    let mut processes = 0;
    for round in 0..rounds {
        let seed = dice.0;
        let mut started = Vec::new();
        for _ in 0..2 + dice.below(most - 1) {
            let (kernel, act) = (kernels[dice.below(2)], Act::some(&mut dice, &packages));
            started.push((kernel, act.clone(), act.start(&host, kernel)));
        }
        processes += started.len();
        let mut ended = Vec::new();
        for (kernel, act, run) in started {
            let run = run.end();
            let documented = run.code.is_some_and(|code| act.exits().contains(&code));
            assert!(documented, "round {round}, KCACHE_SEED={seed}: {act:?} for {kernel}\n{}", run.shown());
            ended.push((kernel, act, run.code == Some(0)));
        }
        for kernel in kernels {
            let acts: Vec<(Act, bool)> = ended
                .iter()
                .filter(|(k, ..)| *k == kernel)
                .map(|(_, act, done)| (act.clone(), *done))
                .collect();
            let now = installed(&host, kernel);
            for package in &packages {
                let (was, is) = (before[kernel].contains(package), now.contains(package));
                assert!(
                    may_be(package, was, &acts, is),
                    "round {round}, KCACHE_SEED={seed}: {package} was {was} and is {is} for {kernel} after {acts:?}"
                );
            }
            before.insert(kernel, now);
        }
        check_litter(&host);
        check_store(&host);
    }
    say(&format!("{processes} processes in {rounds} rounds, 2 to {most} at once"));
}

/// A program that takes depmod's place in a run's PATH; `script` may call `depmod` for the real one. It runs in the root, for a
/// run on another root can write nowhere else.
fn with_depmod(host: &Host, arguments: &[&str], script: &str) -> Command {
    let programs = host.dir().join("programs");
    fs::create_dir_all(&programs).unwrap();
    let path = programs.join("depmod");
    let real =
        ["/usr/sbin/depmod", "/sbin/depmod"].into_iter().find(|path| Path::new(path).exists()).unwrap();
    fs::write(
        &path,
        format!("#!/bin/sh\ndepmod() {{ {real} \"$@\"; }}\ncd {}\n{script}\n", host.root().display()),
    )
    .unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = host.command(arguments);
    command.env("PATH", format!("{}:{}", programs.display(), crate::host::PATH));
    command
}
