//! Paths of the kernel's tree and of the staging directory beside it.

use crate::bounded_read::{self, MOST_DATA};
use crate::modules_dir::ModulesDir;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::names::{DIR_PREFIX, dir_name};
use super::{Error, disk};
use crate::index::{self, DepIndex};

/// The index whose rename is the commit, because modprobe resolves modules with it alone.
pub(super) const DEP_BIN: &str = "modules.dep.bin";

/// Directory in a tree that is a mount of its own, for what is beside others. Its contents are in a directory called
/// `build`, because depmod searches none of that name (kmod, tools/depmod.c).
pub(super) const OWN: &str = ".kcache";
const NOT_SEARCHED: &str = "build";

/// One kernel's tree, `<modules dir>/<release>`.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) path: PathBuf,
    pub(super) release: String,
    /// Beside the tree, so that a rename from one to the other is atomic; in it, if the tree is a mount of its own.
    pub(super) staging: PathBuf,
    /// The kept place of foreign modules ([`super::foreign_files`]).
    kept: PathBuf,
}

impl Tree {
    /// A tree that must exist.
    pub(super) fn open(dir: impl Into<ModulesDir>) -> Result<Self, Error> {
        let tree = Self::named(dir)?;
        if !tree.path.is_dir() {
            return Err(Error::NoTree { path: tree.path });
        }
        Ok(tree)
    }

    /// A tree that may have been removed.
    pub(super) fn named(dir: impl Into<ModulesDir>) -> Result<Self, Error> {
        let dir = dir.into();
        let (path, release) = (dir.to_path_buf(), dir.release().to_owned());
        if release.is_empty() || path.file_name().is_none() {
            return Err(Error::NoTree { path });
        }
        let own = path.join(OWN).join(NOT_SEARCHED);
        let (staging, kept) = match is_mount(&path) {
            true => (own.join("staging"), own.join("adopted")),
            false => (
                path.with_file_name(format!(".kcache-{release}")),
                path.with_file_name(format!(".kcache-{release}.adopted")),
            ),
        };
        let tree = Self { path, release, staging, kept };
        check_real(&tree.path, &tree.updates())?;
        for dir in [&tree.staging, &tree.kept] {
            check_real(tree.top(), dir)?;
            check_private(tree.parent(), dir)?;
        }
        Ok(tree)
    }

    /// The same tree with another staging directory.
    pub(super) fn staged_in(self, staging: &Path) -> Self {
        Self { staging: staging.to_owned(), ..self }
    }

    /// The nearest directory above the staging directory that is not kcache's.
    pub(super) fn top(&self) -> &Path {
        if self.staging.starts_with(&self.path) { &self.path } else { self.parent() }
    }

    /// Creates the staging directory.
    pub(super) fn make_staging(&self) -> io::Result<()> {
        for dir in self.own_dirs() {
            if !disk::exists(&dir)? {
                disk::make_private_dir(&dir)?;
            }
        }
        disk::make_private_dir(&self.staging)
    }

    /// Removes the directories that only hold the staging directory, if they are empty.
    pub(super) fn remove_own_dirs(&self) -> io::Result<()> {
        self.own_dirs().iter().rev().try_for_each(|dir| disk::remove_if_empty(dir))
    }

    /// The directories between the tree and a staging directory in it, outermost first.
    fn own_dirs(&self) -> Vec<PathBuf> {
        match self.staging.starts_with(&self.path) {
            true => vec![self.path.join(OWN), self.path.join(OWN).join(NOT_SEARCHED)],
            false => Vec::new(),
        }
    }

    /// The path `<modules dir>`.
    pub(super) fn parent(&self) -> &Path {
        self.path.parent().unwrap_or(&self.path)
    }

    pub(super) fn updates(&self) -> PathBuf {
        self.path.join("updates")
    }

    pub(super) fn generation(&self, name: &str) -> PathBuf {
        self.updates().join(dir_name(name))
    }

    /// Names of all `updates/kcache-*`: one is installed, others are leftovers.
    pub(super) fn generations(&self) -> io::Result<Vec<String>> {
        let mut names = disk::names(&self.updates())?;
        names.retain(|name| name.starts_with(DIR_PREFIX));
        Ok(names)
    }

    pub(super) fn index(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The live `modules.dep.bin`; `None` if it does not exist.
    pub(super) fn dep_index(&self) -> io::Result<Option<Result<DepIndex, index::Error>>> {
        let bytes = disk::if_found(bounded_read::bytes(self.index(DEP_BIN), MOST_DATA))?;
        Ok(bytes.map(|bytes| DepIndex::parse(&bytes)))
    }

    pub(super) fn new_dir(&self) -> PathBuf {
        self.staging.join("new")
    }

    pub(super) fn new_generation(&self, name: &str) -> PathBuf {
        self.new_dir().join(dir_name(name))
    }

    /// The root directory for depmod.
    pub(super) fn base(&self) -> PathBuf {
        self.staging.join("base")
    }

    pub(super) fn base_tree(&self) -> PathBuf {
        self.base().join("usr/lib/modules").join(&self.release)
    }

    /// An empty configuration directory of depmod, for a root that has none.
    pub(super) fn depmod_dir(&self) -> PathBuf {
        self.staging.join("depmod.d")
    }

    pub(super) fn old_dir(&self) -> PathBuf {
        self.staging.join("old")
    }

    /// The kept place of foreign modules ([`super::foreign_files`]).
    pub(super) fn kept(&self) -> &Path {
        &self.kept
    }

    /// Refuses a staging directory with links in it.
    pub(super) fn check_staging(&self) -> Result<(), Error> {
        [self.new_dir(), self.old_dir(), self.base_tree()]
            .iter()
            .try_for_each(|dir| check_real(&self.staging, dir))
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.staging.join("journal.json")
    }
}

/// Whether a directory is on another file system than the one that contains it, so that nothing can be renamed between the
/// two.
fn is_mount(path: &Path) -> bool {
    let device = |path: Option<&Path>| Some(fs_err::metadata(path?).ok()?.dev());
    matches!((device(Some(path)), device(path.parent())), (Some(own), Some(above)) if own != above)
}

/// Refuses links and files in the place of directories, from below `top` down to `dir`. Under another root they may
/// lead to this machine's own files.
pub(super) fn check_real(top: &Path, dir: &Path) -> Result<(), Error> {
    let below: Vec<&Path> = dir.ancestors().take_while(|above| *above != top).collect();
    for path in below.into_iter().rev() {
        match fs_err::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(Error::NotADirectory { path: path.to_owned() }),
            // It does not exist, or this user cannot see it, and then cannot do harm.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

/// Refuses an existing directory that another user owns or can write.
fn check_private(parent: &Path, dir: &Path) -> Result<(), Error> {
    let (Ok(found), Ok(parent)) = (fs_err::symlink_metadata(dir), fs_err::metadata(parent)) else {
        return Ok(());
    };
    if found.mode() & 0o077 != 0 {
        return Err(Error::NotPrivate { path: dir.to_owned() });
    }
    // Root also works on trees of other users, for instance an unpacked image.
    let trusted = [0, parent.uid(), rustix::process::geteuid().as_raw()];
    if trusted.contains(&found.uid()) {
        Ok(())
    } else {
        Err(Error::NotOurs { path: dir.to_owned(), owner: found.uid() })
    }
}
