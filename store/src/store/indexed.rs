//! The store's index: queried, updated, and rebuilt from the entries if it is missing, corrupt or out of date.
//!
//! Only the speed of answers depends on it, and what is stored nowhere else: memos and counters.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::Store;
use crate::index::{Found, Index};
use crate::{Digest, Error, Key, Result, Row, Say, Waiting, entry, shards};

/// Name of the lock under which the index is created.
const INDEX_LOCK: &str = "index";
/// Rows in memory at a time.
const AT_A_TIME: u32 = 1024;

impl Store {
    /// Also reports waits for changes to the index from now on. After one wait has taken as long as allowed, later
    /// ones return at once.
    pub fn hear(&self, print: Say) {
        if let Some(index) = &self.index {
            index.lock().unwrap_or_else(PoisonError::into_inner).hear(print);
        }
    }

    /// The entries that have all these labels, newest first. With labels, the rows are compared with the entries'
    /// files; a corrupt entry stays in the result, for whoever looks it up. Without labels, rows are returned
    /// unchecked.
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

    /// The row of the entry's file; `None` if the file is gone.
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

    /// A value remembered under a signature; `None` if there is none, or no index.
    pub fn memo(&self, kind: &str, signature: &Digest) -> Result<Option<Vec<u8>>> {
        let found = self.with_index(|index| index.memo(kind, signature))?.flatten();
        Ok(found.and_then(|sealed| unseal(kind, signature, &sealed)))
    }

    /// Remembers a value under a signature, if the index can be written.
    pub fn remember(&self, kind: &str, signature: &Digest, value: &[u8], now: u64) -> Result<()> {
        let sealed = seal(kind, signature, value);
        self.update(|index| index.remember(kind, signature, &sealed, now))
    }

    /// Adds to counters, if the index can be written.
    pub fn count(&self, more: &BTreeMap<&str, u64>) -> Result<()> {
        self.update(|index| index.count(more))
    }

    /// All counters since the index was created.
    pub fn counts(&self) -> Result<BTreeMap<String, u64>> {
        Ok(self.with_index(|index| index.counts())?.unwrap_or_default())
    }

    /// Updates the index from the entries and returns their number. Works in batches, so that other processes need not
    /// wait for all.
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

    /// Deletes rows of missing entries.
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

    /// Calls back for the rows of all readable entries. Unreadable ones are reported by whoever looks them up.
    fn rows(&self, each: &mut dyn FnMut(&Row) -> Result<()>) -> Result<()> {
        shards::entries(self, &mut |key, _, _| match self.lookup(&key) {
            Ok(Some(entry)) => each(&Row::of(entry.manifest())),
            Ok(None) | Err(Error::Damaged { .. } | Error::Entry { .. } | Error::Format { .. }) => Ok(()),
            Err(e) => Err(e),
        })
    }

    /// Opens the index, creating it if it is missing or corrupt and the store is writable.
    pub(super) fn attach_index(&mut self, waiting: &Waiting) -> Result<()> {
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

    /// Creates the index from the entries, unless another process did so while this one waited for the lock.
    fn make_index(&self, waiting: &Waiting) -> Result<Index> {
        let _lock = self.lock(INDEX_LOCK, waiting)?;
        let path = self.index_path();
        match Index::open(&path, true, self.patience)? {
            Found::Index(index) if index.is_sound() => return Ok(index),
            Found::Index(_) | Found::Damaged => Index::set_aside(&path)?,
            Found::Nothing | Found::Unreachable => {}
        }
        match self.create_index() {
            // Its version said that it was incomplete, but it has tables.
            Err(error) if error.is_index_corruption() => {
                Index::set_aside(&path)?;
                self.create_index()
            }
            made => made,
        }
    }

    fn create_index(&self) -> Result<Index> {
        Index::create(&self.index_path(), &mut |each| self.rows(each), self.patience)
    }

    /// Updates the index from the entries; rebuilds it if SQLite finds it corrupt or it cannot be changed.
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

    /// Rebuilds the index even if SQLite finds it intact.
    fn make_index_anew(&self, waiting: &Waiting) -> Result<Index> {
        let _lock = self.lock(INDEX_LOCK, waiting)?;
        Index::set_aside(&self.index_path())?;
        self.create_index()
    }

    /// Queries the index, if there is one. If it turns out to be corrupt, it is rebuilt and queried again.
    pub(crate) fn with_index<T>(&self, mut act: impl FnMut(&mut Index) -> Result<T>) -> Result<Option<T>> {
        let Some(index) = &self.index else { return Ok(None) };
        let mut index = index.lock().unwrap_or_else(PoisonError::into_inner);
        match act(&mut index) {
            Err(e) if e.is_index_corruption() && self.writable => {
                *index = self.make_index(&self.silently())?;
                match act(&mut index) {
                    // Its pages are intact, but their content is not.
                    Err(e) if e.is_index_corruption() => *index = self.make_index_anew(&self.silently())?,
                    done => return done.map(Some),
                }
                act(&mut index).map(Some)
            }
            done => done.map(Some),
        }
    }

    /// Changes the index, if possible. It is derived, so a full disk is no reason to fail: the entry's file has
    /// already been published.
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

/// Prepends a checksum to a memo's value: SQLite has none for its pages, and a corrupt digest would become part of a
/// key.
fn seal(kind: &str, signature: &Digest, value: &[u8]) -> Vec<u8> {
    [checksum(kind, signature, value).as_bytes(), value].concat()
}

/// The value of a memo; `None` if its checksum is wrong, or missing as in old versions.
fn unseal(kind: &str, signature: &Digest, sealed: &[u8]) -> Option<Vec<u8>> {
    let (sum, value) = sealed.split_at_checked(blake3::OUT_LEN)?;
    (checksum(kind, signature, value).as_bytes()[..] == *sum).then(|| value.to_vec())
}

fn checksum(kind: &str, signature: &Digest, value: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key("kcache 2026-11 memo checksum v1");
    hasher.update(signature.as_bytes()).update(&(kind.len() as u64).to_le_bytes());
    hasher.update(kind.as_bytes()).update(value).finalize()
}
