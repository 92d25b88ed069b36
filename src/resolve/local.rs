//! Look-ups in this host's own store. An entry is used only if it is trusted and intact, and its build read the same undeclared
//! inputs as are found here.
//!
//! Corrupt data is reported and deleted, so that the build is fetched or built again.

use kcache_kernel::install::ModuleSpec;
use kcache_store::{Key, Lock, Manifest, Outcome, Output, Role, Store};

use crate::build::check_modules::{self, Outputs};
use crate::error::{Error, Result};
use crate::inputs::identify::Identified;
use crate::inputs::undeclared;
use crate::run::request::Request;
use crate::run::session::Session;

/// Records that an entry of the store is used; false if it has been deleted meanwhile.
pub fn used(session: &Session, key: &Key) -> Result<bool> {
    match &session.store {
        Some(store) => Ok(store.used(key, session.context.now())?),
        None => Ok(false),
    }
}

/// Whether an entry's undeclared inputs equal the files here. An unreadable file counts as different.
pub fn fits(session: &Session, request: &Request, id: &Identified, manifest: &Manifest) -> bool {
    let Some(path) = undeclared::difference(&id.facts, manifest) else { return true };
    let what = request.name();
    session.context.progress().detail(&match path {
        undeclared::ANYTHING => format!("{what}: ignoring a build with incompletely recorded inputs"),
        _ => format!("{what}: ignoring a build that read a different {path}"),
    });
    false
}

/// The store's entry of a key. A corrupt one is deleted, and one that is no longer trusted is skipped.
pub fn stored(session: &Session, request: &Request, key: &Key) -> Result<Option<Box<Manifest>>> {
    let Some(store) = &session.store else { return Ok(None) };
    match store.lookup(key) {
        Ok(Some(entry)) => match session.context.services.distrusts(&entry) {
            None => Ok(Some(Box::new(entry.into_manifest()))),
            Some(distrust) => {
                let what = request.name();
                session
                    .context
                    .progress()
                    .warn(&format!("ignoring the store's entry for {what}: {distrust}"));
                store.forget(key)?;
                Ok(None)
            }
        },
        Ok(None) => Ok(None),
        Err(error) if is_corruption(&error) => {
            report_corruption(session, request, &error);
            store.forget(key)?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The outputs of an entry, if all of them are intact. Corrupt ones are deleted.
pub fn whole(session: &Session, request: &Request, manifest: &Manifest) -> Result<Option<Outputs>> {
    match check_modules::outputs(session, manifest) {
        Ok(None) => {
            let what = request.name();
            session
                .context
                .progress()
                .detail(&format!("{what}: the store has the entry but lacks some of its objects"));
            Ok(None)
        }
        Err(Error::Store(error)) if is_corruption(&error) => {
            report_corruption(session, request, &error);
            if let Some(store) = &session.store {
                heal(store, manifest)?;
            }
            Ok(None)
        }
        outputs => outputs,
    }
}

fn report_corruption(session: &Session, request: &Request, error: &kcache_store::Error) {
    let what = request.name();
    session.context.progress().warn(&format!("{error}; fetching or rebuilding {what}"));
}

/// Whether an error is corruption, as opposed to inaccessibility.
pub(crate) fn is_corruption(error: &kcache_store::Error) -> bool {
    matches!(error, kcache_store::Error::Damaged { .. } | kcache_store::Error::Entry { .. })
}

/// Deletes the corrupt objects of an entry.
fn heal(store: &Store, manifest: &Manifest) -> Result<()> {
    for output in &manifest.outputs {
        match store.read_object(&output.digest, output.size) {
            Err(error) if is_corruption(&error) => store.discard_object(&output.digest)?,
            _ => {}
        }
    }
    Ok(store.forget(&manifest.key)?)
}

/// The modules of an entry, as they are installed, in order of their names.
pub fn modules(manifest: &Manifest) -> Vec<ModuleSpec> {
    let modules = manifest.outputs.iter().filter(|output| output.role == Role::Module);
    let spec = |output: &Output| ModuleSpec {
        name: output.name.strip_suffix(".ko").unwrap_or(&output.name).to_owned(),
        digest: blake3::Hash::from_bytes(*output.digest.as_bytes()),
        size: output.size,
    };
    let mut modules: Vec<ModuleSpec> = modules.map(spec).collect();
    modules.sort_by(|a, b| a.name.cmp(&b.name));
    modules
}

/// Waits for others who want the same.
pub(super) fn lock(session: &Session, store: &Store, key: &Key) -> Result<Lock> {
    let context = session.context;
    Ok(store.lock(&key.to_string(), &context.waiting(&|message| context.progress().print(message)))?)
}

/// Whether an entry of the store records a failure that only other hosts signed. It is advice: otherwise a stolen key
/// could make a package fail on every host.
pub fn is_advice(session: &Session, manifest: &Manifest) -> Result<bool> {
    let (Some(store), Some(_)) = (&session.store, advice(manifest)) else { return Ok(false) };
    Ok(store.lookup(&manifest.key)?.is_some_and(|entry| !session.context.services.made(&entry)))
}

/// The message about such an entry.
pub(crate) fn advice(manifest: &Manifest) -> Option<String> {
    let Outcome::Failed { first_error, .. } = &manifest.outcome else { return None };
    let short = |text: &str| text.escape_debug().take(200).collect::<String>();
    let (builder, why) = (short(&manifest.builder), short(first_error));
    Some(format!("build failed on {builder}: {why}; not tried on this host yet"))
}
