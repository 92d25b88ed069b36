//! Walking roots: one `fstatat` for each file, directories in parallel.
//!
//! This is the whole cost of a warm look-up, so it allocates little: all relative paths of a root are in one buffer,
//! and the signature is hashed from another. `getdents` and `fstatat` relative to the open directory spare the kernel
//! a path walk from `/` for each file.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rayon::slice::ParallelSliceMut;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, FileType, RawDir, Stat, statat};

use super::open::{full_path, open_dir, open_dir_below, os};
use super::{TreeRoot, Written};
use crate::error::at;
use crate::{Digest, Error, Result};

/// Limit on entries: ten times the largest known tree, for which a walk takes 150 MB of memory.
const MAX_ENTRIES: usize = 1_000_000;
/// Limit in bytes on a file, and on all files of a tree: a sparse file would be hashed for hours.
const MAX_FILE: u64 = 4 << 30;
const MAX_BYTES: u64 = 64 << 30;
/// Seconds within which a second change may get the same timestamp: ext4 stamps in jiffies, NFS with another host's
/// clock. git and ccache also use two seconds.
const RACY_SECONDS: u64 = 2;
/// BLAKE3 context of stamps. They are not stored.
pub(super) const STAMP: &str = "kcache 2026-11 tree stamp v2";
/// BLAKE3 context of signatures. Stored, because memos are: changes whenever the input of the signature does.
pub(super) const SIGNATURE: &str = "kcache 2026-11 tree signature v3";

/// Type of an entry in a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Link,
}

/// All entries under some roots, sorted by label and relative path.
pub struct Walk {
    pub(super) trees: Vec<Tree>,
}

/// All entries under one root.
pub(super) struct Tree {
    pub(super) root: TreeRoot,
    /// `None` if the root is a file.
    pub(super) dir: Option<OwnedFd>,
    pub(super) entries: Vec<Entry>,
    paths: Vec<u8>,
}

/// A file, directory or link, with its stat fields.
pub(super) struct Entry {
    path: Range<usize>,
    pub(super) kind: FileKind,
    pub(super) size: u64,
    mode: u32,
    dev: u64,
    ino: u64,
    mtime: (i64, u32),
    ctime: (i64, u32),
    /// Hard links to a file; 0 for a directory.
    links: u64,
}

/// Walks all roots. Links below a root are not followed.
pub fn walk(roots: &[TreeRoot]) -> Result<Walk> {
    Ok(Walk::of(roots.iter().map(Tree::walk).collect::<Result<_>>()?))
}

impl Walk {
    pub(super) fn of(mut trees: Vec<Tree>) -> Walk {
        trees.sort_by(|a, b| a.root.label.cmp(&b.root.label));
        Walk { trees }
    }

    /// Label, path relative to the root, and type of each entry.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Path, FileKind)> {
        self.trees.iter().flat_map(|tree| {
            tree.entries.iter().map(|e| (tree.root.label.as_str(), Path::new(os(tree.path(e))), e.kind))
        })
    }

    /// Digest of everything known without reading files: equal signatures mean that nothing changed, except within one
    /// tick of the file system's clock ([`Walk::racy`]).
    pub fn signature(&self) -> Digest {
        together(SIGNATURE, self.trees.iter().map(|tree| (tree.root.label.as_str(), tree.signature())))
    }

    /// Digest of names and ctimes alone: any change moves a ctime, even if it was undone. Unlike inode numbers, which
    /// overlayfs and FUSE may reassign, ctimes are stable while nothing happens.
    pub fn stamp(&self) -> Digest {
        together(STAMP, self.trees.iter().map(|tree| (tree.root.label.as_str(), tree.stamp())))
    }

    /// See [`Tree::written`].
    pub(super) fn written(&self) -> Written {
        self.trees.iter().map(Tree::written).sum()
    }

    /// Whether something changed so shortly before `now` (seconds since 1970) that it could change again with the same
    /// timestamp, or has a time in the future.
    pub fn racy(&self, now: u64) -> bool {
        let since = i64::try_from(now.saturating_sub(RACY_SECONDS)).unwrap_or(i64::MAX);
        let mut entries = self.trees.iter().flat_map(|tree| &tree.entries);
        entries.any(|entry| entry.mtime.0.max(entry.ctime.0) >= since)
    }

    /// Whether a ctime is not from a running system's clock, which is hardly ever at a whole second. Images of
    /// read-only file systems contain the times of their creation, often equal in all of them, with equal inode
    /// numbers.
    pub fn timeless(&self) -> bool {
        self.trees.iter().flat_map(|tree| &tree.entries).any(|entry| entry.ctime.1 == 0)
    }

    /// The first path at which another walk of the same roots differs.
    pub(super) fn first_difference(&self, other: &Walk) -> Option<PathBuf> {
        self.trees.iter().zip(&other.trees).find_map(|(ours, theirs)| ours.first_difference(theirs))
    }
}

/// Combines the signatures or stamps of roots, in the order of labels.
pub(super) fn together<'a>(context: &str, each: impl Iterator<Item = (&'a str, Digest)>) -> Digest {
    let mut text = Vec::new();
    for (label, digest) in each {
        put_text(&mut text, label.as_bytes());
        text.extend(digest.as_bytes());
    }
    blake3::Hasher::new_derive_key(context).update(&text).finalize().into()
}

impl Tree {
    pub(super) fn walk(root: &TreeRoot) -> Result<Tree> {
        let path = root.path.as_path();
        let stat = statat(CWD, path, AtFlags::empty()).map_err(|e| at("access", path)(e.into()))?;
        let mut top = Listing::default();
        let kind = top.push(path, b"", b"", &stat)?;
        let (dir, listings) = match kind {
            FileKind::Dir => {
                let dir = open_dir(path)?;
                let listings = Walker::run(root, &dir)?;
                (Some(dir), listings)
            }
            FileKind::File | FileKind::Link => (None, Vec::new()),
        };
        let (entries, paths) = merge(top, listings);
        Ok(Tree { root: root.clone(), dir, entries, paths })
    }

    /// See [`Walk::signature`].
    pub(super) fn signature(&self) -> Digest {
        self.digest_of_stats(SIGNATURE, |entry, text| {
            text.extend(entry.mode.to_le_bytes());
            for number in [entry.dev, entry.ino, entry.size] {
                put_number(text, number);
            }
            put_time(text, entry.mtime);
            put_time(text, entry.ctime);
        })
    }

    /// See [`Walk::stamp`].
    pub(super) fn stamp(&self) -> Digest {
        self.digest_of_stats(STAMP, |entry, text| put_time(text, entry.ctime))
    }

    /// What tells new hard links from an edit. Both move ctimes.
    pub(super) fn written(&self) -> Written {
        let mut hasher = DefaultHasher::new();
        self.entries.iter().for_each(|entry| entry.mtime.hash(&mut hasher));
        let links = self.entries.iter().map(|entry| entry.links).sum();
        let private = self.entries.iter().filter(|entry| !entry.is_for_all()).count() as u64;
        Written { mtimes: hasher.finish(), links, private }
    }

    fn digest_of_stats(&self, context: &str, put: impl Fn(&Entry, &mut Vec<u8>)) -> Digest {
        let mut text = Vec::new();
        for entry in &self.entries {
            put_text(&mut text, self.path(entry));
            put(entry, &mut text);
        }
        blake3::Hasher::new_derive_key(context).update(&text).finalize().into()
    }

    /// The entry's path relative to the root.
    pub(super) fn path(&self, entry: &Entry) -> &[u8] {
        &self.paths[entry.path.clone()]
    }

    /// The entry's path on disk.
    pub(super) fn full_path(&self, entry: &Entry) -> PathBuf {
        full_path(&self.root.path, self.path(entry))
    }

    fn first_difference(&self, other: &Tree) -> Option<PathBuf> {
        let pairs = self.entries.iter().zip(&other.entries);
        let differs = |(a, b): &(&Entry, &Entry)| self.path(a) != other.path(b) || a.stat() != b.stat();
        let longer = if self.entries.len() > other.entries.len() { self } else { other };
        let beyond = longer.entries.get(self.entries.len().min(other.entries.len()));
        pairs
            .into_iter()
            .find(differs)
            .map(|(a, _)| self.full_path(a))
            .or(beyond.map(|e| longer.full_path(e)))
    }
}

impl Entry {
    /// Whether its owner may execute it.
    pub(super) fn is_executable(&self) -> bool {
        self.mode & 0o100 != 0
    }

    /// Whether anybody can read it, and run it if its owner can.
    fn is_for_all(&self) -> bool {
        let bits = match self.kind {
            FileKind::Dir => 0o5,
            FileKind::File if self.is_executable() => 0o5,
            FileKind::File => 0o4,
            FileKind::Link => 0,
        };
        self.mode & bits == bits
    }

    fn stat(&self) -> impl PartialEq + use<> {
        (self.mode, self.dev, self.ino, self.size, self.mtime, self.ctime)
    }
}

/// The entries of one directory.
#[derive(Default)]
struct Listing {
    entries: Vec<Entry>,
    paths: Vec<u8>,
}

impl Listing {
    /// Adds the entry `name` of the directory `parent`, both relative to `root`.
    fn push(&mut self, root: &Path, parent: &[u8], name: &[u8], stat: &Stat) -> Result<FileKind> {
        let start = self.paths.len();
        self.paths.extend(parent);
        if !parent.is_empty() {
            self.paths.push(b'/');
        }
        self.paths.extend(name);
        let path = start..self.paths.len();
        let kind = kind_of(stat)
            .map_err(|kind| Error::NotPlain { path: full_path(root, &self.paths[path.clone()]), kind })?;
        if kind == FileKind::File && stat.st_size as u64 > MAX_FILE {
            let path = full_path(root, &self.paths[path]);
            return Err(Error::TooLarge { path, limit: "4 GiB" });
        }
        #[allow(clippy::unnecessary_cast, reason = "a u32 on aarch64")]
        let links = if kind == FileKind::Dir { 0 } else { stat.st_nlink as u64 };
        self.entries.push(Entry {
            path,
            kind,
            size: stat.st_size as u64,
            mode: stat.st_mode,
            dev: stat.st_dev,
            ino: stat.st_ino,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as u32),
            links,
        });
        Ok(kind)
    }
}

/// A walk in progress.
struct Walker<'a> {
    root: &'a TreeRoot,
    dir: &'a OwnedFd,
    found: AtomicUsize,
    bytes: AtomicU64,
    done: Mutex<Result<Vec<Listing>>>,
}

impl Walker<'_> {
    fn run(root: &TreeRoot, dir: &OwnedFd) -> Result<Vec<Listing>> {
        let walker = Walker {
            root,
            dir,
            found: AtomicUsize::new(1),
            bytes: AtomicU64::new(0),
            done: Mutex::new(Ok(Vec::new())),
        };
        rayon::scope(|scope| walker.visit(scope, Vec::new()));
        walker.done.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists one directory, and schedules those below it.
    fn visit<'s>(&'s self, scope: &rayon::Scope<'s>, dir: Vec<u8>) {
        let listing = self.list(&dir);
        if let Ok(listing) = &listing {
            for entry in listing.entries.iter().filter(|entry| entry.kind == FileKind::Dir) {
                let below = listing.paths[entry.path.clone()].to_vec();
                scope.spawn(move |scope| self.visit(scope, below));
            }
        }
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *done, listing) {
            (Ok(all), Ok(listing)) => all.push(listing),
            // The first error is kept.
            (Err(_), _) => {}
            (_, Err(e)) => *done = Err(e),
        }
    }

    fn list(&self, dir: &[u8]) -> Result<Listing> {
        let root = &self.root.path;
        let failed = |e: rustix::io::Errno| at("list", &full_path(root, dir))(e.into());
        let fd = open_dir_below(self.dir, root, dir)?;
        let mut listing = Listing::default();
        let mut buffer = [MaybeUninit::uninit(); 32 << 10];
        let mut names = RawDir::new(&fd, &mut buffer);
        while let Some(entry) = names.next() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let bytes = name.to_bytes();
            if bytes == b"." || bytes == b".." || self.root.skip.iter().any(|s| s.as_bytes() == bytes) {
                continue;
            }
            let stat = match statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                // Deleted since it was listed, as if the walk had begun a moment later.
                Err(rustix::io::Errno::NOENT) => continue,
                Err(e) => return Err(at("access", &full_path(root, dir).join(os(bytes)))(e.into())),
            };
            listing.push(root, dir, bytes, &stat)?;
        }
        let found = self.found.fetch_add(listing.entries.len(), Ordering::Relaxed) + listing.entries.len();
        if found > MAX_ENTRIES {
            return Err(Error::TooLarge { path: root.clone(), limit: "1,000,000 files" });
        }
        let files = listing.entries.iter().filter(|entry| entry.kind == FileKind::File);
        let bytes: u64 = files.map(|entry| entry.size).sum();
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_BYTES {
            return Err(Error::TooLarge { path: root.clone(), limit: "64 GiB" });
        }
        Ok(listing)
    }
}

/// All entries in the byte order of their paths, which are moved into one buffer.
fn merge(top: Listing, listings: Vec<Listing>) -> (Vec<Entry>, Vec<u8>) {
    let Listing { mut entries, mut paths } = top;
    for listing in listings {
        let start = paths.len();
        paths.extend(listing.paths);
        entries.extend(listing.entries.into_iter().map(|mut entry| {
            entry.path = entry.path.start + start..entry.path.end + start;
            entry
        }));
    }
    entries.par_sort_unstable_by(|a, b| paths[a.path.clone()].cmp(&paths[b.path.clone()]));
    (entries, paths)
}

/// The type, or the name of an unsupported one.
fn kind_of(stat: &Stat) -> Result<FileKind, &'static str> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(FileKind::File),
        FileType::Directory => Ok(FileKind::Dir),
        FileType::Symlink => Ok(FileKind::Link),
        FileType::Fifo => Err("fifo"),
        FileType::Socket => Err("socket"),
        FileType::CharacterDevice | FileType::BlockDevice => Err("device"),
        FileType::Unknown => Err("file of unknown type"),
    }
}

pub(super) fn put_text(to: &mut Vec<u8>, text: &[u8]) {
    put_number(to, text.len() as u64);
    to.extend(text);
}

pub(super) fn put_number(to: &mut Vec<u8>, number: u64) {
    to.extend(number.to_le_bytes());
}

fn put_time(to: &mut Vec<u8>, (seconds, nanoseconds): (i64, u32)) {
    to.extend(seconds.to_le_bytes());
    to.extend(nanoseconds.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn root(path: &Path) -> TreeRoot {
        TreeRoot { path: path.to_owned(), label: "r".to_owned(), skip: vec![], programs: false }
    }

    fn paths(walk: &Walk) -> Vec<&[u8]> {
        walk.entries().map(|(_, path, _)| path.as_os_str().as_bytes()).collect()
    }

    #[test]
    fn entries_are_in_the_byte_order_of_their_paths() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("a")).unwrap();
        for name in ["a/z", "a.c", "a-b", "B", "ä"] {
            fs_err::write(dir.path().join(name), "").unwrap();
        }
        fs_err::write(dir.path().join(os(b"\xff")), "").unwrap();
        let walk = walk(&[root(dir.path())]).unwrap();
        let expect: [&[u8]; 8] = [b"", b"B", b"a", b"a-b", b"a.c", b"a/z", "ä".as_bytes(), b"\xff"];
        assert_eq!(paths(&walk), expect);
    }

    #[test]
    fn files_and_trees_above_the_limits_are_refused() {
        let check = |files: u64, size: u64, limit: &str| {
            let dir = tempfile::tempdir().unwrap();
            for number in 0..files {
                std::fs::File::create(dir.path().join(number.to_string())).unwrap().set_len(size).unwrap();
            }
            let error = walk(&[root(dir.path())]).err().unwrap().to_string();
            assert!(error.contains(limit), "{error}");
        };
        check(1, MAX_FILE + 1, "/0 is larger than 4 GiB");
        check(17, MAX_FILE, "is larger than 64 GiB");
    }

    #[test]
    fn sockets_and_fifos_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let _socket = UnixListener::bind(dir.path().join("s")).unwrap();
        let refused = |path: &Path| walk(&[root(path)]).err().unwrap().to_string();
        let expect =
            format!("{}/s is a socket, not a file, directory or symbolic link", dir.path().display());
        assert_eq!(refused(dir.path()), expect);
        assert_eq!(refused(&dir.path().join("s")), expect);
    }

    #[test]
    fn a_link_is_not_followed_even_to_a_directory_or_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("all")).unwrap();
        std::os::unix::fs::symlink("nowhere", dir.path().join("none")).unwrap();
        let walk = walk(&[root(dir.path())]).unwrap();
        let kinds: Vec<FileKind> = walk.entries().map(|(_, _, kind)| kind).collect();
        assert_eq!(kinds, [FileKind::Dir, FileKind::Link, FileKind::Link]);
    }

    #[test]
    fn two_walks_of_an_untouched_tree_agree_and_the_first_change_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("a"), "").unwrap();
        let before = walk(&[root(dir.path())]).unwrap();
        let same = walk(&[root(dir.path())]).unwrap();
        assert_eq!(before.signature(), same.signature());
        assert_eq!(before.first_difference(&same), None);
        fs_err::write(dir.path().join("a"), "longer").unwrap();
        let after = walk(&[root(dir.path())]).unwrap();
        assert_ne!(before.signature(), after.signature());
        assert_eq!(before.first_difference(&after), Some(dir.path().join("a")));
    }

    #[test]
    fn a_stamp_detects_an_undone_edit() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        fs_err::write(&file, "one").unwrap();
        let taken = || walk(&[root(dir.path())]).unwrap();
        let before = taken();
        assert_eq!(before.stamp(), taken().stamp());
        // A file system's clock may not advance for some milliseconds.
        while before.stamp() == taken().stamp() {
            fs_err::write(&file, "two").unwrap();
            fs_err::write(&file, "one").unwrap();
        }
        assert_eq!(before.digest().unwrap(), taken().digest().unwrap());
    }

    #[test]
    fn times_from_an_image_are_not_used_for_memos() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("a"), "").unwrap();
        let mut walk = walk(&[root(dir.path())]).unwrap();
        assert!(!walk.timeless());
        walk.trees[0].entries[1].ctime.1 = 0;
        assert!(walk.timeless());
    }

    #[test]
    fn a_missing_root_is_an_error_with_its_path() {
        let error = walk(&[root(Path::new("/nowhere/at/all"))]).err().unwrap();
        assert_eq!(error.to_string(), "cannot access /nowhere/at/all");
    }
}
