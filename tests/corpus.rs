//! The corpus, in short: three packages, one of them from non-free, that dkms and kcache build for one kernel. `make corpus`
//! takes all of Debian's.

use crate::host::{FIXTURES, is_root, run};
use std::process::Command;

#[test]
fn dkms_and_kcache_make_the_same_modules_of_the_same_packages() {
    if !is_root() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus/run.sh");
    let output = run(Command::new(script)
        .args([env!("CARGO_BIN_EXE_kcache"), "acpi-call-dkms", "bbswitch-dkms", "r8168-dkms"])
        .env("KCACHE_FIXTURES", FIXTURES.dir())
        .env("KCACHE_CORPUS", cache.path())
        .env("CORPUS_KERNELS", &FIXTURES.new));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("3 builds: dkms 3, kcache 3; 0 where kcache falls short"), "{table}");
}
