//! Scratch directories: private, deleted on drop, and after a crash by the next process.
//!
//! Each is protected by a lock on the directory itself, which the kernel releases however the process ends. Creating a
//! scratch directory first deletes those beside it that nobody holds.
//!
//! A build may have created the contents: nested directories by the thousand, deeper than there are descriptors or
//! stack frames, or links in the place of directories. So deletion works through open directories, one at a time:
//! subdirectories are first moved to the top, and deleted from there in turn.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::fs::{chmod, fchmod, openat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use crate::Result;
use crate::error::at;

/// Prefix of scratch directories' names.
const PREFIX: &str = "kcache-scratch-";

/// A private directory (mode 0700) that is deleted on drop.
#[derive(Debug)]
pub struct Scratch {
    dir: PathBuf,
    held: File,
}

impl Scratch {
    /// Creates one in `parent`, after deleting those of crashed processes there.
    pub fn new(parent: &Path) -> Result<Scratch> {
        sweep(parent)?;
        loop {
            let mut made = tempfile::Builder::new();
            made.prefix(PREFIX).disable_cleanup(true).permissions(PermissionsExt::from_mode(0o700));
            let dir = made.tempdir_in(parent).map_err(at("create a directory in", parent))?.keep();
            // A concurrent process that sweeps may have deleted it before it was locked.
            let held = match fs_err::File::open(&dir) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                held => held?.into_parts().0,
            };
            if held.try_lock().is_ok() && dir.exists() {
                return Ok(Scratch { dir, held });
            }
        }
    }

    /// The directory's path.
    pub fn path(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = remove(&self.dir, &self.held); // the next scratch directory deletes the rest
    }
}

/// Deletes an open directory that is at this path, with its contents.
fn remove(path: &Path, dir: &File) -> rustix::io::Result<()> {
    let (mut numbers, mut pending) = (0..u64::MAX, Vec::new());
    empty(dir, dir, &mut numbers, &mut pending)?;
    while let Some(number) = pending.pop() {
        let name = number.to_string();
        let below = open_to_empty(dir, &name)?;
        empty(&below, dir, &mut numbers, &mut pending)?;
        unlinkat(dir, &name, AtFlags::REMOVEDIR)?;
    }
    unlinkat(CWD, path, AtFlags::REMOVEDIR)
}

/// Deletes the files in a directory, and moves its subdirectories to `top`, under numbers that are added to `pending`.
fn empty(
    dir: impl std::os::fd::AsFd,
    top: &File,
    numbers: &mut impl Iterator<Item = u64>,
    pending: &mut Vec<u64>,
) -> rustix::io::Result<()> {
    // Subdirectories of the top are moved within it, so they are listed again.
    let mut met: Vec<std::ffi::CString> = Vec::new();
    for entry in Dir::read_from(&dir)? {
        let entry = entry?;
        match entry.file_name() {
            name if name == c"." || name == c".." => {}
            name if is_directory(&dir, name, entry.file_type())? => met.push(name.to_owned()),
            name => unlinkat(&dir, name, AtFlags::empty())?,
        }
    }
    for name in met {
        let moved = |number: &u64| {
            match renameat_with(&dir, &*name, top, number.to_string(), RenameFlags::NOREPLACE) {
                Err(Errno::ACCESS) => {
                    drop(open_to_empty(&dir, &*name)?); // moving a directory changes its `..`, which needs write permission
                    renameat_with(&dir, &*name, top, number.to_string(), RenameFlags::NOREPLACE)
                }
                other => other,
            }
        };
        for number in numbers.by_ref() {
            match moved(&number) {
                Err(Errno::EXIST) => {}
                other => {
                    other?;
                    pending.push(number);
                    break;
                }
            }
        }
    }
    Ok(())
}

fn is_directory(dir: impl std::os::fd::AsFd, name: &CStr, kind: FileType) -> rustix::io::Result<bool> {
    Ok(match kind {
        FileType::Unknown => {
            FileType::from_raw_mode(statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
                == FileType::Directory
        }
        kind => kind == FileType::Directory,
    })
}

/// Opens a directory whose contents are to be deleted, whatever its mode.
fn open_to_empty(
    dir: impl std::os::fd::AsFd,
    name: impl rustix::path::Arg + Copy,
) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || openat(&dir, name, flags | OFlags::RDONLY, Mode::empty());
    let opened = match open() {
        Err(Errno::ACCESS) => {
            let closed = openat(&dir, name, flags | OFlags::PATH, Mode::empty())?;
            let itself = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&closed));
            chmod(itself, Mode::RWXU)?;
            open()?
        }
        opened => opened?,
    };
    if !rustix::process::geteuid().is_root() {
        fchmod(&opened, Mode::RWXU)?;
    }
    Ok(opened)
}

fn sweep(parent: &Path) -> Result<()> {
    let shared = fs_err::metadata(parent)?.mode() & 0o022 != 0;
    for entry in fs_err::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(PREFIX.as_bytes()) {
            continue;
        }
        let Some((directory, owner)) = directory(&entry.path()) else { continue };
        // In a directory that everybody can write, such as /tmp, others may have planted it. In a private one, a
        // build's unprivileged user may own it.
        if shared && owner != rustix::process::geteuid().as_raw() {
            continue;
        }
        if directory.try_lock().is_ok() {
            let _ = remove(&entry.path(), &directory); // it does no harm
        }
    }
    Ok(())
}

/// Opens a directory, with its owner. `None` if it is gone, or if something else has the name: a link, or a FIFO on
/// which opening would block.
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
    fn scratch_directories_of_crashed_processes_are_deleted() {
        let tmp = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(tmp.path().join("kcache-scratch-dead/build")).unwrap();
        fs_err::create_dir(tmp.path().join("other")).unwrap();
        let first = Scratch::new(tmp.path()).unwrap();
        let mode = fs_err::metadata(first.path()).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o700, "nobody else looks into what is being built or worked on");
        fs_err::write(first.path().join("file"), "kept").unwrap();
        let second = Scratch::new(tmp.path()).unwrap();
        assert_eq!(count(tmp.path()), 3, "two in use, and the one that is not scratch");
        assert!(first.path().join("file").exists());
        drop((first, second));
        assert_eq!(count(tmp.path()), 1);
    }

    #[test]
    fn deep_trees_are_deleted_and_links_not_followed() {
        let (tmp, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs_err::write(elsewhere.path().join("file"), "kept").unwrap();
        let scratch = Scratch::new(tmp.path()).unwrap();
        let mut at = rustix::fs::open(scratch.path(), OFlags::PATH, Mode::empty()).unwrap();
        // More than there are descriptors, and deeper than any path.
        for depth in 0..3_000 {
            rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
            if depth % 500 == 0 {
                rustix::fs::symlinkat(elsewhere.path(), &at, "link").unwrap();
                rustix::fs::mkdirat(&at, "7", Mode::RWXU).unwrap();
                rustix::fs::mkdirat(&at, "closed", Mode::empty()).unwrap();
                rustix::fs::mkdirat(&at, "closed-and-full", Mode::RWXU).unwrap();
                rustix::fs::mkdirat(&at, "closed-and-full/x", Mode::RWXU).unwrap();
                rustix::fs::chmodat(&at, "closed-and-full", Mode::empty(), AtFlags::empty()).unwrap();
            }
            at = rustix::fs::openat(&at, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        drop((at, scratch));
        assert_eq!(count(tmp.path()), 0);
        assert!(elsewhere.path().join("file").exists());
    }

    #[test]
    fn planted_links_and_fifos_are_ignored() {
        let tmp = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, tmp.path().join("kcache-scratch-pipe"), 0o600.into()).unwrap();
        fs_err::os::unix::fs::symlink(elsewhere.path(), tmp.path().join("kcache-scratch-link")).unwrap();
        Scratch::new(tmp.path()).unwrap();
        assert_eq!(count(tmp.path()), 2);
        assert!(elsewhere.path().exists());
    }
}
