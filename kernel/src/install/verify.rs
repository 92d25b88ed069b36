//! What is installed, and whether it still is as it was installed.
//!
//! Both questions are answered without the lock. While a transaction runs two generations may lie in the tree; the one
//! that counts is the one modprobe finds through `modules.dep.bin`.

use std::io;
use std::path::{Path, PathBuf};

use super::generation::{Generation, Installed};
use super::tree::{DEP_BIN, Tree};
use super::{Error, disk, lock};
use crate::index::DepIndex;

/// What is wrong with an installed generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A file is gone.
    #[error("{path} is missing")]
    Missing {
        /// The module file.
        path: PathBuf,
    },
    /// A file has other bytes than were installed.
    #[error("{path} has the digest {found}, expected {expected}")]
    Changed {
        /// The module file.
        path: PathBuf,
        /// What was installed.
        expected: blake3::Hash,
        /// What is there.
        found: blake3::Hash,
    },
    /// `modules.dep.bin` is missing or damaged: nothing can be loaded.
    #[error("{path} cannot be read: {why}")]
    NoIndex {
        /// `modules.dep.bin`.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An index is another than depmod would make of the tree ([`super::compare()`]).
    #[error("{path} is not what depmod makes of the tree")]
    Index {
        /// The index.
        path: PathBuf,
    },
    /// The index does not know a module.
    #[error("modprobe does not find {module}: modules.dep.bin does not list it")]
    Unlisted {
        /// The module's name.
        module: String,
    },
    /// A module it depends on is listed, and not there.
    #[error("{module} depends on {path}, which is missing")]
    NoDependency {
        /// The module's name.
        module: String,
        /// The file, as the index names it.
        path: PathBuf,
    },
    /// The index gives another file for a module.
    #[error("modprobe loads {winner} for {module}, not kcache's {ours}")]
    Shadowed {
        /// The module's name.
        module: String,
        /// Our file, relative to the tree.
        ours: String,
        /// The file that modprobe takes, relative to the tree.
        winner: String,
    },
}

/// The generation that is installed in a tree. Takes no lock: during a transaction the answer is the old or the new one.
///
/// Without a readable index, or if it leads to other files, the answer is a generation all the same, and [`verify`] tells
/// what is wrong. One that a whole index does not list at all is on its way in, or was left behind.
pub fn current(tree: &Path) -> Result<Option<Generation>, Error> {
    let tree = Tree::open(tree)?;
    let whole_index = tree.dep_index()?.and_then(Result::ok);
    let index = whole_index.clone().unwrap_or_default();
    let mut found = Vec::new();
    for dir in tree.generations()? {
        match Generation::read(&tree.updates().join(&dir)) {
            Ok(generation) => found.extend(generation.filter(|generation| generation.dir_name() == dir)),
            Err(Error::Damaged { .. }) if !is_in_use(&dir, &index) => {}
            Err(error) => return Err(error),
        }
    }
    if whole_index.is_some() {
        let is_listed = |module: &Installed| index.lookup(&module.spec.name).is_some();
        found.retain(|generation| {
            generation.modules().next().is_none() || generation.modules().any(|(_, m)| is_listed(m))
        });
    }
    let resolves = |generation: &Generation, m: &Installed| fault_of_index(&index, generation, m).is_none();
    let resolved =
        |generation: &Generation| generation.modules().filter(|(_, m)| resolves(generation, m)).count();
    Ok(found.into_iter().max_by_key(resolved))
}

/// Checks an installed generation: every file's digest, and that modprobe finds it.
pub fn verify(tree: &Path, generation: &Generation) -> Result<Vec<Fault>, Error> {
    let tree = Tree::open(tree)?;
    let mut faults = verify_files(&tree.updates().join(generation.dir_name()), generation)?;
    let no_index = |why| Fault::NoIndex { path: tree.index(DEP_BIN), why };
    match tree.dep_index()? {
        Some(Ok(index)) => {
            faults.extend(verify_index(&index, generation));
            faults.extend(verify_dependencies(&tree, &index, generation)?);
        }
        Some(Err(damage)) => faults.push(no_index(damage.to_string())),
        None => faults.push(no_index("it is missing".to_owned())),
    }
    Ok(faults)
}

/// Checks the files of a generation in a directory.
pub(super) fn verify_files(dir: &Path, generation: &Generation) -> Result<Vec<Fault>, Error> {
    let mut faults = Vec::new();
    for (_, module) in generation.modules() {
        let path = dir.join(&module.path);
        let expected = module.installed_digest;
        match disk::digest(&path)? {
            None => faults.push(Fault::Missing { path }),
            Some(found) if found != expected => faults.push(Fault::Changed { path, expected, found }),
            Some(_) => {}
        }
    }
    Ok(faults)
}

/// Checks that an index leads to the files of a generation.
pub(super) fn verify_index(index: &DepIndex, generation: &Generation) -> Vec<Fault> {
    generation.modules().filter_map(|(_, module)| fault_of_index(index, generation, module)).collect()
}

/// Checks that what modprobe would load before the modules of a generation is there.
fn verify_dependencies(tree: &Tree, index: &DepIndex, generation: &Generation) -> io::Result<Vec<Fault>> {
    let mut faults = Vec::new();
    for (_, installed) in generation.modules() {
        let module = &installed.spec.name;
        for path in index.lookup(module).into_iter().flat_map(|entry| entry.depends()) {
            let path = tree.path.join(path);
            if !disk::exists(&path)? {
                faults.push(Fault::NoDependency { module: module.clone(), path });
            }
        }
    }
    Ok(faults)
}

fn fault_of_index(index: &DepIndex, generation: &Generation, installed: &Installed) -> Option<Fault> {
    let module = installed.spec.name.clone();
    let Some(entry) = index.lookup(&module) else { return Some(Fault::Unlisted { module }) };
    let ours = format!("updates/{}/{}", generation.dir_name(), installed.path);
    (entry.path != ours).then(|| Fault::Shadowed { module, ours, winner: entry.path.to_owned() })
}

/// Whether an earlier run was interrupted, so that there is something for [`super::Transaction::begin`] to put right. One
/// that is going on does not count.
pub fn interrupted(tree: &Path) -> Result<bool, Error> {
    Ok(disk::exists(&Tree::open(tree)?.staging)? && !lock::is_held(tree))
}

pub(super) fn is_in_use(dir: &str, index: &DepIndex) -> bool {
    let inside = format!("updates/{dir}/");
    index.iter().any(|entry| entry.path.starts_with(&inside))
}
