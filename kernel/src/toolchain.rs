//! The toolchain: the programs that a build for a kernel runs and that affect its modules.
//!
//! The kernel determines its compiler: Debian's header packages in `.kernelvariables`, others by the one they were
//! built with (`CONFIG_CC_VERSION_TEXT`, `CONFIG_CC_IS_CLANG`). So make is run with the same files that a build reads,
//! and the compiler prints the paths of its `cc1` and `as`.
//!
//! What make calls may not be there under that name (`gcc-12` is `/opt/gcc-12/bin/gcc`), or be another major version than the name
//! says, else the kernel's configuration (`CONFIG_GCC_VERSION`, `CONFIG_CLANG_VERSION`): `gcc` is 14, and 12 built the kernel.
//! Then the first compiler of that version on the `PATH` of builds is used, and builds find it under the name that they call
//! ([`Link`]). If there is none, it is the program of that name, with a warning; without one, that is an error.
//!
//! Rust's libraries of a kernel can be used by exactly the rustc that made them, so that is sought by its whole version.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::kernels::BuildTree;
use crate::rootfs::Root;
use crate::rust;
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

/// Another name for a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The name by which builds call it.
    pub name: String,
    /// Its path in the tools' root, or in a directory of tools.
    pub path: PathBuf,
}

/// The programs of a toolchain, and what builds call some of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toolchain {
    /// The programs.
    pub programs: Vec<Program>,
    /// Names that builds find before all others.
    pub links: Vec<Link>,
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

/// The root whose programs build for a kernel under `root`: that root if it has a compiler, perhaps in a directory of tools,
/// else this machine's.
pub fn tools_root(root: &Root, tree: &BuildTree, tool_paths: &[PathBuf]) -> Root {
    let has = |name: &str| root.find(Path::new("/usr/bin").join(name)).is_some();
    let named = tree.compiler().and_then(|text| text.split(' ').next()).unwrap_or("gcc");
    let has_compiler = |name: &str| {
        let in_tools =
            |dir: &PathBuf| ["bin", ""].iter().any(|bin| root.find(dir.join(bin).join(name)).is_some());
        has(name) || tool_paths.iter().any(in_tools)
    };
    let complete = has("make") && has("bash") && [named, "gcc", "clang"].into_iter().any(has_compiler);
    if complete { root.clone() } else { Root::new("/") }
}

/// Whether clang compiled the kernel; then it must compile modules, too.
pub fn is_llvm(tree: &BuildTree) -> bool {
    tree.config.is_clang()
}

/// A warning if a kernel names one compiler and its build tree uses another: the one that built it
/// (`CONFIG_CC_VERSION_TEXT`), and the one that builds its modules. Kbuild accepts that, and it usually works.
pub fn stands_in(tree: &BuildTree, found: &Toolchain) -> Option<String> {
    let cc = found.programs.iter().find(|program| program.role == "cc")?;
    let is_of_version = found.links.iter().any(|link| link.path == cc.path);
    if is_llvm(tree) || is_of_version { None } else { differs(tree.compiler()?, cc) }
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
pub fn programs(sandbox: &Sandbox, tree: &BuildTree, cancel: &AtomicBool) -> Result<Toolchain, Error> {
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
    let links = text.lines().filter_map(link).collect();
    Ok(Toolchain { programs, links })
}

/// Parses a line of the script's output.
fn program(line: &str) -> Option<Program> {
    let mut fields = line.strip_prefix("program\t")?.split('\t');
    let mut next = || fields.next().map(str::to_owned);
    Some(Program { role: next()?, path: next()?.into(), version: next().unwrap_or_default() })
}

fn link(line: &str) -> Option<Link> {
    let (name, path) = line.strip_prefix("link\t")?.split_once('\t')?;
    // It becomes the name of a file.
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+".contains(&b));
    (is_plain && !name.is_empty() && path.starts_with('/'))
        .then(|| Link { name: name.into(), path: path.into() })
}

/// The versions that the kernel was built by, empty if they are not known: the major version of its compiler, and rustc's
/// (scripts/cc-version.sh, scripts/rustc-version.sh).
pub fn versions(tree: &BuildTree) -> [String; 2] {
    let number = |name| tree.config.value(name)?.parse::<u32>().ok().filter(|number| *number > 0);
    let cc = if is_llvm(tree) { "CONFIG_CLANG_VERSION" } else { "CONFIG_GCC_VERSION" };
    let major = number(cc).map(|number| (number / 10_000).to_string()); // 120200 is 12.2.0
    let rust = number("CONFIG_RUSTC_VERSION").filter(|_| rust::is_in(tree));
    let rust = rust.map(|n| format!("{}.{}.{}", n / 100_000, n / 100 % 1_000, n % 100)); // 108501 is 1.85.1
    [major.unwrap_or_default(), rust.unwrap_or_default()]
}

fn script(tree: &BuildTree) -> String {
    let llvm = if is_llvm(tree) { "1" } else { "" };
    let [major, rust] = versions(tree);
    let btf = if tree.makes_btf() { "1" } else { "" };
    let inside = tree.inside.display();
    format!("tree='{inside}' llvm={llvm} btf={btf} major={major} rust={rust}\n{ASK}")
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
major_of() { # compiler
    local version
    case ${1##*/} in
        *clang*) version=$("$1" -dumpversion 2>/dev/null) ;;
        *) version=$("$1" -dumpfullversion -dumpversion 2>/dev/null) ;; # Debian's -dumpversion is the major alone
    esac
    echo "${version%%.*}"
}
compiler() { # command: its path; that of another name if only that is of the kernel's version
    local command=$1 major=$major path stem prefix dir name dirs
    path=$(type -P "$command")
    case $command in
        */*) echo "$path"; return ;;
        *clang*) stem=clang ;;
        *gcc*) stem=gcc ;;
        *) echo "$path"; return ;;
    esac
    [[ $command =~ $stem-([0-9]+)$ ]] && major=${BASH_REMATCH[1]} # what the build tree says counts
    [[ ! $major || ( $path && $(major_of "$path") == "$major" ) ]] && { echo "$path"; return; }
    prefix=${command%%"$stem"*}
    IFS=: read -ra dirs <<<"$PATH:/usr/lib/llvm-$major/bin:/usr/lib64/llvm$major/bin:/usr/lib/llvm/$major/bin"
    for dir in "${dirs[@]}"; do
        for name in "$command" "$prefix$stem-$major" "$prefix$stem" "$stem-$major" "$stem"; do
            [[ -f $dir/$name && -x $dir/$name && $(major_of "$dir/$name") == "$major" ]] || continue
            # One without the prefix may be for another machine.
            [[ $name == "$prefix"* || $("$dir/$name" -dumpmachine 2>/dev/null) == "${prefix%-}" ]] || continue
            echo "$dir/$name"
            return
        done
    done
    echo "$path"
}
rustc() { # the one of the kernel's version, else the first
    local dir name first= dirs
    IFS=: read -ra dirs <<<"$PATH:/usr/lib/rust-${rust%.*}/bin"
    for dir in "${dirs[@]}"; do
        for name in rustc "rustc-${rust%.*}" "rustc-$rust"; do
            [[ -f $dir/$name && -x $dir/$name ]] || continue
            [[ "$("$dir/$name" --version 2>/dev/null) " == "rustc $rust "* ]] && { echo "$dir/$name"; return; }
            [[ $first || $name != rustc ]] || first=$dir/$name
        done
    done
    echo "$first"
}
declare -A linked=()
called() { # name, path: builds find this path by this name
    [[ $2 && $2 != "$(type -P "$1")" ]] || return 0
    linked[$1]=$2
    printf 'link\t%s\t%s\n' "$1" "$2"
}
program() { # role, command
    local path
    path=${linked[$2]-$(type -P "$2")}
    [[ $path ]] || { printf 'missing\t%s\n' "$2"; exit 0; }
    printf 'program\t%s\t%s\t%s\n' "$1" "$path" "$("$path" --version 2>/dev/null | { read -r line; echo "$line"; })"
}
while IFS== read -r role command; do
    command=${command##* } # behind a launcher such as ccache
    if [[ $role == cc ]]; then
        cc=$(compiler "$command")
        [[ $command == */* ]] || called "$command" "$cc"
        if [[ $llvm && ${linked[$command]-} ]]; then
            own=$(readlink -f "$cc") && own=${own%/*}
            for name in clang clang++ ld.lld llvm-{ar,nm,objcopy,objdump,readelf,strip}; do
                [[ $name == "$command" || ! -x $own/$name ]] || called "$name" "$own/$name"
            done
        fi
    fi
    program "$role" "$command"
done <<<"$answer"
if [[ ! $llvm ]]; then
    program cc1 "$("$cc" -print-prog-name=cc1)"
    program as "$("$cc" -print-prog-name=as)"
fi
program strip "${llvm:+llvm-}strip"
if [[ $rust ]]; then
    rustc=$(rustc)
    called rustc "$rustc"
    [[ $rustc ]] && program rustc "$rustc"
    driver=$([[ $rustc ]] && ldd "$rustc" 2>/dev/null | sed -n 's/.*librustc_driver.* => \(\/[^ ]*\).*/\1/p')
    [[ -f $driver ]] && printf 'program\trustc.driver\t%s\t\n' "$driver"
    type -P bindgen >/dev/null && program bindgen bindgen
fi
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

    fn tree(config: &str) -> BuildTree {
        let mounts = vec![crate::kernels::Mount { outside: "/none".into(), inside: "/k".into() }];
        BuildTree {
            inside: "/k".into(),
            source: "/k".into(),
            mounts,
            links: Vec::new(),
            config_place: ".config",
            config: crate::kconfig::Kconfig::new(config.to_owned()),
            arch: "x86_64".into(),
            version: "#1 SMP".into(),
        }
    }

    #[test]
    fn versions_are_those_of_the_configuration() {
        let check = |config: &str, expect: [&str; 2]| {
            assert_eq!(versions(&tree(config)), expect, "{config}");
        };
        check("", ["", ""]);
        check("CONFIG_GCC_VERSION=120200\nCONFIG_RUSTC_VERSION=108501\n", ["12", ""]);
        check("CONFIG_GCC_VERSION=0\nCONFIG_CC_IS_CLANG=y\nCONFIG_CLANG_VERSION=190107\n", ["19", ""]);
        check("CONFIG_GCC_VERSION=90500\nCONFIG_RUST=y\nCONFIG_RUSTC_VERSION=108501\n", ["9", "1.85.1"]);
        check("CONFIG_GCC_VERSION=1;id\nCONFIG_RUST=y\nCONFIG_RUSTC_VERSION=$(id)\n", ["", ""]);
    }

    #[test]
    fn links_have_plain_names() {
        let check = |line: &str, expect: bool| assert_eq!(link(line).is_some(), expect, "{line}");
        check("link\tgcc-12\t/opt/gcc-12/bin/gcc", true);
        check("link\t../gcc\t/opt/gcc", false);
        check("link\t\t/opt/gcc", false);
        check("link\tgcc\topt/gcc", false);
        check("program\tgcc\t/opt/gcc", false);
    }

    #[test]
    fn output_lines_are_programs() {
        let parsed = program("program\tcc\t/usr/bin/gcc-12\tgcc-12 (Debian) 12.2.0").unwrap();
        assert_eq!((parsed.role.as_str(), parsed.version.as_str()), ("cc", "gcc-12 (Debian) 12.2.0"));
        assert_eq!(program("make: error"), None);
    }
}
