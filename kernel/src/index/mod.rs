//! kmod's indexes of a kernel's modules: reading them, and updating them after a change.
//!
//! ```text
//! modules.dep             a line for each module: its file, and the files it needs, the first to be loaded last
//! modules.alias           from `.modinfo`: `alias PATTERN MODULE`, with which the kernel requests drivers
//! modules.symbols         `alias symbol:NAME MODULE`: exported symbols
//! modules.softdep         from `.modinfo`: `softdep MODULE pre: ...`
//! modules.weakdep         from `.modinfo`: `weakdep MODULE OTHER...`, since kmod 33
//! modules.devname         device nodes in /dev whose opening loads a module
//! modules.{dep,alias,symbols,builtin,builtin.alias}.bin      tries of the same data ([`trie`])
//! ```
//!
//! - [`DepIndex`]: a parsed `modules.dep.bin`, which alone decides which module `modprobe` loads. Keys are modules'
//!   names; values are their file and the files it needs, relative to the kernel's tree:
//!   `kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko`.
//! - [`Present`] and [`update()`]: the text indexes of a tree, and all of its indexes after modules were added and
//!   removed, byte for byte equal to those of a depmod that reads every module again (`update.rs` explains how).
//! - [`Facts`]: what depmod reads from a module. [`SearchRules`]: which of several files it chooses (depmod.d(5)). [`Kmod`]:
//!   the version of depmod to reproduce.

mod facts;
mod graph;
mod hash;
#[cfg(test)]
mod identity;
mod kmod;
mod present;
mod reason;
mod rules;
mod trie;
mod update;

pub use facts::Facts;
#[cfg(test)]
pub(crate) use kmod::depmod_of_tests;
pub use kmod::{Kmod, NewerKmod};
pub use present::{Present, Texts};
pub use reason::DepmodReason;
pub use rules::{SearchRules, choose, module_name};
pub use trie::{Error, KeyedValue, values, verify};
pub use update::{Disk, IndexedFile, WrittenIndexes, update};

use std::ops::Range;

use crate::module_name::ModuleName;

/// Limit in bytes on a module's name, which is a file's name.
const NAME_MAX: usize = 255;

/// The contents of a `modules.dep.bin`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DepIndex {
    /// All names and values, one after the other: thousands of strings would each be an allocation.
    text: String,
    /// Name and value of each module in `text`, sorted by name.
    modules: Vec<(Range<usize>, Range<usize>)>,
}

/// A module in a [`DepIndex`]. Paths are relative to the kernel's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry<'a> {
    /// Name in the kernel, with `_` for `-`.
    pub name: &'a str,
    /// Path of the file that is loaded.
    pub path: &'a str,
    depends: &'a str,
}

impl<'a> IndexEntry<'a> {
    /// Paths of the files it needs, the first to be loaded last.
    pub fn depends(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.depends.split_ascii_whitespace()
    }
}

impl DepIndex {
    /// Parses `modules.dep.bin`.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut index = Self::default();
        // The trie's keys come sorted.
        trie::walk(bytes, &mut |key, value| {
            let fail = |what| Error { at: value.at, what };
            if key.len() > NAME_MAX {
                return Err(fail("a name that is too long"));
            }
            let key = std::str::from_utf8(key).map_err(|_| fail("a name that is not text"))?;
            let text = std::str::from_utf8(value.bytes).map_err(|_| fail("a value that is not text"))?;
            if text.split_once(':').is_none_or(|(path, _)| path.is_empty()) {
                return Err(fail("a value without a path"));
            }
            // modprobe uses the first of several values.
            if index.modules.last().is_none_or(|(name, _)| index.text[name.clone()] != *key) {
                let name = index.push(key);
                let value = index.push(text);
                index.modules.push((name, value));
            }
            Ok(())
        })?;
        Ok(index)
    }

    fn push(&mut self, text: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(text);
        start..self.text.len()
    }

    /// The file that modprobe loads for a module's name; `-` and `_` are equal.
    pub fn lookup(&self, module_name: &str) -> Option<IndexEntry<'_>> {
        let wanted = ModuleName::new(module_name);
        let found = self.modules.binary_search_by(|(name, _)| self.text[name.clone()].cmp(&wanted));
        self.entry(&self.modules[found.ok()?])
    }

    /// All modules, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = IndexEntry<'_>> {
        self.modules.iter().filter_map(|module| self.entry(module))
    }

    fn entry(&self, (name, value): &(Range<usize>, Range<usize>)) -> Option<IndexEntry<'_>> {
        let (path, depends) = self.text[value.clone()].split_once(':')?;
        Some(IndexEntry { name: &self.text[name.clone()], path, depends })
    }

    /// Number of modules.
    pub fn len(&self) -> usize {
        self.modules.len()
    }

    /// Whether there are no modules.
    pub fn is_empty(&self) -> bool {
        self.modules.is_empty()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::trie::{CHILDREN, MAGIC};
    use super::*;
    use proptest::prelude::*;

    /// An index as depmod writes it.
    pub(crate) fn index(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut sorted = Vec::new();
        for (key, value) in pairs {
            sorted.push(trie::Pair { key: key.as_bytes(), priority: 1, value: value.as_bytes() });
        }
        trie::write(sorted, trie::Layout::ChildrenFirst).unwrap()
    }

    fn example() -> Vec<u8> {
        index(&[
            ("ask", "kernel/ask.ko:"),
            ("ate", "kernel/ate.ko: kernel/on.ko kernel/ask.ko"),
            ("on", "updates/on.ko.xz:"),
            ("once", "kernel/once.ko:"),
            ("one_two", "kernel/one-two.ko:"),
        ])
    }

    #[test]
    fn modules_are_found_with_their_files() {
        let index = DepIndex::parse(&example()).unwrap();
        assert_eq!(index.len(), 5);
        assert_eq!(index.lookup("on").unwrap().path, "updates/on.ko.xz");
        let ate = index.lookup("ate").unwrap();
        assert_eq!(ate.depends().collect::<Vec<_>>(), ["kernel/on.ko", "kernel/ask.ko"]);
        assert_eq!(index.lookup("one-two").unwrap().path, "kernel/one-two.ko");
        assert_eq!(index.lookup("onc"), None);
        assert_eq!(index.iter().map(|e| e.name).collect::<Vec<_>>(), ["ask", "ate", "on", "once", "one_two"]);
    }

    #[test]
    fn an_index_of_nothing_is_empty() {
        let empty = [MAGIC.to_be_bytes(), 0x0002_0001_u32.to_be_bytes(), 12_u32.to_be_bytes()].concat();
        assert!(DepIndex::parse(&empty).unwrap().is_empty());
    }

    #[test]
    fn corruption_is_reported_with_its_offset() {
        let check =
            |bytes: &[u8], expect: &str| assert_eq!(DepIndex::parse(bytes).unwrap_err().to_string(), expect);
        check(b"", "cut short at byte 0");
        check(&[0; 12], "not an index of kmod at byte 0");
        let mut newer = example();
        newer[5] = 3;
        check(&newer, "an unknown version at byte 4");
        check(&index(&[("a", "no colon")]), "a value without a path at byte 20");
    }

    #[test]
    fn a_cyclic_node_is_an_error() {
        let node = 12 | CHILDREN;
        let own = [&[b'a', b'a'][..], &node.to_be_bytes()].concat();
        let bytes =
            [&MAGIC.to_be_bytes()[..], &0x0002_0001_u32.to_be_bytes(), &node.to_be_bytes(), &own].concat();
        assert_eq!(DepIndex::parse(&bytes).unwrap_err().what, "circular offsets");
    }

    #[test]
    fn every_truncation_is_an_error() {
        let bytes = example();
        // depmod writes the root last, so nothing can be cut off unnoticed.
        for length in 0..bytes.len() {
            assert!(DepIndex::parse(&bytes[..length]).is_err(), "{length} of {}", bytes.len());
        }
    }

    proptest! {
        #[test]
        fn every_changed_byte_gives_a_result(at: proptest::sample::Index, to: u8) {
            let mut bytes = example();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(index) = DepIndex::parse(&bytes) {
                prop_assert!(index.iter().all(|e| index.lookup(e.name).is_some() || e.name.contains('-')));
            }
        }

        #[test]
        fn any_bytes_give_a_result(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let head = [MAGIC.to_be_bytes(), 0x0002_0001_u32.to_be_bytes()].concat();
            let _ = verify(&bytes);
            let _ = verify(&[head, bytes].concat());
        }
    }
}
