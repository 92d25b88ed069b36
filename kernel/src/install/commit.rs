//! The only place where the live tree changes: forward to the new set, or back to the old one.
//!
//! Each step checks whether it was already done, so both directions can be interrupted anywhere and repeated.
//! Uninterrupted, failed and recovered transactions run the same code.

use crate::bounded_read::{self, MOST_DATA};
use std::io;
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::disk::remove_if_empty;
use super::generation::Generation;
use super::journal::{IndexChange, Journal};
use super::names::dir_name;
use super::tree::Tree;
use super::verify::verify_files;
use super::{Error, Step, checked_json, disk, foreign_files, labels};

/// Installs the new set, up to and including the commit. Durable when it returns.
pub(super) fn forward(tree: &Tree, journal: &Journal, step: &Step<'_>) -> Result<(), Error> {
    place(tree, journal)?;
    step("generation placed")?;
    journal.others.place(tree, step)?;
    let (others, commit) = journal.split_commit();
    for change in others {
        publish(tree, change)?;
        step("index published")?;
    }
    // Otherwise the file system could keep the commit but lose an index that was renamed before it.
    disk::sync_dir(&tree.path)?;
    if let Some(commit) = commit {
        publish(tree, commit)?;
        step("committed")?;
    }
    Ok(disk::sync_dir(&tree.path)?)
}

/// Removes what the commit has replaced, and closes the journal.
pub(super) fn finish(tree: &Tree, journal: &Journal, step: &Step<'_>) -> Result<(), Error> {
    journal.others.finish(tree, step)?;
    for dir in &journal.retire {
        // Moved out of the tree as a whole, so a concurrent depmod sees a complete old generation or none.
        let gone = tree.old_dir().join(dir);
        disk::move_out(&tree.updates().join(dir), &gone)?;
        step("old generation moved out")?;
    }
    if journal.drops_updates {
        remove_if_empty(&tree.updates())?;
    }
    sync_updates(tree)?;
    step("old generation gone")?;
    close(tree, step)
}

/// Restores the old set.
pub(super) fn back(tree: &Tree, journal: &Journal, step: &Step<'_>) -> Result<(), Error> {
    // Restore the committing index first: from then on the old set is installed, and the new one is only to be
    // removed.
    for change in journal.indexes.iter().rev() {
        restore(tree, change)?;
        step("index restored")?;
    }
    disk::sync_dir(&tree.path)?;
    displace(tree, journal, step)
}

/// The part of [`back`] that does not change the indexes.
pub(super) fn displace(tree: &Tree, journal: &Journal, step: &Step<'_>) -> Result<(), Error> {
    if let Some(new) = &journal.new {
        if journal.old.as_ref() != Some(new) {
            disk::move_out(&tree.generation(new), &tree.old_dir().join(dir_name(new)))?;
        } else if !disk::exists(&tree.generation(new))? {
            fs_err::rename(tree.old_dir().join(dir_name(new)), tree.generation(new))?;
        }
    }
    journal.others.displace(tree)?;
    if journal.makes_updates {
        remove_if_empty(&tree.updates())?;
    }
    sync_updates(tree)?;
    step("new generation gone")?;
    close(tree, step)
}

/// Deletes the staging directory with its contents. Only call it without a journal, when nothing needs them.
pub(super) fn sweep(tree: &Tree) -> Result<(), Error> {
    disk::if_found(fs_err::remove_dir_all(&tree.staging))?;
    foreign_files::prune(tree)?;
    tree.remove_own_dirs()?;
    Ok(disk::sync_dir(tree.top())?)
}

pub(super) fn close(tree: &Tree, step: &Step<'_>) -> Result<(), Error> {
    Journal::close(tree)?;
    step("journal closed")?;
    sweep(tree)
}

fn place(tree: &Tree, journal: &Journal) -> Result<(), Error> {
    let Some(new) = &journal.new else { return Ok(()) };
    if journal.makes_updates && !disk::exists(&tree.updates())? {
        disk::make_dir(&tree.updates())?;
        // A label that cannot be set is reported with those of the staged files.
        drop(labels::of_new_directory(tree, &tree.updates()));
    }
    let (staged, live) = (tree.new_generation(new), tree.generation(new));
    match (disk::exists(&staged)?, disk::exists(&live)?) {
        (false, true) => {}
        (true, true) if is_placed(&live, journal)? => {}
        (true, true) => exchange(&staged, &live, &tree.old_dir().join(dir_name(new)))?,
        (_, false) => fs_err::rename(&staged, &live)?,
    }
    disk::sync_dir(&tree.new_dir())?;
    sync_updates(tree)
}

/// Whether the generation of this name in the tree is the staged one, and not a corrupt one that it replaces.
fn is_placed(live: &Path, journal: &Journal) -> Result<bool, Error> {
    let path = live.join(super::generation::FILE);
    let bytes = disk::if_found(bounded_read::bytes(&path, MOST_DATA))?.unwrap_or_default();
    let expected = journal.new_manifest.map(|hash| hash.0);
    if Some(blake3::hash(&bytes)) != expected || disk::digest(&checked_json::copy(&path))? != expected {
        return Ok(false);
    }
    let Ok(generation) = Generation::parse(&bytes) else { return Ok(false) };
    Ok(verify_files(live, &generation)?.is_empty())
}

/// A repaired generation has the name of the corrupt one, so they are exchanged in one step.
fn exchange(staged: &Path, live: &Path, old: &Path) -> Result<(), Error> {
    match renameat_with(CWD, staged, CWD, live, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(()),
        // ZFS before 2.2 and network file systems do not support RENAME_EXCHANGE. Between these two renames the
        // corrupt modules are missing.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            fs_err::rename(live, old)?;
            Ok(fs_err::rename(staged, live)?)
        }
        // overlayfs renames no directory of a lower layer. The corrupt one is kept as a copy, in case this is undone.
        Err(rustix::io::Errno::XDEV) => {
            if !disk::exists(old)? {
                disk::copy_dir(live, old)?;
            }
            fs_err::remove_dir_all(live)?;
            Ok(fs_err::rename(staged, live)?)
        }
        Err(e) => {
            let what = format!("cannot exchange {} and {}", staged.display(), live.display());
            Err(io::Error::new(io::Error::from(e).kind(), format!("{what}: {e}")).into())
        }
    }
}

fn publish(tree: &Tree, change: &IndexChange) -> Result<(), Error> {
    let live = tree.index(&change.name);
    // If it does not exist, it was renamed or deleted before an interruption.
    disk::if_found(if change.after {
        fs_err::rename(tree.base_tree().join(&change.name), live)
    } else {
        fs_err::remove_file(live)
    })?;
    Ok(())
}

fn restore(tree: &Tree, change: &IndexChange) -> Result<(), Error> {
    let live = tree.index(&change.name);
    // If the live file was not replaced yet, both are names of one file, and this rename does nothing.
    disk::if_found(if change.before {
        fs_err::rename(tree.old_dir().join(&change.name), live)
    } else {
        fs_err::remove_file(live)
    })?;
    Ok(())
}

/// Syncs `updates/` if it exists, and its parent.
pub(super) fn sync_updates(tree: &Tree) -> Result<(), Error> {
    if disk::exists(&tree.updates())? {
        disk::sync_dir(&tree.updates())?;
    }
    Ok(disk::sync_dir(&tree.path)?)
}
