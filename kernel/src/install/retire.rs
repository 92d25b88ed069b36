//! The end of a kernel: what kcache has in its tree goes with it, and nothing else.
//!
//! Package managers tell of a removal before or after the kernel's own files are gone:
//!
//! - Before (kernel-install's plugins on Fedora): until the package manager is through, the removal may be called off. So
//!   the kernel stays one that can be booted: the set is emptied by an ordinary transaction.
//! - After (Debian's postrm), or when the indexes were taken away already: nothing can be loaded any more. Then there is
//!   nothing to keep consistent and no depmod to run; what is ours is deleted.
//!
//! In the second case the order is: indexes, generations, staging directory, empty directories. The indexes go only where no
//! module is left that they could list, and first, while the generation still says that the rest is to be done: killed
//! anywhere, the next call does the rest. Modules, links and files of others stay, and with them their directories.

use std::io;
use std::path::Path;

use super::generation::Set;
use super::names::DIR_PREFIX;
use super::tree::{DEP_BIN, Tree};
use super::{Error, ModuleSpec, Recovery, Site, Step, Transaction, commit, disk, lock, plan};
use crate::compress::Compression;

/// What kernel packages bring and depmod does not make.
const OF_KERNELS: [&str; 4] = ["kernel", "modules.builtin", "modules.order", "vmlinuz"];

/// What depmod writes (kmod, tools/depmod.c). `modules.builtin` and `modules.order` come with the kernel.
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

/// Whether a kernel's own files are in its tree: package managers leave trees behind that only hold what others put there.
pub fn has_kernel(tree: &Path) -> io::Result<bool> {
    any_of(tree, &OF_KERNELS)
}

/// Whether modules can be loaded from a tree: the kernel is there, and its package has run depmod.
pub fn is_live(tree: &Path) -> io::Result<bool> {
    Ok(has_kernel(tree)? && disk::exists(&tree.join(DEP_BIN))?)
}

/// Whether a kernel is gone and modules of kcache's are still there.
pub fn is_orphaned(tree: &Path) -> Result<bool, Error> {
    if has_kernel(tree)? || !tree.is_dir() {
        return Ok(false);
    }
    let tree = Tree::open(tree)?;
    Ok(!tree.generations()?.is_empty() || disk::exists(&tree.kept())?)
}

/// Takes everything of kcache's out of a kernel's tree, whether the kernel, or its tree, is still there or not. True where
/// there was something.
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
    let _lock = lock::acquire(site.tree, site.wait, site.say)?;
    clear(&tree, step)
}

/// The set is emptied as by a removal of the last package.
fn empty(site: Site<'_>, step: &Step<'_>) -> Result<bool, Error> {
    let transaction = Transaction::begin_at(site, step)?;
    let mut source = |_: &ModuleSpec, _: &mut dyn io::Write| Err("nothing is to be installed".into());
    let done = transaction.apply_at(&plan(site.tree, Set::nothing())?, &mut source, step)?;
    Ok(done.changed || transaction.recovered() != Recovery::Nothing)
}

/// Deletes what is ours.
fn clear(tree: &Tree, step: &Step<'_>) -> Result<bool, Error> {
    let generations = tree.generations()?;
    let ours = !generations.is_empty() || disk::exists(&tree.staging)? || disk::exists(&tree.kept())?;
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
    // Nobody will want a module of others back for a kernel that is gone.
    disk::if_found(fs_err::remove_dir_all(tree.kept()))?;
    // A transaction on a kernel that is gone is neither finished nor undone.
    commit::sweep(tree)?;
    disk::remove_if_empty(&tree.updates())?;
    disk::remove_if_empty(&tree.path)?;
    disk::sync_dir(tree.parent())?;
    Ok(ours)
}

/// Whether a module file that is not kcache's lies in a directory or below.
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

fn any_of(tree: &Path, names: &[&str]) -> io::Result<bool> {
    for name in names {
        if disk::exists(&tree.join(name))? {
            return Ok(true);
        }
    }
    Ok(false)
}
