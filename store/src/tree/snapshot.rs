//! Private copies of a tree, with the digest of the copied bytes.
//!
//! Hashing a tree and then using it is a race that poisons caches, because it may change in between. So the bytes are
//! hashed on their way into the copy, and the copy is used. Its metadata is uniform: modes are 0644 or 0755, all times
//! are equal, the owner is the current user. Links are copied unchanged, including those that lead out of the tree;
//! nothing here follows them.
//!
//! After an error the copy is incomplete, and the caller discards it.

use std::fs::{File, FileTimes, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};

use super::digest::Content;
use super::open::{full_path, os};
use super::walk::{Entry, FileKind, Tree, walk};
use super::{TreeRoot, read};
use crate::error::at;
use crate::{Digest, Error, Result};

/// Limit in bytes on a copy. The largest known source has 60 MB.
const MAX_BYTES: u64 = 8 << 30;
/// Length in bytes of the smallest run of zeros that becomes a hole; a shorter one occupies a block anyway.
const SMALLEST_HOLE: usize = 4096;
/// Seconds since 1970 of 2000-01-01: late enough for every tool, and not the 1970 that some treat as unset.
const MTIME: u64 = 946_684_800;

/// Copies the tree `src` to `dst`, which must be empty or missing, without the names in `skip`. Returns the digest
/// that [`super::tree_digest`] computes for the copy, and for the source unless that changes, as one root labelled "".
///
/// # Errors
///
/// [`Error::Changed`] if the source changed meanwhile, [`Error::NotPlain`] for special files, [`Error::TooLarge`]
/// above 8 GiB.
pub fn snapshot(src: &Path, dst: &Path, skip: &[String]) -> Result<Digest> {
    let root = TreeRoot { path: src.to_owned(), label: String::new(), skip: skip.to_vec(), programs: false };
    let walk = walk(&[root])?;
    let tree = &walk.trees[0];
    check_size(tree)?;
    make_dirs(tree, dst)?;
    let contents = read::each(tree.entries.len(), |n, buffer| copy(tree, &tree.entries[n], dst, buffer))?;
    // Bottom up, because creating an entry changes the directory's time.
    for entry in tree.entries.iter().rev().filter(|entry| entry.kind != FileKind::File) {
        set_time(&full_path(dst, tree.path(entry)))?;
    }
    Ok(walk.digest_of(&contents))
}

fn check_size(tree: &Tree) -> Result<()> {
    let files = tree.entries.iter().filter(|entry| entry.kind == FileKind::File);
    let bytes = files.fold(0, |sum: u64, file| sum.saturating_add(file.size));
    if bytes > MAX_BYTES {
        return Err(Error::TooLarge { path: tree.root.path.clone(), limit: "8 GiB" });
    }
    Ok(())
}

/// Creates all directories. They sort before their contents, so one pass is enough.
fn make_dirs(tree: &Tree, dst: &Path) -> Result<()> {
    for entry in tree.entries.iter().filter(|entry| entry.kind == FileKind::Dir) {
        let dir = full_path(dst, tree.path(entry));
        if dir != dst || !is_empty_dir(dst)? {
            fs_err::create_dir(&dir)?;
        }
        fs_err::set_permissions(&dir, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

fn is_empty_dir(dir: &Path) -> Result<bool> {
    Ok(dir.is_dir() && fs_err::read_dir(dir)?.next().is_none())
}

fn copy(tree: &Tree, entry: &Entry, dst: &Path, buffer: &mut [u8]) -> Result<Content> {
    let to = full_path(dst, tree.path(entry));
    match entry.kind {
        FileKind::Dir => Ok(Content::Dir),
        FileKind::File => copy_file(tree, entry, &to, buffer).map(Content::File),
        FileKind::Link => copy_link(tree, entry, &to).map(Content::Link),
    }
}

fn copy_file(tree: &Tree, entry: &Entry, to: &Path, buffer: &mut [u8]) -> Result<Digest> {
    let mode = if entry.is_executable() { 0o755 } else { 0o644 };
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(to)
        .map_err(at("create", to))?;
    let digest =
        read::pass_on(tree, entry, buffer, &mut |bytes| put(&mut file, bytes).map_err(at("write", to)))?;
    file.set_len(entry.size).map_err(at("write", to))?;
    // The umask was applied when the file was created.
    file.set_permissions(Permissions::from_mode(mode)).map_err(at("set the mode of", to))?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(MTIME);
    file.set_times(FileTimes::new().set_accessed(time).set_modified(time))
        .map_err(at("set the time of", to))?;
    Ok(digest)
}

/// Keeps runs of zeros as holes: an untrusted source may contain a file of gibibytes that occupies no disk space.
fn put(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    match bytes.len() >= SMALLEST_HOLE && bytes.iter().all(|&byte| byte == 0) {
        true => file.seek_relative(bytes.len() as i64),
        false => file.write_all(bytes),
    }
}

fn copy_link(tree: &Tree, entry: &Entry, to: &Path) -> Result<Vec<u8>> {
    let target = read::link_target(tree, entry)?;
    fs_err::os::unix::fs::symlink(os(&target), to)?;
    Ok(target)
}

fn set_time(path: &Path) -> Result<()> {
    let time = Timespec { tv_sec: MTIME as i64, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(|e| at("set the time of", path)(e.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};
    use std::path::PathBuf;

    use super::*;
    use crate::tree_digest;

    /// A source tree, and a path for its copy.
    fn plant() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (src, dst) = (dir.path().join("src"), dir.path().join("dst"));
        fs_err::create_dir_all(src.join("sub/empty")).unwrap();
        fs_err::create_dir_all(src.join(".git")).unwrap();
        fs_err::write(src.join("a"), "one").unwrap();
        fs_err::write(src.join("big"), vec![7; 300_000]).unwrap();
        fs_err::write(src.join("sub/run"), "").unwrap();
        fs_err::set_permissions(src.join("sub/run"), Permissions::from_mode(0o700)).unwrap();
        symlink("../a", src.join("sub/link")).unwrap();
        (dir, src, dst)
    }

    fn skip() -> Vec<String> {
        vec![".git".to_owned()]
    }

    fn digest(path: &Path) -> Digest {
        let root = TreeRoot { path: path.to_owned(), label: String::new(), skip: skip(), programs: false };
        tree_digest(None, &[root], 0).unwrap()
    }

    #[test]
    fn source_and_copy_have_the_returned_digest() {
        let (_dir, src, dst) = plant();
        let said = snapshot(&src, &dst, &skip()).unwrap();
        assert_eq!(said, digest(&src));
        assert_eq!(said, digest(&dst));
        assert_eq!(fs_err::read(dst.join("big")).unwrap(), vec![7; 300_000]);
        assert!(!dst.join(".git").exists());
    }

    #[test]
    fn modes_and_times_of_the_copy_are_always_the_same() {
        let (_dir, src, dst) = plant();
        snapshot(&src, &dst, &skip()).unwrap();
        let check = |name: &str, mode: u32| {
            let found = fs_err::symlink_metadata(dst.join(name)).unwrap();
            assert_eq!((found.mode() & 0o7777, found.mtime()), (mode, MTIME as i64), "{name}");
        };
        check("", 0o755);
        check("sub", 0o755);
        check("sub/empty", 0o755);
        check("a", 0o644);
        check("sub/run", 0o755);
        check("sub/link", 0o777);
    }

    #[test]
    fn holes_are_preserved_by_a_copy() {
        let (_dir, src, dst) = plant();
        let mut sparse = File::create(src.join("sparse")).unwrap();
        sparse.write_all(b"begin").unwrap();
        sparse.seek_relative(300 << 20).unwrap();
        sparse.write_all(b"middle").unwrap();
        sparse.set_len(600 << 20).unwrap();
        assert_eq!(snapshot(&src, &dst, &skip()).unwrap(), digest(&src));
        assert_eq!(digest(&dst), digest(&src));
        let copy = fs_err::metadata(dst.join("sparse")).unwrap();
        assert_eq!(copy.len(), 600 << 20);
        assert!(copy.blocks() * 512 < 4 << 20, "{} blocks", copy.blocks());
        fs_err::remove_file(dst.join("sparse")).unwrap();
    }

    #[test]
    fn a_copy_needs_an_empty_directory() {
        let (_dir, src, dst) = plant();
        fs_err::create_dir(&dst).unwrap();
        snapshot(&src, &dst, &skip()).unwrap();
        assert!(snapshot(&src, &dst, &skip()).is_err());
    }

    #[test]
    fn links_are_copied_and_not_followed() {
        let (_dir, src, dst) = plant();
        for (link, target) in [("sub/out", "/etc/passwd"), ("above", "../../x"), ("dangling", "none")] {
            symlink(target, src.join(link)).unwrap();
        }
        let digest = snapshot(&src, &dst, &skip()).unwrap();
        assert_eq!(fs_err::read_link(dst.join("sub/out")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs_err::read_link(dst.join("above")).unwrap(), Path::new("../../x"));
        fs_err::remove_file(src.join("dangling")).unwrap();
        symlink("other", src.join("dangling")).unwrap();
        assert_ne!(digest, snapshot(&src, &src.with_extension("again"), &skip()).unwrap());
    }

    #[test]
    fn a_fifo_is_refused_and_a_missing_source_named() {
        let (_dir, src, dst) = plant();
        rustix::fs::mknodat(
            CWD,
            src.join("fifo"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(matches!(snapshot(&src, &dst, &skip()), Err(Error::NotPlain { kind: "fifo", .. })));
        let error = snapshot(&src.join("none"), &dst, &skip()).unwrap_err().to_string();
        assert_eq!(error, format!("cannot access {}/none", src.display()));
    }
}
