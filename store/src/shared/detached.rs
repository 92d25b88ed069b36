//! Detached signatures of objects, which a signing service makes.
//!
//! They are not part of an entry: whoever signs modules for a kernel is not the builder, and signs later. This crate
//! cannot verify them, so the caller does; a cache that serves an invalid one is treated as one that serves a corrupt
//! file.

use std::sync::Arc;

use super::{SharedCache, SharedCaches};
use crate::transport::{IfTaken, Name};
use crate::{Digest, Result, SignerId};

/// Size limit in bytes. With a chain of certificates, a signature has some 10 KB.
const MAX: u64 = 64 << 10;

impl SharedCaches {
    /// Fetches a detached signature of an object. `fits` verifies it, or returns the reason for refusing it.
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

    /// Pushes a detached signature of an object, replacing an earlier one by the same signer.
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
