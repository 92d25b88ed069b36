//! Durable writing.
//!
//! Only one way to write a file leaves the old or the new one on ext4, XFS and btrfs after a power cut: write, fsync,
//! rename, fsync of the directory. The steps are here; callers determine the order. Modes are set explicitly, because
//! root's umask of 077 must not hide modules from `modinfo`.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

use fs_err::os::unix::fs::symlink;

const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;

/// Creates a file with these bytes and syncs it, but not its name.
pub(super) fn write_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs_err::File::create_new(path)?;
    file.write_all(bytes)?;
    file.set_permissions(PermissionsExt::from_mode(FILE_MODE))?;
    file.sync_all()
}

/// Sets the mode of a file that another program wrote, and syncs it.
pub(super) fn settle_file(path: &Path) -> io::Result<()> {
    let file = fs_err::File::open(path)?;
    file.set_permissions(PermissionsExt::from_mode(FILE_MODE))?;
    file.sync_all()
}

/// Creates a directory with mode 0755.
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
    fs_err::create_dir(path)?;
    fs_err::set_permissions(path, PermissionsExt::from_mode(DIR_MODE))
}

/// Creates a directory with mode 0700 from the beginning.
pub(super) fn make_private_dir(path: &Path) -> io::Result<()> {
    let named = |e: io::Error| {
        io::Error::new(e.kind(), format!("failed to create directory `{}`: {e}", path.display()))
    };
    DirBuilder::new().mode(0o700).create(path).map_err(named)
}

/// Syncs a directory, so that its names are durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    fs_err::File::open(path)?.sync_all()
}

/// Whether anything has this name, even a dangling link.
pub(super) fn exists(path: &Path) -> io::Result<bool> {
    Ok(if_found(fs_err::symlink_metadata(path))?.is_some())
}

/// Turns "not found" into `None`.
pub(super) fn if_found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// BLAKE3 digest of a file; `None` if it does not exist.
pub(super) fn digest(path: &Path) -> io::Result<Option<blake3::Hash>> {
    Ok(if_found(crate::bounded_read::bytes(path, crate::bounded_read::MOST_DATA))?
        .map(|bytes| blake3::hash(&bytes)))
}

/// The names in a directory, sorted; empty if it does not exist.
pub(super) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in if_found(fs_err::read_dir(dir))?.into_iter().flatten() {
        // No name of kcache's, the kernel's or kmod's is invalid UTF-8.
        names.extend(entry?.file_name().into_string());
    }
    names.sort();
    Ok(names)
}

/// Moves a directory out of the tree, to be deleted; one that does not exist is fine. overlayfs renames no directory of a
/// lower layer (Documentation/filesystems/overlayfs.rst, "Renaming directories"): there it is deleted in its place.
pub(super) fn move_out(from: &Path, to: &Path) -> io::Result<()> {
    match if_found(fs_err::rename(from, to)) {
        Err(e) if e.kind() == io::ErrorKind::CrossesDevices => fs_err::remove_dir_all(from),
        moved => moved.map(drop),
    }
}

/// Copies a directory of files and directories, durably.
pub(super) fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    make_dir(to)?;
    for name in names(from)? {
        let (from, to) = (from.join(&name), to.join(&name));
        match fs_err::symlink_metadata(&from)?.is_dir() {
            true => copy_dir(&from, &to)?,
            false => write_file(&to, &fs_err::read(&from)?)?,
        }
    }
    sync_dir(to)
}

pub(super) fn remove_if_empty(dir: &Path) -> io::Result<()> {
    match if_found(fs_err::remove_dir(dir)) {
        Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
        other => other.map(|_| ()),
    }
}

pub(super) fn link_children(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) -> io::Result<()> {
    for name in names(from)?.iter().filter(|name| wanted(name)) {
        symlink(from.join(name), to.join(name))?;
    }
    Ok(())
}
