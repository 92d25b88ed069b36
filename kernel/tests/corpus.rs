//! Runs the fuzz targets' checks on their corpus without a fuzzer: on each file, and on many slightly changed copies.

use std::path::Path;

#[path = "../../fuzz/kernel.rs"]
mod checks;
#[path = "../../fuzz/mutate.rs"]
mod mutate;

/// Changed copies of each file. Checks that need a directory, or read the text several times, take a millisecond for
/// each.
const MANY: u64 = 2000;
const FEWER: u64 = 100;

#[track_caller]
fn check(target: &str, count: u64, check: impl FnMut(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs_err::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    let files: Vec<Vec<u8>> = paths.iter().map(|path| fs_err::read(path).unwrap()).collect();
    mutate::each(&files, count, check);
}

#[test]
fn modules() {
    check("module", MANY, checks::module);
}

#[test]
fn modinfo_sections() {
    check("modinfo", MANY, checks::modinfo);
}

#[test]
fn versions_sections() {
    check("versions", MANY, checks::versions);
}

#[test]
fn appended_signatures() {
    check("signature", MANY, checks::signature);
}

#[test]
fn certificates_and_lists_of_them() {
    check("certificate", MANY, checks::certificate);
}

#[test]
fn symvers() {
    check("symvers", MANY, checks::symvers);
}

#[test]
fn text_indexes() {
    check("indexes", FEWER, checks::indexes);
}

#[test]
fn configurations_of_kernels() {
    check("kconfig", MANY, checks::kconfig);
}

#[test]
fn kmods_indexes() {
    check("index", MANY, checks::index);
}

#[test]
fn recipes() {
    check("recipe", MANY, checks::recipe);
}

#[test]
fn answers_of_dkms_conf() {
    check("answer", MANY, checks::answer);
}

#[test]
fn makefiles_and_sources() {
    check("makefile", FEWER, checks::makefile);
}

#[test]
fn initramfs() {
    check("initramfs", FEWER, checks::initramfs);
}

#[test]
fn generations() {
    check("generation", FEWER, checks::generation);
}

#[test]
fn journals() {
    check("journal", FEWER, checks::journal);
}
