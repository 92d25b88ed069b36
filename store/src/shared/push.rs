//! Pushing an entry: its objects first, then itself. What is there stays.
//!
//! Of two builders of one key the second adds its signature to the first's entry, if its own build has the same outputs:
//! that is what a threshold asks for. If the outputs differ, one of the two is wrong, or the build is not reproducible;
//! the first stays, and it is said.

use std::sync::Arc;

use super::{SharedCache, SharedCaches, each};
use crate::envelope::MAX_FILE;
use crate::transport::{IfTaken, Name};
use crate::{Entry, Error, Notice, Output, Result, Role, SigningKey, Store};

/// Who signs what is pushed.
#[derive(Clone, Copy)]
pub enum Sign<'a> {
    /// This host, with this key.
    With {
        /// The key.
        key: &'a SigningKey,
        /// Sign also what others have made. A signature says "I have built this, and it came out so": two of them say that
        /// two hosts have built it only as long as nobody does that.
        adopt: bool,
    },
    /// Nobody: only what somebody has signed is pushed.
    Signed,
    /// Nobody: also what nobody has signed is pushed.
    Unsigned,
}

impl<'a> Sign<'a> {
    /// The key that signs an entry, if one does.
    pub fn key(&self, entry: &Entry) -> Option<&'a SigningKey> {
        match *self {
            Sign::With { key, adopt } => Some(key).filter(|key| adopt || entry.is_made_by(key.public())),
            Sign::Signed | Sign::Unsigned => None,
        }
    }
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

/// What a cache has under a key.
enum There {
    Nothing,
    /// Something that nobody could use.
    Worthless,
    Entry(Box<Entry>),
}

impl SharedCaches {
    /// Pushes an entry of the store to a cache.
    pub fn push(&self, cache: &Arc<SharedCache>, store: &Store, entry: &Entry, sign: Sign) -> Result<Pushed> {
        let mut entry = entry.clone();
        let key = sign.key(&entry);
        if key.is_some_and(|key| entry.sign(key)) {
            store.replace(&entry)?;
        }
        if entry.envelope().signatures().is_empty() && !matches!(sign, Sign::Unsigned) {
            return Err(Error::Unsigned { key: entry.manifest().key });
        }
        let name = Name::Entry(entry.manifest().key);
        let if_taken = match self.entry_there(cache, &name, &entry, sign)? {
            There::Entry(there) => return join(cache, &name, &entry, *there, key),
            There::Nothing => IfTaken::Keep,
            There::Worthless => IfTaken::Replace,
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
        if put(cache, &name, &entry, if_taken)? {
            return Ok(Pushed::New);
        }
        // Somebody was faster.
        match self.entry_there(cache, &name, &entry, sign)? {
            There::Entry(there) => join(cache, &name, &entry, *there, key),
            There::Nothing | There::Worthless => {
                put(cache, &name, &entry, IfTaken::Replace).map(|_| Pushed::New)
            }
        }
    }

    /// The entry that is there, if anybody could use it. Else it is replaced, which is said.
    fn entry_there(&self, cache: &Arc<SharedCache>, name: &Name, entry: &Entry, sign: Sign) -> Result<There> {
        let bytes = cache
            .call(|transport| transport.get(name, MAX_FILE, &|_| ()))
            .map_err(|trouble| cache.failed(trouble))?;
        let Some(bytes) = bytes else { return Ok(There::Nothing) };
        let worthless = |why: &dyn std::fmt::Display| {
            (cache.say)(&Notice::info(format!(
                "shared cache {}: replacing {}: {why}",
                cache.url,
                name.path()
            )));
            Ok(There::Worthless)
        };
        let there = match Entry::parse(&cache.origin(name), &entry.manifest().key, &bytes) {
            Ok(there) => there,
            Err(error) => return worthless(&error),
        };
        let own = matches!(sign, Sign::With { key, .. } if there.envelope().is_signed_by(key.public()));
        if own || there == *entry || matches!(sign, Sign::Unsigned) {
            return Ok(There::Entry(Box::new(there)));
        }
        match self.trust.vouch_one(there.envelope()) {
            Ok(()) => Ok(There::Entry(Box::new(there))),
            Err(distrust) => worthless(&distrust),
        }
    }
}

/// The outputs that are to be pushed: all, less those on demand that this host has not.
fn here<'e>(store: &Store, entry: &'e Entry) -> Result<Vec<&'e Output>> {
    let mut here: Vec<&Output> = entry.manifest().needed().collect();
    for output in entry.manifest().outputs.iter().filter(|output| output.role == Role::Debug) {
        if store.has_object(&output.digest)? {
            here.push(output);
        }
    }
    Ok(here)
}

/// Adds what this host knows to the entry that is there.
fn join(
    cache: &Arc<SharedCache>,
    name: &Name,
    entry: &Entry,
    mut there: Entry,
    key: Option<&SigningKey>,
) -> Result<Pushed> {
    let builder = there.manifest().builder.clone();
    if there.manifest().observed != entry.manifest().observed {
        return Ok(Pushed::Present); // an answer for hosts unlike this one
    }
    if !there.manifest().agrees_with(entry.manifest()) {
        return Ok(Pushed::Conflict(builder));
    }
    let merged = there.merge(entry);
    if !key.is_some_and(|key| there.sign(key)) && !merged {
        return Ok(Pushed::Present);
    }
    put(cache, name, &there, IfTaken::Replace)?;
    Ok(Pushed::Cosigned(builder))
}

fn put(cache: &Arc<SharedCache>, name: &Name, entry: &Entry, if_taken: IfTaken) -> Result<bool> {
    let bytes = entry.encode()?;
    cache.call(|transport| transport.put(name, &bytes, if_taken)).map_err(|trouble| cache.failed(trouble))
}
