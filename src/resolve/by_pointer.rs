//! Modules that were built elsewhere.
//!
//! ```text
//! identified     the key is known           -> the key's entry, from a shared cache into the store
//! unidentified   no headers, compiler or source to work a key out
//!                1. the store's entry for exactly this kernel and this source
//!                2. by-kernel/<release>/<kernel>/<package>: the entry that a builder points to
//! ```
//! A kernel is told apart from others of its release by the `uname -v` text in the header of its image. What is fetched
//! passes the checks that a build would, as far as this host can make them; what does not pass is left, and said.

use std::collections::BTreeMap;

use kcache_kernel::kconfig::Kconfig;
use kcache_kernel::kernels::{self, Headers};
use kcache_store::{Digest, Entry, Manifest, Outcome, Pointer};

use crate::build::check_modules::{self, Against};
use crate::error::Result;
use crate::resolve::resolution::Answer;
use crate::resolve::{by_key, local};
use crate::run::request::{Found, Wish};
use crate::run::select;
use crate::run::session::Session;

/// What the kernel is called in pointers: the digest of its architecture and its `uname -v`, a line each.
pub fn kernel_id(arch: &str, version: &str) -> Digest {
    Digest::of(format!("{arch}\n{version}\n").as_bytes())
}

/// The answer for a package whose key cannot be worked out here.
pub fn unidentified(session: &Session, wish: &Wish) -> Result<Answer> {
    let known = Known::of(session, wish)?;
    let lacking = || Ok(Answer::NoHeaders(lacking(session, wish)));
    let Some(known) = known else { return lacking() };
    if let Some(manifest) = in_store(session, wish, &known)? {
        return judge(session, wish, &known, manifest, Found::Store);
    }
    match pointed_to(session, wish, &known)? {
        Some((manifest, found)) => judge(session, wish, &known, manifest, found),
        None => lacking(),
    }
}

/// What can be known of a kernel without headers, and of a package that may have no source.
struct Known {
    config: Kconfig,
    arch: String,
    version: String,
    source: Option<Digest>,
}

impl Known {
    fn of(session: &Session, wish: &Wish) -> Result<Option<Known>> {
        let tree = wish.kernel.build_tree();
        let config = match tree {
            Some(tree) => Some(tree.config.clone()),
            None => kernels::config(&session.world.root, wish.kernel)?,
        };
        let version = wish.kernel.image_version.clone().or_else(|| tree.map(|tree| tree.version.clone()));
        let (Some(config), Some(version)) = (config, version) else { return Ok(None) };
        let source = match wish.package.has_source() {
            true => Some(session.seen_source(wish.package)?.digest),
            false => None,
        };
        let arch = kernels::arch(&config).to_owned();
        Ok(Some(Known { config, arch, version, source }))
    }

    /// Whether an entry is one of this package for this kernel, of this source where there is one; else why not.
    fn fits(&self, wish: &Wish, manifest: &Manifest) -> Result<(), String> {
        let source = self.source.map(|source| source.to_string());
        let wanted = [
            ("package", Some(wish.package.name.as_str())),
            ("kernel", Some(&wish.kernel.release)),
            ("kernel-version", Some(&self.version)),
            ("arch", Some(&self.arch)),
            ("source", source.as_deref()),
        ];
        for (label, wanted) in wanted {
            let found = manifest.labels.get(label).map_or("", String::as_str);
            if wanted.is_some_and(|wanted| wanted != found) {
                let version = manifest.labels.get("version").map_or("", String::as_str);
                return Err(format!(
                    "version {version} was built for another {label}: {}",
                    found.escape_debug()
                ));
            }
        }
        if manifest.outcome == Outcome::Built { Ok(()) } else { Err("it did not build".to_owned()) }
    }
}

/// The newest entry that the store has of exactly this source.
fn in_store(session: &Session, wish: &Wish, known: &Known) -> Result<Option<Box<Manifest>>> {
    let (Some(store), Some(source)) = (&session.store, known.source) else { return Ok(None) };
    let source = source.to_string();
    let labels = [
        ("package", wish.package.name.as_str()),
        ("kernel", &wish.kernel.release),
        ("kernel-version", &known.version),
        ("source", &source),
    ];
    for row in store.find(&labels)?.into_iter().filter(|row| row.built) {
        if let Some(manifest) = local::stored(session, wish, &row.key)? {
            return Ok(Some(manifest));
        }
    }
    Ok(None)
}

/// The entry that a builder points to, from the store or a shared cache.
fn pointed_to(session: &Session, wish: &Wish, known: &Known) -> Result<Option<(Box<Manifest>, Found)>> {
    let (world, Some(store)) = (session.world, &session.store) else { return Ok(None) };
    let kernel = kernel_id(&known.arch, &known.version);
    let name = Pointer::name(&wish.kernel.release, kernel, &wish.package.name)?;
    session.asks_caches();
    let Some(pointer) = world.caches.pointer(store, &name, world.roll_back, (world.now)())? else {
        return Ok(None);
    };
    let key = pointer.key();
    let mut found = Found::Store;
    let mut manifest = local::stored(session, wish, &key)?;
    let fits = |manifest: &Manifest| by_key::is_honest(manifest).and_then(|()| known.fits(wish, manifest));
    if manifest.is_none()
        && let Some(from) = by_key::fetch(session, wish, &key, &fits)?
    {
        found = Found::Shared(from);
        manifest = local::stored(session, wish, &key)?;
    }
    let Some(manifest) = manifest else { return Ok(None) };
    if let Err(reason) = known.fits(wish, &manifest) {
        world.progress.say(&format!("{}: the newest build in the store is not used: {reason}", wish.name()));
        return Ok(None);
    }
    Ok(Some((manifest, found)))
}

/// Whether modules may be loaded into this kernel, as far as it can be told here.
fn judge(
    session: &Session,
    wish: &Wish,
    known: &Known,
    manifest: Box<Manifest>,
    found: Found,
) -> Result<Answer> {
    let mut found = found;
    let is_there = local::used(session, &manifest.key)?;
    let mut outputs = if is_there { local::whole(session, wish, &manifest)? } else { None };
    if outputs.is_none()
        && let Some(from) = by_key::fetch(session, wish, &manifest.key, &by_key::is_honest)?
    {
        found = Found::Shared(from);
        outputs = local::whole(session, wish, &manifest)?;
    }
    let Some(outputs) = outputs else { return Ok(Answer::NoHeaders(lacking(session, wish))) };
    let against = match wish.kernel.build_tree() {
        Some(tree) => Against::tree(session, wish.kernel, tree)?,
        None => Against::config(&known.config),
    };
    // What other packages export cannot be told here: it was checked where this was built, against the same kernel.
    let mut faults = check_modules::faults(wish.kernel, &against, &outputs.modules, &BTreeMap::new())?;
    faults.extend(check_modules::undeclared(wish.kernel, &manifest)?);
    match (faults.is_empty(), &found) {
        (true, _) => Ok(Answer::Ready { manifest, found }),
        (false, Found::Shared(from)) => {
            by_key::refuse(session, wish, &manifest.key, from, &faults)?;
            Ok(Answer::Refused(faults))
        }
        (false, _) => Ok(Answer::Refused(faults)),
    }
}

fn lacking(session: &Session, wish: &Wish) -> String {
    let release = &wish.kernel.release;
    let hint = kernels::headers_hint(&session.world.root, release);
    match &wish.kernel.headers {
        Headers::Wrong { path, found } => {
            format!("{} holds the headers of {found}: {hint}", path.display())
        }
        _ if !wish.package.has_source() => {
            let wanted = session.world.elsewhere.wanted.iter().filter(|name| **name != wish.package.name);
            let names = wish.all.iter().map(|package| &package.name).chain(wanted).map(String::as_str);
            let nearest = select::nearest(&wish.package.name, names);
            let nearest = nearest.map_or(String::new(), |name| format!("; did you mean {name}?"));
            format!(
                "its source is not on this machine, and no cache has a build of it for exactly this kernel{nearest}"
            )
        }
        _ => hint,
    }
}

/// Whether an entry can be pointed to, and by which name.
pub fn pointer_name(entry: &Entry) -> Option<kcache_store::transport::Name> {
    let manifest = entry.manifest();
    let label = |name: &str| manifest.labels.get(name).map(String::as_str);
    let kernel = kernel_id(label("arch")?, label("kernel-version")?);
    let built = manifest.outcome == Outcome::Built;
    Pointer::name(label("kernel")?, kernel, label("package")?).ok().filter(|_| built)
}
