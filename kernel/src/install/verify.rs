//! What is installed, and whether it still is as it was installed.
//!
//! Both questions are answered without the lock. While a transaction runs two generations may lie in the tree; the one
//! that counts is the one modprobe finds through `modules.dep.bin`.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::generation::{Generation, Installed};
use super::record::{self, Unreadable};
use super::tree::{DEP_BIN, Tree};
use super::{Error, disk, indexes, lock};
use crate::index::DepIndex;

/// A transaction changes a tree twice, and takes longer than looking at it.
const ATTEMPTS: u32 = 10;

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
    /// One of kmod's indexes is not what depmod writes.
    #[error("{path} is damaged: {why}")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// `generation.json` or its copy is not as it was written.
    #[error("{path} is damaged: {why}")]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
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
/// what is wrong. One that a whole index does not list at all is on its way in or out, or was left behind, as long as there is
/// another or a transaction; else somebody has lost it.
pub fn current(tree: &Path) -> Result<Option<Generation>, Error> {
    let tree = Tree::open(tree)?;
    unmoved(&tree, || look(&tree, &|_, error| Err(error)).map(|base| base.generation))
}

/// What the next set is built upon.
#[derive(Debug, Default)]
pub struct Base {
    /// The generation that is installed, from the copy of its `generation.json` where that one is damaged.
    pub generation: Option<Generation>,
    /// What is wrong with either file.
    pub faults: Vec<Fault>,
    /// Packages that are installed, and nothing is known of them any more but their names.
    pub lost: Vec<String>,
}

/// The same for whoever is about to put it right: damage is a fault, not an error.
pub fn base(tree: &Path) -> Result<Base, Error> {
    let tree = Tree::open(tree)?;
    unmoved(&tree, || look(&tree, &|dir, error| salvage(&tree, dir, error)))
}

type Salvage<'a> = dyn Fn(&str, Error) -> Result<Base, Error> + 'a;

fn look(tree: &Tree, salvage: &Salvage<'_>) -> Result<Base, Error> {
    let whole_index = tree.dep_index()?.and_then(Result::ok);
    let index = whole_index.clone().unwrap_or_default();
    let may_be_installed = |dir: &str| whole_index.is_none() || is_in_use(dir, &index);
    let (mut found, mut damaged) = (Vec::new(), Base::default());
    for dir in tree.generations()? {
        let base = match Generation::read(tree, &dir) {
            Ok(Some(generation)) => {
                Base { faults: fault_of_copy(tree, &generation)?, ..Base::of(generation) }
            }
            Ok(None) if may_be_installed(&dir) && !disk::names(&tree.updates().join(&dir))?.is_empty() => {
                salvage(&dir, Unreadable::because("it is missing").at(&Generation::path(tree, &dir)))?
            }
            Ok(None) => continue,
            Err(Error::Damaged { .. }) if !may_be_installed(&dir) => continue,
            Err(error) => salvage(&dir, error)?,
        };
        match &base.generation {
            Some(_) => found.push(base),
            None => damaged = base,
        }
    }
    let is_listed = |base: &Base| {
        let modules = || base.generation.iter().flat_map(Generation::modules);
        modules().next().is_none()
            || modules().any(|(_, m)| index.lookup(&m.spec.name).is_some())
            || base.generation.as_ref().is_some_and(|generation| is_in_use(&generation.dir_name(), &index))
    };
    if whole_index.is_some() && (disk::exists(&tree.staging)? || found.iter().any(is_listed)) {
        found.retain(is_listed);
    }
    let resolved = |base: &Base| {
        let modules = base.generation.iter().flat_map(|g| g.modules().map(move |(_, module)| (g, module)));
        modules.filter(|(generation, m)| fault_of_index(&index, generation, m).is_none()).count()
    };
    Ok(found.into_iter().max_by_key(resolved).unwrap_or(damaged))
}

impl Base {
    fn of(generation: Generation) -> Base {
        Base { generation: Some(generation), ..Base::default() }
    }
}

/// What is left of a generation that cannot be read.
fn salvage(tree: &Tree, dir: &str, error: Error) -> Result<Base, Error> {
    let path = Generation::path(tree, dir);
    let why = match error {
        Error::Damaged { source, .. } => source.to_string(),
        Error::Io(error) => error.to_string(),
        error => return Err(error),
    };
    let faults = vec![Fault::Record { path, why }];
    if let Ok(Some(generation)) = Generation::read_copy(tree, dir) {
        return Ok(Base { faults, ..Base::of(generation) });
    }
    let mut lost = disk::names(&tree.updates().join(dir))?;
    lost.retain(|name| tree.updates().join(dir).join(name).is_dir());
    Ok(Base { generation: None, faults, lost })
}

/// Earlier versions of this program made no copy.
fn fault_of_copy(tree: &Tree, generation: &Generation) -> Result<Vec<Fault>, Error> {
    let dir = generation.dir_name();
    let why = match Generation::read_copy(tree, &dir) {
        Ok(copy) if copy.as_ref().is_none_or(|copy| copy == generation) => return Ok(Vec::new()),
        Ok(_) => "it says something else".to_owned(),
        Err(Error::Damaged { source, .. }) => source.to_string(),
        Err(Error::Io(error)) => error.to_string(),
        Err(error) => return Err(error),
    };
    Ok(vec![Fault::Record { path: record::copy(&Generation::path(tree, &dir)), why }])
}

/// Looks until the tree has stood still meanwhile: a transaction moves generations and the index one after the other.
pub(super) fn unmoved<T>(tree: &Tree, look: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let stand = || -> io::Result<_> {
        let index = disk::if_found(fs_err::symlink_metadata(tree.index(DEP_BIN)))?;
        Ok((tree.generations()?, index.map(|index| (index.ino(), index.mtime(), index.mtime_nsec()))))
    };
    for _ in 0..ATTEMPTS {
        let before = stand()?;
        let found = look();
        if stand()? == before {
            return found;
        }
    }
    Err(Error::Changed { kernel: tree.release.clone() })
}

/// Checks an installed generation: every file's digest, what is said of it, and that modprobe finds it.
pub fn verify(tree: &Path, generation: &Generation) -> Result<Vec<Fault>, Error> {
    let tree = Tree::open(tree)?;
    let mut faults = verify_files(&tree.updates().join(generation.dir_name()), generation)?;
    faults.extend(fault_of_copy(&tree, generation)?);
    let no_index = |why| Fault::NoIndex { path: tree.index(DEP_BIN), why };
    let bytes = disk::if_found(fs_err::read(tree.index(DEP_BIN)))?;
    match bytes.as_ref().map(|bytes| DepIndex::parse(bytes)) {
        Some(Ok(index)) => {
            faults.extend(verify_index(&index, generation));
            faults.extend(verify_dependencies(&tree, &index, generation)?);
            // Another one than was published was made by somebody's depmod, or has rotted: only depmod's text can tell.
            if bytes.is_some_and(|bytes| blake3::hash(&bytes) != generation.index) {
                faults.extend(indexes::fault_of_dep(&tree, &index)?);
            }
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
