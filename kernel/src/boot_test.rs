//! Boot tests: booting a kernel in a disposable virtual machine, and loading modules there.
//!
//! ```text
//! host                                              guest: the kernel's own image, nothing else of this host
//!   plan       modules and their in-tree needs        init = kcache itself (`guest`)
//!   initramfs  kcache, its libraries, the modules     loads each module, checks, unloads it
//!   QEMU       KVM if it proves to work, else TCG     reports on a serial port, reboots
//!   verdicts   <──────────────────────────────────  events
//! ```
//!
//! Guarantees: the running kernel is not affected. The guest has no network, no disk and no file of this host; QEMU
//! runs unprivileged. A test takes no longer than its limit and no more memory than the guest has. However this
//! process ends, QEMU ends with it.
//!
//! A kernel that panics, oopses or hangs is a verdict on the module that was being loaded; another guest tests the
//! others. A KVM that does not work costs only seconds: a guest that gives no sign of life, or does not reach its
//! first process, is killed and emulated instead.
//!
//! The only files are in the scratch directory that is passed in: a copy of the image, the initramfs, a named pipe. A
//! full disk is an error before anything runs. Concurrent tests are independent.

mod attempt;
mod cpio;
pub mod guest;
pub mod machine;
pub mod plan;
pub mod report;
#[cfg(test)]
mod tests;

use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use fs_err as fs;

pub use crate::program::OwnProgram;
pub use machine::{Acceleration, VirtualMachine};
pub use plan::{LoadPlan, Parameter, TestModule};
pub use report::{Event, TestState, TestVerdict};

use crate::bounded_read;
use crate::build::printable;
use crate::index;
use crate::sandbox::BuildIdentity;
use attempt::{Attempt, Ended, How, Listener};
use machine::{Guest, IMAGE, INITRAMFS, Patience};

/// Path of the guest's first process, by which it recognizes itself.
const INIT: &str = "/init";
/// Rounds of adding what the kernel requested in vain. A module loaded in one round may request more, as
/// `hmac(sha256)` requests both of its parts.
const ROUNDS: usize = 3;
/// Requests of one module that are considered.
const MOST_REQUESTS: usize = 32;
/// KVM's device.
pub const KVM: &str = "/dev/kvm";

/// Why a boot test could not be run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// QEMU is not installed.
    #[error("{} does not exist, but boot tests need it", program.display())]
    NoQemu {
        /// Path of the missing program.
        program: PathBuf,
        /// The distributions' package with this program.
        package: &'static str,
    },
    /// QEMU failed to run.
    #[error("{how}: {words}")]
    Qemu {
        /// How it ended.
        how: String,
        /// What it printed on stderr.
        words: String,
    },
    /// The kernel's architecture has no known machine, or kcache itself could not run there.
    #[error("kernels for {arch} cannot be booted here")]
    NoMachine {
        /// The architecture as `uname -m` prints it.
        arch: String,
    },
    /// The image belongs to another kernel.
    #[error("{} is kernel {found}, not {expected}", image.display())]
    OtherKernel {
        /// Path of the image.
        image: PathBuf,
        /// The release to boot.
        expected: String,
        /// The release in the image.
        found: String,
    },
    /// A parameter names a module that is not in the plan.
    #[error("module {name} is not among the modules to load")]
    NoModule {
        /// The module's name as given.
        name: String,
    },
    /// The kernel's module index is corrupt.
    #[error("{} cannot be read", path.display())]
    Index {
        /// Path of `modules.dep.bin`.
        path: PathBuf,
        /// The position and kind of corruption.
        source: index::Error,
    },
    /// The guest's first process failed.
    #[error("in the guest: {what}")]
    Guest {
        /// The error as the guest reported it.
        what: String,
    },
    /// The caller's cancel flag was set.
    #[error("interrupted")]
    Cancelled,
}

/// A boot test of one kernel.
pub struct BootTest<'a> {
    /// The machine for the kernel's architecture.
    pub machine: &'a VirtualMachine,
    /// Path of QEMU.
    pub qemu: &'a Path,
    /// Path of `setpriv` (util-linux).
    pub setpriv: &'a Path,
    /// The user to run QEMU as.
    pub identity: &'a BuildIdentity,
    /// Whether to try KVM before emulation.
    pub kvm: bool,
    /// Path of the kernel's image.
    pub image: &'a Path,
    /// The image's release.
    pub release: &'a str,
    /// This program with its libraries, which becomes the guest's first process.
    pub program: &'a OwnProgram,
    /// Memory of the guest in MiB; by default as much as the modules need.
    pub memory: Option<u64>,
    /// Boot with `module.sig_enforce=1`, so that unsigned modules are refused.
    pub sig_enforce: bool,
    /// Time limit of all guests together.
    pub limit: Duration,
    /// An empty private directory for QEMU's files.
    pub scratch: &'a Path,
    /// Cancels the test when set.
    pub cancel: &'a AtomicBool,
}

/// Receives events of a guest, which are untrusted.
pub trait TestWatch {
    /// A line of the guest's console.
    fn console(&mut self, _line: &str) {}
    /// A module is about to be loaded; its number among those to be tested.
    fn testing(&mut self, _number: usize) {}
    /// A message for the user.
    fn note(&mut self, _text: &str) {}
}

/// Result of a boot test.
#[derive(Debug)]
pub struct TestOutcome {
    /// What ran the guest that got furthest.
    pub acceleration: Acceleration,
    /// Verdicts on the tested modules, in the order in which they were given.
    pub verdicts: Vec<TestVerdict>,
}

/// Lets QEMU's user access a file or directory through its group. A directory owned by that user would be unsafe: a
/// guest that broke out of QEMU could prepare links there, which the next round would follow.
fn share(path: &Path, identity: &BuildIdentity, mode: u32) -> io::Result<()> {
    let Some(uid) = identity.uid() else { return Ok(()) };
    std::os::unix::fs::lchown(path, None, Some(uid))?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

impl BootTest<'_> {
    /// Boots as many guests as needed to test every module of a plan.
    pub fn run(&self, mut plan: LoadPlan, watch: &mut dyn TestWatch) -> Result<TestOutcome, Error> {
        if !self.qemu.is_file() {
            return Err(Error::NoQemu { program: self.qemu.to_owned(), package: self.machine.package });
        }
        let deadline = Instant::now() + self.limit;
        let acceleration = if self.kvm { Acceleration::Kvm } else { Acceleration::Tcg };
        let mut runner = Runner { acceleration, proven: !self.kvm, seccomp: true, deadline };
        let mut verdicts = vec![None; plan.count()];
        for round in 1..=ROUNDS {
            let requests = self.round(&mut runner, &plan, &mut verdicts, watch)?;
            if round == ROUNDS || !reconsider(&mut plan, &mut verdicts, requests)? {
                break;
            }
        }
        let same_name = || "another module of its name was tested".to_owned();
        let untested = || TestVerdict::of_nothing(TestState::Untested, same_name(), Vec::new());
        let verdicts = verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(untested)).collect();
        Ok(TestOutcome { acceleration: runner.acceleration, verdicts })
    }

    /// Boots guests until every module has a verdict. Returns what the kernel requested in vain, by module.
    fn round(
        &self,
        runner: &mut Runner,
        plan: &LoadPlan,
        verdicts: &mut [Option<TestVerdict>],
        watch: &mut dyn TestWatch,
    ) -> Result<Vec<(usize, Vec<String>)>, Error> {
        let initramfs = self.prepare(plan)?;
        let memory = self.memory.unwrap_or_else(|| machine::memory(initramfs));
        let mut results = Results::new(plan, verdicts, watch);
        while let Some(from) = results.next_step() {
            let Runner { acceleration, seccomp, .. } = *runner;
            let guest = Guest { acceleration, seccomp, memory, sig_enforce: self.sig_enforce, from };
            let patience = runner.acceleration.patience().filter(|_| !runner.proven);
            let ended = attempt::run(&self.attempt(guest, patience, runner.deadline), &mut results)?;
            if ended.how == How::Cancelled {
                return Err(Error::Cancelled);
            }
            if runner.seccomp && !ended.sign && ended.words.contains("-sandbox") {
                results.watch.note(&format!("this QEMU was built without seccomp: {}", ended.words));
                runner.seccomp = false;
            } else if runner.proven || ended.ready {
                runner.proven = true;
                self.conclude(&mut results, from, ended)?;
            } else {
                let why = if ended.words.is_empty() { ended.how.words() } else { ended.words };
                results.watch.note(&format!("KVM does not work here, so the guest is emulated: {why}"));
                (runner.acceleration, runner.proven) = (Acceleration::Tcg, true);
            }
        }
        Ok(results.requests)
    }

    fn attempt(&self, guest: Guest, patience: Option<Patience>, deadline: Instant) -> Attempt<'_> {
        Attempt {
            machine: self.machine,
            qemu: self.qemu,
            setpriv: self.setpriv,
            identity: self.identity,
            dir: self.scratch,
            guest,
            patience,
            deadline,
            cancel: self.cancel,
        }
    }

    /// Creates QEMU's files; returns the size of the initramfs in bytes.
    fn prepare(&self, plan: &LoadPlan) -> Result<u64, Error> {
        let (image, initramfs) = (self.scratch.join(IMAGE), self.scratch.join(INITRAMFS));
        if !image.exists() {
            fs::write(&image, bounded_read::bytes(self.image, bounded_read::MOST_DATA)?)?;
        }
        let size = self.write_initramfs(plan, &initramfs)?;
        for (path, mode) in [(self.scratch, 0o710), (&image, 0o640), (&initramfs, 0o640)] {
            share(path, self.identity, mode)?;
        }
        Ok(size)
    }

    fn write_initramfs(&self, plan: &LoadPlan, path: &Path) -> Result<u64, Error> {
        let mut cpio = cpio::Cpio::new(BufWriter::new(fs::File::create(path)?));
        for directory in ["/proc", "/sys", "/dev", crate::program::LIBRARIES] {
            cpio.directory(directory)?;
        }
        // The kernel opens /dev/console for the first process, which cannot create it before that.
        cpio.device("/dev/console", (5, 1))?;
        for (inside, bytes) in self.program.files(INIT)? {
            cpio.file(&inside, &bytes)?;
        }
        for (step, bytes) in plan.steps.iter().zip(&plan.bytes) {
            cpio.file(&step.file, bytes)?;
        }
        let orders = guest::Orders {
            report: self.machine.report.to_owned(),
            steps: plan.steps.clone(),
            answers: plan.answers.clone(),
        };
        cpio.file(guest::ORDERS, &serde_json::to_vec(&orders).map_err(io::Error::other)?)?;
        Ok(cpio.finish()?)
    }

    /// Derives verdicts from the end of a guest that began with step `from`, for modules it did not report on.
    fn conclude(&self, results: &mut Results, from: usize, ended: Ended) -> Result<(), Error> {
        if let Some(what) = results.trouble.take() {
            return Err(Error::Guest { what: printable(&what) });
        }
        if let Some(found) = results.release.take_if(|found| found != self.release) {
            let (image, expected) = (self.image.to_owned(), self.release.to_owned());
            return Err(Error::OtherKernel { image, expected, found: printable(&found) });
        }
        if !ended.sign && matches!(ended.how, How::Exited(_)) {
            return Err(Error::Qemu { how: ended.how.words(), words: ended.words });
        }
        if let Some(step) = results.testing.take() {
            results.blame(step, &ended);
        }
        // After an oops another guest tests the others; but a guest that made no progress would not be the last.
        if ended.how == How::TimedOut || results.next_step() == Some(from) {
            results.give_up(&ended);
        }
        Ok(())
    }
}

/// Withdraws verdicts on modules that may have failed because a request of the kernel was not answered, if the plan
/// can be completed with what was requested. False if there are none.
fn reconsider(
    plan: &mut LoadPlan,
    verdicts: &mut [Option<TestVerdict>],
    requests: Vec<(usize, Vec<String>)>,
) -> Result<bool, Error> {
    let mut any = false;
    for (number, names) in requests {
        if verdicts[number]
            .as_ref()
            .is_none_or(|verdict| verdict.state.is_good() && verdict.state != TestState::NoDevice)
        {
            continue;
        }
        let mut is_new = false;
        for name in names.into_iter().take(MOST_REQUESTS) {
            is_new |= plan.answer(&name)?;
        }
        verdicts[number].take_if(|_| is_new);
        any |= is_new;
    }
    Ok(any)
}

/// What is known about running guests.
struct Runner {
    acceleration: Acceleration,
    /// A guest started with this acceleration, or there is no alternative.
    proven: bool,
    /// Run QEMU with its seccomp filter, which it may have been built without.
    seccomp: bool,
    deadline: Instant,
}

/// Results so far.
struct Results<'a> {
    plan: &'a LoadPlan,
    /// Verdict of each module to be tested.
    verdicts: &'a mut [Option<TestVerdict>],
    /// Requests of the kernel that were not answered, by module.
    requests: Vec<(usize, Vec<String>)>,
    /// The step that began and was not reported as finished.
    testing: Option<usize>,
    release: Option<String>,
    trouble: Option<String>,
    watch: &'a mut dyn TestWatch,
}

impl<'a> Results<'a> {
    fn new(
        plan: &'a LoadPlan,
        verdicts: &'a mut [Option<TestVerdict>],
        watch: &'a mut dyn TestWatch,
    ) -> Self {
        Self { plan, verdicts, requests: Vec::new(), testing: None, release: None, trouble: None, watch }
    }

    /// The first step to test that has no verdict.
    fn next_step(&self) -> Option<usize> {
        self.plan
            .steps
            .iter()
            .position(|step| step.tested.is_some_and(|number| self.verdicts[number].is_none()))
    }

    fn number(&self, step: usize) -> Option<usize> {
        self.plan.steps.get(step)?.tested
    }

    /// Records that the guest ended while it loaded this step's module.
    fn blame(&mut self, step: usize, ended: &Ended) {
        let Some(number) = self.number(step) else { return };
        let panic = ended.console.iter().find(|line| line.contains("Kernel panic"));
        let error = panic.map_or_else(|| ended.how.words(), |line| without_time(line).to_owned());
        self.verdicts[number] = Some(TestVerdict::of_nothing(TestState::Fails, error, ended.console.clone()));
    }

    /// Marks all others as untested, because another guest would not get further.
    fn give_up(&mut self, ended: &Ended) {
        let log = if ended.ready { Vec::new() } else { ended.console.clone() };
        for verdict in self.verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
            *verdict = Some(TestVerdict::of_nothing(TestState::Untested, ended.how.words(), log.clone()));
        }
    }
}

impl Listener for Results<'_> {
    fn console(&mut self, line: &str) {
        self.watch.console(line);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Ready { release } => self.release = Some(release),
            Event::Testing { step } => {
                self.testing = Some(step);
                if let Some(number) = self.number(step) {
                    self.watch.testing(number);
                }
            }
            Event::Tested(tested) => {
                self.testing = None;
                if let Some(number) = self.number(tested.step) {
                    self.verdicts[number] = Some(tested.verdict(self.plan));
                    self.requests.push((number, tested.requested));
                }
            }
            Event::Trouble { what } => self.trouble = Some(what),
        }
    }
}

/// Removes the time at the beginning of a console line: `[    3.695472] text`.
fn without_time(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, text)) if time.trim().parse::<f64>().is_ok() => text,
        _ => line,
    }
}
