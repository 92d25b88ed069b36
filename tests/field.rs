//! What packages and hosts do that distributions' own do not: situations from public reports, a test for each kind.
//!
//! ```text
//! conflicts   modules of one name: two packages, foreign files, a renamed package, modules that the kernel has built in
//! kernels     leftovers of removed kernels, headers without Module.symvers, links, changes while a build runs
//! seen        what a build sees of the system, and what it is told of the rest
//! recipes     what a dkms.conf may do while it is read; where builds write
//! names       directories that are called otherwise than their dkms.conf says
//! causes      the first cause of a failure, and what is remembered of one
//! toolchains  compilers outside of the usual places, found by version; Rust
//! hosts       stores, containers, and what DKMS left on a host
//! ```

mod causes;
mod conflicts;
mod hosts;
mod kernels;
mod names;
mod recipes;
mod seen;
mod toolchains;

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;

use crate::host::{FIXTURES, Host, PATH, Run, run};
use crate::packages::{dkms_conf, module_c};

fn k() -> &'static str {
    &FIXTURES.new
}

fn host() -> Host {
    Host::new(&[k()])
}

/// `dkms ...` on this host.
fn dkms(host: &Host, arguments: &[&str]) -> Run {
    Run::from(host.called("dkms", arguments).output().unwrap())
}

/// A package `NAME-VERSION` with one module of another name.
fn bearing(host: &Host, name: &str, version: &str, module: &str) -> PathBuf {
    let conf = dkms_conf(name, version, &format!("BUILT_MODULE_NAME[0]=\"{module}\"\n"));
    let files = [
        ("dkms.conf", conf),
        ("Makefile", format!("obj-m := {module}.o\n")),
        (&*format!("{module}.c"), module_c(&format!("{name} {version}"))),
    ];
    host.write_package(&format!("{name}-{version}"), &files)
}

/// The same of its own name, with further lines of its `dkms.conf`.
fn with_conf(host: &Host, name: &str, more: &str) -> PathBuf {
    let source = bearing(host, name, "1.0", name);
    let conf = source.join("dkms.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(conf, format!("{text}{more}\n")).unwrap();
    source
}

/// Whether kcache has installed this module for the kernel.
fn is_installed(host: &Host, kernel: &str, module: &str) -> bool {
    host.modules(kernel).keys().any(|path| path.ends_with(&format!("/{module}.ko")))
}

/// A file that modprobe would take for a module: one of the kernel's own under another name.
fn put_foreign(host: &Host, kernel: &str, place: &str) {
    let tree = host.kernel(kernel);
    let mut find = Command::new("find");
    find.arg(tree.join("kernel")).args(["-name", "mc.ko"]);
    let found = String::from_utf8(run(&mut find).stdout).unwrap();
    let to = tree.join(place);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    let bytes = fs::read(found.trim()).unwrap();
    if to.extension().is_some_and(|end| end == "xz") {
        let plain = to.with_extension("");
        fs::write(&plain, bytes).unwrap();
        run(Command::new("xz").args(["-k", "--check=crc32", "-f"]).arg(&plain));
        fs::remove_file(plain).unwrap();
    } else {
        fs::write(to, bytes).unwrap();
    }
    depmod(host, kernel);
}

fn depmod(host: &Host, kernel: &str) {
    let conf = host.root().join("etc/depmod.d");
    let mut depmod = Command::new("depmod");
    depmod.env("PATH", PATH);
    if conf.exists() {
        depmod.arg("-C").arg(conf);
    }
    run(depmod.arg("-b").arg(host.root()).arg(kernel));
}

fn append(path: &Path, text: &str) {
    let before = fs::read_to_string(path).unwrap_or_default();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("{before}{text}")).unwrap();
}

/// Writes a file below the host's root.
fn put(host: &Host, path: &str, text: &str) {
    let path = host.root().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}
