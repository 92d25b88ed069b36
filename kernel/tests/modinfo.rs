//! Tests that `.modinfo` is read as by kmod's `modinfo`, on every module of the fixtures' kernels and on corrupt ones.
//!
//! Accepted differences: `modinfo` shows a string without `=` as a key without a value, which the kernel and kcache
//! ignore; it joins `parm` and `parmtype`; it adds fields of the signature; and it accepts files that the kernel
//! refuses.

use std::path::{Path, PathBuf};
use std::process::Command;

use kcache_kernel::compress::Compression;
use kcache_kernel::{ko, signing};

#[path = "../../fuzz/mutate.rs"]
mod mutate;

/// In a short run, one in this many of the fixtures' thousands of modules is read.
const SAMPLE: usize = 97;
/// Number of files passed to `modinfo` at once.
const BATCH: usize = 100;
/// Fields that `modinfo` derives from the signature, or shows in another form.
const ITS_OWN: [&str; 7] =
    ["sig_id=", "signer=", "sig_key=", "sig_hashalgo=", "signature=", "parm=", "parmtype="];

/// The output of `modinfo -0` for each file: `filename:`, then `key=value`. `None` if it refuses one.
fn modinfo(files: &[PathBuf]) -> Option<Vec<Vec<String>>> {
    let output = Command::new("/sbin/modinfo").arg("-0").args(files).output().ok()?;
    if !output.status.success() {
        return None;
    }
    let mut told = Vec::new();
    for word in output.stdout.split(|c| *c == 0) {
        let word = String::from_utf8_lossy(word).into_owned();
        if word.starts_with("filename:") {
            told.push(Vec::new());
        } else if let Some(last) =
            told.last_mut().filter(|_| word.contains('=') && !word.starts_with("parm:"))
        {
            last.push(word);
        }
    }
    Some(told)
}

fn ours(bytes: &[u8]) -> Option<Vec<String>> {
    let ko = ko::parse(bytes).ok()?;
    Some(ko.modinfo.iter().map(|(key, value)| format!("{key}={value}")).collect())
}

/// The fields that both show in the same form.
fn common(told: &[String]) -> Vec<&String> {
    told.iter().filter(|line| !ITS_OWN.iter().any(|key| line.starts_with(key))).collect()
}

/// The fields that have a value.
fn with_value(told: &[String]) -> Vec<&String> {
    let has_value = |line: &&String| line.split_once('=').is_some_and(|(_, value)| !value.is_empty());
    common(told).into_iter().filter(has_value).collect()
}

/// Paths of the modules of the fixtures' kernels, sorted; empty without fixtures.
fn modules() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache/kcache-fixtures"));
    let fixtures = std::env::var_os("KCACHE_FIXTURES").map(PathBuf::from).or(home).unwrap_or_default();
    let mut waiting = vec![fixtures.join("root/lib/modules")];
    let mut found = Vec::new();
    while let Some(dir) = waiting.pop() {
        for entry in fs_err::read_dir(dir).into_iter().flatten().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file()
                && Compression::of_file_name(&entry.file_name().to_string_lossy()).is_some()
            {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

#[test]
#[expect(clippy::print_stdout, reason = "says why a test does nothing")]
fn modules_of_real_kernels_are_read_equally() {
    let step = if std::env::var_os("KCACHE_TEST_ALL").is_some() { 1 } else { SAMPLE };
    let modules: Vec<PathBuf> = modules().into_iter().step_by(step).collect();
    if modules.is_empty() {
        println!("skipped, because there are no fixtures: run tests/fixtures.sh");
    }
    for batch in modules.chunks(BATCH) {
        let told = modinfo(batch).expect("modinfo reads what distributions ship");
        assert_eq!(told.len(), batch.len());
        for (path, told) in batch.iter().zip(told) {
            let name = path.file_name().unwrap().to_string_lossy();
            let (_, compression) = Compression::of_file_name(&name).unwrap();
            let bytes = compression.decompress(&fs_err::read(path).unwrap(), 1 << 30).unwrap();
            assert_eq!(common(&ours(&bytes).unwrap()), common(&told), "{}", path.display());
            // The kernel loads it, whatever produced it.
            assert!(signing::message_of(&bytes).is_none_or(|message| message.is_ok()), "{}", path.display());
        }
    }
}

#[test]
fn corrupt_modules_are_read_equally_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.ko");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/module");
    let files = ["Little64", "Big32", "signed"].map(|name| fs_err::read(corpus.join(name)).unwrap());
    let mut both = 0;
    mutate::each(&files, 200, |bytes| {
        let Some(ours) = ours(bytes) else { return };
        fs_err::write(&path, bytes).unwrap();
        let Some(told) = modinfo(std::slice::from_ref(&path)) else { return };
        assert_eq!(with_value(&ours), with_value(&told[0]), "{}", bytes.escape_ascii());
        both += 1;
    });
    assert!(both > 50, "only {both} were taken by both");
}
