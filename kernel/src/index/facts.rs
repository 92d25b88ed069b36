//! What depmod reads in one module.
//!
//! Not quite what the kernel reads ([`crate::ko`]), and in the file's order, for that is the order of depmod's output
//! (kmod, `libkmod/libkmod-elf.c`):
//!
//! ```text
//! .modinfo            "alias=..." and "softdep=...": each is a line of an index
//! .symtab             __crc_NAME: exported; where there is none, the strings of __ksymtab_strings are
//!                     undefined, of whatever binding: needed
//! __versions          names without such a symbol (module_layout): needed as well
//! ```
//!
//! A file in which anything is unusual, so that it is not certain what kmod would make of it, is refused.

use std::collections::HashSet;

use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym};

use crate::ko::split_signature;

/// What depmod reads in one module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Values of `alias`, as they stand.
    pub aliases: Vec<String>,
    /// Values of `softdep`.
    pub softdeps: Vec<String>,
    /// Symbols that it exports.
    pub exports: Vec<String>,
    /// Symbols that it needs.
    pub needs: Vec<String>,
}

/// Longer ones meet limits of depmod's own (`PATH_MAX`) and of ours ([`super::trie::KEY_MAX`]).
const TEXT_MAX: usize = super::trie::KEY_MAX - 32;
/// `struct modversion_info`; the CRC is an unsigned long, the rest the name.
const VERSION: usize = 64;

impl Facts {
    /// Reads a module, decompressed. Errors say what is unusual about it.
    pub fn parse(module: &[u8]) -> Result<Self, String> {
        let (body, _) = split_signature(module);
        match body {
            [0x7f, b'E', b'L', b'F', 1, ..] => read::<elf::FileHeader32<Endianness>>(body),
            [0x7f, b'E', b'L', b'F', 2, ..] => read::<elf::FileHeader64<Endianness>>(body),
            _ => Err("not an ELF file".to_owned()),
        }
    }
}

fn read<Elf: FileHeader<Endian = Endianness>>(data: &[u8]) -> Result<Facts, String> {
    let damaged = |error: object::Error| error.to_string();
    let header = Elf::parse(data).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    if matches!(header.e_machine(endian), elf::EM_SPARC | elf::EM_SPARCV9 | elf::EM_SPARC32PLUS) {
        return Err("a module for SPARC, whose symbols have rules of their own".to_owned());
    }
    let sections = header.sections(endian, data).map_err(damaged)?;
    let object = Object::<Elf> { data, endian, sections };
    let modinfo = object.section(".modinfo")?;
    let (exports, needs) = object.symbols()?;
    Ok(Facts { aliases: values(modinfo, "alias")?, softdeps: values(modinfo, "softdep")?, exports, needs })
}

struct Object<'data, Elf: FileHeader<Endian = Endianness>> {
    data: &'data [u8],
    endian: Endianness,
    sections: SectionTable<'data, Elf>,
}

impl<'data, Elf: FileHeader<Endian = Endianness>> Object<'data, Elf> {
    /// Empty where there is none.
    fn section(&self, name: &str) -> Result<&'data [u8], String> {
        match self.sections.section_by_name(self.endian, name.as_bytes()) {
            Some((_, section)) => section.data(self.endian, self.data).map_err(|e| e.to_string()),
            None => Ok(&[]),
        }
    }

    /// What is exported, and what is needed.
    fn symbols(&self) -> Result<(Vec<String>, Vec<String>), String> {
        let table = self.sections.symbols(self.endian, self.data, elf::SHT_SYMTAB);
        let table = table.map_err(|error| error.to_string())?;
        if table.is_empty() {
            return Err("a module without symbols".to_owned());
        }
        let (mut exports, mut needs) = (Vec::new(), Vec::new());
        // Only a forged file names one long text again and again, until it is larger than memory.
        let mut left = self.data.len();
        let mut undefined = HashSet::new();
        for symbol in table.iter().skip(1) {
            let name = table.symbol_name(self.endian, symbol).map_err(|error| error.to_string())?;
            left = left.checked_sub(name.len()).ok_or("names that are longer than the file")?;
            if let Some(name) = name.strip_prefix(b"__crc_") {
                exports.push(checked(name)?.to_owned());
            }
            if symbol.st_shndx(self.endian) == elf::SHN_UNDEF && !name.is_empty() {
                needs.push(needed(name)?);
                undefined.insert(name);
            }
        }
        if exports.is_empty() {
            let names = strings(self.section("__ksymtab_strings")?).map(|name| Ok(checked(name)?.to_owned()));
            exports = names.collect::<Result<_, String>>()?;
        }
        for name in self.versions()? {
            if !undefined.contains(name) {
                needs.push(needed(name)?);
            }
        }
        Ok((exports, needs))
    }

    fn versions(&self) -> Result<Vec<&'data [u8]>, String> {
        let section = self.section("__versions")?;
        if !section.len().is_multiple_of(VERSION) {
            return Err("a __versions of an odd length".to_owned());
        }
        let word = if size_of::<Elf::Word>() == 8 { 8 } else { 4 };
        let name = |entry: &'data [u8]| {
            let length = entry[word..].iter().position(|&c| c == 0);
            length.map(|length| &entry[word..word + length]).ok_or("a name without an end in __versions")
        };
        Ok(section.chunks_exact(VERSION).map(name).collect::<Result<_, _>>()?)
    }
}

/// `.foo` on a 64-bit PowerPC is `foo`.
fn needed(name: &[u8]) -> Result<String, String> {
    Ok(checked(name.strip_prefix(b".").unwrap_or(name))?.to_owned())
}

/// Strings between any number of NULs.
fn strings(section: &[u8]) -> impl Iterator<Item = &[u8]> {
    section.split(|&c| c == 0).filter(|text| !text.is_empty())
}

/// The values of a key. Only what goes into an index is looked at: authors may have umlauts.
fn values(modinfo: &[u8], key: &str) -> Result<Vec<String>, String> {
    let value = |text| match <[u8]>::strip_prefix(text, key.as_bytes()) {
        Some([]) => Some(Ok(String::new())),
        Some([b'=']) => Some(Ok(String::new())),
        Some([b'=', value @ ..]) => Some(checked(value).map(str::to_owned)),
        _ => None,
    };
    strings(modinfo).filter_map(value).collect()
}

/// What can be a key or a word of a line.
fn checked(text: &[u8]) -> Result<&str, String> {
    let plain = |c: &u8| matches!(c, b' '..=b'~');
    match std::str::from_utf8(text) {
        Ok(text) if !text.is_empty() && text.len() <= TEXT_MAX && text.as_bytes().iter().all(plain) => {
            Ok(text)
        }
        _ => Err(format!(
            "an unusual name, {:?}",
            String::from_utf8_lossy(text).chars().take(60).collect::<String>()
        )),
    }
}
