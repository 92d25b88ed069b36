//! Opening files and directories of a tree without following links.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::at;
use crate::{Error, Result};

const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// Non-blocking: a file may have been replaced by a FIFO since the walk.
pub(super) const FILE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Opens a directory by its path.
pub(super) fn open_dir(path: &Path) -> Result<OwnedFd> {
    rustix::fs::open(path, DIR, Mode::empty()).map_err(|e| at("open", path)(e.into()))
}

/// Opens the directory `relative` below `root`, which is open as `dir`.
pub(super) fn open_dir_below(dir: &OwnedFd, root: &Path, relative: &[u8]) -> Result<OwnedFd> {
    let name = if relative.is_empty() { b"." } else { relative };
    open_below(dir, name, DIR).map_err(|e| changed_or(e, "open", &full_path(root, relative)))
}

/// Opens `relative` below `dir` without following symbolic links (openat2(2), `RESOLVE_NO_SYMLINKS`).
pub(super) fn open_below(dir: &OwnedFd, relative: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let flags = flags | OFlags::NOFOLLOW;
    match rustix::fs::openat2(dir, os(relative), flags, Mode::empty(), resolve) {
        // Before Linux 5.6, or forbidden by a container: then only the last component is checked for a link.
        Err(Errno::NOSYS) => rustix::fs::openat(dir, os(relative), flags, Mode::empty()),
        opened => opened,
    }
}

/// Maps errors that only a change since the walk can explain to [`Error::Changed`].
pub(super) fn changed_or(e: Errno, act: &'static str, path: &Path) -> Error {
    match e {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::INVAL | Errno::NXIO => {
            Error::Changed { path: path.to_owned() }
        }
        e => at(act, path)(e.into()),
    }
}

/// A path below `root`; the root itself if `relative` is empty.
pub(super) fn full_path(root: &Path, relative: &[u8]) -> PathBuf {
    if relative.is_empty() { root.to_owned() } else { root.join(os(relative)) }
}

pub(super) fn os(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}
