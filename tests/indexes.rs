//! Module indexes that kcache makes without depmod, beside those of depmod, on whole kernels with real packages.
//!
//! `make test-indexes`: every kernel of the fixtures that packages are for, each package put in and taken out in several
//! orders. `make test` has the same on one kernel with what builds fast, and the rest in `kernel/src/install/tests/indexes.rs`.

use std::collections::BTreeMap;
use std::process::Command;

use fs_err as fs;

use crate::host::{FIXTURES, Host, PATH, run};

const PACKAGES: [&str; 6] =
    ["acpi-call", "bbswitch", "dm-writeboost", "jool-dkms", "v4l2loopback", "xtables-addons"];

/// The indexes of a kernel, by name.
fn indexes(host: &Host, kernel: &str) -> BTreeMap<String, Vec<u8>> {
    let names = fs::read_dir(host.kernel(kernel)).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap()).filter(|name| name.starts_with("modules."));
    names.map(|name| (name.clone(), fs::read(host.kernel(kernel).join(name)).unwrap())).collect()
}

/// Runs depmod, and says which index it makes otherwise than it was.
pub fn difference(host: &Host, kernel: &str) -> Option<String> {
    let made = indexes(host, kernel);
    run(Command::new("depmod").env("PATH", PATH).arg("-b").arg(host.root()).arg(kernel));
    let now = indexes(host, kernel);
    let other = now.iter().find(|(name, bytes)| made.get(*name) != Some(bytes));
    other.map(|(name, _)| format!("{name} is another"))
}

/// Runs kcache, then depmod, and compares. True where kcache ran none itself.
fn same(host: &Host, kernel: &str, arguments: &[&str]) -> bool {
    let all = [arguments, &["-k", kernel, "-v"]].concat();
    let done = host.kcache(&all);
    assert_eq!(done.code, Some(0), "{}", done.shown());
    if let Some(other) = difference(host, kernel) {
        panic!("{arguments:?}: {other}\n{}", done.shown());
    }
    done.stderr.contains("indexes updated without depmod")
}

fn whole_kernel(kernel: &str, packages: &[&str]) {
    let host = Host::whole(&[kernel]).with_packages(packages);
    // Not every package is for every kernel.
    let builds = |package: &&&str| {
        let built = host.kcache(&["build", package, "-k", kernel]);
        built.code == Some(0) && !built.stdout.contains("excluded")
    };
    let packages: Vec<&str> = packages.iter().filter(builds).copied().collect();
    assert!(!packages.is_empty());
    let (mut here, mut all) = (0, 0);
    let mut does = |arguments: &[&str]| {
        all += 1;
        here += usize::from(same(&host, kernel, arguments));
    };
    for package in &packages {
        does(&["install", package]);
    }
    for package in &packages {
        does(&["remove", package]);
    }
    for package in packages.iter().rev() {
        does(&["install", package]);
    }
    does(&["rollback"]);
    does(&[&["install"], &packages[..]].concat());
    for package in [&packages[1..], &packages[..1]].concat() {
        does(&["remove", package]);
    }
    assert!(2 * here > all, "{kernel}: only {here} of {all} changes without depmod");
}

#[test]
fn the_indexes_of_whole_kernels_are_those_of_depmod() {
    if std::env::var_os("KCACHE_INDEXES").is_none() {
        return whole_kernel(&FIXTURES.cloud, &["bbswitch", "jool-dkms"]);
    }
    for kernel in [&FIXTURES.cloud, &FIXTURES.new, &FIXTURES.six12] {
        whole_kernel(kernel, &PACKAGES);
    }
}
