//! Installation of modules into one kernel's tree.
//!
//! # What it promises
//!
//! At any instant, also after power loss, `kill -9` or a full disk, the kernel has the complete previous set of modules or
//! the complete new one; when [`Transaction::apply`] returns, the new one is on stable storage. Nothing gets in whose
//! digest was not checked while it was written, and what is signed is signed after that. `depmod` never runs on the live
//! tree, and no index is published that was not read again. Modules of others are never touched, unless that is asked for
//! in words ([`ForeignFiles`]). Removing the last package leaves the tree as if kcache had never
//! been there. When the kernel itself goes, so does all that kcache has in its tree ([`retire`]).
//!
//! # On disk
//!
//! ```text
//! lib/modules/
//!   .kcache-6.1.0-56-amd64.lock              the lock, while a transaction runs
//!   6.1.0-56-amd64/                          the kernel's tree, `T`
//!     kernel/ ...                            in-tree modules: never touched
//!     updates/kcache-<generation>/           one directory a set; under it
//!       generation.json[.copy]                 what is installed and why
//!       <package>/<module>.ko[.gz|.xz|.zst]
//!     modules.dep.bin, modules.dep, ...      kmod's indexes; the rename of modules.dep.bin is the commit
//!   .kcache-6.1.0-56-amd64.adopted/          mode 0700: modules of others that kcache's stand in for
//!   .kcache-6.1.0-56-amd64/                  mode 0700, there only during a transaction or after a crash
//!     new/kcache-<generation>/               the next generation, before it is renamed in
//!     base/usr/lib/modules/6.1.0-56-amd64/   links to the real tree; indexes are made here
//!     old/                                   hard links to the live indexes; the old generation on its way out
//!     kept/                                  hard links to modules of others that are to be kept
//!     journal.json[.copy]                    what is about to be done
//! ```
//!
//! The staging directory lies beside `T`, on the same file system but outside it: depmod descends into dot-directories.
//!
//! # The protocol
//!
//! 1. Lock. Recover what an earlier run left. Stage every module: read, check, sign, compress, write, fsync.
//! 2. Make the indexes of the staged base ([`reindex`], or depmod); read them again; every module must resolve to the staged file.
//! 3. Write the journal, fsync. From here on the live tree changes.
//! 4. Rename the generation in; rename the indexes in, all but one; fsync. Rename `modules.dep.bin` in; fsync.
//! 5. Take away what is asked for of others, move the old generation out, close the journal, delete the staging directory. In this order: while the old one is
//!    in the tree a journal says so, and a depmod of somebody else never finds it without one.
//!
//! An error before the end of step 4, a failed fsync among them, undoes everything at once; a fsync is never tried again,
//! because after a failed one the kernel may have dropped the pages (and says so only once). After it the new set is what is
//! installed, and lasts: what goes wrong in step 5 is a warning, and left to the next transaction. A crash is looked at by the
//! next transaction: without a journal the staging directory is litter; with one, the digest of the live
//! `modules.dep.bin` tells whether the commit had happened, and the transaction is finished or undone. Both are the same
//! code as without a crash and may themselves be interrupted.
//!
//! Two processes: the second waits for the lock, says so, and gives up after a while ([`Error::Busy`]). Who plans without
//! the lock is told when the plan no longer fits ([`Error::Changed`]). Others know nothing of the lock: where they have put
//! modules in or run depmod meanwhile, the indexes are made again ([`concurrent`]). A full or read-only disk: everything that needs
//! space is written before the journal, into the staging directory.

mod checked_json;
mod commit;
mod compare;
mod concurrent;
mod depmod;
mod disk;
mod error;
mod fault;
mod foreign_files;
mod generation;
mod indexes;
mod journal;
mod lock;
mod make_indexes;
mod names;
mod plan;
mod reachable;
mod recover;
mod recover_without_journal;
mod reindex;
mod remark;
mod retire;
mod stage;
#[cfg(test)]
mod tests;
mod tree;
mod verify;

use std::io;
use std::path::Path;
use std::time::Duration;

pub use compare::compare;
use concurrent::{ATTEMPTS, Indexes, TreeStamp};
pub use error::Error;
pub use generation::{Created, FILE as RECORD, Generation, Installed, ModuleSpec, Package, Set};
pub use indexes::verify_indexes;

pub use fault::Fault;
pub use foreign_files::{ForeignFile, ForeignFiles, forget_kept, kept};
pub use plan::{Act, Change, Plan, plan, plan_upon};
pub use reachable::generations;
pub use remark::Remark;
pub use retire::{has_kernel, is_live, is_orphaned, retire};
pub use verify::{Base, base, current, interrupted, verify};

pub use crate::index::Reason;
use crate::parallel::both;
use crate::signing::Identity;
use journal::{Hash, IndexChange, Journal};
use tree::{DEP_BIN, Tree};

/// Anything a [`Source`] may fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where modules come from: writes the bytes of one module, found by its digest. They are hashed again while they arrive.
pub type Source<'a> = dyn FnMut(&ModuleSpec, &mut dyn io::Write) -> Result<(), BoxError> + 'a;

/// Signs a module, whose bytes have been checked, as this signer: gives the same bytes with a signature appended.
pub type Sign<'a> = dyn Fn(&Identity, &ModuleSpec, &[u8]) -> Result<Vec<u8>, BoxError> + 'a;

/// Told of each step on the way. Tests fail or die in it.
type Step<'a> = dyn Fn(&str) -> io::Result<()> + 'a;

/// One kernel's tree, and the world around it.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// `<modules dir>/<release>`, absolute: `/lib/modules/6.1.0-56-amd64`, perhaps under another root.
    pub tree: &'a Path,
    /// `/`, or the root of the system that is worked on: whose depmod configuration counts.
    pub root: &'a Path,
    /// The depmod to run.
    pub depmod: &'a Path,
    /// Whether it is to run even where the indexes can be made without it.
    pub always_depmod: bool,
    /// Signs what is not installed yet; `None` where that cannot be done.
    pub sign: Option<&'a Sign<'a>>,
    /// How long to wait for another process.
    pub wait: Duration,
    /// Told, once, what is being waited for.
    pub say: &'a dyn Fn(&str),
}

/// What a transaction did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The generation that is installed now.
    pub generation: Option<String>,
    /// Whether anything was changed.
    pub changed: bool,
    /// What depmod had to say.
    pub remarks: Vec<Remark>,
    /// Who made the indexes; `None` where they stayed or went.
    pub indexed: Option<Indexed>,
}

/// Who made the indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Indexed {
    /// They were made from those that were there.
    Here {
        /// How many modules were read for that.
        read: usize,
    },
    /// depmod read every module.
    ByDepmod {
        /// Why.
        reason: Reason,
    },
}

/// What was found of an earlier run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// Nothing.
    Nothing,
    /// A staging directory of a run that had changed nothing; deleted.
    Litter,
    /// The commit had happened; the rest was done now.
    Finished,
    /// The commit had not happened; everything was undone.
    Undone,
}

/// The right to change one kernel's modules: holds the lock until it is dropped.
pub struct Transaction<'a> {
    site: Site<'a>,
    tree: Tree,
    recovered: Recovery,
    _lock: lock::Lock,
}

impl<'a> Transaction<'a> {
    /// Takes the lock and puts right what a crash left.
    pub fn begin(site: Site<'a>) -> Result<Self, Error> {
        Self::begin_at(site, &|_| Ok(()))
    }

    fn begin_at(site: Site<'a>, step: &Step<'_>) -> Result<Self, Error> {
        let tree = Tree::open(site.tree)?;
        let lock = lock::acquire(site.tree, site.wait, site.say)?;
        let recovered = recover::recover(&tree, step)?;
        let transaction = Self { site, tree, recovered: recovered.recovery, _lock: lock };
        if recovered.reindex {
            let done = transaction.reindex(step)?;
            transaction.settle(done, step)?;
        }
        Ok(transaction)
    }

    /// What an earlier run had left.
    pub fn recovered(&self) -> Recovery {
        self.recovered
    }

    /// Performs a plan. Make it after [`Transaction::begin`], or be told that it no longer fits.
    pub fn apply(&self, plan: &Plan, source: &mut Source<'_>) -> Result<Outcome, Error> {
        self.apply_at(plan, source, &|_| Ok(()))
    }

    fn apply_at(&self, plan: &Plan, source: &mut Source<'_>, step: &Step<'_>) -> Result<Outcome, Error> {
        let installed = base(&self.tree.path)?.generation;
        if installed.as_ref().map(|g| &g.generation) != plan.from.as_ref() {
            return Err(Error::Changed { kernel: self.tree.release.clone() });
        }
        if plan.is_nothing() {
            let (generation, remarks) = (plan.to.clone(), Vec::new());
            return Ok(Outcome { generation, changed: false, remarks, indexed: None });
        }
        let done = self.replace(installed.as_ref(), &plan.wanted, &plan.others, source, step)?;
        let Replaced { remarks, indexed, .. } = self.settle(done, step)?;
        Ok(Outcome { generation: plan.to.clone(), changed: true, remarks, indexed })
    }

    /// Makes the indexes again for what is installed, by depmod alone.
    pub fn remake_indexes(mut self) -> Result<Outcome, Error> {
        self.site.always_depmod = true;
        let installed = current(&self.tree.path)?;
        let done = self.reindex(&|_| Ok(()))?;
        let Replaced { remarks, indexed, .. } = self.settle(done, &|_| Ok(()))?;
        Ok(Outcome { generation: installed.map(|g| g.generation), changed: true, remarks, indexed })
    }

    /// Makes the indexes again for what is installed. Its files are all in the tree, so nothing is fetched.
    fn reindex(&self, step: &Step<'_>) -> Result<Replaced, Error> {
        let installed = base(&self.tree.path)?.generation;
        let wanted = installed.as_ref().map_or_else(Set::nothing, Generation::wanted);
        let mut source = |_: &ModuleSpec, _: &mut dyn io::Write| Err("its installed file is corrupt".into());
        self.replace(installed.as_ref(), &wanted, &ForeignFiles::Untouched, &mut source, step)
    }

    /// Makes the indexes again where others came in between. Gives what was done last.
    fn settle(&self, mut done: Replaced, step: &Step<'_>) -> Result<Replaced, Error> {
        for _ in 1..ATTEMPTS {
            if done.undisturbed {
                break;
            }
            done = match self.reindex(step) {
                Ok(done) => done,
                // They are not done yet; what was to be installed is.
                Err(Error::Crowded { .. }) => break,
                Err(error) => {
                    let what = "the indexes lack concurrent changes by other programs";
                    done.remarks.push(Remark::Undone(format!("{what}: {error}")));
                    break;
                }
            };
        }
        Ok(done)
    }

    /// The whole protocol: from what is installed to what is wanted.
    fn replace(
        &self,
        installed: Option<&Generation>,
        wanted: &Set,
        others: &ForeignFiles,
        source: &mut Source<'_>,
        step: &Step<'_>,
    ) -> Result<Replaced, Error> {
        let tree = &self.tree;
        let prepared = self.prepare(installed, wanted, others, source, step);
        // Should the litter stay, the next run deletes it; the first error is the one to be told.
        let Prepared { journal, remarks, indexed, staged, seen } =
            prepared.inspect_err(|_| drop(commit::sweep(tree)))?;
        if let Err(error) = self.commit(&journal, step) {
            return match commit::back(tree, &journal, &|_| Ok(())) {
                Ok(()) => Err(error),
                Err(undoing) => Err(Error::NotUndone { what: error.to_string(), source: Box::new(undoing) }),
            };
        }
        // The new set is in place, on stable storage; whatever happens now, it is what was done.
        let looked =
            commit::finish(tree, &journal, step).map(|()| self.is_undisturbed(others, &staged, &seen));
        let (undisturbed, trouble) = match looked {
            Ok(Ok(undisturbed)) => (undisturbed, None),
            Ok(Err(error)) => (true, Some(format!("cannot recheck the kernel's tree: {error}"))),
            Err(error) => (
                true,
                Some(format!(
                    "the replaced generation could not be deleted yet; the next run will delete it: {error}"
                )),
            ),
        };
        Ok(Replaced {
            remarks: remarks.into_iter().chain(trouble.map(Remark::Undone)).collect(),
            indexed,
            undisturbed,
        })
    }

    /// Whether the indexes are those that were published, and of what is in the tree.
    fn is_undisturbed(&self, others: &ForeignFiles, staged: &Indexes, seen: &TreeStamp) -> io::Result<bool> {
        // Files of others that were touched on request have changed their directories.
        let is_same = || Ok::<_, io::Error>(!others.is_nothing() || seen.is_still_but_for_ours(&self.tree)?);
        Ok(staged.are_live(&self.tree)? && is_same()?)
    }

    /// Everything that needs space or may be refused. The live tree is only read.
    fn prepare(
        &self,
        installed: Option<&Generation>,
        wanted: &Set,
        others: &ForeignFiles,
        source: &mut Source<'_>,
        step: &Step<'_>,
    ) -> Result<Prepared, Error> {
        let tree = &self.tree;
        disk::make_private_dir(&tree.staging)?;
        disk::make_dir(&tree.new_dir())?;
        disk::make_dir(&tree.old_dir())?;
        let new = (!wanted.packages.is_empty()).then(|| wanted.generation_name());
        let stage = || match &new {
            Some(_) => stage::stage_modules(&self.site, tree, wanted, installed, source).map(Some),
            None => Ok(None),
        };
        let (set, seen) = both(stage, || TreeStamp::of(tree));
        let (set, mut seen) = (set?, seen?);
        others.stage(tree)?;
        step("modules staged")?;
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            let prepared = self.prepare_indexes(installed, set.as_ref(), others, &seen, step);
            let alone = seen.is_still(tree)?;
            match prepared {
                Err(source) if !alone && left == 0 => {
                    return Err(Error::Crowded { kernel: tree.release.clone(), source: Box::new(source) });
                }
                _ if alone || left == 0 => return prepared,
                _ => stage::drop_indexes(tree, new.as_deref())?,
            }
            seen = TreeStamp::of(tree)?;
        }
    }

    /// The part that is done again when others were at the tree meanwhile.
    fn prepare_indexes(
        &self,
        installed: Option<&Generation>,
        set: Option<&Set<Installed>>,
        others: &ForeignFiles,
        seen: &TreeStamp,
        step: &Step<'_>,
    ) -> Result<Prepared, Error> {
        let tree = &self.tree;
        let new = set.map(|set| set.map(|module| module.spec.clone()).generation_name());
        let (indexes, made) = self.index(installed, new.as_deref(), others)?;
        step("indexes made")?;
        let new_manifest = match (set, &made) {
            (Some(set), Some(made)) => Some(self.write_manifest(set.clone(), installed, &indexes, made)?),
            _ => None,
        };
        disk::sync_dir(&tree.new_dir())?;
        stage::keep_indexes(tree, indexes.iter().filter(|change| change.before).map(|change| &change.name))?;
        step("indexes kept")?;
        let journal = Journal {
            format: checked_json::FORMAT,
            kernel: Some(tree.release.clone()),
            new_manifest: new_manifest.map(Hash),
            old: installed.map(|generation| generation.generation.clone()),
            retire: self.leaving(new.as_deref())?,
            makes_updates: new.is_some() && !disk::exists(&tree.updates())?,
            drops_updates: new.is_none()
                && installed.is_some_and(|generation| generation.created.updates_dir),
            old_index: disk::digest(&tree.index(DEP_BIN))?.map(Hash),
            new_index: made.as_ref().map(|made| Hash(made.digest)),
            indexes,
            others: others.clone(),
            new,
        };
        let staged = Indexes::staged(tree, &journal.indexes)?;
        let (remarks, indexed) = made.map(|made| (made.remarks, Some(made.by))).unwrap_or_default();
        Ok(Prepared { journal, remarks, indexed, staged, seen: seen.clone() })
    }

    /// The indexes for the next generation, made and checked, or their removal.
    fn index(
        &self,
        installed: Option<&Generation>,
        new: Option<&str>,
        others: &ForeignFiles,
    ) -> Result<(Vec<IndexChange>, Option<make_indexes::Made>), Error> {
        let tree = &self.tree;
        let change = |name: &String, after| {
            Ok(IndexChange { name: name.clone(), before: disk::exists(&tree.index(name))?, after })
        };
        if let (Some(installed), None, true) = (installed, new, others.is_nothing())
            && plan::made_all_indexes(tree, installed)?
        {
            let changes = installed.created.indexes.iter().map(|name| change(name, false));
            return Ok((changes.collect::<io::Result<_>>()?, None));
        }
        stage::stage_base(tree, new)?;
        others.stage_base(tree)?;
        let made = make_indexes::run(&self.site, tree, others)?;
        let changes = made.names.iter().map(|name| change(name, true)).collect::<io::Result<_>>()?;
        Ok((changes, Some(made)))
    }

    /// Checks that every module resolves to its staged file, then completes the staged generation. Gives the digest of
    /// its `generation.json`.
    fn write_manifest(
        &self,
        set: Set<Installed>,
        installed: Option<&Generation>,
        indexes: &[IndexChange],
        made: &make_indexes::Made,
    ) -> Result<blake3::Hash, Error> {
        let name = set.map(|module| module.spec.clone()).generation_name();
        let first = || -> io::Result<Created> {
            let indexes =
                indexes.iter().filter(|change| !change.before).map(|change| change.name.clone()).collect();
            Ok(Created { updates_dir: !disk::exists(&self.tree.updates())?, indexes })
        };
        let generation = Generation {
            format: checked_json::FORMAT,
            generation: name.clone(),
            kernel: self.tree.release.clone(),
            set,
            created: installed.map_or_else(first, |generation| Ok(generation.created.clone()))?,
            index: made.digest,
            previous: match installed {
                // A repair is no step to go back from.
                Some(same) if same.generation == name => same.previous.clone(),
                other => other.map(Generation::wanted),
            },
        };
        if let Some(fault) = verify::verify_index(&made.index, &generation).into_iter().next() {
            return Err(fault.into());
        }
        let text = checked_json::encode(&generation)?;
        let dir = self.tree.new_generation(&name);
        let path = dir.join(generation::FILE);
        disk::write_file(&path, &text)?;
        disk::write_file(&checked_json::copy(&path), &text)?;
        disk::sync_dir(&dir)?;
        Ok(blake3::hash(&text))
    }

    /// The directories of all generations but the new one: the old one, and what others left.
    fn leaving(&self, new: Option<&str>) -> io::Result<Vec<String>> {
        let mut dirs = self.tree.generations()?;
        dirs.retain(|dir| Some(dir) != new.map(names::dir_name).as_ref());
        Ok(dirs)
    }

    fn commit(&self, journal: &Journal, step: &Step<'_>) -> Result<(), Error> {
        journal.open(&self.tree)?;
        step("journal opened")?;
        commit::forward(&self.tree, journal, step)
    }
}

struct Prepared {
    journal: Journal,
    remarks: Vec<Remark>,
    indexed: Option<Indexed>,
    staged: Indexes,
    /// The tree that the indexes were made for.
    seen: TreeStamp,
}

struct Replaced {
    remarks: Vec<Remark>,
    indexed: Option<Indexed>,
    /// The indexes are ours, and of what is in the tree.
    undisturbed: bool,
}
