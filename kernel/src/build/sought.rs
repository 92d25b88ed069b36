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

/// Programs that modules' builds call and libraries that these are linked to, and their packages on Debian (`apt-file search bin/PROGRAM`).
const PACKAGES: [(&str, &str); 33] = [
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
    // What a kernel's own host programs are linked to; Debian 13's end in t64.
    ("libcrypto.so.3", "libssl3 or libssl3t64"),
    ("libelf.so.1", "libelf1 or libelf1t64"),
    ("libdw.so.1", "libdw1 or libdw1t64"),
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
    /// A library that a program is linked to, as a file: `libelf.so.1`.
    SharedLibrary(String),
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
        let python = || python_module(line).map(Sought::Python);
        let perl = || between("Can't locate ", " in @INC").map(Sought::Perl);
        let library = || {
            let name = line.split_once("cannot find -l").map(|(_, name)| name)?;
            Some(Sought::Library(name.split([':', ' ']).next()?.to_owned()))
        };
        // pkg-config's, and pkgconf's.
        let package = || {
            between("No package '", "' found")
                .or_else(|| between("Package ", " was not found in the pkg-config search path"))
                .or_else(|| between("Package '", "', required by "))
                .map(Sought::PkgConfig)
        };
        // ld.so(8)'s.
        let shared = || between(SHARED, ": cannot open shared object file").map(Sought::SharedLibrary);
        let program = || program(line).map(Sought::Program);
        header
            .or_else(python)
            .or_else(perl)
            .or_else(library)
            .or_else(package)
            .or_else(shared)
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
            "shared-library" => Sought::SharedLibrary,
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
            Sought::SharedLibrary(_) => "shared-library",
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
            | Sought::Program(name)
            | Sought::SharedLibrary(name) => name,
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
            Sought::SharedLibrary(name) => any(below(&LIBRARIES, name)),
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

/// The program that lacks a shared library, by a line of ld.so(8): `.../objtool: error while loading shared libraries: ...`.
pub(super) fn linked_program(line: &str) -> Option<&str> {
    let path = line.split_once(SHARED)?.0.trim_end_matches([':', ' ']);
    path.rsplit(['/', ' ']).next().filter(|name| !name.is_empty())
}

/// Programs that run another one, and say that it is not there: env(1), xargs(1), timeout(1), ...
const RUNNERS: [&str; 10] =
    ["env", "xargs", "timeout", "nice", "nohup", "setsid", "stdbuf", "ionice", "taskset", "time"];

/// The program that a shell, make or another program did not find: `sh: 1: flex: not found`,
/// `make: flex: No such file or directory`, `/usr/bin/env: 'python': No such file or directory`.
fn program(line: &str) -> Option<String> {
    let of_shell = [": command not found", ": Command not found", ": not found"];
    let of_shell = of_shell.iter().find_map(|end| line.strip_suffix(end));
    let of_make = || line.strip_suffix(NO_FILE).filter(|rest| rest.starts_with("make"));
    let named = of_shell.or_else(of_make).and_then(|rest| rest.rsplit(": ").next());
    let name = named.or_else(|| of_runner(line)).or_else(|| of_script(line))?;
    (!name.is_empty() && !name.contains([' ', '/'])).then(|| name.to_owned())
}

const SHARED: &str = "error while loading shared libraries: ";
const NO_FILE: &str = ": No such file or directory";

fn of_runner(line: &str) -> Option<&str> {
    let (runner, what) = line.strip_suffix(NO_FILE)?.split_once(": ")?;
    RUNNERS.contains(&runner.rsplit('/').next()?).then_some(())?;
    let phrases = ["failed to run command ", "failed to execute ", "cannot run "];
    let name = phrases.iter().find_map(|phrase| what.strip_prefix(phrase)).unwrap_or(what);
    Some(name.trim_matches(['\'', '"', '`', '\u{2018}', '\u{2019}']))
}

/// Python's and Perl's words for a program that they could not run.
fn of_script(line: &str) -> Option<&str> {
    let python =
        line.split_once("FileNotFoundError: [Errno 2] No such file or directory: '").map(|(_, name)| name);
    let perl = || line.split_once("Can't exec \"").map(|(_, name)| name);
    let name = python.or_else(perl)?.split(['\'', '"']).next()?;
    // One with a dot is a file rather than a program.
    (!name.contains('.')).then_some(name)
}

/// The path of a script of the package that could not be run although it is there, as far as a line shows: the program that
/// its first line names is not.
pub(super) fn unrunnable(line: &str) -> Option<&str> {
    let bash = [": cannot execute: required file not found", ": bad interpreter: No such file or directory"];
    let of_bash =
        line.strip_suffix(bash[0]).or_else(|| Some(line.strip_suffix(bash[1])?.rsplit_once(": ")?.0));
    let of_sh = || line.strip_suffix(": not found");
    let of_make = || line.strip_suffix(NO_FILE).filter(|rest| rest.starts_with("make"));
    let path = of_bash.or_else(of_sh).or_else(of_make)?.rsplit(": ").next()?;
    (path.contains('/') && !path.contains(' ')).then_some(path)
}

/// Python's `No module named 'a.b'; 'a' is not a package`; version 2 has no quotes.
fn python_module(line: &str) -> Option<String> {
    let (_, name) = line.split_once("No module named ")?;
    Some(name.split([';', ' ', ',']).next()?.trim_matches(['\'', '"']).to_owned())
}

/// Words of messages that are not names of programs.
const PLAIN_WORDS: [&str; 44] = [
    "a",
    "all",
    "an",
    "and",
    "are",
    "be",
    "before",
    "build",
    "building",
    "but",
    "cannot",
    "command",
    "could",
    "error",
    "first",
    "for",
    "found",
    "have",
    "in",
    "install",
    "installed",
    "is",
    "it",
    "missing",
    "must",
    "need",
    "needed",
    "needs",
    "no",
    "not",
    "of",
    "or",
    "package",
    "please",
    "program",
    "required",
    "requires",
    "system",
    "the",
    "this",
    "to",
    "was",
    "with",
    "you",
];

/// So many words of a message are kept that may be names of programs.
const MOST_WORDS: usize = 8;

/// Programs that a script's message may be about, which are not there: `Please install dwarves and flex`. Whether it means one
/// of them is seen once that is installed.
pub(super) fn named(message: &str, root: &Root) -> Vec<Sought> {
    let lower = message.to_lowercase();
    let signs = ["install", "require", "not found", "missing", "need"];
    if !signs.iter().any(|sign| lower.contains(sign)) || lower.contains(" error:") {
        return Vec::new();
    }
    let words = message.split(|c: char| !(c.is_ascii_alphanumeric() || "+-_.".contains(c)));
    let words = words.map(|word| word.trim_matches(['.', '-']));
    let is_like = |word: &&str| {
        word.len() > 1 && word.starts_with(|c: char| c.is_ascii_lowercase()) && !PLAIN_WORDS.contains(word)
    };
    let sought = words.filter(is_like).map(|word| Sought::Program(word.to_owned()));
    let mut found: Vec<Sought> = Vec::new();
    for sought in sought.filter(|sought| !sought.is_there(root)) {
        if found.len() < MOST_WORDS && !found.contains(&sought) {
            found.push(sought);
        }
    }
    found
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
        let versions = names.filter(|entry| {
            let name = entry.file_name();
            ["python3.", "python2."].iter().any(|python| name.to_string_lossy().starts_with(python))
        });
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
    fn missing_things_are_parsed_from_messages_of_tools() {
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
        check("make: gcc-13: Command not found", Some("program gcc-13"));
        check("/usr/bin/env: 'python': No such file or directory", Some("program python"));
        check("xargs: pahole: No such file or directory", Some("program pahole"));
        check("timeout: failed to run command 'dtc': No such file or directory", Some("program dtc"));
        check("env: 'a b': No such file or directory", None);
        check("Can't exec \"nasm\": No such file or directory at x.pl line 3.", Some("program nasm"));
        check("FileNotFoundError: [Errno 2] No such file or directory: 'bison'", Some("program bison"));
        check("FileNotFoundError: [Errno 2] No such file or directory: 'a.txt'", None);
        check("ImportError: No module named yaml", Some("python yaml"));
        check("/usr/bin/python3: No module named venv", Some("python venv"));
        check("ModuleNotFoundError: No module named 'a.b'; 'a' is not a package", Some("python a.b"));
        check("Package libnl-3.0 was not found in the pkg-config search path.", Some("pkg-config libnl-3.0"));
        check("Package 'x', required by 'virtual:world', not found", Some("pkg-config x"));
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
    fn a_message_names_programs_that_are_not_there() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        fs::write(dir.path().join("usr/bin/gawk"), "").unwrap();
        let check = |message: &str, expect: &[&str]| {
            let found = named(message, &Root::new(dir.path()));
            assert_eq!(found.iter().map(Sought::text).collect::<Vec<_>>(), expect, "{message}");
        };
        check("Please install dwarves, gawk and flex.", &["program dwarves", "program flex"]);
        check("dtc is required but was not found", &["program dtc"]);
        check("this kernel is too old", &[]);
        check("a.c:3:1: error: x not found", &[]);
    }

    #[test]
    fn a_script_without_its_interpreter_is_recognised() {
        let check = |line: &str, expect: Option<&str>| assert_eq!(unrunnable(line), expect, "{line}");
        check("s: line 5: /b/pre: cannot execute: required file not found", Some("/b/pre"));
        check("s: /b/pre: /usr/bin/x: bad interpreter: No such file or directory", Some("/b/pre"));
        check("/bin/sh: 1: ./gen.sh: not found", Some("./gen.sh"));
        check("make[1]: ./gen.sh: No such file or directory", Some("./gen.sh"));
        check("cat: ./x: No such file or directory", None);
        check("sh: 1: flex: not found", None);
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
            ("shared-library libelf.so.1", format!("usr/lib/{multiarch}/libelf.so.1")),
            ("library elf", format!("usr/lib/{multiarch}/libelf.so")),
            ("pkg-config libssl", format!("usr/lib/{multiarch}/pkgconfig/libssl.pc")),
            ("python elftools.elf", "usr/lib/python3/dist-packages/elftools/__init__.py".to_owned()),
            ("perl XML/Parser.pm", "usr/share/perl5/XML/Parser.pm".to_owned()),
            ("python yaml", "usr/lib/python3.11/site-packages/yaml.py".to_owned()),
            ("python old", "usr/lib/python2.7/dist-packages/old/__init__.py".to_owned()),
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
