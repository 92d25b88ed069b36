//! Installing modules into one kernel's tree.
//!
//! # Guarantees
//!
//! At any instant, also after a power cut, `kill -9` or a full disk, the kernel has the complete previous set of
//! modules or the complete new one; when [`Transaction::apply`] returns, the new one is durable. No module is
//! installed whose digest was not verified while it was written; signing comes after that. `depmod` never runs on the
//! live tree, and no index is published that was not read again. Foreign modules are never changed, except on explicit
//! request ([`ForeignFiles`]). Removing the last package leaves the tree as if kcache had never been there. When the
//! kernel is removed, so is everything of kcache's in its tree ([`retire()`]).
//!
//! # On disk
//!
//! ```text
//! lib/modules/
//!   .kcache-6.1.0-56-amd64.lock              the lock, during a transaction
//!   6.1.0-56-amd64/                          the kernel's tree, `T`
//!     kernel/ ...                            in-tree modules: never changed
//!     updates/kcache-<generation>/           a directory for each set; in it
//!       generation.json[.copy]                 the installed set
//!       <package>/<module>.ko[.gz|.xz|.zst]
//!     modules.dep.bin, modules.dep, ...      kmod's indexes; the rename of modules.dep.bin is the commit
//!   .kcache-6.1.0-56-amd64.adopted/          mode 0700: foreign modules that kcache's replace
//!   .kcache-6.1.0-56-amd64/                  mode 0700: only during a transaction or after a crash
//!     new/kcache-<generation>/               the next generation, before it is renamed into the tree
//!     base/usr/lib/modules/6.1.0-56-amd64/   links to the real tree; indexes are generated here
//!     old/                                   hard links to the live indexes; the old generation being removed
//!     kept/                                  hard links to foreign modules that are to be kept
//!     journal.json[.copy]                    the intended changes
//! ```
//!
//! The staging directory is beside `T`, on the same file system but outside it, because depmod searches directories
//! whose name begins with a dot.
//!
//! If `T` is a mount of its own, nothing can be renamed into it from beside it. Then both directories are in it, below
//! `.kcache/build/`, because depmod searches no directory of that name. `/lib/modules/R` may be a link; then all of this
//! is at its target ([`ModulesDir`]). On overlayfs a directory of a lower layer cannot be renamed: an old generation
//! there is deleted in its place, while the journal shows that it is not installed any more.
//!
//! # The protocol
//!
//! 1. Lock. Recover from an interrupted run. Stage every module: read, verify, sign, compress, write, fsync.
//! 2. Generate the indexes of the staged base (`reindex`, or depmod) and read them again; every module must resolve
//!    to the staged file.
//! 3. Write the journal, fsync. From here on the live tree changes.
//! 4. Rename the generation into the tree; rename all indexes but one; fsync. Rename `modules.dep.bin`; fsync.
//! 5. Remove foreign modules as requested, move the old generation out, close the journal, delete the staging
//!    directory. In this order: as long as the old generation is in the tree there is a journal, so a concurrent depmod
//!    that lists it is noticed.
//!
//! An error before the end of step 4, including a failed fsync, undoes everything at once. An fsync is never retried,
//! because after a failed one the kernel may have dropped the pages, and reports that only once. After step 4 the new
//! set is installed and durable: errors in step 5 are warnings, and left to the next transaction. After a crash, the
//! next transaction recovers: without a journal the staging directory is garbage; with one, the digest of the live
//! `modules.dep.bin` shows whether the commit happened, and the transaction is completed or undone. This is the same
//! code as without a crash, and may itself be interrupted.
//!
//! Concurrent processes: the second one waits for the lock, reports that, and gives up after a while
//! ([`Error::Busy`]). A plan made without the lock is refused if it no longer fits ([`Error::Changed`]). Other
//! programs do not use the lock: if they add modules or run depmod meanwhile, the indexes are generated again
//! (`concurrent`). Full or read-only disk: everything that needs space is written to the staging directory before
//! the journal.

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
mod labels;
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
pub use generation::{Created, FILE as RECORD, Generation, Installed, InstalledPackage, ModuleSpec, Set};
pub use indexes::verify_indexes;

pub use fault::Fault;
pub use foreign_files::{ForeignFile, ForeignFiles, forget_kept, kept};
pub use plan::{Act, InstallPlan, PackageChange, plan, plan_upon};
pub use reachable::generations;
pub use remark::Remark;
pub use retire::{is_live, is_orphaned, retire};
pub use verify::{Base, base, current, interrupted, verify};

pub use crate::index::{DepmodReason, NewerKmod};
pub use crate::modules_dir::{ModulesDir, has_kernel};
use crate::parallel::both;
use crate::signing::Identity;
use journal::{Hash, IndexChange, Journal};
use stage::{Staged, StagedFacts};
use tree::{DEP_BIN, Tree};

/// Any error of a [`ModuleSource`] or [`SignModule`].
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Delivers modules: the bytes of one module, identified by its digest. They are hashed again when they are received.
pub type ModuleSource<'a> = dyn FnMut(&ModuleSpec) -> Result<Vec<u8>, BoxError> + 'a;

/// Signs a module with verified bytes as this signer: returns the same bytes with an appended signature.
pub type SignModule<'a> = dyn Fn(&Identity, &ModuleSpec, &[u8]) -> Result<Vec<u8>, BoxError> + 'a;

/// Remembers which depmods that are newer than kcache write the indexes that kcache writes.
pub trait NewerDepmods {
    /// Whether its indexes were the same; `None` if it was not compared with yet.
    fn is_same(&self, depmod: &NewerKmod) -> Option<bool>;
    /// Remembers whether they were the same.
    fn remember(&self, depmod: &NewerKmod, is_same: bool);
}

/// Remembers nothing.
impl NewerDepmods for () {
    fn is_same(&self, _: &NewerKmod) -> Option<bool> {
        None
    }

    fn remember(&self, _: &NewerKmod, _: bool) {}
}

/// Called before each step; tests fail or crash in it.
type Step<'a> = dyn Fn(&str) -> io::Result<()> + 'a;

/// One kernel's tree, and everything that installing into it needs.
#[derive(Clone, Copy)]
pub struct Site<'a> {
    /// `<modules dir>/<release>`, absolute: `/lib/modules/6.1.0-56-amd64`, possibly under another root.
    pub tree: &'a ModulesDir,
    /// `/`, or the root of another system, whose depmod configuration applies.
    pub root: &'a Path,
    /// Path of depmod.
    pub depmod: &'a Path,
    /// Run depmod even if the indexes can be updated without it.
    pub always_depmod: bool,
    /// What is known of a depmod that is newer than kcache.
    pub depmods: &'a dyn NewerDepmods,
    /// Signs modules that are not installed yet; `None` if there is no key.
    pub sign: Option<&'a SignModule<'a>>,
    /// How long to wait for a concurrent transaction.
    pub wait: Duration,
    /// Called once with the reason for waiting.
    pub print: &'a dyn Fn(&str),
}

/// Result of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Name of the generation that is installed now; `None` if there is none.
    pub generation: Option<String>,
    /// Whether anything was changed.
    pub changed: bool,
    /// Warnings.
    pub remarks: Vec<Remark>,
    /// How the indexes were generated; `None` if they were kept or deleted.
    pub indexed: Option<Indexed>,
}

/// How the indexes were generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Indexed {
    /// From the existing ones.
    Here {
        /// Number of modules that were read for that.
        read: usize,
    },
    /// By depmod, which read every module.
    ByDepmod {
        /// Why updating was not possible.
        reason: DepmodReason,
    },
}

/// What [`Transaction::begin`] found of an interrupted run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// There was no interrupted run.
    Nothing,
    /// It had changed nothing; its staging directory was deleted.
    Litter,
    /// The commit had happened; the transaction was completed.
    Finished,
    /// The commit had not happened; the transaction was undone.
    Undone,
}

/// An exclusive transaction on one kernel's modules. Holds the lock until it is dropped.
pub struct Transaction<'a> {
    site: Site<'a>,
    tree: Tree,
    recovered: Recovery,
    _lock: lock::Lock,
}

impl<'a> Transaction<'a> {
    /// Takes the lock and recovers from an interrupted run.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] if another process holds the lock, [`Error::NoTree`] if the kernel does not exist.
    pub fn begin(site: Site<'a>) -> Result<Self, Error> {
        Self::begin_at(site, &|_| Ok(()))
    }

    fn begin_at(site: Site<'a>, step: &Step<'_>) -> Result<Self, Error> {
        let tree = Tree::open(site.tree)?;
        let lock = lock::acquire(site.tree, site.wait, site.print)?;
        let recovered = recover::recover(&tree, step)?;
        let transaction = Self { site, tree, recovered: recovered.recovery, _lock: lock };
        if recovered.reindex {
            let done = transaction.reindex(step)?;
            transaction.settle(done, step)?;
        }
        Ok(transaction)
    }

    /// What was found of an interrupted run.
    pub fn recovered(&self) -> Recovery {
        self.recovered
    }

    /// Executes a plan, which should be made after [`Transaction::begin`].
    ///
    /// # Errors
    ///
    /// [`Error::Changed`] if the installed generation is not the plan's any more. After any error but
    /// [`Error::NotUndone`] the previous set is installed.
    pub fn apply(&self, plan: &InstallPlan, source: &mut ModuleSource<'_>) -> Result<Committed, Error> {
        self.apply_at(plan, source, &|_| Ok(()))
    }

    fn apply_at(
        &self,
        plan: &InstallPlan,
        source: &mut ModuleSource<'_>,
        step: &Step<'_>,
    ) -> Result<Committed, Error> {
        let installed = base(self.site.tree)?.generation;
        if installed.as_ref().map(|g| &g.generation) != plan.from.as_ref() {
            return Err(Error::Changed { kernel: self.tree.release.clone() });
        }
        if plan.is_nothing() {
            let (generation, remarks) = (plan.to.clone(), Vec::new());
            return Ok(Committed { generation, changed: false, remarks, indexed: None });
        }
        let done = self.replace(installed.as_ref(), &plan.wanted, &plan.others, source, step)?;
        let Replaced { remarks, indexed, .. } = self.settle(done, step)?;
        Ok(Committed { generation: plan.to.clone(), changed: true, remarks, indexed })
    }

    /// Runs depmod to regenerate the indexes for what is installed.
    pub fn remake_indexes(mut self) -> Result<Committed, Error> {
        self.site.always_depmod = true;
        let installed = current(self.site.tree)?;
        let done = self.reindex(&|_| Ok(()))?;
        let Replaced { remarks, indexed, .. } = self.settle(done, &|_| Ok(()))?;
        Ok(Committed { generation: installed.map(|g| g.generation), changed: true, remarks, indexed })
    }

    /// Regenerates the indexes for what is installed. All its files are in the tree, so nothing is fetched.
    fn reindex(&self, step: &Step<'_>) -> Result<Replaced, Error> {
        let installed = base(self.site.tree)?.generation;
        let wanted = installed.as_ref().map_or_else(Set::nothing, Generation::wanted);
        let mut source = |_: &ModuleSpec| Err("its installed file is corrupt".into());
        self.replace(installed.as_ref(), &wanted, &ForeignFiles::Untouched, &mut source, step)
    }

    /// Regenerates the indexes while other programs change the tree. Returns the last result.
    fn settle(&self, mut done: Replaced, step: &Step<'_>) -> Result<Replaced, Error> {
        for _ in 1..ATTEMPTS {
            if done.undisturbed {
                break;
            }
            done = match self.reindex(step) {
                Ok(done) => done,
                // They are not finished yet; the set itself is installed.
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

    /// The whole protocol, from the installed to the wanted set.
    fn replace(
        &self,
        installed: Option<&Generation>,
        wanted: &Set,
        others: &ForeignFiles,
        source: &mut ModuleSource<'_>,
        step: &Step<'_>,
    ) -> Result<Replaced, Error> {
        let tree = &self.tree;
        let prepared = self.prepare(installed, wanted, others, source, step);
        // If this garbage remains, the next run deletes it; report the first error.
        let Prepared { journal, remarks, indexed, staged, seen } =
            prepared.inspect_err(|_| drop(commit::sweep(tree)))?;
        if let Err(error) = self.commit(&journal, step) {
            return match commit::back(tree, &journal, &|_| Ok(())) {
                Ok(()) => Err(error),
                Err(undoing) => Err(Error::NotUndone { what: error.to_string(), source: Box::new(undoing) }),
            };
        }
        // The new set is installed and durable; whatever fails now is a warning.
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

    /// Whether the indexes are the published ones, and match the tree.
    fn is_undisturbed(&self, others: &ForeignFiles, staged: &Indexes, seen: &TreeStamp) -> io::Result<bool> {
        // Foreign modules that were changed on request have changed their directories.
        let is_same = || Ok::<_, io::Error>(!others.is_nothing() || seen.is_still_but_for_ours(&self.tree)?);
        Ok(staged.are_live(&self.tree)? && is_same()?)
    }

    /// Does everything that needs space or may be refused. The live tree is only read.
    fn prepare(
        &self,
        installed: Option<&Generation>,
        wanted: &Set,
        others: &ForeignFiles,
        source: &mut ModuleSource<'_>,
        step: &Step<'_>,
    ) -> Result<Prepared, Error> {
        let tree = &self.tree;
        tree.make_staging()?;
        disk::make_dir(&tree.new_dir())?;
        disk::make_dir(&tree.old_dir())?;
        let new = (!wanted.packages.is_empty()).then(|| wanted.generation_name());
        let stage = || match &new {
            Some(_) => stage::stage_modules(&self.site, tree, wanted, installed, source).map(Some),
            None => Ok(None),
        };
        let (staged, seen) = both(stage, || TreeStamp::of(tree));
        let (staged, mut seen) = (staged?, seen?);
        others.stage(tree)?;
        step("modules staged")?;
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            let prepared = self.prepare_indexes(installed, staged.as_ref(), others, &seen, step);
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

    /// The part of the preparation that is repeated after concurrent changes.
    fn prepare_indexes(
        &self,
        installed: Option<&Generation>,
        modules: Option<&Staged>,
        others: &ForeignFiles,
        seen: &TreeStamp,
        step: &Step<'_>,
    ) -> Result<Prepared, Error> {
        let tree = &self.tree;
        let set = modules.map(|modules| &modules.set);
        let new = set.map(|set| set.map(|module| module.spec.clone()).generation_name());
        let facts = modules.map(|modules| &modules.facts);
        let (indexes, made) = self.index(installed, new.as_deref().zip(facts), others)?;
        step("indexes made")?;
        let new_manifest = match (set, &made) {
            (Some(set), Some(made)) => Some(self.write_manifest(set.clone(), installed, &indexes, made)?),
            _ => None,
        };
        let (new_manifest, shadowed) = new_manifest.unzip();
        let unlabeled =
            labels::of_staged(tree, &indexes).err().map(|error| Remark::Unlabeled(error.to_string()));
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
        let (mut remarks, indexed) = made.map(|made| (made.remarks, Some(made.by))).unwrap_or_default();
        remarks.extend(shadowed.into_iter().flatten().chain(unlabeled));
        Ok(Prepared { journal, remarks, indexed, staged, seen: seen.clone() })
    }

    /// Generates and verifies the indexes for the next generation, or plans their deletion.
    fn index(
        &self,
        installed: Option<&Generation>,
        new: Option<(&str, &StagedFacts)>,
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
        stage::stage_base(tree, new.map(|(generation, _)| generation))?;
        others.stage_base(tree)?;
        let made = make_indexes::run(&self.site, tree, new, others)?;
        let changes = made.names.iter().map(|name| change(name, true)).collect::<io::Result<_>>()?;
        Ok((changes, Some(made)))
    }

    /// Checks that every new module resolves to its staged file, then completes the staged generation. Returns the digest
    /// of its `generation.json`, and the installed modules that do not resolve.
    fn write_manifest(
        &self,
        set: Set<Installed>,
        installed: Option<&Generation>,
        indexes: &[IndexChange],
        made: &make_indexes::Made,
    ) -> Result<(blake3::Hash, Vec<Remark>), Error> {
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
                // A repair is not a step to roll back.
                Some(same) if same.generation == name => same.previous.clone(),
                other => other.map(Generation::wanted),
            },
        };
        let mut remarks = Vec::new();
        for fault in verify::verify_index(&made.index, &generation) {
            // A file that came into the way of an installed module is no reason to keep others out.
            match was_installed(installed, &fault) {
                true => remarks.push(Remark::Shadowed(fault)),
                false => return Err(fault.into()),
            }
        }
        let text = checked_json::encode(&generation)?;
        let dir = self.tree.new_generation(&name);
        let path = dir.join(generation::FILE);
        disk::write_file(&path, &text)?;
        disk::write_file(&checked_json::copy(&path), &text)?;
        disk::sync_dir(&dir)?;
        Ok((blake3::hash(&text), remarks))
    }

    /// Directories of all generations but the new one: the old one, and leftovers.
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

/// Whether a fault is of a module that the installed generation has, too.
fn was_installed(installed: Option<&Generation>, fault: &Fault) -> bool {
    let Fault::Shadowed { module, .. } = fault else { return false };
    installed.is_some_and(|generation| generation.modules().any(|(_, own)| own.spec.name == *module))
}

struct Prepared {
    journal: Journal,
    remarks: Vec<Remark>,
    indexed: Option<Indexed>,
    staged: Indexes,
    /// State of the tree for which the indexes were generated.
    seen: TreeStamp,
}

struct Replaced {
    remarks: Vec<Remark>,
    indexed: Option<Indexed>,
    /// Whether the indexes are the published ones and match the tree.
    undisturbed: bool,
}
