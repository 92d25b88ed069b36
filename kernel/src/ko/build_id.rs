//! The build-id of an object, with which debuggers find its debug information.
//!
//! ```text
//! .note.gnu.build-id     type NT_GNU_BUILD_ID, name "GNU", as many bytes as the linker's hash has (sha1: 20)
//! .build-id/ab/cdef...   path below /usr/lib/debug: the first byte in hex, then the others
//! ```
//!
//! The linker hashes the complete module including debug information, and both parts keep the note when they are
//! split.

use std::fmt;
use std::path::PathBuf;

use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, SectionHeader};

use super::split_signature;

/// Allowed lengths in bytes. A linker's shortest hash has 8 (`fast`), the longest in use 64.
const LENGTHS: std::ops::RangeInclusive<usize> = 8..=64;

/// The build-id of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildId(Vec<u8>);

impl BuildId {
    /// The build-id of a module or of its debug information; `None` if it has none or is not an object.
    pub fn of(bytes: &[u8]) -> Option<BuildId> {
        let (body, _) = split_signature(bytes);
        match elf::FileClass(*body.get(4)?) {
            elf::ELFCLASS32 => read::<elf::FileHeader32<Endianness>>(body),
            elf::ELFCLASS64 => read::<elf::FileHeader64<Endianness>>(body),
            _ => None,
        }
    }

    /// Path of the debug information, relative to a directory such as `/usr/lib/debug`.
    pub fn debug_path(&self) -> PathBuf {
        let hex = self.to_string();
        PathBuf::from(format!(".build-id/{}/{}.debug", &hex[..2], &hex[2..]))
    }
}

/// In hex, as `file` and `eu-readelf -n` print it.
impl fmt::Display for BuildId {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn read<Elf: FileHeader<Endian = Endianness>>(data: &[u8]) -> Option<BuildId> {
    let header = Elf::parse(data).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, data).ok()?;
    let (_, section) = sections.section_by_name(endian, b".note.gnu.build-id")?;
    let mut notes = section.notes(endian, data).ok()??;
    while let Ok(Some(note)) = notes.next() {
        let id = note.desc();
        if note.name() == elf::ELF_NOTE_GNU && note.n_type(endian) == elf::NT_GNU_BUILD_ID {
            return LENGTHS.contains(&id.len()).then(|| BuildId(id.to_vec()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ko::fixture::{Built, Class};

    fn with(id: &[u8]) -> Built {
        let mut built = Built::example();
        built.build_id = id.to_vec();
        built
    }

    #[test]
    fn build_ids_are_read_from_every_class_and_byte_order() {
        for class in Class::ALL {
            let id = BuildId::of(&with(&[0xab, 0xcd, 0xef, 1, 2, 3, 4, 5]).class(class).bytes()).unwrap();
            assert_eq!(id.to_string(), "abcdef0102030405");
            assert_eq!(id.debug_path(), PathBuf::from(".build-id/ab/cdef0102030405.debug"));
        }
    }

    #[test]
    fn missing_or_invalid_build_ids_give_none() {
        let whole = with(&[1; 20]).bytes();
        for bytes in
            [&Built::example().bytes()[..], &with(&[1; 4]).bytes(), &with(&[1; 65]).bytes(), b"\x7fELF"]
        {
            assert_eq!(BuildId::of(bytes), None);
        }
        for length in 0..whole.len() {
            assert_eq!(BuildId::of(&whole[..length]), None, "{length} bytes");
        }
    }
}
