//! What is done about a finding.

use super::{Finding, What, examine};
use crate::{Entry, Key, Result, SharedCaches, Store, Waiting, disk, entry, object};

/// What repairing takes.
pub struct Repair<'a> {
    /// The store.
    pub store: &'a Store,
    /// Where whole ones may be fetched from; empty ones for none.
    pub caches: &'a SharedCaches,
    /// How long others are waited for.
    pub waiting: &'a Waiting<'a>,
    /// Seconds since 1970.
    pub now: u64,
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// It is whole again.
    Fetched,
    /// It is gone; what needs it will be fetched or built again.
    Deleted,
    /// It was made again from what is whole.
    MadeAgain,
    /// Somebody else has done it meanwhile.
    Nothing,
}

impl Repair<'_> {
    /// Puts a finding right.
    pub fn repair(&self, finding: &Finding) -> Result<Repaired> {
        match &finding.what {
            What::Object(digest) => {
                let _turn = self.store.collecting(self.waiting)?;
                let path = object::path(&self.store.objects(), digest);
                if object::examine(&path, digest).is_ok() {
                    return Ok(Repaired::Nothing);
                }
                self.store.discard_object(digest)?;
                Ok(Repaired::Deleted)
            }
            What::Entry(key) => self.entry(key),
            What::Lacking(key) => match self.store.lookup(key)? {
                Some(entry) => self.lacking(key, &entry),
                None => Ok(Repaired::Nothing),
            },
            What::Untrue(key) => self.untrue(key),
            What::Pointer(name) => {
                let _turn = self.store.collecting(self.waiting)?;
                if self.store.pointer(name).is_ok() {
                    return Ok(Repaired::Nothing);
                }
                disk::remove(&self.store.dir().join(name.path()))?;
                Ok(Repaired::Deleted)
            }
            What::Index => {
                self.store.mend_index(self.waiting)?;
                Ok(Repaired::MadeAgain)
            }
        }
    }

    /// Its objects may serve others, and are as they were. What somebody else has put right meanwhile stays.
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

    /// It goes first: what is there whole would stay.
    fn untrue(&self, key: &Key) -> Result<Repaired> {
        let turn = self.store.collecting(self.waiting)?;
        if !matches!(examine(self.store, key)?, Some((What::Untrue(_), _))) {
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
