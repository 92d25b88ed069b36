//! A module's type information, as far as it shows for which kernel it was made.
//!
//! A module's `.BTF` is an addition to the kernel's: types have numbers, and names have offsets, that continue the kernel's own
//! (Documentation/bpf/btf.rst, "BTF_Type Encoding"; tools/lib/bpf/btf.c, `btf__new_split`):
//!
//! ```text
//! struct btf_header    magic 0xeb9f, version, flags, then 32 bits each: its length, and offset and length of types and strings
//! types                for each its name's offset, kind and number of members, size or type; then its members, with names
//! strings              names, NUL-terminated; the first has the offset that follows the kernel's last
//! ```
//!
//! So the offsets give the length of the kernel's strings: two kernels whose types differ hardly have the same. Modules with
//! `.BTF.base` bring what they need of the kernel's types, and are fitted to it when they are loaded: nothing follows from them.
//!
//! A kernel refuses a module whose types do not fit (kernel/bpf/btf.c, `btf_module_notify`), unless
//! `CONFIG_MODULE_ALLOW_BTF_MISMATCH` is set.

use object::Endianness;
use object::read::elf::FileHeader;

use super::{Defect, Object};

/// `BTF_MAGIC` (include/uapi/linux/btf.h).
const MAGIC: u32 = 0xeb9f;
/// Size in bytes of the part of the header that is read; `hdr_len` is at least this.
const HEADER: usize = 24;

impl<Elf: FileHeader<Endian = Endianness>> Object<'_, Elf> {
    /// Length in bytes of the strings of the kernel's types that the module's are an addition to; `None` if that does not follow.
    pub(super) fn types_of(&self) -> Result<Option<u32>, Defect> {
        match (self.section(".BTF")?, self.section(".BTF.base")?) {
            (Some(section), None) => Ok(length_before(section, self.endian == Endianness::Big)),
            _ => Ok(None),
        }
    }
}

/// The length of the strings before a section's own, if its offsets leave no doubt: each of its strings is used, and nothing else.
fn length_before(section: &[u8], big_endian: bool) -> Option<u32> {
    let number = |bytes: &[u8]| {
        let bytes = bytes.try_into().ok()?;
        Some(if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    };
    let field = |at: usize| number(section.get(at..at + 4)?);
    let first = field(0)?;
    if (if big_endian { first >> 16 } else { first & 0xffff }) != MAGIC {
        return None;
    }
    let rest = section.get(usize::try_from(field(4)?).ok().filter(|length| *length >= HEADER)?..)?;
    let part = |at: usize| {
        let (from, length) = (field(at)? as usize, field(at + 4)? as usize);
        rest.get(from..from.checked_add(length)?)
    };
    let (types, strings) = (part(8)?, part(16)?);
    let names = names(types, &number)?;
    let strings = strings.strip_suffix(b"\0")?;
    let starts = || {
        let next = strings.iter().enumerate().filter(|(_, byte)| **byte == 0).map(|(at, _)| at + 1);
        std::iter::once(0).chain(next)
    };
    // The last string's offset is the largest.
    let before = names.last()?.checked_sub(u32::try_from(starts().last()?).ok()?)?;
    let own = names.iter().filter(|name| **name >= before).map(|name| (*name - before) as usize);
    own.eq(starts()).then_some(before)
}

/// The offsets of all names, sorted, each once; `None` if a type is of an unknown kind or not complete.
fn names(mut types: &[u8], number: &impl Fn(&[u8]) -> Option<u32>) -> Option<Vec<u32>> {
    let mut names = Vec::new();
    while !types.is_empty() {
        let (head, rest) = types.split_at_checked(12)?;
        let info = number(&head[4..8])?;
        names.push(number(&head[..4])?);
        let count = (info & 0xffff) as usize;
        // Size in bytes of what follows once, and of each member, which begins with a name if so is said.
        let (once, each, is_named) = match info >> 24 & 0x1f {
            1 | 14 | 17 => (4, 0, false),          // INT, VAR, DECL_TAG
            2 | 7..=12 | 16 | 18 => (0, 0, false), // PTR, FWD to FUNC, FLOAT, TYPE_TAG
            3 => (12, 0, false),                   // ARRAY
            4 | 5 | 19 => (0, 12, true),           // STRUCT, UNION, ENUM64
            6 | 13 => (0, 8, true),                // ENUM, FUNC_PROTO
            15 => (0, 12, false),                  // DATASEC
            _ => return None,
        };
        let (members, after) = rest.get(once..)?.split_at_checked(count * each)?;
        if is_named {
            names.extend(members.chunks_exact(each).filter_map(|member| number(&member[..4])));
        }
        types = after;
    }
    names.sort_unstable();
    names.dedup();
    Some(names)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Types that are an addition to others with strings of this length: `struct own { int kept; int x; }`, where `kept` is a name
    /// among theirs.
    pub(crate) fn section(before: u32, big_endian: bool) -> Vec<u8> {
        let kept = 5;
        let types = [before, 4 << 24 | 2, 8, kept, 1, 0, before + 4, 1, 32];
        written(&types, b"own\0x\0", big_endian)
    }

    fn written(types: &[u32], strings: &[u8], big_endian: bool) -> Vec<u8> {
        let order = |number: u32| if big_endian { number.to_be_bytes() } else { number.to_le_bytes() };
        let length = types.len() as u32 * 4;
        let magic = if big_endian { [0xeb, 0x9f, 1, 0] } else { [0x9f, 0xeb, 1, 0] };
        let header = [24, 0, length, length, strings.len() as u32].map(order).concat();
        [&magic[..], &header, &types.iter().flat_map(|n| order(*n)).collect::<Vec<_>>(), strings].concat()
    }

    #[test]
    fn offsets_of_names_give_the_length_of_the_kernels_strings() {
        for big_endian in [false, true] {
            assert_eq!(length_before(&section(2_317_542, big_endian), big_endian), Some(2_317_542));
            assert_eq!(length_before(&section(2_317_542, big_endian), !big_endian), None);
        }
        let check = |types: &[u32], strings: &[u8], expect: Option<u32>| {
            assert_eq!(
                length_before(&written(types, strings, false), false),
                expect,
                "{types:?} {strings:?}"
            );
        };
        let named = |name: u32| [name, 7 << 24, 0];
        check(&named(100), b"a\0", Some(100));
        check(&[named(100), named(102), named(7)].concat(), b"a\0b\0", Some(100));
        check(&[named(100), named(103)].concat(), b"a\0b\0", None); // amid a string, or one that nobody names
        check(&named(102), b"a\0b\0", None);
        check(&named(1), b"a\0b\0", None);
        check(&named(100), b"", None);
        check(&named(100), b"a", None);
        check(&[], b"a\0", None);
        check(&[100, 31 << 24, 0], b"a\0", None); // a kind that is not known
        check(&[100, 4 << 24 | 9, 0], b"a\0", None); // a member is missing
        check(&[100, 4 << 24 | 9], b"a\0", None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_answer(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
            like in any::<bool>(),
            at in any::<usize>(),
            byte in any::<u8>(),
        ) {
            if like {
                bytes = section(1000, false);
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            let found = [false, true].map(|big_endian| length_before(&bytes, big_endian));
            prop_assert!(found.iter().flatten().all(|length| u64::from(*length) <= u64::from(u32::MAX)));
        }
    }
}
