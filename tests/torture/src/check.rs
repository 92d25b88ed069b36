//! The checker: says what state a kernel's tree, a store and a shared cache are in, and what is wrong with them.
//!
//! It reads the files itself and asks `modprobe`; it shares no code with kcache, so that one mistake can't hide in both.
//! What it finds is a [`State`], for the caller to compare with those that are right, and faults, which are wrong in any
//! state. Litter is no fault by itself: a crash may leave some, a completed run may not ([`litter`]).

mod entries;
mod tree;

pub use entries::under;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where everything is that is looked at.
#[derive(Clone, Debug)]
pub struct Places {
    /// The system's root; its `lib/modules` is looked at.
    pub root: PathBuf,
    pub release: String,
    pub store: PathBuf,
    /// A shared cache as a directory.
    pub cache: PathBuf,
    /// An exported set.
    pub export: PathBuf,
}

impl Places {
    pub fn modules(&self) -> PathBuf {
        self.root.join("lib/modules")
    }

    pub fn tree(&self) -> PathBuf {
        self.modules().join(&self.release)
    }
}

/// What a user would notice of a state, so that two states can be told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Whether modprobe has an index.
    pub indexed: bool,
    /// The modules that kcache installed, as modprobe finds them: name, and digest of the file.
    pub modules: BTreeMap<String, String>,
    /// The keys in the store, and in the shared cache.
    pub entries: BTreeSet<String>,
    pub shared: BTreeSet<String>,
    /// The exported set's digest.
    pub export: Option<String>,
}

impl State {
    /// Whether this is `old` or `new`: modules and the exported file all of one or of the other, entries any between.
    pub fn is_between(&self, old: &State, new: &State) -> bool {
        let installed = |state: &State| (state.indexed, state.modules.clone());
        let between = |found: &BTreeSet<String>, old: &BTreeSet<String>, new: &BTreeSet<String>| {
            old.intersection(new).all(|key| found.contains(key))
                && found.iter().all(|key| old.contains(key) || new.contains(key))
        };
        [old, new].map(installed).contains(&installed(self))
            && [&old.export, &new.export].contains(&&self.export)
            && between(&self.entries, &old.entries, &new.entries)
            && between(&self.shared, &old.shared, &new.shared)
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    pub state: State,
    pub faults: Vec<String>,
}

/// Looks at everything.
pub fn look(places: &Places) -> Findings {
    let mut found = Findings::default();
    tree::look(places, &mut found);
    found.state.entries = entries::look(&places.store, &mut found.faults);
    entries::look_at_index(&places.store, &mut found.faults);
    found.state.shared = entries::look(&places.cache, &mut found.faults);
    found.state.export = fs_err::read(&places.export).ok().map(|bytes| blake3::hash(&bytes).to_string());
    found
}

/// What a completed run should not have left, of this run or an earlier one.
pub fn litter(places: &Places) -> Vec<PathBuf> {
    let mut found = under(&places.modules(), 1);
    // Empty lock files, there and in the store's lock/, wait for the next who asks for that lock; what a crash leaves in tmp/,
    // for the next who builds or collects.
    found.retain(|path| name(path).starts_with(".kcache-") && !name(path).ends_with(".lock"));
    found.extend(entries::strangers(&places.store));
    found.extend(entries::strangers(&places.cache));
    let beside = places.export.parent().map(|dir| under(dir, 1)).unwrap_or_default();
    found.extend(beside.into_iter().filter(|path| *path != places.export));
    found
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(modules: &[(&str, &str)], entries: &[&str]) -> State {
        let modules = modules.iter().map(|(name, digest)| (name.to_string(), digest.to_string()));
        let entries = entries.iter().map(|key| key.to_string());
        State { indexed: true, modules: modules.collect(), entries: entries.collect(), ..State::default() }
    }

    #[test]
    fn modules_are_all_old_or_all_new_and_entries_may_be_between() {
        let (old, new) =
            (state(&[("a", "1"), ("b", "1")], &["x"]), state(&[("a", "2"), ("b", "2")], &["x", "y", "z"]));
        let check =
            |found: State, expect: bool| assert_eq!(found.is_between(&old, &new), expect, "{found:?}");
        check(old.clone(), true);
        check(new.clone(), true);
        check(state(&[("a", "1"), ("b", "1")], &["x", "y"]), true);
        check(state(&[("a", "1"), ("b", "2")], &["x"]), false);
        check(state(&[("a", "1")], &["x"]), false);
        check(state(&[("a", "1"), ("b", "1")], &["y"]), false);
        check(state(&[("a", "1"), ("b", "1")], &["x", "other"]), false);
    }

    fn places(dir: &Path) -> Places {
        let [root, store, cache, export] =
            ["root", "store", "cache", "export/set.tar"].map(|part| dir.join(part));
        Places { root, release: "6.1".into(), store, cache, export }
    }

    #[test]
    fn what_is_listed_and_missing_or_empty_is_a_fault() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        fs_err::create_dir_all(places.tree()).unwrap();
        fs_err::write(places.tree().join("modules.dep"), "updates/a.ko:\nupdates/b.ko:\n").unwrap();
        fs_err::create_dir(places.tree().join("updates")).unwrap();
        fs_err::write(places.tree().join("updates/a.ko"), "").unwrap();
        let faults = look(&places).faults;
        assert_eq!(faults.len(), 2, "{faults:?}");
        assert!(
            faults[0].contains("updates/a.ko, which is empty") && faults[1].contains("b.ko"),
            "{faults:?}"
        );
    }

    #[test]
    fn an_incomplete_entry_and_a_staging_directory_are_reported() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        fs_err::create_dir_all(places.modules().join(".kcache-6.1")).unwrap();
        fs_err::create_dir_all(places.store.join("entries/ab")).unwrap();
        fs_err::write(places.store.join("entries/ab/ab.json"), "{\"payload\": \"").unwrap();
        assert_eq!(look(&places).faults.len(), 1);
        assert_eq!(litter(&places), [places.modules().join(".kcache-6.1")]);
    }
}
