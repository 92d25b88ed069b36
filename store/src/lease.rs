//! How those who add to a store and the one who collects what is not wanted stay out of each other's way.
//!
//! An object goes when no entry names it. But whoever makes an entry finds some of its objects in the store already, of which
//! some may be those that are about to go. So each time that an object is stored, found there, or named by a new entry, it
//! gets the present time: it is claimed. The collector has noted every object's time *before* it reads the first entry, and
//! deletes only those that still have that time.
//!
//! ```text
//! add       lock shared:     claim all objects, refused if one is missing; publish the entry
//! collect   note objects' times; read all entries;
//!           lock exclusive:  delete what was not named and has the time that was noted
//! ```
//! The lock is `flock` on the directory `objects/`, held for single steps only: never while something is compressed, fetched
//! or built. An entry that was published before the collector reads entries is read. One that is published later has claimed
//! its objects under the lock: either they are gone by then, and the entry is refused, or they stay. No clock is compared with
//! another, so one that is set back does no harm.
//!
//! Entries that are used are claimed in the same way, for whoever has found one will want its objects next. A store that
//! cannot be written is not collected either: there claims do nothing.

use std::fs::TryLockError;

use crate::disk::{if_there, make_dir, touch};
use crate::lock::until;
use crate::publish::Draft;
use crate::transport::IfTaken;
use crate::{Digest, Error, Key, Manifest, Output, Result, Role, Store, Waiting, entry, object};

/// The right to add, or to collect, until it is dropped.
pub(crate) struct Turn(#[expect(dead_code, reason = "the lock is let go of when it is closed")] fs_err::File);

impl Store {
    /// Whether there is a file for the object. If so, it is as if it had been stored now, for an entry that will name it.
    pub fn claim_object(&self, digest: &Digest) -> Result<bool> {
        self.must_write()?;
        let _adding = self.adding()?;
        touch(&object::path(&self.objects(), digest))
    }

    /// The same for all objects of an entry that are there, by somebody whose turn it is; an output that is needed and is
    /// missing, if there is one.
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

    /// Whether there is a file for the entry, which is claimed as far as that is possible: a full or failing disk is no reason
    /// not to use what is there.
    pub(crate) fn claim_entry(&self, key: &Key) -> Result<bool> {
        let path = entry::path(&self.entries(), key);
        let claimed = self.must_write().and_then(|()| self.adding()).and_then(|_adding| touch(&path));
        match claimed {
            Ok(is_there) => Ok(is_there),
            Err(_) => Ok(if_there(fs_err::metadata(&path))?.is_some()),
        }
    }

    /// Gives an object its name, or claims the one that has it.
    pub(crate) fn publish_object(&self, draft: Draft, digest: &Digest) -> Result<()> {
        let _adding = self.adding()?;
        let path = object::path(&self.objects(), digest);
        if !draft.publish(&path, IfTaken::Keep)? {
            touch(&path)?;
        }
        Ok(())
    }

    /// One of many who may add now, while nobody collects.
    pub(crate) fn adding(&self) -> Result<Turn> {
        self.turn(&self.silently(), std::fs::File::try_lock_shared)
    }

    /// The only one to whom the entries and objects belong now.
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
            // Somebody has emptied the cache by hand.
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
