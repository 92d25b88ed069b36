//! Paths of the kernel's tree and of the staging directory beside it.

use crate::bounded_read::{self, MOST_DATA};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::names::{DIR_PREFIX, dir_name};
use super::{Error, disk};
use crate::index::{self, DepIndex};

/// The index whose rename is the commit, because modprobe resolves modules with it alone.
pub(super) const DEP_BIN: &str = "modules.dep.bin";

/// One kernel's tree, `<modules dir>/<release>`.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) path: PathBuf,
    pub(super) release: String,
    /// Beside the tree, so that a rename from one to the other is atomic.
    pub(super) staging: PathBuf,
}

impl Tree {
    /// A tree that must exist.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let tree = Self::named(path)?;
        if !path.is_dir() {
            return Err(Error::NoTree { path: path.to_owned() });
        }
        Ok(tree)
    }

    /// A tree that may have been removed.
    pub(super) fn named(path: &Path) -> Result<Self, Error> {
        let release = path.file_name().and_then(|name| name.to_str());
        let release = release.ok_or_else(|| Error::NoTree { path: path.to_owned() })?.to_owned();
        let staging = path.with_file_name(format!(".kcache-{release}"));
        let tree = Self { path: path.to_owned(), release, staging };
        check_real(&tree.path, &tree.updates())?;
        for dir in [&tree.staging, &tree.kept()] {
            check_real(tree.parent(), dir)?;
            check_private(tree.parent(), dir)?;
        }
        Ok(tree)
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
    pub(super) fn kept(&self) -> PathBuf {
        self.path.with_file_name(format!(".kcache-{}.adopted", self.release))
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
