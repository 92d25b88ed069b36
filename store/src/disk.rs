//! Small acts on files and directories that the whole store needs.

use std::fs::{DirBuilder, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, utimensat};
use rustix::io::Errno;

use crate::Result;
use crate::error::at;

/// Tells of each file with this ending in the directories of `dir`: its name without the ending, its path, and what the
/// file system says of it. Links are not followed.
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

/// What was deleted meanwhile is none.
pub(crate) fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes a directory, and those above it that are missing, unless it is there. Its mode is not the umask's business.
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

/// Deletes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs_err::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

/// Gives a file the present time; false where there is none. The clock's own time, not a caller's: it is only ever compared
/// with what the file system says.
pub(crate) fn touch(path: &Path) -> Result<bool> {
    let time = |nsec| Timespec { tv_sec: 0, tv_nsec: nsec };
    let times = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
    match utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(at("set the time of", path)(e.into())),
    }
}
