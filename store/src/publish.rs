//! The one way a file of the store gets its name.
//!
//! A [`Draft`] is written in `tmp/`, on the same file system, and published under its final name when it is whole.
//! A crash before the rename leaves a draft in `tmp/`, which nobody reads; a crash after it leaves the whole file,
//! or nothing where the directory had not reached the disk. Copying the image of a file system without unmounting
//! it shows that all of these steps are needed: without the file's fsync ext4 and XFS keep an empty file, without
//! the directory's fsync btrfs forgets the rename.

use std::fs::Permissions;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tempfile::NamedTempFile;

use crate::Result;
use crate::error::at;
use crate::transport::IfTaken;

/// A file that is being written and vanishes unless it is published.
pub(crate) struct Draft(NamedTempFile);

impl Draft {
    /// An empty draft in `tmp`.
    pub(crate) fn new(tmp: &Path) -> Result<Draft> {
        Ok(Draft(NamedTempFile::with_prefix_in("draft-", tmp)?))
    }

    /// Gives the draft its name, durably; false where the name was taken and is kept.
    pub(crate) fn publish(self, to: &Path, if_taken: IfTaken) -> Result<bool> {
        let dir = to.parent().unwrap_or(Path::new("."));
        make_dir(dir)?;
        // tempfile makes its files private; the store is for everyone to read.
        self.0.as_file().set_permissions(Permissions::from_mode(0o644)).map_err(at("set the mode of", to))?;
        // After a failed fsync the system may call the same pages clean: the draft is dropped, never tried again.
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
        // Also where the name was taken: its owner may not have come this far yet.
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

/// Opens a file that is to be read. A link in its place is not followed, and a FIFO not waited for.
pub(crate) fn open_plain(path: &Path) -> io::Result<fs_err::File> {
    open_as(path, std::fs::OpenOptions::new().read(true))
}

/// The same in another way than for reading.
pub(crate) fn open_as(path: &Path, options: &mut std::fs::OpenOptions) -> io::Result<fs_err::File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = fs_err::OpenOptions::from_options(options.custom_flags(flags).to_owned()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other(format!("{} is not a regular file", path.display()))),
    }
}

/// Publishes a small file in one go.
pub(crate) fn publish_bytes(tmp: &Path, to: &Path, bytes: &[u8], if_taken: IfTaken) -> Result<bool> {
    let mut draft = Draft::new(tmp)?;
    draft.write_all(bytes)?;
    draft.publish(to, if_taken)
}

/// Makes a directory and those above it, durably, where they are missing. Whoever may write or read the one above it may
/// do so there, whatever the umask: in a store that is its owner, in a shared directory as those who share it have set.
fn make_dir(dir: &Path) -> Result<()> {
    let above = dir.parent().unwrap_or(Path::new("."));
    match fs_err::create_dir(dir) {
        Ok(()) => {
            let mode =
                |path: &Path| Ok::<_, io::Error>(fs_err::metadata(path)?.permissions().mode() & 0o7777);
            let wanted = mode(above)?;
            if mode(dir)? != wanted {
                // By its descriptor: where others can write, they may have put a link there by now.
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

/// Makes what was created, renamed or deleted in a directory durable.
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
    fn a_taken_name_is_kept_or_replaced_as_asked_and_no_draft_stays() {
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
