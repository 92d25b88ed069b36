//! Builds of the same thing by other tools ([`crate::inputs::kin`]): what is installed already, and what the setting `other-tools` lets
//! stand in.
//!
//! ```text
//! installed   the build that is installed for the kernel: left alone, whatever tools it was built with
//! stored      entries of the store with the same kin, the newest first
//! pointed to  by-kernel/<release>/<kin>/<package>: the newest build of this kin that a builder has pushed
//! ```
//! Each passes the same checks as an entry of exactly this host's key.

use kcache_kernel::kernels::BuildTree;
use kcache_store::transport::Name;
use kcache_store::{Digest, Entry, Key, Manifest, Outcome, Pointer};

use crate::error::Result;
use crate::inputs::identify::Identified;
use crate::inputs::{key, kin, undeclared};
use crate::resolve::resolution::Resolution;
use crate::resolve::{self, by_key, local};
use crate::run::labels::Labels;
use crate::run::policy::OtherTools;
use crate::run::request::{Request, Source};
use crate::run::session::Session;

/// What is installed, where it is of this kin.
pub(super) fn installed(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
) -> Result<Option<Resolution>> {
    let installed = session.installed(request.kernel);
    let package = installed.as_deref().and_then(|generation| {
        generation.set.packages.iter().find(|package| package.name == request.package.name)
    });
    let Some(key) = package.and_then(|package| package.key.parse().ok()).filter(|key| *key != id.key) else {
        return Ok(None);
    };
    let manifest = stored_kin(session, request, id, &key)?;
    let Some(manifest) = manifest.filter(|manifest| local::fits(session, request, id, manifest)) else {
        return Ok(None);
    };
    let told = kin::in_words(&kin::tools(&manifest.fields, &id.fields));
    let answer = ready(session, request, tree, id, manifest)?;
    if answer.is_some() {
        session
            .context
            .progress()
            .detail(&format!("{}: installed build by other tools: {told}", request.name()));
    }
    Ok(answer)
}

/// The newest entry of the store that may stand in.
pub(super) fn stored(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
) -> Result<Option<Resolution>> {
    let Some(manifest) = find(session, request, tree, id)? else { return Ok(None) };
    let told = kin::in_words(&kin::tools(&manifest.fields, &id.fields));
    let answer = ready(session, request, tree, id, manifest)?;
    if answer.is_some() {
        session
            .context
            .progress()
            .print(&format!("{}: using a build by other tools: {told}", request.name()));
    }
    Ok(answer)
}

/// The newest entry of the store that may stand in, its objects not looked at.
pub fn find(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
) -> Result<Option<Box<Manifest>>> {
    let Some(store) = session.store.as_ref().filter(|_| session.context.other_tools != OtherTools::Never)
    else {
        return Ok(None);
    };
    let kin = id.kin.to_string();
    for row in store.find(&[("package", &request.package.name), ("kin", &kin)])? {
        if row.built
            && row.key != id.key
            && let Some(manifest) = stored_kin(session, request, id, &row.key)?
            && may_stand_in(session, tree, id, &manifest)
            && local::fits(session, request, id, &manifest)
        {
            return Ok(Some(manifest));
        }
    }
    Ok(None)
}

/// The entry that a builder points to for this kin, fetched if need be.
pub(super) fn pointed_to(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
) -> Result<Option<Resolution>> {
    let context = session.context;
    let Some(store) = session.store.as_ref().filter(|_| context.other_tools != OtherTools::Never) else {
        return Ok(None);
    };
    if !session.asks_caches() {
        return Ok(None);
    }
    let name = Pointer::name(&request.kernel.release, id.kin, &request.package.name)?;
    let Some(pointer) = context.caches().pointer(store, &name, context.roll_back, context.now())? else {
        return Ok(None);
    };
    let key = pointer.key();
    let fits = |manifest: &Manifest| {
        by_key::is_honest(manifest)?;
        if manifest.outcome != Outcome::Built || key::kin(&manifest.fields) != id.kin {
            return Err("not a build of the same inputs".to_owned());
        }
        if !may_stand_in(session, tree, id, manifest) {
            let told = kin::in_words(&kin::tools(&manifest.fields, &id.fields));
            return Err(format!(
                "it was built by tools that other-tools does not allow: {}",
                told.escape_debug()
            ));
        }
        let other = undeclared::difference(&id.facts, manifest);
        other.map_or(Ok(()), |path| Err(format!("its build read a different {}", path.escape_debug())))
    };
    if key == id.key || local::stored(session, request, &key)?.is_some() {
        return Ok(None); // it was considered
    }
    let Some(from) = by_key::fetch(session, request, &key, &fits)? else { return Ok(None) };
    let Some(manifest) = stored_kin(session, request, id, &key)? else { return Ok(None) };
    let told = kin::in_words(&kin::tools(&manifest.fields, &id.fields));
    match resolve::judge(session, request, tree, id, manifest)? {
        Some(Resolution::Ready { manifest, .. }) => {
            context.progress().print(&format!("{}: using a build by other tools: {told}", request.name()));
            Ok(Some(Resolution::Ready { manifest, found: Source::Shared(from) }))
        }
        Some(Resolution::Refused(faults)) => {
            by_key::refuse(session, request, &key, &from, &faults)?;
            Ok(None)
        }
        _ => Ok(None),
    }
}

/// An entry of the store, if it is of this kin.
fn stored_kin(
    session: &Session,
    request: &Request,
    id: &Identified,
    key: &Key,
) -> Result<Option<Box<Manifest>>> {
    let is_kin =
        |manifest: &Manifest| manifest.outcome == Outcome::Built && key::kin(&manifest.fields) == id.kin;
    Ok(local::stored(session, request, key)?.filter(|manifest| is_kin(manifest)))
}

fn may_stand_in(session: &Session, tree: &BuildTree, id: &Identified, manifest: &Manifest) -> bool {
    kin::may_stand_in(session.context.other_tools, &manifest.fields, &id.fields, tree.compiler())
}

/// The answer that an entry gives, if it is one to be used.
fn ready(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
    manifest: Box<Manifest>,
) -> Result<Option<Resolution>> {
    match resolve::judge(session, request, tree, id, manifest)? {
        Some(Resolution::Refused(_)) | None => Ok(None),
        answer => Ok(answer),
    }
}

/// The name of the pointer to an entry by its kin, where it has one.
pub fn pointer_name(entry: &Entry) -> Option<Name> {
    let manifest = entry.manifest();
    let Labels { package, kernel, kin, .. } = Labels::of(manifest);
    let kin: Digest = kin.parse().ok()?;
    let is_pointed_to = manifest.outcome == Outcome::Built && key::kin(&manifest.fields) == kin;
    Pointer::name(kernel, kin, package).ok().filter(|_| is_pointed_to)
}

#[cfg(test)]
mod tests;
