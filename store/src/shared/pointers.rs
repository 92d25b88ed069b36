//! Pointers of shared caches: followed to newer entries only, and updated by builders.
//!
//! ```text
//! followed    a pointer that as many trusted keys signed as an entry needs, at most [`AHEAD`] ahead of this host's clock
//! minimum     the epoch that was last accepted, if a key that is still trusted signed it, and it is not too far ahead
//! superseded  by a builder: a pointer that any trusted key signed and that is not too far ahead
//! ```
//! A pointer too far ahead is ignored: otherwise one stolen key could sign an epoch that no later one exceeds. One
//! that was accepted before this rule existed is followed until there is another, and does not prevent that.

use std::sync::Arc;

use super::{SharedCache, SharedCaches, Written};
use crate::pointer::MAX_POINTER;
use crate::transport::{IfTaken, Name};
use crate::{Distrust, Error, Key, Notice, Pointer, Result, SigningKey, Store, Trust};

/// How far ahead of this host's clock an epoch may be, in seconds: more than builders' clocks deviate, and the longest
/// time for which the holder of a stolen key can block updates.
const AHEAD: u64 = 24 * 3600;

impl SharedCaches {
    /// Fetches the newest pointer of this name that enough trusted keys signed, from the store or any cache, and
    /// stores it. A pointer older than the accepted one is followed only if `roll_back` is set.
    pub fn pointer(&self, store: &Store, name: &Name, roll_back: bool, now: u64) -> Result<Option<Pointer>> {
        let before = here(store, name)?.filter(|before| self.trust.verify(before.envelope()).is_ok());
        if self.trust.keys().next().is_none() {
            return Ok(before);
        }
        let Some((at, newest)) = self.newest(name, now) else { return Ok(before) };
        match accept(store, &self.trust, name, &newest, roll_back, now)? {
            Accepted::Same | Accepted::Newer => Ok(Some(newest)),
            Accepted::Not { why } => {
                not_followed(&self.caches[at], name, &why);
                Ok(before)
            }
        }
    }

    /// The newest pointer of this name that enough trusted keys signed, from any cache. Nothing is stored, and nothing compared with
    /// what was accepted before.
    pub fn peek_pointer(&self, name: &Name, now: u64) -> Option<Pointer> {
        self.newest(name, now).map(|(_, pointer)| pointer)
    }

    fn newest(&self, name: &Name, now: u64) -> Option<(usize, Pointer)> {
        self.ask(name, MAX_POINTER)
            .into_iter()
            .filter_map(|(at, bytes)| Some((at, self.signed(&self.caches[at], name, &bytes?)?)))
            .filter(|(at, pointer)| self.is_near(&self.caches[*at], name, pointer, now))
            .max_by_key(|(at, pointer)| (pointer.epoch(), std::cmp::Reverse(*at)))
    }

    /// Whether an epoch is not too far ahead; warns otherwise.
    fn is_near(&self, cache: &SharedCache, name: &Name, pointer: &Pointer, now: u64) -> bool {
        let why = too_far(pointer, now);
        why.iter().for_each(|why| not_followed(cache, name, why));
        why.is_none()
    }

    fn signed(&self, cache: &Arc<SharedCache>, name: &Name, bytes: &[u8]) -> Option<Pointer> {
        let pointer = match Pointer::parse(&cache.origin(name), name, bytes) {
            Ok(pointer) => pointer,
            Err(error) => {
                cache.lied(name, &error);
                return None;
            }
        };
        match self.trust.verify(pointer.envelope()) {
            Ok(()) => Some(pointer),
            Err(distrust) => {
                cache.distrusted(name, &distrust);
                None
            }
        }
    }

    /// Updates a cache's pointer to refer to `to`, signed with this host's key. Without a signer, pushes the store's
    /// own pointer if it is newer.
    pub fn point(
        &self,
        cache: &Arc<SharedCache>,
        store: &Store,
        name: &Name,
        to: Key,
        now: u64,
        signer: Option<&SigningKey>,
    ) -> Result<()> {
        let there = self.pointer_there(cache, name, to, now)?;
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
            (there, None) => match floor(store, &self.trust, name, now)? {
                Some(here) if there.is_none_or(|there| there.epoch() < here.epoch()) => here,
                _ => return Ok(()),
            },
        };
        let bytes = pointer.encode()?;
        cache
            .call(|transport| transport.put(name, &bytes, IfTaken::Replace))
            .map_err(|trouble| cache.failed(trouble))?;
        if signer.is_some() {
            cache.has_written(Written::Pointer(name.clone(), to));
        }
        store.point(name, &pointer)
    }

    /// A cache's pointer, if any trusted key signed it, or if it is of a builder that this host does not know and leads to the
    /// same entry: then both sign it, so that nobody loses what they trust. One too far ahead does not count.
    pub(super) fn pointer_there(
        &self,
        cache: &Arc<SharedCache>,
        name: &Name,
        to: Key,
        now: u64,
    ) -> Result<Option<Pointer>> {
        let bytes = cache
            .call(|transport| transport.get(name, MAX_POINTER, &|_| ()))
            .map_err(|trouble| cache.failed(trouble))?;
        let pointer = bytes.and_then(|bytes| Pointer::parse(&cache.origin(name), name, &bytes).ok());
        let counts = |pointer: &Pointer| match self.trust.verify_one(pointer.envelope()) {
            Ok(()) => true,
            Err(Distrust::Stranger(_)) => pointer.key() == to,
            Err(_) => false,
        };
        Ok(pointer.filter(|pointer| counts(pointer) && too_far(pointer, now).is_none()))
    }
}

fn not_followed(cache: &SharedCache, name: &Name, why: &str) {
    (cache.print)(&Notice::warning(format!(
        "shared cache {}: ignoring pointer {}: {why}",
        cache.url,
        name.path()
    )));
}

/// Whether an epoch is too far ahead of this host's clock.
pub(super) fn is_ahead(epoch: u64, now: u64) -> bool {
    epoch > now.saturating_add(AHEAD)
}

/// The reason, if an epoch is too far ahead.
fn too_far(pointer: &Pointer, now: u64) -> Option<String> {
    let epoch = pointer.epoch();
    is_ahead(epoch, now)
        .then(|| format!("epoch {epoch} is more than a day ahead of this host's clock ({now})"))
}

/// Result of accepting a pointer.
pub(crate) enum Accepted {
    /// It equals the stored one.
    Same,
    /// It is newer, and stored now.
    Newer,
    /// It was refused.
    Not {
        /// The reason, as text for a message.
        why: String,
    },
}

/// Stores a pointer that enough trusted keys signed, unless it is older than the accepted one or too far ahead.
pub(crate) fn accept(
    store: &Store,
    trust: &Trust,
    name: &Name,
    pointer: &Pointer,
    roll_back: bool,
    now: u64,
) -> Result<Accepted> {
    if let Some(why) = too_far(pointer, now) {
        return Ok(Accepted::Not { why });
    }
    match floor(store, trust, name, now)? {
        // Other keys may have signed it since, which the threshold requires.
        Some(floor) if pointer.agrees_with(&floor) && trust.verify(floor.envelope()).is_ok() => {
            return Ok(Accepted::Same);
        }
        Some(floor) if pointer.agrees_with(&floor) => {}
        Some(floor) if pointer.epoch() <= floor.epoch() && !roll_back => {
            let (new, old) = (pointer.epoch(), floor.epoch());
            let why = format!(
                "not newer than the accepted pointer (epoch {new}, accepted {old}): possible rollback attack; use --allow-rollback to accept it"
            );
            return Ok(Accepted::Not { why });
        }
        _ => {}
    }
    store.point(name, pointer)?;
    Ok(Accepted::Newer)
}

/// The pointer below whose epoch none is accepted: the stored one, unless its keys are no longer trusted or it is too
/// far ahead.
fn floor(store: &Store, trust: &Trust, name: &Name, now: u64) -> Result<Option<Pointer>> {
    let counts =
        |floor: &Pointer| trust.verify_one(floor.envelope()).is_ok() && too_far(floor, now).is_none();
    Ok(here(store, name)?.filter(counts))
}

/// The pointer accepted last, unless its file is corrupt.
fn here(store: &Store, name: &Name) -> Result<Option<Pointer>> {
    match store.pointer(name) {
        Err(Error::Damaged { .. } | Error::Entry { .. }) => Ok(None),
        here => here,
    }
}

/// Updates the store's own pointer to refer to a key, with an epoch above `than` and above its previous one.
pub fn point_here(
    store: &Store,
    name: &Name,
    to: Key,
    now: u64,
    than: Option<u64>,
    signer: &SigningKey,
) -> Result<Pointer> {
    match here(store, name)?.filter(|here| too_far(here, now).is_none()) {
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
