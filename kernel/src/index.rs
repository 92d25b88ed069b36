//! kmod's binary indexes, read side: `modules.dep.bin`, and the common form of all `modules.*.bin`.
//!
//! `modprobe` finds a module through `modules.dep.bin` alone: the key is the module's name, the value its file and the
//! files it needs, `kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/jbd2/jbd2.ko`, relative to the kernel's tree.
//!
//! The format (kmod, `libkmod/libkmod-index.c`; version 2.1, numbers big-endian) is a trie:
//!
//! ```text
//! u32 magic = 0xB007F457, u32 version = 0x00020001, u32 root
//!
//! a node, at (offset & 0x0FFFFFFF); the high bits of the offset that leads to it say what it has:
//!   0x80000000  prefix     bytes, NUL
//!   0x20000000  children   u8 first, u8 last, u32 offset[last - first + 1]; zero: no child for this byte
//!   0x40000000  values     u32 count, then count times: u32 priority, bytes, NUL
//! ```
//!
//! kmod itself trusts these files: on a truncated one it reads past its mapping and dies. Here every cut and every
//! changed byte gives an error or an answer. kmod's writer never shares bytes between nodes, so reading more bytes than
//! the file has means that offsets lead in circles; that one rule bounds time and memory for any input.

use std::collections::BTreeMap;

const MAGIC: u32 = 0xB007_F457;
/// The minor version may grow compatibly.
const VERSION_MAJOR: u32 = 2;
const PREFIX: u32 = 0x8000_0000;
const VALUES: u32 = 0x4000_0000;
const CHILDREN: u32 = 0x2000_0000;
const OFFSET: u32 = 0x0FFF_FFFF;
/// Keys are ASCII (`INDEX_CHILDMAX`).
const BYTE_MAX: u8 = 127;
/// A module's name is the name of a file.
const NAME_MAX: usize = 255;

/// A damaged index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Error {
    /// Offset in the file.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// A whole `modules.dep.bin`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DepIndex(BTreeMap<String, String>);

/// One module in a [`DepIndex`]; paths are relative to the kernel's tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The module's name, with `_` for `-`.
    pub name: &'a str,
    /// The file that is loaded.
    pub path: &'a str,
    depends: &'a str,
}

impl<'a> Entry<'a> {
    /// The files to be loaded before, the last one first.
    pub fn depends(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.depends.split_ascii_whitespace()
    }
}

impl DepIndex {
    /// Reads a whole file.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut entries = BTreeMap::new();
        walk(bytes, &mut |key, value| {
            let fail = |what| Error { at: value.at, what };
            if key.len() > NAME_MAX {
                return Err(fail("a name that is too long"));
            }
            let key = std::str::from_utf8(key).map_err(|_| fail("a name that is not text"))?;
            let text = std::str::from_utf8(value.bytes).map_err(|_| fail("a value that is not text"))?;
            if text.split_once(':').is_none_or(|(path, _)| path.is_empty()) {
                return Err(fail("a value without a path"));
            }
            // Of several values modprobe takes the first.
            entries.entry(key.to_owned()).or_insert_with(|| text.to_owned());
            Ok(())
        })?;
        Ok(Self(entries))
    }

    /// What modprobe finds for a module's name; `-` and `_` are the same.
    pub fn lookup(&self, module_name: &str) -> Option<Entry<'_>> {
        let (name, value) = self.0.get_key_value(&module_name.replace('-', "_"))?;
        entry(name, value)
    }

    /// All modules, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        self.0.iter().filter_map(|(name, value)| entry(name, value))
    }

    /// How many modules there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn entry<'a>(name: &'a str, value: &'a str) -> Option<Entry<'a>> {
    let (path, depends) = value.split_once(':')?;
    Some(Entry { name, path, depends })
}

/// Whether any of kmod's binary indexes (`modules.alias.bin`, ...) is whole.
pub fn verify(bytes: &[u8]) -> Result<(), Error> {
    walk(bytes, &mut |_, _| Ok(()))
}

/// A value of any of these indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedValue {
    /// What it is found under.
    pub key: Vec<u8>,
    /// Of several values of a key the lowest goes first.
    pub priority: u32,
    /// The value.
    pub bytes: Vec<u8>,
}

/// All values of any of kmod's binary indexes, as they lie there.
pub fn values(bytes: &[u8]) -> Result<Vec<KeyedValue>, Error> {
    let mut values = Vec::new();
    walk(bytes, &mut |key, Value { priority, bytes, .. }| {
        values.push(KeyedValue { key: key.to_vec(), priority, bytes: bytes.to_vec() });
        Ok(())
    })?;
    Ok(values)
}

struct Value<'a> {
    at: usize,
    priority: u32,
    bytes: &'a [u8],
}

type Visit<'a> = dyn FnMut(&[u8], Value<'_>) -> Result<(), Error> + 'a;

/// Shows every key with each of its values, in the order of the keys.
fn walk(bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
    let mut cursor = Cursor { bytes, at: 0, left: bytes.len() };
    if cursor.u32()? != MAGIC {
        return Err(Error { at: 0, what: "not an index of kmod" });
    }
    if cursor.u32()? >> 16 != VERSION_MAJOR {
        return Err(Error { at: 4, what: "an unknown version" });
    }
    let root = cursor.u32()?;
    let mut key = Vec::new();
    // What is still to be read: a node, how much of the key leads to its parent, and the byte that leads to it.
    let mut waiting = vec![(root, 0, None)];
    while let Some((node, parent, byte)) = waiting.pop() {
        if node & OFFSET == 0 {
            continue;
        }
        key.truncate(parent);
        key.extend(byte);
        cursor.at = (node & OFFSET) as usize;
        if node & PREFIX != 0 {
            key.extend(cursor.until_nul()?);
        }
        let length = key.len();
        if node & CHILDREN != 0 {
            waiting.extend(cursor.children()?.rev().map(|(byte, child)| (child, length, Some(byte))));
        }
        if node & VALUES != 0 {
            for _ in 0..cursor.u32()? {
                let priority = cursor.u32()?;
                let at = cursor.at;
                visit(&key, Value { at, priority, bytes: cursor.until_nul()? })?;
            }
        }
    }
    Ok(())
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    /// How many bytes may still be read in all: no byte belongs to two nodes.
    left: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let fail = |what| Error { at: self.at, what };
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..count).ok_or(fail("cut short"))?;
        self.left = self.left.checked_sub(count).ok_or(fail("offsets that lead in circles"))?;
        self.at += count;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_be_bytes(self.take(4)?.try_into().unwrap_or_default()))
    }

    fn until_nul(&mut self) -> Result<&'a [u8], Error> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&c| c == 0).ok_or(Error { at: self.at, what: "cut short" })?;
        Ok(&self.take(length + 1)?[..length])
    }

    fn children(&mut self) -> Result<impl DoubleEndedIterator<Item = (u8, u32)> + use<'a>, Error> {
        let at = self.at;
        let &[first, last] = self.take(2)? else { return Err(Error { at, what: "cut short" }) };
        if first > last || last > BYTE_MAX {
            return Err(Error { at, what: "an impossible range of children" });
        }
        let offsets = self.take(4 * (usize::from(last - first) + 1))?;
        let child = move |(i, offset): (usize, &[u8])| {
            (first + i as u8, u32::from_be_bytes(offset.try_into().unwrap_or_default()))
        };
        Ok(offsets.chunks_exact(4).enumerate().map(child))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An index as depmod writes it; `pairs` must be sorted.
    pub(crate) fn index(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut out = [MAGIC.to_be_bytes(), 0x0002_0001_u32.to_be_bytes(), [0; 4]].concat();
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.as_bytes(), *value)).collect();
        let root = write_node(&mut out, &pairs);
        out[8..12].copy_from_slice(&root.to_be_bytes());
        out
    }

    fn write_node(out: &mut Vec<u8>, pairs: &[(&[u8], &str)]) -> u32 {
        let (first, last) = (pairs[0].0, pairs[pairs.len() - 1].0);
        let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let (own, below): (Vec<_>, Vec<_>) =
            pairs.iter().partition::<Vec<(&[u8], &str)>, _>(|p| p.0.len() == common);
        let mut children: BTreeMap<u8, Vec<(&[u8], &str)>> = BTreeMap::new();
        for (key, value) in below {
            children.entry(key[common]).or_default().push((&key[common + 1..], value));
        }
        let offsets: BTreeMap<u8, u32> =
            children.iter().map(|(&c, pairs)| (c, write_node(out, pairs))).collect();
        let mut node = out.len() as u32;
        if common > 0 {
            node |= PREFIX;
            out.extend([&first[..common], b"\0"].concat());
        }
        if let (Some((&low, _)), Some((&high, _))) = (offsets.first_key_value(), offsets.last_key_value()) {
            node |= CHILDREN;
            out.extend([low, high]);
            out.extend((low..=high).flat_map(|c| offsets.get(&c).copied().unwrap_or(0).to_be_bytes()));
        }
        if !own.is_empty() {
            node |= VALUES;
            out.extend((own.len() as u32).to_be_bytes());
            out.extend(own.iter().flat_map(|(_, value)| [&[0, 0, 0, 1], value.as_bytes(), b"\0"].concat()));
        }
        node
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
    fn damage_is_named_with_its_place() {
        let check =
            |bytes: &[u8], expect: &str| assert_eq!(DepIndex::parse(bytes).unwrap_err().to_string(), expect);
        check(b"", "cut short at byte 0");
        check(&[0; 12], "not an index of kmod at byte 0");
        let mut newer = example();
        newer[5] = 3;
        check(&newer, "an unknown version at byte 4");
        check(&index(&[("a", "no colon")]), "a value without a path at byte 22");
    }

    #[test]
    fn a_node_that_is_its_own_child_ends() {
        let node = 12 | CHILDREN;
        let own = [&[b'a', b'a'][..], &node.to_be_bytes()].concat();
        let bytes =
            [&MAGIC.to_be_bytes()[..], &0x0002_0001_u32.to_be_bytes(), &node.to_be_bytes(), &own].concat();
        assert_eq!(DepIndex::parse(&bytes).unwrap_err().what, "offsets that lead in circles");
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
        fn every_changed_byte_gives_an_answer(at: proptest::sample::Index, to: u8) {
            let mut bytes = example();
            let at = at.index(bytes.len());
            bytes[at] = to;
            if let Ok(index) = DepIndex::parse(&bytes) {
                prop_assert!(index.iter().all(|e| index.lookup(e.name).is_some() || e.name.contains('-')));
            }
        }

        #[test]
        fn any_bytes_give_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let head = [MAGIC.to_be_bytes(), 0x0002_0001_u32.to_be_bytes()].concat();
            let _ = verify(&bytes);
            let _ = verify(&[head, bytes].concat());
        }
    }
}
