//! The context of a run: passed in once, so that nothing below it reads the environment, the wall clock or the home
//! directory, and tests need none of them. Time limits and durations use the monotonic clock.
//!
//! A context is settings, which never change, and the [`Services`] that the run works with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::Limits;
use kcache_store::{SharedCaches, SiteContent, Store, Waiting};

use crate::run::policy::{OtherTools, Policy};
use crate::run::progress::Progress;
use crate::run::select::Elsewhere;
use crate::run::services::Services;

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
    /// Resource limits of each build.
    pub limits: Limits,
    /// Limit on concurrent compilers over all builds.
    pub jobs: usize,
    /// Time limit of one build.
    pub build_limit: Duration,
    /// How long to wait for a concurrent kcache.
    pub lock_limit: Duration,
    /// This host's name in entries, for people.
    pub builder: String,
    /// Packages that may be installed without their source.
    pub elsewhere: Elsewhere,
    /// What this host publishes in its site file, as a builder.
    pub site: Option<SiteContent>,
    /// Release or image path of the kernel to boot, if the boot loader's files do not tell.
    pub default_kernel: Option<String>,
    /// The need of packages for kernels.
    pub policy: Policy,
    /// Whether builds by other tools than this host's are used.
    pub other_tools: OtherTools,
    /// Directives for every `dkms.conf` of the run, `NAME=VALUE`: they count after all files.
    pub directives: Vec<String>,
    /// Whether the settings say how modules are signed, if only that they are not.
    pub says_signing: bool,
    /// Build without the packages that one builds against, if they are not there.
    pub without_dependencies: bool,
    /// Shell patterns of the packages whose scripts may run on the system as root.
    pub package_scripts: Vec<String>,
    /// Directories of tools that builds see and search first, beside the system's; absolute.
    pub tool_paths: Vec<PathBuf>,
    /// The caller's `PATH`, to tell where a program is that builds do not find.
    pub search_path: Vec<PathBuf>,
    /// Follow a pointer even to an older entry than before.
    pub roll_back: bool,
    /// What compilers know of this host's CPU ([`kcache_kernel::native::cpu`]).
    pub cpu: String,
    /// A number that differs between most hosts, used to spread the load of a fleet over time.
    pub number: u32,
    /// What the run works with.
    pub services: Services,
}

impl Context {
    /// How this run waits for concurrent processes.
    pub fn waiting<'a>(&self, print: &'a (dyn Fn(&str) + Sync)) -> Waiting<'a> {
        Waiting { limit: self.lock_limit, print }
    }

    /// The shared caches, and the trusted keys.
    pub fn caches(&self) -> &SharedCaches {
        &self.services.caches
    }

    /// Receives messages and progress.
    pub fn progress(&self) -> &dyn Progress {
        &*self.services.progress
    }

    /// The time, in seconds since 1970.
    pub fn now(&self) -> u64 {
        (self.services.now)()
    }

    /// Opens the store, creating it if it does not exist.
    pub fn open_store(&self) -> kcache_store::Result<Store> {
        Store::open(&self.store, &self.waiting(&|message| self.progress().print(message)))
            .inspect(|store| self.listen(store))
    }

    /// Opens the store if it exists, writing nothing.
    pub fn open_existing_store(&self) -> kcache_store::Result<Option<Store>> {
        let store =
            Store::open_existing(&self.store, &self.waiting(&|message| self.progress().print(message)))?;
        Ok(store.inspect(|store| self.listen(store)))
    }

    fn listen(&self, store: &Store) {
        let progress = self.services.progress.clone();
        store.hear(Arc::new(move |notice| progress.notice(notice)));
    }
}
