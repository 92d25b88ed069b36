//! Garbage collection: a plan of what to delete, and its execution.
//!
//! ```text
//! always deleted       objects that no entry references; dangling pointers and detached signatures; rows without an entry;
//!                      drafts that a crash left
//! deleted for a limit  entries, least recently used first, and with each the objects that no other entry references
//! kept                 roots ([`Keep`]), everything within the grace period, and unknown files
//! ```
//! **References to objects** are read from the files of all entries, each time; the index only says when an entry was
//! last used, and only if its file is not younger. Debug information is deleted with its entry, not earlier, because
//! only a rebuild could restore it. A corrupt entry references nothing: there is a warning, and it is kept for repair.
//! An entry that a newer kcache wrote, or that cannot be read for another reason, fails the plan: its references are
//! unknown, so nothing is deleted.
//!
//! **Order.** Entries' files, then their rows; when these deletions are durable, objects; then pointers and
//! signatures. So a crash leaves unreferenced objects or rows without an entry, which the next plan finds, and never
//! an entry without its objects.
//!
//! **Concurrent processes.** Whatever was stored, referenced or used since the plan was made ([`crate::Store::used`])
//! has another time than the plan recorded (`lease`), and is kept together with everything it references. The grace
//! period protects processes that stored objects which no entry references yet, or looked up an entry whose objects
//! they will read: without it, they may see a miss. Concurrent collections take turns.
//!
//! **Memory.** A store may have millions of objects. The plan is a private SQLite database (`plan_db`) in a scratch
//! directory, with some hundred bytes for each, filled shard by shard; memory use is constant.

mod apply;
mod choose;
mod plan_db;
mod survey;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Digest, Error, Key, Notice, Result, Scratch, Store};
use plan_db::PlanDb;

/// Files that change within this many seconds before a plan could change again without a new timestamp: ext4 stamps in
/// jiffies, network file systems in seconds of their server. git's index has the same rule.
const RACY: u64 = 2;

/// Limits for a store. `None` is unlimited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// Limit in bytes on entries and objects together, compressed as stored.
    pub max_size: Option<u64>,
    /// Limit in seconds since an entry was last used.
    pub max_age: Option<u64>,
    /// Bytes to keep free on the store's file system.
    pub min_free: Option<u64>,
}

/// Roots: entries and objects that are kept whatever the limits say.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Entries, with all objects that they reference.
    pub keys: BTreeSet<Key>,
    /// Objects, whether an entry references them or not.
    pub objects: BTreeSet<Digest>,
    /// Releases whose dangling pointers are kept: a pointer's epoch is the protection against rollback attacks.
    pub releases: BTreeSet<String>,
}

/// Input of [`plan`].
#[derive(Clone, Copy)]
pub struct GcRules<'a> {
    /// The limits to meet.
    pub caps: Caps,
    /// The roots.
    pub keep: &'a Keep,
    /// The current time, in seconds since 1970.
    pub now: u64,
    /// Grace period in seconds: younger files are kept. Files with a time in the future count as young.
    pub grace: u64,
    /// Cancels the plan when set.
    pub cancel: &'a AtomicBool,
    /// Receives warnings about corrupt files.
    pub print: &'a dyn Fn(&Notice),
}

/// The limit for which an entry is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcReason {
    /// [`Caps::max_age`].
    Age,
    /// [`Caps::max_size`].
    Size,
    /// [`Caps::min_free`].
    Free,
}

impl fmt::Display for GcReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GcReason::Age => "max-age",
            GcReason::Size => "max-size",
            GcReason::Free => "min-free",
        })
    }
}

/// An entry that the plan deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Going {
    /// The entry's key.
    pub key: Key,
    /// The manifest's labels.
    pub labels: BTreeMap<String, String>,
    /// True for a build, false for a remembered failure.
    pub built: bool,
    /// Time of its last use, in seconds since 1970.
    pub used: u64,
    /// Bytes that this frees: its file, and the objects that no other entry references.
    pub bytes: u64,
    /// The limit that requires it.
    pub reason: GcReason,
}

/// A number of files and their total size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Number of files.
    pub files: u64,
    /// Their size in bytes, as stored.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What a plan deletes, or [`GcPlan::apply`] deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries, least recently used first.
    pub entries: Count,
    /// Unreferenced objects, including those of the deleted entries.
    pub objects: Count,
    /// Dangling pointers.
    pub pointers: Count,
    /// Detached signatures of missing objects.
    pub signatures: Count,
    /// Drafts that a crash left in `tmp/`.
    pub drafts: Count,
    /// Number of rows in the index without an entry.
    pub rows: u64,
}

impl Totals {
    /// Total size of all files, in bytes.
    pub fn bytes(&self) -> u64 {
        let counts = [self.entries, self.objects, self.pointers, self.signatures, self.drafts];
        counts.iter().map(|count| count.bytes).sum()
    }

    fn of(&mut self, kind: Useless) -> &mut Count {
        match kind {
            Useless::Pointer => &mut self.pointers,
            Useless::Signature => &mut self.signatures,
            Useless::Draft => &mut self.drafts,
        }
    }
}

/// What a plan keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staying {
    /// Entries that remain.
    pub entries: Count,
    /// Objects that remain.
    pub objects: Count,
    /// Number of entries that are roots.
    pub kept: u64,
    /// Number of entries within the grace period that are not roots.
    pub young: u64,
    /// A limit that is exceeded nevertheless.
    pub exceeds: Option<GcReason>,
}

/// Unneeded files other than entries and objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Useless {
    Pointer,
    Signature,
    Draft,
}

/// A garbage collection plan: a database in a scratch directory, deleted on drop.
pub struct GcPlan {
    plan_db: PlanDb,
    goes: Totals,
    stays: Staying,
    _scratch: Scratch,
}

/// Determines what to delete. Changes nothing outside `scratch`, which may be on any file system.
///
/// # Errors
///
/// [`Error::Format`] or a read error if an entry's references cannot be determined, and [`Error::Interrupted`] after
/// `cancel`.
pub fn plan(store: &Store, rules: &GcRules, scratch: Scratch) -> Result<GcPlan> {
    let plan_db = PlanDb::new(&scratch.path().join("plan.sqlite"))?;
    survey::objects(store, rules, &plan_db)?;
    survey::entries(store, rules, &plan_db)?;
    let exceeds = choose::entries(store, rules, &plan_db)?;
    survey::useless(store, rules, &plan_db)?;
    let (goes, stays) = plan_db.totals()?;
    Ok(GcPlan { plan_db, goes, stays: Staying { exceeds, ..stays }, _scratch: scratch })
}

impl GcPlan {
    /// Counts of what [`GcPlan::apply`] will delete.
    pub fn goes(&self) -> &Totals {
        &self.goes
    }

    /// Counts of what will remain.
    pub fn stays(&self) -> &Staying {
        &self.stays
    }

    /// Calls back for each entry to be deleted, in order of deletion.
    pub fn entries(&self, each: &mut dyn FnMut(&Going)) -> Result<()> {
        self.plan_db.pages(PlanDb::going, |page| {
            page.iter().for_each(|(going, _)| each(going));
            Ok(())
        })
    }
}

/// A path relative to the store's directory, made absolute.
fn under(store: &Store, path: &str) -> PathBuf {
    store.dir().join(path)
}

fn must_go_on(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
