//! The version of depmod whose output is reproduced.
//!
//! depmod's output changes between versions, in what this table says and nothing else (kmod, `git diff v30 v34.2 --
//! tools/depmod.c shared/hash.c libkmod/libkmod-elf.c`):
//!
//! | since | output |
//! |---|---|
//! | 31 | configuration also in the distribution's directory, `/usr/lib/depmod.d` |
//! | 33 | `modules.weakdep`, of `weakdep=` in `.modinfo` |
//! | 34 | in the tries, a node comes before its children instead of after them; of several equal lines in `modules.order` the first counts instead of the last |
//!
//! Output is reproduced only for versions with which it was compared byte by byte. It also depends on the C library: modules of
//! equal rank stay in the order in which they were found only if `qsort` is stable. glibc's is for tables that fit into memory,
//! musl's is not.

use super::DepmodReason;

/// Versions whose output is known. Debian 12 has 30, Debian 13 has 34.2.
const KNOWN: [&str; 7] = ["30", "31", "32", "33", "34", "34.1", "34.2"];

/// A depmod whose output can be reproduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kmod {
    /// Major version.
    version: u32,
    /// Suffixes of files that it treats as modules.
    suffixes: Vec<&'static str>,
}

impl Kmod {
    /// Identifies a depmod by the output of `depmod --version` and the program's bytes.
    ///
    /// ```text
    /// kmod version 30
    /// +ZSTD +XZ -ZLIB +LIBCRYPTO -EXPERIMENTAL
    /// ```
    pub fn parse(version: &str, program: &[u8]) -> Result<Self, DepmodReason> {
        let unknown =
            || DepmodReason::Version { found: version.lines().next().unwrap_or_default().to_owned() };
        let (first, features) = version.trim_end().split_once('\n').ok_or_else(unknown)?;
        let number = first.strip_prefix("kmod version ").ok_or_else(unknown)?;
        if !KNOWN.contains(&number) || features.contains('\n') || !is_of_glibc(program) {
            return Err(unknown());
        }
        let all = [("+ZLIB", ".ko.gz"), ("+XZ", ".ko.xz"), ("+ZSTD", ".ko.zst")];
        let has = |feature: &str| features.split(' ').any(|word| word == feature);
        let compressed = all.into_iter().filter(|(feature, _)| has(feature)).map(|(_, suffix)| suffix);
        let version = number.split('.').next().and_then(|major| major.parse().ok()).ok_or_else(unknown)?;
        Ok(Self { version, suffixes: std::iter::once(".ko").chain(compressed).collect() })
    }

    /// Whether it writes `modules.weakdep`.
    pub fn writes_weakdep(&self) -> bool {
        self.version >= 33
    }

    /// Whether, in a trie, it writes a node before its children.
    pub(super) fn writes_parents_first(&self) -> bool {
        self.version >= 34
    }

    /// Whether, of several equal lines in `modules.order`, the first one counts.
    pub(super) fn takes_first_of_order(&self) -> bool {
        self.version >= 34
    }

    /// The stem of a module file's name; `None` for a file that this depmod does not treat as a module.
    pub fn stem<'a>(&self, file: &'a str) -> Option<&'a str> {
        self.suffixes.iter().find_map(|suffix| file.strip_suffix(suffix)).filter(|stem| !stem.is_empty())
    }

    /// The indexes that it writes, in its order.
    pub fn indexes(&self) -> impl Iterator<Item = &'static str> {
        let all = [
            "modules.dep",
            "modules.dep.bin",
            "modules.alias",
            "modules.alias.bin",
            "modules.softdep",
            WEAKDEP,
            "modules.symbols",
            "modules.symbols.bin",
            "modules.builtin.bin",
            "modules.builtin.alias.bin",
            "modules.devname",
        ];
        let weakdep = self.writes_weakdep();
        all.into_iter().filter(move |name| weakdep || *name != WEAKDEP)
    }
}

const WEAKDEP: &str = "modules.weakdep";

/// Whether a program uses glibc, by the name of its loader: `/lib64/ld-linux-x86-64.so.2`, or `ld64.so.2` on some
/// architectures.
fn is_of_glibc(program: &[u8]) -> bool {
    let has = |name: &[u8]| program.windows(name.len()).any(|at| at == name);
    has(b"/ld-linux") || has(b"/ld64.so")
}

/// The depmod that tests compare with: `$DEPMOD`, or this machine's.
#[cfg(test)]
pub(crate) fn depmod_of_tests() -> std::path::PathBuf {
    std::env::var_os("DEPMOD").map_or_else(|| "/sbin/depmod".into(), Into::into)
}

#[cfg(test)]
impl Kmod {
    /// That depmod's version.
    pub(crate) fn of_tests() -> Kmod {
        let program = depmod_of_tests();
        let output = std::process::Command::new(&program).arg("--version").output().unwrap();
        Kmod::parse(&String::from_utf8_lossy(&output.stdout), &fs_err::read(program).unwrap()).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "kmod version 30\n+ZSTD +XZ -ZLIB +LIBCRYPTO -EXPERIMENTAL\n";

    #[test]
    fn modules_are_files_that_this_depmod_can_decompress() {
        let kmod = Kmod::parse(DEBIAN, b"\x7fELF /lib64/ld-linux-x86-64.so.2\0").unwrap();
        assert_eq!(kmod.stem("a.ko"), Some("a"));
        assert_eq!(kmod.stem("a.ko.xz"), Some("a"));
        assert_eq!(kmod.stem("a.ko.zst"), Some("a"));
        assert_eq!(kmod.stem("a.ko.gz"), None);
        assert_eq!(kmod.stem(".ko"), None);
    }

    #[test]
    fn what_a_depmod_writes_depends_on_its_version() {
        let kmod =
            |version: &str| Kmod::parse(&format!("kmod version {version}\n+XZ\n"), b"/ld-linux").unwrap();
        let traits = |kmod: &Kmod| (kmod.writes_weakdep(), kmod.writes_parents_first());
        assert_eq!(
            ["30", "33", "34.2"].map(|v| traits(&kmod(v))),
            [(false, false), (true, false), (true, true)]
        );
        assert_eq!(kmod("32").indexes().count() + 1, kmod("33").indexes().count());
    }

    #[test]
    fn an_unknown_depmod_is_reported() {
        let check = |version: &str, program: &[u8], expect: &str| {
            assert_eq!(Kmod::parse(version, program).unwrap_err().to_string(), expect);
        };
        let glibc = b"/lib/ld-linux.so.2";
        check("kmod version 99\n+XZ\n", glibc, "unknown depmod \"kmod version 99\"");
        check("", glibc, "unknown depmod \"\"");
        check(DEBIAN, b"/lib/ld-musl-x86_64.so.1", "unknown depmod \"kmod version 30\"");
    }
}
