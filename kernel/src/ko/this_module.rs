//! What a module's file shows of the kernel that it was built for, without symbol versions: its `struct module`, which
//! the kernel takes from the file, and to which types its own are an addition ([`super::btf`]). Of the structure, the
//! size, and where its fields for the module's two functions are. All modules of one kernel have the same; the
//! configuration decides.
//!
//! ```text
//! .gnu.linkonce.this_module         zeros, as long as a struct module
//! .rela.gnu.linkonce.this_module    the address of init_module belongs at the offset of `init`, that of cleanup_module at
//!                                   the offset of `exit`; a module may have neither
//! ```
//!
//! The structure is aligned to cache lines, so many options change an offset and not the size.
//!
//! Sources: `include/linux/module.h`, `scripts/mod/modpost.c` (`add_header`).

use object::Endianness;
use object::read::elf::{FileHeader, Rel, Rela, SectionHeader};
use serde::{Deserialize, Serialize};

use super::{Defect, Object};

const SECTION: &str = ".gnu.linkonce.this_module";

/// Limit on relocations that are read. Modules have one or two.
const MOST_RELOCATIONS: usize = 64;

/// Layout of a `struct module`, offsets and size in bytes, and the kernel's types.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThisModule {
    /// Its size.
    pub size: u64,
    /// Offset of the field `init`; `None` if the module has no such function.
    pub init: Option<u64>,
    /// Offset of the field `exit`; `None` if the module has no such function.
    pub exit: Option<u64>,
    /// Length in bytes of the strings of the kernel's types that its own are an addition to; `None` if that is not known.
    pub types_of: Option<u32>,
    /// The words of its vermagic that follow neither from the release nor from the configuration, separated by spaces: of the
    /// architecture (`aarch64`, `ARMv7 p2v8`), or the hash of the seed with which structures were randomized (`RANDSTRUCT_...`,
    /// `include/linux/vermagic.h`). `None` if that is not known.
    pub words: Option<String>,
}

impl ThisModule {
    /// Whether both offsets are known.
    pub fn is_complete(&self) -> bool {
        self.init.is_some() && self.exit.is_some()
    }

    /// Adds the offsets that another module of the same kernel has.
    pub fn complete(&mut self, other: &ThisModule) {
        self.init = self.init.or(other.init);
        self.exit = self.exit.or(other.exit);
        self.types_of = self.types_of.or(other.types_of);
    }

    /// The first field that is elsewhere than in another module: its name and both offsets.
    pub(super) fn moved(&self, expected: &ThisModule) -> Option<(&'static str, u64, u64)> {
        let fields = [("init", self.init, expected.init), ("exit", self.exit, expected.exit)];
        let moved = |(name, found, expected)| (found != expected).then_some((name, found, expected));
        fields
            .into_iter()
            .filter_map(|(name, found, expected)| Some((name, found?, expected?)))
            .find_map(moved)
    }
}

impl<Elf: FileHeader<Endian = Endianness>> Object<'_, Elf> {
    pub(super) fn this_module(&self) -> Result<Option<ThisModule>, Defect> {
        let Some(section) = self.section(SECTION)? else { return Ok(None) };
        let mut found = ThisModule {
            size: section.len() as u64,
            init: None,
            exit: None,
            types_of: self.types_of()?,
            words: None,
        };
        for (offset, symbol) in self.relocations()? {
            let Ok(symbol) = self.symbols.symbol(object::SymbolIndex(symbol)) else { continue };
            let field = match self.name(symbol) {
                b"init_module" => &mut found.init,
                b"cleanup_module" => &mut found.exit,
                _ => continue,
            };
            field.get_or_insert(offset);
        }
        Ok(Some(found))
    }

    /// Offset and symbol number of each address that the loader writes into the structure.
    fn relocations(&self) -> Result<Vec<(u64, usize)>, Defect> {
        let named = |prefix: &str| {
            let name = format!("{prefix}{SECTION}");
            self.sections.section_by_name(self.endian, name.as_bytes()).map(|(_, section)| section)
        };
        if let Some(section) = named(".rela")
            && let Some((entries, _)) = section.rela(self.endian, self.data)?
        {
            // Parts of `r_info` are in another order for 64-bit little-endian MIPS, whose modules are not checked at all.
            let entry =
                |entry: &Elf::Rela| (entry.r_offset(self.endian).into(), entry.r_sym(self.endian, false));
            let entries = entries.iter().take(MOST_RELOCATIONS).map(entry);
            return Ok(entries.map(|(at, symbol)| (at, symbol as usize)).collect());
        }
        if let Some(section) = named(".rel")
            && let Some((entries, _)) = section.rel(self.endian, self.data)?
        {
            let entry = |entry: &Elf::Rel| (entry.r_offset(self.endian).into(), entry.r_sym(self.endian));
            let entries = entries.iter().take(MOST_RELOCATIONS).map(entry);
            return Ok(entries.map(|(at, symbol)| (at, symbol as usize)).collect());
        }
        Ok(Vec::new())
    }
}
