//! `apt upgrade` in short: a second kernel of the series, with newer programs of kbuild for both. `benches/history.sh` has all the
//! kernels that the archive holds.

use std::path::{Path, PathBuf};

use fs_err as fs;
use serde_json::Value;

use crate::builder::{Builder, url};
use crate::host::{FIXTURES, Host, Outcome, Run, is_root};
use crate::packages::hello;

const PACKAGES: [&str; 2] = ["acpi-call", "hello"];

/// The programs of kbuild, which all kernels 6.1 share.
fn kbuild(host: &Host) -> Vec<PathBuf> {
    let mut directories = vec![host.root().join("usr/lib/linux-kbuild-6.1")];
    let mut programs = Vec::new();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() && fs::read(entry.path()).unwrap().starts_with(b"\x7fELF") {
                programs.push(entry.path());
            }
        }
    }
    assert!(programs.iter().any(|path| path.ends_with("scripts/mod/modpost")), "{programs:?}");
    programs
}

/// Another build of a program, of the same source by the same compiler: its build id is another.
fn built_another_time(mut program: Vec<u8>) -> Vec<u8> {
    // A note with a name of 4 bytes, 20 bytes of content, type NT_GNU_BUILD_ID (elf(5)).
    let head = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let at = program.windows(head.len()).position(|window| window == head).expect("a build id") + head.len();
    program[at..at + 20].iter_mut().for_each(|byte| *byte ^= 0xff);
    program
}

/// Another program that does the same: ELF ends with its tables.
fn another(mut program: Vec<u8>) -> Vec<u8> {
    program.extend(b"another");
    program
}

/// A host with the older kernel, kbuild as it was, and two packages.
fn older(was: fn(Vec<u8>) -> Vec<u8>) -> Host {
    let host = Host::new(&[&FIXTURES.old]).with_packages(&PACKAGES);
    with_kbuild(&host, was);
    hello(&host, "");
    host
}

fn with_kbuild(host: &Host, was: fn(Vec<u8>) -> Vec<u8>) {
    for program in kbuild(host) {
        let bytes = was(fs::read(&program).unwrap());
        fs::write(&program, bytes).unwrap();
    }
}

/// Of each package: its state for a kernel, and the tools that have changed since.
fn standing(host: &Host, kernel: &str) -> Vec<(String, Vec<String>)> {
    let document = host.kcache(&["--json", "check", "-k", "all"]).json();
    let of = |package: &Value| {
        let standing = package["kernels"][kernel].clone();
        let tools = serde_json::from_value(standing["tools_changed"].clone()).unwrap();
        (standing["state"].as_str().unwrap().to_owned(), tools)
    };
    document["packages"].as_array().unwrap().iter().map(of).collect()
}

fn ready(tools: &[&str]) -> Vec<(String, Vec<String>)> {
    let tools: Vec<String> = tools.iter().map(|&tool| tool.to_owned()).collect();
    vec![("ready".to_owned(), tools); PACKAGES.len()]
}

/// What was done for each package and kernel.
fn how(run: &Run) -> Vec<(String, String)> {
    let how = |outcome: Outcome| (outcome.kernel, outcome.how.unwrap_or_default());
    run.outcomes().into_iter().map(how).collect()
}

fn each(kernels: &[(&str, &str)]) -> Vec<(String, String)> {
    let of_packages =
        |(kernel, how): &(&str, &str)| vec![(kernel.to_string(), how.to_string()); PACKAGES.len()];
    kernels.iter().flat_map(of_packages).collect()
}

/// Goes through the update: what differs for the older kernel's modules are these tools, and nothing is built for it.
fn check(was: fn(Vec<u8>) -> Vec<u8>, tools: &[&str]) {
    let (old, new) = (FIXTURES.old.as_str(), FIXTURES.new.as_str());
    let host = older(was);
    let install = || host.kcache(&["--json", "install", "-k", "all"]).exits(0);
    assert_eq!(how(&install()), each(&[(old, "built")]));
    assert_eq!(standing(&host, old), ready(&[]));

    host.add_kernel(new);
    assert_eq!(standing(&host, old), ready(tools), "after the update");
    let missing = ("missing".to_owned(), vec![]);
    assert_eq!(standing(&host, new), vec![missing; PACKAGES.len()], "not built yet");
    assert_eq!(how(&install()), each(&[(old, "store"), (new, "built")]));
    assert_eq!(standing(&host, old), ready(tools));
    assert_eq!(standing(&host, new), ready(&[]));

    // It was right to leave them alone: today's tools make the same modules.
    let before = host.tree();
    host.kcache(&["install", "--refresh-tools", "-k", old]).exits(0).says(&["nothing to change"]);
    assert_eq!(host.tree(), before);
}

#[test]
fn kbuild_built_another_time_is_the_same_for_all_kernels() {
    check(built_another_time, &[]);
}

#[test]
fn another_kbuild_leaves_the_modules_of_older_kernels_ready() {
    check(another, &["toolchain.kbuild"]);
}

/// This compiler at another patch level: the last digit of Debian's version is another.
fn at_another_level(mut compiler: Vec<u8>) -> Vec<u8> {
    let at = compiler.windows(8).position(|window| window == b"(Debian ").unwrap();
    let end = at + compiler[at..].iter().position(|byte| *byte == b')').unwrap();
    compiler[end - 1] ^= 1;
    compiler
}

fn with_another_compiler(host: &Host, words: &[&str]) -> Run {
    with_compiler(host, at_another_level, words)
}

/// This machine's compiler with a change, in place of it for one run.
fn with_compiler(host: &Host, change: fn(Vec<u8>) -> Vec<u8>, words: &[&str]) -> Run {
    let cc = Path::new("/usr/bin/x86_64-linux-gnu-gcc-12");
    let other = host.dir().join("gcc");
    if !other.exists() {
        fs::copy(cc, &other).unwrap();
        fs::write(&other, change(fs::read(cc).unwrap())).unwrap();
    }
    let script = "mount --bind \"$1\" \"$2\" && shift 2 && exec \"$@\"";
    let (cc, other) = (cc.to_str().unwrap(), other.to_str().unwrap());
    host.kcache_under(&["unshare", "--mount", "sh", "-c", script, "sh", other, cc], words)
}

#[test]
fn a_host_at_another_patch_level_of_the_compiler_builds_nothing() {
    if !is_root() {
        return;
    }
    let (old, new) = (FIXTURES.old.as_str(), FIXTURES.new.as_str());
    let builder = Builder::of(older(another), "history");
    fs::create_dir(builder.cache()).unwrap();
    let cache = url(&builder.cache_url());
    builder.host.write_config(&format!("[[cache]]\n{cache}\nwrite = true\n"));
    let host = older(another).trusting(&builder);
    host.write_config(&format!("other-tools = \"same-compiler\"\n[[cache]]\n{cache}\n"));
    let install = || with_another_compiler(&host, &["--json", "install", "-k", "all"]).exits(0);

    builder.host.kcache(&["build", "-k", "all"]).exits(0);
    assert_eq!(how(&install()), each(&[(old, "shared-cache")]));
    host.add_kernel(new);
    builder.host.add_kernel(new);
    builder.host.kcache(&["build", "-k", "all"]).exits(0);
    assert_eq!(how(&install()), each(&[(old, "store"), (new, "shared-cache")]));
    with_another_compiler(&host, &["check", "-k", "all"]).exits(0);
}

#[test]
fn a_compiler_built_another_time_is_the_same_compiler() {
    if !is_root() {
        return;
    }
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    host.kcache(&["install"]).exits(0);
    let run = with_compiler(&host, built_another_time, &["--json", "install", "--refresh-tools"]).exits(0);
    assert_eq!(run.outcome().how.as_deref(), Some("store"), "{}", run.shown());
}

#[test]
fn a_build_by_another_compiler_is_not_used_where_only_kbuild_may_differ() {
    if !is_root() {
        return;
    }
    let builder = Builder::new("compiler", &[]);
    fs::create_dir(builder.cache()).unwrap();
    let cache = url(&builder.cache_url());
    hello(&builder.host, "");
    builder.host.write_config(&format!("[[cache]]\n{cache}\nwrite = true\n"));
    builder.host.kcache(&["build"]).exits(0);
    let host = Host::new(&[&FIXTURES.new]).trusting(&builder);
    hello(&host, "");
    host.write_config(&format!("other-tools = \"kbuild\"\n[[cache]]\n{cache}\n"));
    let run = with_another_compiler(&host, &["--json", "install"]).exits(0);
    assert_eq!(run.outcome().how.as_deref(), Some("built"), "{}", run.shown());
    run.says(&["it was built by tools that other-tools does not allow"]);
}
