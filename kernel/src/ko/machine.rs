//! ELF identities of architectures.

use std::fmt;

use object::elf;

/// The ELF identity of all modules of a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ElfMachine {
    /// `e_machine`: 62 is `EM_X86_64` (`include/uapi/linux/elf-em.h`).
    pub number: u16,
    /// ELF class: 32 or 64.
    pub bits: u8,
    /// Whether the byte order is big-endian.
    pub big_endian: bool,
}

impl ElfMachine {
    /// The machine of an architecture as `uname -m` or a distribution names it; `None` for an unknown name.
    pub fn of_arch(arch: &str) -> Option<Self> {
        let little = |number: elf::Machine, bits| Some(Self { number: number.0, bits, big_endian: false });
        let big = |number: elf::Machine, bits| Some(Self { number: number.0, bits, big_endian: true });
        match arch {
            "x86_64" | "amd64" => little(elf::EM_X86_64, 64),
            "i386" | "i486" | "i586" | "i686" => little(elf::EM_386, 32),
            "aarch64" | "arm64" => little(elf::EM_AARCH64, 64),
            "arm" | "armel" | "armhf" | "armv5tel" | "armv6l" | "armv7l" => little(elf::EM_ARM, 32),
            "riscv64" => little(elf::EM_RISCV, 64),
            "loongarch64" | "loong64" => little(elf::EM_LOONGARCH, 64),
            "ppc64le" | "ppc64el" => little(elf::EM_PPC64, 64),
            "ppc64" => big(elf::EM_PPC64, 64),
            "s390x" => big(elf::EM_S390, 64),
            _ => None,
        }
    }
}

impl fmt::Display for ElfMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = if self.big_endian { "big" } else { "little" };
        write!(f, "{}-bit {order}-endian ", self.bits)?;
        match elf::Machine(self.number) {
            elf::EM_X86_64 => f.write_str("x86-64"),
            elf::EM_386 => f.write_str("x86"),
            elf::EM_AARCH64 | elf::EM_ARM => f.write_str("arm"),
            elf::EM_RISCV => f.write_str("risc-v"),
            elf::EM_LOONGARCH => f.write_str("loongarch"),
            elf::EM_PPC64 | elf::EM_PPC => f.write_str("powerpc"),
            elf::EM_S390 => f.write_str("s390"),
            other => write!(f, "machine {}", other.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_of_an_architecture_give_the_same_machine() {
        assert_eq!(ElfMachine::of_arch("amd64"), ElfMachine::of_arch("x86_64"));
        assert_eq!(
            ElfMachine::of_arch("x86_64"),
            Some(ElfMachine { number: 62, bits: 64, big_endian: false })
        );
        assert_ne!(ElfMachine::of_arch("ppc64"), ElfMachine::of_arch("ppc64le"));
        assert_eq!(ElfMachine::of_arch("pdp11"), None);
    }

    #[test]
    fn machines_have_readable_names() {
        assert_eq!(ElfMachine::of_arch("arm64").unwrap().to_string(), "64-bit little-endian arm");
        assert_eq!(
            ElfMachine { number: 7, bits: 32, big_endian: true }.to_string(),
            "32-bit big-endian machine 7"
        );
    }
}
