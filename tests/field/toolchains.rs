//! Toolchains outside of the system's usual places, which are found by the version that built the kernel.

use std::os::unix::fs::PermissionsExt;

use fs_err as fs;

use super::{append, host, k, put, with_conf};
use crate::host::Host;
use crate::packages::{module_c, plain, with_makefile};

/// A program that introduces itself so, and otherwise is `real`.
fn put_program(host: &Host, path: &str, version: &str, introduction: &str, real: &str) {
    let text = format!(
        "#!/bin/bash\ncase $* in\n*-dumpfullversion*|-dumpversion) echo {version} ;;\n--version) echo '{introduction}' ;;\n*) exec {real} \"$@\" ;;\nesac\n"
    );
    put(host, path, &text);
    fs::set_permissions(host.root().join(path), PermissionsExt::from_mode(0o755)).unwrap();
}

/// Changes the kernel's configuration.
fn configure(host: &Host, change: &[(&str, &str)]) {
    let config = host.headers(k()).join(".config");
    let text = fs::read_to_string(&config).unwrap();
    let names: Vec<&str> = change.iter().map(|(name, _)| *name).collect();
    let is_kept = |line: &&str| !names.iter().any(|name| line.starts_with(&format!("{name}=")));
    let kept: Vec<&str> = text.lines().filter(is_kept).collect();
    let new: String = change.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    fs::write(&config, format!("{new}{}\n", kept.join("\n"))).unwrap();
}

/// A kernel that gcc 98 built.
fn built_by_98() -> Host {
    let host = host();
    configure(
        &host,
        &[("CONFIG_GCC_VERSION", "980100"), ("CONFIG_CC_VERSION_TEXT", "\"gcc-98 (Its Own) 98.1.0\"")],
    );
    host
}

fn variables(host: &Host) -> std::path::PathBuf {
    host.headers(k()).join(".kernelvariables")
}

#[test]
fn a_compiler_is_found_by_its_version_where_its_name_is_another() {
    let host = built_by_98();
    let text = fs::read_to_string(variables(&host)).unwrap().replace("gcc-12", "gcc-98");
    fs::write(variables(&host), text).unwrap();
    let source = plain(&host, "mine", "");
    fs::write(source.join("mine.c"), format!("#ifndef TOOLSET\n#error\n#endif\n{}", module_c(""))).unwrap();
    host.kcache(&["install"]).exits(4).says(&["gcc-98 is not installed"]);
    // The first on the path is another version.
    put_program(&host, "opt/toolset-97/bin/gcc", "97.1.0", "gcc (Toolset) 97.1.0", "false");
    put_program(&host, "opt/toolset-98/bin/gcc", "98.1.2", "gcc (Toolset) 98.1.2", "gcc-12 -DTOOLSET");
    put(&host, "etc/kcache/config.toml", "tool-paths = [\"/opt/toolset-97\", \"/opt/toolset-98\"]\n");
    let run = host.kcache(&["install", "-v"]).exits(0);
    let run = run.says(&["call /opt/toolset-98/bin/gcc as", "gcc-98"]);
    assert!(!run.stderr.contains("was built by gcc-98"), "{}", run.shown());
    host.kcache(&["explain", "mine", "-k", k()]).exits(0).prints(&["gcc (Toolset) 98.1.2"]);
    host.kcache(&["check", "-k", k()]).exits(0);
    append(&host.root().join("opt/toolset-98/lib/cc1"), "x");
    host.kcache(&["check", "-v", "-k", k()]).exits(0).says(&["toolchain.path./opt/toolset-98"]);
}

#[test]
fn a_kernel_whose_build_tree_takes_any_gcc_gets_the_one_that_built_it() {
    let host = built_by_98();
    fs::remove_file(variables(&host)).unwrap();
    plain(&host, "mine", "");
    let explain = || host.kcache(&["explain", "mine", "-k", k()]);
    explain().says(&["was built by gcc-98"]);
    put_program(&host, "opt/toolset/bin/gcc-98", "98.1.2", "gcc-98 (Toolset) 98.1.2", "gcc-12");
    put(&host, "etc/kcache/config.toml", "tool-paths = [\"/opt/toolset\"]\n");
    let run = explain().exits(0).prints(&["gcc-98 (Toolset) 98.1.2"]);
    assert!(!run.stderr.contains("was built by"), "{}", run.shown());
}

#[test]
fn clang_of_the_kernels_version_brings_the_programs_beside_it() {
    let host = host();
    fs::remove_file(variables(&host)).unwrap();
    configure(
        &host,
        &[
            ("CONFIG_CC_IS_CLANG", "y"),
            ("CONFIG_CLANG_VERSION", "980100"),
            ("CONFIG_CC_VERSION_TEXT", "\"clang version 98.1.0\""),
        ],
    );
    plain(&host, "mine", "");
    for (version, clang) in [("97.1.0", "clang"), ("98.1.0", "clang-98")] {
        for name in [clang, "ld.lld", "llvm-objcopy", "llvm-strip"] {
            let path = format!("opt/llvm-{version}/bin/{name}");
            put_program(&host, &path, version, &format!("{name} version {version}"), "false");
        }
    }
    put(&host, "etc/kcache/config.toml", "tool-paths = [\"/opt/llvm-97.1.0\", \"/opt/llvm-98.1.0\"]\n");
    host.kcache(&["explain", "mine", "-k", k()]).exits(0).prints(&[
        "clang-98 version 98.1.0",
        "ld.lld version 98.1.0",
        "llvm-objcopy version 98.1.0",
        "llvm-strip version 98.1.0",
    ]);
}

/// A kernel with Rust in it, as far as its headers say so.
fn with_rust() -> Host {
    let host = host();
    configure(
        &host,
        &[
            ("CONFIG_RUST", "y"),
            ("CONFIG_RUSTC_VERSION", "108501"),
            ("CONFIG_RUSTC_VERSION_TEXT", "\"rustc 1.85.1 (4eb161250 2025-03-15)\""),
        ],
    );
    with_conf(&host, "plain", "");
    let makefile = "obj-m := ferrous.o\nifneq ($(shell rustc --version),rustc 1.85.1 (4eb161250 2025-03-15))\n$(error rustc is $(shell rustc --version))\nendif\n";
    let source = with_makefile(&host, "ferrous", "", makefile, "");
    fs::write(source.join("lib.rs"), "").unwrap();
    host
}

#[test]
fn rustc_of_the_kernels_version_is_part_of_the_key_of_packages_with_rust() {
    let host = with_rust();
    let library = host.headers(k()).join("rust/libkernel.rmeta");
    fs::create_dir_all(library.parent().unwrap()).unwrap();
    fs::write(library, "").unwrap();
    let (older, newer) = ("rustc 1.85.1 (4eb161250 2025-03-15)", "rustc 1.96.0 (0e1f2a 2026-05-01)");
    put_program(&host, "opt/rust/bin/rustc", "", newer, "false");
    put(&host, "etc/kcache/config.toml", "tool-paths = [\"/opt/rust\"]\n");
    host.kcache(&["build", "ferrous", "-k", k()]).exits(4).says(&[
        "it has Rust in it, and the kernel's Rust libraries were made by rustc 1.85.1",
        "such as rustc 1.96.0",
    ]);
    put_program(&host, "opt/rust/bin/rustc-1.85", "", older, "false");
    let run = host.kcache(&["install", "-k", k()]).exits(0);
    assert!(!run.stderr.contains("it has Rust in it"), "{}", run.shown());
    host.kcache(&["explain", "ferrous", "-k", k()]).exits(0).prints(&["toolchain.rustc", older]);
    let run = host.kcache(&["explain", "plain", "-k", k()]).exits(0);
    assert!(!run.stdout.contains("rustc"), "{}", run.shown());
}

#[test]
fn what_a_kernel_lacks_for_rust_is_said_before_the_build_fails() {
    let host = with_rust();
    let said = |words: &[&str]| {
        host.kcache(&["build", "--rebuild", "ferrous", "-k", k()]).exits(4).says(words);
    };
    said(&["the kernel's headers have no Rust libraries (rust/libkernel.rmeta)"]);
    configure(&host, &[("CONFIG_RUST", "n")]);
    said(&["the kernel was built without Rust (CONFIG_RUST)"]);
}
