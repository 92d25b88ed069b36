//! The tree digest: computed from a walk and the contents of its files and links.

use super::walk::{Entry, FileKind, Tree, Walk, put_number, put_text};
use super::{program, read};
use crate::{Digest, Result};

/// BLAKE3 context. Stored, because tree digests are: changes whenever the input of the digest does.
const CONTEXT: &str = "kcache 2026-11 tree digest v1";
/// The same for the programs of a tree.
const PROGRAMS: &str = "kcache 2026-11 programs of a tree v1";

/// Digests of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digests {
    /// Without the programs that are counted apart.
    pub(super) tree: Digest,
    /// Of those.
    pub(super) programs: Digest,
}

/// Content of an entry.
pub(super) enum Content {
    /// Digest of a file's bytes.
    File(Digest),
    /// Digest of a program that is counted apart ([`super::program`]).
    Program(Digest),
    /// A directory; its entries are listed separately.
    Dir,
    /// Target of a link.
    Link(Vec<u8>),
}

impl Walk {
    /// Reads every file and computes the tree digest ([`crate::tree`] describes the exact input).
    pub fn digest(&self) -> Result<Digest> {
        Ok(self.digest_of(&self.contents()?))
    }

    /// Reads every file.
    pub(super) fn contents(&self) -> Result<Vec<Content>> {
        let entries: Vec<(&Tree, &Entry)> =
            self.trees.iter().flat_map(|tree| tree.entries.iter().map(move |entry| (tree, entry))).collect();
        read::each(entries.len(), |n, buffer| {
            let (tree, entry) = entries[n];
            Ok(match entry.kind {
                FileKind::File => content(tree, entry, buffer)?,
                FileKind::Dir => Content::Dir,
                FileKind::Link => Content::Link(read::link_target(tree, entry)?),
            })
        })
    }

    /// Both digests of these names with these contents, which are in the same order.
    pub(super) fn digests_of(&self, contents: &[Content]) -> Digests {
        let mut text = Vec::new();
        for (tree, entry, content) in self.with(contents) {
            if let Content::Program(digest) = content {
                put_text(&mut text, tree.root.label.as_bytes());
                put_text(&mut text, tree.path(entry));
                text.extend(digest.as_bytes());
            }
        }
        let programs = blake3::Hasher::new_derive_key(PROGRAMS).update(&text).finalize().into();
        Digests { tree: self.digest_of(contents), programs }
    }

    /// Each entry with its content.
    pub(super) fn with<'a>(
        &'a self,
        contents: &'a [Content],
    ) -> impl Iterator<Item = (&'a Tree, &'a Entry, &'a Content)> {
        let entries = self.trees.iter().flat_map(|tree| tree.entries.iter().map(move |entry| (tree, entry)));
        entries.zip(contents).map(|((tree, entry), content)| (tree, entry, content))
    }

    /// The digest of these names with these contents, which are in the same order.
    pub(super) fn digest_of(&self, contents: &[Content]) -> Digest {
        let mut contents = contents.iter();
        let mut text = Vec::new();
        for tree in &self.trees {
            put_text(&mut text, tree.root.label.as_bytes());
            let own: Vec<_> =
                tree.entries.iter().zip(contents.by_ref()).filter(|(_, c)| !c.is_program()).collect();
            put_number(&mut text, own.len() as u64);
            for (entry, content) in own {
                put_text(&mut text, tree.path(entry));
                put_content(&mut text, entry, content);
            }
        }
        let hash = blake3::Hasher::new_derive_key(CONTEXT).update(&text).finalize();
        hash.into()
    }
}

impl Content {
    fn is_program(&self) -> bool {
        matches!(self, Content::Program(_))
    }
}

/// Reads a file, which may be a program that is counted apart.
fn content(tree: &Tree, entry: &Entry, buffer: &mut [u8]) -> Result<Content> {
    let apart = tree.root.programs && entry.size <= program::MOST_IN_TREE;
    let (mut bytes, mut is_first) = (None, true);
    let digest = read::pass_on(tree, entry, buffer, &mut |piece| {
        if std::mem::take(&mut is_first) && apart && program::is_program(piece) {
            bytes = Some(Vec::with_capacity(entry.size as usize));
        }
        bytes.iter_mut().for_each(|bytes| bytes.extend_from_slice(piece));
        Ok(())
    })?;
    Ok(bytes.map_or(Content::File(digest), |bytes| Content::Program(program::digest(&bytes))))
}

fn put_content(text: &mut Vec<u8>, entry: &Entry, content: &Content) {
    match content {
        Content::File(digest) => {
            text.push(if entry.is_executable() { b'x' } else { b'f' });
            text.extend(digest.as_bytes());
        }
        Content::Program(_) => {}
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
    use crate::tree::{TreeRoot, walk};

    #[test]
    fn the_tree_digest_has_the_documented_input() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("a"), "one").unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("b")).unwrap();
        let root =
            TreeRoot { path: dir.path().to_owned(), label: "L".to_owned(), skip: vec![], programs: false };
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
