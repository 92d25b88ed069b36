//! The context of a run: passed in once, so that nothing below it reads the environment, the wall clock or the home
//! directory, and tests need none of them. Time limits and durations use the monotonic clock.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::{Entrance, Groups, Identities, Limits};
use kcache_store::{Distrust, Entry, SharedCaches, SigningKey, Store, Waiting};

use crate::run::policy::{OtherTools, Policy};
use crate::run::progress::Progress;
use crate::run::select::Elsewhere;
use crate::run::signing::Signing;

/// The context of one run.
pub struct Context {
    /// The target system.
    pub root: Root,
    /// Directory of the store.
    pub store: PathBuf,
    /// Directory for temporary files that must not be in the store: of a dry run, or for a read-only store.
    pub temporary: PathBuf,
    /// Path of `bwrap`.
    pub bwrap: PathBuf,
    /// Path of `depmod`.
    pub depmod: PathBuf,
    /// Run depmod even if indexes can be updated without it.
    pub always_depmod: bool,
    /// Whether builds run the compiler through ccache.
    pub launches_ccache: bool,
    /// Provides the users that builds run as.
    pub identities: Identities,
    /// The program that is executed first in sandboxes.
    pub entrance: Arc<Entrance>,
    /// Resource limits of each build.
    pub limits: Limits,
    /// The control group for builds, determined at first use; `None` if there is none.
    pub control_groups: LazyLock<Option<Groups>>,
    /// Limit on concurrent compilers over all builds.
    pub jobs: usize,
    /// Time limit of one build.
    pub build_limit: Duration,
    /// How long to wait for a concurrent kcache.
    pub lock_limit: Duration,
    /// This host's name in entries, for people.
    pub builder: String,
    /// The key that signs entries; `None` if this host is not a builder.
    pub signer: Option<SigningKey>,
    /// The key that signs modules when they are installed; `None` if they are not signed.
    pub signing: Option<Signing>,
    /// The shared caches, and the trusted keys.
    pub caches: SharedCaches,
    /// Packages that may be installed without their source.
    pub elsewhere: Elsewhere,
    /// Release or image path of the kernel to boot, if the boot loader's files do not tell.
    pub default_kernel: Option<String>,
    /// The need of packages for kernels.
    pub policy: Policy,
    /// Whether builds by other tools than this host's are used.
    pub other_tools: OtherTools,
    /// Directives for every `dkms.conf` of the run, `NAME=VALUE`: they count after all files.
    pub directives: Vec<String>,
    /// Shell patterns of the packages whose scripts may run on the system as root.
    pub package_scripts: Vec<String>,
    /// Follow a pointer even to an older entry than before.
    pub roll_back: bool,
    /// What compilers know of this host's CPU ([`kcache_kernel::native::cpu`]).
    pub cpu: String,
    /// A number that differs between most hosts, used to spread the load of a fleet over time.
    pub number: u32,
    /// The wall clock, in seconds since 1970.
    pub now: fn() -> u64,
    /// Memory that builds can still get, in bytes, if known.
    pub available_memory: fn() -> Option<u64>,
    /// Cancels the run when set.
    pub cancel: Arc<AtomicBool>,
    /// Receives messages and progress.
    pub progress: Arc<dyn Progress>,
}

impl Context {
    /// How this run waits for concurrent processes.
    pub fn waiting<'a>(&self, say: &'a (dyn Fn(&str) + Sync)) -> Waiting<'a> {
        Waiting { limit: self.lock_limit, say }
    }

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
        if self.made(entry) { None } else { self.caches.trust().vouch(entry.envelope()).err() }
    }

    /// Whether this host built an entry of the store.
    pub fn made(&self, entry: &Entry) -> bool {
        let envelope = entry.envelope();
        let own = || self.signer.as_ref().is_some_and(|signer| envelope.is_signed_by(signer.public()));
        envelope.signatures().is_empty() || own()
    }

    /// Opens the store, creating it if it does not exist.
    pub fn open_store(&self) -> kcache_store::Result<Store> {
        Store::open(&self.store, &self.waiting(&|message| self.progress.say(message)))
            .inspect(|store| self.listen(store))
    }

    /// Opens the store if it exists, writing nothing.
    pub fn open_existing_store(&self) -> kcache_store::Result<Option<Store>> {
        let store = Store::open_existing(&self.store, &self.waiting(&|message| self.progress.say(message)))?;
        Ok(store.inspect(|store| self.listen(store)))
    }

    fn listen(&self, store: &Store) {
        let progress = self.progress.clone();
        store.hear(Arc::new(move |notice| progress.notice(notice)));
    }
}
