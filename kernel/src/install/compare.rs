//! Comparing the live indexes with those that depmod would generate.
//!
//! depmod runs on a base of links in a scratch directory, which may be on any file system; the live tree is only read.
//! No lock is taken, so a difference may be caused by a concurrent change.

use std::path::Path;

use fs_err::os::unix::fs::symlink;

use super::fault::Fault;
use super::tree::Tree;
use super::{Error, Site, depmod, disk, stage};

/// The indexes that differ from what depmod would write. `scratch` is an empty directory that nobody else can write.
///
/// Missing indexes are not included: without `modules.dep.bin` nothing can be loaded, which [`super::verify()`]
/// reports, and newer versions of depmod write additional ones.
pub fn compare(site: Site<'_>, scratch: &Path) -> Result<Vec<Fault>, Error> {
    let tree = Tree::open(site.tree)?.staged_in(scratch);
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
