//! Scratch directories: private, gone when they are dropped, and cleared away by the next process after a crash.
//!
//! Each is held by a lock on the directory itself, which the system lets go of however its process ends. Whoever makes
//! a scratch directory first deletes those beside it that nobody holds.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use crate::Result;
use crate::error::at;

/// What scratch directories are called by.
const PREFIX: &str = "kcache-scratch-";

/// A private directory (0700) that vanishes when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    dir: TempDir,
    _held: File,
}

impl Scratch {
    /// A new one in a directory, after clearing away what crashed processes left there.
    pub fn new(parent: &Path) -> Result<Scratch> {
        sweep(parent)?;
        loop {
            let dir = TempDir::with_prefix_in(PREFIX, parent).map_err(at("make a directory in", parent))?;
            let held = fs_err::File::open(dir.path())?.into_parts().0;
            // Somebody who sweeps may have come in between, and have deleted it.
            if held.try_lock().is_ok() && dir.path().exists() {
                return Ok(Scratch { dir, _held: held });
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn sweep(parent: &Path) -> Result<()> {
    let shared = fs_err::metadata(parent)?.mode() & 0o022 != 0;
    for entry in fs_err::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Some((directory, owner)) = directory(&entry.path()) else { continue };
        // In a place that all write to, such as /tmp, others may have planted it. In one of the caller's own a directory may
        // have been given to the user whom something unprivileged runs as.
        if shared && owner != rustix::process::geteuid().as_raw() {
            continue;
        }
        if directory.try_lock().is_ok() {
            let _ = fs_err::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

/// A directory and its owner. `None`: gone meanwhile, or something else that was planted under the name: a link, or a FIFO
/// that would be waited for.
fn directory(path: &Path) -> Option<(File, u32)> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let directory = File::from(rustix::fs::open(path, flags, Mode::empty()).ok()?);
    let owner = directory.metadata().ok()?.uid();
    Some((directory, owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(dir: &Path) -> usize {
        fs_err::read_dir(dir).unwrap().count()
    }

    #[test]
    fn what_a_crash_left_is_cleared_away_and_what_is_in_use_stays() {
        let tmp = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(tmp.path().join("kcache-scratch-dead/build")).unwrap();
        fs_err::create_dir(tmp.path().join("other")).unwrap();
        let first = Scratch::new(tmp.path()).unwrap();
        fs_err::write(first.path().join("file"), "kept").unwrap();
        let second = Scratch::new(tmp.path()).unwrap();
        assert_eq!(count(tmp.path()), 3, "two in use, and the one that is not scratch");
        assert!(first.path().join("file").exists());
        drop((first, second));
        assert_eq!(count(tmp.path()), 1);
    }

    #[test]
    fn what_others_planted_under_the_name_is_neither_waited_for_nor_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, tmp.path().join("kcache-scratch-pipe"), 0o600.into()).unwrap();
        fs_err::os::unix::fs::symlink(elsewhere.path(), tmp.path().join("kcache-scratch-link")).unwrap();
        Scratch::new(tmp.path()).unwrap();
        assert_eq!(count(tmp.path()), 2);
        assert!(elsewhere.path().exists());
    }
}
