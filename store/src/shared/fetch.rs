//! Fetching an entry and its objects into the store.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Receiver;

use super::{SharedCache, SharedCaches, each};
use crate::envelope::MAX_FILE;
use crate::transport::Name;
use crate::{Entry, Error, Key, Manifest, Notice, Output, Result, Store, object};

/// An entry that was fetched into the store with all its objects.
#[derive(Debug)]
pub struct Fetched {
    /// The entry as stored.
    pub entry: Entry,
    /// URL of the cache that served the entry.
    pub from: String,
    /// Bytes transferred for it.
    pub bytes: u64,
}

impl SharedCaches {
    /// Fetches a key's entry and its objects into the store, from the first cache that has all of them with enough
    /// trusted signatures; `None` if no cache does. `fits` is the caller's check of the manifest, and returns the
    /// reason for refusing it. `heard` is called with the number of bytes received, as they arrive.
    ///
    /// # Errors
    ///
    /// Only errors of the local store: a cache's failure is a warning.
    pub fn fetch(
        &self,
        store: &Store,
        key: &Key,
        now: u64,
        fits: &dyn Fn(&Manifest) -> std::result::Result<(), String>,
        heard: &(dyn Fn(u64) + Sync),
    ) -> Result<Option<Fetched>> {
        for (at, entry, size) in self.entries(key) {
            if let Err(reason) = fits(entry.manifest()) {
                let cache = &self.caches[at];
                let path = Name::Entry(*key).path();
                (cache.print)(&Notice::info(format!(
                    "shared cache {}: ignoring {path}: {reason}",
                    cache.url
                )));
                continue;
            }
            let bytes = AtomicU64::new(size);
            let count = |n| {
                bytes.fetch_add(n, Ordering::Relaxed);
                heard(n);
            };
            if self.objects(store, &entry, at, &count)? {
                store.insert(&entry, now)?;
                let from = self.caches[at].url.clone();
                return Ok(Some(Fetched { entry, from, bytes: bytes.into_inner() }));
            }
        }
        Ok(None)
    }

    /// A key's entry alone, from the first cache that has one with enough trusted signatures that `fits`. Nothing is stored.
    pub fn peek(
        &self,
        key: &Key,
        fits: &dyn Fn(&Manifest) -> std::result::Result<(), String>,
    ) -> Option<Entry> {
        self.find(key, fits).map(|(_, entry)| entry)
    }

    /// The same, with the URL of the cache.
    pub fn find(
        &self,
        key: &Key,
        fits: &dyn Fn(&Manifest) -> std::result::Result<(), String>,
    ) -> Option<(&str, Entry)> {
        let mut entries = self.entries(key).map(|(at, entry, _)| (self.caches[at].url(), entry));
        entries.find(|(_, entry)| fits(entry.manifest()).is_ok())
    }

    /// Fetches an output that is not fetched with its entry ([`crate::Role::Debug`]); false if no cache has it.
    pub fn fetch_output(&self, store: &Store, of: &Key, output: &Output) -> Result<bool> {
        let wanted = Wanted { store, of: *of, output, heard: &|_| () };
        for cache in &self.caches {
            if wanted.from(cache)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The key's entries that enough trusted keys signed, in order of priority: position of the cache, entry, and size
    /// of its file.
    fn entries<'a>(&'a self, key: &'a Key) -> impl Iterator<Item = (usize, Entry, u64)> + 'a {
        let name = Name::Entry(*key);
        let answers = InOrder::new(self.ask(&name, MAX_FILE));
        answers.enumerate().take(self.caches.len()).filter_map(move |(at, bytes)| {
            let bytes = bytes?;
            let entry = self.believed(at, key, &name, &bytes)?;
            Some((at, entry, bytes.len() as u64))
        })
    }

    /// Parses an entry from untrusted bytes and verifies its signatures.
    fn believed(&self, at: usize, key: &Key, name: &Name, bytes: &[u8]) -> Option<Entry> {
        let cache = &self.caches[at];
        let entry = match Entry::parse(&cache.origin(name), key, bytes) {
            Ok(entry) => entry,
            Err(error) => {
                cache.lied(name, &error);
                return None;
            }
        };
        match self.trust.verify(entry.envelope()) {
            Ok(()) => return Some(entry),
            Err(distrust) => cache.distrusted(name, &distrust),
        }
        None
    }

    /// Fetches the objects of an entry that the store lacks; false if one cannot be fetched.
    fn objects(&self, store: &Store, entry: &Entry, at: usize, heard: &(dyn Fn(u64) + Sync)) -> Result<bool> {
        let mut missing: BTreeMap<_, &Output> = BTreeMap::new();
        for output in entry.manifest().needed() {
            if !store.claim_object(&output.digest)? {
                missing.insert(output.digest, output);
            }
        }
        let missing: Vec<&Output> = missing.into_values().collect();
        let of = entry.manifest().key;
        each(&missing, |output| self.object(&Wanted { store, of, output, heard }, at))
    }

    /// Fetches one object, from the cache that had the entry or any other; false if none has it intact.
    fn object(&self, wanted: &Wanted, at: usize) -> Result<bool> {
        let others = (0..self.caches.len()).filter(|other| *other != at);
        for at in std::iter::once(at).chain(others) {
            if wanted.from(&self.caches[at])? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// An object to fetch.
struct Wanted<'a> {
    store: &'a Store,
    /// The entry that references it.
    of: Key,
    output: &'a Output,
    heard: &'a (dyn Fn(u64) + Sync),
}

impl Wanted<'_> {
    /// Fetches it from one cache; false if the cache does not have it intact.
    fn from(&self, cache: &SharedCache) -> Result<bool> {
        let Output { digest, size, .. } = self.output;
        let name = Name::Object { of: self.of, digest: *digest };
        let limit = object::compressed_limit(*size);
        let Ok(Some(zstd)) = cache.call(|transport| transport.get(&name, limit, &|n| (self.heard)(n))) else {
            return Ok(false);
        };
        match self.store.put_compressed(&cache.origin(&name), digest, *size, &zstd) {
            Ok(()) => Ok(true),
            Err(error @ Error::Damaged { .. }) => {
                cache.lied(&name, &error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

/// Sorts answers that arrive in any order; waits for an answer only when its turn comes.
struct InOrder {
    receiver: Receiver<(usize, Option<Vec<u8>>)>,
    early: BTreeMap<usize, Option<Vec<u8>>>,
    next: usize,
}

impl InOrder {
    fn new(receiver: Receiver<(usize, Option<Vec<u8>>)>) -> InOrder {
        InOrder { receiver, early: BTreeMap::new(), next: 0 }
    }
}

impl Iterator for InOrder {
    type Item = Option<Vec<u8>>;

    fn next(&mut self) -> Option<Option<Vec<u8>>> {
        while !self.early.contains_key(&self.next) {
            // All senders are gone, so the missing answers will not arrive.
            let Ok((at, answer)) = self.receiver.recv() else { break };
            self.early.insert(at, answer);
        }
        let answer = self.early.remove(&self.next).flatten();
        self.next += 1;
        Some(answer)
    }
}
