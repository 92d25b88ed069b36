//! Verifies installed modules byte by byte, and restores them from the store.
//!
//! It computes no key and builds nothing. It does not ask whether modules are up to date ([`crate::verdict`]), only whether they
//! are what was installed.

use kcache_kernel::install::{self, Base, Error as InstallError, Fault, ModulesDir};
use kcache_kernel::kernels::{self, Kernel};

use crate::deploy::generation::{self, SetChange, apply};
use crate::error::{Error, Result};
use crate::run::context::Context;
use crate::run::session::Session;

/// The faults of one kernel's installed set.
#[derive(Debug)]
pub struct Damage {
    /// Release of the kernel.
    pub release: String,
    /// Path of its tree.
    pub tree: ModulesDir,
    /// The faults as text, each with its path.
    pub wrong: Vec<String>,
    /// Whether the installed set is known, so that it can be restored.
    pub known: bool,
}

/// Verifies every kernel under the root; returns how many have modules of kcache's, and the faults.
pub fn installed(context: &Context) -> Result<(u64, Vec<Damage>)> {
    let (mut seen, mut found) = (0, Vec::new());
    for tree in kernels::trees(&context.root)? {
        if context.services.cancelled() {
            return Err(Error::Cancelled);
        }
        let Some((known, wrong)) = examine(context, &tree)? else { continue };
        seen += 1;
        if !wrong.is_empty() {
            found.push(Damage { release: tree.release().to_owned(), tree, wrong, known });
        }
    }
    Ok((seen, found))
}

/// Whether the installed set of a tree is known, and its faults; `None` if nothing is installed.
fn examine(context: &Context, tree: &ModulesDir) -> Result<Option<(bool, Vec<String>)>> {
    let mut wrong = Vec::new();
    if install::interrupted(tree)? {
        wrong.push(format!("{}: an installation was interrupted", tree.display()));
    }
    let Base { generation: installed, fault, .. } = install::base(tree)?;
    if let Some(fault) = fault {
        wrong.push(fault.to_string());
        return Ok(Some((false, wrong)));
    }
    let Some(installed) = installed else {
        return Ok((!wrong.is_empty()).then_some((true, wrong)));
    };
    let faults = install::verify(tree, &installed)?;
    let of_indexes = install::verify_indexes(tree)?;
    // An unreadable index is among both.
    let more = of_indexes.iter().filter(|fault| !is_reported(&faults, fault));
    wrong.extend(faults.iter().chain(more).map(ToString::to_string));
    if wrong.is_empty() {
        wrong.extend(indexes(context, tree)?);
    }
    Ok(Some((true, wrong)))
}

/// Faults of the indexes if everything else is intact: missing modules have no index entries.
fn indexes(context: &Context, tree: &ModulesDir) -> Result<Vec<String>> {
    match generation::compare_indexes(context, tree) {
        Ok(faults) => Ok(faults.iter().map(ToString::to_string).collect()),
        Err(Error::Install(error @ (InstallError::Depmod { .. } | InstallError::NoDepmod { .. }))) => {
            Ok(vec![crate::error::chain(&error)])
        }
        Err(error) => Err(error),
    }
}

fn is_reported(faults: &[Fault], fault: &Fault) -> bool {
    let path = |fault: &Fault| match fault {
        Fault::Index { path, .. } | Fault::NoIndex { path, .. } => Some(path.clone()),
        _ => None,
    };
    faults.iter().any(|told| path(told) == path(fault))
}

/// Recovers an interrupted run and installs the same set again; returns the remaining faults.
pub fn repair(session: &Session, kernel: &Kernel, damage: &Damage) -> Result<Vec<String>> {
    generation::recover(session.context, &damage.tree)?;
    if install::current(&damage.tree)?.is_some() {
        apply(session, kernel, &SetChange::Add(&[]))?;
        let is_sound = install::verify_indexes(&damage.tree)?.is_empty();
        if !is_sound || !generation::compare_indexes(session.context, &damage.tree)?.is_empty() {
            generation::remake_indexes(session.context, &damage.tree)?;
        }
    }
    Ok(examine(session.context, &damage.tree)?.map_or(Vec::new(), |(_, wrong)| wrong))
}

/// The kernel of a tree.
pub fn kernel(context: &Context, release: &str) -> Result<Kernel> {
    kernels::of_release(&context.root, release)?.ok_or_else(|| Error::NotInstalled {
        release: release.to_owned(),
        root: context.root.dir().to_owned(),
    })
}
