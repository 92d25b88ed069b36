//! Repairing findings.

use super::{Corrupt, Finding, examine};
use crate::{Entry, Key, Result, SharedCaches, Store, Waiting, disk, entry, object};

/// Input of repairs.
pub struct Repair<'a> {
    /// The store that has the finding.
    pub store: &'a Store,
    /// Shared caches to fetch from; may be empty.
    pub caches: &'a SharedCaches,
    /// How long to wait for concurrent processes.
    pub waiting: &'a Waiting<'a>,
    /// The current time, in seconds since 1970.
    pub now: u64,
}

/// What a repair did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// Fetched from a shared cache; it is intact again.
    Fetched,
    /// Deleted; whatever needs it will fetch or build it again.
    Deleted,
    /// Rebuilt from intact data.
    MadeAgain,
    /// Nothing: a concurrent process had repaired or deleted it.
    Nothing,
}

impl Repair<'_> {
    /// Repairs a finding.
    pub fn repair(&self, finding: &Finding) -> Result<Repaired> {
        match &finding.what {
            Corrupt::Object(digest) => {
                let _turn = self.store.collecting(self.waiting)?;
                let path = object::path(&self.store.objects(), digest);
                if object::examine(&path, digest).is_ok() {
                    return Ok(Repaired::Nothing);
                }
                self.store.discard_object(digest)?;
                Ok(Repaired::Deleted)
            }
            Corrupt::Entry(key) => self.entry(key),
            Corrupt::Lacking(key) => match self.store.lookup(key)? {
                Some(entry) => self.lacking(key, &entry),
                None => Ok(Repaired::Nothing),
            },
            Corrupt::Untrue(key) => self.untrue(key),
            Corrupt::Pointer(name) => {
                let _turn = self.store.collecting(self.waiting)?;
                if self.store.pointer(name).is_ok() {
                    return Ok(Repaired::Nothing);
                }
                disk::remove(&self.store.dir().join(name.path()))?;
                Ok(Repaired::Deleted)
            }
            Corrupt::Index => {
                self.store.mend_index(self.waiting)?;
                Ok(Repaired::MadeAgain)
            }
        }
    }

    /// Replaces a corrupt entry. Its objects are intact and may serve others. A concurrent repair is kept.
    fn entry(&self, key: &Key) -> Result<Repaired> {
        if self.caches.fetch(self.store, key, self.now, &|_| Ok(()), &|_| ())?.is_some() {
            return Ok(Repaired::Fetched);
        }
        let turn = self.store.collecting(self.waiting)?;
        if examine(self.store, key)?.is_none() {
            return Ok(Repaired::Nothing);
        }
        disk::remove(&entry::path(&self.store.entries(), key))?;
        drop(turn);
        self.store.forget(key)?;
        Ok(Repaired::Deleted)
    }

    /// Deletes the entry first, because inserting would keep an intact file.
    fn untrue(&self, key: &Key) -> Result<Repaired> {
        let turn = self.store.collecting(self.waiting)?;
        if !matches!(examine(self.store, key)?, Some((Corrupt::Untrue(_), _))) {
            return Ok(Repaired::Nothing);
        }
        self.store.forget(key)?;
        drop(turn);
        let fetched = self.caches.fetch(self.store, key, self.now, &|_| Ok(()), &|_| ())?;
        Ok(if fetched.is_some() { Repaired::Fetched } else { Repaired::Deleted })
    }

    fn lacking(&self, key: &Key, entry: &Entry) -> Result<Repaired> {
        let mut done = Repaired::Nothing;
        for output in entry.manifest().needed() {
            if self.store.claim_object(&output.digest)? {
                continue;
            }
            if !self.caches.fetch_output(self.store, key, output)? {
                return self.entry(key);
            }
            done = Repaired::Fetched;
        }
        Ok(done)
    }
}
