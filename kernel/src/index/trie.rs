//! The format of kmod's binary indexes, `modules.*.bin`: reading and writing.
//!
//! The format (kmod, `libkmod/libkmod-index.c`; version 2.1, numbers big-endian) is a trie:
//!
//! ```text
//! u32 magic = 0xB007F457, u32 version = 0x00020001, u32 root
//!
//! a node, at (offset & 0x0FFFFFFF); the high bits of the offset that refers to it say what it has:
//!   0x80000000  prefix     bytes, NUL
//!   0x20000000  children   u8 first, u8 last, u32 offset[last - first + 1]; zero: no child for this byte
//!   0x40000000  values     u32 count, then count times: u32 priority, bytes, NUL
//! ```
//!
//! Reading: kmod trusts these files, and crashes on a truncated one by reading past its mapping. Here every truncation
//! and every changed byte gives an error or an answer. kmod's writer never shares bytes between nodes, so reading more
//! bytes than the file has means that offsets form a cycle; that rule limits time and memory for any input.
//!
//! Writing: the trie that results from depmod's insertions depends only on the keys, not on their order. A node's
//! prefix is the longest common one of all keys below it, except the root's, which is always empty. A node comes after
//! its children, or since kmod 34 before them; children are in the order of their bytes. So the file is written directly from
//! the sorted keys, and no node is kept in memory. Values of one key are ordered by priority; among equal ones, the last inserted comes first.

pub(super) const MAGIC: u32 = 0xB007_F457;
const VERSION: u32 = 0x0002_0001;
/// Major version; a larger minor version is compatible.
const VERSION_MAJOR: u32 = VERSION >> 16;
const PREFIX: u32 = 0x8000_0000;
const VALUES: u32 = 0x4000_0000;
pub(super) const CHILDREN: u32 = 0x2000_0000;
const OFFSET: u32 = 0x0FFF_FFFF;
/// Keys are ASCII (`INDEX_CHILDMAX` in libkmod-index.h).
const BYTE_MAX: u8 = 127;

/// A corrupt index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct Error {
    /// Offset in the file, in bytes.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

/// Verifies that a binary index (`modules.alias.bin`, ...) can be read completely.
pub fn verify(bytes: &[u8]) -> Result<(), Error> {
    walk(bytes, &mut |_, _| Ok(()))
}

/// A value in a binary index, with its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedValue {
    /// The key.
    pub key: Vec<u8>,
    /// Priority: of several values of a key, the lowest comes first.
    pub priority: u32,
    /// The value.
    pub bytes: Vec<u8>,
}

/// All values of a binary index, in the order of the file.
///
/// # Errors
///
/// [`Error`] with the position of the corruption.
pub fn values(bytes: &[u8]) -> Result<Vec<KeyedValue>, Error> {
    let mut values = Vec::new();
    walk(bytes, &mut |key, Value { priority, bytes, .. }| {
        values.push(KeyedValue { key: key.to_vec(), priority, bytes: bytes.to_vec() });
        Ok(())
    })?;
    Ok(values)
}

/// A value of a key.
pub(super) struct Value<'a> {
    /// Offset of its bytes in the file.
    pub(super) at: usize,
    /// Priority; the lowest comes first.
    pub(super) priority: u32,
    pub(super) bytes: &'a [u8],
}

pub(super) type Visit<'a> = dyn FnMut(&[u8], Value<'_>) -> Result<(), Error> + 'a;

/// Calls back for every key with each of its values, in the order of the keys.
pub(super) fn walk(bytes: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
    let mut cursor = Cursor { bytes, at: 0, left: bytes.len() };
    if cursor.u32()? != MAGIC {
        return Err(Error { at: 0, what: "not an index of kmod" });
    }
    if cursor.u32()? >> 16 != VERSION_MAJOR {
        return Err(Error { at: 4, what: "an unknown version" });
    }
    let root = cursor.u32()?;
    let mut key = Vec::new();
    // Nodes still to be read: offset, length of the parent's key, and the byte that leads from the parent to it.
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
    /// Bytes that may still be read in all: no byte belongs to two nodes.
    left: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Error> {
        let fail = |what| Error { at: self.at, what };
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = rest.get(..count).ok_or(fail("cut short"))?;
        self.left = self.left.checked_sub(count).ok_or(fail("circular offsets"))?;
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

/// A key and value to write. Neither may contain a NUL; keys are ASCII, and no longer than [`KEY_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair<'a> {
    pub(super) key: &'a [u8],
    pub(super) priority: u32,
    pub(super) value: &'a [u8],
}

/// Limit in bytes on keys. A node can be one byte of a key, and writing it is a recursive call, so this limits the
/// stack. Real keys have 200 bytes.
pub(super) const KEY_MAX: usize = 1024;

/// Writes an index of these pairs. Those of equal key and priority must be in the order in which depmod inserts them.
/// `None` if the index would be larger than offsets can express.
pub(super) fn write(mut pairs: Vec<Pair<'_>>, layout: Layout) -> Option<Vec<u8>> {
    let order = |a: &Pair<'_>, b: &Pair<'_>| a.key.cmp(b.key).then(a.priority.cmp(&b.priority));
    // Reversed and then sorted stably: of equal ones the last comes first.
    pairs.reverse();
    pairs.sort_by(order);
    let text: usize = pairs.iter().map(|pair| pair.value.len() + 16).sum();
    let mut writer = Writer { out: Vec::with_capacity(2 * text), layout, offsets: Vec::new(), prefix: 0 };
    writer.out.extend([MAGIC.to_be_bytes(), VERSION.to_be_bytes(), [0; 4]].concat());
    let root = writer.node(&pairs, 0)?;
    writer.out[8..12].copy_from_slice(&root.to_be_bytes());
    Some(writer.out)
}

/// Where the nodes are in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// kmod up to 33.
    ChildrenFirst,
    /// kmod since 34.
    ParentsFirst,
}

struct Writer {
    out: Vec<u8>,
    layout: Layout,
    /// Children's offsets of all nodes that are being written.
    offsets: Vec<u32>,
    /// Limit on the length of the next node's prefix; the root has none.
    prefix: usize,
}

impl Writer {
    /// Writes the node for keys that share their first `depth` bytes, and its children. Returns its offset.
    fn node(&mut self, pairs: &[Pair<'_>], depth: usize) -> Option<u32> {
        let end = depth + common(pairs, depth).min(self.prefix);
        self.prefix = KEY_MAX;
        let (own, below) = pairs.split_at(pairs.partition_point(|pair| pair.key.len() == end));
        let mark = self.offsets.len();
        let range = below.first().zip(below.last()).map(|(first, last)| (first.key[end], last.key[end]));
        if let Some((first, last)) = range {
            self.offsets.resize(mark + usize::from(last - first) + 1, 0);
        }
        if self.layout == Layout::ChildrenFirst {
            self.children(below, end, mark)?;
        }
        let at = u32::try_from(self.out.len()).ok().filter(|at| *at <= OFFSET)?;
        let mut flags = 0;
        if end > depth {
            flags |= PREFIX;
            self.out.extend(&pairs[0].key[depth..end]);
            self.out.push(0);
        }
        if let Some((first, last)) = range {
            flags |= CHILDREN;
            self.out.extend([first, last]);
        }
        let table = self.out.len();
        self.out.extend(self.offsets[mark..].iter().flat_map(|offset| offset.to_be_bytes()));
        if !own.is_empty() {
            flags |= VALUES;
            self.values(own);
        }
        if self.layout == Layout::ParentsFirst {
            self.children(below, end, mark)?;
            let table = self.out[table..].chunks_exact_mut(4);
            for (place, offset) in table.zip(&self.offsets[mark..]) {
                place.copy_from_slice(&offset.to_be_bytes());
            }
        }
        self.offsets.truncate(mark);
        Some(at | flags)
    }

    /// Writes the children, and sets their offsets, one for each byte from the first to the last one that has a child.
    fn children(&mut self, mut pairs: &[Pair<'_>], end: usize, mark: usize) -> Option<()> {
        let Some(first) = pairs.first().map(|pair| pair.key[end]) else { return Some(()) };
        while let Some(byte) = pairs.first().map(|pair| pair.key[end]) {
            let (child, rest) = pairs.split_at(pairs.partition_point(|pair| pair.key[end] == byte));
            self.offsets[mark + usize::from(byte - first)] = self.node(child, end + 1)?;
            pairs = rest;
        }
        Some(())
    }

    fn values(&mut self, pairs: &[Pair<'_>]) {
        self.out.extend((pairs.len() as u32).to_be_bytes());
        for pair in pairs {
            self.out.extend(pair.priority.to_be_bytes());
            self.out.extend(pair.value);
            self.out.push(0);
        }
    }
}

/// Length of the prefix that these sorted keys share after `depth` bytes: that of the first and the last.
fn common(pairs: &[Pair<'_>], depth: usize) -> usize {
    match pairs {
        [] => 0,
        [only] => only.key.len() - depth,
        [first, .., last] => {
            first.key[depth..].iter().zip(&last.key[depth..]).take_while(|(a, b)| a == b).count()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    type Owned = (Vec<u8>, u32, Vec<u8>);

    fn read(bytes: &[u8]) -> Vec<Owned> {
        let mut found = Vec::new();
        walk(bytes, &mut |key, value| {
            found.push((key.to_owned(), value.priority, value.bytes.to_owned()));
            Ok(())
        })
        .unwrap();
        found
    }

    fn written(pairs: &[Owned], layout: Layout) -> Vec<u8> {
        let mut borrowed = Vec::new();
        for (key, priority, value) in pairs {
            borrowed.push(Pair { key, priority: *priority, value });
        }
        write(borrowed, layout).unwrap()
    }

    const LAYOUTS: [Layout; 2] = [Layout::ChildrenFirst, Layout::ParentsFirst];

    #[test]
    fn values_are_ordered_by_priority_and_equal_ones_reversed() {
        let pair = |priority, value: &str| (b"key".to_vec(), priority, value.as_bytes().to_vec());
        for layout in LAYOUTS {
            let bytes = written(&[pair(7, "c"), pair(2, "a"), pair(2, "b"), pair(9, "d")], layout);
            assert_eq!(read(&bytes), [pair(2, "b"), pair(2, "a"), pair(7, "c"), pair(9, "d")]);
        }
    }

    #[test]
    fn the_root_is_the_last_node_or_the_first() {
        let root = |layout| {
            let bytes = written(&[(b"ab".to_vec(), 0, vec![]), (b"ac".to_vec(), 0, vec![])], layout);
            (u32::from_be_bytes(bytes[8..12].try_into().unwrap()) & OFFSET, bytes.len())
        };
        let (last, length) = root(Layout::ChildrenFirst);
        // Its children: a first and a last byte, and an offset.
        assert_eq!(last as usize, length - 6);
        assert_eq!(root(Layout::ParentsFirst), (12, length));
    }

    proptest! {
        #[test]
        fn values_are_read_back_in_order(pairs in vec(("[a-c]{0,6}", 0..3_u32, "[x-z]{0,2}"), 0..20)) {
            let mut pairs: Vec<Owned> =
                pairs.into_iter().map(|(k, p, v)| (k.into_bytes(), p, v.into_bytes())).collect();
            let all = LAYOUTS.map(|layout| read(&written(&pairs, layout)));
            pairs.reverse();
            pairs.sort_by(|a, b| (&a.0, a.1).cmp(&(&b.0, b.1)));
            prop_assert_eq!(&all[0], &pairs);
            prop_assert_eq!(&all[1], &pairs);
            let longest = [(vec![b'a'; KEY_MAX], 0, vec![]), (vec![b'a'; KEY_MAX - 1], 0, vec![])];
            prop_assert_eq!(LAYOUTS.map(|layout| read(&written(&longest, layout)).len()), [2, 2]);
        }
    }
}
