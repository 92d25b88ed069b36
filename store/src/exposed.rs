//! Files and directories that other users could change.
//!
//! Whoever can write a file that root obeys is effectively root. So files that decide what is installed, run or
//! trusted are used only if their owner is root or the current user, and group and others cannot write them. An access
//! control list that lets others write shows in the group's bits (acl(5)), so it needs no check of its own.

use std::fmt;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Mode bits for writing by group and others.
const OTHERS_WRITE: u32 = 0o022;

/// The sticky bit: in such a directory, only its owner can delete or rename a file (inode(7)).
const STICKY: u32 = 0o1000;

/// A file or directory that other users could change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// The file or directory.
    pub path: PathBuf,
    /// Uid of its owner.
    pub uid: u32,
    /// Its permission bits.
    pub mode: u32,
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{} is {}", self.path.display(), self.reason())
    }
}

impl Exposed {
    /// The reason alone, for messages that already contain the path.
    pub fn reason(&self) -> String {
        format!("writable by others (owner uid {}, mode {:04o})", self.uid, self.mode)
    }

    /// `Some` if other users could change a file or directory with this metadata.
    pub fn find(path: &Path, metadata: &Metadata) -> Option<Exposed> {
        let (uid, mode) = (metadata.uid(), metadata.mode() & 0o7777);
        let is_own = uid == 0 || uid == rustix::process::geteuid().as_raw();
        let exposed = !is_own || mode & OTHERS_WRITE != 0;
        exposed.then(|| Exposed { path: path.to_owned(), uid, mode })
    }

    /// The first directory above `path` in which other users could replace the next component: because it belongs to
    /// them, or because they can write it and it is not sticky.
    pub fn above(path: &Path) -> std::io::Result<Option<Exposed>> {
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            let metadata = match fs_err::metadata(parent) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue, // the caller will create it
                metadata => metadata?,
            };
            let exposed = Exposed::find(parent, &metadata);
            let is_shared = metadata.uid() == 0 && metadata.mode() & STICKY != 0;
            if let Some(exposed) = exposed.filter(|_| !is_shared) {
                return Ok(Some(exposed));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn paths_writable_by_others_are_exposed_unless_sticky() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        fs_err::create_dir_all(&below).unwrap();
        let a = dir.path().join("a");
        let check = |mode: u32, exposed: bool, above: bool| {
            fs_err::set_permissions(&a, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Exposed::find(&a, &fs_err::metadata(&a).unwrap()).is_some(), exposed, "{mode:o}");
            let found = Exposed::above(&below).unwrap();
            assert_eq!(found.is_some_and(|found| found.path == a), above, "{mode:o}");
        };
        check(0o755, false, false);
        check(0o775, true, true);
        check(0o757, true, true);
        let is_root = rustix::process::geteuid().is_root();
        check(0o1777, true, !is_root);
    }
}
