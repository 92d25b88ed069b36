//! A plan's data: every object with its number of references, every entry with its last use, and what to delete.
//!
//! The database belongs to one run, and no other process opens it: it is not synced, has no journal, and is garbage
//! after a crash. Deletions are read from it in pages, each starting after the last row of the page before, because
//! executing a page may change the tables.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, Params, Row, params};

use super::{Count, GcReason, Going, Staying, Totals, Useless};
use crate::disk::if_there;
use crate::{Digest, Error, Key, Result};

/// Sizes are in bytes as stored; `inode` and `modified` are of the file that was surveyed, `modified` in nanoseconds
/// since 1970.
const TABLES: &str = "
    CREATE TABLE object (
        digest    BLOB     NOT NULL PRIMARY KEY,
        size      INTEGER  NOT NULL,
        inode     INTEGER  NOT NULL,
        modified  INTEGER  NOT NULL,
        stays     INTEGER  NOT NULL,            -- 1: is kept even if unreferenced
        names     INTEGER  NOT NULL DEFAULT 0   -- kept entries that reference it
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE entry (
        key       BLOB     NOT NULL PRIMARY KEY,
        size      INTEGER  NOT NULL,
        inode     INTEGER  NOT NULL,
        modified  INTEGER  NOT NULL,
        used      INTEGER  NOT NULL,            -- seconds since 1970
        may_go    INTEGER  NOT NULL,            -- 1, or why not: 0 root, 2 grace period
        goes      INTEGER,                      -- for which limit; NULL: kept
        built     INTEGER,                      -- of deleted ones
        labels    TEXT,                         -- JSON
        bytes     INTEGER                       -- freed by deleting it
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX entry_by_use ON entry (used, key);

    CREATE TABLE useless (
        path      TEXT     NOT NULL PRIMARY KEY,  -- in the store
        kind      INTEGER  NOT NULL,
        size      INTEGER  NOT NULL,
        inode     INTEGER  NOT NULL,
        modified  INTEGER  NOT NULL,
        leads_to  TEXT                            -- file that it refers to, in the store
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE row (key BLOB NOT NULL PRIMARY KEY) STRICT, WITHOUT ROWID;
";
/// Rows in memory at a time.
const PAGE: u32 = 256;

/// The plan's SQLite database.
pub(super) struct PlanDb {
    db: Connection,
    path: PathBuf,
}

/// State of a file. Storing, referencing or using it gives it another state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    inode: u64,
    modified: i64,
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Stamp {
        let seconds = metadata.mtime().saturating_mul(1_000_000_000);
        let modified = seconds.saturating_add(metadata.mtime_nsec());
        Stamp { size: metadata.len(), inode: metadata.ino(), modified }
    }

    /// Whether the file exists in this state.
    pub(super) fn is_still(&self, path: &Path) -> Result<bool> {
        let found = if_there(fs_err::symlink_metadata(path))?;
        Ok(found.is_some_and(|metadata| Stamp::of(&metadata) == *self))
    }

    fn read(row: &Row, at: usize) -> rusqlite::Result<Stamp> {
        let inode: i64 = row.get(at + 1)?;
        Ok(Stamp { size: number(row, at)?, inode: inode as u64, modified: row.get(at + 2)? })
    }

    /// SQLite's integers are signed, so 64-bit inode numbers are cast.
    fn columns(&self) -> (i64, i64, i64) {
        (self.size as i64, self.inode as i64, self.modified)
    }
}

/// Why an entry must not be deleted, whatever the limits say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    Kept = 0,
    None = 1,
    Young = 2,
}

/// An entry that may be deleted.
pub(super) struct Candidate {
    pub(super) key: Key,
    pub(super) stamp: Stamp,
    pub(super) used: u64,
}

/// An unneeded file other than an entry or object.
pub(super) struct File {
    pub(super) path: String,
    pub(super) kind: Useless,
    pub(super) stamp: Stamp,
    pub(super) leads_to: Option<String>,
}

impl PlanDb {
    pub(super) fn new(path: &Path) -> Result<PlanDb> {
        let sqlite = |source| Error::Sqlite { path: path.to_owned(), source };
        let db = Connection::open(path).map_err(sqlite)?;
        let plan_db = PlanDb { db, path: path.to_owned() };
        plan_db.ask(|db| {
            db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            db.pragma_update(None, "journal_mode", "OFF")?;
            db.pragma_update(None, "synchronous", "OFF")?;
            db.pragma_update(None, "cache_size", -8192)?; // KiB
            db.execute_batch(TABLES)?;
            // The transaction is never committed: pages that do not fit into the cache spill to the file, and nobody
            // needs the rest.
            db.execute_batch("BEGIN")
        })?;
        Ok(plan_db)
    }

    pub(super) fn add_object(&self, digest: &Digest, stamp: &Stamp, stays: bool) -> Result<()> {
        const ADD: &str =
            "INSERT OR IGNORE INTO object (digest, size, inode, modified, stays) VALUES (?1, ?2, ?3, ?4, ?5)";
        let (size, inode, modified) = stamp.columns();
        self.execute(ADD, params![digest.as_bytes(), size, inode, modified, stays])
    }

    pub(super) fn add_entry(&self, key: &Key, stamp: &Stamp, used: u64, hold: Hold) -> Result<()> {
        const ADD: &str = "INSERT OR IGNORE INTO entry (key, size, inode, modified, used, may_go) \
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let (size, inode, modified) = stamp.columns();
        self.execute(ADD, params![key.as_bytes(), size, inode, modified, used as i64, hold as i64])
    }

    /// Adds a reference to each of these objects.
    pub(super) fn name<'d>(&self, mut digests: impl Iterator<Item = &'d Digest>) -> Result<()> {
        const NAME: &str = "UPDATE object SET names = names + 1 WHERE digest = ?1";
        digests.try_for_each(|digest| self.execute(NAME, [digest.as_bytes()]))
    }

    /// Removes a reference from each of these objects; returns the bytes that this frees.
    pub(super) fn unname<'d>(&self, digests: impl Iterator<Item = &'d Digest>) -> Result<u64> {
        const UNNAME: &str = "UPDATE object SET names = names - 1 WHERE digest = ?1 \
                              RETURNING CASE WHEN names = 0 AND NOT stays THEN size ELSE 0 END";
        let mut bytes = 0;
        for digest in digests {
            let freed = self.all(UNNAME, [digest.as_bytes()], |row| number(row, 0))?;
            bytes += freed.first().copied().unwrap_or(0);
        }
        Ok(bytes)
    }

    /// The next page of entries that may be deleted and were not considered yet, least recently used first.
    pub(super) fn candidates(&self, after: Option<&Candidate>) -> Result<Vec<Candidate>> {
        const QUERY: &str = "SELECT key, size, inode, modified, used FROM entry \
                             WHERE (used, key) > (?1, ?2) AND may_go = 1 ORDER BY used, key LIMIT ?3";
        let (used, key): (i64, &[u8]) = after.map_or((-1, &[]), |it| (it.used as i64, it.key.as_bytes()));
        self.all(QUERY, params![used, key, PAGE], |row| {
            let key = Key::from_bytes(row.get(0)?);
            Ok(Candidate { key, stamp: Stamp::read(row, 1)?, used: number(row, 4)? })
        })
    }

    /// Marks an entry for deletion.
    pub(super) fn go(&self, going: &Going) -> Result<()> {
        const GO: &str = "UPDATE entry SET goes = ?2, built = ?3, labels = ?4, bytes = ?5 WHERE key = ?1";
        let labels = serde_json::to_string(&going.labels).map_err(std::io::Error::other)?;
        let reason = going.reason as i64;
        self.execute(GO, params![going.key.as_bytes(), reason, going.built, labels, going.bytes as i64])
    }

    /// Marks an entry as kept.
    pub(super) fn stay(&self, key: &Key) -> Result<()> {
        self.execute("UPDATE entry SET goes = NULL, may_go = 2 WHERE key = ?1", [key.as_bytes()])
    }

    /// Whether an entry is marked for deletion.
    pub(super) fn goes(&self, key: &Key) -> Result<bool> {
        const QUERY: &str = "SELECT 1 FROM entry WHERE key = ?1 AND goes IS NOT NULL";
        Ok(!self.all(QUERY, [key.as_bytes()], |_| Ok(()))?.is_empty())
    }

    /// Whether an object will be deleted.
    pub(super) fn loses(&self, digest: &Digest) -> Result<bool> {
        const QUERY: &str = "SELECT 1 FROM object WHERE digest = ?1 AND names = 0 AND NOT stays";
        Ok(!self.all(QUERY, [digest.as_bytes()], |_| Ok(()))?.is_empty())
    }

    pub(super) fn add_useless(&self, file: &File) -> Result<()> {
        const ADD: &str = "INSERT OR IGNORE INTO useless (path, kind, size, inode, modified, leads_to) \
                           VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let (size, inode, modified) = file.stamp.columns();
        self.execute(ADD, params![file.path, file.kind as i64, size, inode, modified, file.leads_to])
    }

    pub(super) fn add_row(&self, key: &Key) -> Result<()> {
        self.execute("INSERT OR IGNORE INTO row (key) VALUES (?1)", [key.as_bytes()])
    }

    /// The next page of entries to delete, in order of deletion.
    pub(super) fn going(&self, after: Option<&(Going, Stamp)>) -> Result<Vec<(Going, Stamp)>> {
        const QUERY: &str = "SELECT key, size, inode, modified, used, goes, built, labels, bytes FROM entry \
                             WHERE (used, key) > (?1, ?2) AND goes IS NOT NULL ORDER BY used, key LIMIT ?3";
        let (used, key): (i64, &[u8]) =
            after.map_or((-1, &[]), |(it, _)| (it.used as i64, it.key.as_bytes()));
        self.all(QUERY, params![used, key, PAGE], |row| {
            let going = Going {
                key: Key::from_bytes(row.get(0)?),
                used: number(row, 4)?,
                reason: one_of(&[GcReason::Age, GcReason::Size, GcReason::Free], row, 5)?,
                built: row.get(6)?,
                labels: serde_json::from_str(&row.get::<_, String>(7)?).unwrap_or_default(),
                bytes: number(row, 8)?,
            };
            Ok((going, Stamp::read(row, 1)?))
        })
    }

    /// The next page of objects to delete, by digest.
    pub(super) fn unnamed(&self, after: Option<&(Digest, Stamp)>) -> Result<Vec<(Digest, Stamp)>> {
        const QUERY: &str = "SELECT digest, size, inode, modified FROM object \
                             WHERE digest > ?1 AND names = 0 AND NOT stays ORDER BY digest LIMIT ?2";
        let after: &[u8] = after.map_or(&[], |(digest, _)| digest.as_bytes());
        self.all(QUERY, params![after, PAGE], |row| {
            Ok((Digest::from_bytes(row.get(0)?), Stamp::read(row, 1)?))
        })
    }

    /// The next page of other files to delete, by path.
    pub(super) fn useless(&self, after: Option<&File>) -> Result<Vec<File>> {
        const QUERY: &str = "SELECT path, size, inode, modified, kind, leads_to FROM useless \
                             WHERE path > ?1 ORDER BY path LIMIT ?2";
        self.all(QUERY, params![after.map_or("", |file| &file.path), PAGE], |row| {
            let kind = one_of(&[Useless::Pointer, Useless::Signature, Useless::Draft], row, 4)?;
            Ok(File { path: row.get(0)?, stamp: Stamp::read(row, 1)?, kind, leads_to: row.get(5)? })
        })
    }

    /// The next page of the index's rows to delete, by key.
    pub(super) fn rows(&self, after: Option<&Key>) -> Result<Vec<Key>> {
        const QUERY: &str = "SELECT key FROM row WHERE key > ?1 ORDER BY key LIMIT ?2";
        let after: &[u8] = after.map_or(&[], |key| key.as_bytes());
        self.all(QUERY, params![after, PAGE], |row| row.get(0).map(Key::from_bytes))
    }

    /// Iterates over one of the lists above, page by page.
    pub(super) fn pages<T>(
        &self,
        list: impl Fn(&PlanDb, Option<&T>) -> Result<Vec<T>>,
        mut each: impl FnMut(&[T]) -> Result<()>,
    ) -> Result<()> {
        let mut last = None;
        loop {
            let mut page = list(self, last.as_ref())?;
            if page.is_empty() {
                return Ok(());
            }
            each(&page)?;
            last = page.pop();
        }
    }

    /// Total size of entries and objects, and the size of unreferenced objects, in bytes.
    pub(super) fn bytes(&self) -> Result<(u64, u64)> {
        let entries = self.count("entry WHERE 1")?;
        let objects = self.count("object WHERE 1")?;
        let unnamed = self.count("object WHERE names = 0 AND NOT stays")?;
        Ok((entries.bytes + objects.bytes, unnamed.bytes))
    }

    /// Counts of what will be deleted and kept.
    pub(super) fn totals(&self) -> Result<(Totals, Staying)> {
        let useless = |kind: Useless| self.count(&format!("useless WHERE kind = {}", kind as i64));
        let goes = Totals {
            entries: self.count("entry WHERE goes IS NOT NULL")?,
            objects: self.count("object WHERE names = 0 AND NOT stays")?,
            pointers: useless(Useless::Pointer)?,
            signatures: useless(Useless::Signature)?,
            drafts: useless(Useless::Draft)?,
            rows: self.all("SELECT COUNT(*) FROM row", [], |row| number(row, 0))?[0],
        };
        let stays = Staying {
            entries: self.count("entry WHERE goes IS NULL")?,
            objects: self.count("object WHERE names > 0 OR stays")?,
            kept: self.count("entry WHERE may_go = 0")?.files,
            young: self.count("entry WHERE may_go = 2")?.files,
            exceeds: None,
        };
        Ok((goes, stays))
    }

    fn count(&self, of: &str) -> Result<Count> {
        let query = format!("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM {of}");
        let read = |row: &Row| Ok(Count { files: number(row, 0)?, bytes: number(row, 1)? });
        Ok(self.all(&query, [], read)?[0])
    }

    fn execute(&self, statement: &str, with: impl Params) -> Result<()> {
        self.ask(|db| db.prepare_cached(statement)?.execute(with).map(drop))
    }

    fn all<T>(
        &self,
        query: &str,
        with: impl Params,
        read: impl FnMut(&Row) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.ask(|db| db.prepare_cached(query)?.query_map(with, read)?.collect())
    }

    fn ask<T>(&self, act: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        act(&self.db).map_err(|source| Error::Sqlite { path: self.path.clone(), source })
    }
}

/// The variant whose discriminant a column contains; `variants` are all of them in order.
fn one_of<T: Copy>(variants: &[T], row: &Row, at: usize) -> rusqlite::Result<T> {
    let number: i64 = row.get(at)?;
    let variant = usize::try_from(number).ok().and_then(|number| variants.get(number));
    variant.copied().ok_or(rusqlite::Error::IntegralValueOutOfRange(at, number))
}

fn number(row: &Row, at: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(at).map(|number| number.max(0) as u64)
}
