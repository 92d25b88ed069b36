//! Obtaining a package's modules for a kernel: found in the local store, fetched from a shared cache, or built.
//!
//! ```text
//! identify        source, recipe, kernel, tools  ->  key                    (inputs)
//! local           an entry for the key, its objects intact, or a remembered failure
//! by_key          the same from a shared cache, into the store
//! by_kin          a build of the same thing by other tools: installed, in the store, in a shared cache
//! by_pointer      without a key: the entry that a builder points to for exactly this kernel
//! build           under the key's lock; headers and tools must not have changed meanwhile
//! check_modules   every module against the kernel; only then are objects and entry published
//! conflicts       of packages with modules of one name, those that cannot be installed
//! ```
//!
//! A failure counts if this host determined it, or if nothing is to be built here. A failure that only others signed
//! is advice: it is reported, and the build is tried once. Two processes that need the same key build it once: the
//! second waits for the lock and then finds the entry. Corrupt data in the store is reported, deleted, and fetched or
//! built again. After a crash, the next build deletes the scratch directory.

pub mod batch;
mod build_times;
pub mod by_key;
pub mod by_kin;
pub mod by_pointer;
pub mod conflicts;
pub mod elsewhere;
pub mod lack;
pub mod local;
pub mod log;
pub mod publish;
pub mod reproduce;
pub mod resolution;
pub mod schedule;

use std::time::{Duration, Instant};

use kcache_kernel::kernels::{BuildTree, Headers};
use kcache_kernel::ko::ModuleFault;
use kcache_store::{Manifest, Outcome, Store};

use crate::build::check_modules::{self, Outputs};
use crate::build::dependencies::{self, Dependency};
use crate::build::{self, BuildResult, How};
use crate::error::{Error, Result};
use crate::inputs::identify::{self, Identified};
use crate::inputs::undeclared;
use crate::resolve::resolution::Lookup;
use crate::resolve::resolution::Missing;
use crate::resolve::resolution::Resolution;
use crate::run::request::Options;
use crate::run::request::Request;
use crate::run::request::Source;
use crate::run::session::Session;
use crate::shell::word;

/// After waiting this long for its turn, a build may be in a shared cache.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// A package's modules for a kernel, built if necessary. The result is counted.
pub fn obtain(session: &Session, request: &Request, options: &Options) -> Result<Resolution> {
    match look(session, request, options)? {
        Lookup::Answered(answer) => Ok(answer),
        Lookup::Missing(missing) => build(session, request, *missing, options),
    }
}

/// Looks up a request in the store and in shared caches. A hit is counted.
pub fn look<'a>(session: &Session, request: &Request<'a>, options: &Options) -> Result<Lookup<'a>> {
    let looked = search(session, request, options)?;
    if let Lookup::Answered(answer) = &looked {
        session.counters.note(&request.name(), &answer.answered(), !options.rebuild);
    }
    Ok(looked)
}

/// Builds what a look-up has not found, unless another process built it meanwhile. The result is counted.
pub fn build(
    session: &Session,
    request: &Request,
    missing: Missing,
    options: &Options,
) -> Result<Resolution> {
    // What is built is built against exactly what its key says.
    let needed = have(session, request, &missing.id, &Options { exact_tools: true, ..*options })?;
    let answer = have_once(session, request, &missing, &needed, options)?;
    session.counters.note(&request.name(), &answer.answered(), !options.rebuild);
    Ok(answer)
}

fn search<'a>(session: &Session, request: &Request<'a>, options: &Options) -> Result<Lookup<'a>> {
    let answered = |answer| Ok(Lookup::Answered(answer));
    let tree = match &request.kernel.headers {
        Headers::Present(tree) if request.package.has_source() => tree,
        _ => return answered(by_pointer::unidentified(session, request)?),
    };
    session.check_names(request.package)?;
    let id = match identify::identify(session, request, tree) {
        // A host that never compiles does not need a compiler.
        Err(error) if error.lacks_tools() => {
            return match by_pointer::unidentified(session, request)? {
                Resolution::NoHeaders(_) => Err(error),
                answer => answered(answer),
            };
        }
        id => id?,
    };
    for note in &id.recipe.notes {
        session.context.progress().detail(&format!("{}: {note}", request.package.name));
    }
    if options.automatic_only && !id.recipe.automatic {
        return answered(Resolution::NotAutomatic);
    }
    if let Some(reason) = &id.recipe.excluded {
        return answered(Resolution::Excluded(reason.clone()));
    }
    if !options.rebuild {
        if let Some(answer) = answer(session, request, tree, &id, options)? {
            return answered(answer);
        }
        if !options.exact_tools
            && let Some(answer) = by_kin::installed(session, request, tree, &id)?
        {
            return answered(answer);
        }
        if !session.context.caches().is_empty() {
            let store = session.store.as_ref().ok_or(Error::NoStore)?;
            let _lock = local::lock(session, store, &id.key)?;
            if let Some(answer) = look_further(session, store, request, tree, &id, options, true)? {
                return answered(answer);
            }
        }
        if !options.exact_tools {
            if let Some(answer) = by_kin::stored(session, request, tree, &id)? {
                return answered(answer);
            }
            if let Some(answer) = by_kin::pointed_to(session, request, tree, &id)? {
                return answered(answer);
            }
        }
    }
    if options.fetch_only {
        return answered(Resolution::NotCached);
    }
    Ok(Lookup::Missing(Box::new(Missing { tree, id, asked: Instant::now() })))
}

/// The resolution from the store, with these options.
fn answer(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
    options: &Options,
) -> Result<Option<Resolution>> {
    match look_up(session, request, tree, id)? {
        Some(Resolution::Fails { manifest, .. }) if !options.fetch_only && is_outdated(id, &manifest) => {
            let found = build::found_since(&manifest, &id.facts.tools_root);
            let found = found.map_or(String::new(), |sought| sought.text());
            session
                .report_once(&format!("{}: failed for want of {found}, which is there now", request.name()));
            Ok(None)
        }
        Some(Resolution::Fails { manifest, .. })
            if !options.fetch_only && local::is_advice(session, &manifest)? =>
        {
            let advice = local::advice(&manifest).unwrap_or_default();
            session.report_once(&format!("{}: {advice}", request.name()));
            Ok(None)
        }
        answer => Ok(answer),
    }
}

/// Whether a failure is of no meaning any more: something that the build did not find is there now.
pub fn is_outdated(id: &Identified, manifest: &Manifest) -> bool {
    manifest.outcome != Outcome::Built && build::found_since(manifest, &id.facts.tools_root).is_some()
}

/// The answer that the store has, if it has one that is whole and may be believed.
pub fn look_up(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
) -> Result<Option<Resolution>> {
    let Some(manifest) =
        local::stored(session, request, &id.key)?.filter(|known| local::fits(session, request, id, known))
    else {
        return Ok(None);
    };
    judge(session, request, tree, id, manifest)
}

/// The answer that an entry of the store gives, if it is whole.
fn judge(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
    manifest: Box<Manifest>,
) -> Result<Option<Resolution>> {
    // From here on it is not collected, nor are its objects.
    if !local::used(session, &manifest.key)? {
        return Ok(None);
    }
    if manifest.outcome != Outcome::Built {
        return Ok(Some(Resolution::Fails { manifest, found: Source::Store }));
    }
    let Some(outputs) = local::whole(session, request, &manifest)? else { return Ok(None) };
    let needed = have(session, request, id, &Options::default())?;
    let mut faults = faults(session, request, tree, &outputs, &needed)?;
    faults.extend(check_modules::undeclared(request.kernel, &manifest)?);
    if !faults.is_empty() {
        return Ok(Some(Resolution::Refused(faults)));
    }
    Ok(Some(Resolution::Ready { manifest, found: Source::Store }))
}

/// Faults of modules, given the kernel and the packages that they build against.
fn faults(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    outputs: &Outputs,
    needed: &[Dependency],
) -> Result<Vec<ModuleFault>> {
    let against = check_modules::Against::tree(session, request.kernel, tree)?;
    check_modules::faults(request.kernel, &against, &outputs.modules, &dependencies::exports(needed))
}

/// Looks again, under the key's lock: another process or a shared cache may have it by now.
fn look_further(
    session: &Session,
    store: &Store,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
    options: &Options,
    ask_caches: bool,
) -> Result<Option<Resolution>> {
    if let Some(answer) = answer(session, request, tree, id, options)? {
        return Ok(Some(answer));
    }
    if let Some(known) = local::stored(session, request, &id.key)?
        && (local::is_advice(session, &known)?
            || is_outdated(id, &known)
            || !local::fits(session, request, id, &known))
    {
        store.forget(&id.key)?; // makes room for a valid one
    }
    if !ask_caches {
        return Ok(None);
    }
    match by_key::identified(session, request, id, options.fetch_only)? {
        Some(from) => fetched(session, request, tree, id, from),
        None => Ok(None),
    }
}

/// The resolution from a fetched entry.
fn fetched(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
    from: String,
) -> Result<Option<Resolution>> {
    Ok(match look_up(session, request, tree, id)? {
        Some(Resolution::Ready { manifest, .. }) => {
            Some(Resolution::Ready { manifest, found: Source::Shared(from) })
        }
        Some(Resolution::Fails { manifest, .. }) => {
            Some(Resolution::Fails { manifest, found: Source::Shared(from) })
        }
        Some(Resolution::Refused(faults)) => {
            by_key::refuse(session, request, &id.key, &from, &faults)?;
            None
        }
        other => other,
    })
}

/// Builds, unless another process has done so meanwhile.
fn have_once(
    session: &Session,
    request: &Request,
    missing: &Missing,
    needed: &[Dependency],
    options: &Options,
) -> Result<Resolution> {
    let (context, Missing { tree, id, asked }) = (session.context, missing);
    let store = session.store.as_ref().ok_or(Error::NoStore)?;
    let _lock = local::lock(session, store, &id.key)?;
    let ask_caches = asked.elapsed() > ASK_AGAIN;
    if !options.rebuild
        && let Some(answer) = look_further(session, store, request, tree, id, options, ask_caches)?
    {
        return Ok(answer);
    }
    let how = How { may_launch: !options.rebuild };
    let made = build::make(session, request, tree, id, needed, how)?;
    session.still_headers(request.kernel, tree, id.facts.headers)?;
    session.still_facts(request.kernel, tree, &id.facts)?;
    let outcome = match &made.result {
        BuildResult::Outputs(outputs) => {
            let mut faults = faults(session, request, tree, outputs, needed)?;
            let names = outputs.modules.iter().map(|module| module.name.as_str());
            faults.extend(check_modules::undeclared_among(request.kernel, &id.recipe.modules, names)?);
            if !faults.is_empty() {
                return Ok(Resolution::Refused(faults));
            }
            for what in check_modules::unversioned(&outputs.modules, &dependencies::exports(needed)) {
                context.progress().warn(&format!("{}: {what}", request.name()));
            }
            Outcome::Built
        }
        BuildResult::Failure(outcome) => outcome.clone(),
    };
    for fault in &made.left_out {
        context.progress().warn(&format!("{}: skipping module: {fault}", request.name()));
    }
    if let Some(command) = &made.command {
        let (package, directory) = (request.package, request.package.source.to_string_lossy());
        let directory = word(&directory);
        context.progress().print(&format!(
            "{package} has no recipe; built by `{command}` (`kcache init {directory}` writes it to a kcache.toml)"
        ));
    }
    build_times::remember(session, request.package, made.seconds)?;
    let entry = build::publish(session, store, request, id, made, outcome, options.rebuild)?;
    if undeclared::is_known(entry.manifest()) {
        publish::write_through(session, store, &entry)?;
    } else {
        let what = request.name();
        context.progress().warn(&format!(
            "{what}: the build opened more files than can be recorded; it is used in this run only and not shared"
        ));
    }
    let manifest = Box::new(entry.into_manifest());
    let found = Source::Built;
    Ok(match manifest.outcome {
        Outcome::Built => Resolution::Ready { manifest, found },
        Outcome::Failed { .. } => Resolution::Fails { manifest, found },
    })
}

/// All build dependencies, each once, built first if necessary.
pub fn have<'a>(
    session: &Session,
    request: &Request<'a>,
    id: &Identified,
    options: &Options,
) -> Result<Vec<Dependency<'a>>> {
    let Options { fetch_only, exact_tools, .. } = *options;
    let options = Options { fetch_only, exact_tools, ..Options::default() };
    let mut had: Vec<Dependency> = Vec::new();
    let mut pending: Vec<&(String, Identified)> = id.dependencies.iter().collect();
    while let Some((name, id)) = pending.pop() {
        let package = identify::of_dependency(request, name, id)?;
        if had.iter().any(|other| other.package.name == package.name) {
            continue;
        }
        pending.extend(&id.dependencies);
        let manifest = match obtain(session, &Request { package, exact: true, ..*request }, &options)? {
            Resolution::Ready { manifest, .. } => manifest,
            Resolution::NotCached => return Err(identify::problem(request, name, "no cache has")),
            _ => return Err(identify::problem(request, name, "does not build")),
        };
        let outputs = check_modules::outputs(session, &manifest)?.unwrap_or_default();
        had.push(Dependency { package, source: id.source, outputs });
    }
    Ok(had)
}
