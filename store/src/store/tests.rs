use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::Manifest;
use crate::manifest::tests::{manifest, output};
use tempfile::TempDir;

const NOW: u64 = 2_000_000;
const RED: [(&str, &str); 1] = [("colour", "red")];

fn key(n: u8) -> Key {
    Key::from_bytes([n; 32])
}

fn open(dir: &Path) -> Result<Store> {
    Store::open(dir, &Waiting { limit: Duration::from_secs(20), print: &|_| () })
}

fn open_read_only(dir: &Path) -> Store {
    let waiting = Waiting { limit: Duration::ZERO, print: &|_| () };
    Store::open_existing_as(dir, false, &waiting).unwrap().unwrap()
}

/// A new store that contains the object `abc`, which the test manifest references.
fn new() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("store")).unwrap();
    store.put_object(&mut &b"abc"[..]).unwrap();
    (dir, store)
}

fn found(store: &Store) -> Vec<Key> {
    store.find(&RED).unwrap().iter().map(|row| row.key).collect()
}

/// The test entry of `n`.
fn entry(n: u8) -> Entry {
    Entry::new(manifest(key(n))).unwrap()
}

/// The test entry of `n`, with another object as its output.
fn other(store: &Store, n: u8) -> Entry {
    let stored = store.put_object(&mut &b"other"[..]).unwrap();
    Entry::new(Manifest { outputs: vec![output("a", stored.digest)], ..manifest(key(n)) }).unwrap()
}

fn names(dir: &Path) -> BTreeSet<String> {
    fs_err::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_layout_is_as_documented_and_world_readable() {
    let (_dir, store) = new();
    let expect = ["CACHEDIR.TAG", "entries", "format", "index.sqlite", "lock", "objects", "tmp"];
    let without_journal: Vec<String> =
        names(store.dir()).into_iter().filter(|name| !name.starts_with("index.sqlite-")).collect();
    assert_eq!(without_journal, expect);
    let mode = |name: &str| fs_err::metadata(store.dir().join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("objects"), mode("tmp"), mode("format")), (0o755, 0o755, 0o700, 0o644));
    assert!(names(&store.dir().join("tmp")).is_empty());
    assert!(names(&store.dir().join("lock")).is_empty());
}

#[test]
fn open_existing_creates_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let waiting = Waiting { limit: Duration::ZERO, print: &|_| () };
    assert!(Store::open_existing(&dir.path().join("none"), &waiting).unwrap().is_none());
    assert!(Store::open_existing(dir.path(), &waiting).unwrap().is_none());
    assert!(names(dir.path()).is_empty());
}

#[test]
fn an_entry_is_read_back_and_found_by_its_labels() {
    let (_dir, store) = new();
    assert_eq!(store.lookup(&key(1)).unwrap(), None);
    assert_eq!(store.insert(&entry(1), NOW).unwrap(), Inserted::New);
    assert_eq!(store.lookup(&key(1)).unwrap().unwrap(), entry(1));
    let labels = manifest(key(1)).labels;
    let row = Row { key: key(1), built: true, created: 1_000_000, used: NOW, labels, size: 3 };
    assert_eq!(store.find(&RED).unwrap(), [row]);
    assert_eq!(store.find(&[]).unwrap().len(), 1);
    assert!(store.find(&[("colour", "blue")]).unwrap().is_empty());
    assert!(store.find(&[("colour", "red"), ("size", "xl")]).unwrap().is_empty());
}

#[test]
fn the_newest_is_found_first_with_and_without_an_index() {
    let (_dir, store) = new();
    for (n, created) in [(1, 10), (2, 30), (3, 20)] {
        store.insert(&Entry::new(Manifest { created, ..manifest(key(n)) }).unwrap(), NOW).unwrap();
    }
    assert_eq!(found(&store), [key(2), key(3), key(1)]);
    let without = Store { index: None, ..store };
    assert_eq!(found(&without), [key(2), key(3), key(1)]);
}

#[test]
fn the_first_entry_of_a_key_is_kept_until_replaced_or_deleted() {
    let (_dir, store) = new();
    store.insert(&entry(1), NOW).unwrap();
    assert_eq!(store.insert(&entry(1), NOW).unwrap(), Inserted::Present);
    let other = other(&store, 1);
    assert_eq!(store.insert(&other, NOW).unwrap(), Inserted::Conflict);
    assert_eq!(store.lookup(&key(1)).unwrap().unwrap(), entry(1));
    store.replace(&other).unwrap();
    assert_eq!(store.lookup(&key(1)).unwrap().unwrap(), other);
    store.forget(&key(1)).unwrap();
    store.forget(&key(1)).unwrap();
    assert_eq!(store.lookup(&key(1)).unwrap(), None);
    assert!(found(&store).is_empty());
}

#[test]
fn an_entry_without_its_objects_is_refused() {
    let (_dir, store) = new();
    store.discard_object(&Digest::of(b"abc")).unwrap();
    let error = store.insert(&entry(1), NOW).unwrap_err().to_string();
    assert!(error.ends_with("the object of output `a` is missing"), "{error}");
    assert_eq!(store.lookup(&key(1)).unwrap(), None);
}

#[test]
fn a_corrupt_entry_is_an_error_until_it_is_replaced() {
    let (_dir, store) = new();
    let path = entry::path(&store.entries(), &key(1));
    let damages: [&dyn Fn(Vec<u8>) -> Vec<u8>; 3] =
        [&|file| file[..file.len() / 2].to_vec(), &|_| Vec::new(), &|_| entry(2).encode().unwrap()];
    for damage in damages {
        store.insert(&entry(1), NOW).unwrap();
        fs_err::write(&path, damage(fs_err::read(&path).unwrap())).unwrap();
        let error = store.lookup(&key(1)).unwrap_err();
        assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
        assert_eq!(store.insert(&entry(1), NOW).unwrap(), Inserted::New);
        assert_eq!(store.lookup(&key(1)).unwrap().unwrap(), entry(1));
    }
}

#[test]
fn an_object_is_verified_deduplicated_and_repaired_by_storing_it() {
    let (_dir, store) = new();
    let digest = Digest::of(b"abc");
    assert!(store.has_object(&digest).unwrap());
    assert_eq!(store.read_object(&digest, 3).unwrap().unwrap(), b"abc");
    assert_eq!(store.read_object(&Digest::of(b"none"), 4).unwrap(), None);
    fs_err::write(object::path(&store.objects(), &digest), zstd::encode_all(&b"abd"[..], 3).unwrap())
        .unwrap();
    assert!(matches!(store.read_object(&digest, 3), Err(Error::Damaged { .. })));
    store.discard_object(&digest).unwrap();
    assert!(!store.has_object(&digest).unwrap());
    store.put_object(&mut &b"abc"[..]).unwrap();
    assert_eq!(store.read_object(&digest, 3).unwrap().unwrap(), b"abc");
}

#[test]
fn concurrent_threads_open_and_fill_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let inserted: Vec<Inserted> = std::thread::scope(|threads| {
        let fill = || {
            let store = open(dir.path()).unwrap();
            let insert = |n| {
                store.put_object(&mut &b"abc"[..]).unwrap();
                store.insert(&entry(n), NOW).unwrap()
            };
            (0..10).map(insert).collect::<Vec<_>>()
        };
        let running: Vec<_> = (0..8).map(|_| threads.spawn(fill)).collect();
        running.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(inserted.iter().filter(|i| **i == Inserted::New).count(), 10);
    assert_eq!(inserted.iter().filter(|i| **i == Inserted::Present).count(), 70);
    assert_eq!(found(&open(dir.path()).unwrap()).len(), 10);
    assert!(names(&dir.path().join("tmp")).is_empty());
}

#[test]
fn last_uses_are_recorded_with_a_resolution_of_an_hour() {
    let (_dir, store) = new();
    store.insert(&entry(1), NOW).unwrap();
    let check = |now: u64, expect: u64| {
        store.used(&key(1), now).unwrap();
        assert_eq!(store.find(&RED).unwrap()[0].used, expect);
    };
    check(NOW + 3599, NOW);
    check(NOW + 3600, NOW + 3600);
    check(NOW, NOW + 3600);
    store.used(&key(9), NOW).unwrap();
    assert_eq!(store.reindex().unwrap(), 1);
    assert_eq!(store.find(&RED).unwrap()[0].used, NOW + 3600);
}

#[test]
fn memos_are_kept_for_half_a_year() {
    let (_dir, store) = new();
    let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
    store.remember("k", &a, b"1", NOW).unwrap();
    assert_eq!(store.memo("k", &a).unwrap().unwrap(), b"1");
    assert_eq!(store.memo("other", &a).unwrap(), None);
    store.remember("k", &a, b"2", NOW).unwrap();
    assert_eq!(store.memo("k", &a).unwrap().unwrap(), b"2");
    store.remember("k", &b, b"", NOW + 180 * 86400).unwrap();
    assert!(store.memo("k", &a).unwrap().is_some());
    store.remember("k", &b, b"", NOW + 180 * 86400 + 1).unwrap();
    assert_eq!(store.memo("k", &a).unwrap(), None);
}

#[test]
fn a_missing_or_corrupt_index_is_rebuilt_from_the_entries() {
    let damages: [&dyn Fn(&Path); 4] = [
        &|index| fs_err::remove_file(index).unwrap(),
        &|index| fs_err::write(index, "").unwrap(),
        &|index| fs_err::write(index, vec![b'x'; 8192]).unwrap(),
        &|index| {
            let mut bytes = fs_err::read(index).unwrap();
            bytes[..16].fill(0);
            fs_err::write(index, bytes).unwrap();
        },
    ];
    for damage in damages {
        let (_dir, store) = new();
        let dir = store.dir().to_owned();
        store.insert(&entry(1), NOW).unwrap();
        drop(store);
        damage(&dir.join("index.sqlite"));
        assert_eq!(found(&open(&dir).unwrap()), [key(1)]);
    }
}

#[test]
fn corruption_after_the_first_page_is_detected_in_use() {
    let (_dir, store) = new();
    store.insert(&entry(1), NOW).unwrap();
    let (dir, path) = (store.dir().to_owned(), store.index_path());
    drop(store);
    let mut bytes = fs_err::read(&path).unwrap();
    bytes[4096..].fill(0xff);
    fs_err::write(&path, bytes).unwrap();
    let store = open(&dir).unwrap();
    assert_eq!(found(&store), [key(1)]);
    assert!(dir.join("index.sqlite.damaged").exists());
    store.remember("k", &Digest::of(b""), b"1", NOW).unwrap();
}

#[test]
fn a_newer_store_or_index_is_refused_and_a_corrupt_format_reported() {
    let (_dir, store) = new();
    let dir = store.dir().to_owned();
    drop(store);
    let check = |format: &str, expect: &str| {
        fs_err::write(dir.join("format"), format).unwrap();
        let error = open(&dir).err().unwrap().to_string();
        assert!(error.ends_with(expect), "{error}");
    };
    check("2\n", "format has format 2; this kcache supports up to 1");
    check("", "format is corrupt: expected the number 1, found ``");
    fs_err::write(dir.join("format"), "1\n").unwrap();
    let db = rusqlite::Connection::open(dir.join("index.sqlite")).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    assert!(matches!(open(&dir), Err(Error::Format { found: 99, .. })));
}

/// Turns the index into one of version 1.
fn downgrade(dir: &Path) {
    let db = rusqlite::Connection::open(dir.join("index.sqlite")).unwrap();
    let script = "DROP TABLE counter;
        ALTER TABLE memo RENAME TO later;
        CREATE TABLE memo (kind TEXT, signature BLOB, value BLOB, made INTEGER, PRIMARY KEY (kind, signature))
            STRICT, WITHOUT ROWID;
        INSERT INTO memo SELECT kind, signature, value, made FROM later;
        DROP TABLE later;
        PRAGMA user_version = 1";
    db.execute_batch(script).unwrap();
}

#[test]
fn an_index_of_version_1_is_upgraded_in_place_without_loss() {
    let (_dir, store) = new();
    store.insert(&entry(1), NOW).unwrap();
    store.remember("k", &Digest::of(b""), b"1", NOW).unwrap();
    let dir = store.dir().to_owned();
    drop(store);
    downgrade(&dir);
    let read_only = open_read_only(&dir);
    assert_eq!((found(&read_only), read_only.counts().unwrap()), (vec![key(1)], BTreeMap::new()));
    let store = open(&dir).unwrap();
    assert_eq!(found(&store), [key(1)]);
    assert_eq!(store.memo("k", &Digest::of(b"")).unwrap().as_deref(), Some(&b"1"[..]));
    store.count(&BTreeMap::from([("hits", 1)])).unwrap();
    assert!(!dir.join("index.sqlite.damaged").exists());
}

#[test]
fn concurrent_threads_upgrade_one_index() {
    let (_dir, store) = new();
    let dir = store.dir().to_owned();
    drop(store);
    downgrade(&dir);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| open(&dir).unwrap().count(&BTreeMap::from([("hits", 1)])).unwrap());
        }
    });
    assert_eq!(open(&dir).unwrap().counts().unwrap(), BTreeMap::from([("hits".to_owned(), 8)]));
}

#[test]
fn counters_add_up_over_runs_and_restart_with_a_new_index() {
    let (_dir, store) = new();
    let dir = store.dir().to_owned();
    assert!(store.counts().unwrap().is_empty());
    store.count(&BTreeMap::from([("hits", 2), ("misses", 1)])).unwrap();
    drop(store);
    let store = open(&dir).unwrap();
    store.count(&BTreeMap::from([("hits", 3)])).unwrap();
    let expect = BTreeMap::from([("hits".to_owned(), 5), ("misses".to_owned(), 1)]);
    assert_eq!(store.counts().unwrap(), expect);
    let read_only = open_read_only(&dir);
    read_only.count(&BTreeMap::from([("hits", 1)])).unwrap();
    assert_eq!(read_only.counts().unwrap(), expect);
    drop((store, read_only));
    fs_err::remove_file(dir.join("index.sqlite")).unwrap();
    assert!(open(&dir).unwrap().counts().unwrap().is_empty());
}

#[test]
fn usage_counts_entries_and_objects_as_stored() {
    let (_dir, store) = new();
    let objects = store.usage().unwrap();
    assert_eq!((objects.entries, objects.objects), (0, 1));
    store.insert(&entry(1), NOW).unwrap();
    let size = fs_err::metadata(entry::path(&store.entries(), &key(1))).unwrap().len();
    assert_eq!(store.usage().unwrap(), Usage { entries: 1, bytes: objects.bytes + size, ..objects });
}

#[test]
fn a_read_only_store_can_be_read_and_refuses_writes() {
    let (_dir, store) = new();
    store.insert(&entry(1), NOW).unwrap();
    let dir = store.dir().to_owned();
    drop(store);
    let before = names(&dir);
    fs_err::remove_file(dir.join("index.sqlite")).unwrap();
    for _ in ["without an index", "still without"] {
        let store = open_read_only(&dir);
        assert_eq!(found(&store), [key(1)]);
        assert!(store.lookup(&key(1)).unwrap().is_some());
        assert_eq!(store.read_object(&Digest::of(b"abc"), 3).unwrap().unwrap(), b"abc");
        store.used(&key(1), NOW * 2).unwrap();
        store.remember("k", &Digest::of(b""), b"1", NOW).unwrap();
        assert_eq!(store.memo("k", &Digest::of(b"")).unwrap(), None);
        let refused = |done: Result<()>| assert!(matches!(done, Err(Error::ReadOnly { .. })));
        refused(store.insert(&entry(2), NOW).map(drop));
        refused(store.replace(&entry(2)));
        refused(store.forget(&key(1)));
        refused(store.put_object(&mut &b"x"[..]).map(drop));
        refused(store.discard_object(&Digest::of(b"abc")));
        refused(store.reindex().map(drop));
        refused(store.scratch().map(drop));
        refused(store.lock("a", &Waiting { limit: Duration::ZERO, print: &|_| () }).map(drop));
    }
    open(&dir).unwrap();
    assert_eq!(names(&dir), before);
}

#[test]
fn the_index_can_be_in_another_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (files, local) = (dir.path().join("files"), dir.path().join("local"));
    fs_err::create_dir(&local).unwrap();
    let waiting = Waiting { limit: Duration::ZERO, print: &|_| () };
    let store = Store::open_with_index(&files, &local, &waiting).unwrap();
    store.remember("k", &Digest::of(b""), b"1", NOW).unwrap();
    assert!(local.join("index.sqlite").exists());
    assert!(!files.join("index.sqlite").exists());
}

#[test]
fn scratch_directories_are_deleted_and_lock_names_are_checked() {
    let (_dir, store) = new();
    let scratch = store.scratch().unwrap().path().to_owned();
    assert!(scratch.starts_with(store.dir().join("tmp")) && !scratch.exists());
    let waiting = Waiting { limit: Duration::ZERO, print: &|_| () };
    let held = store.lock("a.b-1", &waiting).unwrap();
    assert!(matches!(store.lock("a.b-1", &waiting), Err(Error::Busy { .. })));
    drop(held);
    store.lock("a.b-1", &waiting).unwrap();
    assert!(matches!(store.lock("../a", &waiting), Err(Error::Name { .. })));
}
