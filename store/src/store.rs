//! The store itself: its layout, and the order in which things become visible.
//!
//! An object is published before the entry that speaks of it, and the entry's file before its row. So a reader that
//! finds an entry finds its objects, unless somebody deleted them since, and whoever deletes goes the other way
//! round. Two processes that make the same entry publish the same objects twice, harmlessly, and the first entry
//! stays. A full disk fails the write and leaves what was there; only rows and memos are then left out silently.
//!
//! ```text
//! put_object ... -> insert: entries/ab/<key>.json -> row        found by lookup() through the file alone
//! forget:         entries/ab/<key>.json gone -> row gone        objects stay until they are collected
//! ```

use std::fs::{DirBuilder, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::error::at;
use crate::index::{Found, Index, network_fs};
use crate::manifest::is_flat;
use crate::publish::{IfTaken, publish_bytes};
use crate::{
    Digest, Entry, Error, FORMAT, Key, Lock, Manifest, Result, Row, Scratch, Waiting, entry, object,
};

/// The text that makes a directory a cache (<https://bford.info/cachedir/>).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This directory is a cache of kcache: it can be deleted at any time.\n";
/// The lock under which the index is made.
const INDEX_LOCK: &str = "index";

/// An open store. Any number of threads may use one.
pub struct Store {
    dir: PathBuf,
    index_dir: PathBuf,
    /// None where the store does without.
    index: Option<Mutex<Index>>,
    writable: bool,
    patience: Duration,
}

/// What [`Store::insert`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The key had no entry, or a damaged one; now it has this one.
    New,
    /// The key had an entry that says the same; it stays.
    Present,
    /// The key had an entry with another outcome or other outputs (logs aside); it stays.
    Conflict,
}

/// An object that is now in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes, uncompressed.
    pub size: u64,
}

impl Store {
    /// Opens the store in `dir`, making it where there is none.
    pub fn open(dir: &Path, waiting: &Waiting) -> Result<Store> {
        Store::open_with_index(dir, dir, waiting)
    }

    /// The same with the index in another directory, for a store on a network file system. Each host then has an
    /// index of its own, which learns of other hosts' entries by [`Store::reindex`].
    pub fn open_with_index(dir: &Path, index_dir: &Path, waiting: &Waiting) -> Result<Store> {
        if !is_store(dir)? {
            make(dir)?;
        }
        let mut store = Store::on(dir, index_dir, is_writable(dir), waiting);
        if let Some(kind) = network_fs(index_dir)?.filter(|_| store.writable) {
            return Err(Error::NetworkFs { path: index_dir.to_owned(), kind });
        }
        store.attach_index(waiting)?;
        Ok(store)
    }

    /// Opens the store in `dir` if there is one. Makes no store, and on one that cannot be written nothing at all.
    pub fn open_existing(dir: &Path, waiting: &Waiting) -> Result<Option<Store>> {
        Store::open_existing_as(dir, is_writable(dir), waiting)
    }

    fn open_existing_as(dir: &Path, writable: bool, waiting: &Waiting) -> Result<Option<Store>> {
        if !is_store(dir)? {
            return Ok(None);
        }
        let mut store = Store::on(dir, dir, writable, waiting);
        if network_fs(dir)?.is_none() {
            store.attach_index(waiting)?;
        }
        Ok(Some(store))
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The key's entry. It is read from its file and checked in full; the index is not asked.
    pub fn lookup(&self, key: &Key) -> Result<Option<Entry>> {
        entry::read(&self.entries(), key)
    }

    /// Adds an entry whose objects are all here. The first entry of a key stays.
    pub fn insert(&self, manifest: &Manifest, now: u64) -> Result<Inserted> {
        let path = entry::path(&self.entries(), &manifest.key);
        let file = self.encode(manifest, &path)?;
        let mut done = Inserted::New;
        let mut row = Row { used: now, ..Row::of(manifest) };
        if !publish_bytes(&self.tmp(), &path, &file, IfTaken::Keep)? {
            match self.lookup(&manifest.key) {
                Ok(Some(first)) => {
                    let same = first.manifest.agrees_with(manifest);
                    done = if same { Inserted::Present } else { Inserted::Conflict };
                    row = Row { used: now, ..Row::of(&first.manifest) };
                }
                // It is gone again, or says nothing that could be kept.
                Ok(None) | Err(Error::Damaged { .. } | Error::Entry { .. }) => {
                    publish_bytes(&self.tmp(), &path, &file, IfTaken::Replace)?;
                }
                Err(e) => return Err(e),
            }
        }
        // Also where the file was there: a crash may have come between it and its row.
        self.update(|index| index.put(&row))?;
        Ok(done)
    }

    /// Adds an entry whose objects are all here, in place of any that the key has.
    pub fn replace(&self, manifest: &Manifest) -> Result<()> {
        let path = entry::path(&self.entries(), &manifest.key);
        let file = self.encode(manifest, &path)?;
        publish_bytes(&self.tmp(), &path, &file, IfTaken::Replace)?;
        self.update(|index| index.put(&Row::of(manifest)))
    }

    /// Deletes the key's entry, if it has one. Its objects stay.
    pub fn forget(&self, key: &Key) -> Result<()> {
        self.must_write()?;
        remove(&entry::path(&self.entries(), key))?;
        self.update(|index| index.remove(key))
    }

    /// Stores all bytes of `from`.
    pub fn put_object(&self, from: &mut dyn Read) -> Result<Stored> {
        self.must_write()?;
        object::put(&self.objects(), &self.tmp(), from)
    }

    /// Writes an object of `size` bytes to `to`, at most that many; false where it is not there. All bytes are hashed
    /// on their way: after an error those already written are worthless, and the caller's to discard.
    pub fn copy_object(&self, digest: &Digest, size: u64, to: &mut dyn Write) -> Result<bool> {
        object::copy(&self.objects(), digest, size, to)
    }

    /// Whether there is a file for the object; not whether it is whole.
    pub fn has_object(&self, digest: &Digest) -> Result<bool> {
        match fs_err::metadata(object::path(&self.objects(), digest)) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// An object of `size` bytes in memory, verified; for logs and other small ones.
    pub fn read_object(&self, digest: &Digest, size: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        Ok(self.copy_object(digest, size, &mut bytes)?.then_some(bytes))
    }

    /// Deletes an object, if it is there: a damaged one, before it is stored again.
    pub fn discard_object(&self, digest: &Digest) -> Result<()> {
        self.must_write()?;
        remove(&object::path(&self.objects(), digest))
    }

    /// The entries that have all these labels, newest first. A row promises nothing: look its key up.
    pub fn find(&self, labels: &[(&str, &str)]) -> Result<Vec<Row>> {
        if let Some(rows) = self.with_index(|index| index.find(labels))? {
            return Ok(rows);
        }
        let has =
            |row: &Row| labels.iter().all(|(name, value)| row.labels.get(*name).is_some_and(|v| v == value));
        let mut rows: Vec<Row> = self.rows()?.into_iter().filter(has).collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.created), row.key));
        Ok(rows)
    }

    /// Notes that the entry was used, to the hour, where that can be noted.
    pub fn used(&self, key: &Key, now: u64) -> Result<()> {
        self.update(|index| index.used(key, now))
    }

    /// What was remembered under a signature.
    pub fn memo(&self, kind: &str, signature: &Digest) -> Result<Option<Vec<u8>>> {
        Ok(self.with_index(|index| index.memo(kind, signature))?.flatten())
    }

    /// Remembers a value under a signature, where that is possible.
    pub fn remember(&self, kind: &str, signature: &Digest, value: &[u8], now: u64) -> Result<()> {
        self.update(|index| index.remember(kind, signature, value, now))
    }

    /// Makes the index say what the entries say, and counts them.
    pub fn reindex(&self) -> Result<u64> {
        self.must_write()?;
        let rows = self.rows()?;
        self.with_index(|index| index.replace_rows(&rows))?;
        Ok(rows.len() as u64)
    }

    /// An empty private directory on the store's file system, deleted when it is dropped.
    pub fn scratch(&self) -> Result<Scratch> {
        self.must_write()?;
        Scratch::new(&self.tmp())
    }

    /// Takes the lock with this flat name, waiting for another holder as long as `waiting` allows.
    pub fn lock(&self, name: &str, waiting: &Waiting) -> Result<Lock> {
        self.must_write()?;
        if !is_flat(name) {
            return Err(Error::Name { name: name.to_owned() });
        }
        Lock::take(&self.dir.join("lock").join(name), waiting)
    }

    fn on(dir: &Path, index_dir: &Path, writable: bool, waiting: &Waiting) -> Store {
        let (dir, index_dir) = (dir.to_owned(), index_dir.to_owned());
        Store { dir, index_dir, index: None, writable, patience: waiting.limit }
    }

    fn entries(&self) -> PathBuf {
        self.dir.join("entries")
    }

    fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    fn index_path(&self) -> PathBuf {
        self.index_dir.join("index.sqlite")
    }

    fn must_write(&self) -> Result<()> {
        if self.writable { Ok(()) } else { Err(Error::ReadOnly { path: self.dir.clone() }) }
    }

    /// The file of an entry that may be published now.
    fn encode(&self, manifest: &Manifest, path: &Path) -> Result<Vec<u8>> {
        self.must_write()?;
        let invalid = |reason| Error::Entry { path: path.to_owned(), reason };
        for output in &manifest.outputs {
            if !self.has_object(&output.digest)? {
                return Err(invalid(format!("the object of its output `{}` is missing", output.name)));
            }
        }
        entry::encode(manifest).map_err(invalid)
    }

    /// The rows of all entries that can be read. Others are for whoever looks them up to report and heal.
    fn rows(&self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for key in entry::keys(&self.entries())? {
            match self.lookup(&key) {
                Ok(entry) => rows.extend(entry.map(|entry| Row::of(&entry.manifest))),
                Err(Error::Damaged { .. } | Error::Entry { .. } | Error::Format { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(rows)
    }

    /// Opens the index, making it where it is missing or damaged and can be made.
    fn attach_index(&mut self, waiting: &Waiting) -> Result<()> {
        let index = match Index::open(&self.index_path(), self.writable, self.patience)? {
            Found::Index(index) => Ok(Some(index)),
            Found::Nothing | Found::Damaged if self.writable => self.make_index(waiting).map(Some),
            Found::Nothing | Found::Damaged | Found::Unreachable => Ok(None),
        };
        self.index = match index {
            Err(e) if e.is_unreachable_index() => None,
            index => index?.map(Mutex::new),
        };
        Ok(())
    }

    /// Makes the index from the entries, unless another process did so while this one waited for the lock.
    fn make_index(&self, waiting: &Waiting) -> Result<Index> {
        let _lock = self.lock(INDEX_LOCK, waiting)?;
        let path = self.index_path();
        match Index::open(&path, true, self.patience)? {
            Found::Index(index) if index.is_sound() => return Ok(index),
            Found::Index(_) | Found::Damaged => Index::set_aside(&path)?,
            Found::Nothing | Found::Unreachable => {}
        }
        Index::create(&path, &self.rows()?, self.patience)
    }

    /// Asks the index, if there is one. One that turns out to be damaged is made again, and asked again.
    fn with_index<T>(&self, mut act: impl FnMut(&mut Index) -> Result<T>) -> Result<Option<T>> {
        let Some(index) = &self.index else { return Ok(None) };
        let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
        match act(&mut index) {
            Err(e) if e.is_index_damage() && self.writable => {
                *index = self.make_index(&Waiting { limit: self.patience, say: &|_| () })?;
                act(&mut index).map(Some)
            }
            done => done.map(Some),
        }
    }

    /// Changes the index, where it can be changed. It is derived, so a full disk is no reason to fail: the entry
    /// that a row is about has reached its file.
    fn update(&self, act: impl FnMut(&mut Index) -> Result<()>) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        match self.with_index(act) {
            Err(e) if !e.is_unreachable_index() => Err(e),
            _ => Ok(()),
        }
    }
}

/// Whether there is a store, of a format that can be read.
fn is_store(dir: &Path) -> Result<bool> {
    let path = dir.join("format");
    let text = match fs_err::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    match text.trim_end().parse() {
        Ok(FORMAT) => Ok(true),
        Ok(found) if found > FORMAT => Err(Error::Format { path, found }),
        _ => {
            let found = format!("`{}`", text.trim_end().escape_debug());
            Err(Error::Damaged { path, expected: format!("the number {FORMAT}"), found })
        }
    }
}

/// Makes the layout. `format` comes last: where it stands, all of it does.
fn make(dir: &Path) -> Result<()> {
    make_dir(dir, 0o755)?;
    for (name, mode) in [("entries", 0o755), ("objects", 0o755), ("lock", 0o755), ("tmp", 0o700)] {
        make_dir(&dir.join(name), mode)?;
    }
    let tmp = dir.join("tmp");
    publish_bytes(&tmp, &dir.join("CACHEDIR.TAG"), CACHEDIR_TAG.as_bytes(), IfTaken::Keep)?;
    publish_bytes(&tmp, &dir.join("format"), format!("{FORMAT}\n").as_bytes(), IfTaken::Keep)?;
    Ok(())
}

/// Makes a directory, and those above it, unless it is there. Its mode is not the umask's business.
fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(at("create", dir))?;
    Ok(fs_err::set_permissions(dir, Permissions::from_mode(mode))?)
}

fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

fn remove(path: &Path) -> Result<()> {
    match fs_err::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::manifest::tests::{manifest, output};
    use tempfile::TempDir;

    const NOW: u64 = 2_000_000;
    const RED: [(&str, &str); 1] = [("colour", "red")];

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 32])
    }

    fn open(dir: &Path) -> Result<Store> {
        Store::open(dir, &Waiting { limit: Duration::from_secs(20), say: &|_| () })
    }

    fn open_read_only(dir: &Path) -> Store {
        let waiting = Waiting { limit: Duration::ZERO, say: &|_| () };
        Store::open_existing_as(dir, false, &waiting).unwrap().unwrap()
    }

    /// A new store that holds the object `abc`, which the test manifest is about.
    fn new() -> (TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir.path().join("store")).unwrap();
        store.put_object(&mut &b"abc"[..]).unwrap();
        (dir, store)
    }

    fn found(store: &Store) -> Vec<Key> {
        store.find(&RED).unwrap().iter().map(|row| row.key).collect()
    }

    /// The test manifest of `n`, with another object as its output.
    fn other(store: &Store, n: u8) -> Manifest {
        let stored = store.put_object(&mut &b"other"[..]).unwrap();
        Manifest { outputs: vec![output("a", stored.digest)], ..manifest(key(n)) }
    }

    fn names(dir: &Path) -> BTreeSet<String> {
        fs_err::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn the_layout_is_as_drawn_and_ready_for_everyone_to_read() {
        let (_dir, store) = new();
        let expect = ["CACHEDIR.TAG", "entries", "format", "index.sqlite", "lock", "objects", "tmp"];
        let without_journal: Vec<String> =
            names(store.dir()).into_iter().filter(|name| !name.starts_with("index.sqlite-")).collect();
        assert_eq!(without_journal, expect);
        let mode =
            |name: &str| fs_err::metadata(store.dir().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(""), mode("objects"), mode("tmp"), mode("format")), (0o755, 0o755, 0o700, 0o644));
        assert!(names(&store.dir().join("tmp")).is_empty());
        assert!(names(&store.dir().join("lock")).is_empty());
    }

    #[test]
    fn where_there_is_no_store_none_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let waiting = Waiting { limit: Duration::ZERO, say: &|_| () };
        assert!(Store::open_existing(&dir.path().join("none"), &waiting).unwrap().is_none());
        assert!(Store::open_existing(dir.path(), &waiting).unwrap().is_none());
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn an_entry_comes_back_and_is_found_by_all_its_labels() {
        let (_dir, store) = new();
        assert_eq!(store.lookup(&key(1)).unwrap(), None);
        assert_eq!(store.insert(&manifest(key(1)), NOW).unwrap(), Inserted::New);
        assert_eq!(store.lookup(&key(1)).unwrap().unwrap().manifest, manifest(key(1)));
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
            store.insert(&Manifest { created, ..manifest(key(n)) }, NOW).unwrap();
        }
        assert_eq!(found(&store), [key(2), key(3), key(1)]);
        let without = Store { index: None, ..store };
        assert_eq!(found(&without), [key(2), key(3), key(1)]);
    }

    #[test]
    fn the_first_entry_of_a_key_stays_until_it_is_replaced_or_forgotten() {
        let (_dir, store) = new();
        store.insert(&manifest(key(1)), NOW).unwrap();
        assert_eq!(store.insert(&manifest(key(1)), NOW).unwrap(), Inserted::Present);
        let other = other(&store, 1);
        assert_eq!(store.insert(&other, NOW).unwrap(), Inserted::Conflict);
        assert_eq!(store.lookup(&key(1)).unwrap().unwrap().manifest, manifest(key(1)));
        store.replace(&other).unwrap();
        assert_eq!(store.lookup(&key(1)).unwrap().unwrap().manifest, other);
        store.forget(&key(1)).unwrap();
        store.forget(&key(1)).unwrap();
        assert_eq!(store.lookup(&key(1)).unwrap(), None);
        assert!(found(&store).is_empty());
    }

    #[test]
    fn an_entry_without_its_objects_is_not_taken() {
        let (_dir, store) = new();
        store.discard_object(&Digest::of(b"abc")).unwrap();
        let error = store.insert(&manifest(key(1)), NOW).unwrap_err().to_string();
        assert!(error.ends_with("the object of its output `a` is missing"), "{error}");
        assert_eq!(store.lookup(&key(1)).unwrap(), None);
    }

    #[test]
    fn a_damaged_entry_is_an_error_until_it_is_made_again() {
        let (_dir, store) = new();
        let path = entry::path(&store.entries(), &key(1));
        let damages: [&dyn Fn(Vec<u8>) -> Vec<u8>; 3] =
            [&|file| file[..file.len() / 2].to_vec(), &|_| Vec::new(), &|_| {
                entry::encode(&manifest(key(2))).unwrap()
            }];
        for damage in damages {
            store.insert(&manifest(key(1)), NOW).unwrap();
            fs_err::write(&path, damage(fs_err::read(&path).unwrap())).unwrap();
            let error = store.lookup(&key(1)).unwrap_err();
            assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
            assert_eq!(store.insert(&manifest(key(1)), NOW).unwrap(), Inserted::New);
            assert_eq!(store.lookup(&key(1)).unwrap().unwrap().manifest, manifest(key(1)));
        }
    }

    #[test]
    fn an_object_is_verified_stored_once_and_healed_by_storing_it_again() {
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
    fn many_at_once_open_and_fill_one_store() {
        let dir = tempfile::tempdir().unwrap();
        let inserted: Vec<Inserted> = std::thread::scope(|threads| {
            let fill = || {
                let store = open(dir.path()).unwrap();
                let insert = |n| {
                    store.put_object(&mut &b"abc"[..]).unwrap();
                    store.insert(&manifest(key(n)), NOW).unwrap()
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
    fn a_last_use_is_noted_to_the_hour() {
        let (_dir, store) = new();
        store.insert(&manifest(key(1)), NOW).unwrap();
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
    fn a_memo_stays_for_half_a_year() {
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
    fn a_missing_or_damaged_index_is_built_again_from_the_entries() {
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
            store.insert(&manifest(key(1)), NOW).unwrap();
            drop(store);
            damage(&dir.join("index.sqlite"));
            assert_eq!(found(&open(&dir).unwrap()), [key(1)]);
        }
    }

    #[test]
    fn damage_behind_the_first_page_is_noticed_in_use_and_set_aside() {
        let (_dir, store) = new();
        store.insert(&manifest(key(1)), NOW).unwrap();
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
    fn a_newer_store_or_index_is_refused_and_a_garbled_format_told() {
        let (_dir, store) = new();
        let dir = store.dir().to_owned();
        drop(store);
        let check = |format: &str, expect: &str| {
            fs_err::write(dir.join("format"), format).unwrap();
            let error = open(&dir).err().unwrap().to_string();
            assert!(error.ends_with(expect), "{error}");
        };
        check("2\n", "format has format 2, but this kcache knows formats up to 1");
        check("", "format is damaged: expected the number 1, found ``");
        fs_err::write(dir.join("format"), "1\n").unwrap();
        let db = rusqlite::Connection::open(dir.join("index.sqlite")).unwrap();
        db.pragma_update(None, "user_version", 2).unwrap();
        assert!(matches!(open(&dir), Err(Error::Format { found: 2, .. })));
    }

    #[test]
    fn a_read_only_store_reads_and_says_so_when_it_should_write() {
        let (_dir, store) = new();
        store.insert(&manifest(key(1)), NOW).unwrap();
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
            refused(store.insert(&manifest(key(2)), NOW).map(drop));
            refused(store.replace(&manifest(key(2))));
            refused(store.forget(&key(1)));
            refused(store.put_object(&mut &b"x"[..]).map(drop));
            refused(store.discard_object(&Digest::of(b"abc")));
            refused(store.reindex().map(drop));
            refused(store.scratch().map(drop));
            refused(store.lock("a", &Waiting { limit: Duration::ZERO, say: &|_| () }).map(drop));
        }
        open(&dir).unwrap();
        assert_eq!(names(&dir), before);
    }

    #[test]
    fn an_index_may_lie_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let (files, local) = (dir.path().join("files"), dir.path().join("local"));
        fs_err::create_dir(&local).unwrap();
        let waiting = Waiting { limit: Duration::ZERO, say: &|_| () };
        let store = Store::open_with_index(&files, &local, &waiting).unwrap();
        store.remember("k", &Digest::of(b""), b"1", NOW).unwrap();
        assert!(local.join("index.sqlite").exists());
        assert!(!files.join("index.sqlite").exists());
    }

    #[test]
    fn a_scratch_directory_vanishes_and_a_lock_needs_a_flat_name() {
        let (_dir, store) = new();
        let scratch = store.scratch().unwrap().path().to_owned();
        assert!(scratch.starts_with(store.dir().join("tmp")) && !scratch.exists());
        let waiting = Waiting { limit: Duration::ZERO, say: &|_| () };
        let held = store.lock("a.b-1", &waiting).unwrap();
        assert!(matches!(store.lock("a.b-1", &waiting), Err(Error::Busy { .. })));
        drop(held);
        store.lock("a.b-1", &waiting).unwrap();
        assert!(matches!(store.lock("../a", &waiting), Err(Error::Name { .. })));
    }
}
