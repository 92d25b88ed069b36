//! Signatures of objects that are kept apart from them, made by others than builders.
//!
//! They are no part of an entry: who signs modules for a kernel's firmware is another than who vouches for a build, and
//! comes later. Nothing here can tell what one is worth; the caller says which fits, and a cache that held another has lied.

use std::sync::Arc;

use super::{SharedCache, SharedCaches};
use crate::transport::{IfTaken, Name};
use crate::{Digest, Result, SignerId};

/// With a chain of certificates in it, one has some 10 KB.
const MAX: u64 = 64 << 10;

impl SharedCaches {
    /// A signature of an object that fits, or else why it does not.
    pub fn signature(
        &self,
        by: &SignerId,
        of: &Digest,
        fits: &dyn Fn(&[u8]) -> std::result::Result<(), String>,
    ) -> Option<Vec<u8>> {
        let name = Name::Signature { by: *by, of: *of };
        self.caches.iter().find_map(|cache| {
            let bytes = cache.call(|transport| transport.get(&name, MAX, &|_| ())).ok().flatten()?;
            match fits(&bytes) {
                Ok(()) => Some(bytes),
                Err(why) => {
                    cache.lied(&name, &why);
                    None
                }
            }
        })
    }

    /// Puts a signature of an object into a cache, in place of any by the same signer.
    pub fn push_signature(
        &self,
        cache: &Arc<SharedCache>,
        by: &SignerId,
        of: &Digest,
        bytes: &[u8],
    ) -> Result<()> {
        let name = Name::Signature { by: *by, of: *of };
        cache
            .call(|transport| transport.put(&name, bytes, IfTaken::Replace))
            .map(drop)
            .map_err(|trouble| cache.failed(trouble))
    }
}
