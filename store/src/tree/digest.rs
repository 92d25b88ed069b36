//! The tree digest: computed from a walk and the contents of its files and links.

use super::read;
use super::walk::{Entry, Kind, Tree, Walk, put_number, put_text};
use crate::{Digest, Result};

/// BLAKE3 context. Stored, because tree digests are: changes whenever the input of the digest does.
const CONTEXT: &str = "kcache 2026-11 tree digest v1";

/// Content of an entry.
pub(super) enum Content {
    /// Digest of a file's bytes.
    File(Digest),
    /// A directory; its entries are listed separately.
    Dir,
    /// Target of a link.
    Link(Vec<u8>),
}

impl Walk {
    /// Reads every file and computes the tree digest ([`crate::tree`] describes the exact input).
    pub fn digest(&self) -> Result<Digest> {
        let entries: Vec<(&Tree, &Entry)> =
            self.trees.iter().flat_map(|tree| tree.entries.iter().map(move |entry| (tree, entry))).collect();
        let contents = read::each(entries.len(), |n, buffer| {
            let (tree, entry) = entries[n];
            Ok(match entry.kind {
                Kind::File => Content::File(read::pass_on(tree, entry, buffer, &mut |_| Ok(()))?),
                Kind::Dir => Content::Dir,
                Kind::Link => Content::Link(read::link_target(tree, entry)?),
            })
        })?;
        Ok(self.digest_of(&contents))
    }

    /// The digest of these names with these contents, which are in the same order.
    pub(super) fn digest_of(&self, contents: &[Content]) -> Digest {
        let mut contents = contents.iter();
        let mut text = Vec::new();
        for tree in &self.trees {
            put_text(&mut text, tree.root.label.as_bytes());
            put_number(&mut text, tree.entries.len() as u64);
            for (entry, content) in tree.entries.iter().zip(contents.by_ref()) {
                put_text(&mut text, tree.path(entry));
                put_content(&mut text, entry, content);
            }
        }
        let hash = blake3::Hasher::new_derive_key(CONTEXT).update(&text).finalize();
        hash.into()
    }
}

fn put_content(text: &mut Vec<u8>, entry: &Entry, content: &Content) {
    match content {
        Content::File(digest) => {
            text.push(if entry.is_executable() { b'x' } else { b'f' });
            text.extend(digest.as_bytes());
        }
        Content::Dir => text.push(b'd'),
        Content::Link(target) => {
            text.push(b'l');
            put_text(text, target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Root, walk};

    #[test]
    fn the_tree_digest_has_the_documented_input() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("a"), "one").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("b")).unwrap();
        let root = Root { path: dir.path().to_owned(), label: "L".to_owned(), skip: vec![] };
        let number = |n: u64| n.to_le_bytes().to_vec();
        let text = |s: &str| [number(s.len() as u64), s.as_bytes().to_vec()].concat();
        let input = [
            [text("L"), number(3)].concat(),
            [text(""), b"d".to_vec()].concat(),
            [text("a"), b"f".to_vec(), Digest::of(b"one").as_bytes().to_vec()].concat(),
            [text("b"), b"l".to_vec(), text("a")].concat(),
        ];
        let expect = Digest::from_bytes(blake3::derive_key(CONTEXT, &input.concat()));
        assert_eq!(walk(&[root]).unwrap().digest().unwrap(), expect);
    }
}
