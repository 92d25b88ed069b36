//! What an install leaves when it is cut off: `kill -9`, a full disk, an I/O error. Promises 1, 2, 3 and 9.
//!
//! The set is three modules; "old" and "new" are two builds of it, both in the store, so that a run is all installation.
//! After each cut the kernel must have all three of one build, as modprobe sees it; the next run must give the new ones.

use crate::host::{FIXTURES, Host, Run, is_root, run, wait_for_second};
use crate::packages::{TRIO, trio};
use fs_err as fs;
use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Set = BTreeMap<String, Option<String>>;

struct Switch {
    host: Host,
    /// The two builds' texts and sets; the first is the one that is installed.
    sets: [(&'static str, Set); 2],
    /// How long an install takes when nothing cuts it off.
    takes: Duration,
}

impl Switch {
    fn new() -> Switch {
        let host = Host::new(&[&FIXTURES.new]);
        let mut takes = Duration::ZERO;
        let mut install = |text| {
            trio(&host, text);
            host.kcache(&["build", "-k", &FIXTURES.new]).exits(0);
            let start = Instant::now();
            host.kcache(&install()).exits(0);
            takes = start.elapsed();
            (text, resolved(&host.root()))
        };
        let (second, first) = (install("second"), install("first"));
        assert_ne!(first.1, second.1);
        Switch { host, sets: [first, second], takes }
    }

    /// Cuts an install of the other set off with `cut`; whatever it returns, the kernel has one set or the other, and
    /// an install that is left alone then completes.
    #[track_caller]
    fn cut_off<T>(&mut self, what: &str, cut: impl FnOnce(&Host) -> T) -> T {
        trio(&self.host, self.sets[1].0);
        let returned = cut(&self.host);
        let found = resolved(&self.host.root());
        assert!(
            self.sets.iter().any(|(_, set)| *set == found),
            "{what}: a mixture: {found:?} of {:?}",
            self.sets
        );
        self.host.kcache(&install()).exits(0);
        assert_eq!(resolved(&self.host.root()), self.sets[1].1, "{what}: the next run");
        assert_eq!(self.host.modules(&FIXTURES.new).len(), TRIO.len(), "{what}: the old generation is gone");
        self.sets.swap(0, 1);
        returned
    }
}

fn install() -> [&'static str; 3] {
    ["install", "-k", &FIXTURES.new]
}

fn resolved(root: &Path) -> Set {
    Host::resolved(root, &FIXTURES.new, &TRIO)
}

#[test]
fn promise_1_kill_at_ten_random_moments_leaves_old_or_new() {
    let mut switch = Switch::new();
    let takes = switch.takes;
    for _ in 0..10 {
        let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
        let moment = takes.mul_f64(random);
        switch.cut_off(&format!("killed after {moment:?} of {takes:?}"), |host| {
            let mut child =
                host.command(&install()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            std::thread::sleep(moment);
            child.kill().unwrap();
            child.wait().unwrap();
            wait_for_second(child.id());
        });
    }
}

const RENAMES: &str = "rename,renameat,renameat2";

/// Runs an install with a fault at the `when`th call of a kind in each of its threads and processes; returns the calls
/// that the fault hit, as strace prints them.
fn with_fault(host: &Host, calls: &str, fault: &str, when: usize) -> (Run, Vec<String>) {
    let trace = host.dir().join("trace");
    let (only, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}:when={when}"));
    let strace = ["strace", "-f", "-y", "-o", trace.to_str().unwrap(), "-e", &only, "-e", &inject];
    let run = host.kcache_under(&strace, &install());
    let text = fs::read_to_string(&trace).unwrap();
    let hit = |line: &&str| line.contains("(INJECTED)") || line.contains("killed by SIGKILL");
    (run, text.lines().filter(hit).map(str::to_owned).collect())
}

/// Cuts off at the first, second, ... call of a kind until there is no such call any more.
fn at_each(calls: &str, fault: &str) {
    let mut switch = Switch::new();
    for when in 1.. {
        let what = format!("{fault} at {calls} {when}");
        let (run, hit, found) = switch.cut_off(&what, |host| {
            let (run, hit) = with_fault(host, calls, fault, when);
            (run, hit, resolved(&host.root()))
        });
        if hit.is_empty() {
            assert!(when > 5, "{what}: no such call\n{}", run.shown());
            return;
        }
        let of_kernel = hit.iter().any(|line| line.contains("/lib/modules"));
        // What fails after the commit, when the old set is cleared away, is told and left to the next run.
        let is_true = found == switch.sets[0].1 && run.stderr.contains("the next run will delete it");
        assert!(
            !of_kernel || run.code != Some(0) || is_true,
            "{what}: success is claimed\n{}\n{}",
            hit.join("\n"),
            run.shown()
        );
        assert!(when < 200, "no end of faults\n{}", run.shown());
    }
}

#[test]
fn promise_9_killed_before_any_rename_the_next_run_finishes_or_undoes() {
    at_each(RENAMES, "signal=SIGKILL");
}

#[test]
fn promise_9_a_removal_that_was_killed_after_its_commit_is_finished_by_the_next() {
    let host = Host::new(&[&FIXTURES.new]);
    trio(&host, "removed");
    host.kcache(&install()).exits(0);
    let remove = ["remove", "trio", "-k", &FIXTURES.new];
    let staging = host.kernel(&FIXTURES.new).with_file_name(format!(".kcache-{}", FIXTURES.new));
    let journal = staging.join("journal.json");
    let strace =
        ["strace", "-f", "-P", journal.to_str().unwrap(), "-e", "inject=unlink,unlinkat:signal=SIGKILL"];
    host.kcache_under(&strace, &remove);
    assert!(journal.exists(), "it was killed before it closed its journal");
    host.kcache(&remove).exits(2).says(&["completed an interrupted installation", "not installed"]);
    assert!(!staging.exists());
}

#[test]
fn promise_1_an_fsync_that_fails_is_never_taken_for_success() {
    at_each("fsync,fdatasync", "error=EIO");
}

#[test]
fn promise_2_what_is_installed_was_synced_before_it_was_renamed_in() {
    let host = Host::new(&[&FIXTURES.new]);
    trio(&host, "durable");
    host.kcache(&["build", "-k", &FIXTURES.new]).exits(0);
    let trace = host.dir().join("trace");
    let calls = format!("trace=fsync,fdatasync,{RENAMES}");
    let strace = ["strace", "-f", "-y", "-s", "4096", "-e", &calls, "-o", trace.to_str().unwrap()];
    host.kcache_under(&strace, &install()).exits(0);

    let text = fs::read_to_string(&trace).unwrap();
    let lines: Vec<&str> = text.lines().filter(|line| line.contains("= 0")).collect();
    let renames = |line: &&str, what: &str| line.contains("rename") && line.contains(what);
    let commit = lines.iter().rposition(|line| renames(line, "modules.")).expect("indexes are renamed in");
    let enter = lines.iter().position(|line| renames(line, "updates/kcache-") || renames(line, "\"kcache-"));
    let enter = enter.expect("the generation is renamed in");
    let synced = |what: &str, lines: &[&str]| {
        let found = lines.iter().any(|line| line.contains("sync(") && line.contains(what));
        assert!(found, "no fsync of {what} in\n{}", lines.join("\n"));
    };

    assert!(
        lines[commit].contains("modules.dep.bin"),
        "the last rename is not the commit: {}",
        lines[commit]
    );
    assert!(enter < commit, "the generation comes in before the commit");
    for module in TRIO {
        synced(&format!("{module}.ko"), &lines[..enter]);
    }
    synced("modules.dep.bin", &lines[..commit]);
    synced(&format!("lib/modules/{}/updates>", FIXTURES.new), &lines[enter..commit]);
    synced(&format!("lib/modules/{}>", FIXTURES.new), &lines[commit..]);
}

#[test]
fn promise_3_depmod_never_runs_on_the_live_tree() {
    let host = Host::new(&[&FIXTURES.new]);
    trio(&host, "staged");
    let trace = host.dir().join("trace");
    let strace = ["strace", "-f", "-s", "4096", "-e", "trace=execve", "-o", trace.to_str().unwrap()];
    host.kcache_under(&strace, &[&install()[..], &["--depmod=always"]].concat()).exits(0);
    let text = fs::read_to_string(&trace).unwrap();
    let depmods: Vec<&str> =
        text.lines().filter(|line| line.contains("depmod\"") && line.ends_with("= 0")).collect();
    assert_eq!(depmods.len(), 1, "one depmod per kernel and transaction:\n{}", depmods.join("\n"));
    let live = format!("\"{}\"", host.root().display());
    assert!(depmods[0].contains("\"-b\"") && !depmods[0].contains(&live), "{}", depmods[0]);
    // Another change needs none: it is only asked for its version.
    host.kcache_under(&strace, &["remove", "--all", "-k", &FIXTURES.new]).exits(0);
    let text = fs::read_to_string(&trace).unwrap();
    assert!(!text.lines().any(|line| line.contains("depmod\"") && line.contains("\"-b\"")), "{text}");
}

#[test]
fn promise_3_the_published_indexes_are_what_depmod_makes_of_the_tree() {
    let host = Host::new(&[&FIXTURES.new]);
    trio(&host, "indexed");
    host.kcache(&install()).exits(0);
    let published = host.tree();
    run(Command::new("depmod").env("PATH", crate::host::PATH).arg("-b").arg(host.root()).arg(&FIXTURES.new));
    let indexed = |tree: BTreeMap<std::path::PathBuf, String>| -> Vec<_> {
        tree.into_iter().filter(|(path, _)| path.to_string_lossy().contains("/modules.")).collect()
    };
    assert_eq!(indexed(published), indexed(host.tree()));
}

/// Installs with /lib/modules on a file system that has this many KiB left; the tree as it was afterwards is in DIR/after.
fn on_a_full_disk(host: &Host, free: usize) -> Run {
    let script = r#"set -e; modules=$1/root/lib/modules; mkdir -p "$1/disk"
        size=$(du -sk --apparent-size "$modules" | cut -f1)
        mount -t tmpfs -o mode=755,size=$((size * 2))k none "$1/disk"
        cp -a "$modules/." "$1/disk/"
        left=$(df -k --output=avail "$1/disk" | tail -n1)
        [ "$left" -le "$2" ] || head -c $(((left - $2) * 1024)) /dev/zero >"$1/disk/filler"
        mount --bind "$1/disk" "$modules"
        shift 2; code=0; "$@" || code=$?
        dir=${modules%/root/lib/modules}; rm -rf "$dir/after"; mkdir -p "$dir/after/lib"
        rm -f "$modules/filler"; cp -a "$modules" "$dir/after/lib/"; exit $code"#;
    let (dir, free) = (host.dir().to_str().unwrap(), free.to_string());
    host.kcache_under(
        &["unshare", "-m", "--propagation", "private", "bash", "-c", script, "sh", dir, &free],
        &install(),
    )
}

#[test]
fn promise_1_a_full_disk_leaves_the_old_set() {
    if !is_root() {
        return;
    }
    let switch = Switch::new();
    let [(_, old), (text, new)] = &switch.sets;
    trio(&switch.host, text);
    let mut failures = 0;
    for free in [0, 4, 16, 64, 128, 256, 512, 1024, 4096] {
        let run = on_a_full_disk(&switch.host, free);
        let found = resolved(&switch.host.dir().join("after"));
        if run.code == Some(0) {
            assert_eq!(found, *new, "{free} KiB free\n{}", run.shown());
        } else {
            assert_eq!(found, *old, "{free} KiB free\n{}", run.shown());
            run.exits(1).one_error();
            failures += 1;
        }
    }
    assert!((1..9).contains(&failures), "{failures} of 9 sizes were too small");
}
