//! What a run knows of kernels and packages, each thing found out once.
//!
//! Digests of header trees, sources and programs come from the store's memo where the files' stat signatures are still
//! the same; recipes and toolchains, which take a sandbox to find out, are remembered under everything they can depend on.
//! Without a store, or with one that cannot be written, the same answers only take longer.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once};

use fs_err as fs;
use kcache_kernel::at_once::both;
use kcache_kernel::kernels::{BuildTree, Kernel};
use kcache_kernel::packages::{Package, RecipeFile};
use kcache_kernel::recipe::{Recipe, Target, dkms, kbuild, toml};
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::jobs::Jobs;
use kcache_kernel::source;
use kcache_kernel::symvers::Symvers;
use kcache_kernel::toolchain::{self, Program};
use kcache_store::{Digest, Fingerprint, OnceEach, Scratch, Store, tree};

use crate::error::{Error, Result};
use crate::key::{KernelInputs, Tool};
use crate::large_objects::LargeObjects;
use crate::rooms;
use crate::tally::Tally;
use crate::world::World;

/// How many kernels' symbols are kept, some 2 MB each. Packages are looked up kernel by kernel, by a few threads.
const SYMVERS: usize = 4;

/// One run: its world, its store, and what it has found out.
pub struct Session<'w> {
    /// The world.
    pub world: &'w World,
    /// The store; `None` where there is none and none is to be made.
    pub store: Option<Store>,
    /// What all builds share.
    pub jobs: Jobs,
    /// Of what use the caches were.
    pub tally: Tally,
    /// What was read at the look-up, for the installation.
    pub large: LargeObjects,
    kernels: OnceEach<String, Arc<KernelFacts>>,
    symvers: OnceEach<String, Option<Arc<Symvers>>>,
    checked: OnceEach<PathBuf, ()>,
    seen: tree::Seen,
    distrust_said: Once,
    said: Mutex<BTreeSet<String>>,
}

/// What goes into builds from a kernel's side.
pub struct KernelFacts {
    /// Digest of `.config`.
    pub config: Digest,
    /// The headers and all that they reach.
    pub headers: Fingerprint,
    /// The root whose programs are used.
    pub tools_root: Root,
    /// Those programs.
    pub tools: Vec<Tool>,
}

impl KernelFacts {
    /// As inputs of a key.
    pub fn inputs<'a>(&self, kernel: &'a Kernel, tree: &'a BuildTree) -> KernelInputs<'a> {
        KernelInputs {
            release: &kernel.release,
            arch: &tree.arch,
            version: &tree.version,
            config: self.config,
            headers: self.headers.digest,
            source: (tree.source != tree.inside).then_some(&tree.source),
        }
    }
}

impl<'w> Session<'w> {
    /// A session with a store, or without.
    pub fn new(world: &'w World, store: Option<Store>) -> Result<Session<'w>> {
        Ok(Session {
            world,
            store,
            jobs: Jobs::new(world.jobs),
            tally: Tally::default(),
            kernels: OnceEach::of_at_most(usize::MAX),
            symvers: OnceEach::of_at_most(SYMVERS),
            checked: OnceEach::of_at_most(usize::MAX),
            seen: tree::Seen::default(),
            large: LargeObjects::default(),
            distrust_said: Once::new(),
            said: Mutex::default(),
        })
    }

    /// Says what holds for the whole run, whichever of its kernels and packages comes upon it.
    pub fn say_once(&self, message: &str) {
        if self.said.lock().unwrap_or_else(|e| e.into_inner()).insert(message.to_owned()) {
            self.world.progress.say(message);
        }
    }

    /// The same of what only matters where something is odd.
    pub fn detail_once(&self, message: &str) {
        if self.said.lock().unwrap_or_else(|e| e.into_inner()).insert(message.to_owned()) {
            self.world.progress.detail(message);
        }
    }

    /// Whether there is any use in asking the shared caches. Where nobody is trusted there is none, which is said once.
    pub fn asks_caches(&self) -> bool {
        let caches = &self.world.caches;
        if caches.is_empty() {
            return false;
        }
        let trusting = caches.trust().keys().next().is_some();
        if !trusting {
            self.distrust_said.call_once(|| {
                self.world.progress.say(
                    "warning: no key is trusted, so the shared caches are not asked; \
                     `kcache keys trust FILE` trusts a builder's public key",
                );
            });
        }
        trusting
    }

    /// A directory that vanishes when it is dropped: in the store, else among temporary files.
    pub fn scratch(&self) -> Result<Scratch> {
        match self.store.as_ref().map(Store::scratch) {
            Some(Ok(scratch)) => Ok(scratch),
            _ => Ok(Scratch::new(&self.world.temporary)?),
        }
    }

    /// Facts of a kernel with headers.
    pub fn kernel(&self, kernel: &Kernel, tree: &BuildTree) -> Result<Arc<KernelFacts>> {
        self.kernels.get(&kernel.release, || {
            let tools_root = toolchain::tools_root(&self.world.root, tree);
            // On a thread of its own: one of a shared pool would take up other work while it waits, which may want this lock.
            let (headers, tools) = both(|| self.seen_headers(tree), || self.tools(kernel, tree, &tools_root));
            let config = tree::file_digest(&tree.outside().join(".config"))?.0;
            Ok(Arc::new(KernelFacts { config, headers: headers?, tools: tools?, tools_root }))
        })
    }

    /// What a kernel with headers exports; `None` where they do not say.
    pub fn symvers(&self, kernel: &Kernel, tree: &BuildTree) -> Result<Option<Arc<Symvers>>> {
        self.symvers.get(&kernel.release, || {
            let parse = |text: Vec<u8>| Symvers::parse(&text).map_err(std::io::Error::other);
            Ok(tree.symvers()?.map(parse).transpose()?.map(Arc::new))
        })
    }

    /// A kernel's headers as they were when this run first looked at them.
    fn seen_headers(&self, tree: &BuildTree) -> Result<Fingerprint> {
        Ok(self.seen.fingerprint(self.store.as_ref(), &roots_of_headers(tree), (self.world.now)())?)
    }

    /// A kernel's headers as they are now.
    pub fn headers(&self, tree: &BuildTree) -> Result<Fingerprint> {
        Ok(tree::fingerprint(self.store.as_ref(), &roots_of_headers(tree), (self.world.now)())?)
    }

    /// A package's source as it was when this run first looked at it.
    pub fn seen_source(&self, package: &Package) -> Result<Fingerprint> {
        Ok(self.seen.fingerprint(self.store.as_ref(), &[root_of_source(package)], (self.world.now)())?)
    }

    /// A package's source as it is now.
    pub fn source(&self, package: &Package) -> Result<Fingerprint> {
        Ok(tree::fingerprint(self.store.as_ref(), &[root_of_source(package)], (self.world.now)())?)
    }

    /// An error where a package's source has names that are not text.
    pub fn check_names(&self, package: &Package) -> Result<()> {
        self.checked.get(&package.source, || check_names(&package.source))
    }

    /// Tree digest of the administrator's patches and scripts for a package with a `dkms.conf`, where there are any.
    pub fn overrides(&self, package: &Package) -> Result<Option<Digest>> {
        let dir = match package.recipe {
            RecipeFile::Dkms => self.world.root.find(rooms::overrides_dir(package)),
            _ => None,
        };
        let Some(path) = dir.filter(|path| path.is_dir()) else { return Ok(None) };
        let root = tree::Root { path, label: String::new(), skip: Vec::new() };
        Ok(Some(tree::tree_digest(self.store.as_ref(), &[root], (self.world.now)())?))
    }

    /// A package's recipe for a kernel.
    pub fn recipe(
        &self,
        package: &Package,
        source: Fingerprint,
        kernel: &Kernel,
        tree: &BuildTree,
    ) -> Result<Recipe> {
        let target = Target { release: &kernel.release, arch: &tree.arch, config: &tree.config };
        match &package.recipe {
            RecipeFile::Kbuild => Ok(kbuild::recipe(&package.name, &package.version, &kernel.release)),
            RecipeFile::Toml(path, file) => Ok(toml::recipe(path, file, &target)?),
            RecipeFile::Elsewhere => Err(Error::NoSource { package: package.name.clone() }),
            RecipeFile::Dkms => self.dkms_recipe(package, source, kernel, tree, &target),
        }
    }

    /// `dkms.conf` may read anything that its sandbox shows: its own tree, the headers, the overrides, and the system's
    /// programs, of which the directories' times tell when something was installed or removed. What is remembered under
    /// the digests of the first two was read while they did not change.
    fn dkms_recipe(
        &self,
        package: &Package,
        source: Fingerprint,
        kernel: &Kernel,
        tree: &BuildTree,
        target: &Target,
    ) -> Result<Recipe> {
        let facts = self.kernel(kernel, tree)?;
        let mut signature = Signature::new("recipe 3");
        signature
            .text(&package.name)
            .text(&package.version)
            .text(target.release)
            .text(target.arch)
            .text(&tree.version)
            .text(&tree.source.to_string_lossy());
        signature.digest(source.digest).digest(facts.headers.digest).system(&facts.tools_root);
        for path in dkms::override_files(&package.name, &package.version, target.release, target.arch) {
            let outside = self.world.root.find(path);
            signature.bytes(
                &outside.and_then(|path| source::bytes(&path, source::MOST_CONFIG).ok()).unwrap_or_default(),
            );
        }
        signature.text(&self.world.directives.join("\0"));
        self.remembered("recipe", &signature.finish(), || {
            let scratch = self.scratch()?;
            let own = scratch.path().join("own");
            let mut room = rooms::room(self.world, kernel, tree, &facts.tools_root, own, dkms::JOBS);
            let inside = rooms::show_recipe(&mut room, &self.world.root, package)?;
            let (name, version) = (&package.name, &package.version);
            let (given, cancel) = (&self.world.directives, &self.world.cancel);
            let mut recipe = dkms::evaluate(&room, &inside, name, version, target, given, cancel)?;
            if rooms::has_cr(&package.dkms_conf()?) {
                recipe.notes.push("dkms.conf has the line ends of Windows, on which DKMS fails".to_owned());
            }
            self.still(package, source)?;
            self.still_headers(kernel, tree, facts.headers)?;
            Ok(recipe)
        })
    }

    /// An error where a package's source was touched since it had this fingerprint.
    fn still(&self, package: &Package, source: Fingerprint) -> Result<()> {
        if self.source(package)? == source {
            return Ok(());
        }
        Err(Error::Changed { what: format!("the source of {}", package.name) })
    }

    /// The same for a kernel's headers. What was touched and put back was another thing in between.
    pub fn still_headers(&self, kernel: &Kernel, tree: &BuildTree, headers: Fingerprint) -> Result<()> {
        if self.headers(tree)? == headers {
            return Ok(());
        }
        Err(Error::Changed { what: format!("the headers of kernel {}", kernel.release) })
    }

    /// The same for what else of a kernel goes into its keys: what was read of its build tree before that was hashed, and
    /// the programs.
    pub fn still_facts(&self, kernel: &Kernel, tree: &BuildTree, facts: &KernelFacts) -> Result<()> {
        if !tree.is_current()? {
            return Err(Error::Changed { what: format!("the headers of kernel {}", kernel.release) });
        }
        let tools = self.tools(kernel, tree, &facts.tools_root)?;
        match tools.iter().zip(&facts.tools).find(|(now, then)| now.digest != then.digest) {
            Some((tool, _)) => Err(Error::Changed { what: format!("the {} of this host", tool.role) }),
            None => Ok(()),
        }
    }

    fn tools(&self, kernel: &Kernel, tree: &BuildTree, tools_root: &Root) -> Result<Vec<Tool>> {
        let mut signature = Signature::new("toolchain 2");
        signature.text(tree.compiler().unwrap_or_default()).text(&kernel.release);
        signature.text(if toolchain::is_llvm(tree) { "llvm" } else { "gnu" });
        signature.text(if tree.makes_btf() { "btf" } else { "" }).system(tools_root);
        signature.bytes(
            &source::bytes(tree.outside().join(".kernelvariables"), source::MOST_CONFIG).unwrap_or_default(),
        );
        let programs: Vec<Program> = self.remembered("toolchain", &signature.finish(), || {
            let scratch = self.scratch()?;
            let room = rooms::room(self.world, kernel, tree, tools_root, scratch.path().join("own"), 1);
            Ok(toolchain::programs(&room, tree, &self.world.cancel)?)
        })?;
        if let Some(difference) = toolchain::stands_in(tree, &programs) {
            self.say_once(&format!("warning: kernel {} {difference}", kernel.release));
        }
        programs.into_iter().map(|program| self.tool(tools_root, program)).collect()
    }

    fn tool(&self, tools_root: &Root, program: Program) -> Result<Tool> {
        let path = tools_root.outside(tools_root.resolve(&program.path)?);
        let mut signature = Signature::new("file 1");
        signature.stat(&path);
        let racy = fs::metadata(&path)?.ctime().unsigned_abs() + 2 >= (self.world.now)();
        let hash = || Ok(tree::file_digest(&path)?.0);
        let digest = if racy { hash()? } else { self.remembered("file", &signature.finish(), hash)? };
        Ok(Tool { role: program.role, digest, version: program.version, path: program.path })
    }

    /// An answer about a file and some text; the same as long as neither changes. The file must not have changed just now.
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

    /// A value from the memo, or made and put there.
    fn remembered<T>(&self, kind: &str, signature: &Digest, make: impl FnOnce() -> Result<T>) -> Result<T>
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
        store.remember(kind, signature, &text, (self.world.now)())?;
        Ok(value)
    }
}

fn roots_of_headers(tree: &BuildTree) -> Vec<tree::Root> {
    let root = |mount: &kcache_kernel::kernels::Mount| tree::Root {
        path: mount.outside.clone(),
        label: mount.inside.display().to_string(),
        skip: vec![".git".to_owned()],
    };
    tree.mounts.iter().map(root).collect()
}

fn root_of_source(package: &Package) -> tree::Root {
    tree::Root { path: package.source.clone(), label: String::new(), skip: vec![".git".to_owned()] }
}

/// Collects what a remembered answer depends on.
struct Signature(Vec<u8>);

impl Signature {
    fn new(what: &str) -> Signature {
        let mut signature = Signature(Vec::new());
        signature.text(what);
        signature
    }

    fn text(&mut self, text: &str) -> &mut Signature {
        self.bytes(text.as_bytes())
    }

    fn digest(&mut self, digest: Digest) -> &mut Signature {
        self.bytes(digest.as_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Signature {
        self.0.extend((bytes.len() as u64).to_le_bytes());
        self.0.extend(bytes);
        self
    }

    /// A file as far as `stat` tells; nothing where it is missing.
    fn stat(&mut self, path: &Path) -> &mut Signature {
        let Ok(m) = fs::metadata(path) else { return self.bytes(b"") };
        let times = [m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()];
        let text = format!("{} {} {} {times:?} {}", m.dev(), m.ino(), m.size(), m.mode());
        self.text(&path.display().to_string()).text(&text)
    }

    /// A system's programs, headers and libraries, as far as the times of the directories they are installed in tell.
    fn system(&mut self, root: &Root) -> &mut Signature {
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
        match root.find("/etc/os-release").and_then(|path| source::bytes(&path, source::MOST_CONFIG).ok()) {
            Some(text) => self.bytes(&text),
            None => self.bytes(b""),
        }
    }

    fn finish(&self) -> Digest {
        Digest::of(&self.0)
    }
}

/// Refuses a source tree with a file name that is not UTF-8: recipes, logs and entries are text.
fn check_names(source: &Path) -> Result<()> {
    let mut directories = vec![PathBuf::from(source)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().to_str().is_none() {
                return Err(Error::NotUtf8 { path: entry.path() });
            }
            if entry.file_type()?.is_dir() && entry.file_name() != ".git" {
                directories.push(entry.path());
            }
        }
    }
    Ok(())
}
