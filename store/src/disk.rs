//! Operations on files and directories that the whole store uses.

use std::fs::{DirBuilder, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
use rustix::io::Errno;

use crate::Result;
use crate::error::at;

/// Calls back for each file with this suffix in the directories directly below `dir`: with its name without the
/// suffix, its path, and its metadata. Links are not followed.
pub(crate) fn files(
    dir: &Path,
    ending: &str,
    each: &mut dyn FnMut(&str, &Path, &Metadata) -> Result<()>,
) -> Result<()> {
    for shard in fs_err::read_dir(dir)? {
        let shard = shard?;
        if !shard.file_type()?.is_dir() {
            continue;
        }
        let Some(files) = if_there(fs_err::read_dir(shard.path()))? else { continue };
        for file in files {
            let file = file?;
            let name = file.file_name();
            let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(ending)) else { continue };
            if let Some(metadata) = if_there(file.metadata())? {
                each(stem, &file.path(), &metadata)?;
            }
        }
    }
    Ok(())
}

/// Turns "not found" into `None`, for files that another process may have deleted.
pub(crate) fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Creates a directory and its missing parents. The mode is set explicitly, so the umask has no effect.
pub(crate) fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    if let Some(above) = dir.parent().filter(|above| !above.as_os_str().is_empty()) {
        make_dir(above, mode)?;
    }
    match DirBuilder::new().mode(mode).create(dir) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && dir.is_dir() => Ok(()),
        made => {
            made.map_err(at("create", dir))?;
            Ok(fs_err::set_permissions(dir, Permissions::from_mode(mode))?)
        }
    }
}

/// Deletes a file if it exists.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs_err::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Sets a file's modification time to now; false if there is no such file. Uses the clock directly instead of a `now`
/// passed in, because the time is only ever compared with other times from the file system.
pub(crate) fn touch(path: &Path) -> Result<bool> {
    let time = |nsec| Timespec { tv_sec: 0, tv_nsec: nsec };
    let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
    match utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(at("set the time of", path)(e.into())),
    }
}
