//! What a program is told by: all of its bytes but two places that say only where it comes from.
//!
//! A distribution builds a program again with every update of its source package, and mostly nothing of it is another but its *build
//! id* (the note `NT_GNU_BUILD_ID` in `.note.gnu.build-id`, by which debuggers find its symbols; ld(1), `--build-id`) and the checksum
//! in its *debug link* (`.gnu_debuglink`, objcopy(1)). Neither is executed, so neither is part of a program's digest:
//!
//! ```text
//! BLAKE3 derive_key(CONTEXT) over, for each run of bytes between those places, in order:
//!   its length, 8 bytes little-endian, and its bytes
//! ```
//!
//! A section's name alone proves nothing. A debug link is left out only where no segment loads it, a build id only up to
//! the length of the longest hash, in a note of exactly that form and not in code. Of all else, malformed ELF too, each byte counts.

use std::ops::Range;

use object::elf;
use object::read::elf::{FileHeader, ProgramHeader as _, SectionHeader as _};
use object::{Endianness, FileKind};

use crate::Digest;

/// Stored, because tree digests and keys are: changes whenever the input of the digest does.
const CONTEXT: &str = "kcache 2026-11 program digest v1";

/// Most that a build id has, in bytes: `ld --build-id=0x...` takes what it is given; a SHA-512 is the longest hash.
const MOST_BUILD_ID: usize = 64;
/// Most that a debug link has, in bytes: the name of a file (`NAME_MAX`, include/uapi/linux/limits.h), padded, and a CRC-32.
const MOST_LINK: usize = 256 + 4;

/// Limit in bytes on a program of a tree, because it is read into memory, as many at a time as there are readers. Larger ones count
/// as plain files. The largest of kbuild's programs has 2 MB.
pub(super) const MOST_IN_TREE: u64 = 16 << 20;
/// The same for a single program, such as a compiler: gcc's `cc1` has 33 MB.
pub(super) const MOST: u64 = 256 << 20;

/// Whether a file that begins so is an ELF program or shared object (`ET_EXEC`, `ET_DYN`; elf(5)).
pub(super) fn is_program(head: &[u8]) -> bool {
    let kind = match head.get(..18) {
        Some(head) if head.starts_with(&elf::ELFMAG) => [head[16], head[17]],
        _ => return false,
    };
    let kind = match elf::DataEncoding(head[5]) {
        elf::ELFDATA2MSB => u16::from_be_bytes(kind),
        _ => u16::from_le_bytes(kind),
    };
    [elf::ET_EXEC, elf::ET_DYN].contains(&elf::FileType(kind))
}

/// The digest of a program.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    let mut at = 0;
    for left_out in left_out(bytes).unwrap_or_default() {
        put(&mut hasher, &bytes[at..left_out.start]);
        at = left_out.end;
    }
    put(&mut hasher, &bytes[at..]);
    hasher.finalize().into()
}

fn put(hasher: &mut blake3::Hasher, run: &[u8]) {
    hasher.update(&(run.len() as u64).to_le_bytes()).update(run);
}

/// What of an ELF file does not count, in order; `None` where it is malformed.
fn left_out(bytes: &[u8]) -> Option<Vec<Range<usize>>> {
    match FileKind::parse(bytes).ok()? {
        FileKind::Elf32 => places::<elf::FileHeader32<Endianness>>(bytes),
        FileKind::Elf64 => places::<elf::FileHeader64<Endianness>>(bytes),
        _ => None,
    }
}

fn places<Elf: FileHeader<Endian = Endianness>>(bytes: &[u8]) -> Option<Vec<Range<usize>>> {
    let header = Elf::parse(bytes).ok()?;
    let endian = header.endian().ok()?;
    let sections = header.sections(endian, bytes).ok()?;
    let segments = header.program_headers(endian, bytes).ok()?;
    let loads = |range: &Range<usize>| {
        segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD).any(|segment| {
            let (start, size) = segment.file_range(endian);
            start < range.end as u64 && (range.start as u64) < start.saturating_add(size)
        })
    };
    let mut found = Vec::new();
    let named = |name: &[u8]| sections.section_by_name(endian, name).map(|(_, section)| section);
    if let Some(section) = named(b".note.gnu.build-id") {
        let is_code = section.sh_flags(endian).0 & elf::SHF_EXECINSTR.0 != 0;
        let mut notes = section.notes(endian, bytes).ok()??;
        let note = notes
            .next()
            .ok()?
            .filter(|note| note.name() == b"GNU" && note.n_type(endian) == elf::NT_GNU_BUILD_ID && !is_code);
        if let Some(note) = note.filter(|note| (1..=MOST_BUILD_ID).contains(&note.desc().len())) {
            // Sections begin inside the file: notes were read of it.
            let start = note.desc().as_ptr() as usize - bytes.as_ptr() as usize;
            found.push(start..start + note.desc().len());
        }
    }
    if let Some(section) = named(b".gnu_debuglink") {
        let (start, size) = section.file_range(endian)?;
        let range = usize::try_from(start).ok()?..usize::try_from(start.checked_add(size)?).ok()?;
        if range.end <= bytes.len() && range.len() <= MOST_LINK && !loads(&range) {
            found.push(range);
        }
    }
    found.sort_by_key(|range| range.start);
    let overlap = found.windows(2).any(|pair| pair[0].end > pair[1].start);
    (!overlap).then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::process::Command;

    /// A program by this machine's compiler, with a debug link to a file of that content.
    #[expect(clippy::print_stdout, reason = "says why a test does nothing")]
    fn compiled(words: &[&str], debug: &str) -> Option<Vec<u8>> {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs_err::write(path("a.c"), "int main(void) { return 0; }").unwrap();
        let run = |program: &str, words: &[&str]| {
            Command::new(program).args(words).current_dir(dir.path()).status().is_ok_and(|s| s.success())
        };
        if !run("cc", &[words, &["-o", "a", "a.c"]].concat()) {
            println!("skipped, because there is no C compiler");
            return None;
        }
        fs_err::write(path("a.debug"), debug).unwrap();
        assert!(run("objcopy", &["--add-gnu-debuglink=a.debug", "a"]));
        Some(fs_err::read(path("a")).unwrap())
    }

    /// Where a program of [`compiled`] has its build id of so many bytes and its debug link, by the bytes before and in them.
    fn places_of(program: &[u8], id: u8) -> [Range<usize>; 2] {
        let find = |wanted: &[u8]| {
            let found: Vec<usize> =
                (0..program.len()).filter(|&at| program[at..].starts_with(wanted)).collect();
            assert_eq!(found.len(), 1, "{wanted:?}");
            found[0]
        };
        let note = [&[4, 0, 0, 0, id, 0, 0, 0, 3, 0, 0, 0], &b"GNU\0"[..]].concat();
        let (id_at, link_at) = (find(&note) + note.len(), find(b"a.debug\0"));
        [id_at..id_at + usize::from(id), link_at..link_at + 8 + 4]
    }

    #[test]
    fn a_program_built_again_is_the_same_program() {
        for kind in ["-pie", "-no-pie", "-shared", "-static"] {
            let with = |id: &str, debug: &str| compiled(&[kind, &format!("-Wl,--build-id=0x{id}")], debug);
            let Some(one) = with("0123456789abcdef", "one") else { return };
            let other = with("fedcba9876543210", "other").unwrap();
            assert!(is_program(&one) && one != other, "{kind}");
            assert_eq!(digest(&one), digest(&other), "{kind}");
            assert_eq!(left_out(&one).unwrap(), places_of(&one, 8), "{kind}: and nothing else is left out");
            let longer = with("0123456789abcdef01", "one").unwrap();
            assert_ne!(digest(&one), digest(&longer), "{kind}: another length is another layout");
        }
    }

    #[test]
    fn a_section_that_is_loaded_or_too_long_counts() {
        let Some(program) = compiled(&["-Wl,--build-id=0x01"], "x") else { return };
        let before = left_out(&program).unwrap();
        assert_eq!(before.len(), 2);
        // The debug link's section header is changed: it says that all of the file is one.
        let header = elf::FileHeader64::<Endianness>::parse(&*program).unwrap();
        let sections = header.sections(Endianness::Little, &*program).unwrap();
        let (index, _) = sections.section_by_name(Endianness::Little, b".gnu_debuglink").unwrap();
        let at = header.e_shoff.get(Endianness::Little) as usize + index.0 * 64;
        for (field, value) in [(24, 0u64), (32, program.len() as u64), (32, MOST_LINK as u64 + 1)] {
            let mut forged = program.clone();
            forged[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
            assert_eq!(left_out(&forged).unwrap(), before[..1], "field {field}");
        }
        let id = |bytes: usize| format!("-Wl,--build-id=0x{}", "01".repeat(bytes));
        let places = |bytes| left_out(&compiled(&[&id(bytes)], "x").unwrap()).unwrap().len();
        assert_eq!([places(MOST_BUILD_ID), places(MOST_BUILD_ID + 1)], [2, 1]);
    }

    #[test]
    fn sections_over_one_another_are_malformed() {
        let Some(program) = compiled(&["-Wl,--build-id=0x0102030405060708"], "x") else { return };
        let header = elf::FileHeader64::<Endianness>::parse(&*program).unwrap();
        let sections = header.sections(Endianness::Little, &*program).unwrap();
        let (link, _) = sections.section_by_name(Endianness::Little, b".gnu_debuglink").unwrap();
        let at = header.e_shoff.get(Endianness::Little) as usize + link.0 * 64;
        let mut forged = program.clone();
        forged[56..58].fill(0); // e_phnum: no segment loads the build id
        let id = left_out(&forged).unwrap()[0].clone();
        let start = id.start as u64 + 4;
        forged[at + 24..at + 32].copy_from_slice(&start.to_le_bytes()); // sh_offset
        assert_eq!(left_out(&forged), None);
        let before = digest(&forged);
        forged[id.start] ^= 1;
        assert_ne!(digest(&forged), before);
    }

    #[test]
    fn files_that_are_no_programs_are_recognised_by_their_first_bytes() {
        let head =
            |kind: elf::FileType| [&b"\x7fELF\x02\x01\x01"[..], &[0; 9], &kind.0.to_le_bytes()].concat();
        assert!(is_program(&head(elf::ET_EXEC)) && is_program(&head(elf::ET_DYN)));
        assert!(!is_program(&head(elf::ET_REL)) && !is_program(&head(elf::ET_CORE)));
        assert!(!is_program(b"\x7fELF") && !is_program(b"#!/bin/sh\necho \x7fELF") && !is_program(b""));
        // Malformed: its bytes as they are.
        assert_ne!(digest(&head(elf::ET_EXEC)), digest(&head(elf::ET_DYN)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn each_byte_outside_of_the_two_places_changes_the_digest(at: prop::sample::Index, flip in 1..=255u8) {
            use std::sync::LazyLock;
            static PROGRAM: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| compiled(&["-Wl,--build-id=0x0102030405"], "x"));
            let Some(program) = &*PROGRAM else { return Ok(()) };
            let at = at.index(program.len());
            let mut changed = program.clone();
            changed[at] ^= flip;
            let counts = !places_of(program, 5).iter().any(|range| range.contains(&at));
            prop_assert_eq!(digest(program) != digest(&changed), counts, "byte {}", at);
        }

        #[test]
        fn each_byte_of_a_malformed_program_changes_the_digest(
            at: prop::sample::Index,
            flip in 1..=255u8,
            cut in prop_oneof![Just(1), 1..4096usize],
        ) {
            use std::sync::LazyLock;
            static PROGRAM: LazyLock<Option<Vec<u8>>> = LazyLock::new(|| compiled(&["-Wl,--build-id=0x0102030405"], "x"));
            let Some(program) = &*PROGRAM else { return Ok(()) };
            // Its sections' headers are at its end.
            let program = &program[..program.len() - cut];
            let at = at.index(program.len());
            let mut changed = program.to_vec();
            changed[at] ^= flip;
            prop_assert_ne!(digest(program), digest(&changed), "byte {} of {}", at, program.len());
        }

        #[test]
        fn any_bytes_have_a_digest(bytes in prop::collection::vec(any::<u8>(), 0..400), cut: prop::sample::Index) {
            digest(&bytes);
            let elf = [b"\x7fELF\x02\x01\x01", &bytes[..]].concat();
            is_program(&elf);
            digest(&elf[..cut.index(elf.len()) + 1]);
        }
    }
}
