//! A kernel is booted in a virtual machine that exists for a few seconds, and modules are loaded there.
//!
//! ```text
//! host                                              guest: K's own image, nothing else of this host
//!   plan       modules, and what they need of K's     init = kcache itself (`guest`)
//!   initramfs  kcache, its libraries, the modules       loads each module, looks, unloads it
//!   QEMU       KVM if it proves to work, else TCG        reports on a serial port, reboots
//!   verdicts   <──────────────────────────────────────  events
//! ```
//!
//! What it promises: the kernel that runs is not touched. The guest has no network, no disk and no file of this host; QEMU
//! works unprivileged. It takes no longer than its limit and no more memory than the guest is given. Whichever way this
//! process ends, QEMU ends with it.
//!
//! A kernel that panics, oopses or hangs is a verdict on the module that was loaded then; another guest tests the rest. A KVM that
//! is there and does not work costs seconds: a guest that gives no sign of life, or does not get as far as its first process, is
//! ended, and emulated.
//!
//! On disk there is only the scratch directory that is passed in: a copy of the image, the initramfs, a named pipe. A full
//! disk is an error before anything runs. Two runs do not know of each other.

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

pub use crate::program::Program;
pub use machine::{Acceleration, Machine};
pub use plan::{Module, Parameter, Plan};
pub use report::{Event, State, Verdict};

use crate::bounded_read;
use crate::build::printable;
use crate::index;
use crate::sandbox::Identity;
use attempt::{Attempt, Ended, How, Listener};
use machine::{Guest, IMAGE, INITRAMFS, Patience};

/// The guest's first process, and the name by which it knows itself.
const INIT: &str = "/init";
/// How often what the kernel asked for in vain is added and asked for again: what is loaded then may ask for more, as `hmac(sha256)`
/// asks for both of its parts.
const ROUNDS: usize = 3;
/// How many requests of one module are looked into.
const MOST_REQUESTS: usize = 32;
/// Where KVM is to be had.
pub const KVM: &str = "/dev/kvm";

/// What stands in the way of a boot test.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// QEMU is not installed.
    #[error("{} does not exist, but boot tests need it", program.display())]
    NoQemu {
        /// The program.
        program: PathBuf,
        /// The package that has it.
        package: &'static str,
    },
    /// QEMU did not run.
    #[error("{how}: {words}")]
    Qemu {
        /// How it ended.
        how: String,
        /// What it said.
        words: String,
    },
    /// No machine for kernels of this architecture is known, or kcache itself could not run there.
    #[error("kernels for {arch} cannot be booted here")]
    NoMachine {
        /// `uname -m`.
        arch: String,
    },
    /// The image is another kernel's.
    #[error("{} is kernel {found}, not {expected}", image.display())]
    OtherKernel {
        /// The image.
        image: PathBuf,
        /// The release that was to be booted.
        expected: String,
        /// The release that was.
        found: String,
    },
    /// A parameter was given for a module that is not in the plan.
    #[error("module {name} is not among the modules to load")]
    NoModule {
        /// As it was given.
        name: String,
    },
    /// The index of the kernel's modules is damaged.
    #[error("{} cannot be read", path.display())]
    Index {
        /// `modules.dep.bin`.
        path: PathBuf,
        /// Where.
        source: index::Error,
    },
    /// The guest's first process could not do its work.
    #[error("in the guest: {what}")]
    Guest {
        /// Why.
        what: String,
    },
    /// The run was ended from outside.
    #[error("interrupted")]
    Cancelled,
}

/// A boot test.
pub struct BootTest<'a> {
    /// The virtual machine.
    pub machine: &'a Machine,
    /// QEMU.
    pub qemu: &'a Path,
    /// `setpriv`, of util-linux.
    pub setpriv: &'a Path,
    /// As whom QEMU runs.
    pub identity: &'a Identity,
    /// Whether to try KVM.
    pub kvm: bool,
    /// The kernel to be booted.
    pub image: &'a Path,
    /// Its release.
    pub release: &'a str,
    /// This program, which becomes the guest's first process.
    pub program: &'a Program,
    /// MiB of the guest's memory, if not as many as it takes.
    pub memory: Option<u64>,
    /// Boot with `module.sig_enforce=1`.
    pub sig_enforce: bool,
    /// The longest that it may take, over all guests.
    pub limit: Duration,
    /// An empty private directory.
    pub scratch: &'a Path,
    /// Set from outside to end it at once.
    pub cancel: &'a AtomicBool,
}

/// Hears what happens in a guest. Nothing of it is to be believed.
pub trait Watch {
    /// A line of its console.
    fn console(&mut self, _line: &str) {}
    /// A module is being loaded; its number among those to be tested.
    fn testing(&mut self, _number: usize) {}
    /// Something a person may want to know.
    fn note(&mut self, _text: &str) {}
}

/// What came of a boot test.
#[derive(Debug)]
pub struct Outcome {
    /// What ran the guest that came furthest.
    pub acceleration: Acceleration,
    /// Of each module to be tested, in the order in which they were given.
    pub verdicts: Vec<Verdict>,
}

/// Lets the user whom QEMU runs as use a file or directory, as its group. What a guest that has broken out of QEMU could put
/// into a directory of its own would be written over, and given away, in the next round.
fn share(path: &Path, identity: &Identity, mode: u32) -> io::Result<()> {
    let Some(uid) = identity.uid() else { return Ok(()) };
    std::os::unix::fs::lchown(path, None, Some(uid))?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}

impl BootTest<'_> {
    /// Boots as many guests as it takes to test every module of a plan.
    pub fn run(&self, mut plan: Plan, watch: &mut dyn Watch) -> Result<Outcome, Error> {
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
        let untested = || Verdict::of_nothing(State::Untested, same_name(), Vec::new());
        let verdicts = verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(untested)).collect();
        Ok(Outcome { acceleration: runner.acceleration, verdicts })
    }

    /// Boots guests until every module has a verdict. Gives what the kernel asked for in vain while it loaded which.
    fn round(
        &self,
        runner: &mut Runner,
        plan: &Plan,
        verdicts: &mut [Option<Verdict>],
        watch: &mut dyn Watch,
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

    /// Lays out QEMU's files; gives the size of the initramfs.
    fn prepare(&self, plan: &Plan) -> Result<u64, Error> {
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

    fn write_initramfs(&self, plan: &Plan, path: &Path) -> Result<u64, Error> {
        let mut cpio = cpio::Cpio::new(BufWriter::new(fs::File::create(path)?));
        for directory in ["/proc", "/sys", "/dev", crate::program::LIBRARIES] {
            cpio.directory(directory)?;
        }
        // The kernel opens it for the first process, before that can make its own.
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

    /// What the end of a guest, which began with step `from`, means for the modules that it has not reported on.
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
        // After an oops the rest is for another guest; but one that has come no further would not be the last.
        if ended.how == How::TimedOut || results.next_step() == Some(from) {
            results.give_up(&ended);
        }
        Ok(())
    }
}

/// Takes back the verdicts on modules that may have failed for want of what the kernel asked for, where the plan can be
/// completed by that. False: there is none.
fn reconsider(
    plan: &mut Plan,
    verdicts: &mut [Option<Verdict>],
    requests: Vec<(usize, Vec<String>)>,
) -> Result<bool, Error> {
    let mut any = false;
    for (number, names) in requests {
        if verdicts[number]
            .as_ref()
            .is_none_or(|verdict| verdict.state.is_good() && verdict.state != State::NoDevice)
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

/// What guests run on, as far as that is known.
struct Runner {
    acceleration: Acceleration,
    /// A guest has come up with it, or there is nothing else to be tried.
    proven: bool,
    /// QEMU may have been built without.
    seccomp: bool,
    deadline: Instant,
}

/// What is known so far.
struct Results<'a> {
    plan: &'a Plan,
    /// Of each module to be tested.
    verdicts: &'a mut [Option<Verdict>],
    /// What the kernel asked for in vain while it loaded which module.
    requests: Vec<(usize, Vec<String>)>,
    /// The step whose end has not been reported.
    testing: Option<usize>,
    release: Option<String>,
    trouble: Option<String>,
    watch: &'a mut dyn Watch,
}

impl<'a> Results<'a> {
    fn new(plan: &'a Plan, verdicts: &'a mut [Option<Verdict>], watch: &'a mut dyn Watch) -> Self {
        Self { plan, verdicts, requests: Vec::new(), testing: None, release: None, trouble: None, watch }
    }

    /// The first step that is to be tested and has no verdict.
    fn next_step(&self) -> Option<usize> {
        self.plan
            .steps
            .iter()
            .position(|step| step.tested.is_some_and(|number| self.verdicts[number].is_none()))
    }

    fn number(&self, step: usize) -> Option<usize> {
        self.plan.steps.get(step)?.tested
    }

    /// The guest ended while it was loading a module.
    fn blame(&mut self, step: usize, ended: &Ended) {
        let Some(number) = self.number(step) else { return };
        let panic = ended.console.iter().find(|line| line.contains("Kernel panic"));
        let error = panic.map_or_else(|| ended.how.words(), |line| without_time(line).to_owned());
        self.verdicts[number] = Some(Verdict::of_nothing(State::Fails, error, ended.console.clone()));
    }

    /// No other guest would do better.
    fn give_up(&mut self, ended: &Ended) {
        let log = if ended.ready { Vec::new() } else { ended.console.clone() };
        for verdict in self.verdicts.iter_mut().filter(|verdict| verdict.is_none()) {
            *verdict = Some(Verdict::of_nothing(State::Untested, ended.how.words(), log.clone()));
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

/// A line of the console without the time at its beginning: `[    3.695472] text`.
fn without_time(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
        Some((time, text)) if time.trim().parse::<f64>().is_ok() => text,
        _ => line,
    }
}
