//! The lock that only one process holds for each kernel.
//!
//! The lock is `flock` on `<modules dir>/.kcache-<release>.lock`, a file that only its owner can open: any user could
//! lock the kernel's own directory, which everybody can read. The holder deletes the file when it is done, so nothing
//! remains; a crash leaves an empty file that the next process uses. Because of the deletion, a process that got the
//! lock checks that its file still has the name, and starts over otherwise.

use std::fs::TryLockError;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;

use super::{Error, ModulesDir};

/// Interval of attempts: too short to notice, long enough to cost nothing.
const PAUSE: Duration = Duration::from_millis(50);

/// A held lock, released on drop.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: fs_err::File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Still locked: a waiting process sees that the file has no name any more and creates a new one. A remaining
        // file does no harm.
        let _ = fs_err::remove_file(&self.path);
    }
}

/// Takes the lock, waiting for at most `wait`. Calls `say` once if it has to wait.
pub(super) fn acquire(tree: &ModulesDir, wait: Duration, print: &dyn Fn(&str)) -> Result<Lock, Error> {
    let path = lock_path(tree);
    let mut waited = Duration::ZERO;
    loop {
        let file = open(&path)?;
        match file.file().try_lock() {
            Ok(()) if has_the_name(&file, &path)? => return Ok(Lock { path, _file: file }),
            Err(TryLockError::Error(e)) => return Err(e.into()),
            // Another process holds it, or did until just now; then the next one may have created a new file.
            Ok(()) | Err(TryLockError::WouldBlock) if waited >= wait => {
                return Err(Error::Busy { path: tree.to_path_buf() });
            }
            Ok(()) | Err(TryLockError::WouldBlock) => {}
        }
        if waited.is_zero() {
            print(&format!("waiting for another kcache to finish with {}", tree.display()));
        }
        std::thread::sleep(PAUSE);
        waited += PAUSE;
    }
}

/// Whether a process holds the lock now. False if the file cannot be opened for lack of permission.
pub(super) fn is_held(tree: &ModulesDir) -> bool {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).custom_flags(flags());
    match fs_err::OpenOptions::from_options(options).open(lock_path(tree)) {
        Ok(file) => matches!(file.file().try_lock_shared(), Err(TryLockError::WouldBlock)),
        Err(_) => false,
    }
}

fn lock_path(tree: &ModulesDir) -> PathBuf {
    let release = tree.release();
    tree.with_file_name(format!(".kcache-{release}.lock"))
}

fn open(path: &Path) -> std::io::Result<fs_err::File> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags());
    fs_err::OpenOptions::from_options(options).open(path)
}

/// Under another root, a link in its place may lead to this machine's own files, and opening a FIFO would block.
fn flags() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

fn has_the_name(file: &fs_err::File, path: &Path) -> std::io::Result<bool> {
    match fs_err::symlink_metadata(path) {
        Ok(named) => Ok(named.ino() == file.file().metadata()?.ino()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn tree() -> (tempfile::TempDir, ModulesDir) {
        let dir = tempfile::tempdir().unwrap();
        let tree = ModulesDir::new(dir.path().join("6.1"), "6.1");
        fs_err::create_dir(&tree).unwrap();
        (dir, tree)
    }

    #[test]
    fn a_held_lock_can_be_queried() {
        let (_dir, tree) = tree();
        assert!(!is_held(&tree));
        let lock = acquire(&tree, Duration::ZERO, &|_| ()).unwrap();
        assert!(is_held(&tree));
        drop(lock);
        assert!(!is_held(&tree));
    }

    #[test]
    fn the_second_process_waits_reports_it_once_and_gives_up() {
        let (dir, tree) = tree();
        let said = Cell::new(0);
        let print = |_: &str| said.set(said.get() + 1);
        let first = acquire(&tree, Duration::ZERO, &print).unwrap();
        let second = acquire(&tree, 3 * PAUSE, &print);
        assert!(matches!(second, Err(Error::Busy { .. })));
        assert_eq!(said.get(), 1);
        drop(first);
        drop(acquire(&tree, Duration::ZERO, &print).unwrap());
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1, "nothing but the tree");
    }

    #[test]
    fn only_one_thread_holds_the_lock() {
        let (_dir, tree) = tree();
        let inside = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let lock = acquire(&tree, 1000 * PAUSE, &|_| {}).unwrap();
                        assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                        inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
    }

    #[test]
    fn other_users_cannot_open_the_lock() {
        let (_dir, tree) = tree();
        let _lock = acquire(&tree, Duration::ZERO, &|_| {}).unwrap();
        assert_eq!(fs_err::metadata(lock_path(&tree)).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let (dir, tree) = tree();
        let elsewhere = dir.path().join("elsewhere");
        fs_err::os::unix::fs::symlink(&elsewhere, lock_path(&tree)).unwrap();
        let error = acquire(&tree, Duration::ZERO, &|_| {}).unwrap_err().to_string();
        assert!(error.contains(".kcache-6.1.lock"), "{error}");
        assert!(!is_held(&tree) && !elsewhere.exists());
    }
}
