//! "May I reboot into K?": the state of each wanted package for each kernel, from what is on disk.
//!
//! ```text
//! outdated     ready, and a shared cache has a newer build; known only if caches were asked ([`remote`])
//! ready        installed, intact, loadable, and up to date; or up to date except for another compiler
//! missing      not installed, though perhaps built
//! stale        installed, but an input has changed since; or the initramfs holds another build of it
//! fails        does not build, or its recipe or compiler cannot be read
//! excluded     not meant for this kernel
//! broken       installed, and the kernel would not load it: bytes, indexes, vermagic, symbols, signature
//! no-headers   not installed, and cannot be built without headers
//! ```
//!
//! Installed files are checked as they are (`installed`); the inputs are computed as for an install, and compared. Nothing is
//! built, fetched or changed. The policy decides whether a package counts: a kernel is ready if no required package is in a
//! state that is worse than a reboot without kcache.

pub mod boot_test;
pub mod in_initramfs;
mod installed;
pub mod provenance;
pub mod ready_file;
pub mod remote;
pub mod state;

use std::collections::BTreeSet;

use kcache_kernel::kernels::{self, BuildTree, Kernel};
use kcache_kernel::module_name::ModuleName;
use kcache_kernel::packages::Package;
use kcache_kernel::recipe::{Modules, Recipe};
use kcache_kernel::signing::Identity;
use kcache_store::{Entry, Key, Manifest, Outcome};

use crate::error::Result;
use crate::inputs::change::{InputChange, listed};
use crate::inputs::difference::{Difference, differences};
use crate::inputs::identify;
use crate::inputs::identify::Identified;
use crate::inputs::{key, kin, version};
use crate::resolve::local;
use crate::resolve::{self, by_kin, conflicts};
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
        let request = version::request(session, packages, package, kernel);
        let version = request.package.version.clone();
        Standing { version, ..standing(session, &request, &installed, packages.named) }
    };
    let mut standings: Vec<Standing> = chosen.iter().map(standing).collect();
    name_conflicts(session, packages, chosen, kernel, &mut standings);
    let needs_foreign = session.context.policy.needs_foreign;
    let blocked = standings.iter().any(Standing::blocks)
        || (needs_foreign && installed.foreign.iter().any(|foreign| foreign.fault.is_some()));
    let generation = installed.generation;
    let unresolved = session.context.elsewhere.unresolved.iter().filter(|_| !packages.named);
    let warnings: Vec<String> = installed.warnings.into_iter().chain(unresolved.cloned()).collect();
    Verdict {
        kernel,
        ready: !blocked && (packages.named || session.context.elsewhere.unresolved.is_none()),
        signer: generation.as_ref().and_then(|generation| generation.set.signer.clone()),
        generation: generation.map(|generation| generation.generation),
        standings,
        foreign: installed.foreign,
        warnings,
        details: installed.details,
    }
}

/// What is missing because another package has a module of the same name stays so until somebody decides.
fn name_conflicts(
    session: &Session,
    packages: &Packages,
    chosen: &[Package],
    kernel: &Kernel,
    standings: &mut [Standing],
) {
    let arriving = chosen.iter().zip(&*standings).filter(|(_, standing)| !standing.modules.is_empty());
    let arriving: Vec<_> =
        arriving.map(|(package, standing)| (package.name.clone(), standing.modules.clone())).collect();
    let refused = conflicts::refused(session, packages, kernel, &arriving);
    for (package, standing) in chosen.iter().zip(standings) {
        if let Some(error) = refused.get(&package.name) {
            standing.reason = Some(error.to_string());
        }
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
            None if error.lacks_tools() => {
                Standing::because(State::Missing, format!("nothing can be built here: {reason}"))
            }
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
        let considered = version::considered(session, request, tree);
        let each: Vec<String> =
            considered.iter().map(|(version, reason)| format!("{version}: {reason}")).collect();
        let mut reason = if each.is_empty() { reason.clone() } else { each.join("; ") };
        if let Some(version) = installed.version(name) {
            reason.push_str(&format!("; {version} is still installed"));
        }
        return Ok(Standing::because(State::Excluded, reason));
    }
    match key {
        Some(key) if key == id.key.to_string() => {
            Ok(Standing { built: true, ..Standing::new(State::Ready, None) })
        }
        Some(key) => compare(session, request, tree, &id, key),
        None if !named && !id.recipe.automatic => {
            Ok(Standing::because(State::Excluded, "not installed automatically"))
        }
        None => not_installed(session, request, tree, &id, installed),
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
        return Standing::because(State::NoHeaders, format!("{}: {hint}", request.kernel.why_no_headers()));
    }
    if named || session.context.elsewhere.wanted.contains(&request.package.name) {
        return Standing::because(
            State::Missing,
            "no source on this machine; `kcache install` fetches the build if a cache has it",
        );
    }
    Standing::because(State::Excluded, "no source on this machine, and not in the setting `packages`")
}

/// The installed build has another key: which inputs have changed, and whether that matters. It does not where only tools changed, and
/// not where a build of today's inputs came to the same modules.
fn compare(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
    key: &str,
) -> Result<Standing> {
    let look = |key: &Key| session.store.as_ref().and_then(|store| store.lookup(key).ok().flatten());
    let before = key.parse().ok().and_then(|key| look(&key)).map(Entry::into_manifest);
    let tools = before.as_ref().map_or(Vec::new(), |before| changes(&kin::tools(&before.fields, &id.fields)));
    if before.as_ref().is_some_and(|before| key::kin(&before.fields) == id.kin) {
        return Ok(Standing { built: true, tools_changed: tools, ..Standing::new(State::Ready, None) });
    }
    let today = match look(&id.key).map(Entry::into_manifest) {
        Some(today) => Some(Box::new(today)),
        None => by_kin::find(session, request, tree, id)?,
    };
    let built = today.is_some();
    let installed = session.installed(request.kernel);
    let is_as_installed = |today: &Manifest| {
        let packages = installed.iter().flat_map(|generation| generation.wanted().packages);
        packages.into_iter().any(|package| package.key == key && package.modules == local::modules(today))
    };
    if today.as_deref().is_some_and(is_as_installed) {
        return Ok(Standing { built, tools_changed: tools, ..Standing::new(State::Ready, None) });
    }
    let Some(before) = before else {
        let reason = "inputs have changed; which ones is unknown, because the store has no entry for the installed build";
        return Ok(Standing { built, ..Standing::because(State::Stale, reason) });
    };
    let mut changed = changes(&differences(&before.fields, &id.fields));
    changed.retain(|change| !change.is_tool());
    let reason = format!("changed: {}", listed(&changed));
    Ok(Standing { built, changed, tools_changed: tools, ..Standing::because(State::Stale, reason) })
}

fn changes(differences: &[Difference]) -> Vec<InputChange> {
    differences.iter().map(|difference| difference.field.clone()).collect()
}

fn not_installed(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
    installed: &Installed,
) -> Result<Standing> {
    let entry = match &session.store {
        Some(store) => store.lookup(&id.key)?.map(kcache_store::Entry::into_manifest),
        None => None,
    };
    let known = match entry.filter(|known| local::fits(session, request, id, known)) {
        Some(known) => Some(known),
        None => by_kin::find(session, request, tree, id)?.map(|known| *known),
    };
    if let Some(known) = &known
        && local::is_advice(session, known)?
    {
        return Ok(Standing::new(State::Missing, local::advice(known)));
    }
    if known.as_ref().is_some_and(|known| resolve::is_outdated(id, known)) {
        return Ok(Standing::because(
            State::Missing,
            "what its build did not find is there now; not tried again yet",
        ));
    }
    let modules = known.as_ref().map(conflicts::modules).unwrap_or_default();
    let standing = match known.map(|known| known.outcome) {
        None => Standing {
            modules: listed_modules(&id.recipe),
            ..Standing::new(State::Missing, installed.why_missing())
        },
        Some(Outcome::Built) => {
            let reason = installed.why_missing().unwrap_or_else(|| "built, not installed".to_owned());
            Standing { built: true, modules, ..Standing::because(State::Missing, reason) }
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

/// The modules that a recipe lists; none where it takes what is built.
fn listed_modules(recipe: &Recipe) -> BTreeSet<ModuleName> {
    match &recipe.modules {
        Modules::Listed(modules) => modules.iter().map(|module| ModuleName::new(&module.name)).collect(),
        Modules::Found => BTreeSet::new(),
    }
}
