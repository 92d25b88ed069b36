//! The only way to create a file under its final name.
//!
//! A [`Draft`] is written in `tmp/`, on the same file system, and renamed when it is complete. A crash before the
//! rename leaves a draft in `tmp/`, which nobody reads; a crash after it leaves the complete file, or none if the
//! directory was not yet on disk. Copying the image of a mounted file system shows that each step is needed: without
//! the fsync of the file, ext4 and XFS keep an empty file; without that of the directory, btrfs loses the rename.

use std::fs::Permissions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tempfile::NamedTempFile;

use crate::Result;
use crate::error::at;
use crate::transport::IfTaken;

/// A file in `tmp/` that is deleted unless it is published.
pub(crate) struct Draft(NamedTempFile);

impl Draft {
    /// Creates an empty draft in `tmp`.
    pub(crate) fn new(tmp: &Path) -> Result<Draft> {
        Ok(Draft(NamedTempFile::with_prefix_in("draft-", tmp)?))
    }

    /// Renames the draft to its final name, durably; false if the name was taken and is kept.
    pub(crate) fn publish(self, to: &Path, if_taken: IfTaken) -> Result<bool> {
        let dir = to.parent().unwrap_or(Path::new("."));
        make_dir(dir)?;
        // tempfile creates files with mode 0600, but everybody may read the store.
        self.0.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(at("set the mode of", to))?;
        // After a failed fsync the kernel may mark the same pages clean, so the draft is discarded and never retried.
        self.0.as_file().sync_all().map_err(at("write", to))?;
        let renamed = match if_taken {
            IfTaken::Replace => self.0.persist(to).map(drop),
            IfTaken::Keep => self.0.persist_noclobber(to).map(drop),
        };
        let new = match renamed {
            Ok(()) => true,
            Err(e) if if_taken == IfTaken::Keep && e.error.kind() == ErrorKind::AlreadyExists => false,
            Err(e) => return Err(at("create", to)(e.error)),
        };
        // Also if the name was taken: whoever created the file may not have synced the directory yet.
        sync_dir(dir)?;
        Ok(new)
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Opens a file for reading. Does not follow a link, and does not block on a FIFO.
pub(crate) fn open_plain(path: &Path) -> io::Result<fs_err::File> {
    open_as(path, std::fs::OpenOptions::new().read(true))
}

/// Like [`open_plain`], with other options than reading.
pub(crate) fn open_as(path: &Path, options: &mut std::fs::OpenOptions) -> io::Result<fs_err::File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = fs_err::OpenOptions::from_options(options.custom_flags(flags).to_owned()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("{} is not a regular file", path.display()))),
    }
}

/// Publishes a small file in one call.
pub(crate) fn publish_bytes(tmp: &Path, to: &Path, bytes: &[u8], if_taken: IfTaken) -> Result<bool> {
    let mut draft = Draft::new(tmp)?;
    draft.write_all(bytes)?;
    draft.publish(to, if_taken)
}

/// Creates a directory and its missing parents, durably. The new directory gets the read and write permissions of its
/// parent, whatever the umask: in a store those of its owner, in a shared directory those that its users set.
fn make_dir(dir: &Path) -> Result<()> {
    let above = dir.parent().unwrap_or(Path::new("."));
    match fs_err::create_dir(dir) {
        Ok(()) => {
            let mode =
                |path: &Path| Ok::<_, io::Error>(fs_err::metadata(path)?.permissions().mode() & 0o7777);
            let wanted = mode(above)?;
            if mode(dir)? != wanted {
                // Changed through its descriptor, because in a directory that others can write the name may be a link
                // by now.
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::open(dir, flags, Mode::empty()).map_err(io::Error::from)?;
                rustix::fs::fchmod(made, Mode::from_raw_mode(wanted)).map_err(io::Error::from)?;
            }
            sync_dir(above)
        }
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound && above != dir => {
            make_dir(above)?;
            make_dir(dir)
        }
        Err(e) => Err(e.into()),
    }
}

/// Makes creations, renames and deletions in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    Ok(fs_err::File::open(dir)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(dir: &Path, text: &str, if_taken: IfTaken) -> bool {
        publish_bytes(dir, &dir.join("sub/a"), text.as_bytes(), if_taken).unwrap()
    }

    #[test]
    fn an_existing_file_is_kept_or_replaced_and_drafts_are_deleted() {
        let tmp = tempfile::tempdir().unwrap();
        let text = || fs_err::read_to_string(tmp.path().join("sub/a")).unwrap();
        assert!(publish(tmp.path(), "one", IfTaken::Keep));
        assert!(!publish(tmp.path(), "two", IfTaken::Keep));
        assert_eq!(text(), "one");
        assert!(publish(tmp.path(), "three", IfTaken::Replace));
        assert_eq!(text(), "three");
        assert_eq!(fs_err::read_dir(tmp.path()).unwrap().count(), 1);
        let mode = fs_err::metadata(tmp.path().join("sub/a")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }
}
