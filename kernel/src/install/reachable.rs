//! What a kernel's tree may still ask a store for: the sets it has installed, and those it can go back to.
//!
//! [`super::current`] answers which set counts, and passes over what cannot be read where the answer does not depend on it.
//! Whoever deletes builds asks another question: one set that cannot be read is one whose builds must not go.

use std::path::Path;

use super::generation::{FILE, Generation};
use super::tree::Tree;
use super::verify::{is_in_use, unmoved};
use super::{Error, disk};

/// All generations in a tree: the installed one, and those that come or go while a transaction runs or after a crash. Takes
/// no lock. An error where one cannot be read that may be installed.
pub fn generations(tree: &Path) -> Result<Vec<Generation>, Error> {
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
