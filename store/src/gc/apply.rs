//! Executing a plan. Deletes only files that are unchanged since the plan was made.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

use super::plan_db::{File, PlanDb, Stamp};
use super::survey::{named, read};
use super::{GcPlan, Going, Totals, must_go_on, under};
use crate::disk::remove;
use crate::lease::Turn;
use crate::publish::sync_dir;
use crate::{Digest, Error, Key, Result, Store, Waiting, entry, object};

/// Called before each step; tests fail or crash in it.
type Step<'a> = dyn Fn(&str) -> Result<()> + 'a;

/// Name of the lock that one collection holds.
const LOCK: &str = "gc";

impl GcPlan {
    /// Executes the plan: deletes what is unchanged since it was made, and calls `each` for each deleted entry. Waits
    /// for concurrent processes as long as `waiting` allows.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if another collection runs for longer, [`Error::Interrupted`] after `cancel`. What was deleted
    /// until then stays deleted; the store is consistent.
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

/// The execution of a plan.
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
        // Objects must not be deleted durably while an entry that references them still exists.
        dirs.iter().try_for_each(|dir| sync_dir(dir))
    }

    /// Deletes the entries of a page that were not used or changed since the plan; for the others, their objects are
    /// referenced again.
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

    /// Takes the lock for one step. Between two steps others can add to the store, and the run can be cancelled.
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
