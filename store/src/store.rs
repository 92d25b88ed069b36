//! The store itself: its layout, and the order in which things become visible.
//!
//! An object is published before the entry that speaks of it, and the entry's file before its row. So a reader that
//! finds an entry finds its objects, unless somebody deleted them since, and whoever deletes goes the other way
//! round. Two processes that make the same entry publish the same objects twice, harmlessly, and the first entry
//! stays. A full disk fails the write and leaves what was there; only rows and memos are then left out silently.
//!
//! ```text
//! put_object ... -> insert: entries/ab/<key>.json -> row        found by lookup() through the file alone
//! forget:         entries/ab/<key>.json gone -> row gone        objects stay until they are collected (`gc`)
//! ```
//!
//! How those who add and the one who collects stay out of each other's way is told in `claim`.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::claim::touch;
use crate::error::at;
use crate::index::{Found, Index, network_fs};
use crate::listing::{self, files};
use crate::manifest::is_flat;
use crate::publish::{Draft, publish_bytes};
use crate::transport::{IfTaken, Name};
use crate::{
    Digest, Entry, Error, FORMAT, Key, Lock, Pointer, Result, Row, Say, Scratch, SignerId, Waiting, entry,
    object,
};

/// The text that makes a directory a cache (<https://bford.info/cachedir/>).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This directory is a cache of kcache: it can be deleted at any time.\n";
/// The lock under which the index is made.
const INDEX_LOCK: &str = "index";
/// Rows in memory.
const AT_A_TIME: u32 = 1024;

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

/// How much a store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Files of entries.
    pub entries: u64,
    /// Files of objects.
    pub objects: u64,
    /// Size in bytes of both, as they lie there: objects are compressed.
    pub bytes: u64,
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

    /// From now on it is said, too, when a change to the index has to wait for another process. Once it has waited as long
    /// as it may, it waits no more.
    pub fn hear(&self, say: Say) {
        if let Some(index) = &self.index {
            index.lock().unwrap_or_else(PoisonError::into_inner).hear(say);
        }
    }

    /// The store's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The key's entry. It is read from its file and checked in full; the index is not asked.
    pub fn lookup(&self, key: &Key) -> Result<Option<Entry>> {
        entry::read(&self.entries(), key)
    }

    /// Adds an entry whose objects are all here. The first entry of a key stays; where it is the same one, it takes over
    /// the new one's signatures.
    pub fn insert(&self, entry: &Entry, now: u64) -> Result<Inserted> {
        let (done, row) = self.insert_file(entry)?;
        // Also where the file was there: a crash may have come between it and its row.
        self.update(|index| index.put(&Row { used: now, ..row.clone() }))?;
        Ok(done)
    }

    /// Adds the entry's file, and gives the row of the entry that the key has then.
    fn insert_file(&self, entry: &Entry) -> Result<(Inserted, Row)> {
        let _adding = self.adding()?;
        let key = &entry.manifest().key;
        let path = entry::path(&self.entries(), key);
        let file = self.encode(entry)?;
        let row = Row::of(entry.manifest());
        if publish_bytes(&self.tmp(), &path, &file, IfTaken::Keep)? {
            return Ok((Inserted::New, row));
        }
        match self.lookup(key) {
            Ok(Some(mut first)) if self.claim_objects(first.manifest())?.is_none() => {
                let same = first.manifest().agrees_with(entry.manifest());
                if first.merge(entry) {
                    publish_bytes(&self.tmp(), &path, &first.encode()?, IfTaken::Replace)?;
                } else {
                    touch(&path)?;
                }
                let done = if same { Inserted::Present } else { Inserted::Conflict };
                Ok((done, Row::of(first.manifest())))
            }
            // It is gone again, or says nothing that could be kept, or of objects that are lost.
            Ok(_) | Err(Error::Damaged { .. } | Error::Entry { .. }) => {
                publish_bytes(&self.tmp(), &path, &file, IfTaken::Replace)?;
                Ok((Inserted::New, row))
            }
            Err(e) => Err(e),
        }
    }

    /// Adds an entry whose objects are all here, in place of any that the key has.
    pub fn replace(&self, entry: &Entry) -> Result<()> {
        let path = entry::path(&self.entries(), &entry.manifest().key);
        {
            let _adding = self.adding()?;
            publish_bytes(&self.tmp(), &path, &self.encode(entry)?, IfTaken::Replace)?;
        }
        self.update(|index| index.put(&Row::of(entry.manifest())))
    }

    /// Deletes the key's entry, if it has one. Its objects stay.
    pub fn forget(&self, key: &Key) -> Result<()> {
        self.must_write()?;
        remove(&entry::path(&self.entries(), key))?;
        self.update(|index| index.remove(&[*key]))
    }

    /// Stores all bytes of `from`.
    pub fn put_object(&self, from: &mut dyn Read) -> Result<Stored> {
        self.must_write()?;
        let (draft, stored) = object::draft(&self.tmp(), from)?;
        self.publish_object(draft, &stored.digest)?;
        Ok(stored)
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

    /// Stores an object that is compressed already, as it came from another store, after verifying it; `origin` is where
    /// it came from.
    pub fn put_compressed(&self, origin: &Path, digest: &Digest, size: u64, zstd: &[u8]) -> Result<()> {
        self.must_write()?;
        object::verify(origin, digest, size, zstd)?;
        let mut draft = Draft::new(&self.tmp())?;
        draft.write_all(zstd)?;
        self.publish_object(draft, digest)
    }

    /// An object of `size` bytes, compressed as it is stored, verified.
    pub fn compressed_object(&self, digest: &Digest, size: u64) -> Result<Option<Vec<u8>>> {
        object::read_compressed(&object::path(&self.objects(), digest), digest, size)
    }

    /// The pointer of this name that was accepted last.
    pub fn pointer(&self, name: &Name) -> Result<Option<Pointer>> {
        let path = self.dir.join(name.path());
        match entry::read_file(&path)? {
            Some(bytes) => Pointer::parse(&path, name, &bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Keeps a pointer, in place of any that has the name.
    pub fn point(&self, name: &Name, pointer: &Pointer) -> Result<()> {
        self.must_write()?;
        publish_bytes(&self.tmp(), &self.dir.join(name.path()), &pointer.encode()?, IfTaken::Replace)
            .map(drop)
    }

    /// A detached signature of an object. What it is worth is for whoever asked to find out.
    pub fn signature(&self, by: &SignerId, of: &Digest) -> Result<Option<Vec<u8>>> {
        entry::read_file(&self.dir.join(Name::Signature { by: *by, of: *of }.path()))
    }

    /// Keeps a detached signature of an object, in place of any by the same signer.
    pub fn keep_signature(&self, by: &SignerId, of: &Digest, bytes: &[u8]) -> Result<()> {
        self.must_write()?;
        let name = Name::Signature { by: *by, of: *of };
        publish_bytes(&self.tmp(), &self.dir.join(name.path()), bytes, IfTaken::Replace).map(drop)
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

    /// The entries that have all these labels, newest first. What the index says is compared with the entries, of which one that is
    /// damaged stays, for whoever looks it up. Without labels it is not, and a row promises nothing.
    pub fn find(&self, labels: &[(&str, &str)]) -> Result<Vec<Row>> {
        let mut rows = match self.with_index(|index| index.find(labels))? {
            Some(rows) if labels.is_empty() => return Ok(rows),
            Some(rows) => {
                rows.into_iter().filter_map(|row| self.compared(row).transpose()).collect::<Result<_>>()?
            }
            None => self.all_rows()?,
        };
        let has =
            |row: &Row| labels.iter().all(|(name, value)| row.labels.get(*name).is_some_and(|v| v == value));
        rows.retain(has);
        rows.sort_by_key(|row| (std::cmp::Reverse(row.created), row.key));
        Ok(rows)
    }

    /// A row as the entry has it; none where that is gone.
    fn compared(&self, row: Row) -> Result<Option<Row>> {
        match self.lookup(&row.key) {
            Ok(entry) => Ok(entry.map(|entry| Row { used: row.used, ..Row::of(entry.manifest()) })),
            Err(Error::Damaged { .. } | Error::Entry { .. } | Error::Format { .. }) => Ok(Some(row)),
            Err(error) => Err(error),
        }
    }

    fn all_rows(&self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        self.rows(&mut |row| {
            rows.push(row.clone());
            Ok(())
        })?;
        Ok(rows)
    }

    /// Notes that the entry is used, where that can be noted: by the time of its file, and to the hour by its row. From then
    /// on it is not collected for a while. False where the entry is gone: then so may its objects be, any moment.
    pub fn used(&self, key: &Key, now: u64) -> Result<bool> {
        let is_there = self.claim_entry(key)?;
        self.update(|index| index.used(key, now))?;
        Ok(is_there)
    }

    /// What was remembered under a signature.
    pub fn memo(&self, kind: &str, signature: &Digest) -> Result<Option<Vec<u8>>> {
        let found = self.with_index(|index| index.memo(kind, signature))?.flatten();
        Ok(found.and_then(|sealed| unseal(kind, signature, &sealed)))
    }

    /// Remembers a value under a signature, where that is possible.
    pub fn remember(&self, kind: &str, signature: &Digest, value: &[u8], now: u64) -> Result<()> {
        let sealed = seal(kind, signature, value);
        self.update(|index| index.remember(kind, signature, &sealed, now))
    }

    /// Adds to counters, where that can be noted; nothing may depend on it.
    pub fn count(&self, more: &BTreeMap<&str, u64>) -> Result<()> {
        self.update(|index| index.count(more))
    }

    /// What was counted since the index was made.
    pub fn counts(&self) -> Result<BTreeMap<String, u64>> {
        Ok(self.with_index(|index| index.counts())?.unwrap_or_default())
    }

    /// How much is in the store. Looks at every file's size.
    pub fn usage(&self) -> Result<Usage> {
        let mut usage = Usage::default();
        files(&self.entries(), ".json", &mut |_, _, metadata| {
            (usage.entries, usage.bytes) = (usage.entries + 1, usage.bytes + metadata.len());
            Ok(())
        })?;
        files(&self.objects(), ".zst", &mut |_, _, metadata| {
            (usage.objects, usage.bytes) = (usage.objects + 1, usage.bytes + metadata.len());
            Ok(())
        })?;
        Ok(usage)
    }

    /// Makes the index say what the entries say, and counts them. Some at a time: others are not kept waiting for all.
    pub fn reindex(&self) -> Result<u64> {
        self.must_write()?;
        let (mut count, mut some) = (0, Vec::new());
        let put = |some: &mut Vec<Row>| self.with_index(|index| index.put_all(some)).map(|_| some.clear());
        self.rows(&mut |row| {
            count += 1;
            some.push(row.clone());
            if some.len() < AT_A_TIME as usize { Ok(()) } else { put(&mut some) }
        })?;
        put(&mut some)?;
        self.drop_stale_rows()?;
        Ok(count)
    }

    /// Drops the rows of entries that are gone.
    fn drop_stale_rows(&self) -> Result<()> {
        let mut last = None;
        loop {
            let keys =
                self.with_index(|index| index.keys_after(last.as_ref(), AT_A_TIME))?.unwrap_or_default();
            let Some(key) = keys.last() else { return Ok(()) };
            last = Some(*key);
            let is_gone = |key: &&Key| !entry::path(&self.entries(), key).exists();
            let gone: Vec<Key> = keys.iter().filter(is_gone).copied().collect();
            if !gone.is_empty() {
                self.with_index(|index| index.remove(&gone))?;
            }
        }
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

    pub(crate) fn entries(&self) -> PathBuf {
        self.dir.join("entries")
    }

    pub(crate) fn objects(&self) -> PathBuf {
        self.dir.join("objects")
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.dir.join("tmp")
    }

    pub(crate) fn index_path(&self) -> PathBuf {
        self.index_dir.join("index.sqlite")
    }

    pub(crate) fn must_write(&self) -> Result<()> {
        if self.writable { Ok(()) } else { Err(Error::ReadOnly { path: self.dir.clone() }) }
    }

    /// The file of an entry that may be published now.
    fn encode(&self, entry: &Entry) -> Result<Vec<u8>> {
        self.must_write()?;
        if let Some(output) = self.claim_objects(entry.manifest())? {
            let path = entry::path(&self.entries(), &entry.manifest().key);
            let reason = format!("the object of its output `{}` is missing", output.name);
            return Err(Error::Entry { path, reason });
        }
        entry.encode()
    }

    /// Tells of the rows of all entries that can be read. Others are for whoever looks them up to report and heal.
    fn rows(&self, each: &mut dyn FnMut(&Row) -> Result<()>) -> Result<()> {
        listing::entries(self, &mut |key, _, _| match self.lookup(&key) {
            Ok(Some(entry)) => each(&Row::of(entry.manifest())),
            Ok(None) | Err(Error::Damaged { .. } | Error::Entry { .. } | Error::Format { .. }) => Ok(()),
            Err(e) => Err(e),
        })
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
        match self.create_index() {
            // What says that it is nothing yet has tables.
            Err(error) if error.is_index_damage() => {
                Index::set_aside(&path)?;
                self.create_index()
            }
            made => made,
        }
    }

    fn create_index(&self) -> Result<Index> {
        Index::create(&self.index_path(), &mut |each| self.rows(each), self.patience)
    }

    /// For waits that are too short to be told.
    pub(crate) fn silently(&self) -> Waiting<'static> {
        Waiting { limit: self.patience, say: &|_| () }
    }

    /// Makes the index say what the entries say; one whose pages are in disorder, or that cannot be changed, is made anew.
    pub(crate) fn mend_index(&self, waiting: &Waiting) -> Result<()> {
        self.must_write()?;
        let Some(index) = &self.index else { return Ok(()) };
        let is_sound = || index.lock().unwrap_or_else(PoisonError::into_inner).is_sound();
        if is_sound() {
            match self.reindex() {
                Err(Error::Sqlite { .. }) => {}
                done => return done.map(drop),
            }
        }
        let mut open = index.lock().unwrap_or_else(PoisonError::into_inner);
        *open = self.make_index_anew(waiting)?;
        Ok(())
    }

    /// The same where SQLite finds nothing wrong with it.
    fn make_index_anew(&self, waiting: &Waiting) -> Result<Index> {
        let _lock = self.lock(INDEX_LOCK, waiting)?;
        Index::set_aside(&self.index_path())?;
        self.create_index()
    }

    /// Asks the index, if there is one. One that turns out to be damaged is made again, and asked again.
    pub(crate) fn with_index<T>(&self, mut act: impl FnMut(&mut Index) -> Result<T>) -> Result<Option<T>> {
        let Some(index) = &self.index else { return Ok(None) };
        let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
        match act(&mut index) {
            Err(e) if e.is_index_damage() && self.writable => {
                *index = self.make_index(&self.silently())?;
                match act(&mut index) {
                    // Its pages are in order, and what is in them is not.
                    Err(e) if e.is_index_damage() => *index = self.make_index_anew(&self.silently())?,
                    done => return done.map(Some),
                }
                act(&mut index).map(Some)
            }
            done => done.map(Some),
        }
    }

    /// Changes the index, where it can be changed. It is derived, so a full disk is no reason to fail: the entry
    /// that a row is about has reached its file.
    pub(crate) fn update(&self, act: impl FnMut(&mut Index) -> Result<()>) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        match self.with_index(act) {
            Err(e) if !e.is_unreachable_index() => Err(e),
            _ => Ok(()),
        }
    }
}

/// A memo's value behind its checksum: SQLite has none for its pages, and a digest that has rotted would become part of a key.
fn seal(kind: &str, signature: &Digest, value: &[u8]) -> Vec<u8> {
    [checksum(kind, signature, value).as_bytes(), value].concat()
}

/// None where it is not what was sealed, or is older than checksums.
fn unseal(kind: &str, signature: &Digest, sealed: &[u8]) -> Option<Vec<u8>> {
    let (sum, value) = sealed.split_at_checked(blake3::OUT_LEN)?;
    (checksum(kind, signature, value).as_bytes()[..] == *sum).then(|| value.to_vec())
}

fn checksum(kind: &str, signature: &Digest, value: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("kcache 2026-11 memo checksum v1");
    hasher.update(signature.as_bytes()).update(&(kind.len() as u64).to_le_bytes());
    hasher.update(kind.as_bytes()).update(value).finalize()
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
pub(crate) fn make_dir(dir: &Path, mode: u32) -> Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(mode).create(dir).map_err(at("create", dir))?;
    Ok(fs_err::set_permissions(dir, Permissions::from_mode(mode))?)
}

fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Deletes a file, if it is there.
pub(crate) fn remove(path: &Path) -> Result<()> {
    match fs_err::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
