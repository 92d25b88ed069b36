//! Debug information of modules: stored apart from them, and fetched on request.
//!
//! A build extracts the debug information of each module that it strips (`kcache_kernel::build`) into a separate output
//! `NAME.ko.debug`, which is many times larger than the module. It is not fetched with its entry. `kcache debuginfo` fetches the
//! one that belongs to exactly the installed module:
//!
//! ```text
//! which build     the one whose key is in the kernel's generation.json; for a package that is not installed, the store's
//! which module    the digest must be that of the installed module: a rebuilt entry is another
//! which object    from the store, else from a shared cache, verified by the digest in a signed entry
//! build-id        that of the module and that of its debug information must be equal
//! ```
//!
//! Fetched objects stay in the store like any other. Nothing else is written here.

use kcache_kernel::install::{Installed, InstalledPackage};
use kcache_kernel::ko::BuildId;
use kcache_store::{Digest, Key, Manifest, Output, Role};

use crate::build::check_modules::debug_file;
use crate::error::{Error, Lack, Result};
use crate::resolve::publish::{self, Publishable};
use crate::resolve::{by_key, local};
use crate::run::labels::Labels;
use crate::run::request::Request;
use crate::run::session::Session;

/// Debug information of one module, located.
pub struct DebugInfo {
    /// Version of its package.
    pub version: String,
    /// File name of the module, including `.ko`.
    pub module: String,
    /// The module's build-id.
    pub build_id: BuildId,
    key: Key,
    output: Output,
}

/// The debug information of a package's modules; of installed ones as installed. Each has its own result.
pub fn of(
    session: &Session,
    request: &Request,
    installed: Option<&InstalledPackage<Installed>>,
) -> Result<Vec<Result<DebugInfo>>> {
    let manifest = match installed {
        Some(package) => of_key(session, request, package)?,
        None => match publish::known(session, request)? {
            Publishable::Entry(entry) => Some(Box::new(entry.into_manifest())),
            Publishable::Excluded | Publishable::Nothing => None,
        },
    };
    let manifest = manifest.ok_or_else(|| lacking(&request.package.name, Lack::NoEntry))?;
    let modules = match installed {
        Some(package) => package.modules.iter().map(file_and_digest).collect(),
        None => modules(&manifest),
    };
    Ok(modules.iter().map(|(name, digest)| one(session, &manifest, name, digest)).collect())
}

/// The bytes of the debug information: from the store, else fetched into it.
pub fn bytes(session: &Session, debug: &DebugInfo) -> Result<Vec<u8>> {
    let found = object(session, &debug.key, &debug.output)?;
    let bytes = found.ok_or_else(|| lacking(&debug.module, Lack::NoObject))?;
    match BuildId::of(&bytes) {
        Some(id) if id == debug.build_id => Ok(bytes),
        _ => Err(lacking(&debug.module, Lack::OtherModule(debug.build_id.to_string()))),
    }
}

impl DebugInfo {
    /// BLAKE3 digest of the bytes.
    pub fn digest(&self) -> &Digest {
        &self.output.digest
    }
}

fn lacking(of: &str, lack: Lack) -> Error {
    Error::NoDebugInfo { of: of.to_owned(), lack }
}

/// The entry of the installed build, from the store or else a shared cache.
fn of_key(
    session: &Session,
    request: &Request,
    package: &InstalledPackage<Installed>,
) -> Result<Option<Box<Manifest>>> {
    let Ok(key) = package.key.parse::<Key>() else { return Ok(None) };
    if let Some(manifest) = local::stored(session, request, &key)? {
        return Ok(Some(manifest));
    }
    let same = |manifest: &Manifest| {
        let theirs = modules(manifest);
        let ours = package.modules.iter().map(file_and_digest);
        ours.into_iter().all(|module| theirs.contains(&module))
    };
    by_key::of_key(session, request, &key, &|manifest| match same(manifest) {
        true => Ok(()),
        false => Err(Lack::OtherBuild.to_string()),
    })
}

fn file_and_digest(module: &Installed) -> (String, Digest) {
    (format!("{}.ko", module.spec.name), Digest::from_bytes(*module.spec.digest.as_bytes()))
}

fn modules(manifest: &Manifest) -> Vec<(String, Digest)> {
    let modules = manifest.outputs.iter().filter(|output| output.role == Role::Module);
    modules.map(|output| (output.name.clone(), output.digest)).collect()
}

fn one(session: &Session, manifest: &Manifest, name: &str, digest: &Digest) -> Result<DebugInfo> {
    let lacking = |lack| lacking(name, lack);
    let output = |role: Role, name: &str| {
        manifest.outputs.iter().find(|output| output.role == role && output.name == name)
    };
    let module = output(Role::Module, name).filter(|module| module.digest == *digest);
    let module = module.ok_or_else(|| lacking(Lack::OtherBuild))?;
    let debug = output(Role::Debug, &debug_file(name)).ok_or_else(|| lacking(Lack::NotMade))?;
    let bytes = object(session, &manifest.key, module)?.ok_or_else(|| lacking(Lack::NoObject))?;
    Ok(DebugInfo {
        version: Labels::of(manifest).version.to_owned(),
        module: name.to_owned(),
        build_id: BuildId::of(&bytes).ok_or_else(|| lacking(Lack::NotMade))?,
        key: manifest.key,
        output: debug.clone(),
    })
}

/// Bytes of an output: from the store, else fetched into it. Corrupt ones count as missing.
fn object(session: &Session, key: &Key, output: &Output) -> Result<Option<Vec<u8>>> {
    let Some(store) = &session.store else { return Ok(None) };
    match store.read_object(&output.digest, output.size) {
        Ok(None) => {}
        Err(error) if local::is_corruption(&error) => {
            session.context.progress().warn(&format!("{error}; fetching it again"));
            store.discard_object(&output.digest)?;
        }
        found => return Ok(found?),
    }
    if !session.asks_caches() {
        return Ok(None);
    }
    session.context.progress().begin(&output.name, "fetching");
    let fetched = session.context.caches().fetch_output(store, key, output);
    session.context.progress().end(&output.name);
    Ok(if fetched? { store.read_object(&output.digest, output.size)? } else { None })
}
