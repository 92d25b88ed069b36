//! Looks again at what this host signed in a cache.
//!
//! Caches have no conditional writes in common, so builders that write the same entry, pointer or site file at the same moment overwrite each
//! other's signatures: the last one wins. Hosts that trust one of the others would find nothing then. So each builder looks again
//! at the end of its run, and signs again what lost its signature. The pauses differ between builders and grow.
//!
//! A builder that is killed before it has looked adds a lost signature with its next push. What others have replaced with something
//! else meanwhile, such as a pointer to a newer build or a site file with other packages, is left alone.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::push::{SignEntry, There, join};
use super::{Published, Pushed, SharedCache, SharedCaches, Written, each};
use crate::transport::Name;
use crate::{PublicKey, Result, SigningKey, Store};

/// After how long a builder looks whether its signature is still there, and how often. Between reading a file and replacing it
/// lies one request.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(100);
pub(super) const ROUNDS: u32 = 5;

impl SharedCaches {
    /// Looks again at what this run wrote and signed, and signs again what others have overwritten.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Shared`] if a cache fails.
    pub fn confirm(&self, store: &Store, now: u64, signer: &SigningKey) -> Result<()> {
        for cache in self.writable() {
            let mut written =
                std::mem::take(&mut *cache.written.lock().unwrap_or_else(PoisonError::into_inner));
            for round in 1..=ROUNDS {
                if written.is_empty() {
                    break;
                }
                std::thread::sleep(LOOK_AGAIN * round + jitter(Some(signer.public()), round));
                let lost = Mutex::new(Vec::new());
                each(&written, |written| {
                    if self.sign_again(cache, store, written, now, signer)? {
                        lost.lock().unwrap_or_else(PoisonError::into_inner).push(written.clone());
                    }
                    Ok(true)
                })?;
                written = lost.into_inner().unwrap_or_else(PoisonError::into_inner);
            }
            cache.written.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
        Ok(())
    }

    /// Signs again what has lost this host's signature; false if it is still there.
    fn sign_again(
        &self,
        cache: &Arc<SharedCache>,
        store: &Store,
        written: &Written,
        now: u64,
        signer: &SigningKey,
    ) -> Result<bool> {
        match written {
            Written::Entry(key) => {
                let Some(entry) = store.lookup(key)? else { return Ok(false) };
                let name = Name::Entry(*key);
                let sign = SignEntry::With { key: signer, adopt: true };
                match self.entry_there(cache, &name, &entry, sign)? {
                    There::Entry(there) | There::OfStranger(there) => {
                        let joined = join(cache, &name, &entry, *there, Some(signer))?;
                        Ok(matches!(joined, Pushed::Cosigned(_)))
                    }
                    There::Nothing | There::Worthless(_) => Ok(false),
                }
            }
            Written::Pointer(name, to) => match self.pointer_there(cache, name, *to, now)? {
                Some(there) if there.key() == *to && !there.envelope().is_signed_by(signer.public()) => {
                    self.point(cache, store, name, *to, now, Some(signer)).map(|()| true)
                }
                _ => Ok(false),
            },
            Written::Site(contents) => match self.site_there(cache)? {
                Some(there)
                    if there.contents() == &**contents && !there.envelope().is_signed_by(signer.public()) =>
                {
                    let published = self.publish_site(cache, store, contents, now, signer)?;
                    Ok(published == Published::New)
                }
                _ => Ok(false),
            },
        }
    }
}

/// A pause that differs between builders and rounds.
pub(super) fn jitter(key: Option<&PublicKey>, round: u32) -> Duration {
    let id = key.map(|key| key.id().to_string()).unwrap_or_default();
    let sum = id.bytes().fold(round, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    LOOK_AGAIN * (sum % 16) / 8
}
