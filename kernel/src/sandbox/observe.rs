//! Which files of the system a build opens.
//!
//! A build's inputs are mounted each on its own, and hashed. Around them lies the system with its tools, and nothing keeps a
//! `./configure` from looking into `/usr/include` or at `/etc/os-release`. So the mounts that show the system are marked with
//! fanotify(7) before the first line of the build runs: marks are on the sandbox's own mounts, so that nobody else's opens
//! are seen, and end with them. What is not a program, a library or an object (ELF, or `ar`'s archive of objects) is noted by
//! its path in the sandbox.
//!
//! What is in the queue when the sandbox ends is read after that. A mount that has gone with its namespace has no place any
//! more, and the path of a file on it would begin at that mount; so the namespace is held until the last event is read.
//!
//! Limits: a file that is only asked for (stat(2), a failed open) is not seen, nor is a directory that is listed. Marks need
//! CAP_SYS_ADMIN: a user's builds are not observed.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use fs_err as fs;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use rustix::fs::FileType;
use rustix::process::Pid;

/// What tools and libraries begin with: ELF, and archives of ELF objects.
const TOOLS: [&[u8]; 2] = [b"\x7fELF", b"!<arch>\n"];

/// Watches a sandbox that stands and whose script waits.
pub(super) struct Observer {
    group: Fanotify,
    /// What the paths of its events begin with: in a chroot the sandbox's root is not that of its mount namespace.
    root: PathBuf,
    /// Keeps the mounts in their places.
    _namespace: fs::File,
    tools: BTreeSet<PathBuf>,
    /// Seen so far.
    pub(super) opened: BTreeSet<PathBuf>,
}

impl Observer {
    /// Marks the mounts of a process that are to be watched.
    pub(super) fn attach(pid: Pid, is_watched: &dyn Fn(&Path) -> bool) -> io::Result<Observer> {
        // The queue is bounded by what is opened in one tick; a bound of the kernel's would lose events.
        let flags = InitFlags::FAN_CLASS_NOTIF
            | InitFlags::FAN_CLOEXEC
            | InitFlags::FAN_NONBLOCK
            | InitFlags::FAN_UNLIMITED_QUEUE;
        let events = EventFFlags::O_RDONLY
            | EventFFlags::O_CLOEXEC
            | EventFFlags::O_LARGEFILE
            | EventFFlags::O_NONBLOCK;
        let group = Fanotify::init(flags, events)?;
        let process = PathBuf::from(format!("/proc/{}", pid.as_raw_pid()));
        let root = fs::read_link(process.join("root"))?;
        let namespace = fs::File::open(process.join("ns/mnt"))?;
        // Where relative paths would begin; these are absolute.
        let top = fs::File::open("/")?;
        let mounts = fs::read_to_string(process.join("mountinfo"))?;
        for mount in mount_points(&mounts).filter(|mount| is_watched(mount)) {
            let place = process.join("root").join(mount.strip_prefix("/").unwrap_or(&mount));
            let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_MOUNT;
            group.mark(flags, MaskFlags::FAN_OPEN, &top, Some(&place))?;
        }
        Ok(Observer { group, root, _namespace: namespace, tools: BTreeSet::new(), opened: BTreeSet::new() })
    }

    /// Notes what was opened since.
    pub(super) fn take(&mut self) -> io::Result<()> {
        loop {
            let events = match self.group.read_events() {
                Ok(events) => events,
                Err(nix::errno::Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            for event in events {
                if let Some(fd) = event.fd() {
                    self.note(fd)?;
                }
            }
        }
    }

    fn note(&mut self, fd: BorrowedFd) -> io::Result<()> {
        let path = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)))?;
        let path = path.strip_prefix(&self.root).map_or(path.clone(), |inside| Path::new("/").join(inside));
        let is_file = FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode) == FileType::RegularFile;
        if !is_file || self.tools.contains(&path) || self.opened.contains(&path) {
            return Ok(());
        }
        let mut start = [0; 8];
        let length = rustix::io::pread(fd.as_fd(), &mut start, 0)?;
        let is_tool = TOOLS.iter().any(|magic| start[..length].starts_with(magic));
        if is_tool {
            self.tools.insert(path)
        } else {
            self.opened.insert(path)
        };
        Ok(())
    }
}

/// The places where something is mounted, from `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
fn mount_points(text: &str) -> impl Iterator<Item = PathBuf> {
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| PathBuf::from(unescape(field)))
}

/// Blanks, newlines and backslashes stand as `\040` and so on.
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
    fn a_file_that_was_opened_last_is_known_by_its_place_when_the_mount_has_gone() {
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
        let mut observer = Observer::attach(Pid::from_child(&child), &|mount| mount == place).unwrap();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(child.wait().unwrap().success());
        observer.take().unwrap();
        assert_eq!(observer.opened, BTreeSet::from([place.join("last.h")]));
    }
}
