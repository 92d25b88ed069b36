//! The toolchain: the programs that a build for a kernel runs and that affect its modules.
//!
//! The kernel determines its compiler: Debian's header packages in `.kernelvariables`, others by the one they were
//! built with (`CONFIG_CC_VERSION_TEXT`, `CONFIG_CC_IS_CLANG`). So make is run with the same files that a build reads,
//! and the compiler prints the paths of its `cc1` and `as`. It is an error if the kernel names a compiler that is not
//! installed; no other one is used instead.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kernels::BuildTree;
use crate::rootfs::Root;
use crate::sandbox::{self, Ended, Sandbox, Watch};

/// Time limit for determining the toolchain.
const LIMIT: Duration = Duration::from_secs(30);

/// A program of a toolchain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its role in the build: `cc`, `cc1`, `as`, `ld`, `objcopy`, `strip`, `pahole`; `predef` is a header.
    pub role: String,
    /// Its path in the tools' root, links not followed.
    pub path: PathBuf,
    /// The first line of its `--version`.
    pub version: String,
}

/// Why the toolchain could not be determined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// The kernel's compiler is not installed.
    #[error("{program} is not installed, but kernel {release} needs it")]
    Missing {
        /// Name of the compiler as the kernel uses it.
        program: String,
        /// Release of the kernel.
        release: String,
    },
    /// make or the compiler printed no usable result.
    #[error("cannot determine the toolchain for kernel {release}: {reason}")]
    Silent {
        /// Release of the kernel.
        release: String,
        /// The output instead.
        reason: String,
    },
    /// The cancel flag was set.
    #[error("interrupted")]
    Cancelled,
}

/// The root whose programs build for a kernel under `root`: that root if it has a compiler, else this machine's.
pub fn tools_root(root: &Root, tree: &BuildTree) -> Root {
    let has = |name: &str| root.find(Path::new("/usr/bin").join(name)).is_some();
    let compiler = tree.compiler().and_then(|text| text.split(' ').next()).unwrap_or("gcc");
    let complete = has("make") && has("bash") && (has(compiler) || has("gcc") || has("clang"));
    if complete { root.clone() } else { Root::new("/") }
}

/// Whether clang compiled the kernel; then it must compile modules, too.
pub fn is_llvm(tree: &BuildTree) -> bool {
    tree.config.is_clang()
}

/// A warning if a kernel names one compiler and its build tree uses another: the one that built it
/// (`CONFIG_CC_VERSION_TEXT`), and the one that builds its modules. Kbuild accepts that, and it usually works.
pub fn stands_in(tree: &BuildTree, programs: &[Program]) -> Option<String> {
    let cc = programs.iter().find(|program| program.role == "cc")?;
    if is_llvm(tree) { None } else { differs(tree.compiler()?, cc) }
}

/// Whether they are different compilers. Names may differ: `x86_64-linux-gnu-gcc-12` is `gcc-12`, and may be `gcc`.
fn differs(named: &str, cc: &Program) -> Option<String> {
    let (name, version) = named.split_once(' ').unwrap_or((named, ""));
    let taken = cc.path.file_name()?.to_str()?;
    let is_same = name.ends_with(taken) || (!version.is_empty() && cc.version.ends_with(version));
    (!is_same).then(|| format!("was built by {name}; modules for it are built by {taken} ({})", cc.version))
}

/// The Debian package with a program of a toolchain.
pub fn debian_package(program: &str) -> &str {
    match program.rsplit("linux-gnu-").next().unwrap_or(program) {
        "ld.lld" => "lld",
        llvm if llvm.starts_with("llvm-") => "llvm",
        "ld" | "as" | "objcopy" | "strip" => "binutils",
        compiler => compiler,
    }
}

/// Determines with make and the compiler, in the sandbox, which programs a build would run.
///
/// # Errors
///
/// [`Error::Missing`] if the kernel's compiler is not installed, [`Error::Silent`] if the output is not usable.
pub fn programs(sandbox: &Sandbox, tree: &BuildTree, cancel: &AtomicBool) -> Result<Vec<Program>, Error> {
    let release = &sandbox.machine.release;
    let silent = |reason: String| Error::Silent { release: release.clone(), reason };
    let mut output = Vec::new();
    let mut keep = |piece: &[u8]| output.extend_from_slice(piece);
    let watch = Watch { limit: LIMIT, cancel, output: &mut keep, jobs: None, opened: None };
    let script = script(tree);
    let ended = sandbox.run(&script, &tree.inside, &[("LANG", "C")], watch)?;
    let text = String::from_utf8_lossy(&output);
    if ended == Ended::Cancelled {
        return Err(Error::Cancelled);
    }
    if let Some(program) = text.lines().find_map(|line| line.strip_prefix("missing\t")) {
        return Err(Error::Missing { program: program.to_owned(), release: release.clone() });
    }
    let programs: Vec<Program> = text.lines().filter_map(program).collect();
    if ended != Ended::Status(0) || !programs.iter().any(|program| program.role == "cc") {
        return Err(silent(text.lines().next().unwrap_or("no answer").to_owned()));
    }
    Ok(programs)
}

/// Parses a line of the script's output.
fn program(line: &str) -> Option<Program> {
    let mut fields = line.strip_prefix("program\t")?.split('\t');
    let mut next = || fields.next().map(str::to_owned);
    Some(Program { role: next()?, path: next()?.into(), version: next().unwrap_or_default() })
}

fn script(tree: &BuildTree) -> String {
    let llvm = if is_llvm(tree) { "1" } else { "" };
    let btf = if tree.makes_btf() { "1" } else { "" };
    let inside = tree.inside.display();
    format!("tree='{inside}' llvm={llvm} btf={btf}\n{ASK}")
}

/// The Makefile contains the kernel's defaults (top-level Makefile: CC, LD, OBJCOPY, STRIP), which the header
/// package's files override.
const ASK: &str = r#"
export LC_ALL=C
answer=$(make -s -f - show <<END
ifneq (${llvm},)
CC = clang
LD = ld.lld
OBJCOPY = llvm-objcopy
STRIP = llvm-strip
else
CC = \$(CROSS_COMPILE)gcc
LD = \$(CROSS_COMPILE)ld
OBJCOPY = \$(CROSS_COMPILE)objcopy
STRIP = \$(CROSS_COMPILE)strip
endif
-include ${tree}/.kernelvariables
show:
	@echo cc=\$(strip \$(CC))
	@echo ld=\$(strip \$(LD))
	@echo objcopy=\$(strip \$(OBJCOPY))
END
) || { echo "make: $answer"; exit 1; }
program() { # role, command
    local path
    path=$(type -P "$2") || { printf 'missing\t%s\n' "$2"; exit 0; }
    printf 'program\t%s\t%s\t%s\n' "$1" "$path" "$("$path" --version 2>/dev/null | { read -r line; echo "$line"; })"
}
while IFS== read -r role command; do
    command=${command##* } # behind a launcher such as ccache
    [[ $role == cc ]] && cc=$command
    program "$role" "$command"
done <<<"$answer"
if [[ ! $llvm ]]; then
    program cc1 "$("$cc" -print-prog-name=cc1)"
    program as "$("$cc" -print-prog-name=as)"
fi
program strip "${llvm:+llvm-}strip"
predef=/usr/include/stdc-predef.h # gcc includes it before everything (GCC manual, "-nostdinc" aside), clang does not
[[ ! $llvm && -e $predef ]] && printf 'program\tpredef\t%s\t\n' "$predef"
pahole=/run/kcache/pahole # what stands at its usual place is a wrapper
[[ $btf && -e $pahole ]] && printf 'program\tpahole\t%s\tpahole %s\n' "$(type -P pahole)" "$("$pahole" --version)"
exit 0
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_reported_with_its_package() {
        for (program, package) in [
            ("gcc-12", "gcc-12"),
            ("x86_64-linux-gnu-gcc-13", "gcc-13"),
            ("ld.lld", "lld"),
            ("llvm-strip", "llvm"),
        ] {
            assert_eq!(debian_package(program), package);
        }
    }

    #[test]
    fn another_compiler_is_detected_but_not_another_name() {
        let check = |named: &str, path: &str, version: &str, expect: bool| {
            let cc = Program { role: "cc".into(), path: path.into(), version: version.into() };
            assert_eq!(differs(named, &cc).is_some(), expect, "{named}, {version}");
        };
        check(
            "gcc-12 (Debian 12.2.0-14) 12.2.0",
            "/usr/bin/gcc-12",
            "gcc-12 (Debian 12.2.0-15) 12.2.0",
            false,
        );
        check("x86_64-linux-gnu-gcc-12 (U) 12.3.0", "/usr/bin/gcc", "gcc (U) 12.3.0", false);
        check("x86_64-linux-gnu-gcc-13 (U) 13.1.0", "/usr/bin/gcc", "gcc (U) 12.3.0", true);
        check("gcc-98 (Debian 12.2.0-14) 98.0", "/usr/bin/gcc", "gcc (Debian 12.2.0-14) 12.2.0", true);
    }

    #[test]
    fn output_lines_are_programs() {
        let parsed = program("program\tcc\t/usr/bin/gcc-12\tgcc-12 (Debian) 12.2.0").unwrap();
        assert_eq!((parsed.role.as_str(), parsed.version.as_str()), ("cc", "gcc-12 (Debian) 12.2.0"));
        assert_eq!(program("make: error"), None);
    }
}
