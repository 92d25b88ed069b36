//! Tests of corruption in a kernel's tree: each bit, each length, and swapped files. All of it must be detected or
//! have no effect, and is repaired.
//!
//! Without `KCACHE_TORTURE`, an evenly spread sample is tested.

#![allow(clippy::print_stdout, reason = "counts, shown by --nocapture")]

use super::*;
use crate::index;

/// Distance between tested positions, with one flipped bit each.
fn every(sample: usize) -> usize {
    if std::env::var_os("KCACHE_TORTURE").is_some() { 1 } else { sample }
}

/// A file's bytes with one bit flipped in each, then truncated to each length, with a description.
fn corrupted(bytes: &[u8], every: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    let flips = (0..bytes.len() * 8).step_by(every).map(|bit| {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        (format!("bit {bit}"), bytes)
    });
    let cuts = (0..bytes.len())
        .step_by(every.div_ceil(8))
        .map(|length| (format!("{length} bytes"), bytes[..length].to_vec()));
    flips.chain(cuts)
}

fn packages(host: &Host) -> Vec<InstalledPackage> {
    vec![host.package("p", "2", &["one", "two-three"])]
}

/// A host with a previous set.
fn installed() -> Host {
    let host = Host::indexed();
    host.install(&[host.package("p", "1", &["one"])]).unwrap();
    host.install(&packages(&host)).unwrap();
    host
}

fn record_path(host: &Host) -> PathBuf {
    host.tree().join("updates").join(host.current().unwrap().dir_name()).join(generation::FILE)
}

fn faults(host: &Host) -> Vec<Fault> {
    let mut faults = verify(&host.tree(), &host.current().unwrap()).unwrap();
    faults.extend(verify_indexes(&host.tree()).unwrap());
    faults
}

#[test]
fn corruption_of_generation_json_is_detected_and_repaired_from_the_copy() {
    let host = installed();
    let (whole, known) = (host.picture(), host.current());
    let path = record_path(&host);
    let text = fs_err::read(&path).unwrap();
    for path in [checked_json::copy(&path), path] {
        let (mut noticed, mut harmless) = (0, 0);
        for (what, rot) in corrupted(&text, every(61)) {
            fs_err::write(&path, &rot).unwrap();
            assert_eq!(host.current(), known, "{what}");
            assert_eq!(generations(&host.tree()).unwrap(), Vec::from_iter(known.clone()), "{what}");
            if faults(&host).is_empty() {
                assert_eq!(Generation::parse(&rot).ok(), known, "{what}");
                harmless += 1;
                continue;
            }
            // Each needs a depmod run.
            if noticed % 50 == 0 {
                assert!(host.install(&packages(&host)).unwrap().changed, "{what}");
                assert_eq!(host.picture(), whole, "{what}");
            }
            noticed += 1;
        }
        assert!(noticed > harmless, "{noticed} noticed, {harmless} harmless");
        fs_err::write(&path, &text).unwrap();
    }
}

#[test]
fn corruption_of_the_only_file_is_an_error_until_a_complete_set_replaces_it() {
    let host = installed();
    let path = record_path(&host);
    let (text, known) = (fs_err::read(&path).unwrap(), host.current());
    fs_err::remove_file(checked_json::copy(&path)).unwrap();
    let (mut noticed, mut harmless) = (0, 0);
    for (what, rot) in corrupted(&text, every(61)) {
        fs_err::write(&path, &rot).unwrap();
        match current(&host.tree()) {
            Ok(found) => {
                assert_eq!(found, known, "{what}");
                harmless += 1;
            }
            Err(error) => {
                assert!(error.to_string().ends_with("generation.json is corrupt"), "{what}: {error}");
                assert!(generations(&host.tree()).is_err(), "{what}: nothing may be collected");
                noticed += 1;
            }
        }
    }
    assert!(noticed > harmless);
    fs_err::write(&path, "{").unwrap();
    assert_eq!(base(&host.tree()).unwrap().lost, ["p"]);
    assert!(host.install(&packages(&host)).unwrap().changed);
    assert!(host.is_whole() && checked_json::copy(&path).exists());
}

#[test]
fn files_of_other_generations_or_kernels_are_corrupt() {
    let host = installed();
    let (whole, path) = (host.picture(), record_path(&host));
    let text = fs_err::read(&path).unwrap();
    let generation = host.current().unwrap();
    let former =
        host.install(&[host.package("p", "1", &["one"])]).map(|_| fs_err::read(record_path(&host)).unwrap());
    host.install(&packages(&host)).unwrap();
    let elsewhere =
        checked_json::encode(&Generation { kernel: "6.1.0-55-amd64".into(), ..generation }).unwrap();
    fs_err::remove_file(checked_json::copy(&path)).unwrap();
    for (bytes, expect) in [
        (Some(former.unwrap()), "it belongs to kcache-"),
        (Some(elsewhere), "it belongs to kernel 6.1.0-55-amd64"),
        (None, "it is missing"),
    ] {
        match bytes {
            Some(bytes) => fs_err::write(&path, bytes).unwrap(),
            None => fs_err::remove_file(&path).unwrap(),
        }
        let error = current(&host.tree()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.starts_with(expect), "{source}");
        // With the copy nothing is lost.
        fs_err::write(checked_json::copy(&path), &text).unwrap();
        assert!(host.install(&packages(&host)).unwrap().changed);
        assert_eq!(host.picture(), whole);
        fs_err::remove_file(checked_json::copy(&path)).unwrap();
    }
    fs_err::write(checked_json::copy(&path), text).unwrap();
    host.install(&packages(&host)).unwrap();
    assert_eq!(host.picture(), whole);
}

#[test]
fn files_of_before_checksums_and_copies_are_read_and_a_newer_format_is_refused() {
    let host = installed();
    let (known, path) = (host.current(), record_path(&host));
    let mut value: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
    value.as_object_mut().unwrap().remove("checksum");
    fs_err::write(&path, value.to_string()).unwrap();
    fs_err::remove_file(checked_json::copy(&path)).unwrap();
    assert_eq!(host.current(), known);
    assert_eq!(faults(&host), []);
    let newer = checked_json::encode(&Generation { format: 2, ..known.unwrap() }).unwrap();
    fs_err::write(&path, newer).unwrap();
    assert!(matches!(host.install(&packages(&host)), Err(Error::Newer { found: 2, known: 1, .. })));
    assert!(matches!(host.install(&[]), Err(Error::Newer { .. })));
}

/// Each of depmod's indexes that modprobe reads.
const BINARY: [&str; 3] = [DEP_BIN, "modules.alias.bin", "modules.symbols.bin"];

#[test]
fn corruption_of_an_index_is_detected_or_harmless() {
    let host = installed();
    let generation = host.current().unwrap();
    let answers = |bytes: &[u8]| {
        let mut values = index::values(bytes).unwrap();
        values.sort_by(|a, b| (&a.key, a.priority).cmp(&(&b.key, b.priority)));
        values.into_iter().map(|value| (value.key, value.bytes)).collect::<Vec<_>>()
    };
    for name in BINARY {
        let path = host.tree().join(name);
        let whole = fs_err::read(&path).unwrap();
        let (mut noticed, mut harmless) = (0, 0);
        for (what, rot) in corrupted(&whole, every(7)) {
            fs_err::write(&path, &rot).unwrap();
            let mut found = verify_indexes(&host.tree()).unwrap();
            if name == DEP_BIN {
                assert_eq!(host.current().as_ref(), Some(&generation), "{what}");
                found = verify(&host.tree(), &generation).unwrap();
            }
            if found.is_empty() {
                assert_eq!(answers(&rot), answers(&whole), "{name}, {what}");
                harmless += 1;
            } else {
                noticed += 1;
            }
        }
        fs_err::write(&path, &whole).unwrap();
        assert!(noticed > harmless, "{name}: {noticed} noticed, {harmless} harmless");
    }
    assert_eq!(faults(&host), []);
}

#[test]
fn corruption_of_the_committing_index_is_repaired() {
    let host = installed();
    let whole = host.picture();
    let path = host.tree().join(DEP_BIN);
    let bytes = fs_err::read(&path).unwrap();
    for (what, rot) in corrupted(&bytes, every(97)) {
        fs_err::write(&path, rot).unwrap();
        if !host.is_whole() {
            host.install(&packages(&host)).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(host.picture(), whole, "{what}");
        }
    }
}

#[test]
fn indexes_of_a_foreign_depmod_are_not_a_fault() {
    let host = installed();
    fs_err::create_dir_all(host.tree().join("updates/dkms")).unwrap();
    fs_err::write(host.tree().join("updates/dkms/foreign.ko"), Built::named("foreign").bytes()).unwrap();
    host.depmod();
    assert_eq!(faults(&host), []);
    // The text indexes may have been deleted to save space in an image.
    for name in ["modules.dep", "modules.alias", "modules.symbols"] {
        fs_err::remove_file(host.tree().join(name)).unwrap();
    }
    assert_eq!(faults(&host), []);
}

fn journal_path(host: &Host) -> PathBuf {
    Tree::open(&host.tree()).unwrap().journal()
}

/// Calls back after a crash at each step at which there is a journal, with the tree before.
fn interrupted_journeys(
    mut each: impl FnMut(Host, Vec<InstalledPackage>, BTreeMap<PathBuf, (u32, Vec<u8>)>, String),
) {
    for n in 0.. {
        let mut reached = false;
        for (host, packages) in journeys(&[Host::new, Host::indexed]) {
            let old = host.picture();
            let Some(step) = host.crash_at(&packages, n) else { continue };
            reached = true;
            if journal_path(&host).exists() {
                each(host, packages, old, step);
            }
        }
        if !reached {
            return;
        }
    }
}

/// Recovers, and checks that the tree is exactly the old one or exactly the new one.
fn recovers(host: &Host, packages: &[InstalledPackage], old: &BTreeMap<PathBuf, (u32, Vec<u8>)>, what: &str) {
    let recovery = host.recover();
    let recovered = host.picture();
    assert!(matches!(recovery, Recovery::Undone | Recovery::Finished), "{what}");
    let changed = host.install(packages).unwrap().changed;
    assert_eq!(changed, recovery == Recovery::Undone, "{what}");
    assert!(recovered == if changed { old.clone() } else { host.picture() }, "{what}: neither old nor new");
    assert!(host.is_whole(), "{what}");
}

#[test]
fn a_corrupt_journal_is_replaced_by_its_copy() {
    interrupted_journeys(|host, packages, old, step| {
        fs_err::write(journal_path(&host), "{").unwrap();
        recovers(&host, &packages, &old, &step);
    });
}

#[test]
fn recovery_works_without_a_readable_journal() {
    interrupted_journeys(|host, packages, old, step| {
        let path = journal_path(&host);
        for path in [checked_json::copy(&path), path] {
            fs_err::write(path, "{").unwrap();
        }
        recovers(&host, &packages, &old, &step);
    });
}

#[test]
fn every_flipped_bit_of_a_journal_is_detected() {
    let host = installed();
    host.crash_at(&[host.package("p", "3", &["one"])], 5).unwrap();
    let tree = Tree::open(&host.tree()).unwrap();
    let (path, known) = (tree.journal(), Journal::read(&tree).unwrap().unwrap());
    let text = fs_err::read(&path).unwrap();
    fs_err::remove_file(checked_json::copy(&path)).unwrap();
    let (mut noticed, mut harmless) = (0, 0);
    for (what, rot) in corrupted(&text, every(11)) {
        fs_err::write(&path, &rot).unwrap();
        match Journal::read(&tree) {
            Ok(journal) => {
                assert_eq!(journal.as_ref(), Some(&known), "{what}");
                harmless += 1;
            }
            Err(Error::Damaged { .. }) => noticed += 1,
            Err(error) => panic!("{what}: {error}"),
        }
    }
    assert!(noticed > harmless);
}

#[test]
fn the_journal_of_another_kernel_is_corrupt() {
    interrupted_journeys(|host, packages, old, step| {
        let path = journal_path(&host);
        let mut journal: serde_json::Value = serde_json::from_slice(&fs_err::read(&path).unwrap()).unwrap();
        journal.as_object_mut().unwrap().remove("checksum");
        journal["kernel"] = "6.1.0-55-amd64".into();
        journal["retire"] = serde_json::json!(["kcache-0123456789abcdef"]);
        for path in [checked_json::copy(&path), path] {
            fs_err::write(path, journal.to_string()).unwrap();
        }
        recovers(&host, &packages, &old, &step);
    });
}

#[test]
fn an_empty_index_is_a_fault_unless_a_depmod_writes_it_so() {
    let host = installed();
    fs_err::write(host.tree().join("modules.builtin.modinfo"), b"a.alias=pci:x\0").unwrap();
    for name in ["modules.alias.bin", "modules.symbols.bin", "modules.builtin.alias.bin"] {
        let path = host.tree().join(name);
        let whole = fs_err::read(&path).unwrap();
        fs_err::write(&path, b"").unwrap();
        let faults = verify_indexes(&host.tree()).unwrap();
        assert_eq!(faults.is_empty(), name == "modules.builtin.alias.bin", "{faults:?}");
        fs_err::write(&path, &whole).unwrap();
    }
}
