//! What shared caches have of a request, for people: only pointers and entries are asked for, and nothing is stored.

use kcache_kernel::kernels::{self, BuildTree};
use kcache_store::{Digest, Entry, Key, Pointer};

use crate::error::Result;
use crate::resolve::by_key::is_honest;
use crate::resolve::by_pointer::kernel_id;
use crate::run::request::Request;
use crate::run::session::Session;

/// An entry in a shared cache that enough trusted keys signed.
pub struct Found {
    /// The entry.
    pub entry: Entry,
    /// URL of the cache.
    pub cache: String,
}

/// Looks for the entry of a key; else for the one that builders point to for the same inputs by other tools (`kin`); else for
/// the one that they point to for this kernel.
///
/// # Errors
///
/// If release or package cannot be part of a pointer's name.
pub fn look(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    key: &Key,
    kin: Digest,
) -> Result<Option<Found>> {
    if !session.asks_caches() {
        return Ok(None);
    }
    let (caches, now) = (session.context.caches(), session.context.now());
    let find = |key: &Key| {
        let (cache, entry) = caches.find(key, &is_honest)?;
        Some(Found { entry, cache: cache.to_owned() })
    };
    if let Some(found) = find(key) {
        return Ok(Some(found));
    }
    let (release, package) = (&request.kernel.release, &request.package.name);
    let version = request.kernel.image_version.as_ref().unwrap_or(&tree.version);
    for of in [kin, kernel_id(kernels::arch(&tree.config), version)] {
        let pointer = caches.peek_pointer(&Pointer::name(release, of, package)?, now);
        if let Some(found) = pointer.and_then(|pointer| find(&pointer.key())) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
