//! Pointers of shared caches: followed forwards only, and set by builders.

use std::sync::Arc;

use super::{SharedCache, SharedCaches};
use crate::pointer::MAX_POINTER;
use crate::transport::{IfTaken, Name};
use crate::{Error, Key, Pointer, Result, SigningKey, Store, Trust};

impl SharedCaches {
    /// The newest pointer of this name that a trusted key has signed, here or in any cache, and remembers it. One that is
    /// older than what was accepted before is followed only where `roll_back` says so.
    pub fn pointer(&self, store: &Store, name: &Name, roll_back: bool) -> Result<Option<Pointer>> {
        let before = floor(store, &self.trust, name)?;
        if self.trust.keys().next().is_none() {
            return Ok(before);
        }
        let newest = self
            .ask(name, MAX_POINTER)
            .into_iter()
            .filter_map(|(at, bytes)| Some((at, self.signed(&self.caches[at], name, &bytes?)?)))
            .max_by_key(|(at, pointer)| (pointer.epoch(), std::cmp::Reverse(*at)));
        let Some((at, newest)) = newest else { return Ok(before) };
        match accept(store, &self.trust, name, &newest, roll_back)? {
            Accepted::Same | Accepted::Newer => Ok(Some(newest)),
            Accepted::Older { floor, why } => {
                let cache = &self.caches[at];
                (cache.say)(&format!(
                    "warning: shared cache {}: {} is not followed: {why}",
                    cache.url,
                    name.path()
                ));
                Ok(Some(floor))
            }
        }
    }

    fn signed(&self, cache: &Arc<SharedCache>, name: &Name, bytes: &[u8]) -> Option<Pointer> {
        let pointer = match Pointer::parse(&cache.origin(name), name, bytes) {
            Ok(pointer) => pointer,
            Err(error) => {
                cache.lied(name, &error);
                return None;
            }
        };
        match self.trust.vouch_one(pointer.envelope()) {
            Ok(()) => Some(pointer),
            Err(distrust) => {
                cache.distrusted(name, &distrust);
                None
            }
        }
    }

    /// Makes the pointer of this name in a cache lead to a key, with this host's signature; without a signer, to where the
    /// store's own pointer leads, if that is newer.
    pub fn point(
        &self,
        cache: &Arc<SharedCache>,
        store: &Store,
        name: &Name,
        to: Key,
        now: u64,
        signer: Option<&SigningKey>,
    ) -> Result<()> {
        let there = self.there(cache, name)?;
        let pointer = match (there, signer) {
            (Some(mut there), Some(signer)) if there.key() == to => {
                if !there.sign(signer) {
                    return Ok(());
                }
                there
            }
            (there, Some(signer)) => {
                point_here(store, name, to, now, there.map(|pointer| pointer.epoch()), signer)?
            }
            (there, None) => match floor(store, &self.trust, name)? {
                Some(here) if there.is_none_or(|there| there.epoch() < here.epoch()) => here,
                _ => return Ok(()),
            },
        };
        let bytes = pointer.encode()?;
        cache
            .call(|transport| transport.put(name, &bytes, IfTaken::Replace))
            .map_err(|trouble| cache.failed(trouble))?;
        store.point(name, &pointer)
    }

    /// The pointer that a cache has, if anybody could use it.
    fn there(&self, cache: &Arc<SharedCache>, name: &Name) -> Result<Option<Pointer>> {
        let bytes = cache
            .call(|transport| transport.get(name, MAX_POINTER, &|_| ()))
            .map_err(|trouble| cache.failed(trouble))?;
        let pointer = bytes.and_then(|bytes| Pointer::parse(&cache.origin(name), name, &bytes).ok());
        Ok(pointer.filter(|pointer| self.trust.vouch_one(pointer.envelope()).is_ok()))
    }
}

/// What became of a pointer from elsewhere.
pub(crate) enum Accepted {
    /// It is the one that was accepted before.
    Same,
    /// It is the store's own now.
    Newer,
    /// The one that was accepted before stays.
    Older {
        /// That one.
        floor: Pointer,
        /// In words.
        why: String,
    },
}

/// Remembers a pointer that a trusted key has signed, unless it is older than what was accepted before.
pub(crate) fn accept(
    store: &Store,
    trust: &Trust,
    name: &Name,
    pointer: &Pointer,
    roll_back: bool,
) -> Result<Accepted> {
    match floor(store, trust, name)? {
        Some(floor) if pointer.agrees_with(&floor) => return Ok(Accepted::Same),
        Some(floor) if pointer.epoch() <= floor.epoch() && !roll_back => {
            let (new, old) = (pointer.epoch(), floor.epoch());
            let why = format!("it is older than what was accepted before (epoch {new}, not {old})");
            return Ok(Accepted::Older { floor, why });
        }
        _ => {}
    }
    store.point(name, pointer)?;
    Ok(Accepted::Newer)
}

/// What was accepted before. What a key has signed that is trusted no more does not count, nor does damage.
fn floor(store: &Store, trust: &Trust, name: &Name) -> Result<Option<Pointer>> {
    match store.pointer(name) {
        Ok(floor) => Ok(floor.filter(|floor| trust.vouch_one(floor.envelope()).is_ok())),
        Err(Error::Damaged { .. } | Error::Entry { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the store's own pointer of this name lead to a key, with an epoch above `than` and above its last one.
pub fn point_here(
    store: &Store,
    name: &Name,
    to: Key,
    now: u64,
    than: Option<u64>,
    signer: &SigningKey,
) -> Result<Pointer> {
    let here = match store.pointer(name) {
        Err(Error::Damaged { .. } | Error::Entry { .. }) => None,
        here => here?,
    };
    match here {
        Some(pointer)
            if pointer.key() == to
                && pointer.envelope().is_signed_by(signer.public())
                && than.is_none_or(|than| pointer.epoch() > than) =>
        {
            Ok(pointer)
        }
        here => {
            let before = here.map(|pointer| pointer.epoch()).max(than);
            let epoch = before.map_or(now, |before| now.max(before.saturating_add(1)));
            let pointer = Pointer::new(name, to, epoch, signer)?;
            store.point(name, &pointer)?;
            Ok(pointer)
        }
    }
}
