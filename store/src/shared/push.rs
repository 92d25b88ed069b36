//! Pushing an entry: its objects first, then the entry. Existing entries are kept.
//!
//! If two builders built one key with the same outputs, the second adds its signature to the first's entry, as a
//! threshold requires. If the outputs differ, one of the two is wrong, or the build is not reproducible: this is a
//! conflict. The first entry is kept, and the conflict is reported.

use std::sync::Arc;

use super::{SharedCache, SharedCaches, Written, each};
use crate::envelope::MAX_FILE;
use crate::transport::{IfTaken, Name};
use crate::{Distrust, Entry, Error, Notice, Output, Result, Role, SigningKey, Store};

/// Which entries to sign before they are pushed.
#[derive(Clone, Copy)]
pub enum SignEntry<'a> {
    /// Sign with this host's key.
    With {
        /// The signing key.
        key: &'a SigningKey,
        /// Also sign entries that other hosts built. A signature means "I built this, with these outputs": two
        /// signatures mean two builds only if nobody does this.
        adopt: bool,
    },
    /// Do not sign; push only entries that are signed.
    Signed,
    /// Do not sign; also push unsigned entries.
    Unsigned,
}

impl<'a> SignEntry<'a> {
    /// The key to sign an entry with, if any.
    pub fn key(&self, entry: &Entry) -> Option<&'a SigningKey> {
        match *self {
            SignEntry::With { key, adopt } => Some(key).filter(|key| adopt || entry.is_made_by(key.public())),
            SignEntry::Signed | SignEntry::Unsigned => None,
        }
    }
}

/// Result of a push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pushed {
    /// The entry was added.
    New,
    /// The same entry existed.
    Present,
    /// The same entry existed, from this builder; a signature was added.
    Cosigned(String),
    /// Another entry with other outputs exists, from this builder, and is kept.
    Conflict(String),
}

/// What a cache has under a key.
pub(super) enum There {
    Nothing,
    /// A file that no client would use, and why.
    Worthless(String),
    Entry(Box<Entry>),
    /// An entry of a builder that this host does not know, and others may trust, which says what this host says.
    OfStranger(Box<Entry>),
}

impl SharedCaches {
    /// Pushes an entry of the store to a cache, signing it first if `sign` says so.
    ///
    /// # Errors
    ///
    /// [`Error::Shared`] if the cache fails, [`Error::Unsigned`] for an unsigned entry without [`SignEntry::Unsigned`].
    pub fn push(
        &self,
        cache: &Arc<SharedCache>,
        store: &Store,
        entry: &Entry,
        sign: SignEntry,
    ) -> Result<Pushed> {
        let mut entry = entry.clone();
        let key = sign.key(&entry);
        if key.is_some_and(|key| entry.sign(key)) {
            store.replace(&entry)?;
        }
        if entry.envelope().signatures().is_empty() && !matches!(sign, SignEntry::Unsigned) {
            return Err(Error::Unsigned { key: entry.manifest().key });
        }
        let name = Name::Entry(entry.manifest().key);
        let mut stranger = None;
        let if_taken = match self.entry_there(cache, &name, &entry, sign)? {
            There::Entry(there) => return join(cache, &name, &entry, *there, key),
            There::OfStranger(there) => {
                // Both sign it, so that nobody loses what they trust. This host's objects are what its signature is for.
                stranger = Some(there);
                IfTaken::Keep
            }
            There::Nothing => IfTaken::Keep,
            There::Worthless(why) => {
                cache.replacing(&name, &why);
                IfTaken::Replace
            }
        };
        each(&here(store, &entry)?, |output| {
            let missing = || Error::Entry {
                path: store.dir().join(name.path()),
                reason: format!("the object of output `{}` is missing", output.name),
            };
            let zstd = store.compressed_object(&output.digest, output.size)?.ok_or_else(missing)?;
            let name = Name::Object { of: entry.manifest().key, digest: output.digest };
            cache
                .call(|transport| transport.put(&name, &zstd, IfTaken::Keep))
                .map_err(|trouble| cache.failed(trouble))?;
            Ok(true)
        })?;
        if let Some(there) = stranger {
            return join(cache, &name, &entry, *there, key);
        }
        if put(cache, &name, &entry, if_taken, key.is_some())? {
            return Ok(Pushed::New);
        }
        // Another process pushed an entry meanwhile.
        match self.entry_there(cache, &name, &entry, sign)? {
            There::Entry(there) | There::OfStranger(there) => join(cache, &name, &entry, *there, key),
            There::Nothing | There::Worthless(_) => {
                put(cache, &name, &entry, IfTaken::Replace, key.is_some()).map(|_| Pushed::New)
            }
        }
    }

    /// The cache's entry, if any client would use it.
    pub(super) fn entry_there(
        &self,
        cache: &Arc<SharedCache>,
        name: &Name,
        entry: &Entry,
        sign: SignEntry,
    ) -> Result<There> {
        let bytes = cache
            .call(|transport| transport.get(name, MAX_FILE, &|_| ()))
            .map_err(|trouble| cache.failed(trouble))?;
        let Some(bytes) = bytes else { return Ok(There::Nothing) };
        let there = match Entry::parse(&cache.origin(name), &entry.manifest().key, &bytes) {
            Ok(there) => there,
            Err(error) => return Ok(There::Worthless(error.to_string())),
        };
        let own = matches!(sign, SignEntry::With { key, .. } if there.envelope().is_signed_by(key.public()));
        if own || there == *entry || matches!(sign, SignEntry::Unsigned) {
            return Ok(There::Entry(Box::new(there)));
        }
        match self.trust.verify_one(there.envelope()) {
            Ok(()) => Ok(There::Entry(Box::new(there))),
            Err(Distrust::Stranger(_)) if there.manifest().says_the_same_as(entry.manifest()) => {
                Ok(There::OfStranger(Box::new(there)))
            }
            Err(distrust) => Ok(There::Worthless(distrust.to_string())),
        }
    }
}

impl SharedCache {
    fn replacing(&self, name: &Name, why: &str) {
        (self.print)(&Notice::info(format!("shared cache {}: replacing {}: {why}", self.url, name.path())));
    }
}

/// The outputs to push: all but [`crate::Role::Debug`] ones that this host does not have.
fn here<'e>(store: &Store, entry: &'e Entry) -> Result<Vec<&'e Output>> {
    let mut here: Vec<&Output> = entry.manifest().needed().collect();
    for output in entry.manifest().outputs.iter().filter(|output| output.role == Role::Debug) {
        if store.has_object(&output.digest)? {
            here.push(output);
        }
    }
    Ok(here)
}

/// Adds this host's signatures to the cache's entry.
pub(super) fn join(
    cache: &Arc<SharedCache>,
    name: &Name,
    entry: &Entry,
    mut there: Entry,
    key: Option<&SigningKey>,
) -> Result<Pushed> {
    let builder = there.manifest().builder.clone();
    if there.manifest().observed != entry.manifest().observed {
        return Ok(Pushed::Present); // its undeclared inputs differ from this host's
    }
    if !there.manifest().agrees_with(entry.manifest()) {
        return Ok(Pushed::Conflict(builder));
    }
    let merged = there.merge(entry);
    if !key.is_some_and(|key| there.sign(key)) && !merged {
        return Ok(Pushed::Present);
    }
    put(cache, name, &there, IfTaken::Replace, key.is_some())?;
    Ok(Pushed::Cosigned(builder))
}

fn put(
    cache: &Arc<SharedCache>,
    name: &Name,
    entry: &Entry,
    if_taken: IfTaken,
    signed: bool,
) -> Result<bool> {
    let bytes = entry.encode()?;
    let new = cache
        .call(|transport| transport.put(name, &bytes, if_taken))
        .map_err(|trouble| cache.failed(trouble))?;
    if new && signed {
        cache.has_written(Written::Entry(entry.manifest().key));
    }
    Ok(new)
}
