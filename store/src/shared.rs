//! Shared caches: fetching other hosts' entries, and pushing this host's.
//!
//! A shared cache can slow kcache down within bounds, but cannot make it wrong. What it serves is used only if trusted
//! keys signed it, and every object must have the digest and size from a signed entry. If a cache is slow, fails,
//! lacks something or is malicious, the next cache is used, and there is one line of warning.
//!
//! ```text
//! fetch      the entry from all caches at once         the first by priority with enough trusted signatures
//!            objects, eight at a time                  from the cache that had the entry, else from any other
//!            into the store                            objects first, each verified, then the entry
//! signature  a detached signature of an object         from the first cache by priority whose signature is valid
//! push       objects, then the entry, then the pointer; existing ones are kept
//! confirm    at the end of a run, what others have overwritten is signed again
//! offer      the builder's public key, for hosts to compare and take
//! ```
//! A cache that does not answer is not queried again in this run (`breaker`). An interrupted fetch leaves unreferenced
//! objects; the next one finds them and continues from there.

mod breaker;
mod builders;
mod confirm;
mod detached;
mod fetch;
mod pointers;
mod push;
mod site;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use breaker::Breaker;

use crate::transport::{Name, Transport, TransportError};
use crate::{Distrust, Error, Key, Notice, Result, Say, SiteContent, Trust};

pub use builders::offered;
pub use fetch::Fetched;
pub use pointers::point_here;
pub(crate) use pointers::{Accepted, accept};
pub use push::{Pushed, SignEntry};
pub(crate) use site::accept_site;
pub use site::{Published, offered_site};

/// Objects that are transferred concurrently. One connection leaves a fast line idle between objects; more than eight
/// gain nothing.
const AT_ONCE: usize = 8;
/// Unusable files that one cache may serve in one run. Each costs a request and a warning.
const LIES: u32 = 3;

/// Pauses before a request is repeated to a cache that has answered before.
const AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(1000)];

/// All shared caches of a run, in order of priority.
pub struct SharedCaches {
    caches: Vec<Arc<SharedCache>>,
    trust: Trust,
}

/// One shared cache, with its circuit breaker.
pub struct SharedCache {
    url: String,
    transport: Arc<dyn Transport>,
    writable: bool,
    breaker: Breaker,
    /// Files that no trusted key signed.
    distrusted: Mutex<BTreeSet<String>>,
    /// Written in this run, with this host's signature.
    written: Mutex<Vec<Written>>,
    print: Say,
}

/// What this host wrote to a cache in this run, with its signature.
#[derive(Clone)]
enum Written {
    /// The entry of this key.
    Entry(Key),
    /// A pointer, and where it leads.
    Pointer(Name, Key),
    /// A site file of this content.
    Site(Arc<SiteContent>),
}

/// What became of one shared cache in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheState {
    /// No request was made.
    NotAsked,
    /// It answers.
    Answered,
    /// It is not queried any more, for this reason.
    Unreachable(String),
}

impl SharedCaches {
    /// Combines caches, in order of priority, with the keys to trust.
    pub fn new(caches: Vec<SharedCache>, trust: Trust) -> SharedCaches {
        SharedCaches { caches: caches.into_iter().map(Arc::new).collect(), trust }
    }

    /// Whether no cache is configured.
    pub fn is_empty(&self) -> bool {
        self.caches.is_empty()
    }

    /// The trusted keys, and the threshold.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The caches to push to.
    pub fn writable(&self) -> impl Iterator<Item = &Arc<SharedCache>> {
        self.caches.iter().filter(|cache| cache.writable)
    }

    /// Allows caches that were only too slow to be queried again; false if there are none.
    pub fn forgive(&self) -> bool {
        self.caches.iter().filter(|cache| cache.breaker.forgive()).count() > 0
    }

    /// The caches' URLs, with what became of each in this run.
    pub fn states(&self) -> Vec<(&str, CacheState)> {
        self.caches.iter().map(|cache| (cache.url(), cache.breaker.state_now())).collect()
    }

    /// Whether any cache has had a file of this name that no trusted key signed. One that still lacks a second signature does
    /// not count.
    pub fn have_distrusted(&self, name: &Name) -> bool {
        let has = |cache: &Arc<SharedCache>| {
            cache.distrusted.lock().unwrap_or_else(PoisonError::into_inner).contains(&name.path())
        };
        self.caches.iter().any(has)
    }

    /// Whether any cache has answered in this run.
    pub fn have_answered(&self) -> bool {
        self.caches.iter().any(|cache| cache.breaker.has_answered())
    }

    /// Requests a small file from all caches concurrently. Receives the cache's position and the bytes, in order of
    /// arrival.
    fn ask(&self, name: &Name, limit: u64) -> Receiver<(usize, Option<Vec<u8>>)> {
        let (answers, receiver) = mpsc::channel();
        for (at, cache) in self.caches.iter().enumerate() {
            let (answers, cache, name) = (answers.clone(), cache.clone(), name.clone());
            // Not joined, so that nobody waits for a slow cache. Each thread ends within the transport's bounds.
            std::thread::spawn(move || {
                let bytes = cache.call(|transport| transport.get(&name, limit, &|_| ()));
                let _ = answers.send((at, bytes.ok().flatten())); // the receiver may be gone
            });
        }
        receiver
    }
}

impl SharedCache {
    /// Makes a cache from its transport. `url` names it in messages.
    pub fn new(url: &str, transport: Arc<dyn Transport>, writable: bool, print: Say) -> SharedCache {
        SharedCache {
            url: url.to_owned(),
            transport,
            writable,
            breaker: Breaker::default(),
            distrusted: Mutex::default(),
            written: Mutex::default(),
            print,
        }
    }

    /// The cache's URL, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Makes a request, unless the circuit breaker is open. `act` may be called several times.
    fn call<T>(
        &self,
        act: impl Fn(&dyn Transport) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let (result, broke) = self.breaker.call(|| self.patiently(|| act(&*self.transport)));
        match (&result, broke) {
            (Err(trouble), true) => (self.print)(&Notice::warning(format!(
                "shared cache {} {trouble}; not queried again in this run",
                self.url
            ))),
            (
                Err(
                    trouble @ (TransportError::Odd(_) | TransportError::Busy(_) | TransportError::TooLong(_)),
                ),
                false,
            ) if !self.breaker.is_broken() => {
                (self.print)(&Notice::warning(format!("shared cache {} {trouble}", self.url)));
            }
            _ => {}
        }
        result
    }

    /// Retries if the cache has answered before: when a whole fleet sends requests at once, one lost answer means
    /// little.
    fn patiently<T>(&self, act: impl Fn() -> Result<T, TransportError>) -> Result<T, TransportError> {
        let mut result = act();
        for pause in AGAIN {
            let busy = matches!(
                result,
                Err(TransportError::Silent(_) | TransportError::Unreachable(_) | TransportError::Busy(_))
            );
            if !busy || !self.breaker.works() {
                break;
            }
            std::thread::sleep(pause);
            result = act();
        }
        result
    }

    /// Records what has to be confirmed at the end of the run.
    fn has_written(&self, written: Written) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).push(written);
    }

    /// Records that the cache served an unusable file, and warns.
    fn lied(&self, name: &Name, why: &dyn std::fmt::Display) {
        let closed = self.breaker.lied();
        let then = if closed { "; not queried again in this run" } else { "" };
        (self.print)(&Notice::warning(format!(
            "shared cache {}: ignoring {}: {why}{then}",
            self.url,
            name.path()
        )));
    }

    /// Records that the cache served a document without enough trusted signatures.
    fn distrusted(&self, name: &Name, distrust: &Distrust) {
        let (url, path) = (&self.url, name.path());
        if !matches!(distrust, Distrust::TooFew { .. }) {
            self.distrusted.lock().unwrap_or_else(PoisonError::into_inner).insert(path.clone());
        }
        match distrust {
            // A second builder may still be about to sign.
            Distrust::TooFew { .. } => {
                (self.print)(&Notice::info(format!("shared cache {url}: not yet usable: {path}: {distrust}")))
            }
            // The cache is not at fault: the key was trusted when this was signed.
            Distrust::Revoked(_) => {
                (self.print)(&Notice::warning(format!("shared cache {url}: ignoring {path}: {distrust}")))
            }
            _ => self.lied(name, distrust),
        }
    }

    /// URL of a name, for messages.
    fn origin(&self, name: &Name) -> PathBuf {
        PathBuf::from(format!("{}/{}", self.url.trim_end_matches('/'), name.path()))
    }

    fn failed(&self, trouble: TransportError) -> Error {
        Error::Shared { url: self.url.clone(), trouble }
    }
}

/// Calls `act` for all items, several concurrently, until one returns false or fails.
fn each<T: Sync>(items: &[T], act: impl Fn(&T) -> Result<bool> + Sync) -> Result<bool> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || -> Result<bool> {
        while let Some(item) = items.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            match act(item) {
                Ok(true) => {}
                other => {
                    next.store(items.len(), std::sync::atomic::Ordering::Relaxed);
                    return other;
                }
            }
        }
        Ok(true)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE.min(items.len())).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or(Ok(false)))
            .try_fold(true, |all, one| Ok(all && one?))
    })
}

#[cfg(test)]
mod tests;
