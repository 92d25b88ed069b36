//! The context of a run: passed in once, so that nothing below asks the environment, the wall clock or the home directory,
//! and tests need none of them. Time limits and durations come from the monotonic clock, wherever they are needed.

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
    /// The system that is worked on.
    pub root: Root,
    /// Where the store is.
    pub store: PathBuf,
    /// For what must not be in the store: a dry run's and a read-only store's scratch.
    pub temporary: PathBuf,
    /// `bwrap`.
    pub bwrap: PathBuf,
    /// `depmod`.
    pub depmod: PathBuf,
    /// Whether it is to run even where indexes can be made without it.
    pub always_depmod: bool,
    /// Whether builds have ccache before their compiler.
    pub launches_ccache: bool,
    /// As whom builds run.
    pub identities: Identities,
    /// The way into their sandboxes.
    pub entrance: Arc<Entrance>,
    /// What one of them may use.
    pub limits: Limits,
    /// Where control groups can be made for them; found out when one is first wanted.
    pub control_groups: LazyLock<Option<Groups>>,
    /// How many compilers may run at once, over all builds.
    pub jobs: usize,
    /// The longest that one build may take.
    pub build_limit: Duration,
    /// How long to wait for another kcache.
    pub lock_limit: Duration,
    /// Who makes entries: stands in them for people to read.
    pub builder: String,
    /// What entries made here are signed with; none on a host that vouches for nothing.
    pub signer: Option<SigningKey>,
    /// What modules are signed with when they are installed; `None`: they are not.
    pub signing: Option<Signing>,
    /// Where entries are fetched from and pushed to, and whom to trust about them.
    pub caches: SharedCaches,
    /// Packages that may be had without their source.
    pub elsewhere: Elsewhere,
    /// The release, or the path of an image, that the boot loader takes, where its own files do not tell.
    pub default_kernel: Option<String>,
    /// Which packages matter for which kernels.
    pub policy: Policy,
    /// Whether builds by other tools than this host's are used.
    pub other_tools: OtherTools,
    /// Directives for every `dkms.conf` of the run, `NAME=VALUE`: they count after all files.
    pub directives: Vec<String>,
    /// Shell patterns for the names of packages whose scripts for the system may be run, as root.
    pub package_scripts: Vec<String>,
    /// Follow a pointer also to an older entry than before.
    pub roll_back: bool,
    /// Another one on most hosts: what a fleet would do at once is spread by it.
    pub number: u32,
    /// Seconds since 1970.
    pub now: fn() -> u64,
    /// How much memory builds can still get, in bytes, where that can be told.
    pub available_memory: fn() -> Option<u64>,
    /// Set to end the run.
    pub cancel: Arc<AtomicBool>,
    /// Hears what is going on.
    pub progress: Arc<dyn Progress>,
}

impl Context {
    /// How this run waits for others.
    pub fn waiting<'a>(&self, say: &'a (dyn Fn(&str) + Sync)) -> Waiting<'a> {
        Waiting { limit: self.lock_limit, say }
    }

    /// Where control groups can be made, if anywhere.
    pub fn groups(&self) -> Option<&Groups> {
        self.control_groups.as_ref()
    }

    /// True where kcache is root, and builds are not.
    pub fn is_root(&self) -> bool {
        matches!(self.identities, Identities::Drop(_))
    }

    /// True when the run is to end.
    pub fn cancelled(&self) -> bool {
        self.cancel.load(Ordering::Relaxed)
    }

    /// Why an entry of the store is not to be used: it came from elsewhere, and those who signed it are trusted no more.
    /// What was made here has no signature but this host's.
    pub fn distrusts(&self, entry: &Entry) -> Option<Distrust> {
        if self.made(entry) { None } else { self.caches.trust().vouch(entry.envelope()).err() }
    }

    /// Whether an entry of the store is this host's own word.
    pub fn made(&self, entry: &Entry) -> bool {
        let envelope = entry.envelope();
        let own = || self.signer.as_ref().is_some_and(|signer| envelope.is_signed_by(signer.public()));
        envelope.signatures().is_empty() || own()
    }

    /// Opens the store, making it where there is none.
    pub fn open_store(&self) -> kcache_store::Result<Store> {
        Store::open(&self.store, &self.waiting(&|message| self.progress.say(message)))
            .inspect(|store| self.listen(store))
    }

    /// Opens the store if there is one, changing nothing.
    pub fn open_existing_store(&self) -> kcache_store::Result<Option<Store>> {
        let store = Store::open_existing(&self.store, &self.waiting(&|message| self.progress.say(message)))?;
        Ok(store.inspect(|store| self.listen(store)))
    }

    fn listen(&self, store: &Store) {
        let progress = self.progress.clone();
        store.hear(Arc::new(move |notice| progress.notice(notice)));
    }
}
