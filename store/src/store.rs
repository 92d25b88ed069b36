//! The store: its layout, and the order in which files appear and disappear.
//!
//! An object is published before the entry that references it, and the entry's file before its row; deletion uses the
//! reverse order. So a reader that finds an entry finds its objects, unless somebody deleted them since. If two
//! processes make the same entry, they publish the same objects twice, which is harmless, and the first entry is kept.
//! On a full disk the write fails and existing files are unchanged; only rows and memos are left out silently.
//!
//! ```text
//! put_object ... -> insert: entries/ab/<key>.json -> row        found by lookup() through the file alone
//! forget:         delete entries/ab/<key>.json -> delete row    objects are kept until garbage collection (`gc`)
//! ```
//!
//! `lease` describes how adding and garbage collection exclude each other.

mod guard;
mod indexed;

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use crate::disk::{files, if_there, make_dir, remove, touch};
use crate::error::at;
use crate::index::{Index, network_fs};
use crate::manifest::is_flat;
use crate::publish::{Draft, open_plain, publish_bytes};
use crate::transport::{IfTaken, Name};
use crate::{
    Digest, Entry, Error, FORMAT, Key, Lock, Pointer, Result, Row, Scratch, SignerId, Stored, Waiting, entry,
    object,
};

/// Content of `CACHEDIR.TAG`, which marks a directory as a cache (<https://bford.info/cachedir/>).
const CACHEDIR_TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n\
    # This directory is a cache of kcache: it can be deleted at any time.\n";

/// Limit in bytes on memory that is allocated in advance because of a claimed size.
const MOST_RESERVED: u64 = 64 << 20;

/// An open store. Threads may share it.
pub struct Store {
    dir: PathBuf,
    index_dir: PathBuf,
    /// `None` if the index cannot be used.
    index: Option<Mutex<Index>>,
    writable: bool,
    patience: Duration,
}

/// What [`Store::insert`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// The key had no entry, or a corrupt one; the new entry was added.
    New,
    /// The key has an entry with the same result, which is kept.
    Present,
    /// The key has an entry with another outcome or other outputs (not counting logs), which is kept.
    Conflict,
}

/// Counts and size of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Number of entries.
    pub entries: u64,
    /// Number of objects.
    pub objects: u64,
    /// Size in bytes of both, compressed as stored.
    pub bytes: u64,
}

impl Store {
    /// Opens the store in `dir`, creating it if it does not exist.
    ///
    /// # Errors
    ///
    /// [`Error::Exposed`] or [`Error::NotStore`] if the directory is unsafe to use, [`Error::Format`] if a newer
    /// kcache created it, [`Error::Busy`] if another process holds the index's lock for longer than `waiting` allows.
    pub fn open(dir: &Path, waiting: &Waiting) -> Result<Store> {
        Store::open_with_index(dir, dir, waiting)
    }

    /// Like [`Store::open`], with the index in another directory, for a store on a network file system. Each host then
    /// has its own index, which includes other hosts' entries after [`Store::reindex`].
    pub fn open_with_index(dir: &Path, index_dir: &Path, waiting: &Waiting) -> Result<Store> {
        guard::place(dir)?;
        if dir.is_dir() {
            guard::close_empty(dir)?;
            guard::check(dir)?;
        }
        if !is_store(dir)? {
            make(dir)?;
            guard::check(dir)?;
        }
        let mut store = Store::on(dir, index_dir, is_writable(dir), waiting);
        if let Some(kind) = network_fs(index_dir)?.filter(|_| store.writable) {
            return Err(Error::NetworkFs { path: index_dir.to_owned(), kind });
        }
        store.attach_index(waiting)?;
        Ok(store)
    }

    /// Opens the store in `dir`, or returns `None` if there is none. Creates no store, and writes nothing to a
    /// read-only one.
    pub fn open_existing(dir: &Path, waiting: &Waiting) -> Result<Option<Store>> {
        Store::open_existing_as(dir, is_writable(dir), waiting)
    }

    fn open_existing_as(dir: &Path, writable: bool, waiting: &Waiting) -> Result<Option<Store>> {
        if dir.is_dir() {
            guard::place(dir)?;
            if guard::is_empty(dir)? {
                return Ok(None);
            }
            guard::check(dir)?;
        }
        if !is_store(dir)? {
            return Ok(None);
        }
        let mut store = Store::on(dir, dir, writable, waiting);
        if network_fs(dir)?.is_none() {
            store.attach_index(waiting)?;
        }
        Ok(Some(store))
    }

    /// The directory given to [`Store::open`].
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Looks up a key's entry; `None` is a miss. The entry is read from its file and checked completely; the index is
    /// not used.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] or [`Error::Entry`] if the file is corrupt: call [`Store::forget`], and treat it as a miss.
    pub fn lookup(&self, key: &Key) -> Result<Option<Entry>> {
        entry::read(&self.entries(), key)
    }

    /// Adds an entry whose objects are all in the store. An existing entry of the key is kept; if it is the same, it
    /// gets the new one's signatures.
    ///
    /// # Errors
    ///
    /// [`Error::Entry`] if an object is missing, [`Error::ReadOnly`] if the store cannot be written.
    pub fn insert(&self, entry: &Entry, now: u64) -> Result<Inserted> {
        let (done, row) = self.insert_file(entry)?;
        // Also if the file existed: a crash may have left it without a row.
        self.update(|index| index.put(&Row { used: now, ..row.clone() }))?;
        Ok(done)
    }

    /// Adds the entry's file. Also returns the row of the entry that the key then has.
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
            // It was deleted meanwhile, or is corrupt, or its objects are missing.
            Ok(_) | Err(Error::Damaged { .. } | Error::Entry { .. }) => {
                publish_bytes(&self.tmp(), &path, &file, IfTaken::Replace)?;
                Ok((Inserted::New, row))
            }
            Err(e) => Err(e),
        }
    }

    /// Adds an entry whose objects are all in the store, replacing an existing one.
    pub fn replace(&self, entry: &Entry) -> Result<()> {
        let path = entry::path(&self.entries(), &entry.manifest().key);
        {
            let _adding = self.adding()?;
            publish_bytes(&self.tmp(), &path, &self.encode(entry)?, IfTaken::Replace)?;
        }
        self.update(|index| index.put(&Row::of(entry.manifest())))
    }

    /// Deletes the key's entry, if any. Its objects are kept until garbage collection.
    pub fn forget(&self, key: &Key) -> Result<()> {
        self.must_write()?;
        remove(&entry::path(&self.entries(), key))?;
        self.update(|index| index.remove(&[*key]))
    }

    /// Compresses and stores all bytes of `from` as an object.
    pub fn put_object(&self, from: &mut dyn Read) -> Result<Stored> {
        self.must_write()?;
        let (draft, stored) = object::draft(&self.tmp(), from)?;
        self.publish_object(draft, &stored.digest)?;
        Ok(stored)
    }

    /// Writes an object of `size` bytes to `to`; false if it is missing. All bytes are hashed on the way: after an
    /// error, discard what was written.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if the object is corrupt: call [`Store::discard_object`], then fetch or build it again.
    pub fn copy_object(&self, digest: &Digest, size: u64, to: &mut dyn Write) -> Result<bool> {
        object::copy(&self.objects(), digest, size, to)
    }

    /// Whether the object has a file, which is not verified.
    pub fn has_object(&self, digest: &Digest) -> Result<bool> {
        match fs_err::metadata(object::path(&self.objects(), digest)) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Stores an object that is compressed already, as another store has it, after verifying it. `origin` is where it
    /// came from, for messages.
    pub fn put_compressed(&self, origin: &Path, digest: &Digest, size: u64, zstd: &[u8]) -> Result<()> {
        self.must_write()?;
        object::verify(origin, digest, size, zstd)?;
        let mut draft = Draft::new(&self.tmp())?;
        draft.write_all(zstd)?;
        self.publish_object(draft, digest)
    }

    /// Reads an object of `size` bytes, compressed as stored, and verifies it; `None` if it is missing.
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

    /// Stores a pointer, replacing an earlier one of this name.
    pub fn point(&self, name: &Name, pointer: &Pointer) -> Result<()> {
        self.must_write()?;
        publish_bytes(&self.tmp(), &self.dir.join(name.path()), &pointer.encode()?, IfTaken::Replace)
            .map(drop)
    }

    /// A detached signature of an object. It is not verified here.
    pub fn signature(&self, by: &SignerId, of: &Digest) -> Result<Option<Vec<u8>>> {
        entry::read_file(&self.dir.join(Name::Signature { by: *by, of: *of }.path()))
    }

    /// Stores a detached signature of an object, replacing an earlier one by the same signer.
    pub fn keep_signature(&self, by: &SignerId, of: &Digest, bytes: &[u8]) -> Result<()> {
        self.must_write()?;
        let name = Name::Signature { by: *by, of: *of };
        publish_bytes(&self.tmp(), &self.dir.join(name.path()), bytes, IfTaken::Replace).map(drop)
    }

    /// Reads a small file of a cache's layout that is no entry, pointer or signature.
    pub(crate) fn read_named(&self, name: &Name) -> Result<Option<Vec<u8>>> {
        entry::read_file(&self.dir.join(name.path()))
    }

    /// Writes such a file, replacing an earlier one.
    pub(crate) fn write_named(&self, name: &Name, bytes: &[u8]) -> Result<()> {
        self.must_write()?;
        publish_bytes(&self.tmp(), &self.dir.join(name.path()), bytes, IfTaken::Replace).map(drop)
    }

    /// Reads an object of `size` bytes into memory and verifies it; `None` if it is missing.
    pub fn read_object(&self, digest: &Digest, size: u64) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::with_capacity(size.min(MOST_RESERVED) as usize);
        Ok(self.copy_object(digest, size, &mut bytes)?.then_some(bytes))
    }

    /// Deletes an object, if it exists: a corrupt one, before it is stored again.
    pub fn discard_object(&self, digest: &Digest) -> Result<()> {
        self.must_write()?;
        remove(&object::path(&self.objects(), digest))
    }

    /// Records a use of the entry: in the time of its file, and with a resolution of an hour in its row. It is then
    /// protected by the grace period. False if the entry is gone: then its objects may be deleted at any time.
    pub fn used(&self, key: &Key, now: u64) -> Result<bool> {
        let is_there = self.claim_entry(key)?;
        self.update(|index| index.used(key, now))?;
        Ok(is_there)
    }

    /// Counts entries and objects and adds up their sizes, with one stat per file.
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

    /// Creates an empty private directory on the store's file system, deleted on drop.
    pub fn scratch(&self) -> Result<Scratch> {
        self.must_write()?;
        Scratch::new(&self.tmp())
    }

    /// A private directory inside the store for files that are not part of it, such as ccache's. It is created if
    /// missing.
    pub fn foreign_dir(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        self.must_write()?;
        let dir = self.dir.join(path);
        make_dir(&dir, 0o700)?;
        Ok(dir)
    }

    /// Takes the lock of this name, waiting for another holder as long as `waiting` allows.
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

    /// The bytes of an entry's file, if the entry may be published now.
    fn encode(&self, entry: &Entry) -> Result<Vec<u8>> {
        self.must_write()?;
        if let Some(output) = self.claim_objects(entry.manifest())? {
            let path = entry::path(&self.entries(), &entry.manifest().key);
            let reason = format!("the object of output `{}` is missing", output.name);
            return Err(Error::Entry { path, reason });
        }
        entry.encode()
    }

    /// For waits that are too short to be reported.
    pub(crate) fn silently(&self) -> Waiting<'static> {
        Waiting { limit: self.patience, print: &|_| () }
    }
}

/// Whether `dir` contains a store of a supported format.
fn is_store(dir: &Path) -> Result<bool> {
    let path = dir.join("format");
    let text = match if_there(open_plain(&path))? {
        Some(file) => std::io::read_to_string(file.take(64)).map_err(at("read", &path))?,
        None => return Ok(false),
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

/// Creates the layout. `format` is written last: if it exists, so does everything else.
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

fn is_writable(dir: &Path) -> bool {
    rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
}

#[cfg(test)]
mod tests;
