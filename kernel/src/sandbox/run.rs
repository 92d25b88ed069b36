//! Running a sandbox: reading its output, enforcing its limits, and making sure that it has ended.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use fs_err as fs;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup::Group;
use super::observe::Observer;
use super::space::Meter;
use super::{Ended, Error, Limits, Watch};

/// Interval at which cancellation and the time limit of a running build are checked.
const TICK: Duration = Duration::from_millis(100);

/// Time in which a killed sandbox's processes must die, before that counts as an error.
pub(super) const DEATH: Duration = Duration::from_secs(20);

/// Size in bytes of a read: that of a Linux pipe.
const CHUNK: usize = 64 << 10;

/// Number of reads that may be waiting to be processed.
const PIECES: usize = 4;

/// Addition to the OOM score of a build (proc_pid_oom_score_adj(5), -1000 to 1000), so that it is killed before
/// others.
const OOM_SCORE: i32 = 500;

/// SIGRTMAX (signal(7)).
const LAST_SIGNAL: i32 = 64;

/// Printed by [`super::enter`] when the sandbox is set up and waits for permission to begin.
pub(super) const READY: &[u8] = b"\x06\n";

/// The resource limits of a run.
pub(super) struct Bounds {
    pub(super) group: Option<Group>,
    pub(super) limits: Limits,
    /// Directories of this machine that it can write.
    pub(super) places: Vec<PathBuf>,
}

/// Reads the output of a sandbox until it ends, then waits until everything in it is dead. `is_watched` decides for
/// each mount whether opened files are recorded, if the watch asks for that.
pub(super) fn follow(
    child: Child,
    mut reader: io::PipeReader,
    watch: Watch,
    bounds: Bounds,
    is_watched: &dyn Fn(&Path) -> bool,
) -> Result<Ended, Error> {
    let mut child = Running(child);
    let start = Instant::now();
    let first = namespace_init(&mut child.0, &watch, start)?;
    match stands(&mut reader, &watch, start)? {
        Ok(before) => (watch.output)(&before),
        Err(said) => return ended(&watch, start, None).ok_or_else(|| not_made(&said)),
    }
    let Bounds { group, limits, places } = bounds;
    let group = group.filter(|group| first.as_ref().is_some_and(|first| first.join(group).is_ok()));
    if let Some(first) = &first {
        score(&[&[first.pid][..], &children(first.pid).unwrap_or_default()].concat());
    }
    let observer = match (&watch.opened, &first) {
        (Some(_), Some(first)) => Some(Observer::attach(first.pid, is_watched)?),
        _ => None,
    };
    let meter = first.as_ref().map(|first| Meter::start(places, &limits, first.pid)).transpose()?;
    if let Some(mut gate) = child.0.stdin.take() {
        gate.write_all(b"\n")?;
    }
    let pieces = read_apart(reader)?;
    let itself = alive(Pid::from_child(&child.0))?;
    let forced = loop {
        if let Some(forced) = ended(&watch, start, meter.as_ref()) {
            break Some(forced);
        }
        match pieces.recv_timeout(TICK) {
            Ok(piece) => (watch.output)(&piece?),
            Err(RecvTimeoutError::Timeout) => {}
            // It has closed its output, but may still be running.
            Err(RecvTimeoutError::Disconnected) => match &itself {
                Some(alive) if !readable(alive, TICK)? => {}
                _ => break None,
            },
        }
    };
    if forced.is_some() {
        child.0.kill()?;
        if let Some(alive) = first.as_ref().and_then(|first| first.alive.as_ref()) {
            // It dies with bwrap, unless bwrap was made to end early.
            let _ = pidfd_send_signal(alive, Signal::KILL);
        }
    }
    drop(meter);
    let status = child.0.wait()?;
    if let Some(first) = first
        && let Some(alive) = first.alive
        && !readable(&alive, DEATH)?
    {
        return Err(Error::Undead);
    }
    if let (Some(observer), Some(opened)) = (observer, watch.opened) {
        *opened = observer.finish()?;
    }
    if forced.is_none() && group.is_some_and(|group| group.ran_out_of_memory()) {
        return Ok(Ended::OutOfMemory);
    }
    use std::os::unix::process::ExitStatusExt;
    Ok(forced.unwrap_or(match status.code() {
        // bash and bwrap report a child's death by signal N as 128 + N. Larger statuses come from programs: perl dies
        // with 255.
        Some(code) if (1..=LAST_SIGNAL).contains(&(code - 128)) => Ended::Signal(code - 128),
        Some(code) => Ended::Status(code),
        None => Ended::Signal(status.signal().unwrap_or(0)),
    }))
}

/// Reads to the end on another thread, which is not joined. The process at the other end of a pipe can block a reader
/// even if there is data: splice(2) into a pipe keeps it locked until its source has data.
fn read_apart(mut reader: io::PipeReader) -> io::Result<Receiver<io::Result<Vec<u8>>>> {
    let (sender, receiver) = sync_channel(PIECES);
    let read = move || {
        let mut goes_on = true;
        while goes_on {
            let mut piece = vec![0; CHUNK];
            let read = reader.read(&mut piece).map(|n| piece.truncate(n));
            if read.is_ok() && piece.is_empty() {
                return;
            }
            goes_on = read.is_ok() && sender.send(Ok(piece)).is_ok();
            if let Err(error) = read {
                let _ = sender.send(Err(error)); // the receiver may be gone
            }
        }
    };
    std::thread::Builder::new().name("output".to_owned()).spawn(read)?;
    Ok(receiver)
}

/// The first process of a pid namespace: when it is dead, so are all others (pid_namespaces(7)).
struct First {
    pid: Pid,
    /// Readable when the process is dead; `None` if it was already dead.
    alive: Option<OwnedFd>,
}

impl First {
    /// Moves all processes of a sandbox that is set up into a control group: this one, and the one that waits for
    /// permission.
    fn join(&self, group: &Group) -> io::Result<()> {
        group.add(self.pid)?;
        children(self.pid)?.into_iter().try_for_each(|child| group.add(child))
    }
}

/// Makes the kernel's OOM killer prefer these processes and their future children. They cannot revert that, because
/// they see no writable `/proc`.
fn score(processes: &[Pid]) {
    for process in processes {
        let score = PathBuf::from(format!("/proc/{}/oom_score_adj", process.as_raw_pid()));
        let now = fs::read_to_string(&score).ok().and_then(|text| text.trim().parse().ok());
        // Without permission, only the other limits on memory apply.
        let _ = fs::write(&score, now.unwrap_or(0).max(OOM_SCORE).to_string());
    }
}

/// The living children of a process with one thread.
fn children(pid: Pid) -> io::Result<Vec<Pid>> {
    let pid = pid.as_raw_pid();
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    Ok(text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect())
}

/// The sandbox's first process; `None` if the sandbox could not be created, or not in time.
fn namespace_init(child: &mut Child, watch: &Watch, start: Instant) -> io::Result<Option<First>> {
    let bwrap = Pid::from_child(child);
    check_proc()?;
    while child.try_wait()?.is_none() && ended(watch, start, None).is_none() {
        if let Some(&pid) = children(bwrap)?.first() {
            return Ok(Some(First { pid, alive: alive(pid)? }));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(None)
}

/// Processes are found in `/proc` by id, and another pid namespace's `/proc` shows others under the same ids.
fn check_proc() -> io::Result<()> {
    let own = rustix::process::getpid().as_raw_pid().to_string();
    match fs::read_link("/proc/self")? {
        there if there == Path::new(&own) => Ok(()),
        _ => Err(io::Error::other("/proc belongs to another process namespace")),
    }
}

/// A pidfd, readable when the process is dead; `None` if it already is.
fn alive(pid: Pid) -> io::Result<Option<OwnedFd>> {
    match pidfd_open(pid, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => Ok(None),
        alive => Ok(Some(alive?)),
    }
}

/// A process that is killed and waited for on drop.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended already
        let _ = self.0.wait();
    }
}

/// Why a run must end now, if it must.
fn ended(watch: &Watch, start: Instant, meter: Option<&Meter>) -> Option<Ended> {
    if watch.cancel.load(Ordering::Relaxed) {
        return Some(Ended::Cancelled);
    }
    let excess = meter.and_then(Meter::excess).map(Ended::TookTooMuch);
    excess.or((start.elapsed() > watch.limit).then_some(Ended::TimedOut))
}

/// Waits until the sandbox is set up; returns its output so far. The inner error is the whole output of one that never
/// was.
fn stands(
    reader: &mut io::PipeReader,
    watch: &Watch,
    start: Instant,
) -> io::Result<std::result::Result<Vec<u8>, Vec<u8>>> {
    let (mut said, mut buffer) = (Vec::new(), [0; 512]);
    while said.len() < CHUNK && ended(watch, start, None).is_none() {
        if !readable(reader, TICK)? {
            continue;
        }
        match reader.read(&mut buffer)? {
            0 => break,
            n => said.extend_from_slice(&buffer[..n]),
        }
        if let Some(before) = said.strip_suffix(READY) {
            return Ok(Ok(before.to_vec()));
        }
    }
    Ok(Err(said))
}

fn not_made(said: &[u8]) -> Error {
    let said = String::from_utf8_lossy(said);
    Error::NotMade { said: said.lines().next().unwrap_or("no message from bwrap").to_owned() }
}

fn readable(fd: &impl std::os::fd::AsFd, limit: Duration) -> io::Result<bool> {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    match poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&limit)) {
        Ok(n) => Ok(n > 0),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(e.into()),
    }
}
