//! The live indexes beside those that depmod would make of the tree as it is.
//!
//! depmod runs on a base of links in a scratch directory, which may be anywhere; the live tree is only read. Who may read it
//! may ask, and it takes no lock: where others work at the tree at the same time, a difference may be theirs.

use std::path::Path;

use fs_err::os::unix::fs::symlink;

use super::fault::Fault;
use super::tree::Tree;
use super::{Error, Site, depmod, disk, stage};

/// The indexes that are not as depmod would write them. `scratch` is an empty directory that nobody else may write to.
///
/// An index that the tree has not is none of them: without `modules.dep.bin` nothing works, which [`super::verify()`] tells,
/// and others come with newer versions of depmod.
pub fn compare(site: Site<'_>, scratch: &Path) -> Result<Vec<Fault>, Error> {
    let tree = Tree { staging: scratch.to_owned(), ..Tree::open(site.tree)? };
    stage::stage_base(&tree, None)?;
    for dir in tree.generations()? {
        symlink(tree.updates().join(&dir), tree.base_tree().join("updates").join(&dir))?;
    }
    depmod::call(&site, &tree)?;
    let mut faults = Vec::new();
    for name in depmod::written(&tree.base_tree())? {
        let live = disk::digest(&tree.index(&name))?;
        if live.is_some() && live != disk::digest(&tree.base_tree().join(&name))? {
            faults.push(Fault::Unlike { path: tree.index(&name) });
        }
    }
    Ok(faults)
}
