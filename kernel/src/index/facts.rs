//! What depmod reads from a module.
//!
//! This is not exactly what the kernel reads ([`crate::ko`]), and it is in the file's order, because that is the order
//! of depmod's output (kmod, `libkmod/libkmod-elf.c`):
//!
//! ```text
//! .modinfo            "alias=...", "softdep=..." and "weakdep=...": each becomes a line of an index
//! .symtab             __crc_NAME: exported symbols; without any, the strings of __ksymtab_strings;
//!                     undefined symbols of any binding: needed
//! __versions          names without such a symbol (module_layout): needed as well
//! ```
//!
//! A file with anything unusual is refused, because it is not certain how kmod would read it.

use std::collections::HashSet;

use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, SectionHeader, SectionTable, Sym};

use crate::ko::split_signature;

/// What depmod reads from a module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Values of `alias` in `.modinfo`, unchanged.
    pub aliases: Vec<String>,
    /// Values of `softdep` in `.modinfo`.
    pub softdeps: Vec<String>,
    /// Values of `weakdep` in `.modinfo`.
    pub weakdeps: Vec<String>,
    /// Names of exported symbols.
    pub exports: Vec<String>,
    /// Names of needed symbols.
    pub needs: Vec<String>,
}

/// Limit in bytes on texts. Longer ones reach limits of depmod (`PATH_MAX`) and of [`super::trie::KEY_MAX`].
const TEXT_MAX: usize = super::trie::KEY_MAX - 32;
/// Size in bytes of `struct modversion_info` (include/linux/module.h): an unsigned long with the CRC, and the name.
const VERSION: usize = 64;

impl Facts {
    /// Parses a decompressed module. An error says what is unusual about it.
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
    let [aliases, softdeps, weakdeps] = ["alias", "softdep", "weakdep"].map(|key| values(modinfo, key));
    Ok(Facts { aliases: aliases?, softdeps: softdeps?, weakdeps: weakdeps?, exports, needs })
}

struct Object<'data, Elf: FileHeader<Endian = Endianness>> {
    data: &'data [u8],
    endian: Endianness,
    sections: SectionTable<'data, Elf>,
}

impl<'data, Elf: FileHeader<Endian = Endianness>> Object<'data, Elf> {
    /// A section's bytes; empty if it does not exist.
    fn section(&self, name: &str) -> Result<&'data [u8], String> {
        match self.sections.section_by_name(self.endian, name.as_bytes()) {
            Some((_, section)) => section.data(self.endian, self.data).map_err(|e| e.to_string()),
            None => Ok(&[]),
        }
    }

    /// Names of exported and of needed symbols.
    fn symbols(&self) -> Result<(Vec<String>, Vec<String>), String> {
        let table = self.sections.symbols(self.endian, self.data, elf::SHT_SYMTAB);
        let table = table.map_err(|error| error.to_string())?;
        if table.is_empty() {
            return Err("a module without symbols".to_owned());
        }
        let (mut exports, mut needs) = (Vec::new(), Vec::new());
        // Only a forged file refers to one long text again and again, which would exhaust memory.
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
            let section = self.section("__ksymtab_strings")?;
            // kmod 34 reads nothing of such a section, earlier versions do.
            if section.last().is_some_and(|&last| last != 0) {
                return Err("a __ksymtab_strings without an end".to_owned());
            }
            let names = strings(section).map(|name| Ok(checked(name)?.to_owned()));
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

/// The name of a needed symbol: `.foo` on 64-bit PowerPC is `foo`.
fn needed(name: &[u8]) -> Result<String, String> {
    Ok(checked(name.strip_prefix(b".").unwrap_or(name))?.to_owned())
}

/// Strings separated by any number of NULs.
fn strings(section: &[u8]) -> impl Iterator<Item = &[u8]> {
    section.split(|&c| c == 0).filter(|text| !text.is_empty())
}

/// The values of a key. Other keys are not checked, because authors' names need not be ASCII.
fn values(modinfo: &[u8], key: &str) -> Result<Vec<String>, String> {
    let value = |text| match <[u8]>::strip_prefix(text, key.as_bytes()) {
        Some([]) => Some(Ok(String::new())),
        Some([b'=']) => Some(Ok(String::new())),
        Some([b'=', value @ ..]) => Some(checked(value).map(str::to_owned)),
        _ => None,
    };
    strings(modinfo).filter_map(value).collect()
}

/// Checks that a text can be a key of an index, or a word of a line.
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
