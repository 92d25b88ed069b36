//! Digests of directory trees, and copies whose digest is that of the copied bytes.
//!
//! A tree's digest covers names, contents, the executable bit and link targets. Times, owners, inode numbers and the
//! location are not included, so identical hosts compute identical digests:
//! ```text
//! tree digest = BLAKE3 derive_key(CONTEXT) over, for each root in the order of labels:
//!   text(label)  number of entries, 8 bytes
//!   for each entry in the byte order of relative paths, the root itself ("") among them:
//!     text(path) 'f' digest | 'x' digest (executable by its owner) | 'd' | 'l' text(target)
//! text(s) = length of s, 8 bytes, then s; numbers are little-endian
//! ```
//! Nothing is optional and every text is preceded by its length, so different trees have different inputs. Empty
//! directories count. FIFOs, devices and sockets are refused: opening one may block or have side effects.
//!
//! **The memo.** Hashing 17,000 headers takes 0.2 s warm and seconds cold; `fstatat` on each takes 0.04 s. So
//! [`tree_digest`] remembers the digest under the *signature*: the digest of the same list with device, inode, size,
//! mtime, ctime and mode in place of contents. An mtime proves nothing, because package managers set it, but no
//! program can set a ctime. Nothing is remembered if a file changed within the last 2 s, because it could change again
//! without a new ctime; if the signature differs after hashing; and on a file system whose ctimes come from an image.
//! Undetected are changes that no file system stamps: a store through a memory mapping whose page was written before
//! and is not yet written back, and on tmpfs every such store but the first.
//!
//! **Races.** A tree may change while it is read. Below a root no symbolic link is followed, so a swapped name leads
//! nowhere else; a difference is [`Error::Changed`] after a few attempts. To use a tree for longer, compare its
//! [`Fingerprint`] before and after: an edit that was undone leaves the same digest, but another [`Walk::stamp`].

mod digest;
mod listing;
mod open;
mod program;
mod read;
mod seen;
mod snapshot;
mod walk;

use std::path::{Path, PathBuf};

use digest::Digests;
pub use listing::{FileChange, Listing};
pub use seen::Seen;
pub use snapshot::snapshot;
pub use walk::{FileKind, Walk, walk};

use crate::{Digest, Error, Result, Store};

/// A directory or file that is part of a tree digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeRoot {
    /// Path on disk. If it is a link, it is followed; links below it are not.
    pub path: PathBuf,
    /// Name inside the digest, unique among the roots.
    pub label: String,
    /// Names of files and directories to leave out at any depth, such as `.git`.
    pub skip: Vec<String>,
    /// Whether its ELF programs and shared objects count apart, in [`Fingerprint::programs`], and not in the tree digest.
    pub programs: bool,
}

/// Kind of the memo. Stored: changes whenever the input of the digest does.
const MEMO: &str = "tree 2";
/// Attempts to read an unchanged tree. An upgrade rewrites its files within a second or two; longer changes are an
/// error.
const ATTEMPTS: u32 = 3;

/// A tree's content and the time of its last change. Equal fingerprints mean that nothing changed in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    /// Digest of the content: the tree digest.
    pub digest: Digest,
    /// Digest of the programs that count apart: of their paths, and of what they do (their build ids and debug links aside).
    pub programs: Digest,
    /// Digest of names and ctimes, see [`Walk::stamp`].
    pub stamp: Digest,
    /// What tells new hard links from an edit, where stamps differ.
    pub written: Written,
}

/// Of a tree's files what a new hard link to one leaves, and what it changes, and who can read them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// A hash of the mtimes of all entries.
    mtimes: u64,
    /// Number of hard links to all files.
    links: u64,
    /// Number of entries that not everybody can read, or run.
    private: u64,
}

impl Written {
    /// Whether everything in the trees can be read, and run, by anybody.
    pub fn is_for_all(self) -> bool {
        self.private == 0
    }
}

impl std::iter::Sum for Written {
    fn sum<I: Iterator<Item = Written>>(each: I) -> Written {
        each.fold(Written::default(), |a, b| Written {
            mtimes: a.mtimes.wrapping_add(b.mtimes),
            links: a.links.wrapping_add(b.links),
            private: a.private + b.private,
        })
    }
}

/// The digest of these roots together: from the memo in `store` if their signature is known, otherwise computed and
/// remembered. `now` must not be later than the time of the call.
///
/// # Errors
///
/// [`Error::Changed`] if the tree keeps changing, [`Error::NotPlain`] for a device, socket or FIFO,
/// [`Error::TooLarge`] above the limits.
pub fn tree_digest(store: Option<&Store>, roots: &[TreeRoot], now: u64) -> Result<Digest> {
    fingerprint(store, roots, now).map(|found| found.digest)
}

/// Like [`tree_digest`], with the stamp of these roots.
pub fn fingerprint(store: Option<&Store>, roots: &[TreeRoot], now: u64) -> Result<Fingerprint> {
    let mut attempt = 1;
    loop {
        match fingerprint_once(store, roots, now) {
            Err(Error::Changed { .. }) if attempt < ATTEMPTS => attempt += 1,
            done => return done,
        }
    }
}

fn fingerprint_once(store: Option<&Store>, roots: &[TreeRoot], now: u64) -> Result<Fingerprint> {
    let before = walk(roots)?;
    let digests = match remembered(store, &before.signature())? {
        Some(digests) => digests,
        None => hashed(&before, store, roots, now)?,
    };
    Ok(Fingerprint::of(digests, before.stamp(), before.written()))
}

impl Fingerprint {
    fn of(digests: Digests, stamp: Digest, written: Written) -> Fingerprint {
        Fingerprint { digest: digests.tree, programs: digests.programs, stamp, written }
    }

    /// Whether nothing was written since. A backup that makes hard links to the files moves their ctimes, and does not
    /// count; an edit that was undone, times and all, does.
    pub fn is_unwritten(&self, later: &Fingerprint) -> bool {
        let is_same = (self.digest, self.programs) == (later.digest, later.programs);
        let (then, now) = (self.written, later.written);
        let is_linked = then.links != now.links && then.mtimes == now.mtimes;
        is_same && (self.stamp == later.stamp || is_linked)
    }
}

fn remembered(store: Option<&Store>, signature: &Digest) -> Result<Option<Digests>> {
    let bytes = store.map(|store| store.memo(MEMO, signature)).transpose()?.flatten();
    let halves = bytes.as_deref().and_then(|bytes| {
        let (tree, programs) = bytes.split_first_chunk()?;
        Some((*tree, programs.try_into().ok()?))
    });
    let digests =
        |(tree, programs)| Digests { tree: Digest::from_bytes(tree), programs: Digest::from_bytes(programs) };
    Ok(halves.map(digests))
}

/// Hashes the files of a walk, and checks that its roots are unchanged afterwards.
fn hashed(before: &Walk, store: Option<&Store>, roots: &[TreeRoot], now: u64) -> Result<Digests> {
    let contents = before.contents()?;
    let digests = before.digests_of(&contents);
    if let Some(path) = before.first_difference(&walk(roots)?) {
        return Err(Error::Changed { path });
    }
    if let Some(store) = store {
        before.keep_listings(store, &contents, now)?;
        if !before.racy(now) && !before.timeless() {
            let both = [*digests.tree.as_bytes(), *digests.programs.as_bytes()].concat();
            store.remember(MEMO, &before.signature(), &both, now)?;
        }
    }
    Ok(digests)
}

/// Digest and size in bytes of one file. A link is followed.
pub fn file_digest(path: &Path) -> Result<(Digest, u64)> {
    read::file(path)
}

/// Digest of a program by what it does: like [`Fingerprint::programs`] for ELF programs and shared objects, else of all
/// bytes. A link is followed.
pub fn program_digest(path: &Path) -> Result<Digest> {
    read::program(path)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::{File, FileTimes};
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::Waiting;

    /// Later than anything a test writes, so that nothing counts as racy.
    pub(super) const LATER: u64 = 10_000_000_000;

    /// Creates a tree of a file, a program, a link and an empty directory.
    fn plant(dir: &Path) {
        fs_err::create_dir_all(dir.join("sub/empty")).unwrap();
        fs_err::write(dir.join("a"), "one").unwrap();
        fs_err::write(dir.join("sub/run"), "two").unwrap();
        set_mode(&dir.join("sub/run"), 0o755);
        symlink("../a", dir.join("sub/link")).unwrap();
    }

    fn set_mode(path: &Path, mode: u32) {
        fs_err::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }

    fn set_mtime(path: &Path, seconds: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        File::open(path).unwrap().set_times(FileTimes::new().set_modified(time)).unwrap();
    }

    pub(super) fn roots(dir: &Path) -> [TreeRoot; 1] {
        [TreeRoot {
            path: dir.to_owned(),
            label: String::new(),
            skip: vec![".git".to_owned()],
            programs: false,
        }]
    }

    fn digest(dir: &Path) -> Digest {
        tree_digest(None, &roots(dir), LATER).unwrap()
    }

    /// A store, and a tree beside it.
    pub(super) fn store_and_tree() -> (tempfile::TempDir, Store, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let waiting = Waiting { limit: Duration::from_secs(10), print: &|_| () };
        let store = Store::open(&dir.path().join("store"), &waiting).unwrap();
        let tree = dir.path().join("tree");
        plant(&tree);
        (dir, store, tree)
    }

    fn is_remembered(store: &Store, tree: &Path) -> bool {
        store.memo(MEMO, &walk(&roots(tree)).unwrap().signature()).unwrap().is_some()
    }

    /// Checks that `change` to the tree changes its digest, or does not.
    fn check(changes: bool, change: impl FnOnce(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        plant(dir.path());
        let before = digest(dir.path());
        change(dir.path());
        assert_eq!(digest(dir.path()) != before, changes);
    }

    #[test]
    fn every_change_of_content_changes_the_tree_digest() {
        check(true, |dir| fs_err::write(dir.join("a"), "ONE").unwrap());
        check(true, |dir| fs_err::rename(dir.join("a"), dir.join("b")).unwrap());
        check(true, |dir| fs_err::write(dir.join("new"), "").unwrap());
        check(true, |dir| fs_err::remove_dir(dir.join("sub/empty")).unwrap());
        check(true, |dir| set_mode(&dir.join("a"), 0o744));
        check(true, |dir| {
            fs_err::remove_file(dir.join("sub/link")).unwrap();
            symlink("../b", dir.join("sub/link")).unwrap();
        });
        check(true, |dir| {
            fs_err::remove_file(dir.join("sub/link")).unwrap();
            fs_err::write(dir.join("sub/link"), "../a").unwrap();
        });
    }

    #[test]
    fn times_modes_and_git_do_not_change_the_tree_digest() {
        check(false, |dir| set_mtime(&dir.join("a"), 1));
        check(false, |dir| set_mode(&dir.join("a"), 0o600));
        check(false, |dir| set_mode(&dir.join("sub"), 0o700));
        check(false, |dir| {
            fs_err::create_dir_all(dir.join(".git/objects")).unwrap();
            fs_err::write(dir.join("sub/.git"), "gitdir: elsewhere").unwrap();
        });
    }

    #[test]
    fn the_location_does_not_change_the_tree_digest_but_the_label_does() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        plant(one.path());
        plant(two.path());
        assert_eq!(digest(one.path()), digest(two.path()));
        let labelled = |label: &str| TreeRoot { label: label.to_owned(), ..roots(one.path())[0].clone() };
        let of = |roots: &[TreeRoot]| tree_digest(None, roots, LATER).unwrap();
        assert_ne!(of(&[labelled("a")]), of(&[labelled("b")]));
        assert_eq!(of(&[labelled("a"), labelled("b")]), of(&[labelled("b"), labelled("a")]));
        assert_ne!(of(&[labelled("a")]), of(&[labelled("a"), labelled("b")]));
    }

    #[test]
    fn one_file_can_be_a_root() {
        let dir = tempfile::tempdir().unwrap();
        plant(dir.path());
        symlink("sub/run", dir.path().join("root")).unwrap();
        assert_eq!(digest(&dir.path().join("root")), digest(&dir.path().join("sub/run")));
        assert_ne!(digest(&dir.path().join("a")), digest(&dir.path().join("sub/run")));
        assert_eq!(file_digest(&dir.path().join("root")).unwrap(), (Digest::of(b"two"), 3));
    }

    #[test]
    fn programs_count_apart_unless_they_are_too_large_to_be_kept_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        plant(dir.path());
        let roots = [TreeRoot { programs: true, ..roots(dir.path())[0].clone() }];
        let found = || fingerprint(None, &roots, LATER).unwrap();
        let plain = found();
        let head = [&b"\x7fELF\x02\x01\x01"[..], &[0; 9], &[2, 0]].concat();
        let program = dir.path().join("sub/program");
        fs_err::write(&program, &head).unwrap();
        let small = found();
        assert!(small.digest == plain.digest && small.programs != plain.programs);
        assert_ne!(program_digest(&program).unwrap(), file_digest(&program).unwrap().0);
        // What programs load of the build tree counts like them: ET_DYN, executable or not.
        let library = [&b"\x7fELF\x02\x01\x01"[..], &[0; 9], &[3, 0]].concat();
        fs_err::write(dir.path().join("sub/library.so"), library).unwrap();
        let with_library = found();
        assert!(with_library.digest == plain.digest && with_library.programs != small.programs);
        fs_err::remove_file(dir.path().join("sub/library.so")).unwrap();
        File::options().write(true).open(&program).unwrap().set_len(program::MOST_IN_TREE + 1).unwrap();
        let large = found();
        assert!(large.digest != plain.digest && large.programs == plain.programs);
        assert_eq!(program_digest(&dir.path().join("a")).unwrap(), Digest::of(b"one"));
    }

    #[test]
    fn a_known_signature_saves_the_hashing() {
        let (_dir, store, tree) = store_and_tree();
        let first = tree_digest(Some(&store), &roots(&tree), LATER).unwrap();
        assert_eq!(first, digest(&tree));
        let signature = walk(&roots(&tree)).unwrap().signature();
        assert_eq!(store.memo(MEMO, &signature).unwrap().unwrap()[..32], first.as_bytes()[..]);
        let other = Digest::of(b"planted");
        store.remember(MEMO, &signature, &[*other.as_bytes(); 2].concat(), LATER).unwrap();
        assert_eq!(tree_digest(Some(&store), &roots(&tree), LATER).unwrap(), other);
    }

    #[test]
    fn an_edit_that_keeps_size_and_mtime_is_detected() {
        let (_dir, store, tree) = store_and_tree();
        set_mtime(&tree.join("a"), 946_684_800);
        let before = tree_digest(Some(&store), &roots(&tree), LATER).unwrap();
        fs_err::write(tree.join("a"), "ONE").unwrap();
        set_mtime(&tree.join("a"), 946_684_800);
        assert_ne!(tree_digest(Some(&store), &roots(&tree), LATER).unwrap(), before);
    }

    #[test]
    fn recent_and_future_changes_are_not_remembered() {
        let (_dir, store, tree) = store_and_tree();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        tree_digest(Some(&store), &roots(&tree), now).unwrap();
        assert!(!is_remembered(&store, &tree), "the ctime is now");
        set_mtime(&tree.join("a"), LATER + 1);
        tree_digest(Some(&store), &roots(&tree), LATER).unwrap();
        assert!(!is_remembered(&store, &tree), "the mtime is in the future");
        set_mtime(&tree.join("a"), LATER - 2);
        tree_digest(Some(&store), &roots(&tree), LATER).unwrap();
        assert!(!is_remembered(&store, &tree), "the mtime is 2 s ago");
        set_mtime(&tree.join("a"), LATER - 3);
        tree_digest(Some(&store), &roots(&tree), LATER).unwrap();
        assert!(is_remembered(&store, &tree));
    }
}
