//! Assembles the set of modules for a kernel: from entries, or from an earlier generation.
//!
//! The transaction itself is in `kcache_kernel::install`. Here it gets its set and the bytes: objects of the store, verified as
//! they are read, and signed as [`crate::run::signing`] says. When modules are added, or an earlier set is restored, the whole
//! set is signed with the current key. When modules are removed, the rest stays as it is.

use kcache_kernel::compress::Compression;
use kcache_kernel::dkms::framework;
use kcache_kernel::install::{
    self, Act, Base, BoxError, Committed, Fault, ForeignFiles, Generation, Indexed, InstallPlan,
    InstalledPackage, ModuleSpec, ModulesDir, NewerDepmods, NewerKmod, Recovery, Remark, Set, Site,
    Transaction,
};
use kcache_kernel::kernels::{self, Kernel};
use kcache_kernel::signing::Identity;
use kcache_kernel::{enforcement, release};
use kcache_store::{Digest, Manifest, Scratch, Store};

use crate::deploy::detached_signature;
use crate::error::{Error, Result};
use crate::resolve::local;
use crate::run::context::Context;
use crate::run::labels::Labels;
use crate::run::session::Session;
use crate::verdict::ready_file;

/// A change to the set of one kernel.
pub enum SetChange<'a> {
    /// Add these entries' modules, replacing other builds of the same packages.
    Add(&'a [Manifest]),
    /// The same, and remove these packages, which they replace.
    Exchange(&'a [Manifest], &'a [String]),
    /// Remove these packages; all if none is named.
    Remove(&'a [String]),
    /// Return to the previous set.
    RollBack,
}

/// The result of a change to one kernel.
pub struct Done {
    /// The executed plan.
    pub plan: InstallPlan,
    /// Name of the generation that is installed now; `None` if there is none.
    pub generation: Option<String>,
    /// Whether anything was changed.
    pub changed: bool,
    /// The signer of its modules.
    pub signer: Option<Identity>,
    /// Warnings.
    pub remarks: Vec<Remark>,
    /// How the indexes were generated.
    pub indexed: Option<Indexed>,
}

impl Done {
    /// The packages that were only re-signed.
    pub fn signed(&self) -> impl Iterator<Item = &str> {
        let signed = self.plan.changes.iter().filter(|change| change.act == Act::Sign);
        signed.map(|change| change.package.as_str())
    }
}

/// The tree into which a kernel's modules are installed.
///
/// # Errors
///
/// [`Error::NotInstalled`] for a build tree of a kernel that is not installed.
pub fn tree<'a>(session: &Session, kernel: &'a Kernel) -> Result<&'a ModulesDir> {
    kernel.modules.as_ref().ok_or_else(|| Error::NotInstalled {
        release: kernel.release.clone(),
        root: session.context.root.dir().to_owned(),
    })
}

/// The signer of modules for a kernel, if one is configured.
///
/// # Errors
///
/// [`Error::Unsigned`] if none is, and the kernel requires signatures.
pub fn signer(session: &Session, kernel: &Kernel) -> Result<Option<Identity>> {
    let root = &session.context.root;
    let config = kernels::config(root, kernel)?;
    let identity = match &session.context.services.signing {
        Some(signing) => signing.of_kernel(&kernel.release).identity(config.as_ref())?,
        None => None,
    };
    match enforcement::of(root, &kernel.release, config.as_ref()) {
        Some(why) if identity.is_none() => {
            let of_dkms = framework::signing_key(root, &kernel.release);
            Err(Error::Unsigned { release: kernel.release.clone(), why: why.to_string(), of_dkms })
        }
        _ => {
            let verifies = config.as_ref().is_some_and(|config| config.yes("CONFIG_MODULE_SIG"));
            if verifies && !session.context.says_signing {
                warn_of_dkms_key(session, &kernel.release);
            }
            Ok(identity)
        }
    }
}

/// Warns that modules are not signed, though DKMS signs them on this host.
fn warn_of_dkms_key(session: &Session, release: &str) {
    if let Some(of_dkms) = framework::signing_key(&session.context.root, release) {
        let key = of_dkms.key.display();
        session.warn_once(&format!(
            "{release}: modules are not signed, but DKMS signs them with {key} (run `kcache adopt`, or configure [signing])"
        ));
    }
}

/// Whether the installed set of a kernel would now be signed by another signer.
pub fn signs_anew(session: &Session, kernel: &Kernel) -> Result<bool> {
    let installed = install::base(tree(session, kernel)?)?.generation;
    let signer = signer(session, kernel)?;
    Ok(installed.is_some_and(|generation| generation.set.signer != signer))
}

/// Plans a change. Takes no lock and writes nothing.
pub fn plan(session: &Session, kernel: &Kernel, change: &SetChange) -> Result<InstallPlan> {
    plan_with(session, kernel, change, &ForeignFiles::Untouched)
}

/// Like [`plan`], with foreign modules taken over, deleted or given back.
pub fn plan_with(
    session: &Session,
    kernel: &Kernel,
    change: &SetChange,
    others: &ForeignFiles,
) -> Result<InstallPlan> {
    let tree = tree(session, kernel)?;
    let base = install::base(tree)?;
    must_be_known(&base, change)?;
    let wanted = set(session, kernel, &base, change)?;
    Ok(install::plan_upon(tree, base, wanted)?.with(tree, others.clone())?)
}

/// Executes a change, under the kernel's lock.
pub fn apply(session: &Session, kernel: &Kernel, change: &SetChange) -> Result<Done> {
    apply_with(session, kernel, change, &ForeignFiles::Untouched)
}

/// Like [`apply`], with foreign modules taken over, deleted or given back in the same transaction.
pub fn apply_with(
    session: &Session,
    kernel: &Kernel,
    change: &SetChange,
    others: &ForeignFiles,
) -> Result<Done> {
    if let Some(plan) = nothing(session, kernel, change, others)? {
        let (generation, remarks) = (plan.to.clone(), Vec::new());
        let outcome = Committed { generation, changed: false, remarks, indexed: None };
        return Ok(done(session, change, plan, outcome));
    }
    let context = session.context;
    let tree = tree(session, kernel)?;
    let print = |message: &str| context.progress().print(message);
    let sign = |wanted: &Identity, spec: &ModuleSpec, module: &[u8]| match &context.services.signing {
        Some(signing) => signing.of_kernel(&kernel.release).sign(wanted, module, &|certificate| {
            detached_signature::attach(session, certificate, spec, module)
        }),
        None => Err(format!("must be signed by {}, but no key is configured", wanted.subject).into()),
    };
    let here = Site { sign: Some(&sign), depmods: &Depmods(session), ..site(context, tree, &print) };
    let transaction = Transaction::begin(here)?;
    report_recovery(context, &kernel.release, transaction.recovered());
    let plan = plan_with(session, kernel, change, others)?;
    if !plan.is_nothing() {
        // The last verdict was about another set.
        ready_file::clear(&context.root, &kernel.release)?;
    }
    let mut source = |spec: &ModuleSpec| bytes(session, change, spec);
    let outcome = transaction.apply(&plan, &mut source)?;
    Ok(done(session, change, plan, outcome))
}

/// The plan, if it changes nothing, so that no lock is needed. An interrupted run must be recovered, so it counts as a
/// change.
fn nothing(
    session: &Session,
    kernel: &Kernel,
    change: &SetChange,
    others: &ForeignFiles,
) -> Result<Option<InstallPlan>> {
    let tree = tree(session, kernel)?;
    if install::interrupted(tree)? {
        return Ok(None);
    }
    let base = install::base(tree)?;
    let Some(installed) = &base.generation else { return Ok(None) };
    let wanted = set(session, kernel, &base, change)?.checked()?;
    if wanted.generation_name() != installed.generation {
        return Ok(None);
    }
    let plan = install::plan_upon(tree, base, wanted)?.with(tree, others.clone())?;
    Ok(Some(plan).filter(InstallPlan::is_nothing))
}

/// Makes the result, and counts it.
fn done(session: &Session, change: &SetChange, plan: InstallPlan, outcome: Committed) -> Done {
    if let SetChange::Add(manifests) | SetChange::Exchange(manifests, _) = change {
        session.counters.installed(&plan.changes, manifests);
    }
    let Committed { generation, changed, remarks, indexed } = outcome;
    let signer = plan.signer().cloned();
    Done { plan, generation, changed, signer, remarks, indexed }
}

/// Recovers a kernel's tree from an interrupted run.
pub fn recover(context: &Context, tree: &ModulesDir) -> Result<()> {
    if install::interrupted(tree)? {
        let print = |message: &str| context.progress().print(message);
        report_recovery(
            context,
            tree.release(),
            Transaction::begin(site(context, tree, &print))?.recovered(),
        );
    }
    Ok(())
}

/// The indexes of a tree that differ from what depmod would write.
pub fn compare_indexes(context: &Context, tree: &ModulesDir) -> Result<Vec<Fault>> {
    let scratch = Scratch::new(&context.temporary)?;
    let print = |message: &str| context.progress().print(message);
    Ok(install::compare(site(context, tree, &print), scratch.path())?)
}

/// Regenerates a tree's indexes with depmod.
pub fn remake_indexes(context: &Context, tree: &ModulesDir) -> Result<()> {
    let print = |message: &str| context.progress().print(message);
    Transaction::begin(site(context, tree, &print))?.remake_indexes()?;
    Ok(())
}

/// Deletes the kept modules of a package that was taken over from DKMS.
pub fn forget_kept(context: &Context, tree: &ModulesDir, package: &str) -> Result<bool> {
    let print = |message: &str| context.progress().print(message);
    Ok(install::forget_kept(site(context, tree, &print), package)?)
}

/// Removes everything of kcache's from the tree of a kernel that is being removed or has been removed. True if there
/// was anything.
pub fn retire(context: &Context, release: &str) -> Result<bool> {
    let print = |message: &str| context.progress().print(message);
    let mut found = false;
    // Hooks and `dkms` pass on their arguments unchecked.
    if !release::is_plain(release) {
        return Ok(found);
    }
    ready_file::clear(&context.root, release)?;
    for modules in kernels::modules_dirs(&context.root) {
        let path = modules.join(release);
        // Links are followed within the root.
        let real = context.root.inside(&path).and_then(|inside| context.root.find(inside));
        let tree = ModulesDir::new(real.unwrap_or(path), release);
        found |= install::retire(site(context, &tree, &print))?;
    }
    Ok(found)
}

/// Remembers in the store which newer depmods write the same indexes.
struct Depmods<'a>(&'a Session<'a>);

/// The kind of what is remembered.
const DEPMOD: &str = "depmod";

impl NewerDepmods for Depmods<'_> {
    fn is_same(&self, depmod: &NewerKmod) -> Option<bool> {
        let known = self.0.store.as_ref()?.memo(DEPMOD, &depmod.digest.into()).ok()??;
        Some(known == b"same")
    }

    fn remember(&self, depmod: &NewerKmod, is_same: bool) {
        if let Some(store) = &self.0.store {
            let value: &[u8] = if is_same { b"same" } else { b"differs" };
            let _ = store.remember(DEPMOD, &depmod.digest.into(), value, self.0.context.now()); // else compared again
        }
    }
}

fn site<'a>(context: &'a Context, tree: &'a ModulesDir, print: &'a dyn Fn(&str)) -> Site<'a> {
    Site {
        tree,
        root: context.root.dir(),
        depmod: &context.depmod,
        always_depmod: context.always_depmod,
        depmods: &(),
        sign: None,
        wait: context.lock_limit,
        print,
    }
}

fn report_recovery(context: &Context, release: &str, recovery: Recovery) {
    let told = match recovery {
        Recovery::Nothing => return,
        Recovery::Litter => "removed the remains of an interrupted run that had changed nothing",
        Recovery::Finished => "completed an interrupted installation",
        Recovery::Undone => "undid an interrupted installation",
    };
    context.progress().print(&format!("{release}: {told}"));
}

/// Refuses a change that would silently remove packages because their modules are unknown.
fn must_be_known(base: &Base, change: &SetChange) -> Result<()> {
    let labels = |manifest: &Manifest| package(manifest).name;
    let named: Vec<String> = match change {
        SetChange::Add(manifests) | SetChange::Exchange(manifests, _) => {
            manifests.iter().map(labels).collect()
        }
        SetChange::Remove([]) => return Ok(()),
        SetChange::Remove(names) => names.to_vec(),
        SetChange::RollBack => Vec::new(),
    };
    let lost: Vec<String> = base.lost.iter().filter(|name| !named.contains(name)).cloned().collect();
    match &base.fault {
        Some(Fault::Record { path, .. }) if !lost.is_empty() => {
            Err(install::Error::Forgotten { path: path.clone(), lost }.into())
        }
        _ => Ok(()),
    }
}

/// The complete set that results from a change.
fn set(session: &Session, kernel: &Kernel, base: &Base, change: &SetChange) -> Result<Set> {
    let context = session.context;
    let current = base.generation.as_ref();
    let now = current.map(Generation::wanted);
    let mut packages = now.map(|set| set.packages).unwrap_or_default();
    match change {
        SetChange::Add(manifests) | SetChange::Exchange(manifests, _) => {
            if let SetChange::Exchange(_, replaced) = change {
                packages.retain(|package| !replaced.contains(&package.name));
            }
            // The same bits under another key change nothing: no transaction, no signature, no depmod.
            for manifest in
                manifests.iter().filter(|manifest| !is_as_installed(&packages, manifest)).collect::<Vec<_>>()
            {
                let package = package(manifest);
                packages.retain(|other| other.name != package.name);
                packages.push(package);
            }
        }
        SetChange::Remove(names) => {
            let is_known = |name: &String| {
                packages.iter().any(|package| package.name == *name) || base.lost.contains(name)
            };
            if let Some(name) = names.iter().find(|name| !is_known(name)) {
                return Err(Error::Unknown { package: name.clone(), release: kernel.release.clone() });
            }
            packages.retain(|package| !names.is_empty() && !names.contains(&package.name));
        }
        SetChange::RollBack => {
            let previous = current.and_then(|generation| generation.previous.clone());
            let previous = previous.ok_or_else(|| Error::NoPrevious { release: kernel.release.clone() })?;
            return Ok(Set { signer: signer(session, kernel)?, ..previous });
        }
    }
    let signer = match change {
        SetChange::Remove(_) => current.and_then(|generation| generation.set.signer.clone()),
        _ => signer(session, kernel)?,
    };
    let config = kernels::config(&context.root, kernel)?;
    let version =
        kernel.build_tree().map(|tree| tree.version.clone()).or_else(|| kernel.image_version.clone());
    Ok(Set {
        kernel_version: version.unwrap_or_default(),
        compression: config.as_ref().map_or(Compression::None, kernels::compression),
        signer,
        packages,
    })
}

fn package(manifest: &Manifest) -> InstalledPackage {
    let labels = Labels::of(manifest);
    InstalledPackage {
        name: labels.package.to_owned(),
        version: labels.version.to_owned(),
        key: manifest.key.to_string(),
        modules: local::modules(manifest),
    }
}

/// Whether an entry's modules are the very ones that are installed of its package.
pub fn is_as_installed(installed: &[InstalledPackage], manifest: &Manifest) -> bool {
    let wanted = package(manifest);
    installed.iter().any(|package| {
        (&package.name, &package.version, &package.modules)
            == (&wanted.name, &wanted.version, &wanted.modules)
    })
}

/// One module's bytes. Modules that stay installed in the same form are not asked for.
fn bytes(session: &Session, change: &SetChange, spec: &ModuleSpec) -> std::result::Result<Vec<u8>, BoxError> {
    let digest = Digest::from_bytes(*spec.digest.as_bytes());
    if let Some(bytes) = session.large.take(&digest) {
        return Ok(bytes);
    }
    let Some(store) = &session.store else { return Err(Error::NoStore.into()) };
    let mut object = store.read_object(&digest, spec.size)?;
    if object.is_none() && fetched_again(session, store, change, &digest)? {
        object = store.read_object(&digest, spec.size)?;
    }
    object.ok_or_else(|| format!("object {digest} is not in the store").into())
}

/// Fetches an object again that was deleted after its entry was found, by a garbage collection without a grace period.
fn fetched_again(session: &Session, store: &Store, change: &SetChange, digest: &Digest) -> Result<bool> {
    let (SetChange::Add(manifests) | SetChange::Exchange(manifests, _)) = change else { return Ok(false) };
    let outputs =
        manifests.iter().flat_map(|manifest| manifest.outputs.iter().map(|output| (manifest.key, output)));
    let Some((key, output)) = outputs.into_iter().find(|(_, output)| output.digest == *digest) else {
        return Ok(false);
    };
    Ok(session.asks_caches() && session.context.caches().fetch_output(store, &key, output)?)
}
