//! The fuzz targets' corpus, without a fuzzer: every file of it keeps what the fuzzer checks.

use std::path::{Path, PathBuf};

#[path = "../../fuzz/checks.rs"]
mod checks;

/// The corpus of a target, by path.
fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files: Vec<_> = fs_err::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(!files.is_empty());
    files.into_iter().map(|path| (path.clone(), fs_err::read(path).unwrap())).collect()
}

#[test]
fn every_envelope_of_the_corpus_is_read_or_refused() {
    corpus("envelope").iter().for_each(|(_, bytes)| checks::envelope(bytes));
}

#[test]
fn every_manifest_of_the_corpus_is_read_or_refused() {
    corpus("manifest").iter().for_each(|(_, bytes)| checks::manifest(bytes));
}

#[test]
fn every_pointer_of_the_corpus_is_read_or_refused() {
    corpus("pointer").iter().for_each(|(_, bytes)| checks::pointer(bytes));
}

#[test]
fn every_bundle_of_the_corpus_is_taken_or_refused() {
    let host = checks::Host::new();
    let mut taken = 0;
    for (path, bytes) in corpus("bundle") {
        taken += host.bundle(&bytes);
        // A bundle's checksums are right, or it would not get far.
        assert_eq!(checks::with_checksums(&bytes), bytes, "{}", path.display());
    }
    assert!(taken > 0, "the corpus is signed by another key than the one beside it");
}
