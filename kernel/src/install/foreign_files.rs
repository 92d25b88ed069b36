//! Foreign modules that kcache takes over, deletes or gives back on request.
//!
//! Foreign modules are never changed, with one exception: modules of DKMS, on explicit request. All three operations
//! are part of a transaction, so the kernel has the modules at all times:
//!
//! ```text
//! before the commit                                   after the commit
//! take        a second name in staging/kept           that name moves to the kept place, the first one is deleted
//! drop        nothing                                 the file is deleted
//! give back   a second name in the kernel's tree      the name in the kept place is deleted
//! ```
//!
//! Until the commit, the old indexes list files that all exist; from the commit on, the new ones do. Second names are
//! hard links: what is given back is the same file, with its bytes, times and owner.
//!
//! The kept place is beside the tree, on its file system, where depmod does not look. The path of a file in it
//! contains the package it belonged to and its path in the tree, so no list can be lost:
//!
//! ```text
//! lib/modules/.kcache-6.1.0-56-amd64.adopted/         mode 0700
//!   acpi-call/updates/dkms/acpi_call.ko
//! ```

use std::collections::BTreeSet;
use std::io;
use std::path::{Component, Path, PathBuf};

use fs_err::os::unix::fs::symlink;
use serde::{Deserialize, Serialize};

use super::generation::{Set, check_name};
use super::names::DIR_PREFIX;
use super::tree::{Tree, check_real};
use super::{Error, Site, Step, disk, lock};
use crate::index::DepIndex;
use crate::module_name::ModuleName;
use crate::modules_dir::ModulesDir;

/// A file in a kernel's tree that is not kcache's.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ForeignFile {
    /// The package it belongs to.
    pub package: String,
    /// Path relative to the kernel's tree: `updates/dkms/acpi_call.ko`.
    pub path: PathBuf,
}

/// What a transaction does to foreign modules. Stored in the journal: add, never rename.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForeignFiles {
    /// Nothing.
    #[default]
    Untouched,
    /// Replace these by the set's modules, and keep them.
    Take(Vec<ForeignFile>),
    /// Delete these.
    Drop(Vec<ForeignFile>),
    /// Restore these, which were kept.
    GiveBack(Vec<ForeignFile>),
}

impl ForeignFile {
    /// The module's name in the kernel.
    pub fn module(&self) -> Option<ModuleName> {
        ModuleName::of_file(&self.path)
    }

    fn kept(&self, tree: &Tree) -> PathBuf {
        tree.kept().join(&self.package).join(&self.path)
    }

    fn staged(&self, tree: &Tree) -> PathBuf {
        tree.staging.join("kept").join(&self.package).join(&self.path)
    }

    fn live(&self, tree: &Tree) -> PathBuf {
        tree.path.join(&self.path)
    }
}

impl ForeignFiles {
    /// Whether there is nothing to do.
    pub fn is_nothing(&self) -> bool {
        self.leaving().is_empty() && self.coming().is_empty()
    }

    fn leaving(&self) -> &[ForeignFile] {
        match self {
            ForeignFiles::Take(files) | ForeignFiles::Drop(files) => files,
            ForeignFiles::Untouched | ForeignFiles::GiveBack(_) => &[],
        }
    }

    fn coming(&self) -> &[ForeignFile] {
        match self {
            ForeignFiles::GiveBack(files) => files,
            ForeignFiles::Untouched | ForeignFiles::Take(_) | ForeignFiles::Drop(_) => &[],
        }
    }

    fn files(&self) -> impl Iterator<Item = &ForeignFile> {
        self.leaving().iter().chain(self.coming())
    }

    /// Whether a listed file will be removed.
    pub(super) fn lets_go(&self, path: &str) -> bool {
        self.leaving().iter().any(|file| file.path == Path::new(path))
    }

    /// Whether every file that is to be removed, from the tree or from the kept place, still exists.
    pub(super) fn all_there(&self, tree: &Tree) -> io::Result<bool> {
        let going = self.leaving().iter().map(|file| file.live(tree));
        for path in going.chain(self.coming().iter().map(|file| file.kept(tree))) {
            if !disk::exists(&path)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Refuses what would leave a kernel without one of its modules, or change files outside its tree.
    pub(super) fn checked(self, tree: &Tree, wanted: &Set) -> Result<Self, Error> {
        self.check_names()?;
        self.check_ways(tree)?;
        if let ForeignFiles::Take(files) = &self {
            if let Some(link) = files.iter().find(|file| file.live(tree).is_symlink()) {
                return Err(Error::Link { path: link.path.clone() });
            }
            let names: BTreeSet<ModuleName> = wanted
                .packages
                .iter()
                .flat_map(|package| &package.modules)
                .map(|module| ModuleName::new(&module.name))
                .collect();
            if let Some(file) = files.iter().find(|f| f.module().is_none_or(|name| !names.contains(&name))) {
                return Err(Error::NoStandIn { path: file.path.clone() });
            }
        }
        for file in self.coming() {
            if disk::exists(&file.live(tree))? && !is_same(&file.kept(tree), &file.live(tree))? {
                return Err(Error::InTheWay { path: file.live(tree) });
            }
        }
        Ok(self)
    }

    /// Refuses names that would lead out of the tree.
    pub(super) fn check_names(&self) -> Result<(), Error> {
        for file in self.files() {
            check_name(&file.package)?;
            if !is_foreign(&file.path) {
                return Err(Error::NotForeign { path: file.path.clone() });
            }
        }
        Ok(())
    }

    /// Refuses links in the parents of any path of a file.
    pub(super) fn check_ways(&self, tree: &Tree) -> Result<(), Error> {
        for file in self.files() {
            for (top, path) in [
                (&*tree.path, file.live(tree)),
                (&*tree.staging, file.staged(tree)),
                (tree.top(), file.kept(tree)),
            ] {
                check_real(top, path.parent().unwrap_or(top))?;
            }
        }
        Ok(())
    }

    /// Creates the second name of files to keep in the staging directory, and the directories of the third.
    pub(super) fn stage(&self, tree: &Tree) -> io::Result<()> {
        let ForeignFiles::Take(files) = self else { return Ok(()) };
        make_private(tree.kept())?;
        for file in files {
            for to in [file.staged(tree), file.kept(tree)] {
                make_dirs(to.parent().unwrap_or(&to), disk::make_private_dir)?;
            }
            fs_err::hard_link(file.live(tree), file.staged(tree))?;
            disk::sync_dir(file.staged(tree).parent().unwrap_or(&tree.staging))?;
        }
        disk::sync_dir(tree.kept().parent().unwrap_or(tree.parent()))
    }

    /// Makes a staged base look as the tree will after the commit.
    pub(super) fn stage_base(&self, tree: &Tree) -> io::Result<()> {
        for file in self.leaving() {
            unfold(tree, &file.path)?;
            disk::if_found(fs_err::remove_file(tree.base_tree().join(&file.path)))?;
        }
        for file in self.coming() {
            unfold(tree, &file.path)?;
            let link = tree.base_tree().join(&file.path);
            if !disk::exists(&link)? {
                symlink(file.kept(tree), link)?;
            }
        }
        Ok(())
    }

    /// Checks that restored modules will be found.
    pub(super) fn check_index(&self, index: &DepIndex) -> Result<(), Error> {
        let is_lost = |file: &&ForeignFile| file.module().is_none_or(|name| index.lookup(&name).is_none());
        match self.coming().iter().find(is_lost) {
            Some(file) => Err(Error::Lost { path: file.path.display().to_string() }),
            None => Ok(()),
        }
    }

    /// Before the commit: restores files in the tree.
    pub(super) fn place(&self, tree: &Tree, step: &Step<'_>) -> io::Result<()> {
        for file in self.coming() {
            let (kept, live) = (file.kept(tree), file.live(tree));
            make_dirs(live.parent().unwrap_or(&tree.path), disk::make_dir)?;
            // If it does not exist, an interrupted run was past the commit.
            if disk::exists(&kept)? && !disk::exists(&live)? {
                fs_err::hard_link(kept, &live)?;
            }
            sync_upwards(tree, &live)?;
            step("file given back")?;
        }
        Ok(())
    }

    /// After the commit: removes files from the tree, and restored ones from the kept place.
    pub(super) fn finish(&self, tree: &Tree, step: &Step<'_>) -> io::Result<()> {
        for file in self.leaving() {
            let kept = file.kept(tree);
            if disk::if_found(fs_err::rename(file.staged(tree), &kept))?.is_some() {
                disk::sync_dir(kept.parent().unwrap_or(&tree.staging))?;
                step("file kept")?;
            }
            // A file that was created after an interruption is not the one that was taken over.
            if matches!(self, ForeignFiles::Drop(_)) || is_same(&kept, &file.live(tree))? {
                disk::if_found(fs_err::remove_file(file.live(tree)))?;
            }
            sync_upwards(tree, &file.live(tree))?;
            step("file deleted")?;
        }
        for file in self.coming() {
            disk::if_found(fs_err::remove_file(file.kept(tree)))?;
            step("file kept no longer")?;
        }
        self.leaving().iter().try_for_each(|file| drop_empty_above(&tree.path, &file.live(tree)))?;
        prune(tree)
    }

    /// Undoes [`ForeignFiles::place`].
    pub(super) fn displace(&self, tree: &Tree) -> io::Result<()> {
        for file in self.coming() {
            if is_same(&file.kept(tree), &file.live(tree))? {
                fs_err::remove_file(file.live(tree))?;
            }
            if disk::exists(&file.kept(tree))? {
                sync_upwards(tree, &file.live(tree))?;
                drop_empty_above(&tree.path, &file.live(tree))?;
            }
        }
        Ok(())
    }
}

/// Foreign modules of a kernel that kcache took over and keeps.
pub fn kept(tree: impl Into<ModulesDir>) -> Result<Vec<ForeignFile>, Error> {
    let tree = Tree::named(tree)?;
    let mut found = Vec::new();
    for package in disk::names(tree.kept())? {
        let place = tree.kept().join(&package);
        check_real(tree.kept(), &place)?;
        for path in files_below(&place)? {
            let path = path.strip_prefix(&place).unwrap_or(&path).to_owned();
            // One that also is in its old place was left by a transaction that was not completed.
            let file = ForeignFile { package: package.clone(), path };
            if !is_same(&file.kept(&tree), &file.live(&tree))? {
                found.push(file);
            }
        }
    }
    Ok(found)
}

/// Completes taking over and giving back without a journal: staged files are kept if the live index does not list
/// them, and of two names of one file, the one that the index does not list is deleted.
pub(super) fn settle(tree: &Tree) -> Result<(), Error> {
    let index = tree.dep_index()?.and_then(Result::ok).unwrap_or_default();
    let is_listed = |path: &Path| index.iter().any(|entry| path == Path::new(entry.path));
    for file in files_of(&tree.staging.join("kept"))? {
        ForeignFiles::Take(vec![file.clone()]).check_ways(tree)?;
        let kept = file.kept(tree);
        if !is_listed(&file.path) && disk::exists(kept.parent().unwrap_or(&kept))? {
            fs_err::rename(file.staged(tree), kept)?;
        }
    }
    for file in files_of(tree.kept())? {
        ForeignFiles::Take(vec![file.clone()]).check_ways(tree)?;
        if is_same(&file.kept(tree), &file.live(tree))? {
            fs_err::remove_file(if is_listed(&file.path) { file.kept(tree) } else { file.live(tree) })?;
            sync_upwards(tree, &file.live(tree))?;
            drop_empty_above(&tree.path, &file.live(tree))?;
        }
        if disk::exists(&file.kept(tree))? {
            disk::sync_dir(file.kept(tree).parent().unwrap_or(&tree.staging))?;
        }
    }
    Ok(prune(tree)?)
}

/// The files in a directory that has a subdirectory for each package.
fn files_of(place: &Path) -> io::Result<Vec<ForeignFile>> {
    let mut found = Vec::new();
    for package in disk::names(place)? {
        let dir = place.join(&package);
        for path in files_below(&dir)? {
            let path = path.strip_prefix(&dir).unwrap_or(&path).to_owned();
            found.push(ForeignFile { package: package.clone(), path });
        }
    }
    found.retain(|file| check_name(&file.package).is_ok() && is_foreign(&file.path));
    Ok(found)
}

/// Deletes the kept modules of a package. True if there were any.
pub fn forget_kept(site: Site<'_>, package: &str) -> Result<bool, Error> {
    check_name(package)?;
    let tree = Tree::open(site.tree)?;
    if !disk::exists(&tree.kept().join(package))? {
        return Ok(false);
    }
    let _lock = lock::acquire(site.tree, site.wait, site.print)?;
    disk::if_found(fs_err::remove_dir_all(tree.kept().join(package)))?;
    prune(&tree)?;
    Ok(true)
}

/// Removes empty directories of the kept place.
pub(super) fn prune(tree: &Tree) -> io::Result<()> {
    for dir in dirs_below(tree.kept())?.iter().rev() {
        disk::remove_if_empty(dir)?;
    }
    disk::remove_if_empty(tree.kept())
}

/// Whether a path may be changed here: inside the tree, a module, and not in a generation.
fn is_foreign(path: &Path) -> bool {
    let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    let ours = path.strip_prefix("updates").is_ok_and(|rest| rest.to_string_lossy().starts_with(DIR_PREFIX));
    inside && !ours && ModuleName::of_file(path).is_some()
}

/// Whether two paths are names of one file.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| -> io::Result<Option<(u64, u64)>> {
        Ok(disk::if_found(fs_err::symlink_metadata(path))?.map(|m| (m.dev(), m.ino())))
    };
    Ok(id(one)?.is_some() && id(one)? == id(other)?)
}

/// Replaces every parent of a path in the staged base by a directory of its own, with links to the contents of the
/// real one.
fn unfold(tree: &Tree, path: &Path) -> io::Result<()> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).filter(|dir| *dir != Path::new("")).collect();
    above.reverse();
    for dir in above {
        let staged = tree.base_tree().join(dir);
        match disk::if_found(fs_err::symlink_metadata(&staged))? {
            Some(metadata) if metadata.is_dir() => continue,
            Some(_) => fs_err::remove_file(&staged)?,
            None => {}
        }
        fs_err::create_dir(&staged)?;
        disk::link_children(&tree.path.join(dir), &staged, |_| true)?;
    }
    Ok(())
}

/// Creates a directory and its missing parents, durably.
fn make_dirs(dir: &Path, make: fn(&Path) -> io::Result<()>) -> io::Result<()> {
    if disk::exists(dir)? {
        return Ok(());
    }
    let parent = dir.parent().unwrap_or(dir);
    make_dirs(parent, make)?;
    make(dir)?;
    disk::sync_dir(parent)
}

fn make_private(dir: &Path) -> io::Result<()> {
    if disk::exists(dir)? { Ok(()) } else { disk::make_private_dir(dir) }
}

/// Syncs the directory of a file, or the nearest existing parent.
fn sync_upwards(tree: &Tree, file: &Path) -> io::Result<()> {
    let dir = file.ancestors().skip(1).find(|dir| dir.is_dir());
    disk::sync_dir(dir.unwrap_or(&tree.path))
}

fn drop_empty_above(top: &Path, file: &Path) -> io::Result<()> {
    for dir in file.ancestors().skip(1).take_while(|dir| *dir != top) {
        disk::remove_if_empty(dir)?;
    }
    Ok(())
}

fn files_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for dir in std::iter::once(dir.to_owned()).chain(dirs_below(dir)?) {
        let paths = disk::names(&dir)?.into_iter().map(|name| dir.join(name));
        found.extend(paths.filter(|path| !is_dir(path)));
    }
    found.sort();
    Ok(found)
}

/// Every directory below one, parents before children.
fn dirs_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for name in disk::names(dir)? {
        let path = dir.join(name);
        if is_dir(&path) {
            found.push(path.clone());
            found.extend(dirs_below(&path)?);
        }
    }
    Ok(found)
}

fn is_dir(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
}
