//! SELinux labels of what is installed: those of the kernel's own files, without which a confined process may not load a module.
//!
//! On a running SELinux system new files take the label of their directory. In an image that another system installs into they
//! have none, and would be `unlabeled_t` there. So each file gets the label of a like one (`restorecon` would compute the same
//! from the policy, which an image's root may not have):
//!
//! | what | label of |
//! |---|---|
//! | an index `modules.X` | the index that it replaces, else `modules.order` |
//! | a module, a directory | the kernel's `kernel/`, else its tree |
//!
//! A label is the extended attribute `security.selinux` (selinux(8), xattr(7)). A tree without labels is left without.

use std::io;
use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};
use rustix::io::Errno;

use super::disk;
use super::journal::IndexChange;
use super::tree::Tree;

const LABEL: &str = "security.selinux";
/// Limit in bytes on a label: longer ones are not of SELinux.
const LABEL_MAX: usize = 4096;

/// Labels what is staged, durably.
///
/// # Errors
///
/// If a label cannot be set, as without `CAP_SYS_ADMIN`.
pub(super) fn of_staged(tree: &Tree, indexes: &[IndexChange]) -> io::Result<()> {
    let Some(of_modules) = of_modules(tree)? else { return Ok(()) };
    all_below(&tree.new_dir(), &of_modules)?;
    let like = get(&tree.index("modules.order"))?;
    for change in indexes.iter().filter(|change| change.after) {
        let replaced = get(&tree.index(&change.name))?;
        let label = replaced.as_ref().or(like.as_ref()).unwrap_or(&of_modules);
        set(&tree.base_tree().join(&change.name), label)?;
    }
    Ok(())
}

/// Labels a directory that is new in the tree, if the tree has labels.
pub(super) fn of_new_directory(tree: &Tree, path: &Path) -> io::Result<()> {
    of_modules(tree)?.map_or(Ok(()), |label| set(path, &label))
}

fn of_modules(tree: &Tree) -> io::Result<Option<Vec<u8>>> {
    match get(&tree.path.join("kernel"))? {
        Some(label) => Ok(Some(label)),
        None => get(&tree.path),
    }
}

fn all_below(directory: &Path, label: &[u8]) -> io::Result<()> {
    set(directory, label)?;
    for name in disk::names(directory)? {
        let path = directory.join(name);
        match fs_err::symlink_metadata(&path)?.is_dir() {
            true => all_below(&path, label)?,
            false => set(&path, label)?,
        }
    }
    Ok(())
}

/// The label of a file; `None` without one, or without the file.
fn get(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut label = [0; LABEL_MAX];
    match lgetxattr(path, LABEL, &mut label[..]) {
        Ok(length) => Ok(Some(label[..length].to_vec())),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn set(path: &Path, label: &[u8]) -> io::Result<()> {
    if get(path)?.as_deref() == Some(label) {
        return Ok(());
    }
    match lsetxattr(path, LABEL, label, XattrFlags::empty()) {
        Ok(()) => fs_err::File::open(path)?.sync_all(),
        // The staging directory is on the tree's file system, which has labels; a bind mount may hide them.
        Err(Errno::NOTSUP) => Ok(()),
        Err(error) => {
            let what = format!("cannot set the SELinux label of {}: {error}", path.display());
            Err(io::Error::new(io::Error::from(error).kind(), what))
        }
    }
}
