//! Updating all indexes of a tree from the existing ones.
//!
//! depmod reads every module, and its output depends only on the modules, `modules.order` and its configuration. For a
//! module whose file has not changed, the existing indexes contain what depmod read; only new and changed files are
//! read here. What the indexes do not contain is derived from them, or found by reading a few more files:
//!
//! | not in the indexes | how it is determined |
//! |---|---|
//! | direct needs of a module, and their order | `graph`: the lines contain them as far as it matters; otherwise the module is read |
//! | symbols that a module needs | it needs those that it did. If the exporter of one changed: a new module with all symbols of a removed one replaces it; otherwise all that needed the old one are read. If nothing exported one: `Module.symvers` lists what in-tree modules may need; others are read |
//! | other exporters of a symbol, which a later module hides | matters if the later one is removed or moved: `Module.symvers` lists in-tree ones, others are read |
//!
//! A module that needs another one which lost a symbol is read too. Reading a module may require reading more: so
//! everything is computed with a list of what must be read; that is read, and everything is computed again, until the
//! list is empty. The number of files is limited, because above [`READ_MAX`] depmod is not slower.
//!
//! Without a `Module.symvers`, as on hosts without headers, new symbols of kcache's own modules are certain all the same: these were
//! compared with the kernel's symbols when they were built, and in-tree modules need nothing but what the kernel or another of
//! them exports, if all that `modules.order` lists are there.
//!
//! If there is any doubt, the result is a [`DepmodReason`]. One assumption is made: a file that `modules.order` lists
//! exports and needs only what `Module.symvers` contains; that is, nobody replaced it by one with symbols of a module
//! that is added or removed. `kcache verify` detects that.

mod output;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::graph::{Needs, Sorted};
use super::present::{Listed, MODULES_MAX, Place, Present, name_of};
use super::{DepmodReason, Facts};
use crate::symvers::Symvers;

/// Limit on files to read. depmod reads 600 modules of `.ko.xz` per second. The modules to be installed are included.
const READ_MAX: usize = 400;
/// Limit on rounds, each of which reads more files.
const ROUNDS_MAX: usize = 12;

/// Access to the files of a tree.
pub trait Disk {
    /// What depmod would read from a module's file.
    fn facts(&mut self, path: &str) -> Result<Facts, DepmodReason>;
    /// Symbols that the kernel and its modules export; `None` if there is no `Module.symvers`.
    fn symvers(&mut self) -> Option<&Symvers>;
    /// Whether the module was checked not to export what the kernel itself exports.
    fn is_checked(&self, path: &str) -> bool;
}

/// The file that depmod would choose for a module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexedFile {
    /// Path relative to the tree.
    pub path: String,
    /// Whether the file is certainly unchanged since the indexes were made.
    pub unchanged: bool,
}

/// Updated indexes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenIndexes {
    /// Name and bytes of each index.
    pub files: Vec<(&'static str, Vec<u8>)>,
    /// Number of modules that were read.
    pub read: usize,
}

/// Generates the indexes for these modules, given by their names. Indexes of built-in modules are not included.
///
/// # Errors
///
/// The reason why depmod must run instead.
pub fn update(
    present: &Present<'_>,
    tree: &BTreeMap<String, IndexedFile>,
    disk: &mut dyn Disk,
) -> Result<WrittenIndexes, DepmodReason> {
    if tree.len() > MODULES_MAX {
        return Err(DepmodReason::TooMany { count: tree.len() });
    }
    let mut read: BTreeMap<String, Facts> = BTreeMap::new();
    let is_known = |file: &&IndexedFile| file.unchanged && present.by_path.contains_key(file.path.as_str());
    let mut unread: BTreeSet<String> =
        tree.values().filter(|file| !is_known(file)).map(|file| file.path.clone()).collect();
    for _ in 0..ROUNDS_MAX {
        let count = unread.len() + read.len();
        if count > READ_MAX {
            return Err(DepmodReason::TooMany { count });
        }
        for path in std::mem::take(&mut unread) {
            let facts = disk.facts(&path)?;
            read.insert(path, facts);
        }
        match Attempt::new(present, tree, &read).work_out(disk)? {
            Outcome::Indexes(files) => return Ok(WrittenIndexes { files, read: read.len() }),
            Outcome::Unread(paths) => unread = paths,
        }
    }
    Err(DepmodReason::TooMany { count: read.len() })
}

enum Outcome {
    Indexes(Vec<(&'static str, Vec<u8>)>),
    Unread(BTreeSet<String>),
}

/// A module of the new indexes.
struct Module<'a> {
    path: &'a str,
    name: &'a str,
    from: From<'a>,
}

enum From<'a> {
    /// From the old indexes; its number there.
    Index(u32),
    /// From its file.
    File(&'a Facts),
}

/// The state of the computation with what has been read so far.
struct Attempt<'a> {
    present: &'a Present<'a>,
    /// Modules in the order of the new `modules.dep`.
    modules: Vec<Module<'a>>,
    /// New number of each module of the old indexes whose lines are still valid.
    kept: Vec<Option<u32>>,
    /// Sort keys of the old modules.
    old_places: Vec<Place<'a>>,
    new_places: Vec<Place<'a>>,
    /// Symbols whose exporter has changed: number of the new one.
    owners: HashMap<&'a str, Option<u32>>,
    /// For modules of the old indexes that are not kept: a new module with all their symbols.
    heirs: Vec<Option<u32>>,
    /// Modules that must be read before the computation can continue.
    unread: BTreeSet<&'a str>,
}

impl<'a> Attempt<'a> {
    fn new(
        present: &'a Present<'a>,
        tree: &'a BTreeMap<String, IndexedFile>,
        read: &'a BTreeMap<String, Facts>,
    ) -> Self {
        let module = |(name, file): (&'a String, &'a IndexedFile)| {
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

    fn work_out(mut self, disk: &mut dyn Disk) -> Result<Outcome, DepmodReason> {
        self.find_owners(disk)?;
        if self.unread.is_empty() {
            self.find_heirs();
        }
        if !self.unread.is_empty() {
            return Ok(self.read_first());
        }
        let direct = self.direct()?;
        let sorted = Sorted::of(&direct).ok_or(DepmodReason::Circle)?;
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

    /// Adds every kept module that needs one of these to the modules to read.
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

    /// Determines the exporters of symbols that have changed.
    fn find_owners(&mut self, disk: &mut dyn Disk) -> Result<(), DepmodReason> {
        let mut exported: HashMap<&'a str, u32> = HashMap::new();
        for (number, module) in self.modules.iter().enumerate() {
            if let From::File(facts) = module.from {
                // Of several exporters the last one counts.
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

    /// Looks up symbols that another module may export as well, and symbols that a module not visible in the indexes
    /// may need.
    fn look_up(
        &mut self,
        doubtful: &[&'a str],
        fresh: &[&'a str],
        disk: &mut dyn Disk,
    ) -> Result<(), DepmodReason> {
        for module in &self.modules {
            if matches!(module.from, From::Index(_)) && !self.present.order.lists(module.path) {
                self.unread.insert(module.path);
            }
        }
        let first = doubtful.iter().chain(fresh).min().map_or("", |symbol| symbol);
        let are_new = doubtful.is_empty() && self.are_new(fresh, disk);
        let Some(symvers) = disk.symvers() else {
            let symbol = first.to_owned();
            return if are_new { Ok(()) } else { Err(DepmodReason::NoSymvers { symbol }) };
        };
        if let Some(symbol) = fresh.iter().filter(|symbol| symvers.get(symbol).is_some()).min() {
            return Err(DepmodReason::Needed { symbol: (*symbol).to_owned() });
        }
        let is_doubtful: HashSet<&str> = doubtful.iter().copied().collect();
        // Without CRCs, depmod takes all of __ksymtab_strings for symbols, which names of namespaces are in too.
        let names: HashSet<String> = symvers
            .iter()
            .filter(|export| {
                is_doubtful.contains(export.symbol)
                    || export.namespace.is_some_and(|namespace| is_doubtful.contains(namespace))
            })
            .map(|export| super::module_name(export.module))
            .collect();
        for module in &self.modules {
            if matches!(module.from, From::Index(_)) && names.contains(module.name) {
                self.unread.insert(module.path);
            }
        }
        Ok(())
    }

    /// Whether no in-tree module can need these symbols, which nothing exported before.
    fn are_new(&self, fresh: &[&'a str], disk: &dyn Disk) -> bool {
        let are_checked = fresh.iter().all(|symbol| {
            let owner = self.owners.get(symbol).copied().flatten();
            owner.is_some_and(|owner| disk.is_checked(self.modules[owner as usize].path))
        });
        let order = &self.present.order;
        let before = self.present.modules.iter().filter(|module| order.lists(module.path)).count();
        let now = self.modules.iter().filter(|module| order.lists(module.path)).count();
        are_checked && before == order.len() && now == order.len()
    }

    /// Finds new modules that replace ones which are not kept.
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

    /// Number of the module that exports a symbol now.
    fn owner(&self, symbol: &str) -> Option<u32> {
        match self.owners.get(symbol) {
            Some(owner) => *owner,
            None => self.kept[self.present.owner(symbol)? as usize],
        }
    }

    /// The certain direct needs of each module, in the relevant order.
    fn direct(&self) -> Result<Needs, DepmodReason> {
        let needs = |module: &Module<'a>| match module.from {
            From::Index(old) => {
                let needs = self.present.direct[old as usize].iter().map(|&needed| self.now(needed));
                needs
                    .collect::<Option<Vec<u32>>>()
                    .ok_or_else(|| DepmodReason::Odd { name: "modules.dep", line: 1 + old as usize })
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

    /// If a module needs less than the one that it replaces, its users may directly need something that was an
    /// indirect need before.
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

    /// The order of modules that were freed together is known only if they are.
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
