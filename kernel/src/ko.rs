//! Module files, `.ko`: parsing them, and checking whether a kernel will load them.
//!
//! A module is a relocatable ELF object. These parts matter before it is loaded:
//!
//! ```text
//! ELF header           class, byte order, machine; ET_REL
//! .modinfo             "key=value" strings, NUL-separated, with padding; keys repeat (alias, import_ns)
//! __versions           under CONFIG_MODVERSIONS: 64-byte entries, an unsigned long CRC and a name
//! __version_ext_crcs,  the same with names of any length (6.14, EXTENDED_MODVERSIONS):
//! __version_ext_names    u32 CRCs, and as many NUL-terminated names
//! .symtab              undefined symbols are needed; __ksymtab_NAME is exported, its CRC is at __crc_NAME,
//!                        its namespace at __kstrtabns_NAME
//! <end of the ELF>     optionally a signature: PKCS#7, 12 bytes of struct module_signature, a magic line
//! ```
//!
//! [`parse`] reads this, [`check()`] compares it with a kernel. Both are pure, and [`parse`] accepts untrusted input:
//! any bytes give a [`Ko`] or a [`Defect`]. Decompress a compressed module first ([`crate::compress::Compression`]).
//!
//! Sources: `kernel/module/main.c`, `kernel/module/version.c`, `include/linux/module_signature.h`,
//! `include/linux/export-internal.h`, `scripts/mod/modpost.c`.

mod btf;
mod build_id;
mod check;
mod defect;
#[cfg(test)]
pub(crate) mod fixture;
mod flags;
mod machine;
mod this_module;

use std::collections::BTreeMap;

use object::Endianness;
use object::elf;
use object::read::SectionIndex;
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym, SymbolTable};

pub use build_id::BuildId;
pub use check::{Expect, check, inspect, unversioned};
pub use defect::{Defect, ModuleFault};
pub use flags::{Flags, Preempt};
pub use machine::ElfMachine;
pub use this_module::ThisModule;

/// The parsed contents of a module file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ko {
    /// Class, byte order and machine of the ELF header.
    pub machine: ElfMachine,
    /// The strings of `.modinfo`.
    pub modinfo: ModInfo,
    /// `__versions`: the CRC of each symbol, including `module_layout`, at the time of the build. Empty without
    /// `CONFIG_MODVERSIONS`.
    pub versions: BTreeMap<String, u32>,
    /// The symbols it needs.
    pub undefined: Vec<Undefined>,
    /// The symbols that it exports, by name.
    pub exports: BTreeMap<String, ModuleExport>,
    /// Its `struct module`, and the kernel's types that it was built for; `None` without that section.
    pub this_module: Option<ThisModule>,
    /// Whether a signature is appended, which is not verified.
    pub signed: bool,
}

impl Ko {
    /// Number of names in it, including values of `.modinfo`.
    pub fn names(&self) -> usize {
        self.undefined.len() + self.exports.len() + self.versions.len() + self.modinfo.0.len()
    }
}

/// A symbol that a module needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undefined {
    /// Name of the symbol.
    pub name: String,
    /// Whether it may stay unresolved (a weak symbol).
    pub weak: bool,
}

/// A symbol that a module exports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModuleExport {
    /// CRC of its type (genksyms); `None` without `CONFIG_MODVERSIONS`.
    pub crc: Option<u32>,
    /// The namespace that an importer must name (`MODULE_IMPORT_NS`).
    pub namespace: Option<String>,
}

/// The strings of `.modinfo`, in the file's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ModInfo(Vec<(String, String)>);

impl ModInfo {
    /// Parses the section: strings separated by any number of NULs. Strings without `=` are ignored, as in the kernel.
    pub fn parse(section: &[u8]) -> Self {
        let entry = |text: &[u8]| {
            let (key, value) = text.split_at(text.iter().position(|&c| c == b'=')?);
            Some((lossy(key), lossy(&value[1..])))
        };
        Self(section.split(|&c| c == 0).filter_map(entry).collect())
    }

    /// The first value of a key: `name`, `vermagic`, `depends`, `license`, `version`, `srcversion`, ...
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// All values of a key: `import_ns`, `alias`, `author`, `firmware`, ...
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// All keys and values, in the file's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Names of the modules that must be loaded before it: `depends`, split at commas.
    pub fn depends(&self) -> impl Iterator<Item = &str> {
        self.get("depends").unwrap_or_default().split(',').filter(|name| !name.is_empty())
    }
}

/// `MODULE_SIG_STRING` (include/linux/module_signature.h): the last bytes of a signed module.
pub(crate) const SIGNATURE_MAGIC: &[u8] = b"~Module signature appended~\n";
/// Size in bytes of `struct module_signature`; its last four bytes are the signature's length, big-endian.
pub(crate) const SIGNATURE_INFO: usize = 12;

/// Splits a file into the ELF object and the appended signature, if there is one.
///
/// A file that ends in the magic line but whose length field exceeds the file is not split; the kernel will refuse it.
pub fn split_signature(bytes: &[u8]) -> (&[u8], Option<&[u8]>) {
    let body = || {
        let rest = bytes.strip_suffix(SIGNATURE_MAGIC)?;
        let (_, length) = rest.split_last_chunk::<4>()?;
        let tail = usize::try_from(u32::from_be_bytes(*length)).ok()?.checked_add(SIGNATURE_INFO)?;
        rest.len().checked_sub(tail)
    };
    match body() {
        Some(end) => (&bytes[..end], Some(&bytes[end..])),
        None => (bytes, None),
    }
}

/// Number of bytes needed by [`starts`]: size of the longest ELF header.
pub const START: u64 = 64;

/// Limit on symbols that a module may need, export or have CRCs of. The largest have some thousand.
const MOST_NAMES: usize = 1 << 20;
/// Limit in bytes on `.modinfo`. Drivers of many devices have some 100 KB.
const MOST_MODINFO: usize = 4 << 20;

/// Checks from a file's first bytes whether it can be a module.
pub fn starts(bytes: &[u8]) -> Result<(), Defect> {
    match class(bytes)? {
        elf::ELFCLASS32 => relocatable::<elf::FileHeader32<Endianness>>(bytes).map(drop),
        _ => relocatable::<elf::FileHeader64<Endianness>>(bytes).map(drop),
    }
}

fn class(bytes: &[u8]) -> Result<elf::FileClass, Defect> {
    match bytes {
        [] => Err(Defect::Empty),
        [0x7f, b'E', b'L', b'F', class, ..] => match elf::FileClass(*class) {
            class @ (elf::ELFCLASS32 | elf::ELFCLASS64) => Ok(class),
            _ => Err(Defect::NotElf),
        },
        _ => Err(Defect::NotElf),
    }
}

fn relocatable<Elf: FileHeader<Endian = Endianness>>(data: &[u8]) -> Result<(&Elf, Endianness), Defect> {
    let header = Elf::parse(data)?;
    let endian = header.endian()?;
    match header.e_type(endian) {
        elf::ET_REL => Ok((header, endian)),
        found => Err(Defect::NotRelocatable { found: found.0 }),
    }
}

/// Parses a decompressed module file.
///
/// # Errors
///
/// The [`Defect`] that makes the file unusable as a module.
pub fn parse(bytes: &[u8]) -> Result<Ko, Defect> {
    let (body, signature) = split_signature(bytes);
    let mut ko = match class(body)? {
        elf::ELFCLASS32 => read::<elf::FileHeader32<Endianness>>(body)?,
        _ => read::<elf::FileHeader64<Endianness>>(body)?,
    };
    ko.signed = signature.is_some();
    Ok(ko)
}

fn read<Elf: FileHeader<Endian = Endianness>>(data: &[u8]) -> Result<Ko, Defect> {
    let (header, endian) = relocatable::<Elf>(data)?;
    let sections = header.sections(endian, data)?;
    let symbols = sections.symbols(endian, data, elf::SHT_SYMTAB)?;
    let object = Object::<Elf> { data, endian, sections, symbols };
    object.check_names()?;
    let machine = ElfMachine {
        number: header.e_machine(endian).0,
        bits: if header.is_type_64() { 64 } else { 32 },
        big_endian: header.is_big_endian(),
    };
    let modinfo = object.modinfo()?;
    let words = check::other_words(modinfo.get("vermagic").unwrap_or_default());
    Ok(Ko {
        machine,
        modinfo,
        versions: object.versions(machine)?,
        undefined: object.undefined(),
        exports: object.exports(),
        this_module: object.this_module()?.map(|found| ThisModule { words: Some(words), ..found }),
        signed: false,
    })
}

/// Prefix of the symbol whose value is a namespace's name.
const NAMESPACE: &[u8] = b"__kstrtabns_";

struct Object<'data, Elf: FileHeader<Endian = Endianness>> {
    data: &'data [u8],
    endian: Endianness,
    sections: SectionTable<'data, Elf>,
    symbols: SymbolTable<'data, Elf>,
}

impl<'data, Elf: FileHeader<Endian = Endianness>> Object<'data, Elf> {
    fn section(&self, name: &str) -> Result<Option<&'data [u8]>, Defect> {
        match self.sections.section_by_name(self.endian, name.as_bytes()) {
            Some((_, section)) => Ok(Some(section.data(self.endian, self.data)?)),
            None => Ok(None),
        }
    }

    fn modinfo(&self) -> Result<ModInfo, Defect> {
        match self.section(".modinfo")?.ok_or(Defect::NoModinfo)? {
            section if section.len() > MOST_MODINFO => Err(too_many(".modinfo is too long")),
            section => Ok(ModInfo::parse(section)),
        }
    }

    fn versions(&self, machine: ElfMachine) -> Result<BTreeMap<String, u32>, Defect> {
        let mut versions = BTreeMap::new();
        let table = |name, size| Ok::<_, Defect>(self.section(name)?.unwrap_or_default().len() / size);
        if table("__versions", 64)? + table("__version_ext_crcs", 4)? > MOST_NAMES {
            return Err(too_many("it has too many CRCs"));
        }
        // struct modversion_info { unsigned long crc; char name[64 - sizeof(unsigned long)]; }
        let word = usize::from(machine.bits / 8);
        for entry in self.section("__versions")?.unwrap_or_default().chunks_exact(64) {
            let (crc, name) = entry.split_at(word);
            // The CRC has 32 bits: the low half of the word, in the file's byte order.
            let low = if machine.big_endian { &crc[word - 4..] } else { &crc[..4] };
            versions.insert(lossy(until_nul(name)), self.u32(low));
        }
        // Exists in addition to the table above, for longer names.
        let crcs = self.section("__version_ext_crcs")?.unwrap_or_default().chunks_exact(4);
        let names = self.section("__version_ext_names")?.unwrap_or_default().split(|&c| c == 0);
        versions.extend(crcs.zip(names).map(|(crc, name)| (lossy(name), self.u32(crc))));
        Ok(versions)
    }

    /// Checks that every symbol has a name, and that all names and namespaces together are not longer than the file.
    /// Names may share bytes, but each has a symbol beside it; only a forged file refers to one long text again and
    /// again, to exhaust memory. Stops as soon as that is certain.
    fn check_names(&self) -> Result<(), Defect> {
        let (mut left, mut names) = (self.data.len(), 0);
        for (index, symbol) in self.symbols.enumerate() {
            let name = self.symbols.symbol_name(self.endian, symbol)?;
            let namespace = name.starts_with(NAMESPACE).then(|| self.bytes_at(index, symbol)).flatten();
            let length = name.len() + namespace.map_or(0, |text| until_nul(text).len());
            left = left.checked_sub(length).ok_or_else(|| too_many("its names are longer than the file"))?;
            let counts = symbol.is_undefined(self.endian) || name.starts_with(b"__");
            names += usize::from(counts);
            if names > MOST_NAMES {
                return Err(too_many("it has too many symbols"));
            }
        }
        Ok(())
    }

    fn undefined(&self) -> Vec<Undefined> {
        let needed = |symbol: &&Elf::Sym| {
            symbol.is_undefined(self.endian) && matches!(symbol.st_bind(), elf::STB_GLOBAL | elf::STB_WEAK)
        };
        let named = |symbol: &Elf::Sym| Undefined { name: lossy(self.name(symbol)), weak: symbol.is_weak() };
        self.symbols.iter().filter(needed).map(named).filter(|symbol| !symbol.name.is_empty()).collect()
    }

    fn exports(&self) -> BTreeMap<String, ModuleExport> {
        let mut exports: BTreeMap<String, ModuleExport> = BTreeMap::new();
        let mut crcs = BTreeMap::new();
        let mut namespaces = BTreeMap::new();
        for (index, symbol) in self.symbols.enumerate() {
            let name = self.name(symbol);
            if let Some(name) = name.strip_prefix(b"__ksymtab_") {
                exports.insert(lossy(name), ModuleExport::default());
            } else if let Some(name) = name.strip_prefix(b"__crc_") {
                crcs.insert(name, (index, symbol));
            } else if let Some(name) = name.strip_prefix(NAMESPACE) {
                namespaces.insert(name, (index, symbol));
            }
        }
        for (name, export) in &mut exports {
            export.crc = crcs.get(name.as_bytes()).and_then(|&(index, symbol)| self.crc(index, symbol));
            let namespace =
                namespaces.get(name.as_bytes()).and_then(|&(index, symbol)| self.bytes_at(index, symbol));
            export.namespace = namespace.map(|text| lossy(until_nul(text))).filter(|text| !text.is_empty());
        }
        exports
    }

    /// The CRC computed by genksyms. Until 5.18 it could be the value of an absolute symbol.
    fn crc(&self, index: object::SymbolIndex, symbol: &Elf::Sym) -> Option<u32> {
        if symbol.is_absolute(self.endian) {
            let value: u64 = symbol.st_value(self.endian).into();
            return u32::try_from(value & u64::from(u32::MAX)).ok();
        }
        self.bytes_at(index, symbol)?.get(..4).map(|crc| self.u32(crc))
    }

    /// The bytes from a symbol to the end of its section.
    fn bytes_at(&self, index: object::SymbolIndex, symbol: &Elf::Sym) -> Option<&'data [u8]> {
        let section: SectionIndex = self.symbols.symbol_section(self.endian, symbol, index).ok()??;
        let bytes = self.sections.section(section).ok()?.data(self.endian, self.data).ok()?;
        bytes.get(usize::try_from(symbol.st_value(self.endian).into()).ok()?..)
    }

    /// Its existence was checked before.
    fn name(&self, symbol: &Elf::Sym) -> &'data [u8] {
        self.symbols.symbol_name(self.endian, symbol).unwrap_or_default()
    }

    fn u32(&self, bytes: &[u8]) -> u32 {
        let bytes = bytes.try_into().unwrap_or_default();
        if self.endian == Endianness::Big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
    }
}

fn too_many(why: &str) -> Defect {
    Defect::Malformed { why: why.to_owned() }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&c| c == 0).next().unwrap_or_default()
}

/// Symbols and modinfo are ASCII except for authors' names, some of which are Latin-1.
fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::fixture::{Built, Class};
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_bytes_exclude_other_files() {
        let start = |bytes: &[u8]| starts(&bytes[..bytes.len().min(START as usize)]);
        for class in Class::ALL {
            assert_eq!(start(&Built::example().class(class).bytes()), Ok(()));
        }
        assert_eq!(start(&[]), Err(Defect::Empty));
        assert_eq!(start(&[0; 4096]), Err(Defect::NotElf));
        assert_eq!(start(b"\x7fELF\x07"), Err(Defect::NotElf));
        assert!(matches!(start(b"\x7fELF\x02\x01"), Err(Defect::Malformed { .. })));
        assert_eq!(start(&Built::example().elf_type(2).bytes()), Err(Defect::NotRelocatable { found: 2 }));
    }

    #[test]
    fn the_number_of_names_is_limited() {
        let check = |built: Built, words: &str| match parse(&built.bytes()) {
            Err(Defect::Malformed { why }) => assert_eq!(why, words),
            other => panic!("{:?}", other.map(|ko| ko.names())),
        };
        let with = |change: fn(&mut Built)| {
            let mut built = Built::example();
            change(&mut built);
            built
        };
        const MANY: std::ops::RangeInclusive<usize> = 0..=MOST_NAMES;
        check(
            with(|b| b.modinfo.push(format!("alias={}", "x".repeat(MOST_MODINFO)))),
            ".modinfo is too long",
        );
        let crcs = "it has too many CRCs";
        check(with(|b| b.versions = MANY.map(|_| ("a".into(), 1)).collect()), crcs);
        check(with(|b| b.extended_versions = MANY.map(|_| ("a".into(), 1)).collect()), crcs);
        let symbols = "it has too many symbols";
        check(with(|b| b.undefined = MANY.map(|_| ("a".into(), false)).collect()), symbols);
    }

    #[test]
    fn modinfo_has_padding_and_repeated_keys() {
        let info =
            ModInfo::parse(b"\0\0name=a\0import_ns=X\0\0\0alone\0import_ns=Y\0depends=b,c\0equals=a=b");
        assert_eq!(info.get("name"), Some("a"));
        assert_eq!(info.all("import_ns").collect::<Vec<_>>(), ["X", "Y"]);
        assert_eq!(info.depends().collect::<Vec<_>>(), ["b", "c"]);
        assert_eq!(info.get("equals"), Some("a=b"));
        assert_eq!(info.get("alone"), None);
    }

    #[test]
    fn every_class_and_byte_order_is_parsed_equally() {
        for class in Class::ALL {
            let ko = parse(&Built::example().class(class).bytes()).unwrap();
            assert_eq!((ko.machine.bits, ko.machine.big_endian), (class.bits(), class.big_endian()));
            assert_eq!(ko.modinfo.get("name"), Some("example"));
            assert_eq!(ko.versions["printk"], 0x1234_5678, "{class:?}");
            let undefined: Vec<_> = ko.undefined.iter().map(|u| (u.name.as_str(), u.weak)).collect();
            assert_eq!(undefined, [("printk", false), ("maybe", true)]);
            let export = ModuleExport { crc: Some(0xaabb_ccdd), namespace: Some("NS".into()) };
            assert_eq!(ko.exports["example_fn"], export, "{class:?}");
            assert!(!ko.signed);
        }
    }

    #[test]
    fn long_names_are_found_in_the_extended_versions() {
        let name = "a_rust_symbol_of_more_than_sixty_four_bytes_as_they_are_since_symbols_are_mangled";
        let mut built = Built::example();
        built.extended_versions = vec![(name.into(), 7), ("printk".into(), 0x1234_5678)];
        assert_eq!(parse(&built.bytes()).unwrap().versions[name], 7);
    }

    #[test]
    fn a_signature_is_detected_and_skipped() {
        let plain = Built::example().bytes();
        let mut signed = plain.clone();
        signed.extend(b"PKCS#7");
        signed.extend([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 6]);
        signed.extend(SIGNATURE_MAGIC);
        let (body, signature) = split_signature(&signed);
        assert_eq!((body.len(), signature.map(<[u8]>::len)), (plain.len(), Some(6 + 12 + 28)));
        let ko = parse(&signed).unwrap();
        assert_eq!(Ko { signed: false, ..ko.clone() }, parse(&plain).unwrap());
        assert!(ko.signed);
    }

    #[test]
    fn a_signature_longer_than_its_file_is_not_one() {
        let lying = [&[0xff; 12], SIGNATURE_MAGIC].concat();
        assert_eq!(split_signature(&lying), (&lying[..], None));
        assert_eq!(split_signature(SIGNATURE_MAGIC), (SIGNATURE_MAGIC, None));
    }

    #[test]
    fn names_longer_in_total_than_the_file_are_refused() {
        let mut built = Built::example();
        built.undefined = vec![("n".repeat(5000), false)];
        assert!(parse(&built.bytes()).is_ok());
        built.undefined.extend(vec![("m".into(), false); 10]);
        let mut bytes = built.bytes();
        let undefined_global = [&[0x10, 0, 0, 0][..], &[0; 16]].concat();
        let at: Vec<usize> = (0..bytes.len() - 24)
            .step_by(8)
            .filter(|at| bytes[at + 4..at + 24] == undefined_global)
            .collect();
        assert_eq!(at.len(), 11);
        let first: [u8; 4] = bytes[at[0]..at[0] + 4].try_into().unwrap();
        at.iter().for_each(|at| bytes[*at..*at + 4].copy_from_slice(&first));
        let why = "its names are longer than the file".to_owned();
        assert_eq!(parse(&bytes), Err(Defect::Malformed { why }));
    }

    #[test]
    fn other_files_are_reported() {
        let of = |bytes: &[u8]| parse(bytes).unwrap_err();
        assert_eq!(of(b""), Defect::Empty);
        assert_eq!(of(b"\x7fEL"), Defect::NotElf);
        assert_eq!(of(b"#!/bin/sh\n"), Defect::NotElf);
        assert_eq!(of(&Built::example().elf_type(3).bytes()), Defect::NotRelocatable { found: 3 });
        assert_eq!(of(&Built::example().without_modinfo().bytes()), Defect::NoModinfo);
        assert!(matches!(of(&Built::example().bytes()[..100]), Defect::Malformed { .. }));
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_result(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), elf: bool) {
            if elf && bytes.len() > 7 {
                bytes[..4].copy_from_slice(b"\x7fELF");
                bytes[4] = 1 + bytes[4] % 2;
                bytes[5] = 1 + bytes[5] % 2;
                bytes[6] = 1;
            }
            let _ = parse(&bytes);
        }

        #[test]
        fn every_truncated_or_changed_module_gives_a_result(
            which in 0..4usize, cut in any::<u16>(), changes in proptest::collection::vec((any::<u16>(), any::<u8>()), 1..6),
        ) {
            let mut bytes = Built::example().class(Class::ALL[which]).bytes();
            let _ = parse(&bytes[..usize::from(cut) % bytes.len()]);
            for (at, to) in changes {
                let at = usize::from(at) % bytes.len();
                bytes[at] = to;
            }
            let _ = parse(&bytes);
        }
    }
}
