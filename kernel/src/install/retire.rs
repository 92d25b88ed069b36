//! Removing kcache's files together with a kernel.
//!
//! Package managers report a removal before or after they delete the kernel's own files:
//!
//! - Before (kernel-install's plugins on Fedora): the removal may still be cancelled, so the kernel must stay
//!   bootable, and the set is emptied by an ordinary transaction.
//! - After (Debian's postrm), or if the indexes were deleted already: nothing can be loaded any more, so nothing must
//!   be kept consistent, and depmod need not run. kcache's files are deleted.
//!
//! In the second case the order is: indexes, generations, staging directory, empty directories. The indexes are
//! deleted only if no module is left that they could list, and first, while the generation still shows that there is
//! more to do: after a kill at any point, the next call does the rest. Foreign modules, links and files stay, with
//! their directories.

use std::io;
use std::path::Path;

use super::generation::Set;
use super::names::DIR_PREFIX;
use super::tree::{DEP_BIN, Tree};
use super::{Error, ModuleSpec, Recovery, Site, Step, Transaction, commit, disk, lock, plan};
use crate::compress::Compression;
use crate::modules_dir::{ModulesDir, has_kernel};

/// Files that depmod writes (kmod, tools/depmod.c). `modules.builtin` and `modules.order` belong to the kernel.
pub(super) const INDEXES: [&str; 12] = [
    "modules.alias",
    "modules.alias.bin",
    "modules.builtin.alias.bin",
    "modules.builtin.bin",
    "modules.dep",
    DEP_BIN,
    "modules.devname",
    "modules.softdep",
    "modules.symbols",
    "modules.symbols.bin",
    "modules.weakdep",
    "modules.weakdep.bin",
];

/// Whether modules can be loaded from a tree: the kernel exists, and its package has run depmod.
pub fn is_live(tree: &Path) -> io::Result<bool> {
    Ok(has_kernel(tree)? && disk::exists(&tree.join(DEP_BIN))?)
}

/// Whether the kernel has been removed, but kcache's modules exist.
pub fn is_orphaned(dir: &ModulesDir) -> Result<bool, Error> {
    if has_kernel(dir)? || !dir.is_dir() {
        return Ok(false);
    }
    let tree = Tree::open(dir)?;
    Ok(!tree.generations()?.is_empty() || disk::exists(tree.kept())?)
}

/// Removes everything of kcache's from a kernel's tree, whether or not the kernel still exists. True if there was
/// anything.
pub fn retire(site: Site<'_>) -> Result<bool, Error> {
    retire_at(site, &|_| Ok(()))
}

pub(super) fn retire_at(site: Site<'_>, step: &Step<'_>) -> Result<bool, Error> {
    if is_live(site.tree)? {
        return empty(site, step);
    }
    let tree = Tree::named(site.tree)?;
    if !tree.parent().is_dir() {
        return Ok(false);
    }
    let _lock = lock::acquire(site.tree, site.wait, site.print)?;
    clear(&tree, step)
}

/// Empties the set as the removal of the last package does.
fn empty(site: Site<'_>, step: &Step<'_>) -> Result<bool, Error> {
    let transaction = Transaction::begin_at(site, step)?;
    let mut source = |_: &ModuleSpec| Err("nothing is to be installed".into());
    let done = transaction.apply_at(&plan(site.tree, Set::nothing())?, &mut source, step)?;
    Ok(done.changed || transaction.recovered() != Recovery::Nothing)
}

/// Deletes kcache's files.
fn clear(tree: &Tree, step: &Step<'_>) -> Result<bool, Error> {
    let generations = tree.generations()?;
    let ours = !generations.is_empty() || disk::exists(&tree.staging)? || disk::exists(tree.kept())?;
    if !generations.is_empty() && !has_other_modules(&tree.path)? {
        for name in INDEXES {
            disk::if_found(fs_err::remove_file(tree.index(name)))?;
        }
        step("indexes gone")?;
    }
    for dir in generations {
        fs_err::remove_dir_all(tree.updates().join(dir))?;
        step("generation gone")?;
    }
    // Nobody will want foreign modules of a removed kernel back.
    disk::if_found(fs_err::remove_dir_all(tree.kept()))?;
    // A transaction on a removed kernel is neither completed nor undone.
    commit::sweep(tree)?;
    disk::remove_if_empty(&tree.updates())?;
    disk::remove_if_empty(&tree.path)?;
    disk::sync_dir(tree.parent())?;
    Ok(ours)
}

/// Whether there is a module file that is not kcache's below a directory.
fn has_other_modules(dir: &Path) -> io::Result<bool> {
    for name in disk::names(dir)? {
        let path = dir.join(&name);
        let is_dir = fs_err::symlink_metadata(&path)?.is_dir();
        let ours = dir.ends_with("updates") && name.starts_with(DIR_PREFIX);
        let found = if is_dir {
            !ours && has_other_modules(&path)?
        } else {
            Compression::of_file_name(&name).is_some()
        };
        if found {
            return Ok(true);
        }
    }
    Ok(false)
}
