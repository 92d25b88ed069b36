//! "May I reboot into K?": the verdict on each wanted package for each kernel, from what is on disk.
//!
//! ```text
//! ready        installed, intact, loadable, and up to date; a changed compiler alone does not matter
//! missing      not installed, though perhaps built
//! stale        installed, but an input has changed since, or the initramfs contains another build of it
//! fails        does not build, or cannot be evaluated
//! excluded     does not support this kernel
//! broken       installed, but the kernel would not load it: bytes, indexes, vermagic, symbols, signature
//! no-headers   not installed, and without headers nothing can be built
//! ```
//!
//! Installed modules are checked on disk (`installed`); what would be built now is determined as for an install, and
//! compared. Nothing is built, fetched or changed. The policy decides whether a package counts: a kernel is ready if
//! no required package is in a bad state.

pub mod boot_test;
mod installed;
pub mod provenance;
pub mod ready_file;
pub mod state;

use kcache_kernel::kernels::{self, Kernel};
use kcache_kernel::packages::Package;
use kcache_kernel::signing::Identity;
use kcache_store::{Entry, Manifest, Outcome};

use crate::error::Result;
use crate::inputs::change::{InputChange, listed};
use crate::inputs::explain;
use crate::inputs::identify;
use crate::inputs::identify::Identified;
use crate::resolve::local;
use crate::run::policy::Need;
use crate::run::request::Request;
use crate::run::select::Packages;
use crate::run::session::Session;
use crate::verdict::state::Foreign;
use crate::verdict::state::Standing;
use crate::verdict::state::State;
use installed::Installed;

/// The verdict on one kernel.
pub struct Verdict<'a> {
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Whether all required packages are in a good state.
    pub ready: bool,
    /// Name of the installed generation.
    pub generation: Option<String>,
    /// The signer of its modules.
    pub signer: Option<Identity>,
    /// The standing of each package of the survey, in its order.
    pub standings: Vec<Standing>,
    /// Foreign modules.
    pub foreign: Vec<Foreign>,
    /// Warnings about the kernel itself.
    pub warnings: Vec<String>,
    /// What could not be checked, for verbose output.
    pub details: Vec<String>,
}

/// The verdicts on several kernels.
pub struct Survey<'a> {
    /// The selected packages, and others that are installed.
    pub packages: Vec<Package>,
    /// A verdict for each kernel.
    pub verdicts: Vec<Verdict<'a>>,
}

impl Survey<'_> {
    /// Whether every kernel is ready.
    pub fn is_ready(&self) -> bool {
        self.verdicts.iter().all(|verdict| verdict.ready)
    }
}

/// Determines the state of packages for kernels.
pub fn survey<'a>(session: &Session, packages: &Packages, kernels: &'a [Kernel]) -> Result<Survey<'a>> {
    let installed =
        kernels.iter().map(|kernel| Installed::read(session, kernel)).collect::<Result<Vec<_>>>()?;
    let mut chosen = packages.chosen.clone();
    if !packages.named {
        chosen.extend(orphans(&chosen, &installed));
    }
    let verdicts = kernels
        .iter()
        .zip(installed)
        .map(|(kernel, installed)| verdict(session, packages, &chosen, kernel, installed))
        .collect();
    Ok(Survey { packages: chosen, verdicts })
}

/// Packages that are installed for one of the kernels, but have no source on this machine any more.
fn orphans(chosen: &[Package], installed: &[Installed]) -> Vec<Package> {
    let mut names: Vec<&str> = installed.iter().flat_map(Installed::packages).collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| !chosen.iter().any(|package| package.name == *name));
    names.into_iter().map(Package::elsewhere).collect()
}

fn verdict<'a>(
    session: &Session,
    packages: &Packages,
    chosen: &[Package],
    kernel: &'a Kernel,
    installed: Installed,
) -> Verdict<'a> {
    let standing = |package: &Package| {
        standing(session, &Request { package, kernel, all: &packages.all }, &installed, packages.named)
    };
    let standings: Vec<Standing> = chosen.iter().map(standing).collect();
    let needs_foreign = session.context.policy.needs_foreign;
    let blocked = standings.iter().any(Standing::blocks)
        || (needs_foreign && installed.foreign.iter().any(|foreign| foreign.fault.is_some()));
    let generation = installed.generation;
    Verdict {
        kernel,
        ready: !blocked,
        signer: generation.as_ref().and_then(|generation| generation.set.signer.clone()),
        generation: generation.map(|generation| generation.generation),
        standings,
        foreign: installed.foreign,
        warnings: installed.warnings,
        details: installed.details,
    }
}

/// The standing of a package for a kernel. If packages were not named, those that are not installed automatically are
/// not missing.
fn standing(session: &Session, request: &Request, installed: &Installed, named: bool) -> Standing {
    let need = session.context.policy.need(&request.package.name, &request.kernel.release);
    if need == Need::Ignored && !named {
        return Standing { need, ..Standing::because(State::Excluded, "ignored by a policy") };
    }
    let standing = judge(session, request, installed, named).unwrap_or_else(|error| {
        let reason = crate::error::chain(&error);
        match installed.key(&request.package.name) {
            None => Standing::because(State::Fails, reason),
            Some(_) if error.lacks_tools() => {
                Standing::because(State::Ready, format!("inputs not compared: {reason}"))
            }
            Some(_) => {
                Standing { changed: vec![InputChange::Recipe], ..Standing::because(State::Stale, reason) }
            }
        }
    });
    Standing { need, ..standing }
}

fn judge(session: &Session, request: &Request, installed: &Installed, named: bool) -> Result<Standing> {
    let name = &request.package.name;
    if let Some(fault) = installed.fault(name) {
        return Ok(Standing::because(State::Broken, fault));
    }
    let key = installed.key(name);
    if let Some(stale) = key.and_then(|_| installed.outdated(name)) {
        return Ok(stale);
    }
    let Some(tree) = request.kernel.build_tree().filter(|_| request.package.has_source()) else {
        return Ok(without_inputs(session, request, key.is_some(), named));
    };
    let id = identify::identify(session, request, tree)?;
    if let Some(reason) = &id.recipe.excluded {
        return Ok(Standing::because(State::Excluded, reason));
    }
    match key {
        Some(key) if key == id.key.to_string() => {
            Ok(Standing { built: true, ..Standing::new(State::Ready, None) })
        }
        Some(key) => {
            let built =
                session.store.as_ref().is_some_and(|store| matches!(store.lookup(&id.key), Ok(Some(_))));
            Ok(Standing { built, ..compare(session, &id, key) })
        }
        None if !named && !id.recipe.automatic => {
            Ok(Standing::because(State::Excluded, "not installed automatically"))
        }
        None => not_installed(session, request, &id, installed),
    }
}

/// The standing of a package whose key cannot be computed, for lack of headers or source.
fn without_inputs(session: &Session, request: &Request, is_installed: bool, named: bool) -> Standing {
    let has_source = request.package.has_source();
    let lacks = if has_source { "headers" } else { "source" };
    if is_installed {
        return Standing::because(State::Ready, format!("inputs not compared: no {lacks}"));
    }
    if has_source {
        let hint = kernels::headers_hint(&session.context.root, &request.kernel.release);
        return Standing::because(State::NoHeaders, format!("no headers installed: {hint}"));
    }
    if named || session.context.elsewhere.wanted.contains(&request.package.name) {
        return Standing::because(
            State::Missing,
            "no source on this machine; `kcache install` fetches the build if a cache has it",
        );
    }
    Standing::because(State::Excluded, "no source on this machine, and not in the setting `packages`")
}

/// The installed build has another key: determines the changed inputs.
fn compare(session: &Session, id: &Identified, key: &str) -> Standing {
    let known: Option<Manifest> = match (&session.store, key.parse()) {
        (Some(store), Ok(key)) => store.lookup(&key).ok().flatten().map(Entry::into_manifest),
        _ => None,
    };
    let Some(before) = known else {
        let reason = "inputs have changed; which ones is unknown, because the store has no entry for the installed build";
        return Standing::because(State::Stale, reason);
    };
    let differences = explain::differences(&before.fields, &id.fields);
    let changed: Vec<InputChange> = differences.into_iter().map(|difference| difference.field).collect();
    let state = if changed.iter().all(InputChange::is_tool) { State::Ready } else { State::Stale };
    let reason = format!("changed: {}", listed(&changed));
    Standing { changed, ..Standing::because(state, reason) }
}

fn not_installed(
    session: &Session,
    request: &Request,
    id: &Identified,
    installed: &Installed,
) -> Result<Standing> {
    let entry = match &session.store {
        Some(store) => store.lookup(&id.key)?.map(kcache_store::Entry::into_manifest),
        None => None,
    };
    let known = entry.filter(|known| local::fits(session, request, id, known));
    if let Some(known) = &known
        && local::is_advice(session, known)?
    {
        return Ok(Standing::new(State::Missing, local::advice(known)));
    }
    let standing = match known.map(|known| known.outcome) {
        None => Standing::new(State::Missing, installed.why_missing()),
        Some(Outcome::Built) => {
            let reason = installed.why_missing().unwrap_or_else(|| "built, not installed".to_owned());
            Standing { built: true, ..Standing::because(State::Missing, reason) }
        }
        Some(Outcome::Failed { first_error, .. }) => {
            // Paths in a build's messages begin with the build directory, which is removed.
            let Package { name, version, .. } = request.package;
            let reason = first_error.replace(&format!("/var/lib/dkms/{name}/{version}/build/"), "");
            Standing { built: true, ..Standing::because(State::Fails, reason) }
        }
    };
    Ok(standing)
}
