//! Pushing an entry: its objects first, then itself. What is there stays.
//!
//! Of two builders of one key the second adds its signature to the first's entry, if its own build has the same outputs:
//! that is what a threshold asks for. If the outputs differ, one of the two is wrong, or the build is not reproducible;
//! the first stays, and it is said.

use std::sync::Arc;

use super::{SharedCache, SharedCaches, each};
use crate::envelope::MAX_FILE;
use crate::transport::{IfTaken, Name};
use crate::{Entry, Error, Result, SigningKey, Store};

/// Who signs what is pushed.
#[derive(Clone, Copy)]
pub enum Sign<'a> {
    /// This key.
    With(&'a SigningKey),
    /// Nobody: only what somebody has signed is pushed.
    Signed,
    /// Nobody: also what nobody has signed is pushed.
    Unsigned,
}

/// What pushing came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// The entry is there now.
    New,
    /// It was there.
    Present,
    /// It was there, made by this builder; a signature was added to it.
    Cosigned(String),
    /// Another entry is there, made by this builder, with other outputs. It stays.
    Conflict(String),
}

impl SharedCaches {
    /// Pushes an entry of the store to a cache.
    pub fn push(&self, cache: &Arc<SharedCache>, store: &Store, entry: &Entry, sign: Sign) -> Result<Pushed> {
        let mut entry = entry.clone();
        match sign {
            Sign::With(key) => {
                if entry.sign(key) {
                    store.replace(&entry)?;
                }
            }
            Sign::Signed if entry.envelope().signatures().is_empty() => {
                return Err(Error::Unsigned { key: entry.manifest().key });
            }
            Sign::Signed | Sign::Unsigned => {}
        }
        let name = Name::Entry(entry.manifest().key);
        if let Some(there) = self.there(cache, &name, &entry, sign)? {
            return self.join(cache, &name, &entry, there, sign);
        }
        let outputs = &entry.manifest().outputs;
        each(outputs, |output| {
            let missing = || Error::Entry {
                path: store.dir().join(name.path()),
                reason: format!("the object of its output `{}` is missing", output.name),
            };
            let zstd = store.compressed_object(&output.digest, output.size)?.ok_or_else(missing)?;
            let name = Name::Object { of: entry.manifest().key, digest: output.digest };
            cache
                .call(|transport| transport.put(&name, &zstd, IfTaken::Keep))
                .map_err(|trouble| cache.failed(trouble))?;
            Ok(true)
        })?;
        if put(cache, &name, &entry, IfTaken::Keep)? {
            return Ok(Pushed::New);
        }
        // Somebody was faster, or what is there is worthless.
        match self.there(cache, &name, &entry, sign)? {
            Some(there) => self.join(cache, &name, &entry, there, sign),
            None => put(cache, &name, &entry, IfTaken::Replace).map(|_| Pushed::New),
        }
    }

    /// The entry that is there, if anybody could use it.
    fn there(
        &self,
        cache: &Arc<SharedCache>,
        name: &Name,
        entry: &Entry,
        sign: Sign,
    ) -> Result<Option<Entry>> {
        let bytes = cache
            .call(|transport| transport.get(name, MAX_FILE, &|_| ()))
            .map_err(|trouble| cache.failed(trouble))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let there = match Entry::parse(&cache.origin(name), &entry.manifest().key, &bytes) {
            Ok(there) => there,
            Err(error) => {
                cache.lied(name, &error);
                return Ok(None);
            }
        };
        let worth = there == *entry
            || matches!(sign, Sign::Unsigned)
            || self.trust.vouch_one(there.envelope()).is_ok();
        if !worth {
            cache.lied(name, &"nobody who is trusted has signed it");
        }
        Ok(worth.then_some(there))
    }

    /// Adds what this host knows to the entry that is there.
    fn join(
        &self,
        cache: &Arc<SharedCache>,
        name: &Name,
        entry: &Entry,
        mut there: Entry,
        sign: Sign,
    ) -> Result<Pushed> {
        let builder = there.manifest().builder.clone();
        if !there.manifest().agrees_with(entry.manifest()) {
            return Ok(Pushed::Conflict(builder));
        }
        let merged = there.merge(entry);
        let signed = matches!(sign, Sign::With(key) if there.sign(key));
        if !merged && !signed {
            return Ok(Pushed::Present);
        }
        put(cache, name, &there, IfTaken::Replace)?;
        Ok(Pushed::Cosigned(builder))
    }
}

fn put(cache: &Arc<SharedCache>, name: &Name, entry: &Entry, if_taken: IfTaken) -> Result<bool> {
    let bytes = entry.encode()?;
    cache.call(|transport| transport.put(name, &bytes, if_taken)).map_err(|trouble| cache.failed(trouble))
}
