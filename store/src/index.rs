//! The index: entries by label, last uses, memos and counters. All of its SQL is here and in `schema.sql`.
//!
//! The index is derived data. If it is missing, incomplete or corrupt, the process that notices first sets it aside
//! and rebuilds it from the entries, under a lock. If it cannot be opened (a read-only store, a network file system, a
//! full disk), the store works without it.
//!
//! A store is opened often and mostly for one look-up, so opening costs one query, for the schema's version. An index
//! of an older version is upgraded in one transaction together with its version number; if it cannot be written, the
//! store works without it. Corruption is detected only if SQLite itself detects it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension, Transaction, TransactionBehavior, params,
};

use crate::{Digest, Error, Key, Manifest, Notice, Outcome, Result, Say};

const SCHEMA: &str = include_str!("../../schema.sql");
/// Version of the last chapter of the schema. Stored as `user_version`: add, never change.
const VERSION: u32 = 3;

/// SQL that upgrades each version to the next: the chapters of the schema.
fn steps() -> impl Iterator<Item = &'static str> {
    SCHEMA.split("\n-- Version ").skip(1).filter_map(|chapter| Some(chapter.split_once('\n')?.1))
}

/// Resolution of last uses in seconds. They decide about garbage collection in days; writing at every look-up would
/// make readers wait for fsync.
const USED_WITHIN: u64 = 3600;
/// Age in seconds at which memos are deleted. Most are of trees that no longer exist; recomputing another costs one
/// hashing in half a year.
const MEMO_AGE: u64 = 180 * 86400;

/// An entry's row in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The entry's key.
    pub key: Key,
    /// True for a build, false for a remembered failure.
    pub built: bool,
    /// When it was built, in seconds since 1970.
    pub created: u64,
    /// When it was last used, in seconds since 1970, with a resolution of an hour.
    pub used: u64,
    /// The manifest's labels.
    pub labels: BTreeMap<String, String>,
    /// Size in bytes of all its outputs, uncompressed.
    pub size: u64,
}

/// Passes rows to a callback, one at a time.
pub(crate) type Rows<'a> = dyn FnMut(&mut dyn FnMut(&Row) -> Result<()>) -> Result<()> + 'a;

impl Row {
    /// The row of an entry when the index is rebuilt.
    pub(crate) fn of(manifest: &Manifest) -> Row {
        Row {
            key: manifest.key,
            built: manifest.outcome == Outcome::Built,
            created: manifest.created,
            used: manifest.created,
            labels: manifest.labels.clone(),
            size: manifest.size(),
        }
    }
}

/// SQLite's own busy timeout, within which a wait is not reported.
const QUIETLY: Duration = Duration::from_secs(1);

/// An open connection to the index.
pub(crate) struct Index {
    db: Connection,
    path: PathBuf,
    /// How long to wait for other processes; zero after one wait has used it up.
    patience: Duration,
    /// Receives a notice when a wait is long.
    print: Option<Say>,
}

/// Result of opening an index.
pub(crate) enum Found {
    /// A usable index.
    Index(Index),
    /// No index, or one whose creation was interrupted.
    Nothing,
    /// A file that is not a database, or a corrupt one.
    Damaged,
    /// A file that cannot be opened here.
    Unreachable,
}

impl Index {
    /// Opens an existing index; creates nothing.
    pub(crate) fn open(path: &Path, writable: bool, patience: Duration) -> Result<Found> {
        match fs_err::metadata(path) {
            Ok(_) => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(e) => return Err(e.into()),
        }
        let access =
            if writable { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
        let opened = Index::connect(path, access, patience).and_then(|index| Ok((index.version()?, index)));
        let opened = opened.and_then(|(version, mut index)| match version {
            1..VERSION if writable => index.upgrade(|_| Ok(())).map(|()| (VERSION, index)),
            _ => Ok((version, index)),
        });
        match opened {
            Ok((0, _)) => Ok(Found::Nothing),
            Ok((VERSION, index)) => Ok(Found::Index(index)),
            Ok((1..VERSION, _)) => Ok(Found::Unreachable),
            Ok((found, _)) => Err(Error::Format { path: path.to_owned(), found }),
            Err(e) if e.is_index_corruption() => Ok(Found::Damaged),
            Err(e) if e.is_unreachable_index() => Ok(Found::Unreachable),
            Err(e) => Err(e),
        }
    }

    /// Creates the index with its rows in one transaction. `rows` passes them one at a time.
    pub(crate) fn create(path: &Path, rows: &mut Rows, patience: Duration) -> Result<Index> {
        let access = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
        let mut index = Index::connect(path, access, patience)?;
        index.ask(|db| db.pragma_update(None, "journal_mode", "WAL"))?;
        let mut stopped = None;
        let made = index.upgrade(|change| {
            let mut put = |row: &Row| {
                put_row(change, row).map_err(|source| Error::Sqlite { path: path.to_owned(), source })
            };
            rows(&mut put).map_err(|error| match error {
                Error::Sqlite { source, .. } => source,
                error => {
                    stopped = Some(error);
                    rusqlite::Error::ExecuteReturnedResults // anything: the transaction is undone
                }
            })
        });
        match stopped {
            Some(error) => Err(error),
            None => made.map(|()| index),
        }
    }

    /// Runs the missing upgrades, and `more` after them, in one transaction. The version is read inside it, because
    /// another process may have upgraded meanwhile.
    fn upgrade(&mut self, more: impl FnOnce(&Transaction) -> rusqlite::Result<()>) -> Result<()> {
        self.write(|change| {
            let version: u32 = change.pragma_query_value(None, "user_version", |row| row.get(0))?;
            for step in steps().skip(version as usize) {
                change.execute_batch(step)?;
            }
            change.pragma_update(None, "user_version", VERSION.max(version))?;
            more(change)
        })
    }

    /// Renames a corrupt index, to keep it for analysis.
    pub(crate) fn set_aside(path: &Path) -> Result<()> {
        // Its journal must not be used for the new index.
        for suffix in ["-wal", "-shm"] {
            match fs_err::remove_file(with_suffix(path, suffix)) {
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        Ok(fs_err::rename(path, with_suffix(path, ".damaged"))?)
    }

    /// Runs SQLite's integrity check, which reads everything.
    pub(crate) fn is_sound(&self) -> bool {
        let told = self.db.query_row("PRAGMA integrity_check(1)", [], |row| row.get::<_, String>(0));
        told.is_ok_and(|told| told == "ok")
    }

    /// Inserts or updates an entry's row, keeping the time of its last use.
    pub(crate) fn put(&mut self, row: &Row) -> Result<()> {
        self.write(|change| put_row(change, row))
    }

    /// Deletes entries' rows.
    pub(crate) fn remove(&mut self, keys: &[Key]) -> Result<()> {
        self.write(|change| {
            let mut delete = change.prepare_cached("DELETE FROM entry WHERE key = ?1")?;
            keys.iter().try_for_each(|key| delete.execute([key.as_bytes()]).map(drop))
        })
    }

    /// When an entry was last used; `None` if it has no row.
    pub(crate) fn last_used(&self, key: &Key) -> Result<Option<u64>> {
        self.ask(|db| last_used(db, key))
    }

    /// Up to `many` keys that follow `key` in order, or the first ones.
    pub(crate) fn keys_after(&self, key: Option<&Key>, many: u32) -> Result<Vec<Key>> {
        const QUERY: &str = "SELECT key FROM entry WHERE key > ?1 ORDER BY key LIMIT ?2";
        self.ask(|db| {
            let after: &[u8] = key.map_or(&[], |key| key.as_bytes());
            let mut select = db.prepare_cached(QUERY)?;
            select.query_map(params![after, many], |row| row.get(0).map(Key::from_bytes))?.collect()
        })
    }

    /// Like [`Index::put`] for many rows, in one transaction.
    pub(crate) fn put_all(&mut self, rows: &[Row]) -> Result<()> {
        self.write(|change| rows.iter().try_for_each(|row| put_row(change, row)))
    }

    /// Rows of the entries that have all these labels, newest first.
    pub(crate) fn find(&self, labels: &[(&str, &str)]) -> Result<Vec<Row>> {
        const HAS: &str = " AND key IN (SELECT key FROM label WHERE name = ? AND value = ?)";
        const ORDER: &str = " ORDER BY created DESC, key";
        let query = "SELECT key, built, created, used, size FROM entry WHERE 1".to_owned()
            + &HAS.repeat(labels.len())
            + ORDER;
        self.ask(|db| {
            let mut select = db.prepare_cached(&query)?;
            let words = labels.iter().flat_map(|(name, value)| [name, value]);
            let rows = select.query_map(rusqlite::params_from_iter(words), without_labels)?;
            rows.map(|row| row.and_then(|row| Ok(Row { labels: labels_of(db, &row.key)?, ..row }))).collect()
        })
    }

    /// The row of one entry.
    pub(crate) fn row(&self, key: &Key) -> Result<Option<Row>> {
        const QUERY: &str = "SELECT key, built, created, used, size FROM entry WHERE key = ?1";
        self.ask(|db| {
            let row = db.prepare_cached(QUERY)?.query_row([key.as_bytes()], without_labels).optional()?;
            row.map(|row| Ok(Row { labels: labels_of(db, key)?, ..row })).transpose()
        })
    }

    /// Records a use, unless one was recorded within the last hour.
    pub(crate) fn used(&mut self, key: &Key, now: u64) -> Result<()> {
        let known = self.last_used(key)?;
        if known.is_none_or(|used| now < used.saturating_add(USED_WITHIN)) {
            return Ok(());
        }
        let set = "UPDATE entry SET used = ?2 WHERE key = ?1";
        self.write(|change| change.execute(set, params![key.as_bytes(), whole(now)]).map(drop))
    }

    /// The value remembered under a signature, sealed.
    pub(crate) fn memo(&self, kind: &str, signature: &Digest) -> Result<Option<Vec<u8>>> {
        let query = "SELECT value FROM memo WHERE kind = ?1 AND signature = ?2";
        self.ask(|db| {
            db.prepare_cached(query)?
                .query_row(params![kind, signature.as_bytes()], |row| row.get(0))
                .optional()
        })
    }

    /// Remembers a value, and deletes very old ones.
    pub(crate) fn remember(&mut self, kind: &str, signature: &Digest, value: &[u8], now: u64) -> Result<()> {
        self.write(|change| {
            change.execute("DELETE FROM memo WHERE made < ?1", [whole(now.saturating_sub(MEMO_AGE))])?;
            let insert = "INSERT OR REPLACE INTO memo (kind, signature, value, made) VALUES (?1, ?2, ?3, ?4)";
            change.execute(insert, params![kind, signature.as_bytes(), value, whole(now)]).map(drop)
        })
    }

    /// Adds to counters, creating them as needed.
    pub(crate) fn count(&mut self, more: &BTreeMap<&str, u64>) -> Result<()> {
        const ADD: &str = "INSERT INTO counter (name, value) VALUES (?1, ?2) \
                           ON CONFLICT (name) DO UPDATE SET value = value + excluded.value";
        self.write(|change| {
            let mut add = change.prepare_cached(ADD)?;
            more.iter().try_for_each(|(name, more)| add.execute(params![name, whole(*more)]).map(drop))
        })
    }

    /// All counters.
    pub(crate) fn counts(&self) -> Result<BTreeMap<String, u64>> {
        self.ask(|db| {
            let mut select = db.prepare_cached("SELECT name, value FROM counter")?;
            select.query_map([], |row| Ok((row.get(0)?, natural(row.get(1)?))))?.collect()
        })
    }

    fn connect(path: &Path, access: OpenFlags, patience: Duration) -> Result<Index> {
        // The mutex in [`crate::Store`] serializes threads, so SQLite's own is not needed.
        let flags = access | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let sqlite = |source| Error::Sqlite { path: path.to_owned(), source };
        let db = Connection::open_with_flags(path, flags).map_err(sqlite)?;
        let index = Index { db, path: path.to_owned(), patience, print: None };
        index.ask(|db| {
            // Set before any statement that takes a lock, such as `PRAGMA journal_mode`.
            db.busy_timeout(patience.min(QUIETLY))?;
            db.pragma_update(None, "synchronous", "FULL")?;
            db.pragma_update(None, "foreign_keys", true)
        })?;
        Ok(index)
    }

    fn version(&self) -> Result<u32> {
        self.ask(|db| db.pragma_query_value(None, "user_version", |row| row.get(0)))
    }

    fn ask<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        query(&self.db).map_err(|source| error(&self.path, self.patience, source))
    }

    fn write(&mut self, change: impl FnOnce(&Transaction) -> rusqlite::Result<()>) -> Result<()> {
        // BEGIN IMMEDIATE: a transaction that begins by reading could not wait for the write lock.
        let (started, mut said) = (Instant::now(), false);
        let begun = loop {
            match self.db.transaction_with_behavior(TransactionBehavior::Immediate) {
                Err(e) if is_busy(&e) && started.elapsed() < self.patience => {
                    if let Some(print) = self.print.as_deref().filter(|_| !said) {
                        print(&Notice::info(format!(
                            "waiting for another kcache to finish with {}",
                            self.path.display()
                        )));
                    }
                    said = true;
                }
                begun => break begun,
            }
        };
        let done = begun.and_then(|transaction| {
            change(&transaction)?;
            transaction.commit()
        });
        if done.as_ref().is_err_and(is_busy) {
            self.patience = Duration::ZERO;
        }
        done.map_err(|source| error(&self.path, started.elapsed(), source))
    }

    /// Reports waits to `say` from now on.
    pub(crate) fn hear(&mut self, print: Say) {
        self.print = Some(print);
    }
}

impl Error {
    /// Whether this error means that the index must be rebuilt.
    pub(crate) fn is_index_corruption(&self) -> bool {
        let Error::Sqlite { source, .. } = self else { return false };
        match source.sqlite_error_code() {
            // `Unknown` is what SQLite reports for statements that do not match the tables; kcache's statements do.
            Some(code) => matches!(
                code,
                ErrorCode::NotADatabase
                    | ErrorCode::DatabaseCorrupt
                    | ErrorCode::Unknown
                    | ErrorCode::TooBig
                    | ErrorCode::ConstraintViolation
            ),
            // A column with a value that kcache never writes.
            None => !matches!(source, rusqlite::Error::ExecuteReturnedResults),
        }
    }

    /// Whether the index is intact, but cannot be opened or written here and now.
    pub(crate) fn is_unreachable_index(&self) -> bool {
        let Error::Sqlite { source, .. } = self else { return false };
        match source.sqlite_error_code() {
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::DiskFull) => true,
            // SQLite reports this on a full disk, because a new connection needs 32 KB of shared memory beside the
            // database.
            _ => source.sqlite_extended_error_code() == Some(SQLITE_IOERR_SHMSIZE),
        }
    }
}

/// The type of network file system that `dir` is on, if any.
///
/// WAL mode shares memory between processes, which two hosts cannot do, and locks on these file systems are
/// unreliable. FUSE is allowed: containers and virtual machines use it, and SQLite refuses if memory cannot be mapped.
pub(crate) fn network_fs(dir: &Path) -> Result<Option<&'static str>> {
    // Magic numbers from statfs(2) and the file systems' headers.
    const KINDS: [(u32, &str); 12] = [
        (0x0000_6969, "NFS"),
        (0x0000_517b, "SMB"),
        (0xfe53_4d42, "SMB"),
        (0xff53_4d42, "CIFS"),
        (0x0000_564c, "NCP"),
        (0x5346_414f, "AFS"),
        (0x7375_7245, "Coda"),
        (0x00c3_6400, "Ceph"),
        (0x0bd0_0bd0, "Lustre"),
        (0x0102_1997, "9P"),
        (0x0116_1970, "GFS2"),
        (0x7461_636f, "OCFS2"),
    ];
    let found = rustix::fs::statfs(dir)
        .map_err(|e| crate::error::at("determine the file system of", dir)(e.into()))?;
    // The field is a long of either sign; magic numbers have 32 bits.
    let magic = found.f_type as u32;
    Ok(KINDS.iter().find(|(known, _)| *known == magic).map(|(_, kind)| *kind))
}

fn error(path: &Path, waited: Duration, source: rusqlite::Error) -> Error {
    if is_busy(&source) {
        return Error::Busy { what: path.display().to_string(), waited };
    }
    Error::Sqlite { path: path.to_owned(), source }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn put_row(change: &Connection, row: &Row) -> rusqlite::Result<()> {
    let key = row.key.as_bytes();
    let used = last_used(change, &row.key)?.unwrap_or(0).max(row.used);
    change.execute("DELETE FROM entry WHERE key = ?1", [key])?;
    change.execute(
        "INSERT INTO entry (key, built, size, created, used) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![key, row.built, whole(row.size), whole(row.created), whole(used)],
    )?;
    let mut insert = change.prepare_cached("INSERT INTO label (name, value, key) VALUES (?1, ?2, ?3)")?;
    row.labels.iter().try_for_each(|(name, value)| insert.execute(params![name, value, key]).map(drop))
}

fn last_used(db: &Connection, key: &Key) -> rusqlite::Result<Option<u64>> {
    let mut select = db.prepare_cached("SELECT used FROM entry WHERE key = ?1")?;
    select.query_row([key.as_bytes()], |row| row.get(0).map(natural)).optional()
}

fn without_labels(row: &rusqlite::Row) -> rusqlite::Result<Row> {
    Ok(Row {
        key: Key::from_bytes(row.get(0)?),
        built: row.get(1)?,
        created: natural(row.get(2)?),
        used: natural(row.get(3)?),
        size: natural(row.get(4)?),
        labels: BTreeMap::new(),
    })
}

fn labels_of(db: &Connection, key: &Key) -> rusqlite::Result<BTreeMap<String, String>> {
    let mut select = db.prepare_cached("SELECT name, value FROM label WHERE key = ?1")?;
    select.query_map([key.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
}

/// SQLite's integers are signed. Larger numbers are meaningless, so they are clamped.
fn whole(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_schema_has_a_chapter_for_each_version() {
        assert_eq!(super::steps().count(), super::VERSION as usize);
    }
}
