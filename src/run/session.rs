//! What a run knows of kernels and packages, each determined once.
//!
//! Digests of header trees, sources and programs come from the store's memo if the files' stat signatures are unchanged. Recipes
//! and toolchains, which need a sandbox, are remembered under everything that they can depend on. Without a store, or with a
//! read-only one, the same results only take longer.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once};

use fs_err as fs;
use kcache_kernel::install::{self, Generation};
use kcache_kernel::kernels::{Kernel, Mount};
use kcache_kernel::ko::ThisModule;
use kcache_kernel::modules;
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::jobs::Jobs;
use kcache_kernel::symvers::Symvers;
use kcache_kernel::toolchain::Link;
use kcache_store::{Digest, Fingerprint, OnceMap, Scratch, Store, tree};

use crate::error::{Error, Result};
use crate::run::context::Context;
use crate::run::counters::Counters;
use crate::run::large_objects::LargeObjects;

/// Number of kernels whose symbols are kept, some 2 MB each. Packages are looked up kernel by kernel, by a few
/// threads.
const SYMVERS: usize = 4;

/// One run: its context, its store, and what it has determined.
pub struct Session<'w> {
    /// The context.
    pub context: &'w Context,
    /// The store; `None` if it does not exist and must not be created.
    pub store: Option<Store>,
    /// The jobs that all builds share.
    pub jobs: Jobs,
    /// Cache statistics of the run.
    pub counters: Counters,
    /// Objects read during look-up, for the installation.
    pub large: LargeObjects,
    pub(crate) kernels: OnceMap<String, Arc<KernelFacts>>,
    pub(crate) symvers: OnceMap<String, Option<Arc<Symvers>>>,
    pub(crate) checked: OnceMap<PathBuf, ()>,
    pub(crate) readable: OnceMap<PathBuf, Arc<HeaderCopies>>,
    installed: OnceMap<String, Option<Arc<Generation>>>,
    this_modules: OnceMap<String, Option<ThisModule>>,
    pub(crate) seen: tree::Seen,
    distrust_said: Once,
    said: Mutex<BTreeSet<String>>,
}

/// A kernel's inputs.
pub struct KernelFacts {
    /// Digest of `.config`.
    pub config: Digest,
    /// The headers and everything that they refer to.
    pub headers: Fingerprint,
    /// The root whose programs are used.
    pub tools_root: Root,
    /// The toolchain.
    pub tools: Vec<Tool>,
    /// What builds call some of them.
    pub links: Vec<Link>,
}

impl KernelFacts {
    /// Names and paths for [`kcache_kernel::sandbox::Sandbox::called`].
    pub fn called(&self) -> Vec<(String, PathBuf)> {
        self.links.iter().map(|link| (link.name.clone(), link.path.clone())).collect()
    }
}

/// A kernel's headers as builds can read them.
pub(crate) struct HeaderCopies {
    /// In the order of the tree's own.
    pub(crate) mounts: Vec<Mount>,
    /// Contains the copies, if there are any.
    pub(crate) scratch: Option<Scratch>,
}

/// A program of the toolchain.
#[derive(Clone, Debug)]
pub struct Tool {
    /// Its role in a build.
    pub role: String,
    /// Digest of the program.
    pub digest: Digest,
    /// The first line of its `--version`.
    pub version: String,
    /// Its path in the tools' root; not part of a key.
    pub path: PathBuf,
}

impl<'w> Session<'w> {
    /// Starts a session with or without a store.
    pub fn new(context: &'w Context, store: Option<Store>) -> Result<Session<'w>> {
        Ok(Session {
            context,
            store,
            jobs: Jobs::new(context.jobs),
            counters: Counters::default(),
            kernels: OnceMap::of_at_most(usize::MAX),
            symvers: OnceMap::of_at_most(SYMVERS),
            checked: OnceMap::of_at_most(usize::MAX),
            readable: OnceMap::of_at_most(usize::MAX),
            installed: OnceMap::of_at_most(usize::MAX),
            this_modules: OnceMap::of_at_most(usize::MAX),
            seen: tree::Seen::default(),
            large: LargeObjects::default(),
            distrust_said: Once::new(),
            said: Mutex::default(),
        })
    }

    /// Whether this is the first call of the run with this text.
    pub fn is_first(&self, text: &str) -> bool {
        self.said.lock().unwrap_or_else(|e| e.into_inner()).insert(text.to_owned())
    }

    /// Reports a message about the whole run once, even if several kernels and packages cause it.
    pub fn report_once(&self, message: &str) {
        if self.is_first(message) {
            self.context.progress().print(message);
        }
    }

    /// Like [`Session::report_once`], for a warning.
    pub fn warn_once(&self, message: &str) {
        if self.is_first(message) {
            self.context.progress().warn(message);
        }
    }

    /// Like [`Session::report_once`], for a detail.
    pub fn detail_once(&self, message: &str) {
        if self.is_first(message) {
            self.context.progress().detail(message);
        }
    }

    /// Whether querying shared caches is useful. Without trusted keys it is not, which is reported once.
    pub fn asks_caches(&self) -> bool {
        let caches = self.context.caches();
        if caches.is_empty() {
            return false;
        }
        let trusting = caches.trust().keys().next().is_some();
        if !trusting {
            self.distrust_said.call_once(|| {
                let progress = self.context.progress();
                progress.warn("no key is trusted, so shared caches are not used");
                progress.hint("run `kcache keys trust FILE` with a builder's public key");
            });
        }
        trusting
    }

    /// What was installed for a kernel when this was first asked; `None` also where that cannot be read.
    pub fn installed(&self, kernel: &Kernel) -> Option<Arc<Generation>> {
        let read = || {
            let base = kernel.modules.as_ref().and_then(|tree| install::base(tree).ok());
            Ok::<_, crate::error::Error>(base.and_then(|base| base.generation).map(Arc::new))
        };
        self.installed.get(&kernel.release, read).ok().flatten()
    }

    /// The layout of `struct module` in a kernel's own modules, remembered as long as the first of them is unchanged.
    pub fn this_module(&self, kernel: &Kernel) -> Option<ThisModule> {
        let tree = kernel.modules.as_deref()?;
        let read = || Ok(modules::this_module(tree));
        let remembered = || {
            let first = modules::own(tree).next();
            match first.filter(|path| self.is_settled(path)) {
                Some(path) => self.remembered_of_file("struct module", &path, "", read),
                None => read(),
            }
        };
        self.this_modules.get(&kernel.release, remembered).ok().flatten()
    }

    /// Whether a file was not changed just now, so that a later change shows in its times.
    fn is_settled(&self, path: &Path) -> bool {
        fs::symlink_metadata(path).is_ok_and(|m| m.ctime().unsigned_abs() + 2 < self.context.now())
    }

    /// A directory that vanishes when it is dropped: in the store, else among temporary files.
    pub fn scratch(&self) -> Result<Scratch> {
        let scratch = match self.store.as_ref().map(Store::scratch) {
            Some(Ok(scratch)) => scratch,
            _ => Scratch::new(&self.context.temporary)?,
        };
        // Neither the sandbox's own programs nor a package's ./configure could run.
        let flags = rustix::fs::statvfs(scratch.path()).map_err(std::io::Error::from)?.f_flag;
        match flags.contains(rustix::fs::StatVfsMountFlags::NOEXEC) {
            true => Err(Error::NoExec { path: scratch.path().parent().unwrap_or(scratch.path()).to_owned() }),
            false => Ok(scratch),
        }
    }

    /// A result about a file and some text, remembered as long as neither changes. The file must not have changed just
    /// now.
    pub fn remembered_of_file<T>(
        &self,
        kind: &str,
        path: &Path,
        text: &str,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T>
    where
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        let mut signature = Signature::new(kind);
        signature.stat(path).text(text);
        self.remembered(kind, &signature.finish(), make)
    }

    /// A value from the memo, or computed and remembered.
    pub(crate) fn remembered<T>(
        &self,
        kind: &str,
        signature: &Digest,
        make: impl FnOnce() -> Result<T>,
    ) -> Result<T>
    where
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        let Some(store) = &self.store else { return make() };
        if let Some(known) = store.memo(kind, signature)?
            && let Ok(value) = serde_json::from_slice(&known)
        {
            return Ok(value);
        }
        let value = make()?;
        let text = serde_json::to_vec(&value).map_err(std::io::Error::from)?;
        store.remember(kind, signature, &text, self.context.now())?;
        Ok(value)
    }
}

/// Collects everything that a remembered result depends on.
pub(crate) struct Signature(Vec<u8>);

impl Signature {
    pub(crate) fn new(what: &str) -> Signature {
        let mut signature = Signature(Vec::new());
        signature.text(what);
        signature
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Signature {
        self.bytes(text.as_bytes())
    }

    pub(crate) fn digest(&mut self, digest: Digest) -> &mut Signature {
        self.bytes(digest.as_bytes())
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Signature {
        self.0.extend((bytes.len() as u64).to_le_bytes());
        self.0.extend(bytes);
        self
    }

    /// Adds a file's stat data, or its absence.
    pub(crate) fn stat(&mut self, path: &Path) -> &mut Signature {
        let Ok(m) = fs::metadata(path) else { return self.bytes(b"") };
        let times = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()];
        let text = format!("{} {} {} {times:?} {}", m.dev(), m.ino(), m.size(), m.mode());
        self.text(&path.display().to_string()).text(&text)
    }

    /// Adds a system's programs, headers and libraries, as far as the times of their directories show changes.
    pub(crate) fn system(&mut self, root: &Root) -> &mut Signature {
        for inside in [
            "/usr/bin",
            "/usr/sbin",
            "/usr/include",
            "/usr/lib",
            "/usr/lib/gcc",
            "/usr/share",
            "/etc/alternatives",
        ] {
            match root.find(inside) {
                Some(path) => self.stat(&path),
                None => self.bytes(b""),
            };
        }
        self
    }

    pub(crate) fn finish(&self) -> Digest {
        Digest::of(&self.0)
    }
}
