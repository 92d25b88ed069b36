//! Why a kernel would not load a file: one line for people each.

use std::fmt;

use super::ElfMachine;

/// Why a kernel would not load a file as a module. Names come from the file and are escaped for terminals.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// The file does not exist, although its directory lists it.
    #[error("is a dangling link")]
    Gone,
    /// The file is empty.
    #[error("is empty")]
    Empty,
    /// The file is not an ELF file.
    #[error("is not an ELF file")]
    NotElf,
    /// The ELF file is inconsistent.
    #[error("is a corrupt ELF file: {why}")]
    Malformed {
        /// The first inconsistency.
        why: String,
    },
    /// The ELF file is a program or library.
    #[error("has the ELF type {found}, expected a relocatable object (1)")]
    NotRelocatable {
        /// Its `e_type`.
        found: u16,
    },
    /// The compressed file cannot be decompressed, or not by this kernel.
    #[error("cannot be decompressed: {why}")]
    Compressed {
        /// The reason.
        why: String,
    },
    /// The module is unsigned, but the kernel requires signatures.
    #[error("is unsigned, and the kernel enforces signatures ({why})")]
    Unsigned {
        /// Why the kernel requires signatures.
        why: String,
    },
    /// The module's signature cannot be valid.
    #[error("has an invalid signature: {why}")]
    BadSignature {
        /// What is wrong with it.
        why: String,
    },
    /// The signer is unknown, but the kernel requires trusted signatures.
    #[error("is signed by {signer}, whose certificate is neither configured nor enrolled")]
    UnknownSigner {
        /// The signer as named in the signature.
        signer: String,
    },
    /// This machine does not trust the signer.
    #[error("is signed by {signer}, which is not enrolled; run `mokutil --import CERTIFICATE`")]
    NotEnrolled {
        /// The certificate's subject.
        signer: String,
    },
    /// A module that it depends on is not installed.
    #[error("needs the symbol {} of the module {}, which is not installed", .symbol.escape_debug(), .module.escape_debug())]
    MissingModule {
        /// The needed symbol.
        symbol: String,
        /// Name of the module that exports it.
        module: String,
    },
    /// The module was built for another architecture.
    #[error("is for {found}, expected {expected}")]
    WrongMachine {
        /// The kernel's machine.
        expected: ElfMachine,
        /// The module's machine.
        found: ElfMachine,
    },
    /// An object file that is not a module.
    #[error("has no .modinfo section")]
    NoModinfo,
    /// The module was built for another kernel.
    #[error("has the vermagic {found:?}, expected {expected:?}")]
    Vermagic {
        /// The kernel's vermagic, without words of the architecture.
        expected: String,
        /// The module's vermagic.
        found: String,
    },
    /// Nothing exports a symbol that it needs.
    #[error("needs the symbol {}, which neither the kernel nor a dependency exports", .symbol.escape_debug())]
    UnknownSymbol {
        /// Name of the symbol.
        symbol: String,
    },
    /// The kernel itself exports a symbol that the module exports (`verify_exported_symbols` in kernel/module/main.c).
    #[error("exports {}, which the kernel exports itself", .symbol.escape_debug())]
    ExportOfKernel {
        /// Name of the symbol.
        symbol: String,
    },
    /// The module was built against another type of a symbol.
    #[error("was built against {} with {}, expected {:#010x}", .symbol.escape_debug(), Crc(*.found), .expected)]
    WrongCrc {
        /// Name of the symbol.
        symbol: String,
        /// The CRC in the kernel or the dependency.
        expected: u32,
        /// The CRC in the module; `None` if it has none.
        found: Option<u32>,
    },
    /// Its `struct module` is not the kernel's: it was built with another configuration.
    #[error(
        "has a struct module of {found} bytes, and the kernel's own modules have {expected}: it was built with another configuration"
    )]
    StructSize {
        /// Size in bytes in the module.
        found: u64,
        /// Size in bytes in the kernel's own modules.
        expected: u64,
    },
    /// A field of its `struct module` is elsewhere than in the kernel's: it was built with another configuration.
    #[error(
        "has the field `{field}` of its struct module at {found:#x}, and the kernel's own modules at {expected:#x}: it was built with another configuration"
    )]
    StructLayout {
        /// Name of the field.
        field: &'static str,
        /// Offset in bytes in the module.
        found: u64,
        /// Offset in bytes in the kernel's own modules.
        expected: u64,
    },
    /// Its types are an addition to those of another kernel.
    #[error(
        "has types (BTF) that were made for another build of the kernel, which therefore does not load it (CONFIG_DEBUG_INFO_BTF_MODULES)"
    )]
    OtherTypes,
    /// The kernel requires symbol versions, and the module has none at all.
    #[error(
        "has no symbol versions, without which the kernel does not load it (CONFIG_MODVERSIONS); headers with a Module.symvers are needed to build it"
    )]
    Unversioned,
    /// The module does not import the namespace of a symbol that it needs.
    #[error("uses {} without importing its namespace {}", .symbol.escape_debug(), .namespace.escape_debug())]
    MissingNamespace {
        /// Name of the symbol.
        symbol: String,
        /// Name of the namespace.
        namespace: String,
    },
    /// The symbol is exported to other modules only (`EXPORT_SYMBOL_GPL_FOR_MODULES`).
    #[error("uses {}, which is for the modules {} only", .symbol.escape_debug(), .modules.escape_debug())]
    NotForThisModule {
        /// Name of the symbol.
        symbol: String,
        /// Names of the allowed modules, separated by commas.
        modules: String,
    },
    /// The package's recipe does not list the module.
    #[error("is not named by its recipe")]
    NotPromised,
    /// The module would be loaded in place of an in-tree one, which the recipe does not declare.
    #[error("would replace the in-tree module {of}, and its recipe does not name it")]
    Replaces {
        /// Path of the in-tree module, relative to `/lib/modules/K`.
        of: String,
    },
}

impl From<object::read::Error> for Defect {
    fn from(error: object::read::Error) -> Self {
        Self::Malformed { why: error.to_string() }
    }
}

struct Crc(Option<u32>);

impl fmt::Display for Crc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(crc) => write!(f, "the CRC {crc:#010x}"),
            None => f.write_str("no CRC"),
        }
    }
}

/// A defect with the file that has it; prints as one line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} {defect}")]
pub struct ModuleFault {
    /// Name of the file.
    pub file: String,
    /// What is wrong with the file.
    pub defect: Defect,
}
