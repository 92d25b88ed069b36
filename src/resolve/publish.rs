//! Shares this host's builds: signs them, points to them, pushes them.
//!
//! A host with a signing key is a builder. It signs its entries and creates pointers to them in its own store as it builds, so
//! that the store can be served as it is, and pushes them to the shared caches that it may write to. Other hosts can push
//! entries that builders signed.

use std::sync::Arc;

use kcache_store::transport::Name;
use kcache_store::{Entry, Published, Pushed, SharedCache, SignEntry, SigningKey, Store, point_here};

use crate::error::{Error, Result};
use crate::inputs::key::is_for_one_cpu;
use crate::inputs::{identify, undeclared};
use crate::resolve::{by_kin, by_pointer};
use crate::run::labels::Labels;
use crate::run::request::Request;
use crate::run::session::Session;

/// The best entry of a package for a kernel on this host.
pub enum Publishable {
    /// An entry, for the current inputs; without headers or source, the newest.
    Entry(Box<Entry>),
    /// The package does not support the kernel.
    Excluded,
    /// There is no entry.
    Nothing,
}

/// Finds the best entry on this host.
pub fn known(session: &Session, request: &Request) -> Result<Publishable> {
    let Some(store) = &session.store else { return Ok(Publishable::Nothing) };
    let key = match request.kernel.build_tree().filter(|_| request.package.has_source()) {
        Some(tree) => {
            let id = identify::identify(session, request, tree)?;
            if id.recipe.excluded.is_some() {
                return Ok(Publishable::Excluded);
            }
            Some(id.key)
        }
        None => {
            let labels = [("package", request.package.name.as_str()), ("kernel", &request.kernel.release)];
            store.find(&labels)?.first().map(|row| row.key)
        }
    };
    let entry = key.map(|key| store.lookup(&key)).transpose()?.flatten();
    let entry = entry.filter(|entry| undeclared::is_known(entry.manifest()));
    Ok(entry.map_or(Publishable::Nothing, |entry| Publishable::Entry(Box::new(entry))))
}

/// Publishes a new entry. The build has succeeded, so failures are only warnings.
pub fn write_through(session: &Session, store: &Store, entry: &Entry) -> Result<()> {
    let context = session.context;
    let Some(key) = &context.services.signer else {
        if context.caches().writable().next().is_some() {
            context.progress().print("not pushing: no signing key");
            context.progress().hint("run `kcache keys generate`");
        }
        return Ok(());
    };
    if is_for_one_cpu(&entry.manifest().fields) {
        let what = Labels::of(entry.manifest()).what();
        context.progress().warn(&format!(
            "not sharing {what}: its flags (-march=native) make it depend on this host's CPU"
        ));
        return Ok(());
    }
    let sign = SignEntry::With { key, adopt: false };
    sign_entry(session, store, entry, sign, true)?;
    for cache in context.caches().writable() {
        match push(session, store, cache, entry, sign, true) {
            Ok(pushed) => report_pushed(session, cache, entry, &pushed),
            Err(error) if error.is_reported() => context.progress().warn(&not_pushed(entry, cache)),
            Err(error) => context.progress().warn(&format!("push failed: {error}")),
        }
    }
    Ok(())
}

/// Prepares an entry for publishing: signs it if this host built it, and updates the pointer if it is the newest.
/// Returns the name of the pointer that refers to it, if any.
pub fn sign_entry(
    session: &Session,
    store: &Store,
    entry: &Entry,
    sign: SignEntry,
    newest: bool,
) -> Result<Option<Name>> {
    credible(session, entry)?;
    let key = entry.manifest().key;
    let name = by_pointer::pointer_name(entry).filter(|_| newest);
    if let Some(signer) = sign.key(entry) {
        let mut entry = entry.clone();
        if entry.sign(signer) {
            store.replace(&entry)?;
        }
        for name in name.iter().chain(&by_kin::pointer_name(&entry)) {
            point_here(store, name, key, session.context.now(), None, signer)?;
        }
        store.offer(signer.public())?;
        if let Some(contents) = &session.context.site {
            store.publish_site(contents, session.context.now(), signer)?;
        }
    }
    let Some(name) = name else { return Ok(None) };
    Ok(store.pointer(&name)?.filter(|pointer| pointer.key() == key).map(|_| name))
}

/// Pushes an entry to a cache; `newest` says that the pointer should refer to it.
///
/// # Errors
///
/// [`Error::Distrusted`] if this host would not use the entry itself.
pub fn push(
    session: &Session,
    store: &Store,
    cache: &Arc<SharedCache>,
    entry: &Entry,
    sign: SignEntry,
    newest: bool,
) -> Result<Pushed> {
    let context = session.context;
    credible(session, entry)?;
    let pushed = context.caches().push(cache, store, entry, sign)?;
    let name = by_pointer::pointer_name(entry).filter(|_| newest && !matches!(pushed, Pushed::Conflict(_)));
    let kin = by_kin::pointer_name(entry).filter(|_| newest && !matches!(pushed, Pushed::Conflict(_)));
    for name in name.into_iter().chain(kin) {
        let key = entry.manifest().key;
        context.caches().point(cache, store, &name, key, context.now(), sign.key(entry))?;
    }
    if let Some(signer) = sign.key(entry) {
        offer_key(session, cache, signer);
        publish_site(session, store, cache, signer);
    }
    Ok(pushed)
}

/// Looks again at what this run has pushed, at its end: builders that pushed at the same moment may have overwritten this host's
/// signatures. The builds are there, so a failure is only a warning.
pub fn confirm(session: &Session) {
    let context = session.context;
    let (Some(signer), Some(store)) = (&context.services.signer, &session.store) else { return };
    if context.services.cancelled() {
        return;
    }
    match context.caches().confirm(store, context.now(), signer) {
        Err(error) if !error.is_reported() && !context.services.cancelled() => {
            context.progress().warn(&format!("signatures not looked at again: {error}"));
        }
        _ => {}
    }
}

/// Adds this host's public key to those that a cache offers, once in a run. The builds are there, so a failure is only a warning.
fn offer_key(session: &Session, cache: &Arc<SharedCache>, signer: &SigningKey) {
    if !session.is_first(&format!("offer a key to {}", cache.url())) {
        return;
    }
    match session.context.caches().offer(cache, signer.public()) {
        Err(error) if !session.context.services.cancelled() => {
            session.context.progress().warn(&format!("public key not published: {error}"));
        }
        _ => {}
    }
}

/// Publishes this host's site file in a cache, once in a run. A failure is only a warning.
fn publish_site(session: &Session, store: &Store, cache: &Arc<SharedCache>, signer: &SigningKey) {
    let context = session.context;
    let Some(contents) = &context.site else { return };
    let url = cache.url();
    if !session.is_first(&format!("publish the site file in {url}")) {
        return;
    }
    match context.caches().publish_site(cache, store, contents, context.now(), signer) {
        Ok(Published::New) => context.progress().print(&format!("published the site file in {url}")),
        Ok(Published::Present) => {}
        Ok(Published::OfAnother) => {
            context.progress().warn(&format!(
                "site file not published: {url} has one of a builder whose key is not trusted here"
            ));
            context.progress().hint("trust that builder's key, or delete site.json in the cache");
        }
        Err(error) if !context.services.cancelled() => {
            context.progress().warn(&format!("site file not published: {error}"));
        }
        Err(_) => {}
    }
}

/// Refuses to publish what this host would not use itself, or what only hosts like this one can use.
fn credible(session: &Session, entry: &Entry) -> Result<()> {
    if is_for_one_cpu(&entry.manifest().fields) {
        return Err(Error::ForOneCpu { key: entry.manifest().key });
    }
    match session.context.services.distrusts(entry) {
        Some(distrust) => Err(Error::Distrusted { key: entry.manifest().key, distrust }),
        None => Ok(()),
    }
}

/// Says that an entry was not pushed, if there has been a warning that says why.
pub fn not_pushed(entry: &Entry, cache: &SharedCache) -> String {
    let labels = Labels::of(entry.manifest());
    format!("{} for {}: not pushed to {}", labels.what(), labels.kernel, cache.url())
}

/// Reports the result of a push, as a warning if it is unusual.
fn report_pushed(session: &Session, cache: &SharedCache, entry: &Entry, pushed: &Pushed) {
    let labels = Labels::of(entry.manifest());
    let what = format!("{} for {}", labels.what(), labels.kernel);
    let url = cache.url();
    let progress = session.context.progress();
    match pushed {
        Pushed::New => progress.print(&format!("pushed {what} to {url}")),
        Pushed::Present => progress.detail(&format!("{url} already has {what}")),
        Pushed::Cosigned(builder) => progress.print(&format!("signed {builder}'s {what} in {url}")),
        Pushed::Conflict(builder) => progress.warn(&format!(
            "conflict: {url} has {what} from {builder} with different outputs, which are kept; either the build is not reproducible, or one of the two builders cannot be trusted"
        )),
    }
}
