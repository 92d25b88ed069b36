//! Tests of corruption: each bit of an entry, each byte of an object, each length. Corruption that is not detected
//! must not change any answer.

use std::sync::atomic::AtomicBool;

use super::*;
use crate::manifest::tests::manifest;
use crate::trust::tests::builder;
use crate::{Output, SharedCaches, Trust, Waiting, entry};

const KEY: Key = Key::from_bytes([7; 32]);
const OTHER: Key = Key::from_bytes([8; 32]);
const PATIENT: Waiting = Waiting { limit: std::time::Duration::from_secs(10), print: &|_| () };

/// A store with a signed entry of two objects, an unsigned entry of one object, and a pointer.
fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &PATIENT).unwrap();
    let put = |name: &str, text: &[u8]| {
        let stored = store.put_object(&mut &text[..]).unwrap();
        Output { name: name.into(), role: crate::Role::Module, digest: stored.digest, size: stored.size }
    };
    let one = [put("a.ko", b"the first module"), put("b.ko", b"the second")];
    let two = [put("c.ko", b"another")];
    let mut signed = Entry::new(crate::Manifest { outputs: one.to_vec(), ..manifest(KEY) }).unwrap();
    signed.sign(&builder(1));
    let unsigned = Entry::new(crate::Manifest { outputs: two.to_vec(), ..manifest(OTHER) }).unwrap();
    store.insert(&signed, 5).unwrap();
    store.insert(&unsigned, 5).unwrap();
    let name = Pointer::name("6.1", Digest::of(b"k"), "p").unwrap();
    store.point(&name, &Pointer::new(&name, KEY, 1, &builder(1)).unwrap()).unwrap();
    (dir, store)
}

fn findings(store: &Store) -> Vec<Finding> {
    let mut found = Vec::new();
    verify(store, &AtomicBool::new(false), &mut |finding| {
        found.push(finding);
        Ok(())
    })
    .unwrap();
    found
}

/// All files of the store with content, except the index.
fn all_files(store: &Store) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (dir, ending) in [("entries", ".json"), ("objects", ".zst"), ("by-kernel/6.1", ".json")] {
        files(&store.dir().join(dir), ending, &mut |_, path, _| {
            found.push(path.to_owned());
            Ok(())
        })
        .unwrap();
    }
    found
}

/// All answers of the store: the entries with their modules' bytes, and the pointer.
fn answers(store: &Store) -> Vec<String> {
    let mut found: Vec<String> = [KEY, OTHER]
        .iter()
        .filter_map(|key| store.lookup(key).ok().flatten())
        .map(|entry| {
            let bytes = |output: &Output| store.read_object(&output.digest, output.size).ok();
            let all: Vec<_> = entry.manifest().outputs.iter().map(bytes).collect();
            format!("{:?} {all:?}", entry)
        })
        .collect();
    let name = Pointer::name("6.1", Digest::of(b"k"), "p").unwrap();
    found.push(format!("{:?}", store.pointer(&name).ok()));
    found
}

/// Corrupts a file in many ways; each must be detected or change no answer. Returns the number of each.
fn corrupt(path: &Path, store: &Store, ways: impl Iterator<Item = Vec<u8>>) -> (usize, usize) {
    let (whole, healthy) = (fs_err::read(path).unwrap(), answers(store));
    let (mut noticed, mut harmless) = (0, 0);
    for (at, bytes) in ways.enumerate() {
        fs_err::write(path, &bytes).unwrap();
        if findings(store).iter().any(|finding| finding.path == path) {
            noticed += 1;
        } else {
            assert_eq!(answers(store), healthy, "way {at} of damaging {} goes unnoticed", path.display());
            harmless += 1;
        }
    }
    fs_err::write(path, whole).unwrap();
    (noticed, harmless)
}

#[test]
fn an_intact_store_has_no_findings() {
    let (_dir, store) = store();
    assert!(findings(&store).is_empty());
    let seen = verify(&store, &AtomicBool::new(false), &mut |_| Ok(())).unwrap();
    assert_eq!((seen.objects, seen.entries, seen.pointers), (3, 2, 1));
}

#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    let (_dir, store) = store();
    // Five has no factor in common with eight, so a sample has bits of each place, and some of each byte.
    let every = if std::env::var_os("KCACHE_TORTURE").is_some() { 1 } else { 5 };
    for path in all_files(&store) {
        let whole = fs_err::read(&path).unwrap();
        let flipped = (0..whole.len() * 8).step_by(every).map(|bit| {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes
        });
        let (noticed, harmless) = corrupt(&path, &store, flipped);
        let flips = (whole.len() * 8).div_ceil(every);
        assert_eq!(noticed + harmless, flips);
        // The name of the checksum's field, which then is an unknown field; unused bits of a frame's header.
        assert!(harmless <= 8 * 10, "{harmless} of {flips} flips of {} change nothing", path.display());
    }
}

#[test]
fn every_truncation_is_detected_or_harmless() {
    let (_dir, store) = store();
    for path in all_files(&store) {
        let whole = fs_err::read(&path).unwrap();
        let (_, harmless) = corrupt(&path, &store, (0..whole.len()).map(|length| whole[..length].to_vec()));
        assert!(harmless <= 1, "{harmless} truncations of {} change nothing", path.display()); // the last line's end
    }
}

#[test]
fn swapped_empty_and_zeroed_files_are_detected() {
    let (_dir, store) = store();
    let paths = all_files(&store);
    for path in &paths {
        let others: Vec<Vec<u8>> =
            paths.iter().filter(|other| *other != path).map(|p| fs_err::read(p).unwrap()).collect();
        let zeroed = vec![0; fs_err::read(path).unwrap().len()];
        let ways = others.into_iter().chain([Vec::new(), zeroed]);
        assert_eq!(corrupt(path, &store, ways).1, 0, "{}", path.display());
    }
}

fn mend(store: &Store) -> Vec<(Corrupt, Repaired)> {
    let caches = SharedCaches::new(Vec::new(), Trust::default());
    let repair = Repair { store, caches: &caches, waiting: &PATIENT, now: 9 };
    let mut done = Vec::new();
    verify(store, &AtomicBool::new(false), &mut |finding| {
        done.push((finding.what.clone(), repair.repair(&finding)?));
        Ok(())
    })
    .unwrap();
    done
}

#[test]
fn a_corrupt_object_is_deleted_with_exactly_the_entries_that_need_it() {
    let (_dir, store) = store();
    let digest = Digest::of(b"the second");
    fs_err::write(object::path(&store.objects(), &digest), "rot").unwrap();
    let done = mend(&store);
    assert_eq!(
        done,
        [(Corrupt::Object(digest), Repaired::Deleted), (Corrupt::Lacking(KEY), Repaired::Deleted)]
    );
    assert!(store.lookup(&KEY).unwrap().is_none() && store.lookup(&OTHER).unwrap().is_some());
    assert!(findings(&store).is_empty());
}

#[test]
fn a_wrong_index_is_rebuilt() {
    let (_dir, store) = store();
    store.update(|index| index.remove(&[KEY])).unwrap();
    assert_eq!(findings(&store)[0].what, Corrupt::Index);
    assert_eq!(mend(&store), [(Corrupt::Index, Repaired::MadeAgain)]);
    assert!(findings(&store).is_empty());

    fs_err::remove_file(entry::path(&store.entries(), &OTHER)).unwrap();
    assert!(findings(&store)[0].wrong.contains("1 rows have no entry"), "{:?}", findings(&store));
    mend(&store);
    assert!(findings(&store).is_empty());
}

#[test]
fn concurrent_repairs_are_kept() {
    let (_dir, store) = store();
    let whole = answers(&store);
    let caches = SharedCaches::new(Vec::new(), Trust::default());
    let repair = Repair { store: &store, caches: &caches, waiting: &PATIENT, now: 9 };
    for path in all_files(&store) {
        let bytes = fs_err::read(&path).unwrap();
        for damage in [Some(&b"something else"[..]), None] {
            match damage {
                Some(damage) => fs_err::write(&path, damage).unwrap(),
                None => fs_err::remove_file(&path).unwrap(),
            }
            let found = findings(&store);
            fs_err::write(&path, &bytes).unwrap();
            // The index is rebuilt, whatever it contains by now.
            for finding in found.iter().filter(|finding| finding.what != Corrupt::Index) {
                assert_eq!(repair.repair(finding).unwrap(), Repaired::Nothing, "{finding:?}");
            }
        }
        assert_eq!(answers(&store), whole, "{}", path.display());
    }
    assert!(findings(&store).is_empty());
}

#[test]
fn a_corrupt_pointer_is_deleted() {
    let (_dir, store) = store();
    let path =
        all_files(&store).into_iter().find(|path| path.to_string_lossy().contains("by-kernel")).unwrap();
    fs_err::write(&path, "{}").unwrap();
    assert_eq!(mend(&store)[0].1, Repaired::Deleted);
    assert!(!path.exists() && findings(&store).is_empty());
}

#[test]
fn an_entry_with_a_wrong_size_is_reported_and_deleted() {
    for size in [6, 8, 1 << 30] {
        let (_dir, store) = store();
        let entry = store.lookup(&OTHER).unwrap().unwrap();
        let mut outputs = entry.manifest().outputs.clone();
        outputs[0].size = size;
        let lie = Entry::new(crate::Manifest { outputs, ..entry.into_manifest() }).unwrap();
        store.replace(&lie).unwrap();
        let found = findings(&store);
        assert_eq!((found.len(), &found[0].what), (1, &Corrupt::Untrue(OTHER)), "{found:?}");
        assert!(found[0].wrong.contains(&format!("should have {size} bytes")), "{}", found[0].wrong);
        assert_eq!(mend(&store), [(Corrupt::Untrue(OTHER), Repaired::Deleted)]);
        assert!(store.lookup(&OTHER).unwrap().is_none() && findings(&store).is_empty());
    }
}

/// Entries of two kinds with labels of some length, and memos: an index of many pages.
fn indexed() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &PATIENT).unwrap();
    let digest = store.put_object(&mut &b"abc"[..]).unwrap().digest;
    for n in 0..24 {
        let labels = [("kind", format!("{:0>120}", n % 2)), ("number", format!("{n:0>120}"))];
        let outputs = vec![crate::manifest::tests::output("a", digest)];
        let labels = labels.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        let manifest = crate::Manifest { labels, outputs, ..manifest(Key::from_bytes([n; 32])) };
        store.insert(&Entry::new(manifest).unwrap(), 5).unwrap();
        store.remember("digest", &Digest::of(&[n]), &[n; 32], 5).unwrap();
    }
    (dir, store)
}

/// Answers that come from the index alone.
type Answers = (Vec<Vec<Key>>, Vec<Option<Vec<u8>>>);

fn asked(store: &Store) -> crate::Result<Answers> {
    let kind = |n: u8| {
        let rows = store.find(&[("kind", &format!("{n:0>120}"))])?;
        Ok(rows.iter().map(|row| row.key).collect())
    };
    let memo = |n: u8| store.memo("digest", &Digest::of(&[n]));
    store.used(&Key::from_bytes([3; 32]), 9)?;
    store.counts()?;
    Ok(((0..2).map(kind).collect::<crate::Result<_>>()?, (0..24).map(memo).collect::<crate::Result<_>>()?))
}

/// Whether answers are a subset of the complete ones.
fn is_part(found: &Answers, whole: &Answers) -> bool {
    let rows = found.0.iter().zip(&whole.0).all(|(found, whole)| found.iter().all(|key| whole.contains(key)));
    rows && found.1.iter().zip(&whole.1).all(|(found, whole)| found.is_none() || found == whole)
}

#[test]
fn a_corrupt_index_gives_no_wrong_answer_and_is_rebuilt() {
    let (dir, store) = indexed();
    let whole = asked(&store).unwrap();
    let path = store.index_path();
    // The last process that closes it writes the journal back.
    drop(store);
    let bytes = fs_err::read(&path).unwrap();
    let every = if std::env::var_os("KCACHE_TORTURE").is_some() { 17 } else { 499 };
    let flips = (0..bytes.len()).step_by(every).map(|at| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at / every % 8);
        (format!("byte {at}"), bytes)
    });
    // Each byte of the header, which determines how all others are read.
    let head = (0..100).map(|at| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        (format!("byte {at} of the head"), bytes)
    });
    let cuts =
        (0..bytes.len()).step_by(every * 4 + 1).map(|at| (format!("{at} bytes"), bytes[..at].to_vec()));
    let (mut newer, mut lacking, mut made_again, mut harmless) = (0, 0, 0, 0);
    for (what, rot) in flips.chain(head).chain(cuts) {
        for entry in fs_err::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with("index.sqlite") {
                fs_err::remove_file(path).unwrap();
            }
        }
        fs_err::write(&path, rot).unwrap();
        let store = match Store::open(dir.path(), &PATIENT) {
            Ok(store) => store,
            // It may claim to be of a later version.
            Err(Error::Format { .. }) => {
                newer += 1;
                continue;
            }
            Err(error) => panic!("{what}: {error}"),
        };
        let found = asked(&store).unwrap_or_else(|error| panic!("{what}: {error:?}"));
        assert!(is_part(&found, &whole), "{what}: wrong");
        assert_eq!(store.lookup(&Key::from_bytes([3; 32])).unwrap().unwrap().manifest().created, 1_000_000);
        let told = !findings(&store).is_empty();
        assert!(told || found.0 == whole.0, "{what}: rows are lacking, and nothing is told");
        mend(&store);
        assert_eq!(asked(&store).unwrap().0, whole.0, "{what}");
        assert!(findings(&store).is_empty(), "{what}");
        let aside = dir.path().join("index.sqlite.damaged").exists();
        *(if told {
            &mut lacking
        } else if aside {
            &mut made_again
        } else {
            &mut harmless
        }) += 1;
    }
    assert!(newer < 8 && lacking + made_again > 20);
}
