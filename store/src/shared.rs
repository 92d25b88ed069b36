//! Shared caches: where other hosts' entries are fetched from, and this host's are pushed to.
//!
//! A shared cache can make things slower, never wrong, and slower only within bounds. What it says is believed as far as
//! trusted keys have signed it, and every object must have the digest and size that a signed entry gives it. What is
//! missing, slow, broken or hostile is passed over for the next cache, and said in one line.
//!
//! ```text
//! fetch    entry, asked of all caches at once   the first by priority that is signed well enough
//!          objects, eight at a time             from the cache that had the entry, else from any other
//!          into the store                       objects first, each verified, then the entry
//! detached a signature of an object, from the first cache by priority that has one that fits
//! push     objects, then the entry, then the pointer; what is there stays
//! ```
//! A cache that does not answer is not asked again in this run (`breaker`). An interrupted fetch leaves objects that
//! nothing speaks of; the next one finds them and goes on from there.

mod breaker;
mod detached;
mod fetch;
mod pointers;
mod push;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use breaker::Breaker;

use crate::transport::{Name, Transport, TransportError};
use crate::{Distrust, Error, Notice, Result, Say, Trust};

pub use fetch::Fetched;
pub use pointers::point_here;
pub(crate) use pointers::{Accepted, accept};
pub use push::{Pushed, Sign};

/// Objects that are moved at once. One connection leaves a fast line idle between them; more than this gain nothing.
const AT_ONCE: usize = 8;
/// Lies of one cache that are put up with in one run. Each costs a request and a line.
const LIES: u32 = 3;

/// Pauses before a cache that works is asked again.
const AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_millis(1000)];

/// All shared caches of a run, in order of priority.
pub struct SharedCaches {
    caches: Vec<Arc<SharedCache>>,
    trust: Trust,
}

/// One shared cache.
pub struct SharedCache {
    url: String,
    transport: Arc<dyn Transport>,
    writable: bool,
    breaker: Breaker,
    say: Say,
}

impl SharedCaches {
    /// Caches in order of priority, and whom to trust about what they hold.
    pub fn new(caches: Vec<SharedCache>, trust: Trust) -> SharedCaches {
        SharedCaches { caches: caches.into_iter().map(Arc::new).collect(), trust }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.caches.is_empty()
    }

    /// Whom to trust.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// The caches that are written to.
    pub fn writable(&self) -> impl Iterator<Item = &Arc<SharedCache>> {
        self.caches.iter().filter(|cache| cache.writable)
    }

    /// Lets caches be asked again that were only too slow to answer; whether there are any.
    pub fn forgive(&self) -> bool {
        self.caches.iter().filter(|cache| cache.breaker.forgive()).count() > 0
    }

    /// Whether any cache has answered in this run.
    pub fn have_answered(&self) -> bool {
        self.caches.iter().any(|cache| cache.breaker.has_answered())
    }

    /// Asks all caches for small files at once, and hands the answers on as they come: position and bytes.
    fn ask(&self, name: &Name, limit: u64) -> Receiver<(usize, Option<Vec<u8>>)> {
        let (answers, receiver) = mpsc::channel();
        for (at, cache) in self.caches.iter().enumerate() {
            let (answers, cache, name) = (answers.clone(), cache.clone(), name.clone());
            // Not joined: the answer of a slow cache may not be waited for. Each ends within the transport's bounds.
            std::thread::spawn(move || {
                let bytes = cache.call(|transport| transport.get(&name, limit, &|_| ()));
                let _ = answers.send((at, bytes.ok().flatten())); // nobody waits for it any more
            });
        }
        receiver
    }
}

impl SharedCache {
    /// A cache that is reached by `transport` and called by its URL.
    pub fn new(url: &str, transport: Arc<dyn Transport>, writable: bool, say: Say) -> SharedCache {
        SharedCache { url: url.to_owned(), transport, writable, breaker: Breaker::default(), say }
    }

    /// Its URL, without credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Does something with the cache, unless it has failed too badly before. `act` may be done more than once.
    fn call<T>(
        &self,
        act: impl Fn(&dyn Transport) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let (result, broke) = self.breaker.call(|| self.patiently(|| act(&*self.transport)));
        match (&result, broke) {
            (Err(trouble), true) => (self.say)(&Notice::warning(format!(
                "shared cache {} {trouble}; not queried again in this run",
                self.url
            ))),
            (
                Err(
                    trouble @ (TransportError::Odd(_) | TransportError::Busy(_) | TransportError::TooLong(_)),
                ),
                false,
            ) if !self.breaker.is_broken() => {
                (self.say)(&Notice::warning(format!("shared cache {} {trouble}", self.url)));
            }
            _ => {}
        }
        result
    }

    /// Tries again with a cache that has answered before: where a whole fleet asks at once, one lost answer says little.
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

    /// It held something that cannot be used.
    fn lied(&self, name: &Name, why: &dyn std::fmt::Display) {
        let closed = self.breaker.lied();
        let then = if closed { "; not queried again in this run" } else { "" };
        (self.say)(&Notice::warning(format!(
            "shared cache {}: ignoring {}: {why}{then}",
            self.url,
            name.path()
        )));
    }

    /// It held something that too few have signed whose word counts.
    fn distrusted(&self, name: &Name, distrust: &Distrust) {
        let (url, path) = (&self.url, name.path());
        match distrust {
            // It may be on its way: the second builder is not done yet.
            Distrust::TooFew { .. } => {
                (self.say)(&Notice::info(format!("shared cache {url}: not yet usable: {path}: {distrust}")))
            }
            // Nor can the cache help that it was signed by what was a good key then.
            Distrust::Revoked(_) => {
                (self.say)(&Notice::warning(format!("shared cache {url}: ignoring {path}: {distrust}")))
            }
            _ => self.lied(name, distrust),
        }
    }

    /// Where something of it lies, for messages.
    fn origin(&self, name: &Name) -> PathBuf {
        PathBuf::from(format!("{}/{}", self.url.trim_end_matches('/'), name.path()))
    }

    fn failed(&self, trouble: TransportError) -> Error {
        Error::Shared { url: self.url.clone(), trouble }
    }
}

/// Works on all items, several at once, until one is not to be had or fails.
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
