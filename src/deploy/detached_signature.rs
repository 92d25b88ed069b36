//! Detached signatures of modules, made by a signing service that alone has the key.
//!
//! ```text
//! export   the modules that are to be installed and have no signature yet, as files named by their digest
//! import   the service's signatures, each verified with the certificate: into the store, and into the writable caches
//! attach   at installation: a signature from the store, else from a shared cache, verified again
//! ```
//! A signature is named by the certificate's fingerprint and the digest of the module as it was built. One that does not verify
//! is ignored, so an untrusted cache can withhold a signature but cannot have another module installed.

use kcache_kernel::install::ModuleSpec;
use kcache_kernel::signing::{self, Certificate};
use kcache_store::{Digest, SignerId};

use crate::error::{Error, Result};
use crate::run::session::Session;

/// A module with the service's signature appended.
///
/// # Errors
///
/// [`Error::NoSignature`] if neither the store nor a shared cache has one.
pub fn attach(
    session: &Session,
    certificate: &Certificate,
    spec: &ModuleSpec,
    module: &[u8],
) -> Result<Vec<u8>> {
    let found = find(session, certificate, &digest(spec), module)?;
    let missing = || Error::NoSignature { module: spec.name.clone(), subject: certificate.subject() };
    Ok(signing::attach(module, &found.ok_or_else(missing)?, certificate)?)
}

/// A valid signature of the module in the store or a shared cache.
pub fn find(
    session: &Session,
    certificate: &Certificate,
    digest: &Digest,
    module: &[u8],
) -> Result<Option<Vec<u8>>> {
    let by = signer_id(certificate);
    let fits = |bytes: &[u8]| {
        signing::attach(module, bytes, certificate).map(drop).map_err(|error| error.to_string())
    };
    if let Some(store) = &session.store
        && let Some(bytes) = store.signature(&by, digest)?
    {
        match fits(&bytes) {
            Ok(()) => return Ok(Some(bytes)),
            Err(why) => {
                session.context.progress().warn(&format!("signature of {digest} in the store: {why}"))
            }
        }
    }
    let found = session.context.caches().signature(&by, digest, &fits);
    if let (Some(store), Some(bytes)) = (&session.store, &found) {
        store.keep_signature(&by, digest, bytes)?;
    }
    Ok(found)
}

/// Stores a signature from the service, and pushes it to the writable caches.
pub fn import(
    session: &Session,
    certificate: &Certificate,
    digest: &Digest,
    module: &[u8],
    bytes: &[u8],
) -> Result<()> {
    signing::attach(module, bytes, certificate)?;
    let by = signer_id(certificate);
    let store = session.store.as_ref().ok_or(Error::NoStore)?;
    store.keep_signature(&by, digest, bytes)?;
    for cache in session.context.caches().writable() {
        session.context.caches().push_signature(cache, &by, digest, bytes)?;
    }
    Ok(())
}

fn digest(spec: &ModuleSpec) -> Digest {
    Digest::from_bytes(*spec.digest.as_bytes())
}

fn signer_id(certificate: &Certificate) -> SignerId {
    SignerId::from_bytes(certificate.fingerprint_bytes())
}
