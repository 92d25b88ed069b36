//! What a run works with besides its settings: the shared caches, keys, the sandbox's means, the clock, and the
//! receiver of its messages. Unlike a setting, each of these acts or changes while the run lasts, and a test passes in
//! its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use kcache_kernel::sandbox::{Entrance, Groups, Identities};
use kcache_store::{Distrust, Entry, SharedCaches, SigningKey};

use crate::run::progress::Progress;
use crate::run::signing::Signing;

/// The services of one run.
pub struct Services {
    /// The shared caches, and the trusted keys.
    pub caches: SharedCaches,
    /// The key that signs entries; `None` if this host is not a builder.
    pub signer: Option<SigningKey>,
    /// The key that signs modules when they are installed; `None` if they are not signed.
    pub signing: Option<Signing>,
    /// Provides the users that builds run as.
    pub identities: Identities,
    /// The program that is executed first in sandboxes.
    pub entrance: Arc<Entrance>,
    /// The control group for builds, determined at first use; `None` if there is none.
    pub control_groups: LazyLock<Option<Groups>>,
    /// The wall clock, in seconds since 1970.
    pub now: fn() -> u64,
    /// Memory that builds can still get, in bytes, if known.
    pub available_memory: fn() -> Option<u64>,
    /// Cancels the run when set.
    pub cancel: Arc<AtomicBool>,
    /// Receives messages and progress.
    pub progress: Arc<dyn Progress>,
}

impl Services {
    /// The control group for builds, if any.
    pub fn groups(&self) -> Option<&Groups> {
        self.control_groups.as_ref()
    }

    /// Whether kcache is root, and builds are not.
    pub fn is_root(&self) -> bool {
        matches!(self.identities, Identities::Drop(_))
    }

    /// Whether the run was cancelled.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Why an entry of the store must not be used: it came from another host, and its signers are no longer trusted.
    /// Entries built here have no other signature than this host's.
    pub fn distrusts(&self, entry: &Entry) -> Option<Distrust> {
        if self.made(entry) { None } else { self.caches.trust().verify(entry.envelope()).err() }
    }

    /// Whether this host built an entry of the store.
    pub fn made(&self, entry: &Entry) -> bool {
        let envelope = entry.envelope();
        let own = || self.signer.as_ref().is_some_and(|signer| envelope.is_signed_by(signer.public()));
        envelope.signatures().is_empty() || own()
    }
}
