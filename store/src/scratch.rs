//! Scratch directories: private, gone when they are dropped, and cleared away by the next process after a crash.
//!
//! Each is held by a lock on the directory itself, which the system lets go of however its process ends. Whoever makes
//! a scratch directory first deletes those beside it that nobody holds.

use std::fs::File;
use std::path::Path;

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
    for entry in fs_err::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        // Gone meanwhile, or another user's: not ours to clear away.
        let Ok(directory) = File::open(entry.path()) else { continue };
        if directory.try_lock().is_ok() {
            let _ = fs_err::remove_dir_all(entry.path());
        }
    }
    Ok(())
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
}
