//! The sets that a kernel's tree refers to: roots for garbage collection.
//!
//! [`super::current`] determines the installed set, and ignores unreadable files that do not affect the result. Before
//! builds are deleted, every readable or unreadable set matters: the builds of an unreadable one must not be deleted.

use super::generation::{FILE, Generation};
use super::tree::Tree;
use super::verify::{is_in_use, unmoved};
use super::{Error, disk};
use crate::modules_dir::ModulesDir;

/// All generations in a tree: the installed one, and those that exist during a transaction or after a crash. Takes no
/// lock.
///
/// # Errors
///
/// An error if one that may be installed cannot be read.
pub fn generations(tree: impl Into<ModulesDir>) -> Result<Vec<Generation>, Error> {
    let tree = Tree::open(tree)?;
    unmoved(&tree, || read_all(&tree, &tree.generations()?))
}

fn read_all(tree: &Tree, dirs: &[String]) -> Result<Vec<Generation>, Error> {
    let index = tree.dep_index()?.and_then(Result::ok);
    let may_be_installed = |dir: &str| index.as_ref().is_none_or(|index| is_in_use(dir, index));
    let mut found = Vec::new();
    for dir in dirs {
        let path = tree.updates().join(dir);
        match Generation::read(tree, dir) {
            Ok(Some(generation)) => found.push(generation),
            Ok(None) if may_be_installed(dir) && !disk::names(&path)?.is_empty() => {
                fs_err::metadata(path.join(FILE))?;
            }
            Err(error) if may_be_installed(dir) || !matches!(error, Error::Damaged { .. }) => {
                return Err(error);
            }
            Ok(None) | Err(_) => {}
        }
    }
    Ok(found)
}
