//! Whether a store is safe to use, checked at each opening before anything in it is used.
//!
//! Builds of this host are unsigned unless it has a signing key, so whoever can write a store that root installs from
//! is effectively root. And a store can be part of a tree from an untrusted party (`--root`), with prepared links:
//!
//! - The store and its directories must belong to root or the current user, and nobody else may be able to write them.
//!   For root, the same holds for all directories above, because otherwise the store could be replaced a moment later;
//!   only sticky directories such as `/tmp` are allowed. So what was checked stays as it is while the store is used.
//! - A store contains only directories and regular files. None of its names is a link: neither those of the top
//!   directory nor the directories below `entries`, `objects`, `signatures` and `by-kernel`; and a link in the place
//!   of a file is not followed when the file is opened (`publish::open_plain`). So everything that is read, written and deleted is
//!   inside the store.
//!
//! This costs a look at some directories and at most 256 shards of entries: some tenths of a millisecond.

use std::fs::{FileType, Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::error::at;
use crate::{Error, Exposed, Result};

/// One of a store's directories.
#[derive(Clone, Copy)]
struct Directory {
    name: &'static str,
    /// Levels of subdirectories to check.
    depth: usize,
    /// Whether the files are named by their digest, so that changed ones are detected when they are read.
    is_hashed: bool,
}

const DIRECTORIES: [Directory; 7] = [
    Directory { name: "entries", depth: 1, is_hashed: false },
    Directory { name: "objects", depth: 1, is_hashed: true },
    Directory { name: "signatures", depth: 1, is_hashed: true },
    Directory { name: "by-kernel", depth: 2, is_hashed: false },
    Directory { name: "keys", depth: 0, is_hashed: false },
    Directory { name: "lock", depth: 0, is_hashed: false },
    Directory { name: "tmp", depth: 0, is_hashed: false },
];

/// Where e2fsck(8) puts what it finds, in each file system of its own.
const LOST_AND_FOUND: &str = "lost+found";

/// Refuses a location in which other users could replace the store.
pub(super) fn place(dir: &Path) -> Result<()> {
    // For another user than root, this is a risk only to that user.
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let dir = std::path::absolute(dir).map_err(at("access", dir))?;
    let real = dir.ancestors().find_map(|above| std::fs::canonicalize(above).ok());
    for path in [Some(dir), real.map(|real| real.join("store"))].into_iter().flatten() {
        if let Some(exposed) = Exposed::above(&path)? {
            return Err(Error::Exposed(exposed));
        }
    }
    Ok(())
}

/// Refuses a store that other users could have changed, or that contains links.
pub(super) fn check(dir: &Path) -> Result<()> {
    refuse_exposed(dir, &fs_err::metadata(dir)?)?;
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let known = DIRECTORIES.iter().find(|known| name == known.name);
        plain(&entry.path(), entry.file_type()?, known.is_some())?;
        match known {
            Some(known) => {
                not_exposed(&entry.path())?;
                below(&entry.path(), known.depth, known.is_hashed)?;
            }
            // Other directories belong to builds, such as ccache's.
            None if entry.file_type()?.is_file() => refuse_exposed(&entry.path(), &entry.metadata()?)?,
            None => {}
        }
    }
    Ok(())
}

/// Takes the others' right to write from an empty directory of this user's, such as the top of a new tmpfs, whose mode is
/// 1777. Whatever they have put there before that shows.
pub(super) fn close_empty(dir: &Path) -> Result<()> {
    let metadata = fs_err::metadata(dir)?;
    let (is_own, mode) = (metadata.uid() == rustix::process::geteuid().as_raw(), metadata.mode());
    if is_own && mode & 0o022 != 0 && is_empty(dir)? {
        fs_err::set_permissions(dir, Permissions::from_mode(0o755))?;
        if !is_empty(dir)? {
            fs_err::set_permissions(dir, Permissions::from_mode(mode & 0o7777))?;
        }
    }
    Ok(())
}

/// Whether nothing is in a directory, apart from what mke2fs(8) puts at the top of a file system.
pub(super) fn is_empty(dir: &Path) -> Result<bool> {
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name() != LOST_AND_FOUND || !is_of_file_system(&entry.metadata()?) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a directory can be e2fsck's: nobody else enters it.
fn is_of_file_system(metadata: &Metadata) -> bool {
    let is_own = [0, rustix::process::geteuid().as_raw()].contains(&metadata.uid());
    metadata.is_dir() && is_own && metadata.mode() & 0o077 == 0
}

/// Refuses a directory that others can write. One that was deleted meanwhile is fine.
fn not_exposed(dir: &Path) -> Result<()> {
    match fs_err::symlink_metadata(dir) {
        Ok(metadata) => refuse_exposed(dir, &metadata),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Checks a directory's contents, `depth` levels deep. There are many shards, so for hashed files only what readdir(3)
/// returns is checked.
fn below(dir: &Path, depth: usize, is_hashed: bool) -> Result<()> {
    if depth == 0 {
        return Ok(());
    }
    let entries = match fs_err::read_dir(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        plain(&entry.path(), kind, false)?;
        if !kind.is_dir() || (is_hashed && depth == 1) {
            continue;
        }
        not_exposed(&entry.path())?;
        below(&entry.path(), depth - 1, is_hashed)?;
    }
    Ok(())
}

/// Refuses links, FIFOs, sockets and devices.
fn plain(path: &Path, kind: FileType, must_be_dir: bool) -> Result<()> {
    match kind.is_dir() || (kind.is_file() && !must_be_dir) {
        true => Ok(()),
        false => Err(Error::NotStore { path: path.to_owned() }),
    }
}

fn refuse_exposed(path: &Path, metadata: &std::fs::Metadata) -> Result<()> {
    Exposed::find(path, metadata).map_or(Ok(()), |exposed| Err(Error::Exposed(exposed)))
}

#[cfg(test)]
mod tests {
    use crate::{Store, Waiting};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::Duration;

    const WAITING: Waiting = Waiting { limit: Duration::ZERO, print: &|_| () };

    #[test]
    fn an_empty_directory_that_others_could_write_is_closed_and_another_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &std::path::Path| {
            fs_err::set_permissions(path, PermissionsExt::from_mode(0o1777)).unwrap();
            Store::open(path, &WAITING)
        };
        let (empty, full) = (dir.path().join("empty"), dir.path().join("full"));
        fs_err::create_dir(&empty).unwrap();
        open(&empty).unwrap();
        assert_eq!(fs_err::metadata(&empty).unwrap().permissions().mode() & 0o7777, 0o755);
        fs_err::create_dir(&full).unwrap();
        fs_err::write(full.join("x"), "").unwrap();
        assert!(matches!(open(&full), Err(crate::Error::Exposed(_))));
        assert_eq!(fs_err::metadata(&full).unwrap().permissions().mode() & 0o7777, 0o1777);
    }

    #[test]
    fn a_store_may_be_a_file_system_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let try_with = |top: &str, mode: u32| {
            let top = dir.path().join(top);
            fs_err::create_dir_all(top.join("lost+found")).unwrap();
            fs_err::set_permissions(top.join("lost+found"), PermissionsExt::from_mode(mode)).unwrap();
            fs_err::set_permissions(&top, PermissionsExt::from_mode(0o1777)).unwrap();
            let (existing, made) = (Store::open_existing(&top, &WAITING), Store::open(&top, &WAITING));
            assert_eq!(existing.is_ok(), made.is_ok());
            made.map(|_| fs_err::metadata(&top).unwrap().permissions().mode() & 0o7777)
        };
        assert_eq!(try_with("new", 0o700).unwrap(), 0o755);
        // Once there is something in it, others may have written there; and anybody could have made another's lost+found.
        assert!(matches!(try_with("new", 0o700), Err(crate::Error::Exposed(_))));
        assert!(matches!(try_with("shared", 0o777), Err(crate::Error::Exposed(_))));
        fs_err::create_dir(dir.path().join("usual")).unwrap();
        fs_err::create_dir(dir.path().join("usual/lost+found")).unwrap();
        Store::open(&dir.path().join("usual"), &WAITING).unwrap();
    }

    #[test]
    fn links_in_a_store_are_refused_and_never_followed() {
        let names = [
            "entries",
            "objects",
            "lock",
            "tmp",
            "by-kernel",
            "signatures",
            "keys",
            "ccache",
            "index.sqlite",
            "index.sqlite-wal",
            "index.sqlite-shm",
            "format",
            "CACHEDIR.TAG",
            "entries/ab",
            "objects/ab",
            "by-kernel/6.1",
            "by-kernel/6.1/aa",
        ];
        for name in names {
            for made in [false, true] {
                let (tmp, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
                let dir = tmp.path().join("store");
                if made {
                    drop(Store::open(&dir, &WAITING).unwrap());
                }
                let link = dir.join(name);
                fs_err::create_dir_all(link.parent().unwrap()).unwrap();
                let _ = fs_err::remove_dir_all(&link).or_else(|_| fs_err::remove_file(&link));
                symlink(elsewhere.path().join("victim"), &link).unwrap();
                let refused = Store::open(&dir, &WAITING).err().map(|error| error.to_string());
                assert!(refused.is_some_and(|told| told.contains(name)), "{name}");
                assert!(Store::open_existing(&dir, &WAITING).is_err() || !made, "{name}");
                assert_eq!(fs_err::read_dir(elsewhere.path()).unwrap().count(), 0, "{name}");
            }
        }
    }

    #[test]
    fn a_store_that_others_can_write_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("store");
        drop(Store::open(&dir, &WAITING).unwrap());
        fs_err::create_dir(dir.join("entries/ab")).unwrap();
        for name in ["", "entries", "entries/ab", "objects", "index.sqlite", "format"] {
            let path = dir.join(name);
            let before = fs_err::metadata(&path).unwrap().permissions();
            for bits in [0o020, 0o002] {
                let mode = before.mode() | bits;
                fs_err::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
                let told = Store::open(&dir, &WAITING).err().map(|error| error.to_string());
                assert!(told.is_some_and(|told| told.contains("writable by others")), "{name} {mode:o}");
            }
            fs_err::set_permissions(&path, before).unwrap();
        }
        Store::open(&dir, &WAITING).unwrap();
        if !rustix::process::geteuid().is_root() {
            return;
        }
        // Also above it, except in a sticky directory.
        for (mode, is_safe) in [(0o777, false), (0o1777, true), (0o755, true)] {
            fs_err::set_permissions(tmp.path(), PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(Store::open(&dir, &WAITING).is_ok(), is_safe, "{mode:o}");
            assert_eq!(Store::open(&tmp.path().join("new"), &WAITING).is_ok(), is_safe, "{mode:o}");
        }
        std::os::unix::fs::chown(&dir, Some(65534), None).unwrap();
        let told = Store::open_existing(&dir, &WAITING).err().unwrap().to_string();
        assert!(told.contains("owner uid 65534"), "{told}");
    }
}
