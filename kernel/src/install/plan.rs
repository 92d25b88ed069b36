//! Plans: what a transaction will do, as plain data. `--dry-run` prints the plan that is applied otherwise.

use std::collections::BTreeSet;

use super::fault::Fault;
use super::foreign_files::ForeignFiles;
use super::generation::{Generation, Installed, InstalledPackage, Set};
use super::tree::{DEP_BIN, Tree};
use super::verify::{Base, base, verify};
use super::{Error, disk};
use crate::modules_dir::ModulesDir;
use crate::signing::Identity;

/// What a transaction will do for one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstallPlan {
    /// Release of the kernel.
    pub kernel: String,
    /// Name of the generation that is installed now.
    pub from: Option<String>,
    /// Name of the generation to install; `None` if the last package is removed.
    pub to: Option<String>,
    /// A change for each package, sorted by name.
    pub changes: Vec<PackageChange>,
    /// Faults of the installed generation that will be repaired.
    pub faults: Vec<Fault>,
    /// Whether depmod will certainly run.
    pub depmod: bool,
    /// Changes of foreign modules.
    pub others: ForeignFiles,
    /// The set to install, sorted.
    pub(super) wanted: Set,
}

impl InstallPlan {
    /// The plan with foreign modules taken over, deleted or given back, see [`ForeignFiles`].
    pub fn with(self, tree: impl Into<ModulesDir>, others: ForeignFiles) -> Result<Self, Error> {
        let others = others.checked(&Tree::open(tree)?, &self.wanted)?;
        let depmod = self.depmod || !others.is_nothing();
        Ok(Self { depmod, others, ..self })
    }

    /// Whether nothing has to be changed.
    pub fn is_nothing(&self) -> bool {
        self.from == self.to && self.faults.is_empty() && self.others.is_nothing()
    }

    /// The signer of the modules after the transaction.
    pub fn signer(&self) -> Option<&Identity> {
        self.wanted.signer.as_ref()
    }
}

/// What happens to one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageChange {
    /// Name of the package.
    pub package: String,
    /// The kind of change.
    pub act: Act,
    /// The installed version, if any.
    pub from: Option<String>,
    /// The wanted version, if any.
    pub to: Option<String>,
}

/// The kind of a [`PackageChange`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It was not installed.
    Add,
    /// Install another version, or another build of the same version.
    Replace,
    /// The modules stay as they are.
    Keep,
    /// The same modules, signed by another signer, or unsigned.
    Sign,
    /// It is installed and no longer wanted.
    Remove,
}

/// Plans to have exactly this set installed. Changes nothing and takes no lock. An empty set removes everything of
/// kcache's.
///
/// # Errors
///
/// As [`Set::checked`]; [`Error::Newer`] if a newer kcache installed the present generation.
pub fn plan(tree: impl Into<ModulesDir>, wanted: Set) -> Result<InstallPlan, Error> {
    let tree = tree.into();
    plan_upon(&tree, base(&tree)?, wanted)
}

/// Like [`plan`], if the installed generation has been determined already.
pub fn plan_upon(tree: impl Into<ModulesDir>, base: Base, wanted: Set) -> Result<InstallPlan, Error> {
    let wanted = wanted.checked()?;
    let dir = tree.into();
    let Base { generation: installed, fault, .. } = base;
    let faults = match &installed {
        Some(generation) => verify(&dir, generation)?,
        None => Vec::from_iter(fault),
    };
    let tree = Tree::open(&dir)?;
    let mut plan = InstallPlan {
        kernel: tree.release.clone(),
        from: installed.as_ref().map(|generation| generation.generation.clone()),
        to: (!wanted.packages.is_empty()).then(|| wanted.generation_name()),
        changes: changes(installed.as_ref(), &wanted),
        faults,
        depmod: false,
        others: ForeignFiles::Untouched,
        wanted,
    };
    let takes_indexes_away = match &installed {
        Some(generation) if plan.to.is_none() => made_all_indexes(&tree, generation)?,
        _ => false,
    };
    plan.depmod = !plan.is_nothing() && !takes_indexes_away;
    Ok(plan)
}

/// Whether there were no indexes before kcache, and nobody ran depmod since: then they are deleted with the last
/// package.
pub(super) fn made_all_indexes(tree: &Tree, installed: &Generation) -> Result<bool, Error> {
    let first = installed.created.indexes.iter().any(|name| name == DEP_BIN);
    Ok(first && disk::digest(&tree.index(DEP_BIN))? == Some(installed.index))
}

fn changes(installed: Option<&Generation>, wanted: &Set) -> Vec<PackageChange> {
    let now: &[InstalledPackage<Installed>] = installed.map_or(&[], |generation| &generation.set.packages);
    // Another compression or signer gives other files of the same modules.
    let same_compression = installed.is_some_and(|g| g.set.compression == wanted.compression);
    let same_signer = installed.is_some_and(|g| g.set.signer == wanted.signer);
    let names: BTreeSet<&str> =
        now.iter().map(|p| p.name.as_str()).chain(wanted.packages.iter().map(|p| p.name.as_str())).collect();
    let change = |name: &str| {
        let from = now.iter().find(|p| p.name == name);
        let to = wanted.packages.iter().find(|p| p.name == name);
        let act = match (from, to) {
            (None, _) => Act::Add,
            (_, None) => Act::Remove,
            (Some(from), Some(to)) if same_compression && is_same(from, to) => {
                if same_signer {
                    Act::Keep
                } else {
                    Act::Sign
                }
            }
            _ => Act::Replace,
        };
        let (from, to) = (from.map(|p| p.version.clone()), to.map(|p| p.version.clone()));
        PackageChange { package: name.to_owned(), act, from, to }
    };
    names.into_iter().map(change).collect()
}

fn is_same(now: &InstalledPackage<Installed>, wanted: &InstalledPackage) -> bool {
    (&now.version, &now.key) == (&wanted.version, &wanted.key)
        && now.modules.iter().map(|module| &module.spec).eq(&wanted.modules)
}
