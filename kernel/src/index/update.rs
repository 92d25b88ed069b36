//! All indexes of a tree, made from those that it has.
//!
//! depmod reads every module, and what it writes depends on nothing but what it read, `modules.order` and its configuration.
//! Of a module whose file has not changed what it read is in the indexes it wrote; only files that have come or changed are
//! read here. What is not in the indexes is worked out from them, or found by reading a few files more:
//!
//! | not in the indexes | how it is known |
//! |---|---|
//! | what a module needs directly, and in which order | `graph`: as far as it matters, the lines tell; where they don't, the module is read |
//! | which symbols a module needs | it needs those it did. One whose owner is another module now: where a new module has all symbols that one which has gone had, it takes its place; else all that needed the old owner are read. One that nobody exported: `Module.symvers` lists what the kernel's own modules may need; others are read |
//! | who else exports a symbol, and lost it to a later module | it matters when the later one goes or moves: `Module.symvers` tells the kernel's own, others are read |
//!
//! What needs a module that has less than it had, whatever path led there, is read too. Reading more can give rise to more
//! reading: so all is worked out, with a list of what would have to be read; that is read, and all is worked out again,
//! until the list stays empty. It is bounded: from [`READ_MAX`] files on depmod is no slower.
//!
//! Wherever it could be otherwise there is a [`Reason`]. One thing is taken on trust: that a file which `modules.order` lists
//! exports and needs only what `Module.symvers` has, that is, that nobody has put another one in its place whose symbols are
//! those of a module that comes or goes. `kcache verify` finds that.

mod output;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::graph::{Needs, Sorted};
use super::present::{Listed, MODULES_MAX, Place, Present, name_of};
use super::{Facts, Reason};
use crate::symvers::Symvers;

/// depmod reads 600 modules of `.ko.xz` a second. The modules that are installed are among them.
const READ_MAX: usize = 400;
/// Each round reads more.
const ROUNDS_MAX: usize = 12;

/// What is on disk.
pub trait Disk {
    /// What a module says of itself.
    fn facts(&mut self, path: &str) -> Result<Facts, Reason>;
    /// What the kernel exports, and its own modules do.
    fn symvers(&mut self) -> Option<&Symvers>;
}

/// The file that depmod would take for a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Relative to the tree.
    pub path: String,
    /// Whether it is certain that it is what it was when the indexes were made.
    pub unchanged: bool,
}

/// The indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Name and bytes.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// How many modules were read for them.
    pub read: usize,
}

/// Makes the indexes for these modules, given by their names. Those of the modules that are built in are not among them.
pub fn update(
    present: &Present<'_>,
    tree: &BTreeMap<String, File>,
    disk: &mut dyn Disk,
) -> Result<Written, Reason> {
    if tree.len() > MODULES_MAX {
        return Err(Reason::TooMany { count: tree.len() });
    }
    let mut read: BTreeMap<String, Facts> = BTreeMap::new();
    let is_known = |file: &&File| file.unchanged && present.by_path.contains_key(file.path.as_str());
    let mut unread: BTreeSet<String> =
        tree.values().filter(|file| !is_known(file)).map(|file| file.path.clone()).collect();
    for _ in 0..ROUNDS_MAX {
        let count = unread.len() + read.len();
        if count > READ_MAX {
            return Err(Reason::TooMany { count });
        }
        for path in std::mem::take(&mut unread) {
            let facts = disk.facts(&path)?;
            read.insert(path, facts);
        }
        match Attempt::new(present, tree, &read).work_out(disk)? {
            Outcome::Indexes(files) => return Ok(Written { files, read: read.len() }),
            Outcome::Unread(paths) => unread = paths,
        }
    }
    Err(Reason::TooMany { count: read.len() })
}

enum Outcome {
    Indexes(Vec<(&'static str, Vec<u8>)>),
    Unread(BTreeSet<String>),
}

/// One module of the new indexes.
struct Module<'a> {
    path: &'a str,
    name: &'a str,
    from: From<'a>,
}

enum From<'a> {
    /// The indexes, by its number there.
    Index(u32),
    /// Its file.
    File(&'a Facts),
}

/// Everything as far as it is known with what has been read.
struct Attempt<'a> {
    present: &'a Present<'a>,
    /// In the order of the new `modules.dep`.
    modules: Vec<Module<'a>>,
    /// The new number of a module of the old indexes whose lines are still good.
    kept: Vec<Option<u32>>,
    /// Where the old ones would stand.
    old_places: Vec<Place<'a>>,
    new_places: Vec<Place<'a>>,
    /// Symbols whose owner is not the one of the old indexes: the new one, by its new number.
    owners: HashMap<&'a str, Option<u32>>,
    /// For modules of the old indexes that are not kept: the new module that has all their symbols.
    heirs: Vec<Option<u32>>,
    /// What has to be read before more can be known.
    unread: BTreeSet<&'a str>,
}

impl<'a> Attempt<'a> {
    fn new(
        present: &'a Present<'a>,
        tree: &'a BTreeMap<String, File>,
        read: &'a BTreeMap<String, Facts>,
    ) -> Self {
        let module = |(name, file): (&'a String, &'a File)| {
            let path = file.path.as_str();
            let from = match read.get(path) {
                Some(facts) => Some(From::File(facts)),
                None => present.by_path.get(path).copied().map(From::Index),
            };
            from.map(|from| (present.order.place(path, name), Module { path, name, from }))
        };
        let mut placed: Vec<(Place<'a>, Module<'a>)> = tree.iter().filter_map(module).collect();
        placed.sort_by_key(|(place, _)| *place);
        let (new_places, modules): (Vec<_>, Vec<_>) = placed.into_iter().unzip();
        let mut kept = vec![None; present.modules.len()];
        for (new, module) in modules.iter().enumerate() {
            if let From::Index(old) = module.from {
                kept[old as usize] = Some(new as u32);
            }
        }
        let old_place = |listed: &'a Listed<'a>| present.order.place(listed.path, &listed.name);
        Self {
            present,
            modules,
            old_places: present.modules.iter().map(old_place).collect(),
            new_places,
            owners: HashMap::new(),
            heirs: vec![None; kept.len()],
            kept,
            unread: BTreeSet::new(),
        }
    }

    fn work_out(mut self, disk: &mut dyn Disk) -> Result<Outcome, Reason> {
        self.find_owners(disk)?;
        if self.unread.is_empty() {
            self.find_heirs();
        }
        if !self.unread.is_empty() {
            return Ok(self.read_first());
        }
        let direct = self.direct()?;
        let sorted = Sorted::of(&direct).ok_or(Reason::Circle)?;
        let whole = sorted.whole(&direct);
        self.check_lines(&whole);
        self.check_order(&direct, &sorted);
        match self.unread.is_empty() {
            true => Ok(Outcome::Indexes(self.files(&whole)?)),
            false => Ok(self.read_first()),
        }
    }

    fn read_first(self) -> Outcome {
        Outcome::Unread(self.unread.into_iter().map(str::to_owned).collect())
    }

    fn old(&self, number: u32) -> &'a Listed<'a> {
        &self.present.modules[number as usize]
    }

    /// Has every kept module read that needed one of these.
    fn read_users(&mut self, of: &HashSet<u32>) {
        if of.is_empty() {
            return;
        }
        for (user, needs) in self.present.whole.iter().enumerate() {
            if self.kept[user].is_some() && needs.iter().any(|needed| of.contains(needed)) {
                self.unread.insert(self.present.modules[user].path);
            }
        }
    }

    /// Who exports what now, as far as it is not who did.
    fn find_owners(&mut self, disk: &mut dyn Disk) -> Result<(), Reason> {
        let mut exported: HashMap<&'a str, u32> = HashMap::new();
        for (number, module) in self.modules.iter().enumerate() {
            if let From::File(facts) = module.from {
                // Of several the last one has it.
                exported.extend(facts.exports.iter().map(|symbol| (symbol.as_str(), number as u32)));
            }
        }
        let mut robbed = HashSet::new();
        let mut doubtful = Vec::new();
        for &(symbol, old) in &self.present.symbols {
            let symbol = name_of(symbol);
            let new = exported.remove(symbol);
            match (self.kept[old as usize], new) {
                (Some(_), None) => {}
                (Some(kept), Some(new)) if kept > new => {}
                (Some(_), Some(new)) => {
                    robbed.insert(old);
                    self.owners.insert(symbol, Some(new));
                }
                (None, new) => {
                    let is_last = |new: u32| self.new_places[new as usize] >= self.old_places[old as usize];
                    if !new.is_some_and(is_last) {
                        doubtful.push(symbol);
                    }
                    self.owners.insert(symbol, new);
                }
            }
        }
        let fresh: Vec<&'a str> = exported.keys().copied().collect();
        self.owners.extend(exported.into_iter().map(|(symbol, new)| (symbol, Some(new))));
        self.read_users(&robbed);
        if !doubtful.is_empty() || !fresh.is_empty() {
            self.look_up(&doubtful, &fresh, disk)?;
        }
        Ok(())
    }

    /// Symbols that somebody else may export as well, and symbols that somebody may need whom the indexes don't know to.
    fn look_up(
        &mut self,
        doubtful: &[&'a str],
        fresh: &[&'a str],
        disk: &mut dyn Disk,
    ) -> Result<(), Reason> {
        for module in &self.modules {
            if matches!(module.from, From::Index(_)) && !self.present.order.lists(module.path) {
                self.unread.insert(module.path);
            }
        }
        let first = doubtful.iter().chain(fresh).min().map_or("", |symbol| symbol);
        let symvers = disk.symvers().ok_or_else(|| Reason::NoSymvers { symbol: first.to_owned() })?;
        if let Some(symbol) = fresh.iter().filter(|symbol| symvers.get(symbol).is_some()).min() {
            return Err(Reason::Needed { symbol: (*symbol).to_owned() });
        }
        let names: HashSet<String> = doubtful
            .iter()
            .filter_map(|symbol| symvers.get(symbol))
            .map(|export| super::module_name(export.module))
            .collect();
        for module in &self.modules {
            if matches!(module.from, From::Index(_)) && names.contains(module.name) {
                self.unread.insert(module.path);
            }
        }
        Ok(())
    }

    /// Which new module stands where one was that is not kept.
    fn find_heirs(&mut self) {
        let mut heirs: HashMap<u32, Vec<Option<u32>>> = HashMap::new();
        for &(symbol, old) in &self.present.symbols {
            if self.kept[old as usize].is_none() {
                let new = self.owners.get(name_of(symbol)).copied().flatten();
                let all = heirs.entry(old).or_default();
                if !all.contains(&new) {
                    all.push(new);
                }
            }
        }
        let mut claims: HashMap<u32, usize> = HashMap::new();
        for heir in heirs.values().flatten().flatten() {
            *claims.entry(*heir).or_default() += 1;
        }
        let mut without = HashSet::new();
        for (old, all) in heirs {
            match all[..] {
                [Some(heir)] if claims[&heir] == 1 => self.heirs[old as usize] = Some(heir),
                _ => drop(without.insert(old)),
            }
        }
        self.read_users(&without);
    }

    /// The new number of a module that an old one needed.
    fn now(&self, old: u32) -> Option<u32> {
        self.kept[old as usize].or(self.heirs[old as usize])
    }

    /// Who exports a symbol now.
    fn owner(&self, symbol: &str) -> Option<u32> {
        match self.owners.get(symbol) {
            Some(owner) => *owner,
            None => self.kept[self.present.owner(symbol)? as usize],
        }
    }

    /// What each module surely needs directly, in the order that matters.
    fn direct(&self) -> Result<Needs, Reason> {
        let needs = |module: &Module<'a>| match module.from {
            From::Index(old) => {
                let needs = self.present.direct[old as usize].iter().map(|&needed| self.now(needed));
                needs
                    .collect::<Option<Vec<u32>>>()
                    .ok_or_else(|| Reason::Odd { name: "modules.dep", line: 1 + old as usize })
            }
            From::File(facts) => {
                let mut needs: Vec<u32> = Vec::new();
                for owner in facts.needs.iter().filter_map(|symbol| self.owner(symbol)) {
                    if !needs.contains(&owner) {
                        needs.push(owner);
                    }
                }
                Ok(needs)
            }
        };
        self.modules.iter().map(needs).collect()
    }

    /// Where a module needs less than the one that it stands for did, something may have been needed by way of it that those
    /// who need it need directly, too.
    fn check_lines(&mut self, whole: &Needs) {
        let mut less = HashSet::new();
        for (old, heir) in self.heirs.iter().enumerate() {
            let Some(heir) = heir else { continue };
            let line = &whole[*heir as usize];
            let has = |&needed: &u32| self.now(needed).is_some_and(|now| line.contains(&now));
            if !self.present.whole[old].iter().all(has) {
                less.insert(old as u32);
            }
        }
        self.read_users(&less);
    }

    /// Of modules that were freed together before the order is known.
    fn check_order(&mut self, direct: &Needs, sorted: &Sorted) {
        for (number, module) in self.modules.iter().enumerate() {
            let From::Index(old) = module.from else { continue };
            let freed: Vec<u32> = sorted.freed(number as u32, &direct[number]).collect();
            if freed.len() < 2 {
                continue;
            }
            let before = self.present.sorted.freed(old, &self.present.direct[old as usize]);
            let before: Vec<Option<u32>> = before.map(|needed| self.now(needed)).collect();
            if !freed.iter().all(|needed| before.contains(&Some(*needed))) {
                self.unread.insert(module.path);
            }
        }
    }
}
