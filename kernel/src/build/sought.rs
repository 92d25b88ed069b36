//! Things of the system that a failed build looked for and did not find.
//!
//! What a package needs beside the kernel is declared nowhere: a header of a library, a module of Python, a library for a program that
//! it builds and runs. A failure for want of one says nothing about the package once that is installed. Compilers, linkers, Python and
//! pkg-config(1) each name what they did not find, in a line of the log.

use std::path::{Path, PathBuf};

use crate::rootfs::Root;

/// So many are noted of one build.
pub(super) const MOST: usize = 16;

/// Where headers are (`gcc -print-multiarch` for Debian's second place).
const INCLUDE: [&str; 2] = ["/usr/include", "/usr/local/include"];
const PROGRAMS: [&str; 5] = ["/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin"];
const LIBRARIES: [&str; 4] = ["/usr/lib", "/usr/lib64", "/lib", "/usr/local/lib"];
const PKG_CONFIG: [&str; 4] =
    ["/usr/lib/pkgconfig", "/usr/lib64/pkgconfig", "/usr/share/pkgconfig", "/usr/local/lib/pkgconfig"];

/// Programs that modules' builds call, and their packages on Debian (`apt-file search bin/PROGRAM`).
const PACKAGES: [(&str, &str); 30] = [
    ("aclocal", "automake"),
    ("autoconf", "autoconf"),
    ("automake", "automake"),
    ("autoreconf", "autoconf"),
    ("bc", "bc"),
    ("bison", "bison"),
    ("clang", "clang"),
    ("cmake", "cmake"),
    ("cpio", "cpio"),
    ("curl", "curl"),
    ("depmod", "kmod"),
    ("flex", "flex"),
    ("g++", "g++"),
    ("gawk", "gawk"),
    ("git", "git"),
    ("libtoolize", "libtool"),
    ("lsb_release", "lsb-release"),
    ("modinfo", "kmod"),
    ("nasm", "nasm"),
    ("openssl", "openssl"),
    ("pahole", "dwarves"),
    ("patch", "patch"),
    ("perl", "perl"),
    ("pkg-config", "pkgconf"),
    ("python", "python-is-python3"),
    ("python3", "python3"),
    ("rsync", "rsync"),
    ("unzip", "unzip"),
    ("wget", "wget"),
    ("xxd", "xxd"),
];

/// A thing that was not found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sought {
    /// A C header, as it is included: `libelf.h`, `openssl/evp.h`.
    Header(String),
    /// A module of Python.
    Python(String),
    /// A module of Perl, as a file: `XML/Parser.pm`.
    Perl(String),
    /// A library, without `lib` and `.so`.
    Library(String),
    /// A package of pkg-config(1).
    PkgConfig(String),
    /// A program.
    Program(String),
}

impl Sought {
    /// What a line of a log says was not found.
    pub(super) fn of_line(line: &str) -> Option<Sought> {
        let between = |before: &str, after: &str| {
            let (_, rest) = line.split_once(before)?;
            let (name, _) = rest.split_once(after)?;
            Some(name.trim_matches(['\'', '"', '`']).to_owned())
        };
        // gcc's, and clang's.
        let header = between(": fatal error: ", ": No such file or directory")
            .or_else(|| between(": fatal error: ", " file not found"))
            .map(Sought::Header);
        let python = || between("ModuleNotFoundError: No module named '", "'").map(Sought::Python);
        let perl = || between("Can't locate ", " in @INC").map(Sought::Perl);
        let library = || {
            let name = line.split_once("cannot find -l").map(|(_, name)| name)?;
            Some(Sought::Library(name.split([':', ' ']).next()?.to_owned()))
        };
        let package = || between("No package '", "' found").map(Sought::PkgConfig);
        let program = || program(line).map(Sought::Program);
        header
            .or_else(python)
            .or_else(perl)
            .or_else(library)
            .or_else(package)
            .or_else(program)
            .filter(Sought::is_plain)
    }

    /// Reads what [`Sought::text`] gives.
    pub fn parse(text: &str) -> Option<Sought> {
        let (kind, name) = text.split_once(' ')?;
        let make = match kind {
            "header" => Sought::Header,
            "python" => Sought::Python,
            "perl" => Sought::Perl,
            "library" => Sought::Library,
            "pkg-config" => Sought::PkgConfig,
            "program" => Sought::Program,
            _ => return None,
        };
        Some(make(name.to_owned())).filter(Sought::is_plain)
    }

    /// As it is kept with a failure. Stored: add, never rename.
    pub fn text(&self) -> String {
        let kind = match self {
            Sought::Header(_) => "header",
            Sought::Python(_) => "python",
            Sought::Perl(_) => "perl",
            Sought::Library(_) => "library",
            Sought::PkgConfig(_) => "pkg-config",
            Sought::Program(_) => "program",
        };
        format!("{kind} {}", self.name())
    }

    fn name(&self) -> &str {
        match self {
            Sought::Header(name)
            | Sought::Python(name)
            | Sought::Perl(name)
            | Sought::Library(name)
            | Sought::PkgConfig(name)
            | Sought::Program(name) => name,
        }
    }

    /// A name that stays below the directories it is looked for in.
    fn is_plain(&self) -> bool {
        let name = self.name();
        let is_part = |part: &str| !part.is_empty() && part != "." && part != "..";
        name.len() < 256 && !name.contains(['\0', '\n']) && name.split('/').all(is_part)
    }

    /// Whether it is there now, in the system with this root.
    pub fn is_there(&self, root: &Root) -> bool {
        let any = |places: Vec<PathBuf>| places.iter().any(|place| root.find(place).is_some());
        let below = |directories: &[&str], name: &str| {
            let plain = directories.iter().map(|directory| Path::new(directory).join(name));
            let multiarch = directories.iter().map(|directory| {
                let architecture = format!("{}-linux-gnu", std::env::consts::ARCH);
                match directory.strip_suffix("/pkgconfig") {
                    Some(above) => Path::new(above).join(architecture).join("pkgconfig").join(name),
                    None => Path::new(directory).join(architecture).join(name),
                }
            });
            plain.chain(multiarch).collect::<Vec<_>>()
        };
        match self {
            Sought::Header(name) => any(below(&INCLUDE, name)),
            Sought::Library(name) => {
                ["so", "a"].iter().any(|ending| any(below(&LIBRARIES, &format!("lib{name}.{ending}"))))
            }
            Sought::Perl(name) => any(perl(root).iter().map(|dir| dir.join(name)).collect()),
            Sought::Program(name) => any(PROGRAMS.iter().map(|dir| Path::new(dir).join(name)).collect()),
            Sought::PkgConfig(name) => any(below(&PKG_CONFIG, &format!("{name}.pc"))),
            Sought::Python(name) => {
                let first = name.split('.').next().unwrap_or(name);
                any(python(root)
                    .iter()
                    .flat_map(|dir| [dir.join(first), dir.join(format!("{first}.py"))])
                    .collect())
            }
        }
    }
}

/// A program's name, with the package that has it on Debian if that has another name or is often not installed.
pub(super) fn with_package(program: &str) -> String {
    match PACKAGES.iter().find(|(name, _)| *name == program) {
        Some((_, package)) => format!("{program} (Debian package: {package})"),
        None => program.to_owned(),
    }
}

/// The program that a shell or make did not find: `sh: 1: flex: not found`, `make: flex: No such file or directory`.
fn program(line: &str) -> Option<String> {
    let of_shell = line.strip_suffix(": command not found").or_else(|| line.strip_suffix(": not found"));
    let of_make = || line.strip_suffix(": No such file or directory").filter(|rest| rest.starts_with("make"));
    let name = of_shell.or_else(of_make)?.rsplit(": ").next()?;
    (!name.contains([' ', '/'])).then(|| name.to_owned())
}

/// The directories that Perl has its modules in: `@INC` of Debian's (perl(1)), of each version.
fn perl(root: &Root) -> Vec<PathBuf> {
    let architecture = format!("{}-linux-gnu", std::env::consts::ARCH);
    let mut found =
        vec![PathBuf::from("/usr/share/perl5"), Path::new("/usr/lib").join(&architecture).join("perl5")];
    for above in [PathBuf::from("/usr/share/perl"), Path::new("/usr/lib").join(&architecture).join("perl")] {
        let names =
            root.find(&above).and_then(|dir| fs_err::read_dir(dir).ok()).into_iter().flatten().flatten();
        found.extend(names.map(|entry| above.join(entry.file_name())));
    }
    found
}

/// The directories that Python has its modules in: Debian's, and those of each version.
fn python(root: &Root) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/usr/lib/python3/dist-packages")];
    for above in ["/usr/lib", "/usr/lib64", "/usr/local/lib"] {
        let names =
            root.find(above).and_then(|dir| fs_err::read_dir(dir).ok()).into_iter().flatten().flatten();
        let versions = names.filter(|entry| entry.file_name().to_string_lossy().starts_with("python3."));
        found.extend(versions.flat_map(|entry| {
            let dir = Path::new(above).join(entry.file_name());
            [dir.join("site-packages"), dir.join("dist-packages"), dir]
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    #[test]
    fn what_was_not_found_is_read_out_of_what_tools_say() {
        let check = |line: &str, expect: Option<&str>| {
            assert_eq!(Sought::of_line(line).map(|sought| sought.text()).as_deref(), expect, "{line}");
        };
        check("tool.c:3:10: fatal error: libelf.h: No such file or directory", Some("header libelf.h"));
        check("a.c:1:10: fatal error: 'openssl/evp.h' file not found", Some("header openssl/evp.h"));
        check("ModuleNotFoundError: No module named 'elftools.elf'", Some("python elftools.elf"));
        check("Can't locate XML/Parser.pm in @INC (you may need ...)", Some("perl XML/Parser.pm"));
        check("/usr/bin/ld: cannot find -lelf: No such file or directory", Some("library elf"));
        check("/usr/bin/ld: cannot find -lcrypto", Some("library crypto"));
        check("No package 'libssl' found", Some("pkg-config libssl"));
        check("a.c:1:10: fatal error: ../../../../etc/shadow: No such file or directory", None);
        check("a.c:3:1: error: no member named 'x'", None);
        check("script: line 5: flex: command not found", Some("program flex"));
        check("/bin/sh: 1: bison: not found", Some("program bison"));
        check("make[1]: gawk: No such file or directory", Some("program gawk"));
        check("cat: x: No such file or directory", None);
        check("./configure: line 3: ./own: command not found", None);
        for text in ["header a/b.h", "python x", "library y", "pkg-config z"] {
            assert_eq!(Sought::parse(text).unwrap().text(), text);
        }
        assert_eq!(
            [Sought::parse("header ../x"), Sought::parse("other x"), Sought::parse("")],
            [None, None, None]
        );
    }

    #[test]
    fn it_is_there_once_it_is_installed() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
        for (text, file) in [
            ("header libelf.h", "usr/include/libelf.h".to_owned()),
            ("header openssl/evp.h", format!("usr/include/{multiarch}/openssl/evp.h")),
            ("program flex", "usr/bin/flex".to_owned()),
            ("library elf", format!("usr/lib/{multiarch}/libelf.so")),
            ("pkg-config libssl", format!("usr/lib/{multiarch}/pkgconfig/libssl.pc")),
            ("python elftools.elf", "usr/lib/python3/dist-packages/elftools/__init__.py".to_owned()),
            ("perl XML/Parser.pm", "usr/share/perl5/XML/Parser.pm".to_owned()),
            ("python yaml", "usr/lib/python3.11/site-packages/yaml.py".to_owned()),
        ] {
            let sought = Sought::parse(text).unwrap();
            assert!(!sought.is_there(&root), "{text}");
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
            assert!(sought.is_there(&root), "{text}");
        }
    }
}
