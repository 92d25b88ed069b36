//! Leases: how adding to a store and concurrent garbage collection exclude each other.
//!
//! The collector deletes objects that no entry references. But a process that makes an entry finds some of its objects
//! in the store already, and these may be about to be deleted. So storing an object, finding it, or referencing it
//! from a new entry sets its modification time to now: this is a claim. The collector records every object's time
//! *before* it reads the first entry, and deletes only objects that still have that time.
//!
//! ```text
//! add       lock shared:     claim all objects, fail if one is missing; publish the entry
//! collect   record objects' times; read all entries;
//!           lock exclusive:  delete unreferenced objects that have the recorded time
//! ```
//! The lock is `flock` on the directory `objects/`, held for single steps only, never while something is compressed,
//! fetched or built. The collector reads every entry published before it reads entries. An entry published later
//! claimed its objects under the lock: either they are already deleted, and the entry is refused, or they are kept. No
//! two clocks are compared, so a clock that is set back does no harm.
//!
//! Using an entry claims it in the same way, because its objects will be read next. A store that cannot be written
//! cannot be collected either, so claims on it do nothing.

use std::fs::TryLockError;

use crate::disk::{if_there, make_dir, touch};
use crate::lock::until;
use crate::publish::Draft;
use crate::transport::IfTaken;
use crate::{Digest, Error, Key, Manifest, Output, Result, Role, Store, Waiting, entry, object};

/// The shared right to add or the exclusive right to collect, released on drop.
pub(crate) struct Turn(#[expect(dead_code, reason = "the lock is let go of when it is closed")] fs_err::File);

impl Store {
    /// Whether the object has a file. If so, claims it for an entry that will reference it.
    pub fn claim_object(&self, digest: &Digest) -> Result<bool> {
        self.must_write()?;
        let _adding = self.adding()?;
        touch(&object::path(&self.objects(), digest))
    }

    /// Claims all objects of an entry that exist; returns a needed output whose object is missing. The caller holds
    /// the lock.
    pub(crate) fn claim_objects<'m>(&self, manifest: &'m Manifest) -> Result<Option<&'m Output>> {
        let mut missing = None;
        for output in &manifest.outputs {
            let is_there = touch(&object::path(&self.objects(), &output.digest))?;
            if !is_there && output.role != Role::Debug {
                missing = missing.or(Some(output));
            }
        }
        Ok(missing)
    }

    /// Whether the entry has a file. Claims it if possible; a full or failing disk does not prevent its use.
    pub(crate) fn claim_entry(&self, key: &Key) -> Result<bool> {
        let path = entry::path(&self.entries(), key);
        let claimed = self.must_write().and_then(|()| self.adding()).and_then(|_adding| touch(&path));
        match claimed {
            Ok(is_there) => Ok(is_there),
            Err(_) => Ok(if_there(fs_err::metadata(&path))?.is_some()),
        }
    }

    /// Publishes an object, or claims the existing file.
    pub(crate) fn publish_object(&self, draft: Draft, digest: &Digest) -> Result<()> {
        let _adding = self.adding()?;
        let path = object::path(&self.objects(), digest);
        if !draft.publish(&path, IfTaken::Keep)? {
            touch(&path)?;
        }
        Ok(())
    }

    /// Takes the lock shared, so that nobody collects meanwhile.
    pub(crate) fn adding(&self) -> Result<Turn> {
        self.turn(&self.silently(), std::fs::File::try_lock_shared)
    }

    /// Takes the lock exclusively, so that nobody adds meanwhile.
    pub(crate) fn collecting(&self, waiting: &Waiting) -> Result<Turn> {
        self.turn(waiting, std::fs::File::try_lock)
    }

    fn turn(
        &self,
        waiting: &Waiting,
        lock: fn(&std::fs::File) -> std::result::Result<(), TryLockError>,
    ) -> Result<Turn> {
        let dir = self.objects();
        let file = match if_there(fs_err::File::open(&dir))? {
            Some(file) => file,
            // `objects/` is missing if somebody emptied the cache by hand.
            None => {
                make_dir(&dir, 0o755)?;
                fs_err::File::open(&dir)?
            }
        };
        until(&dir, waiting, || match lock(file.file()) {
            Ok(()) => Ok(Some(())),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(Error::At { act: "lock", path: dir.clone(), source }),
        })?;
        Ok(Turn(file))
    }
}
