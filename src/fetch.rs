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
use std::time::Instant;

use kcache_kernel::kconfig::Kconfig;
use kcache_kernel::kernels::{self, BuildTree, Headers};
use kcache_kernel::ko::Fault;
use kcache_store::{Digest, Entry, Key, Manifest, Outcome, Pointer};

use crate::admit::{self, Against};
use crate::ensure::{self, Answer, Found, Identified, Wish};
use crate::error::Result;
use crate::facts::Session;
use crate::{key, observed, select};

/// What the kernel is called in pointers: the digest of its architecture and its `uname -v`, a line each.
pub fn kernel_id(arch: &str, version: &str) -> Digest {
    Digest::of(format!("{arch}\n{version}\n").as_bytes())
}

/// The answer that a shared cache has for a key that this host can check in full. That it does not build is one only where
/// nothing is to be built here, `only` fetched.
pub fn identified(
    session: &Session,
    wish: &Wish,
    tree: &BuildTree,
    id: &Identified,
    only: bool,
) -> Result<Option<Answer>> {
    let fits = |manifest: &Manifest| {
        is_honest(manifest)?;
        if let Some(advice) = ensure::advice(manifest).filter(|_| !only) {
            return Err(advice);
        }
        let other = observed::difference(&id.facts, manifest);
        other.map_or(Ok(()), |path| Err(format!("its build read another {}", path.escape_debug())))
    };
    let Some(from) = fetch(session, wish, &id.key, &fits)? else { return Ok(None) };
    let answer = ensure::look_up(session, wish, tree, id)?;
    Ok(match answer {
        Some(Answer::Ready { manifest, .. }) => Some(Answer::Ready { manifest, found: Found::Shared(from) }),
        Some(Answer::Fails { manifest, .. }) => Some(Answer::Fails { manifest, found: Found::Shared(from) }),
        Some(Answer::Refused(faults)) => {
            refuse(session, wish, &id.key, &from, &faults)?;
            None
        }
        other => other,
    })
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

/// The entry of a key that is known from elsewhere, from a shared cache that has one that `fits`.
pub(crate) fn of_key(
    session: &Session,
    wish: &Wish,
    key: &Key,
    fits: &dyn Fn(&Manifest) -> Result<(), String>,
) -> Result<Option<Box<Manifest>>> {
    match fetch(session, wish, key, &|manifest| is_honest(manifest).and_then(|()| fits(manifest)))? {
        Some(_) => ensure::stored(session, wish, key),
        None => Ok(None),
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
        if let Some(manifest) = ensure::stored(session, wish, &row.key)? {
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
    let mut manifest = ensure::stored(session, wish, &key)?;
    let fits = |manifest: &Manifest| is_honest(manifest).and_then(|()| known.fits(wish, manifest));
    if manifest.is_none()
        && let Some(from) = fetch(session, wish, &key, &fits)?
    {
        found = Found::Shared(from);
        manifest = ensure::stored(session, wish, &key)?;
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
    let is_there = ensure::used(session, &manifest.key)?;
    let mut outputs = if is_there { ensure::whole(session, wish, &manifest)? } else { None };
    if outputs.is_none()
        && let Some(from) = fetch(session, wish, &manifest.key, &is_honest)?
    {
        found = Found::Shared(from);
        outputs = ensure::whole(session, wish, &manifest)?;
    }
    let Some(outputs) = outputs else { return Ok(Answer::NoHeaders(lacking(session, wish))) };
    let against = match wish.kernel.build_tree() {
        Some(tree) => Against::tree(session, wish.kernel, tree)?,
        None => Against::config(&known.config),
    };
    // What other packages export cannot be told here: it was checked where this was built, against the same kernel.
    let mut faults = admit::faults(wish.kernel, &against, &outputs.modules, &BTreeMap::new())?;
    faults.extend(admit::undeclared(wish.kernel, &manifest)?);
    match (faults.is_empty(), &found) {
        (true, _) => Ok(Answer::Ready { manifest, found }),
        (false, Found::Shared(from)) => {
            refuse(session, wish, &manifest.key, from, &faults)?;
            Ok(Answer::Refused(faults))
        }
        (false, _) => Ok(Answer::Refused(faults)),
    }
}

/// Whether an entry's key is that of the fields it shows.
fn is_honest(manifest: &Manifest) -> Result<(), String> {
    let key = key::key(&manifest.fields);
    if key == manifest.key { Ok(()) } else { Err(format!("its fields are those of key {key}")) }
}

/// Fetches an entry into the store; says from where, and returns that.
fn fetch(
    session: &Session,
    wish: &Wish,
    key: &Key,
    fits: &dyn Fn(&Manifest) -> Result<(), String>,
) -> Result<Option<String>> {
    let (world, Some(store)) = (session.world, &session.store) else { return Ok(None) };
    if !session.asks_caches() {
        return Ok(None);
    }
    let (what, start) = (wish.name(), Instant::now());
    world.progress.begin(&what, "fetching");
    let fetched = world.caches.fetch(store, key, (world.now)(), fits, &|n| world.progress.heard(&what, n));
    world.progress.end(&what);
    let Some(fetched) = fetched? else { return Ok(None) };
    world.progress.say(&format!(
        "fetched {what} from {} ({}, {:.1} s)",
        fetched.from,
        size(fetched.bytes),
        start.elapsed().as_secs_f64()
    ));
    Ok(Some(fetched.from))
}

/// What a trusted builder made and this host will not load: its builder must hear of it.
fn refuse(session: &Session, wish: &Wish, key: &Key, from: &str, faults: &[Fault]) -> Result<()> {
    let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
    session.world.progress.say(&format!(
        "warning: {}: what {from} has is refused: {}",
        wish.name(),
        faults.join("; ")
    ));
    match &session.store {
        Some(store) => Ok(store.forget(key)?),
        None => Ok(()),
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

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
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
