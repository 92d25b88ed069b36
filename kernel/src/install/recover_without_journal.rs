//! Recovery without a journal that can be read: neither `journal.json` nor its copy is what was written.
//!
//! Most of what a journal says can be seen. The index that commits lies in the staged base until the commit and no longer. A generation
//! says which index was published with it. The indexes of before are in `old/`. So the kernel gets the wholly old or the wholly
//! new set of kcache's modules all the same, and then indexes made anew for it.
//!
//! What cannot be seen is which files of others were to be let go for good ([`super::ForeignFiles::Drop`]): they stay. Of two names of
//! one file, which taking over and giving back leave, the one that the index does not lead to goes. No other file of others is
//! touched, and no file is deleted that has no second name, indexes aside.

use super::commit::{close, sync_updates};
use super::disk::remove_if_empty;
use super::foreign_files::settle;
use super::generation::{Generation, is_index};
use super::retire::INDEXES;
use super::tree::{DEP_BIN, Tree};
use super::verify::is_in_use;
use super::{Error, Recovery, Step, disk};

/// What recovery came to, and whether the indexes have to be made again.
pub(super) struct Recovered {
    pub(super) recovery: Recovery,
    /// Somebody has run depmod on the tree in the meantime: its indexes are neither the old nor the new ones.
    pub(super) reindex: bool,
}

/// Puts the tree right. Each step may be repeated.
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

/// Whether the index that commits has left its draft's place; where there is no draft, because indexes go with the last package,
/// whether it is gone.
fn is_committed(tree: &Tree) -> Result<bool, Error> {
    let draft = tree.base_tree();
    let live = if disk::exists(&draft)? { draft.join(DEP_BIN) } else { tree.index(DEP_BIN) };
    Ok(!disk::exists(&live)?)
}

/// Indexes of before come back; where there was none that commits, those that were published before it go.
fn restore_indexes(tree: &Tree) -> Result<(), Error> {
    for name in disk::names(&tree.old_dir())?.iter().filter(|name| is_index(name)) {
        // Where the live file was not replaced yet, both are names of one file, and this rename does nothing.
        fs_err::rename(tree.old_dir().join(name), tree.index(name))?;
    }
    if !disk::exists(&tree.index(DEP_BIN))? {
        for name in INDEXES.iter().filter(|name| !tree.base_tree().join(name).exists()) {
            disk::if_found(fs_err::remove_file(tree.index(name)))?;
        }
    }
    Ok(disk::sync_dir(&tree.path)?)
}

/// Moves generations out that are neither listed nor to stay.
fn retire(tree: &Tree, stays: impl Fn(&Generation) -> bool) -> Result<(), Error> {
    let index = tree.dep_index()?.and_then(Result::ok).unwrap_or_default();
    let mut made_updates = false;
    for dir in tree.generations()? {
        let Ok(Some(generation)) = Generation::read(tree, &dir) else { continue };
        if !is_in_use(&dir, &index) && !stays(&generation) {
            made_updates |= generation.created.updates_dir;
            fs_err::rename(tree.updates().join(&dir), tree.old_dir().join(&dir))?;
        }
    }
    if made_updates {
        remove_if_empty(&tree.updates())?;
    }
    sync_updates(tree)
}
