//! Watching a sandbox until it has ended, and making sure that it has.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Ended, Error, Watch};

/// How often a running build looks whether it was cancelled or is over its time.
const TICK: Duration = Duration::from_millis(100);

/// How long the processes of a killed sandbox may take to die before that counts as an error.
pub(super) const DEATH: Duration = Duration::from_secs(20);

/// Output kept in memory between two reads, in bytes: the size of a Linux pipe.
const CHUNK: usize = 64 << 10;

/// Reads what the sandbox prints until it ends, then waits until everything in it is dead.
pub(super) fn follow(mut child: Child, mut reader: io::PipeReader, watch: Watch) -> Result<Ended, Error> {
    let namespace = namespace_init(&mut child)?;
    if let Some(mut gate) = child.stdin.take() {
        // A sandbox that could not be made has closed it: its message is in the output.
        let _ = gate.write_all(b"\n");
    }
    let start = Instant::now();
    let mut buffer = vec![0; CHUNK];
    let forced = loop {
        if watch.cancel.load(Ordering::Relaxed) {
            break Some(Ended::Cancelled);
        }
        if start.elapsed() > watch.limit {
            break Some(Ended::TimedOut);
        }
        if !readable(&reader, TICK)? {
            continue;
        }
        match reader.read(&mut buffer)? {
            0 => break None,
            n => (watch.output)(&buffer[..n]),
        }
    };
    if forced.is_some() {
        child.kill()?;
    }
    let status = child.wait()?;
    if let Some(init) = namespace
        && !readable(&init, DEATH)?
    {
        return Err(Error::Undead);
    }
    use std::os::unix::process::ExitStatusExt;
    Ok(forced.unwrap_or(match status.code() {
        // bash and bwrap report a child's death by signal N as 128 + N.
        Some(code) if code > 128 => Ended::Signal(code - 128),
        Some(code) => Ended::Status(code),
        None => Ended::Signal(status.signal().unwrap_or(0)),
    }))
}

/// The first process of the sandbox's pid namespace: when it is gone, so are all others (pid_namespaces(7)). `None` if the
/// sandbox could not be made.
fn namespace_init(child: &mut Child) -> io::Result<Option<OwnedFd>> {
    let id = child.id();
    let children = PathBuf::from(format!("/proc/{id}/task/{id}/children"));
    while child.try_wait()?.is_none() {
        let text = fs::read_to_string(&children)?;
        if let Some(pid) = text.split_whitespace().next().and_then(|pid| Pid::from_raw(pid.parse().ok()?)) {
            return Ok(pidfd_open(pid, PidfdFlags::empty()).ok());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(None)
}

fn readable(fd: &impl std::os::fd::AsFd, limit: Duration) -> io::Result<bool> {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
