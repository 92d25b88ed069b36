//! The installed generation, and whether it is intact.
//!
//! Neither function takes the lock. During a transaction there may be two generations in the tree; the installed one
//! is the one that `modules.dep.bin` lists.

use crate::bounded_read::{self, MOST_DATA};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::checked_json::{self, Unreadable};
use super::fault::Fault;
use super::generation::{Generation, Installed};
use super::tree::{DEP_BIN, Tree};
use super::{Error, disk, indexes, lock};
use crate::index::DepIndex;
use crate::modules_dir::ModulesDir;

/// Attempts to find the tree unchanged. A transaction changes a tree twice, and takes longer than reading it.
const ATTEMPTS: u32 = 10;

/// The generation that is installed in a tree. Takes no lock: during a transaction the result is the old or the new
/// one.
///
/// If the index is unreadable, or lists other files, there is a result nevertheless, and [`verify`] reports the fault.
/// A generation that an intact index does not list at all is being installed or removed, or is a leftover, if there is
/// another one or a transaction; otherwise it is the installed one, and its index was lost.
///
/// # Errors
///
/// [`Error::Damaged`] or [`Error::Newer`] if its `generation.json` and the copy cannot be used.
pub fn current(tree: impl Into<ModulesDir>) -> Result<Option<Generation>, Error> {
    let tree = Tree::open(tree)?;
    unmoved(&tree, || look(&tree))
}

/// The base for the next set.
#[derive(Debug, Default)]
pub struct Base {
    /// The installed generation.
    pub generation: Option<Generation>,
    /// Why the installed generation is unknown, although there is one.
    pub fault: Option<Fault>,
    /// Packages that are installed, of which nothing else is known.
    pub lost: Vec<String>,
}

/// Like [`current`], but a corrupt generation is a fault and not an error: a complete set can replace it.
pub fn base(tree: impl Into<ModulesDir>) -> Result<Base, Error> {
    let tree = tree.into();
    let (path, source) = match current(&tree) {
        Ok(generation) => return Ok(Base { generation, ..Base::default() }),
        Err(Error::Damaged { path, source }) => (path, source),
        Err(error) => return Err(error),
    };
    let dir = path.parent().unwrap_or(&tree);
    let mut lost = disk::names(dir)?;
    lost.retain(|name| dir.join(name).is_dir());
    Ok(Base { generation: None, fault: Some(Fault::Record { path, why: source.to_string() }), lost })
}

fn look(tree: &Tree) -> Result<Option<Generation>, Error> {
    let whole_index = tree.dep_index()?.and_then(Result::ok);
    let index = whole_index.clone().unwrap_or_default();
    let mut found = Vec::new();
    for dir in tree.generations()? {
        let may_be_installed = whole_index.is_none() || is_in_use(&dir, &index);
        match Generation::read(tree, &dir) {
            Ok(None) if may_be_installed && !disk::names(&tree.updates().join(&dir))?.is_empty() => {
                return Err(Unreadable::because("it is missing").at(&Generation::path(tree, &dir)));
            }
            Err(Error::Damaged { .. }) if !may_be_installed => {}
            read => found.extend(read?),
        }
    }
    let is_listed = |generation: &Generation| {
        generation.modules().next().is_none()
            || generation.modules().any(|(_, m)| index.lookup(&m.spec.name).is_some())
            || is_in_use(&generation.dir_name(), &index)
    };
    if whole_index.is_some() && (disk::exists(&tree.staging)? || found.iter().any(is_listed)) {
        found.retain(is_listed);
    }
    let resolves = |generation: &Generation, m: &Installed| fault_of_index(&index, generation, m).is_none();
    let resolved =
        |generation: &Generation| generation.modules().filter(|(_, m)| resolves(generation, m)).count();
    Ok(found.into_iter().max_by_key(resolved))
}

/// Verifies `generation.json` and its copy. Earlier versions made no copy.
fn verify_records(tree: &Tree, generation: &Generation) -> Result<Vec<Fault>, Error> {
    let path = Generation::path(tree, &generation.dir_name());
    let mut faults = Vec::new();
    for (path, must_be) in [(checked_json::copy(&path), false), (path, true)] {
        let why = match Generation::read_file(tree, &generation.dir_name(), &path) {
            Ok(Some(found)) if found == *generation => continue,
            Ok(Some(_)) => "it differs from its copy".to_owned(),
            Ok(None) if must_be => "it is missing".to_owned(),
            Ok(None) => continue,
            Err(Error::Damaged { source, .. }) => source.to_string(),
            Err(error) => error.to_string(),
        };
        faults.push(Fault::Record { path, why });
    }
    Ok(faults)
}

/// Repeats `look` until the tree did not change meanwhile: a transaction moves generations and the index one after the
/// other.
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

/// Verifies an installed generation: the digest of every file, its `generation.json`, and that modprobe finds every
/// module.
pub fn verify(tree: impl Into<ModulesDir>, generation: &Generation) -> Result<Vec<Fault>, Error> {
    let tree = Tree::open(tree)?;
    let mut faults = verify_files(&tree.updates().join(generation.dir_name()), generation)?;
    faults.extend(verify_records(&tree, generation)?);
    let no_index = |why| Fault::NoIndex { path: tree.index(DEP_BIN), why };
    let bytes = disk::if_found(bounded_read::bytes(tree.index(DEP_BIN), MOST_DATA))?;
    match bytes.as_ref().map(|bytes| DepIndex::parse(bytes)) {
        Some(Ok(index)) => {
            faults.extend(verify_index(&index, generation));
            faults.extend(verify_dependencies(&tree, &index, generation)?);
            // An index other than the published one was written by another depmod, or is corrupt: only depmod's text
            // files show which.
            if bytes.is_some_and(|bytes| blake3::hash(&bytes) != generation.index) {
                faults.extend(indexes::fault_of_dep(&tree, &index)?);
            }
        }
        Some(Err(damage)) => faults.push(no_index(damage.to_string())),
        None => faults.push(no_index("it is missing".to_owned())),
    }
    Ok(faults)
}

/// Verifies the files of a generation in a directory.
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

/// Verifies that an index lists the files of a generation.
pub(super) fn verify_index(index: &DepIndex, generation: &Generation) -> Vec<Fault> {
    generation.modules().filter_map(|(_, module)| fault_of_index(index, generation, module)).collect()
}

/// Verifies that the dependencies of a generation's modules exist.
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

/// Whether an earlier run was interrupted, so that [`super::Transaction::begin`] has something to recover. A running
/// transaction does not count.
pub fn interrupted(tree: impl Into<ModulesDir>) -> Result<bool, Error> {
    let tree = tree.into();
    Ok(disk::exists(&Tree::open(&tree)?.staging)? && !lock::is_held(&tree))
}

pub(super) fn is_in_use(dir: &str, index: &DepIndex) -> bool {
    let inside = format!("updates/{dir}/");
    index.iter().any(|entry| entry.path.starts_with(&inside))
}
