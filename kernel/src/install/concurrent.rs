//! Others at the same tree.
//!
//! dkms, weak-modules and people put modules into a kernel's tree and run depmod on it, and no lock keeps them out. What they
//! do while a transaction is prepared would be missing from the indexes that it publishes. So the tree is looked at before
//! depmod runs, after all is ready, and after the commit; if somebody was there, the indexes are made again, a few times.
//!
//! With others who are at it all the time there is no end to that: the last indexes are then published as they are, or, if they
//! cannot even be made, nothing is ([`super::Error::Crowded`]). What cannot be helped is a depmod of theirs that read the tree
//! before the commit and writes its indexes when everything here is over.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::disk;
use super::journal::IndexChange;
use super::names::DIR_PREFIX;
use super::tree::Tree;

/// Each costs a depmod, which takes seconds where modules are compressed; who goes on for longer will run one at the end.
pub(super) const ATTEMPTS: u32 = 5;

/// Where directories are and when something in them last got or lost its name.
#[derive(Debug, Clone)]
pub(super) struct TreeStamp(Vec<(PathBuf, State)>);

/// Inode and mtime of a directory.
type State = (u64, i64, i64);

impl TreeStamp {
    /// Of a tree, without what is kcache's.
    pub(super) fn of(tree: &Tree) -> io::Result<TreeStamp> {
        let mut seen = Vec::new();
        let mut waiting = vec![PathBuf::new()];
        while let Some(dir) = waiting.pop() {
            let path = tree.path.join(&dir);
            let Some(state) = state(&path)? else { continue };
            waiting.extend(dirs_in(&path)?.into_iter().map(|name| dir.join(name)));
            seen.push((dir, state));
        }
        Ok(TreeStamp(seen))
    }

    /// Whether the tree still looks like that. A directory that has come or gone has changed the one that it is in.
    pub(super) fn is_still(&self, tree: &Tree) -> io::Result<bool> {
        self.are_still(tree, |_| true)
    }

    /// The same but for the two directories in which a transaction itself changes names: of those it must be other names.
    pub(super) fn is_still_but_for_ours(&self, tree: &Tree) -> io::Result<bool> {
        let ours = [Path::new(""), Path::new("updates")];
        for dir in ours {
            let then = self.0.iter().map(|(path, _)| path).filter(|path| path.parent() == Some(dir));
            let now = dirs_in(&tree.path.join(dir))?.into_iter().map(|name| dir.join(name));
            let others = |path: &PathBuf| !ours.contains(&path.as_path());
            if then.filter(|path| others(path)).cloned().collect::<BTreeSet<_>>()
                != now.filter(others).collect()
            {
                return Ok(false);
            }
        }
        self.are_still(tree, |dir| !ours.contains(&dir))
    }

    fn are_still(&self, tree: &Tree, counts: impl Fn(&Path) -> bool) -> io::Result<bool> {
        for (dir, then) in self.0.iter().filter(|(dir, _)| counts(dir)) {
            if state(&tree.path.join(dir))? != Some(*then) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn state(dir: &Path) -> io::Result<Option<State>> {
    let metadata = disk::if_found(fs_err::symlink_metadata(dir))?;
    Ok(metadata.map(|metadata| (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())))
}

fn dirs_in(dir: &Path) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in disk::if_found(fs_err::read_dir(dir))?.into_iter().flatten() {
        let entry = entry?;
        // Nothing of the kernel's or of kmod's has a name that is not text.
        let name = entry.file_name().into_string().unwrap_or_default();
        if !name.starts_with(DIR_PREFIX) && entry.file_type()?.is_dir() {
            found.push(name);
        }
    }
    Ok(found)
}

/// The files that are about to become the indexes.
#[derive(Debug)]
pub(super) struct Indexes(Vec<(String, u64)>);

impl Indexes {
    /// Those of the staged base.
    pub(super) fn staged(tree: &Tree, changes: &[IndexChange]) -> io::Result<Indexes> {
        let inode = |change: &IndexChange| {
            let metadata = fs_err::symlink_metadata(tree.base_tree().join(&change.name))?;
            Ok((change.name.clone(), metadata.ino()))
        };
        changes.iter().filter(|change| change.after).map(inode).collect::<io::Result<_>>().map(Indexes)
    }

    /// Whether the tree still has all of them.
    pub(super) fn are_live(&self, tree: &Tree) -> io::Result<bool> {
        for (name, inode) in &self.0 {
            let metadata = disk::if_found(fs_err::symlink_metadata(tree.index(name)))?;
            if metadata.is_none_or(|metadata| metadata.ino() != *inode) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
