//! One guest from start to end: QEMU is started, read from, and always terminated.
//!
//! QEMU gets no path of this host: it runs in a directory with its three files, as a user that owns nothing else, and
//! dies with kcache. It is always waited for, so nothing is left when [`run`] returns.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};

use super::machine::{Guest, Patience, REPORT, VirtualMachine};
use super::report::{Event, parse};
use crate::build::printable;
use crate::sandbox::BuildIdentity;

/// Interval at which a guest's time limits are checked.
const TICK: Duration = Duration::from_millis(100);
/// Time for one module. Under emulation, Debian's slowest ones take two seconds.
pub(super) const SILENCE: Duration = Duration::from_secs(30);
/// The last console lines to keep.
const LAST_LINES: usize = 40;
/// Limit in bytes on a line. A report's longest lines contain the kernel's log.
const MOST_LINE: usize = 1 << 20;
/// Limit in bytes on a guest's whole output, which is untrusted.
const MOST_OUTPUT: usize = 16 << 20;

/// Indexes of the streams that are read: QEMU's stdout, the named pipe, QEMU's stderr.
const CONSOLE: usize = 0;
const EVENTS: usize = 1;
const WORDS: usize = 2;

/// Parameters of one guest.
pub(super) struct Attempt<'a> {
    pub machine: &'a VirtualMachine,
    pub qemu: &'a Path,
    pub setpriv: &'a Path,
    pub identity: &'a BuildIdentity,
    /// Directory with QEMU's files, its working directory.
    pub dir: &'a Path,
    pub guest: Guest,
    /// Time limits for a guest that is not known to work with this acceleration.
    pub patience: Option<Patience>,
    /// Time at which the whole test ends.
    pub deadline: Instant,
    pub cancel: &'a AtomicBool,
}

/// Receives a guest's output.
pub(super) trait Listener {
    fn console(&mut self, line: &str);
    fn event(&mut self, event: Event);
}

/// How a guest ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub how: How,
    /// Whether it printed anything at all.
    pub sign: bool,
    /// Whether its first process ran.
    pub ready: bool,
    /// The last lines of its console.
    pub console: Vec<String>,
    /// What QEMU printed on stderr.
    pub words: String,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum How {
    Exited(ExitStatus),
    /// No output for too long.
    Silent(Duration),
    TimedOut,
    /// Too much output.
    Garrulous,
    Cancelled,
}

impl How {
    /// Describes how a guest ended that should have continued.
    pub(super) fn words(&self) -> String {
        match self {
            How::Exited(status) => match (status.code(), status.signal()) {
                (Some(0), _) => "the guest ended".to_owned(),
                (Some(code), _) => format!("QEMU ended with status {code}"),
                (None, signal) => format!("QEMU was killed by signal {}", signal.unwrap_or(0)),
            },
            How::Silent(limit) => format!("no output from the guest for {} s", limit.as_secs()),
            How::TimedOut => "timed out".to_owned(),
            How::Garrulous => "the guest printed too much output".to_owned(),
            How::Cancelled => "interrupted".to_owned(),
        }
    }
}

/// Runs a guest until it ends.
pub(super) fn run(attempt: &Attempt, listener: &mut dyn Listener) -> io::Result<Ended> {
    let report = make_report(attempt)?;
    let spawned = command(attempt).spawn();
    let at = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", attempt.setpriv.display()));
    let mut qemu = Qemu(spawned.map_err(at)?);
    let (stdout, stderr) = (qemu.0.stdout.take(), qemu.0.stderr.take());
    let streams = [stdout.map(OwnedFd::from), Some(report), stderr.map(OwnedFd::from)];
    let mut heard = Heard {
        streams: streams.map(|fd| Stream { file: fd.map(File::from), partial: Vec::new() }),
        bytes: 0,
        console: VecDeque::new(),
        words: String::new(),
        sign: false,
        ready: false,
        last: Instant::now(),
        listener,
    };
    let how = follow(attempt, &mut qemu, &mut heard)?;
    drop(qemu);
    while heard.listen(Duration::ZERO)? && heard.bytes < MOST_OUTPUT {}
    heard.finish();
    Ok(Ended {
        how,
        sign: heard.sign,
        ready: heard.ready,
        console: heard.console.into(),
        words: heard.words.trim().to_owned(),
    })
}

/// A running QEMU, which is killed and waited for on drop.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Creates the named pipe for the report, a new one for each guest, and opens its reading end.
fn make_report(attempt: &Attempt) -> io::Result<OwnedFd> {
    let path = attempt.dir.join(REPORT);
    match fs_err::remove_file(&path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR)?;
    super::share(&path, attempt.identity, 0o620)?;
    Ok(open(&path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?)
}

/// `setpriv` makes QEMU die with kcache, and switches to another user if kcache is root. Change the directory first,
/// because that user may not be able to reach it.
fn command(attempt: &Attempt) -> Command {
    let mut command = Command::new(attempt.setpriv);
    command.args(["--pdeathsig", "KILL", "--no-new-privs"]);
    if let Some(uid) = attempt.identity.uid() {
        let uid = uid.to_string();
        command.args(["--reuid", &uid, "--regid", &uid, "--bounding-set=-all", "--inh-caps=-all"]);
        match kvm_group() {
            Some(group) => command.args(["--groups", &group.to_string()]),
            None => command.arg("--clear-groups"),
        };
    }
    command.arg("--").arg(attempt.qemu).args(attempt.machine.arguments(&attempt.guest));
    command.current_dir(attempt.dir).env_clear().env("PATH", crate::sandbox::PATH);
    // Ctrl-C is handled by kcache alone.
    command.process_group(0);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The group that may use KVM, unless that is root's.
fn kvm_group() -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs_err::metadata(super::KVM).ok()?;
    (metadata.mode() & 0o060 == 0o060 && metadata.gid() != 0).then(|| metadata.gid())
}

fn follow(attempt: &Attempt, qemu: &mut Qemu, heard: &mut Heard) -> io::Result<How> {
    let start = Instant::now();
    loop {
        heard.listen(TICK)?;
        if attempt.cancel.load(Ordering::Relaxed) {
            return Ok(How::Cancelled);
        }
        if let Some(status) = qemu.0.try_wait()? {
            return Ok(How::Exited(status));
        }
        if heard.bytes >= MOST_OUTPUT {
            return Ok(How::Garrulous);
        }
        let now = Instant::now();
        if now > attempt.deadline {
            return Ok(How::TimedOut);
        }
        let (since, limit) = match (&attempt.patience, heard.ready) {
            (_, true) => (heard.last, SILENCE),
            (Some(patience), false) if !heard.sign => (start, patience.sign),
            (Some(patience), false) => (start, patience.ready),
            (None, false) => continue,
        };
        if now.duration_since(since) > limit {
            return Ok(How::Silent(limit));
        }
    }
}

/// Splits bytes into lines.
struct Stream {
    file: Option<File>,
    partial: Vec<u8>,
}

/// The output so far: the console, the report, and QEMU's stderr.
struct Heard<'a> {
    streams: [Stream; 3],
    bytes: usize,
    console: VecDeque<String>,
    words: String,
    /// Whether the guest printed anything, not counting QEMU's stderr.
    sign: bool,
    ready: bool,
    /// Time of the last report.
    last: Instant,
    listener: &'a mut dyn Listener,
}

impl Heard<'_> {
    /// Reads available output, waiting for at most `limit`; false if there was none.
    fn listen(&mut self, limit: Duration) -> io::Result<bool> {
        let open: Vec<usize> =
            (0..self.streams.len()).filter(|&at| self.streams[at].file.is_some()).collect();
        let files: Vec<BorrowedFd> =
            open.iter().filter_map(|&at| self.streams[at].file.as_ref().map(AsFd::as_fd)).collect();
        let ready: Vec<usize> = readable(&files, limit)?.into_iter().map(|at| open[at]).collect();
        let mut came = false;
        for at in ready {
            came |= self.read(at)?;
        }
        Ok(came)
    }

    fn read(&mut self, at: usize) -> io::Result<bool> {
        let mut buffer = [0; 64 << 10];
        let Some(file) = &mut self.streams[at].file else { return Ok(false) };
        let count = match file.read(&mut buffer) {
            Ok(count) => count,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e),
        };
        if count == 0 {
            self.streams[at].file = None;
        }
        self.bytes += count;
        self.sign |= count > 0 && at != WORDS;
        for part in buffer[..count].split_inclusive(|&b| b == b'\n') {
            let partial = &mut self.streams[at].partial;
            let room = MOST_LINE.saturating_sub(partial.len()).min(part.len());
            partial.extend_from_slice(&part[..room]);
            if part.ends_with(b"\n") {
                self.end_line(at);
            }
        }
        Ok(count > 0)
    }

    fn finish(&mut self) {
        for at in 0..self.streams.len() {
            if !self.streams[at].partial.is_empty() {
                self.end_line(at);
            }
        }
    }

    fn end_line(&mut self, at: usize) {
        let bytes = std::mem::take(&mut self.streams[at].partial);
        let text = || printable(String::from_utf8_lossy(&bytes).trim_end());
        match at {
            CONSOLE => self.console_line(text()),
            EVENTS => self.event(&bytes),
            _ if self.words.len() < MOST_LINE => {
                self.words.push_str(&text());
                self.words.push('\n');
            }
            _ => {}
        }
    }

    fn console_line(&mut self, line: String) {
        if line.is_empty() {
            return;
        }
        self.listener.console(&line);
        if self.console.len() == LAST_LINES {
            self.console.pop_front();
        }
        self.console.push_back(line);
    }

    fn event(&mut self, line: &[u8]) {
        let Some(event) = parse(line) else { return };
        self.ready = true;
        self.last = Instant::now();
        self.listener.event(event);
    }
}

/// The files that are readable. A named pipe that no process has opened yet is not.
fn readable(files: &[BorrowedFd], limit: Duration) -> io::Result<Vec<usize>> {
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
    let mut polled: Vec<PollFd> = files.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    match poll(&mut polled, Some(&limit)) {
        Ok(_) => {}
        Err(rustix::io::Errno::INTR) => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    }
    let heard = PollFlags::IN | PollFlags::HUP;
    Ok((0..polled.len()).filter(|&at| polled[at].revents().intersects(heard)).collect())
}
