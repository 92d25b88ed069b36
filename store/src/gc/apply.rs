//! Performing a plan: what is still as it was planned goes.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use super::plan_db::{File, PlanDb, Stamp};
use super::survey::{named, read};
use super::{Going, Plan, Totals, must_go_on, under};
use crate::disk::remove;
use crate::lease::Turn;
use crate::publish::sync_dir;
use crate::{Digest, Error, Key, Result, Store, Waiting, entry, object};

/// Told of each step. Tests fail or die in it.
type Step<'a> = dyn Fn(&str) -> Result<()> + 'a;

/// The lock of whoever collects.
const LOCK: &str = "gc";

impl Plan {
    /// Deletes what is to go, and tells of each entry that has gone; what was stored, named or used since stays. Waits for
    /// others as long as `waiting` allows.
    pub fn apply(
        &self,
        store: &Store,
        waiting: &Waiting,
        cancel: &AtomicBool,
        each: &mut dyn FnMut(&Going),
    ) -> Result<Totals> {
        self.apply_at(store, waiting, cancel, each, &|_| Ok(()))
    }

    pub(super) fn apply_at(
        &self,
        store: &Store,
        waiting: &Waiting,
        cancel: &AtomicBool,
        each: &mut dyn FnMut(&Going),
        step: &Step<'_>,
    ) -> Result<Totals> {
        let _lock = store.lock(LOCK, waiting)?;
        let mut gone = Totals::default();
        let run = Run { store, waiting, cancel, plan_db: &self.plan_db, step };
        run.entries(&mut gone, each)?;
        run.objects(&mut gone)?;
        run.useless(&mut gone)?;
        run.rows(&mut gone)?;
        Ok(gone)
    }
}

/// A plan that is being performed.
struct Run<'a> {
    store: &'a Store,
    waiting: &'a Waiting<'a>,
    cancel: &'a AtomicBool,
    plan_db: &'a PlanDb,
    step: &'a Step<'a>,
}

impl Run<'_> {
    fn entries(&self, gone: &mut Totals, each: &mut dyn FnMut(&Going)) -> Result<()> {
        let mut dirs = BTreeSet::new();
        self.plan_db.pages(PlanDb::going, |page| {
            let went = self.entries_of(page)?;
            let keys: Vec<Key> = went.iter().map(|(going, _)| going.key).collect();
            (self.step)("entries gone")?;
            self.store.update(|index| index.remove(&keys))?;
            for (going, stamp) in went {
                gone.entries.add(stamp.size);
                dirs.extend(entry::path(&self.store.entries(), &going.key).parent().map(ToOwned::to_owned));
                each(going);
            }
            (self.step)("rows gone")
        })?;
        // Objects must not be gone from the disk while an entry that names them is still there.
        dirs.iter().try_for_each(|dir| sync_dir(dir))
    }

    /// Deletes those of a page that nobody has used or changed since, and names the objects of the others again.
    fn entries_of<'p>(&self, page: &'p [(Going, Stamp)]) -> Result<Vec<&'p (Going, Stamp)>> {
        let _turn = self.turn()?;
        let mut went = Vec::new();
        for one @ (going, stamp) in page {
            let path = entry::path(&self.store.entries(), &going.key);
            if stamp.is_still(&path)? {
                (self.step)("entry goes")?;
                remove(&path)?;
                went.push(one);
            } else {
                self.stays(&going.key)?;
            }
        }
        Ok(went)
    }

    /// Between two turns others add, and the run can be ended.
    fn turn(&self) -> Result<Turn> {
        must_go_on(self.cancel)?;
        self.store.collecting(self.waiting)
    }

    fn stays(&self, key: &Key) -> Result<()> {
        match read(&entry::path(&self.store.entries(), key), key) {
            Ok(Some((.., entry))) => self.plan_db.name(named(entry.manifest()).iter()),
            Ok(None) | Err(Error::Damaged { .. } | Error::Entry { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn objects(&self, gone: &mut Totals) -> Result<()> {
        self.plan_db.pages(PlanDb::unnamed, |page: &[(Digest, Stamp)]| {
            let _turn = self.turn()?;
            for (digest, stamp) in page {
                let path = object::path(&self.store.objects(), digest);
                if stamp.is_still(&path)? {
                    (self.step)("object goes")?;
                    remove(&path)?;
                    gone.objects.add(stamp.size);
                }
            }
            Ok(())
        })
    }

    fn useless(&self, gone: &mut Totals) -> Result<()> {
        self.plan_db.pages(PlanDb::useless, |page: &[File]| {
            let _turn = self.turn()?;
            for File { path, kind, stamp, leads_to } in page {
                let leads = leads_to.as_ref().is_some_and(|to| under(self.store, to).exists());
                let path = under(self.store, path);
                if !leads && stamp.is_still(&path)? {
                    (self.step)("useless file goes")?;
                    remove(&path)?;
                    gone.of(*kind).add(stamp.size);
                }
            }
            Ok(())
        })
    }

    fn rows(&self, gone: &mut Totals) -> Result<()> {
        self.plan_db.pages(PlanDb::rows, |page: &[Key]| {
            let _turn = self.turn()?;
            let mut keys = page.to_vec();
            keys.retain(|key| !entry::path(&self.store.entries(), key).exists());
            (self.step)("stale rows go")?;
            self.store.update(|index| index.remove(&keys))?;
            gone.rows += keys.len() as u64;
            Ok(())
        })
    }
}
