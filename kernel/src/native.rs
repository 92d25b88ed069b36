//! Compiler flags that make a build's result depend on the CPU of the builder: `-march=native` and the like.
//!
//! The compiler asks the CPU that it runs on. The modules may not run on an older one (illegal instruction in the
//! kernel), so such a build is for CPUs like the builder's only, and not for other hosts.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::bounded_read;
use crate::makefile;
use crate::recipe::kbuild::ASIDE;

/// The flags (gcc's and clang's manual, "x86 Options", "AArch64 Options").
const FLAGS: [&str; 3] = ["-march=native", "-mtune=native", "-mcpu=native"];

/// Limits on the files that are read.
const DEEPEST: usize = 8;
const MOST: usize = 2000;

/// What flags for a module's objects are given by (Documentation/kbuild/makefiles.rst), and what names its objects.
const OF_KBUILD: [&str; 6] = ["obj-", "ccflags", "EXTRA_CFLAGS", "KCFLAGS", "KBUILD_CFLAGS", "CFLAGS_"];

/// The lines of /proc/cpuinfo that compilers' answers follow from: model, features, and the cache for which they
/// optimize. x86's and arm64's.
const OF_MODEL: [&str; 11] = [
    "vendor_id",
    "cpu family",
    "model",
    "model name",
    "flags",
    "cache size",
    "CPU implementer",
    "CPU architecture",
    "CPU variant",
    "CPU part",
    "Features",
];

/// A use of such a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    /// The file, relative to the source's top.
    pub file: PathBuf,
    /// Line number, from 1.
    pub line: usize,
    /// The flag.
    pub flag: &'static str,
}

/// Every use in a source tree's makefiles, scripts and recipes.
pub fn uses(top: &Path) -> io::Result<Vec<Use>> {
    let mut found = Vec::new();
    let (mut open, mut left) = (vec![(PathBuf::new(), DEEPEST)], MOST);
    while let Some((dir, depth)) = open.pop() {
        for entry in fs::read_dir(top.join(&dir))? {
            let entry = entry?;
            let (path, kind) = (dir.join(entry.file_name()), entry.file_type()?);
            let name = entry.file_name().to_string_lossy().into_owned();
            if kind.is_dir() && depth > 0 && name != ".git" {
                open.push((path, depth - 1));
            } else if kind.is_file() && left > 0 && sets_flags(&name) {
                left -= 1;
                let text = bounded_read::text_in(top, &path)?.unwrap_or_default();
                if is_aside(&path, &text) {
                    continue;
                }
                found.extend(in_text(&text).into_iter().map(|(line, flag)| Use {
                    file: path.clone(),
                    line,
                    flag,
                }));
            }
        }
    }
    found.sort_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line)));
    Ok(found)
}

/// Whether a file is of the package's tests or examples, and says nothing of kernel modules: its flags are for their programs.
fn is_aside(path: &Path, text: &str) -> bool {
    let is_in_aside = path.parent().is_some_and(|dir| {
        dir.components().any(|part| part.as_os_str().to_str().is_some_and(|part| ASIDE.contains(&part)))
    });
    is_in_aside && !OF_KBUILD.iter().any(|word| text.contains(word))
}

/// The flags in a text, with the numbers of their lines. Comments do not count.
pub fn in_text(text: &str) -> Vec<(usize, &'static str)> {
    let mut found = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let line =
            if line.trim_start().starts_with('#') { "" } else { line.split(" #").next().unwrap_or(line) };
        found.extend(FLAGS.iter().filter(|flag| line.contains(*flag)).map(|flag| (at + 1, *flag)));
    }
    found
}

/// Whether a file of this name sets compilers' flags.
fn sets_flags(name: &str) -> bool {
    makefile::is_name(name)
        || name.ends_with(".sh")
        || name.starts_with("configure")
        || ["dkms.conf", "kcache.toml"].contains(&name)
}

/// What compilers know of the first CPU, from the text of /proc/cpuinfo, in the order of the file.
pub fn cpu(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let of_model =
        |line: &&str| line.split_once(':').is_some_and(|(name, _)| OF_MODEL.contains(&name.trim()));
    first.lines().filter(of_model).collect::<Vec<_>>().join("\n")
}

/// The name of a CPU for people, from [`cpu`].
pub fn model(cpu: &str) -> Option<&str> {
    let fields = cpu.lines().filter_map(|line| line.split_once(':'));
    fields.into_iter().find(|(name, _)| name.trim() == "model name").map(|(_, model)| model.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_found_where_compilers_get_them() {
        let dir = tempfile::tempdir().unwrap();
        let line = "ccflags-y := -O2\nccflags-y += -march=native # for speed\n# -mtune=native\n";
        for name in ["Makefile", "sub/rules.mk", "notes.txt", ".git/Makefile"] {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, line).unwrap();
        }
        let at = |file: &str| Use { file: file.into(), line: 2, flag: "-march=native" };
        assert_eq!(uses(dir.path()).unwrap(), [at("Makefile"), at("sub/rules.mk")]);
    }

    #[test]
    fn flags_of_the_programs_of_tests_are_not_the_modules() {
        let check = |file: &str, text: &str, expect: bool| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            assert_eq!(!uses(dir.path()).unwrap().is_empty(), expect, "{file}: {text}");
        };
        check("tests/vm/Makefile", "CFLAGS += -march=native\n", false);
        check("tests/vm/Makefile", "obj-m := t.o\nccflags-y += -march=native\n", true);
        check("tests/flags.mk", "KCFLAGS += -march=native\n", true);
        check("vm/Makefile", "CFLAGS += -march=native\n", true);
    }

    #[test]
    fn a_cpu_is_its_model_and_features_and_not_its_clock() {
        let info = |mhz: &str, flags: &str| {
            format!(
                "processor\t: 0\nmodel name\t: Some CPU\ncpu MHz\t\t: {mhz}\nflags\t\t: {flags}\n\nprocessor\t: 1\nflags\t\t: x\n"
            )
        };
        assert_eq!(cpu(&info("1", "fpu avx")), cpu(&info("2", "fpu avx")));
        assert_ne!(cpu(&info("1", "fpu avx")), cpu(&info("1", "fpu")));
        assert_eq!(model(&cpu(&info("1", "fpu"))), Some("Some CPU"));
    }
}
