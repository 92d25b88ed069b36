//! Fetches an entry from a shared cache into the store, by its key.

use std::time::Instant;

use kcache_kernel::ko::ModuleFault;
use kcache_store::{Key, Manifest, Outcome, Role};

use crate::error::Result;
use crate::inputs::identify::Identified;
use crate::inputs::{key, undeclared};
use crate::resolve::local;
use crate::run::progress::size;
use crate::run::request::Request;
use crate::run::session::Session;

/// Fetches the entry of a key computed here, which this host can check completely; returns the source. A failure from
/// another host is used only if nothing is to be built here (`only` fetched).
pub(super) fn identified(
    session: &Session,
    request: &Request,
    id: &Identified,
    only: bool,
) -> Result<Option<String>> {
    let fits = |manifest: &Manifest| {
        is_honest(manifest)?;
        if let Some(advice) = local::advice(manifest).filter(|_| !only) {
            return Err(advice);
        }
        let other = undeclared::difference(&id.facts, manifest);
        other.map_or(Ok(()), |path| Err(format!("its build read a different {}", path.escape_debug())))
    };
    fetch(session, request, &id.key, &fits)
}

/// Fetches the entry of a key that is known from elsewhere, from a shared cache whose entry `fits`.
pub(crate) fn of_key(
    session: &Session,
    request: &Request,
    key: &Key,
    fits: &dyn Fn(&Manifest) -> Result<(), String>,
) -> Result<Option<Box<Manifest>>> {
    match fetch(session, request, key, &|manifest| is_honest(manifest).and_then(|()| fits(manifest)))? {
        Some(_) => local::stored(session, request, key),
        None => Ok(None),
    }
}

/// Checks that an entry is consistent: its key must be that of its fields, by which its modules are checked, and a
/// build must have modules. Called for entries of other hosts before they are stored.
pub fn is_honest(manifest: &Manifest) -> Result<(), String> {
    if !key::is_of(&manifest.key, &manifest.fields) {
        return Err(format!("its fields belong to key {}", key::key(&manifest.fields)));
    }
    if manifest.outcome == Outcome::Built
        && !manifest.outputs.iter().any(|output| output.role == Role::Module)
    {
        return Err("it was built but has no module".to_owned());
    }
    Ok(())
}

/// Fetches an entry into the store; reports the source and returns it.
pub(super) fn fetch(
    session: &Session,
    request: &Request,
    key: &Key,
    fits: &dyn Fn(&Manifest) -> Result<(), String>,
) -> Result<Option<String>> {
    let (context, Some(store)) = (session.context, &session.store) else { return Ok(None) };
    if !session.asks_caches() {
        return Ok(None);
    }
    let (what, start) = (request.name(), Instant::now());
    context.progress().begin(&what, "fetching");
    let fetched =
        context.caches().fetch(store, key, context.now(), fits, &|n| context.progress().heard(&what, n));
    context.progress().end(&what);
    let Some(fetched) = fetched? else { return Ok(None) };
    context.progress().print(&format!(
        "fetched {what} from {} ({}, {:.1} s)",
        fetched.from,
        size(fetched.bytes),
        start.elapsed().as_secs_f64()
    ));
    Ok(Some(fetched.from))
}

/// Reports modules that a trusted builder made and this host will not load, so that the builder learns of it.
pub(super) fn refuse(
    session: &Session,
    request: &Request,
    key: &Key,
    from: &str,
    faults: &[ModuleFault],
) -> Result<()> {
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    session.context.progress().warn(&format!(
        "{}: refusing the build from {from}: {}",
        request.name(),
        faults.join("; ")
    ));
    match &session.store {
        Some(store) => Ok(store.forget(key)?),
        None => Ok(()),
    }
}
