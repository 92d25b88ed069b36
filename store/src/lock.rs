//! Locks between processes, with a time limit and a message while waiting.
//!
//! A lock is `flock` on a file under `lock/`. The kernel releases it when its holder exits, so a crash leaves only an
//! empty file. The holder deletes the file while still holding the lock. A process that was waiting then holds a file
//! without a name, detects that, and starts over with the new file. Locks only save work (one builder per key); no
//! published data depends on them.

use std::fs::TryLockError;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::publish::open_as;
use crate::{Error, Result};

/// How long to wait for another process, and how to report it.
#[derive(Clone, Copy)]
pub struct Waiting<'a> {
    /// Time limit; then the call fails with [`Error::Busy`].
    pub limit: Duration,
    /// Called once per wait that takes longer than a second, with text such as "waiting for another kcache to finish with ...".
    pub print: &'a (dyn Fn(&str) + Sync),
}

/// Waits shorter than this are not reported.
const SAY_AFTER: Duration = Duration::from_secs(1);
/// Interval of attempts: too short to notice, and twenty system calls per second cost nothing.
const POLL: Duration = Duration::from_millis(50);

/// Calls `attempt` until it returns something, as long as `waiting` allows. `path` is what the messages name.
pub(crate) fn until<T>(
    path: &Path,
    waiting: &Waiting,
    mut attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let started = Instant::now();
    let mut said = false;
    loop {
        if let Some(held) = attempt()? {
            return Ok(held);
        }
        let waited = started.elapsed();
        if waited >= waiting.limit {
            return Err(Error::Busy { what: path.display().to_string(), waited });
        }
        if waited >= SAY_AFTER && !said {
            (waiting.print)(&format!("waiting for another kcache to finish with {}", path.display()));
            said = true;
        }
        std::thread::sleep(POLL.min(waiting.limit - waited));
    }
}

/// A held lock, released on drop.
#[derive(Debug)]
pub struct Lock {
    file: fs_err::File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock at `path`, waiting for another holder as long as `waiting` allows.
    pub(crate) fn take(path: &Path, waiting: &Waiting) -> Result<Lock> {
        until(path, waiting, || Lock::attempt(path))
    }

    fn attempt(path: &Path) -> Result<Option<Lock>> {
        let file = open_as(path, std::fs::OpenOptions::new().create(true).truncate(false).write(true))?;
        match file.file().try_lock() {
            Ok(()) => Ok(Lock { file, path: path.to_owned() }.if_still_named()),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::At { act: "lock", path: path.to_owned(), source }),
        }
    }

    /// The lock, unless its previous holder deleted the file between opening and locking it.
    fn if_still_named(self) -> Option<Lock> {
        if self.is_named() { Some(self) } else { None }
    }

    fn is_named(&self) -> bool {
        let ours = self.file.metadata().map(|m| (m.dev(), m.ino()));
        let named = fs_err::symlink_metadata(&self.path).map(|m| (m.dev(), m.ino()));
        matches!((ours, named), (Ok(ours), Ok(named)) if ours == named)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Delete the file only if it is still ours. Closing it afterwards releases the lock.
        if self.is_named() {
            let _ = fs_err::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn patient(limit: Duration, print: &(dyn Fn(&str) + Sync)) -> Waiting<'_> {
        Waiting { limit, print }
    }

    #[test]
    fn a_second_process_waits_and_reports_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let said = Mutex::new(Vec::new());
        let print = |text: &str| said.lock().unwrap().push(text.to_owned());
        let held = Lock::take(&path, &patient(Duration::ZERO, &print)).unwrap();
        let busy = Lock::take(&path, &patient(Duration::from_millis(1200), &print)).unwrap_err();
        assert!(matches!(busy, Error::Busy { .. }));
        let expected = format!("waiting for another kcache to finish with {}", path.display());
        assert_eq!(*said.lock().unwrap(), [expected]);
        drop(held);
        Lock::take(&path, &patient(Duration::ZERO, &print)).unwrap();
        assert!(!path.exists(), "a lock that nobody holds leaves no file");
    }

    #[test]
    fn only_one_thread_holds_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let inside = AtomicU32::new(0);
        std::thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    for _ in 0..20 {
                        let lock = Lock::take(&path, &patient(Duration::from_secs(60), &|_| ())).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }
}
