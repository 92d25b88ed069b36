//! One process at a time for each kernel.
//!
//! The lock is `flock` on the kernel's own directory, opened for reading: nothing is written for it, nothing is left
//! behind, and the system releases it with the process that held it.

use std::fs::TryLockError;
use std::path::Path;
use std::time::Duration;

use super::Error;

/// Short enough not to be noticed, long enough to cost nothing.
const PAUSE: Duration = Duration::from_millis(50);

/// Held until it is dropped.
pub(super) struct Lock {
    _directory: fs_err::File,
}

/// Waits for the lock, and says so once.
pub(super) fn acquire(tree: &Path, wait: Duration, say: &dyn Fn(&str)) -> Result<Lock, Error> {
    let directory = fs_err::File::open(tree)?;
    let mut waited = Duration::ZERO;
    loop {
        match directory.file().try_lock() {
            Ok(()) => return Ok(Lock { _directory: directory }),
            Err(TryLockError::Error(e)) => return Err(e.into()),
            Err(TryLockError::WouldBlock) if waited >= wait => {
                return Err(Error::Busy { path: tree.to_owned() });
            }
            Err(TryLockError::WouldBlock) => {}
        }
        if waited.is_zero() {
            say(&format!("waiting for another kcache that works on {}", tree.display()));
        }
        std::thread::sleep(PAUSE);
        waited += PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn the_second_waits_says_so_once_and_gives_up() {
        let dir = tempfile::tempdir().unwrap();
        let said = Cell::new(0);
        let say = |_: &str| said.set(said.get() + 1);
        let first = acquire(dir.path(), Duration::ZERO, &say).unwrap();
        let second = acquire(dir.path(), 3 * PAUSE, &say);
        assert!(matches!(second, Err(Error::Busy { .. })));
        assert_eq!(said.get(), 1);
        drop(first);
        assert!(acquire(dir.path(), Duration::ZERO, &say).is_ok());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
