//! Builds whose key cannot be computed, because headers, compiler or source are missing.
//!
//! ```text
//! 1. the store's entry for exactly this kernel and this source
//! 2. by-kernel/<release>/<kernel>/<package>: the entry that a builder's pointer names
//! ```
//! Kernels of the same release are distinguished by the `uname -v` text in the header of the image. A fetched build passes the
//! same checks as a local one, as far as this host can make them; one that fails a check is reported and not used.

use std::collections::BTreeMap;

use kcache_kernel::install::ModuleSpec;
use kcache_kernel::kconfig::Kconfig;
use kcache_kernel::kernels;
use kcache_store::transport::Name;
use kcache_store::{Digest, Entry, Manifest, Outcome, Pointer};

use crate::build::check_modules::{self, Against};
use crate::error::Result;
use crate::inputs::{key, version};
use crate::resolve::resolution::Resolution;
use crate::resolve::{by_key, lack, local};
use crate::run::labels::Labels;
use crate::run::request::{Request, Source};
use crate::run::session::Session;

/// A kernel's name in pointers: the digest of its architecture and its `uname -v`, a line each.
pub fn kernel_id(arch: &str, version: &str) -> Digest {
    Digest::of(format!("{arch}\n{version}\n").as_bytes())
}

/// Resolves a request whose key cannot be computed here.
pub fn unidentified(session: &Session, request: &Request) -> Result<Resolution> {
    let mut newest = None;
    for package in version::versions(request) {
        let answer = in_version(session, &Request { package, exact: true, ..*request })?;
        if matches!(answer, Resolution::Ready { .. }) {
            return Ok(answer);
        }
        newest.get_or_insert(answer);
    }
    Ok(newest.unwrap_or(Resolution::NotCached))
}

fn in_version(session: &Session, request: &Request) -> Result<Resolution> {
    let known = Known::of(session, request)?;
    let lacking =
        |asked, distrusted| Ok(Resolution::NoHeaders(lack::of(session, request, asked, distrusted)));
    let Some(known) = known else { return lacking(false, false) };
    if let Some(manifest) = in_store(session, request, &known)? {
        return judge(session, request, &known, manifest, Source::Store);
    }
    match pointed_to(session, request, &known)? {
        Pointed::To(manifest, found) if manifest.outcome == Outcome::Built => {
            judge(session, request, &known, manifest, found)
        }
        Pointed::To(manifest, found) => Ok(Resolution::Fails { manifest, found }),
        Pointed::Nowhere { distrusted } => lacking(true, distrusted),
    }
}

/// What is known about a kernel without headers, and about a package that may have no source.
struct Known {
    config: Kconfig,
    arch: String,
    version: String,
    source: Option<Digest>,
}

impl Known {
    fn of(session: &Session, request: &Request) -> Result<Option<Known>> {
        let tree = request.kernel.build_tree();
        let config = match tree {
            Some(tree) => Some(tree.config.clone()),
            None => kernels::config(&session.context.root, request.kernel)?,
        };
        let version = request.kernel.image_version.clone().or_else(|| tree.map(|tree| tree.version.clone()));
        let (Some(config), Some(version)) = (config, version) else { return Ok(None) };
        let source = match request.package.has_source() {
            true => Some(session.seen_source(request.package)?.digest),
            false => None,
        };
        let arch = kernels::arch(&config).to_owned();
        Ok(Some(Known { config, arch, version, source }))
    }

    /// Like [`Known::is_of`], for one that was built.
    fn fits(&self, request: &Request, manifest: &Manifest) -> Result<(), String> {
        self.is_of(request, manifest)?;
        if manifest.outcome == Outcome::Built { Ok(()) } else { Err("it did not build".to_owned()) }
    }

    /// Checks that an entry is of this package for this kernel, and of this source if there is one; otherwise the
    /// reason.
    fn is_of(&self, request: &Request, manifest: &Manifest) -> Result<(), String> {
        let found = Labels::of(manifest);
        let source = self.source.map(|source| source.to_string());
        let wanted = Labels {
            kin: found.kin,
            package: &request.package.name,
            version: found.version,
            kernel: &request.kernel.release,
            kernel_version: &self.version,
            arch: &self.arch,
            source: source.as_deref().unwrap_or(found.source),
        };
        let differs = |((label, found), (_, wanted)): ((&'static str, &str), (_, &str))| {
            (found != wanted).then(|| (label, found.escape_debug().to_string()))
        };
        if let Some((label, other)) = found.named().into_iter().zip(wanted.named()).find_map(differs) {
            return Err(format!("version {} was built for another {label}: {other}", found.version));
        }
        Ok(())
    }
}

/// The newest entry in the store for exactly this source.
fn in_store(session: &Session, request: &Request, known: &Known) -> Result<Option<Box<Manifest>>> {
    let (Some(store), Some(source)) = (&session.store, known.source) else { return Ok(None) };
    let source = source.to_string();
    let labels = [
        ("package", request.package.name.as_str()),
        ("kernel", &request.kernel.release),
        ("kernel-version", &known.version),
        ("source", &source),
    ];
    for row in store.find(&labels)?.into_iter().filter(|row| row.built) {
        if let Some(manifest) = local::stored(session, request, &row.key)? {
            return Ok(Some(manifest));
        }
    }
    Ok(None)
}

/// The build that a builder points to instead of the installed one, if it has other modules and not just other tools made
/// them. Its modules are not fetched.
pub fn newer(
    session: &Session,
    request: &Request,
    installed: &str,
    modules: &[ModuleSpec],
) -> Result<Option<Manifest>> {
    let (Some(known), Some(store)) = (Known::of(session, request)?, &session.store) else { return Ok(None) };
    if !session.asks_caches() {
        return Ok(None);
    }
    let caches = session.context.caches();
    let kernel = kernel_id(&known.arch, &known.version);
    let name = Pointer::name(&request.kernel.release, kernel, &request.package.name)?;
    let pointer = caches.pointer(store, &name, false, session.context.now())?;
    let Some(key) = pointer.map(|pointer| pointer.key()).filter(|key| key.to_string() != installed) else {
        return Ok(None);
    };
    let fits = |manifest: &Manifest| by_key::is_honest(manifest).and_then(|()| known.fits(request, manifest));
    let manifest = match local::stored(session, request, &key)? {
        Some(manifest) => Some(*manifest).filter(|manifest| fits(manifest).is_ok()),
        None => caches.peek(&key, &fits).map(Entry::into_manifest),
    };
    let before = match installed.parse() {
        Ok(key) => local::stored(session, request, &key)?,
        Err(_) => None,
    };
    let is_other = |manifest: &Manifest| {
        let is_kin =
            before.as_ref().is_some_and(|before| key::kin(&before.fields) == key::kin(&manifest.fields));
        !is_kin && local::modules(manifest) != modules
    };
    Ok(manifest.filter(is_other))
}

/// Where the builders' pointers lead.
enum Pointed {
    /// To this entry, from the store or a shared cache.
    To(Box<Manifest>, Source),
    /// There is none to follow.
    Nowhere {
        /// Whether there is one that this host does not trust.
        distrusted: bool,
    },
}

/// The entry that a builder's pointer refers to: a build, or, if there is none, the record that the package fails.
fn pointed_to(session: &Session, request: &Request, known: &Known) -> Result<Pointed> {
    let context = session.context;
    let kernel = kernel_id(&known.arch, &known.version);
    let (release, package) = (&request.kernel.release, &request.package.name);
    let build = Pointer::name(release, kernel, package)?;
    session.asks_caches();
    let fits = |manifest: &Manifest| known.fits(request, manifest);
    if let Some((manifest, found)) = follow(session, request, &build, &fits)? {
        return Ok(Pointed::To(manifest, found));
    }
    let failure = Pointer::name(release, kernel, &failing(package))?;
    let fails = |manifest: &Manifest| known.is_of(request, manifest);
    if let Some((manifest, found)) = follow(session, request, &failure, &fails)? {
        return Ok(Pointed::To(manifest, found));
    }
    let distrusted = [&build, &failure].iter().any(|name| context.caches().have_distrusted(name));
    Ok(Pointed::Nowhere { distrusted })
}

/// The entry that one pointer leads to, if it fits.
fn follow(
    session: &Session,
    request: &Request,
    name: &Name,
    fits: &dyn Fn(&Manifest) -> Result<(), String>,
) -> Result<Option<(Box<Manifest>, Source)>> {
    let (context, Some(store)) = (session.context, &session.store) else { return Ok(None) };
    let Some(pointer) = context.caches().pointer(store, name, context.roll_back, context.now())? else {
        return Ok(None);
    };
    let key = pointer.key();
    let mut found = Source::Store;
    let mut manifest = local::stored(session, request, &key)?;
    let is_usable = |manifest: &Manifest| by_key::is_honest(manifest).and_then(|()| fits(manifest));
    if manifest.is_none()
        && let Some(from) = by_key::fetch(session, request, &key, &is_usable)?
    {
        found = Source::Shared(from);
        manifest = local::stored(session, request, &key)?;
    }
    let Some(manifest) = manifest else { return Ok(None) };
    if let Err(reason) = fits(&manifest) {
        context
            .progress()
            .print(&format!("{}: ignoring the newest build in the store: {reason}", request.name()));
        return Ok(None);
    }
    Ok(Some((manifest, found)))
}

/// Whether modules may be loaded into this kernel, as far as that can be determined here.
fn judge(
    session: &Session,
    request: &Request,
    known: &Known,
    manifest: Box<Manifest>,
    found: Source,
) -> Result<Resolution> {
    let mut found = found;
    let is_there = local::used(session, &manifest.key)?;
    let mut outputs = if is_there { local::whole(session, request, &manifest)? } else { None };
    if outputs.is_none()
        && let Some(from) = by_key::fetch(session, request, &manifest.key, &by_key::is_honest)?
    {
        found = Source::Shared(from);
        outputs = local::whole(session, request, &manifest)?;
    }
    let Some(outputs) = outputs else {
        return Ok(Resolution::NoHeaders(lack::of(session, request, true, false)));
    };
    let against = match request.kernel.build_tree() {
        Some(tree) => Against::tree(session, request.kernel, tree)?,
        None => Against::config(session, request.kernel, &known.config),
    };
    // Exports of other packages are not known here; the builder checked them against the same kernel.
    let mut faults = check_modules::faults(request.kernel, &against, &outputs.modules, &BTreeMap::new())?;
    faults.extend(check_modules::undeclared(request.kernel, &manifest)?);
    match (faults.is_empty(), &found) {
        (true, _) => Ok(Resolution::Ready { manifest, found }),
        (false, Source::Shared(from)) => {
            by_key::refuse(session, request, &manifest.key, from, &faults)?;
            Ok(Resolution::Refused(faults))
        }
        (false, _) => Ok(Resolution::Refused(faults)),
    }
}

/// The name of the pointer to an entry; `None` if it cannot have one.
pub fn pointer_name(entry: &Entry) -> Option<Name> {
    let manifest = entry.manifest();
    let Labels { package, kernel, kernel_version, arch, .. } = Labels::of(manifest);
    let is_known = !arch.is_empty() && !kernel_version.is_empty();
    let package = match manifest.outcome {
        Outcome::Built => package.to_owned(),
        Outcome::Failed { .. } => failing(package),
    };
    Pointer::name(kernel, kernel_id(arch, kernel_version), &package).ok().filter(|_| is_known)
}

/// A package's name in pointers to failures, by which hosts that cannot build hear of them. No package's name begins
/// with a dash ([`kcache_kernel::recipe::is_flat_name`]). Stored: never change it.
fn failing(package: &str) -> String {
    format!("-fails-{package}")
}
