//! Tests with misbehaving guests, played by shell scripts in QEMU's place.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::AtomicBool;

use super::*;

/// Beginning of every script: `$accel` is kvm or tcg, `$from` the first step to test, and `say` writes to the report.
const PREAMBLE: &str = r#"#!/bin/sh
for last; do :; done
from=${last##* }
case "$*" in *"-accel kvm"*) accel=kvm ;; *) accel=tcg ;; esac
exec 3>report
say() { printf '%s\n' "$1" >&3; }
ready() { say '{"event":"ready","release":"6.1-test"}'; }
testing() { say "{\"event\":\"testing\",\"step\":$1}"; }
tested() {
    say "{\"event\":\"tested\",\"step\":$1,\"lacking\":null,\"loading\":\"well\",\"listed\":true,\"unloading\":\"well\",\"tainted\":[0,0],\"taints\":\"OE\",\"log\":[],\"seconds\":0.1}"
}
"#;

/// A machine whose QEMU is a script.
struct Bench {
    dir: tempfile::TempDir,
    kvm: bool,
    limit: Duration,
    cancel: AtomicBool,
    identity: BuildIdentity,
}

/// The outcome, and the messages on the way.
struct Run {
    outcome: Result<TestOutcome, Error>,
    notes: Vec<String>,
    console: Vec<String>,
}

#[derive(Default)]
struct Notes {
    notes: Vec<String>,
    console: Vec<String>,
}

impl TestWatch for Notes {
    fn console(&mut self, line: &str) {
        self.console.push(line.to_owned());
    }

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }
}

impl Bench {
    fn new(script: &str) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let qemu = dir.path().join("qemu");
        fs::write(&qemu, format!("{PREAMBLE}{script}")).unwrap();
        fs::set_permissions(&qemu, PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(dir.path().join("vmlinuz"), "image").unwrap();
        fs::create_dir(dir.path().join("scratch")).unwrap();
        let (limit, cancel) = (Duration::from_secs(60), AtomicBool::new(false));
        Bench { dir, kvm: false, limit, cancel, identity: BuildIdentity::Own }
    }

    fn with_kvm(mut self) -> Bench {
        self.kvm = true;
        self
    }

    /// A boot test of modules `a` and `b`.
    fn run(&self) -> Run {
        let module = |name: &str| TestModule { name: name.to_owned(), bytes: Vec::new() };
        let plan = LoadPlan::new(vec![module("a"), module("b")], None, &[]).unwrap();
        let test = BootTest {
            machine: machine::of_arch("x86_64").unwrap(),
            qemu: &self.dir.path().join("qemu"),
            setpriv: Path::new("/usr/bin/setpriv"),
            identity: &self.identity,
            kvm: self.kvm,
            image: &self.dir.path().join("vmlinuz"),
            release: "6.1-test",
            program: &OwnProgram { path: "/bin/true".into(), libraries: Vec::new() },
            memory: None,
            sig_enforce: false,
            limit: self.limit,
            scratch: &self.dir.path().join("scratch"),
            cancel: &self.cancel,
        };
        let mut notes = Notes::default();
        let outcome = test.run(plan, &mut notes);
        Run { outcome, notes: notes.notes, console: notes.console }
    }

    /// Checks that the script, which wrote its pid into the scratch directory, is not running any more.
    #[track_caller]
    fn nothing_is_left(&self) {
        let pid = fs::read_to_string(self.dir.path().join("scratch/pid")).unwrap();
        assert!(!Path::new("/proc").join(pid.trim()).exists());
    }
}

impl Run {
    #[track_caller]
    fn verdicts(&self) -> Vec<(TestState, Option<&str>)> {
        let outcome = self.outcome.as_ref().unwrap();
        outcome.verdicts.iter().map(|verdict| (verdict.state, verdict.error.as_deref())).collect()
    }

    #[track_caller]
    fn error(self) -> String {
        self.outcome.unwrap_err().to_string()
    }
}

const WELL: &str = "ready; testing 0; tested 0; testing 1; tested 1\n";
const BOTH: [(TestState, Option<&str>); 2] = [(TestState::Loads, None), (TestState::Loads, None)];

#[test]
fn a_successful_guest_gives_a_verdict_for_each_module() {
    let run = Bench::new(&format!("echo hello; printf 'and more'; {WELL}")).run();
    assert_eq!(run.verdicts(), BOTH);
    assert_eq!(run.console, ["hello", "and more"]);
    assert_eq!(run.outcome.unwrap().acceleration, Acceleration::Tcg);
}

#[test]
fn a_kvm_that_works_is_used() {
    let run = Bench::new(&format!("[ $accel = kvm ] || exit 1\n{WELL}")).with_kvm().run();
    assert_eq!(run.verdicts(), BOTH);
    assert_eq!(run.outcome.unwrap().acceleration, Acceleration::Kvm);
}

#[test]
fn a_hanging_kvm_is_replaced_by_emulation() {
    let hangs = "[ $accel = tcg ] || { echo $$ >pid; exec sleep 600; }\n";
    let bench = Bench::new(&format!("{hangs}{WELL}")).with_kvm();
    let run = bench.run();
    assert_eq!(run.verdicts(), BOTH);
    assert!(run.notes[0].contains("no output from the guest for 3 s"), "{:?}", run.notes);
    assert_eq!(run.outcome.unwrap().acceleration, Acceleration::Tcg);
    bench.nothing_is_left();
}

#[test]
fn a_failing_kvm_is_reported_with_qemus_message() {
    let ends = "[ $accel = tcg ] || { echo 'failed to set MSR' >&2; exit 1; }\n";
    let run = Bench::new(&format!("{ends}{WELL}")).with_kvm().run();
    assert_eq!(run.verdicts(), BOTH);
    assert!(run.notes[0].ends_with("failed to set MSR"), "{:?}", run.notes);
}

#[test]
fn a_qemu_without_seccomp_is_used() {
    let lacks =
        "case \"$*\" in *-sandbox*) echo 'qemu: -sandbox support is not enabled' >&2; exit 1 ;; esac\n";
    let run = Bench::new(&format!("{lacks}{WELL}")).run();
    assert_eq!(run.verdicts(), BOTH);
    assert!(run.notes[0].starts_with("this QEMU was built without seccomp"), "{:?}", run.notes);
}

#[test]
fn a_failing_qemu_is_reported_with_its_message() {
    let run = Bench::new("echo 'no such machine' >&2; exit 1").run();
    assert_eq!(run.error(), "QEMU ended with status 1: no such machine");
}

#[test]
fn a_kernel_that_does_not_boot_keeps_its_last_console_lines() {
    let run = Bench::new("echo 'Kernel panic - not syncing: no init'").run();
    assert_eq!(run.verdicts(), [(TestState::Untested, Some("the guest ended")); 2]);
    assert_eq!(run.outcome.unwrap().verdicts[1].log, ["Kernel panic - not syncing: no init"]);
}

#[test]
fn garbage_is_not_a_report() {
    let run =
        Bench::new("say garbage; say '{\"event\":\"tested\"}'; say '{\"event\":\"testing\",\"step\":7}'")
            .run();
    assert_eq!(run.verdicts(), [(TestState::Untested, Some("the guest ended")); 2]);
}

#[test]
fn a_panic_fails_the_loaded_module_and_another_guest_continues() {
    let panics =
        "if [ $from = 0 ]; then ready; testing 0; echo '[    1.5] Kernel panic - not syncing: a'; exit; fi\n";
    let run = Bench::new(&format!("{panics}ready; testing 1; tested 1")).run();
    assert_eq!(run.verdicts(), [(TestState::Fails, Some("Kernel panic - not syncing: a")), BOTH[1]]);
}

#[test]
fn another_guest_continues_after_an_oops() {
    let run = Bench::new("ready; testing $from; tested $from").run();
    assert_eq!(run.verdicts(), BOTH);
}

#[test]
fn a_guest_without_progress_is_the_last() {
    let run = Bench::new("ready; [ $from = 0 ] && tested 0; tested 0").run();
    assert_eq!(run.verdicts(), [BOTH[0], (TestState::Untested, Some("the guest ended"))]);
}

#[test]
fn the_time_limit_ends_everything() {
    let mut bench = Bench::new("echo $$ >pid; ready; testing 0; exec sleep 600");
    bench.limit = Duration::from_secs(1);
    let run = bench.run();
    let over = Some("timed out");
    assert_eq!(run.verdicts(), [(TestState::Fails, over), (TestState::Untested, over)]);
    bench.nothing_is_left();
}

#[test]
fn a_guest_with_endless_output_is_killed() {
    let run = Bench::new("echo $$ >pid; exec yes \"$(printf '%04000d' 0)\"").run();
    assert_eq!(run.verdicts(), [(TestState::Untested, Some("the guest printed too much output")); 2]);
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    let bench = Bench::new("echo $$ >pid; echo hello; exec sleep 600");
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.run());
        while fs::read_to_string(bench.dir.path().join("scratch/pid")).unwrap_or_default().is_empty() {
            std::thread::sleep(Duration::from_millis(10));
        }
        bench.cancel.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(run.join().unwrap().error(), "interrupted");
    });
    bench.nothing_is_left();
}

#[test]
fn an_image_of_another_kernel_is_an_error() {
    let run = Bench::new("say '{\"event\":\"ready\",\"release\":\"6.1-other\"}'").run();
    assert!(run.error().ends_with("vmlinuz is kernel 6.1-other, not 6.1-test"));
}

#[test]
fn a_failure_of_the_guests_first_process_is_an_error() {
    let run = Bench::new("ready; say '{\"event\":\"trouble\",\"what\":\"no /proc\"}'").run();
    assert_eq!(run.error(), "in the guest: no /proc");
}

#[test]
fn a_missing_qemu_is_reported_with_its_package() {
    let bench = Bench::new("");
    fs::remove_file(bench.dir.path().join("qemu")).unwrap();
    assert!(matches!(bench.run().outcome, Err(Error::NoQemu { package: "qemu-system-x86", .. })));
}

/// A guest that has broken out of QEMU has no privileges, and its directory is not its own.
#[test]
fn qemu_can_neither_change_nor_replace_its_files() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let script = "id -u; rm -f initramfs; ln -s victim initramfs; echo x >>vmlinuz; echo x >made; ready; tested 0; tested 1";
    let mut bench = Bench::new(script);
    let uids = crate::sandbox::Uids::new(61184..61185, 0, &bench.dir.path().join("uids"));
    bench.identity = BuildIdentity::Drop(uids.take());
    fs::set_permissions(bench.dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let run = bench.run();
    assert_eq!(run.console[0], "61184", "{:?}", run.console);
    assert_eq!(run.verdicts().len(), 2);
    for name in ["made", "victim", "vmlinuz"] {
        assert!(!bench.dir.path().join("scratch").join(name).exists(), "{name}");
    }
    assert!(fs::symlink_metadata(bench.dir.path().join("scratch").join(INITRAMFS)).unwrap().is_file());
}
