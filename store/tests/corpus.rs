//! Runs the fuzz targets' checks on their corpus without a fuzzer: on each file, and on many slightly changed copies.

use std::path::{Path, PathBuf};

#[path = "../../fuzz/checks.rs"]
mod checks;
#[path = "../../fuzz/mutate.rs"]
mod mutate;

/// Changed copies of each file; an import takes some milliseconds.
const MANY: u64 = 2000;
const IMPORTS: u64 = 30;

/// The files of a target's corpus, with their paths.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files: Vec<_> = fs_err::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    files.into_iter().map(|path| (path.clone(), fs_err::read(path).unwrap())).collect()
}

/// The bytes of those files, in a fixed order.
fn files(target: &str) -> Vec<Vec<u8>> {
    let mut corpus = corpus(target);
    corpus.sort();
    corpus.into_iter().map(|(_, bytes)| bytes).collect()
}

#[test]
fn every_envelope_of_the_corpus_is_read_or_refused() {
    mutate::each(&files("envelope"), MANY, checks::envelope);
}

#[test]
fn every_manifest_of_the_corpus_is_read_or_refused() {
    mutate::each(&files("manifest"), MANY, checks::manifest);
}

#[test]
fn every_pointer_of_the_corpus_is_read_or_refused() {
    mutate::each(&files("pointer"), MANY, checks::pointer);
}

#[test]
fn every_site_file_of_the_corpus_is_read_or_refused() {
    mutate::each(&files("site"), MANY, checks::site);
}

#[test]
fn every_bundle_of_the_corpus_is_imported_or_refused() {
    let host = checks::Host::new();
    let mut taken = 0;
    for (path, bytes) in corpus("bundle") {
        taken += host.bundle(&bytes);
        // The checksums of a bundle are correct, otherwise most would be refused early.
        assert_eq!(checks::with_checksums(&bytes), bytes, "{}", path.display());
    }
    assert!(taken > 0, "the corpus is signed by another key than the one beside it");
}

#[test]
fn every_changed_bundle_is_imported_or_refused() {
    let host = checks::Host::new();
    mutate::each(&files("bundle"), IMPORTS, |bytes| {
        host.bundle(&checks::with_checksums(bytes));
    });
}
