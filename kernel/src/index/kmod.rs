//! The version of depmod whose output is reproduced.
//!
//! depmod's output changes between versions, in what this table says and nothing else (kmod, `git diff v28 v34.2 --
//! tools/depmod.c shared/hash.c libkmod/libkmod-elf.c`):
//!
//! | since | output |
//! |---|---|
//! | 29 | configuration also in `/usr/local/lib/depmod.d`; `/etc/depmod.d` is read before `/run/depmod.d` instead of after it |
//! | 29 | `modules.builtin.alias.bin` is no longer empty, but has each module's name as an alias of itself |
//! | 30 | `exclude` in the configuration; `modules.builtin.alias.bin` has aliases alone |
//! | 31 | configuration also in the distribution's directory, `/usr/lib/depmod.d` |
//! | 33 | `modules.weakdep`, of `weakdep=` in `.modinfo` |
//! | 34 | in the tries, a node comes before its children instead of after them; of several equal lines in `modules.order` the first counts instead of the last |
//!
//! Output is reproduced only for versions with which it was compared byte by byte: those of [`KNOWN`] by tests, a newer one on the
//! machine that has it, as if it were the newest of them. Output also depends on the C library: modules of equal rank stay in the order
//! in which they were found only if `qsort` is stable. glibc's is for tables that fit into memory, musl's is not.

use super::DepmodReason;

/// Versions whose output is known, the newest last. Debian 11 has 28, Debian 12 has 30, Debian 13 has 34.2.
const KNOWN: [(&str, (u32, u32)); 9] = [
    ("28", (28, 0)),
    ("29", (29, 0)),
    ("30", (30, 0)),
    ("31", (31, 0)),
    ("32", (32, 0)),
    ("33", (33, 0)),
    ("34", (34, 0)),
    ("34.1", (34, 1)),
    ("34.2", NEWEST),
];
const NEWEST: (u32, u32) = (34, 2);

/// A depmod whose output can be reproduced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kmod {
    /// Major version; of a newer depmod that of [`NEWEST`].
    version: u32,
    /// Suffixes of files that it treats as modules.
    suffixes: Vec<&'static str>,
    newer: Option<NewerKmod>,
}

/// A depmod that is newer than those whose output is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewerKmod {
    /// `kmod version 35`.
    pub version: String,
    /// Identifies the program, and those that it is newer than.
    pub digest: blake3::Hash,
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
        if features.contains('\n') || !is_of_glibc(program) {
            return Err(unknown());
        }
        let (version, newer) = match KNOWN.iter().find(|(known, _)| *known == number) {
            Some((_, (major, _))) => (*major, None),
            None if numbers(number).is_some_and(|numbers| numbers > NEWEST) => {
                let mut digest = blake3::Hasher::new();
                digest.update(&NEWEST.0.to_le_bytes()).update(&NEWEST.1.to_le_bytes()).update(program);
                (NEWEST.0, Some(NewerKmod { version: first.to_owned(), digest: digest.finalize() }))
            }
            None => return Err(unknown()),
        };
        let all = [("+ZLIB", ".ko.gz"), ("+XZ", ".ko.xz"), ("+ZSTD", ".ko.zst")];
        let has = |feature: &str| features.split(' ').any(|word| word == feature);
        let compressed = all.into_iter().filter(|(feature, _)| has(feature)).map(|(_, suffix)| suffix);
        Ok(Self { version, suffixes: std::iter::once(".ko").chain(compressed).collect(), newer })
    }

    /// Which one it is, if kcache does not know its output yet and must compare with it once.
    pub fn newer(&self) -> Option<&NewerKmod> {
        self.newer.as_ref()
    }

    /// Whether it heeds `exclude` in its configuration.
    pub(crate) fn excludes(&self) -> bool {
        self.version >= 30
    }

    /// Whether it reads `/run/depmod.d` first and does not know `/usr/local/lib/depmod.d`, unless it is told.
    pub fn prefers_run(&self) -> bool {
        self.version < 29
    }

    /// Whether it writes `modules.weakdep`.
    pub fn writes_weakdep(&self) -> bool {
        self.version >= 33
    }

    /// Whether, in a trie, it writes a node before its children.
    pub(crate) fn writes_parents_first(&self) -> bool {
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

/// Major and minor number: `34.1`, `35`.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.').unwrap_or((version, "0"));
    Some((major.parse().ok()?, minor.parse().ok()?))
}

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
        let traits = |kmod: &Kmod| {
            let config = [!kmod.prefers_run(), kmod.excludes()];
            [&config[..], &[kmod.writes_weakdep(), kmod.writes_parents_first()]].concat()
        };
        let counts = ["28", "29", "30", "33", "34.2"].map(|version| {
            let traits = traits(&kmod(version));
            assert!(traits.is_sorted_by(|before, after| before >= after), "{version}: {traits:?}");
            traits.iter().filter(|is| **is).count()
        });
        assert_eq!(counts, [0, 1, 2, 3, 4]);
        assert_eq!(kmod("32").indexes().count() + 1, kmod("33").indexes().count());
    }

    #[test]
    fn a_newer_depmod_is_taken_for_the_newest_known_one_and_is_to_be_compared_with() {
        let parse = |version: &str, program: &[u8]| {
            Kmod::parse(&format!("kmod version {version}\n+XZ\n"), program).unwrap()
        };
        assert!(KNOWN.iter().all(|(version, _)| parse(version, b"/ld-linux").newer().is_none()));
        assert_eq!(KNOWN[KNOWN.len() - 1].1, NEWEST);
        for version in ["34.3", "35", "100.1"] {
            let newer = parse(version, b"/ld-linux");
            assert!(newer.writes_parents_first() && newer.newer().unwrap().version.ends_with(version));
        }
        let digest = |program: &[u8]| parse("35", program).newer().unwrap().digest;
        assert_ne!(digest(b"/ld-linux a"), digest(b"/ld-linux b"), "another program is compared with again");
    }

    #[test]
    fn an_unknown_depmod_is_reported() {
        let check = |version: &str, program: &[u8], expect: &str| {
            assert_eq!(Kmod::parse(version, program).unwrap_err().to_string(), expect);
        };
        let glibc = b"/lib/ld-linux.so.2";
        check("kmod version 27\n+XZ\n", glibc, "unknown depmod \"kmod version 27\"");
        check("kmod version 35-rc1\n+XZ\n", glibc, "unknown depmod \"kmod version 35-rc1\"");
        check("", glibc, "unknown depmod \"\"");
        check(DEBIAN, b"/lib/ld-musl-x86_64.so.1", "unknown depmod \"kmod version 30\"");
    }
}
