//! Logs of builds.

use kcache_store::{Manifest, Role};

use crate::error::{Error, Result};
use crate::inputs::identify;
use crate::run::request::Request;
use crate::run::session::Session;

/// The log of the last build of a package for a kernel: of the current inputs, else of the newest known build.
pub fn last(session: &Session, request: &Request) -> Result<(Manifest, Vec<u8>)> {
    let unknown =
        || Error::Unknown { package: request.package.name.clone(), release: request.kernel.release.clone() };
    let store = session.store.as_ref().ok_or_else(unknown)?;
    let exact = match request.kernel.build_tree() {
        Some(tree) => store.lookup(&identify::identify(session, request, tree)?.key)?,
        None => None,
    };
    let labels = [("package", request.package.name.as_str()), ("kernel", request.kernel.release.as_str())];
    let entry = match exact {
        Some(entry) => Some(entry),
        None => match store.find(&labels)?.first() {
            Some(row) => store.lookup(&row.key)?,
            None => None,
        },
    };
    let manifest = entry.ok_or_else(unknown)?.into_manifest();
    let output = manifest.outputs.iter().find(|output| output.role == Role::Log).ok_or_else(unknown)?;
    let log = store.read_object(&output.digest, output.size)?.ok_or_else(unknown)?;
    Ok((manifest, log))
}
