//! Collecting what is not wanted: a plan of what goes, and its performance.
//!
//! ```text
//! goes always       objects that no entry names; pointers and detached signatures that lead to nothing; rows without an
//!                   entry; drafts that a crash left
//! goes for a cap    entries, those unused for longest first, and with each the objects that no other names
//! stays             what is kept by name ([`Keep`]), what is younger than the grace, and all that is not known here
//! ```
//! **What names an object** is read from the entries' own files, all of them, each time: the index says only when an entry
//! was last used, and is not even asked where its file is younger. Debug information goes with its entry, not before: it
//! cannot be had again but by building. A damaged entry is of use to nobody and names nothing; it is told of and left to
//! be mended. One that a newer kcache has written, or that cannot be read for another reason, ends the plan: what it
//! names is not known, so nothing goes.
//!
//! **Order.** Entries' files, then their rows; when those deletions are on the disk, objects; then what led to either. So
//! a crash leaves objects without a name, or a row without an entry, which the next plan finds, and never an entry
//! without its objects.
//!
//! **Beside others.** A plan is no promise: what was stored, named or used since ([`crate::Store::used`]) has another time
//! than the plan noted (`lease`), and stays with all that it names. The grace is for whoever has put objects that no entry
//! names yet, or has found an entry and will read its objects: with none, what they have found may be gone when they come
//! for it. They then see a miss. Two who collect at once take turns.
//!
//! **Memory.** A store may hold millions of objects. They are gone through shard by shard into a private SQLite database
//! (`plan_db`) in a scratch directory, some hundred bytes for each, which is the plan; nothing is ever held as a whole.

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

/// Files that change within this many seconds before a plan could change again without their time showing it. ext4 counts
/// in jiffies, network file systems in their server's seconds; git's rule for its index is the same.
const RACY: u64 = 2;

/// How much there may be. What is `None` is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Caps {
    /// Bytes that entries and objects take together, as they lie there.
    pub max_size: Option<u64>,
    /// Seconds since an entry was last used.
    pub max_age: Option<u64>,
    /// Bytes that are to be free on the store's file system.
    pub min_free: Option<u64>,
}

/// What stays whatever the caps say.
#[derive(Debug, Clone, Default)]
pub struct Keep {
    /// Entries, and all that they name.
    pub keys: BTreeSet<Key>,
    /// Objects, whether an entry names them or not.
    pub objects: BTreeSet<Digest>,
    /// Releases whose pointers stay also where they lead to nothing: they are the memory of how new a pointer was.
    pub releases: BTreeSet<String>,
}

/// What a plan is made by.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// How much there may be.
    pub caps: Caps,
    /// What stays.
    pub keep: &'a Keep,
    /// Seconds since 1970.
    pub now: u64,
    /// What is younger than so many seconds stays. What is from the future is young.
    pub grace: u64,
    /// Set to end it.
    pub cancel: &'a AtomicBool,
    /// Hears of what is damaged.
    pub say: &'a dyn Fn(&Notice),
}

/// Which cap an entry goes for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// [`Caps::max_age`].
    Age,
    /// [`Caps::max_size`].
    Size,
    /// [`Caps::min_free`].
    Free,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Age => "max-age",
            Reason::Size => "max-size",
            Reason::Free => "min-free",
        })
    }
}

/// An entry that goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Going {
    /// Its key.
    pub key: Key,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is a result; else it is a remembered failure.
    pub built: bool,
    /// When it was last used, in seconds since 1970.
    pub used: u64,
    /// Bytes that go with it: its file, and the objects that no other entry names.
    pub bytes: u64,
    /// Why it goes.
    pub reason: Reason,
}

/// So many files, of so many bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What goes, or has gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Entries.
    pub entries: Count,
    /// Objects, those of these entries among them.
    pub objects: Count,
    /// Pointers that lead to nothing.
    pub pointers: Count,
    /// Detached signatures of objects that are not there.
    pub signatures: Count,
    /// Drafts that a crash left.
    pub drafts: Count,
    /// Rows of the index without an entry.
    pub rows: u64,
}

impl Totals {
    /// Bytes of it all.
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

/// What stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Staying {
    /// Entries.
    pub entries: Count,
    /// Objects.
    pub objects: Count,
    /// Those of the entries that are kept by name.
    pub kept: u64,
    /// Those that are younger than the grace, and not kept by name.
    pub young: u64,
    /// Caps that this exceeds all the same.
    pub exceeds: Option<Reason>,
}

/// Files that nobody needs, entries and objects aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Useless {
    Pointer,
    Signature,
    Draft,
}

/// What is to go: a database of its own, deleted when this is dropped.
pub struct Plan {
    plan_db: PlanDb,
    goes: Totals,
    stays: Staying,
    _scratch: Scratch,
}

/// Finds out what is to go. Nothing is changed but in `scratch`, which may be anywhere.
pub fn plan(store: &Store, rules: &Rules, scratch: Scratch) -> Result<Plan> {
    let plan_db = PlanDb::new(&scratch.path().join("plan.sqlite"))?;
    survey::objects(store, rules, &plan_db)?;
    survey::entries(store, rules, &plan_db)?;
    let exceeds = choose::entries(store, rules, &plan_db)?;
    survey::useless(store, rules, &plan_db)?;
    let (goes, stays) = plan_db.totals()?;
    Ok(Plan { plan_db, goes, stays: Staying { exceeds, ..stays }, _scratch: scratch })
}

impl Plan {
    /// How much goes.
    pub fn goes(&self) -> &Totals {
        &self.goes
    }

    /// How much stays.
    pub fn stays(&self) -> &Staying {
        &self.stays
    }

    /// Tells of each entry that goes, in the order in which they go.
    pub fn entries(&self, each: &mut dyn FnMut(&Going)) -> Result<()> {
        self.plan_db.pages(PlanDb::going, |page| {
            page.iter().for_each(|(going, _)| each(going));
            Ok(())
        })
    }
}

/// Where something of the store lies.
fn under(store: &Store, path: &str) -> PathBuf {
    store.dir().join(path)
}

fn must_go_on(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
