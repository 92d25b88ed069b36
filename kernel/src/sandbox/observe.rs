//! Observing which of the system's files a build opens: its undeclared inputs.
//!
//! A build's declared inputs are mounted and hashed. Around them is the system with its tools, and a `./configure` may
//! read `/usr/include` or `/etc/os-release`. So the mounts that show the system are marked with fanotify(7) before the
//! build starts: marks are on the sandbox's own mounts, so they do not see other processes, and are removed with them.
//! Files that are not programs, libraries or objects (ELF, or `ar` archives of objects) are recorded with their path
//! in the sandbox.
//!
//! A separate thread reads the events, so that a build which opens files quickly cannot delay kcache's time limits.
//! The kernel's queue is limited, and so are the recorded files: if an event was lost, or too many files were opened,
//! the result is incomplete ([`Opened::missed`]), and observation ends.
//!
//! Events that are queued when the sandbox ends are read after that. A mount that disappeared with its namespace has
//! no place any more, and paths on it would begin at that mount; so the namespace is kept until the last event is
//! read.
//!
//! Limits: a file that is only tested for (stat(2), a failed open) is not seen, nor is a listed directory. Marks need
//! CAP_SYS_ADMIN, so builds of unprivileged users are not observed.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use fs_err as fs;
use nix::sys::fanotify::{EventFFlags, Fanotify, FanotifyEvent, InitFlags, MarkFlags, MaskFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::FileType;
use rustix::process::Pid;

/// First bytes of tools and libraries: ELF, and archives of ELF objects.
const TOOLS: [&[u8]; 2] = [b"\x7fELF", b"!<arch>\n"];

/// Limit on recorded files, not counting tools. zfs, whose configure compiles hundreds of programs, opens some
/// hundred.
const MOST_FILES: usize = 8192;
/// Limit on events read after the end, the default size of a queue (`fs.fanotify.max_queued_events`).
const MOST_LEFT: usize = 16384;

/// The system's files that a build opened.
#[derive(Debug, Default)]
pub struct Opened {
    /// Paths in the sandbox, without programs and libraries.
    pub files: BTreeSet<PathBuf>,
    /// Whether the list may be incomplete.
    pub missed: bool,
}

/// Observes a sandbox from before its script starts.
pub(super) struct Observer {
    thread: JoinHandle<Opened>,
    /// Tells the thread that there will be no more events.
    end: Arc<OwnedFd>,
}

impl Observer {
    /// Observes a sandbox that is set up and whose script waits.
    pub(super) fn attach(pid: Pid, is_watched: &dyn Fn(&Path) -> bool) -> io::Result<Observer> {
        Observer::start(Marks::set(pid, is_watched)?)
    }

    fn start(mut marks: Marks) -> io::Result<Observer> {
        let end = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let ended = end.clone();
        let thread = std::thread::Builder::new().name("opened".to_owned());
        Ok(Observer { thread: thread.spawn(move || marks.follow(&ended))?, end })
    }

    /// Returns the opened files, after all processes of the sandbox are dead.
    pub(super) fn finish(self) -> io::Result<Opened> {
        rustix::io::write(&*self.end, &1u64.to_ne_bytes())?;
        Ok(self.thread.join().unwrap_or(Opened { files: BTreeSet::new(), missed: true }))
    }
}

/// The marks on a sandbox's mounts, and the files recorded so far.
struct Marks {
    group: Fanotify,
    /// Prefix of paths in events: in a chroot, the sandbox's root differs from that of its mount namespace.
    root: PathBuf,
    /// Keeps the mounts in place.
    _namespace: fs::File,
    tools: BTreeSet<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl Marks {
    /// Marks those mounts of a process that are to be observed.
    fn set(pid: Pid, is_watched: &dyn Fn(&Path) -> bool) -> io::Result<Marks> {
        let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        let events = EventFFlags::O_RDONLY
            | EventFFlags::O_CLOEXEC
            | EventFFlags::O_LARGEFILE
            | EventFFlags::O_NONBLOCK;
        let group = Fanotify::init(flags, events)?;
        let process = PathBuf::from(format!("/proc/{}", pid.as_raw_pid()));
        let root = fs::read_link(process.join("root"))?;
        let namespace = fs::File::open(process.join("ns/mnt"))?;
        // The start of relative paths; all of these are absolute.
        let top = fs::File::open("/")?;
        let mounts = fs::read_to_string(process.join("mountinfo"))?;
        for mount in mount_points(&mounts).filter(|mount| is_watched(mount)) {
            let place = process.join("root").join(mount.strip_prefix("/").unwrap_or(&mount));
            let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT;
            group.mark(flags, MaskFlags::FAN_OPEN, &top, Some(&place))?;
        }
        let (tools, files) = Default::default();
        Ok(Marks { group, root, _namespace: namespace, tools, files })
    }

    /// Records opened files until the end, or until the list is incomplete.
    fn follow(&mut self, end: &OwnedFd) -> Opened {
        let missed = self.take_until(end).is_err();
        Opened { files: std::mem::take(&mut self.files), missed }
    }

    fn take_until(&mut self, end: &OwnedFd) -> io::Result<()> {
        let (mut ended, mut left) = (false, MOST_LEFT + 1);
        loop {
            if !ended {
                let mut fds = [PollFd::new(&self.group, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
                match poll(&mut fds, None) {
                    Err(rustix::io::Errno::INTR) => continue,
                    other => drop(other?),
                }
                ended = !fds[1].revents().is_empty();
            }
            let events = match self.group.read_events() {
                Ok(events) => events,
                Err(nix::errno::Errno::EAGAIN) if ended => return Ok(()),
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            if ended {
                left = left.checked_sub(events.len()).ok_or_else(too_much)?;
            }
            events.into_iter().try_for_each(|event| self.note(event))?;
        }
    }

    fn note(&mut self, event: FanotifyEvent) -> io::Result<()> {
        let Some(fd) = event.fd() else { return Err(too_much()) }; // the queue was full
        let path = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)))?;
        let path = path.strip_prefix(&self.root).map_or(path.clone(), |inside| Path::new("/").join(inside));
        let is_file = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::RegularFile;
        if !is_file || self.tools.contains(&path) || self.files.contains(&path) {
            return Ok(());
        }
        let noted = if is_tool(fd)? { &mut self.tools } else { &mut self.files };
        noted.insert(path);
        if self.files.len() > MOST_FILES || self.tools.len() > 4 * MOST_FILES {
            return Err(too_much());
        }
        Ok(())
    }
}

fn is_tool(fd: BorrowedFd) -> io::Result<bool> {
    let mut start = [0; 8];
    let length = rustix::io::pread(fd.as_fd(), &mut start, 0)?;
    Ok(TOOLS.iter().any(|magic| start[..length].starts_with(magic)))
}

fn too_much() -> io::Error {
    io::Error::other("more files were opened than can be recorded")
}

/// The mount points in `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
fn mount_points(text: &str) -> impl Iterator<Item = PathBuf> {
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| PathBuf::from(unescape(field)))
}

/// Decodes blanks, newlines and backslashes, which are written as `\040` and so on.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_the_fifth_field_with_blanks_unescaped() {
        let text =
            "31 29 0:27 / / ro - tmpfs tmpfs ro\n32 31 8:1 /usr /usr\\040x ro master:1 - ext4 /dev/a rw\n";
        let found: Vec<PathBuf> = mount_points(text).collect();
        assert_eq!(found, [PathBuf::from("/"), PathBuf::from("/usr x")]);
    }

    #[test]
    fn a_file_opened_last_is_recorded_after_its_mount_is_gone() {
        use std::io::{Read, Write};
        use std::process::{Command, Stdio};
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(dir.path()).unwrap().join("place");
        fs::create_dir(&place).unwrap();
        fs::write(dir.path().join("last.h"), "last").unwrap();
        let script = "mount --bind . place && echo && read -r go; cat place/last.h";
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", script]).current_dir(dir.path());
        let mut child = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let observer = Observer::attach(Pid::from_child(&child), &|mount| mount == place).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(child.wait().unwrap().success());
        let opened = observer.finish().unwrap();
        assert_eq!((opened.files, opened.missed), (BTreeSet::from([place.join("last.h")]), false));
    }

    /// The result of opening this many files, if nothing reads the events before the end.
    fn after_opening(files: usize) -> Opened {
        use std::io::{Read, Write};
        use std::process::{Command, Stdio};
        let dir = tempfile::tempdir().unwrap();
        let place = fs::canonicalize(dir.path()).unwrap().join("place");
        fs::create_dir(&place).unwrap();
        (0..files).for_each(|at| fs::write(dir.path().join(format!("{at}.h")), "").unwrap());
        let script = "mount --bind . place && echo && read -r go; for f in place/*.h; do : <$f; done";
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", script]).current_dir(dir.path());
        let mut child = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let marks = Marks::set(Pid::from_child(&child), &|mount| mount == place).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(child.wait().unwrap().success());
        Observer::start(marks).unwrap().finish().unwrap()
    }

    #[test]
    fn too_many_opened_files_are_recorded_as_missed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let few = after_opening(100);
        assert_eq!((few.files.len(), few.missed), (100, false));
        assert!(after_opening(MOST_FILES + 1).missed);
        assert!(after_opening(MOST_LEFT + 1000).missed);
    }
}
