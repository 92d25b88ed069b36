//! The files of a tree by which its digest can be told from another: kept with the digest, so that a miss can be explained to the file.
//!
//! ```text
//! zstd of, for each file and link in the order of the walk:
//!   'f' file | 'x' executable | 'l' link | 'p' program,  8 bytes of its digest (of a link's target),  label and path, NUL
//! ```
//!
//! Eight bytes tell changed files apart; nothing is verified by them.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::digest::Content;
use super::walk::Walk;
use crate::{Digest, Result, Store};

/// Kind of the memo.
const MEMO: &str = "listing 1";
/// So much of a digest.
const SHORT: usize = 8;
/// Limit in bytes on an unpacked listing, which may be of an image's store: headers have 2 MB.
const MOST: u64 = 32 << 20;

/// What a file's name is followed by in a listing: its kind and a part of its digest.
type Mark = [u8; 1 + SHORT];

/// The files of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Listing(BTreeMap<Vec<u8>, Mark>);

/// How a file of one tree differs from another tree's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileChange {
    /// Only the later tree has it.
    Added,
    /// Only the earlier tree has it.
    Deleted,
    /// Both have it, with other contents, another kind or executable bit.
    Modified,
}

impl FileChange {
    /// The letter that git-diff(1) has for it.
    pub fn letter(self) -> char {
        match self {
            FileChange::Added => 'A',
            FileChange::Deleted => 'D',
            FileChange::Modified => 'M',
        }
    }
}

impl Listing {
    /// The listing that `store` keeps for a tree digest; `None` if it has none.
    pub fn of(store: &Store, digest: &Digest) -> Result<Option<Listing>> {
        Ok(store.memo(MEMO, digest)?.and_then(|packed| Listing::unpack(&packed)))
    }

    fn unpack(packed: &[u8]) -> Option<Listing> {
        let mut text = Vec::new();
        zstd::Decoder::new(packed).ok()?.take(MOST).read_to_end(&mut text).ok()?;
        let (mut rest, mut files) = (&text[..], BTreeMap::new());
        while let Some((mark, named)) = rest.split_first_chunk::<{ 1 + SHORT }>() {
            let end = named.iter().position(|&byte| byte == 0)?;
            files.insert(named[..end].to_vec(), *mark);
            rest = &named[end + 1..];
        }
        Some(Listing(files))
    }

    /// Each file that differs in a later tree, sorted by path.
    pub fn changes(&self, later: &Listing) -> Vec<(FileChange, String)> {
        let path = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
        let gone = self.0.keys().filter(|name| !later.0.contains_key(*name));
        let mut changes: Vec<_> = gone.map(|name| (path(name), FileChange::Deleted)).collect();
        changes.extend(later.0.iter().filter_map(|(name, mark)| match self.0.get(name) {
            None => Some((path(name), FileChange::Added)),
            Some(before) => (before != mark).then(|| (path(name), FileChange::Modified)),
        }));
        changes.sort();
        changes.into_iter().map(|(path, change)| (change, path)).collect()
    }
}

impl Walk {
    /// Keeps the listings of this walk in `store`, under its two digests.
    pub(super) fn keep_listings(&self, store: &Store, contents: &[Content], now: u64) -> Result<()> {
        let digests = self.digests_of(contents);
        for (digest, of_programs) in [(digests.tree, false), (digests.programs, true)] {
            let text = self.listing(contents, of_programs);
            if !text.is_empty() {
                let packed = zstd::encode_all(&text[..], 1).map_err(crate::Error::from)?;
                store.remember(MEMO, &digest, &packed, now)?;
            }
        }
        Ok(())
    }

    fn listing(&self, contents: &[Content], of_programs: bool) -> Vec<u8> {
        let mut text = Vec::new();
        for (tree, entry, content) in self.with(contents) {
            let link;
            let (kind, digest) = match content {
                Content::Program(digest) => (b'p', digest),
                Content::File(digest) if entry.is_executable() => (b'x', digest),
                Content::File(digest) => (b'f', digest),
                Content::Link(target) => {
                    link = Digest::of(target);
                    (b'l', &link)
                }
                Content::Dir => continue,
            };
            if (kind == b'p') == of_programs {
                text.push(kind);
                text.extend(&digest.as_bytes()[..SHORT]);
                text.extend(tree.root.label.as_bytes());
                if !tree.root.label.is_empty() && !tree.path(entry).is_empty() {
                    text.push(b'/');
                }
                text.extend(tree.path(entry));
                text.push(0);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::tests::{LATER, roots, store_and_tree};
    use crate::tree::{TreeRoot, fingerprint};

    #[test]
    fn what_differs_is_named_file_by_file() {
        let (_dir, store, tree) = store_and_tree();
        let roots = [TreeRoot { label: "L".into(), ..roots(&tree)[0].clone() }];
        let digest = || fingerprint(Some(&store), &roots, LATER).unwrap().digest;
        let before = digest();
        fs_err::write(tree.join("a"), "other").unwrap();
        fs_err::write(tree.join("new"), "").unwrap();
        fs_err::remove_file(tree.join("sub/link")).unwrap();
        let after = digest();
        let listing = |digest| Listing::of(&store, &digest).unwrap().unwrap();
        let changes = listing(before).changes(&listing(after));
        let told: Vec<_> =
            changes.iter().map(|(change, path)| format!("{} {path}", change.letter())).collect();
        assert_eq!(told, ["M L/a", "A L/new", "D L/sub/link"]);
        assert_eq!(listing(before).changes(&listing(before)), []);
        assert!(Listing::of(&store, &Digest::of(b"no tree")).unwrap().is_none());
    }
}
