//! Recovery without a readable journal: `journal.json` and its copy are both corrupt.
//!
//! Most of the journal's content can be derived. The committing index is in the staged base until the commit. A
//! generation contains the digest of the index that was published with it. The previous indexes are in `old/`. So the
//! kernel still gets the complete old or the complete new set of kcache's modules, and then regenerated indexes.
//!
//! What cannot be derived is which foreign modules were to be deleted ([`super::ForeignFiles::Drop`]): they are kept.
//! Of two names of one file, which taking over and giving back leave, the one that the index does not list is deleted.
//! No other foreign module is changed, and except for indexes, no file is deleted that has no second name.

use super::commit::{close, sync_updates};
use super::disk::remove_if_empty;
use super::foreign_files::settle;
use super::generation::{Generation, is_index};
use super::retire::INDEXES;
use super::tree::{DEP_BIN, Tree};
use super::verify::is_in_use;
use super::{Error, Recovery, Step, disk};

/// Result of a recovery.
pub(super) struct Recovered {
    pub(super) recovery: Recovery,
    /// Another depmod ran on the tree meanwhile: its indexes are neither the old nor the new ones, so they must be
    /// regenerated.
    pub(super) reindex: bool,
}

/// Recovers the tree. Each step may be repeated.
pub(super) fn recover(tree: &Tree, step: &Step<'_>) -> Result<Recovered, Error> {
    tree.check_staging()?;
    let committed = is_committed(tree)?;
    let published = if committed {
        disk::digest(&tree.index(DEP_BIN))?
    } else {
        disk::digest(&tree.base_tree().join(DEP_BIN))?
    };
    if !committed {
        restore_indexes(tree)?;
        step("index restored")?;
    }
    settle(tree)?;
    retire(tree, |generation| (Some(generation.index) == published) == committed)?;
    step("new generation gone")?;
    let recovery = if committed { Recovery::Finished } else { Recovery::Undone };
    let reindex = disk::exists(&tree.index(DEP_BIN))?;
    close(tree, step)?;
    Ok(Recovered { recovery, reindex })
}

/// Whether the committing index has left the staged base; without one, because indexes are deleted with the last
/// package, whether it is deleted.
fn is_committed(tree: &Tree) -> Result<bool, Error> {
    let draft = tree.base_tree();
    let live = if disk::exists(&draft)? { draft.join(DEP_BIN) } else { tree.index(DEP_BIN) };
    Ok(!disk::exists(&live)?)
}

/// Restores the previous indexes. If there was no committing one, deletes those that were published before it.
fn restore_indexes(tree: &Tree) -> Result<(), Error> {
    for name in disk::names(&tree.old_dir())?.iter().filter(|name| is_index(name)) {
        // If the live file was not replaced yet, both are names of one file, and this rename does nothing.
        fs_err::rename(tree.old_dir().join(name), tree.index(name))?;
    }
    if !disk::exists(&tree.index(DEP_BIN))? {
        for name in INDEXES.iter().filter(|name| !tree.base_tree().join(name).exists()) {
            disk::if_found(fs_err::remove_file(tree.index(name)))?;
        }
    }
    Ok(disk::sync_dir(&tree.path)?)
}

/// Moves out generations that are not listed and not to be kept.
fn retire(tree: &Tree, stays: impl Fn(&Generation) -> bool) -> Result<(), Error> {
    let index = tree.dep_index()?.and_then(Result::ok).unwrap_or_default();
    let mut made_updates = false;
    for dir in tree.generations()? {
        let Ok(Some(generation)) = Generation::read(tree, &dir) else { continue };
        if !is_in_use(&dir, &index) && !stays(&generation) {
            made_updates |= generation.created.updates_dir;
            disk::move_out(&tree.updates().join(&dir), &tree.old_dir().join(&dir))?;
        }
    }
    if made_updates {
        remove_if_empty(&tree.updates())?;
    }
    sync_updates(tree)
}
