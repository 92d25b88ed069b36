//! The package's part of a key: its source, and the administrator's overrides.

use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache_kernel::native;
use kcache_kernel::packages::{Package, RecipeFile};
use kcache_kernel::recipe::Recipe;
use kcache_kernel::rust;
use kcache_store::{Digest, Fingerprint, tree};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run::sandbox;
use crate::run::session::{Session, Signature};

/// What a package's files say of further inputs of its builds.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Traits {
    /// Flags make compilers ask for the CPU.
    pub(super) asks_cpu: bool,
    /// There is Rust in it.
    pub(super) rust: bool,
}

impl Session<'_> {
    /// The fingerprint of a package's source at its first use in this run.
    pub fn seen_source(&self, package: &Package) -> Result<Fingerprint> {
        Ok(self.seen.fingerprint(self.store.as_ref(), &[root_of_source(package)], self.context.now())?)
    }

    /// The fingerprint of a package's source now.
    pub fn source(&self, package: &Package) -> Result<Fingerprint> {
        Ok(tree::fingerprint(self.store.as_ref(), &[root_of_source(package)], self.context.now())?)
    }

    /// An error if a package's source has file names that are not UTF-8.
    pub fn check_names(&self, package: &Package) -> Result<()> {
        self.checked.get(&package.source, || check_names(&package.source))
    }

    /// Tree digest of the administrator's patches and scripts for a package with a `dkms.conf`, if any.
    pub fn overrides(&self, package: &Package) -> Result<Option<Digest>> {
        let dir = match package.recipe {
            RecipeFile::Dkms => self.context.root.find(sandbox::overrides_dir(package)),
            _ => None,
        };
        let Some(path) = dir.filter(|path| path.is_dir()) else { return Ok(None) };
        let root = tree::TreeRoot { path, label: String::new(), skip: Vec::new(), programs: false };
        Ok(Some(tree::tree_digest(self.store.as_ref(), &[root], self.context.now())?))
    }

    /// What the source, the administrator's files and the recipe say of further inputs.
    pub(super) fn traits(
        &self,
        package: &Package,
        source: Digest,
        overrides: Option<Digest>,
        recipe: &Recipe,
    ) -> Result<Traits> {
        let mut signature = Signature::new("traits 1");
        signature.digest(source).text(&overrides.map_or(String::new(), |digest| digest.to_string()));
        let found: Traits = self.remembered("traits", &signature.finish(), || {
            let dir = overrides.and_then(|_| self.context.root.find(sandbox::overrides_dir(package)));
            let theirs = dir.map(|dir| native::uses(&dir)).transpose()?.unwrap_or_default();
            let asks_cpu = !theirs.is_empty() || !native::uses(&package.source)?.is_empty();
            Ok(Traits { asks_cpu, rust: rust::is_in_source(&package.source)? })
        })?;
        let in_recipe = recipe.steps.iter().any(|step| !native::in_text(&step.command).is_empty());
        Ok(Traits { asks_cpu: found.asks_cpu || in_recipe, ..found })
    }

    /// Checks that a package's source was not changed since it had this fingerprint.
    pub(super) fn still(&self, package: &Package, source: Fingerprint) -> Result<()> {
        if source.is_unwritten(&self.source(package)?) {
            return Ok(());
        }
        Err(Error::Changed { what: format!("the source of {}", package.name) })
    }
}

fn root_of_source(package: &Package) -> tree::TreeRoot {
    tree::TreeRoot {
        path: package.source.clone(),
        label: String::new(),
        skip: vec![".git".to_owned()],
        programs: false,
    }
}

/// Refuses a source tree with a file name that is not UTF-8, because recipes, logs and entries are text.
fn check_names(source: &Path) -> Result<()> {
    let mut directories = vec![PathBuf::from(source)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_str().is_none() {
                return Err(Error::NotUtf8 { path: entry.path() });
            }
            if entry.file_type()?.is_dir() && entry.file_name() != ".git" {
                directories.push(entry.path());
            }
        }
    }
    Ok(())
}
