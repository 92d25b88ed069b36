//! Runs a command with all its threads and processes under ptrace, and can interfere at any call that changes something.
//!
//! The calls of the whole tree are counted together, so that "at call 17" is one place in a run and not one in each
//! process. Only calls on paths under test count. Runs of kcache with `--jobs 1` make these calls one after the other;
//! where two processes take turns (depmod and the kcache that waits for it) their order is given by that. A run that is
//! not equal to the last one does no harm: a sweep goes on until a run ends before its call is reached.
//!
//! The child begins as this program: it stops itself, is seized, puts the filter of [`crate::calls`] on itself and becomes
//! the command ([`become_command`]). A call that is to fail never runs: its number is made -1, and the error is left in the register
//! of the result. Whoever is traced dies with the tracer (`PTRACE_O_EXITKILL`).

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::calls::{Call, filter};

/// The first argument of the child while it is this program.
pub const AS_CHILD: &str = "as-traced-child";

/// What happens at a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It runs.
    Go,
    /// Everything is killed before it runs.
    Kill,
    /// It runs, and everything is killed before its caller learns of it.
    KillAfter,
    /// It does not run, and gives this error.
    Fail(Errno),
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    /// None: killed.
    pub code: Option<i32>,
    pub stderr: String,
    /// How many calls there were.
    pub calls: usize,
}

/// Runs a command; `at` is asked at each call under one of `roots`, whose number, from 1 on, it is told.
pub fn run(
    command: &Command,
    roots: &[PathBuf],
    mut at: impl FnMut(usize, &Call) -> Act,
) -> std::io::Result<Ended> {
    let mut stderr = tempfile::tempfile()?;
    let child = start(command, &stderr)?;
    let mut tree = Tree { first: child, living: BTreeSet::from([child]), code: None, dying: false };
    let mut calls = 0;
    let mut judge = |call: &Call| {
        calls += 1;
        at(calls, call)
    };
    tree.follow(roots, &mut judge)?;
    Ok(Ended { code: tree.code, stderr: text(&mut stderr)?, calls })
}

/// The child's part: never returns where it succeeds.
pub fn become_command(mut words: impl Iterator<Item = std::ffi::OsString>) -> std::io::Error {
    let Some(program) = words.next() else { return std::io::ErrorKind::InvalidInput.into() };
    let filter = match filter() {
        Ok(filter) => filter,
        Err(error) => return std::io::Error::other(error),
    };
    if let Err(error) = raise(Signal::SIGSTOP) {
        return error.into();
    }
    match seccompiler::apply_filter(&filter) {
        Ok(()) => Command::new(program).args(words).exec(),
        Err(error) => std::io::Error::other(error),
    }
}

fn start(command: &Command, stderr: &File) -> std::io::Result<Pid> {
    let mut child = Command::new("/proc/self/exe");
    child.arg(AS_CHILD).arg(command.get_program()).args(command.get_args()).env_clear();
    child.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    child.current_dir(command.get_current_dir().unwrap_or("/".as_ref()));
    let child = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr.try_clone()?).spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
    let options = Options::PTRACE_O_EXITKILL
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACESECCOMP;
    ptrace::seize(pid, options)?;
    kill(pid, Signal::SIGCONT)?;
    Ok(pid)
}

fn text(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// All threads and processes of a run.
struct Tree {
    first: Pid,
    living: BTreeSet<Pid>,
    code: Option<i32>,
    dying: bool,
}

impl Tree {
    /// Until nobody is left.
    fn follow(&mut self, roots: &[PathBuf], judge: &mut dyn FnMut(&Call) -> Act) -> nix::Result<()> {
        loop {
            match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => self.note(status, roots, judge)?,
                Err(Errno::ECHILD) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn note(
        &mut self,
        status: WaitStatus,
        roots: &[PathBuf],
        judge: &mut dyn FnMut(&Call) -> Act,
    ) -> nix::Result<()> {
        match status {
            WaitStatus::Exited(pid, code) => {
                self.living.remove(&pid);
                if pid == self.first && !self.dying {
                    self.code = Some(code);
                }
                return Ok(());
            }
            WaitStatus::Signaled(pid, ..) => {
                self.living.remove(&pid);
                return Ok(());
            }
            _ => {}
        }
        let Some(pid) = status.pid() else { return Ok(()) };
        self.living.insert(pid);
        match status {
            _ if self.dying => self.kill(pid),
            WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_SECCOMP) => self.at_call(pid, roots, judge),
            // The end of a call after which everything is to be killed; no other is waited for.
            WaitStatus::PtraceSyscall(_) => {
                self.kill_all();
                Ok(())
            }
            WaitStatus::Stopped(_, signal) => alive(ptrace::cont(pid, signal)),
            _ => alive(ptrace::cont(pid, None)),
        }
    }

    fn at_call(
        &mut self,
        pid: Pid,
        roots: &[PathBuf],
        judge: &mut dyn FnMut(&Call) -> Act,
    ) -> nix::Result<()> {
        let Ok(mut registers) = ptrace::getregs(pid) else { return Ok(()) };
        let r = &registers;
        let arguments = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
        let call = Call::of(pid.as_raw(), r.orig_rax.cast_signed(), arguments);
        let act = call.filter(|call| call.is_under(roots)).map_or(Act::Go, |call| judge(&call));
        match act {
            Act::Go => alive(ptrace::cont(pid, None)),
            Act::Kill => {
                self.kill_all();
                Ok(())
            }
            Act::KillAfter => alive(ptrace::syscall(pid, None)),
            Act::Fail(errno) => {
                registers.orig_rax = u64::MAX;
                registers.rax = (-i64::from(errno as i32)).cast_unsigned();
                alive(ptrace::setregs(pid, registers))?;
                alive(ptrace::cont(pid, None))
            }
        }
    }

    fn kill_all(&mut self) {
        self.dying = true;
        for pid in &self.living {
            let _ = kill(*pid, Signal::SIGKILL);
        }
    }

    /// One that was born while the others were killed.
    fn kill(&self, pid: Pid) -> nix::Result<()> {
        alive(kill(pid, Signal::SIGKILL))
    }
}

/// A process may die between any two of our calls.
fn alive(result: nix::Result<()>) -> nix::Result<()> {
    if result == Err(Errno::ESRCH) { Ok(()) } else { result }
}
