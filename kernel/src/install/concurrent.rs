//! Concurrent changes to a kernel's tree by other programs.
//!
//! dkms, weak-modules and administrators add modules to a kernel's tree and run depmod on it, and no lock prevents
//! that. Changes during the preparation of a transaction would be missing from the indexes that it publishes. So the
//! tree is checked before depmod runs, when everything is ready, and after the commit; if it changed, the indexes are
//! generated again, a few times.
//!
//! If changes do not stop, the last indexes are published as they are; if not even they can be generated, nothing is
//! published ([`super::Error::Crowded`]). What cannot be prevented: a concurrent depmod that read the tree before the
//! commit and writes its indexes after the transaction's end.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::disk;
use super::journal::IndexChange;
use super::names::DIR_PREFIX;
use super::tree::{OWN, Tree};

/// Attempts to find the tree unchanged. Each costs a depmod, which takes seconds if modules are compressed; a program
/// that changes the tree for longer will run depmod at its end.
pub(super) const ATTEMPTS: u32 = 5;

/// Paths of directories, with the time of the last change to their entries.
#[derive(Debug, Clone)]
pub(super) struct TreeStamp(Vec<(PathBuf, State)>);

/// Inode and mtime of a directory.
type State = (u64, i64, i64);

impl TreeStamp {
    /// The state of a tree, without kcache's own directories.
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

    /// Whether the tree is unchanged. Adding or removing a directory changes its parent.
    pub(super) fn is_still(&self, tree: &Tree) -> io::Result<bool> {
        self.are_still(tree, |_| true)
    }

    /// Like [`TreeStamp::is_still`], but ignores the transaction's own changes in two directories: only other names
    /// count there.
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
        // No name of the kernel's or of kmod's is invalid UTF-8.
        let name = entry.file_name().into_string().unwrap_or_default();
        if !name.starts_with(DIR_PREFIX) && name != OWN && entry.file_type()?.is_dir() {
            found.push(name);
        }
    }
    Ok(found)
}

/// The files that are about to become the indexes.
#[derive(Debug)]
pub(super) struct Indexes(Vec<(String, u64)>);

impl Indexes {
    /// Those in the staged base.
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
