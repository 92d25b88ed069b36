//! As whom sandboxes run: each root's build under a uid of its own, that belongs to nobody.
//!
//! What the kernel counts by uid (processes, keys, pending signals, pipes' memory) one build so takes from no other, and no
//! two can signal each other's or look into them, were one to get out of its namespaces. All of this machine's kcaches take
//! from one range. Each uid is a byte of one file, at the uid's own place, and who has it holds a lock on that byte
//! (fcntl_locking(2), open file description locks), so that the end of a process, whichever way, gives it back. Where the
//! file cannot be made, as on a read-only `/run`, processes begin at different places, and nearly always have different ones.

use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use fs_err as fs;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Where systemd notes which uids of its dynamic range are taken (docs/UIDS-GIDS.md of systemd).
const DYNAMIC: &str = "/run/systemd/dynamic-uid";

/// As whom the code in the sandbox runs.
#[derive(Clone, Debug)]
pub enum Identity {
    /// kcache is root: drop to this uid and gid.
    Drop(Uid),
    /// kcache is a user: a user namespace with that user alone.
    Own,
}

impl Identity {
    /// The uid and gid that it has outside of the sandbox, where that is not kcache's own.
    pub fn uid(&self) -> Option<u32> {
        match self {
            Identity::Drop(uid) => Some(uid.0.number),
            Identity::Own => None,
        }
    }
}

/// A uid that is taken until the last copy of this is dropped.
#[derive(Clone, Debug)]
pub struct Uid(Arc<Taken>);

#[derive(Debug)]
struct Taken {
    number: u32,
    /// Holds the lock; `None` where there is no file of locks.
    _lock: Option<std::fs::File>,
}

/// As whom sandboxes are to run.
#[derive(Debug)]
pub enum Identities {
    /// kcache is root: each under a uid of these.
    Drop(Uids),
    /// kcache is a user.
    Own,
}

impl Identities {
    /// An identity for one sandbox.
    pub fn take(&self) -> Identity {
        match self {
            Identities::Drop(uids) => Identity::Drop(uids.take()),
            Identities::Own => Identity::Own,
        }
    }
}

/// A range of uids that belong to nobody.
#[derive(Debug)]
pub struct Uids {
    range: std::ops::Range<u32>,
    /// Goes round and round: a uid is taken again as late as possible.
    next: AtomicU32,
    locks: PathBuf,
}

impl Uids {
    /// These, beginning somewhere, with their locks in a file.
    pub fn new(range: std::ops::Range<u32>, begin: u32, locks: &Path) -> Uids {
        Uids { range, next: AtomicU32::new(begin), locks: locks.to_owned() }
    }

    /// One that nobody has, if there is one.
    pub fn take(&self) -> Uid {
        let free = (0..self.range.len()).find_map(|_| self.try_take(self.step()));
        free.unwrap_or_else(|| Uid(Arc::new(Taken { number: self.step(), _lock: None })))
    }

    fn step(&self) -> u32 {
        let length = self.range.end - self.range.start;
        self.range.start + self.next.fetch_add(1, Ordering::Relaxed) % length
    }

    /// This one, unless somebody has it.
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
        // Nobody else may lock a byte of it, which takes no more than to open it.
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
    fn no_two_have_one_uid_and_what_is_given_back_is_taken_again() {
        let dir = tempfile::tempdir().unwrap();
        let locks = dir.path().join("run/uids");
        // Two processes that happen to begin at one place.
        let pools = [0, 0].map(|begin| Uids::new(4_000_000..4_000_004, begin, &locks));
        let mut taken: Vec<Uid> = pools.iter().chain(&pools).map(Uids::take).collect();
        let mut numbers: Vec<u32> = taken.iter().map(|uid| uid.0.number).collect();
        numbers.sort();
        assert_eq!(numbers, [4_000_000, 4_000_001, 4_000_002, 4_000_003]);
        let back = taken.remove(2).0.number;
        assert_eq!(pools[0].take().0.number, back);
    }

    #[test]
    fn where_no_file_of_locks_can_be_made_a_run_still_has_different_ones() {
        let uids = Uids::new(10..13, 2, Path::new("/proc/none/uids"));
        let numbers = [(); 3].map(|()| uids.take().0.number);
        assert_eq!(numbers, [12, 10, 11]);
    }
}
