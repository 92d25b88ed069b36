//! The users that sandboxes run as: with root, each build has its own uid, which belongs to nobody.
//!
//! So builds do not share what the kernel counts by uid (processes, keys, pending signals, memory of pipes), and a
//! build that escaped its namespaces could not signal or trace another. All kcache processes of a machine use one
//! range. Each uid is a byte of one file, at the uid's own offset, and its user holds a lock on that byte
//! (fcntl_locking(2), open file description locks), which the kernel releases however the process ends. If the file
//! cannot be created, as on a read-only `/run`, processes begin at different offsets, and nearly always use different
//! uids.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fs_err as fs;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Directory in which systemd records the used uids of its dynamic range (docs/UIDS-GIDS.md of systemd).
const DYNAMIC: &str = "/run/systemd/dynamic-uid";

/// The user that code in a sandbox runs as.
#[derive(Clone, Debug)]
pub enum BuildIdentity {
    /// kcache is root: switch to this uid and gid.
    Drop(Uid),
    /// kcache is not root: a user namespace that contains only the current user.
    Own,
}

impl BuildIdentity {
    /// Uid and gid outside of the sandbox, if they differ from kcache's.
    pub fn uid(&self) -> Option<u32> {
        match self {
            BuildIdentity::Drop(uid) => Some(uid.0.number),
            BuildIdentity::Own => None,
        }
    }
}

/// A uid in use until the last copy of this is dropped.
#[derive(Clone, Debug)]
pub struct Uid(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    number: u32,
    /// Holds the lock; `None` if there is no file of locks.
    _lock: Option<std::fs::File>,
}

/// Provides users for sandboxes.
#[derive(Debug)]
pub enum Identities {
    /// kcache is root: each sandbox gets one of these uids.
    Drop(Uids),
    /// kcache is not root.
    Own,
}

impl Identities {
    /// A user for one sandbox.
    pub fn take(&self) -> BuildIdentity {
        match self {
            Identities::Drop(uids) => BuildIdentity::Drop(uids.take()),
            Identities::Own => BuildIdentity::Own,
        }
    }
}

/// A range of uids that belong to nobody.
#[derive(Debug)]
pub struct Uids {
    range: std::ops::Range<u32>,
    /// Advances cyclically, so that a uid is reused as late as possible.
    next: AtomicU32,
    locks: PathBuf,
}

impl Uids {
    /// Makes a range that starts at `begin`, with a file for locks.
    pub fn new(range: std::ops::Range<u32>, begin: u32, locks: &Path) -> Uids {
        Uids { range, next: AtomicU32::new(begin), locks: locks.to_owned() }
    }

    /// A free uid, if there is one.
    pub fn take(&self) -> Uid {
        let free = (0..self.range.len()).find_map(|_| self.try_take(self.step()));
        free.unwrap_or_else(|| Uid(Arc::new(Taken { number: self.step(), _lock: None })))
    }

    fn step(&self) -> u32 {
        let length = self.range.end - self.range.start;
        self.range.start + self.next.fetch_add(1, Ordering::Relaxed) % length
    }

    /// This uid, unless it is in use.
    fn try_take(&self, number: u32) -> Option<Uid> {
        if Path::new(DYNAMIC).join(number.to_string()).exists() {
            return None;
        }
        let lock = match self.lock(number) {
            Ok(lock) => Some(lock),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(_) => None, // there are no locks here
        };
        Some(Uid(Arc::new(Taken { number, _lock: lock })))
    }

    fn lock(&self, number: u32) -> io::Result<std::fs::File> {
        if let Some(directory) = self.locks.parent() {
            fs::create_dir_all(directory)?;
        }
        // Other users must not lock a byte, for which they only need to open the file.
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(libc::O_NOFOLLOW).open(&self.locks)?;
        let byte = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: number.into(),
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLK(&byte))?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_are_unique_and_reused() {
        let dir = tempfile::tempdir().unwrap();
        let locks = dir.path().join("run/uids");
        // Two processes that begin at the same offset.
        let pools = [0, 0].map(|begin| Uids::new(4_000_000..4_000_004, begin, &locks));
        let mut taken: Vec<Uid> = pools.iter().chain(&pools).map(Uids::take).collect();
        let mut numbers: Vec<u32> = taken.iter().map(|uid| uid.0.number).collect();
        numbers.sort();
        assert_eq!(numbers, [4_000_000, 4_000_001, 4_000_002, 4_000_003]);
        let back = taken.remove(2).0.number;
        assert_eq!(pools[0].take().0.number, back);
    }

    #[test]
    fn uids_differ_within_a_run_without_a_lock_file() {
        let uids = Uids::new(10..13, 2, Path::new("/proc/none/uids"));
        let numbers = [(); 3].map(|()| uids.take().0.number);
        assert_eq!(numbers, [12, 10, 11]);
    }
}
