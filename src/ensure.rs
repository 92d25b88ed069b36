//! A package's modules for a kernel: looked up, or built.
//!
//! ```text
//! identify   source, recipe, kernel, toolchain  ->  key
//! look up    an entry for the key, its objects whole   -> hit, or the failure that is remembered
//! fetch      the same from a shared cache, into the store
//! build      under the key's lock: `make`; see that nobody touched headers or tools
//! admit      every module checked against the kernel; only then objects and entry are published
//! ```
//!
//! Where a key cannot be worked out, for want of headers, compiler or source, a pointer may still tell which entry is meant
//! (`fetch`). That a package does not build is an answer where this host has found it out, or where nothing is to be built here; what
//! others have signed of it is advice, which is said, and tried once. Two processes that want the same key build it once: the second waits for the lock and then finds the entry. Damage in
//! the store is said aloud, deleted and built again. A crash leaves scratch that the next build clears away.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kcache_kernel::at_once::both;
use kcache_kernel::kernels::{BuildTree, Headers, Kernel};
use kcache_kernel::ko::Fault;
use kcache_kernel::packages::Package;
use kcache_kernel::recipe::Recipe;
use kcache_store::{Digest, Field, Key, Lock, Manifest, Outcome, Store};

use crate::admit::{self, Outputs};
use crate::dependencies::{self, Dependency};
use crate::error::{Error, Result};
use crate::facts::{KernelFacts, Session};
use crate::key::{self, ENVIRONMENT, Inputs};
use crate::make::{self, How, Made};
use crate::{fetch, observed, schedule, share};

/// A build that has waited this long for its turn may be in a shared cache by now.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What is to be had of one package for one kernel.
#[derive(Clone, Copy)]
pub struct Wish<'a> {
    /// The package.
    pub package: &'a Package,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Every package, for dependencies.
    pub all: &'a [Package],
}

impl Wish<'_> {
    /// How it is called while it is worked on.
    pub fn name(&self) -> String {
        format!("{} for {}", self.package, self.kernel.release)
    }
}

/// How far to go.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Build although an entry is there, also one that says it fails.
    pub rebuild: bool,
    /// Packages that are not installed automatically are left out.
    pub automatic_only: bool,
    /// Build nothing.
    pub fetch_only: bool,
}

/// What was had.
pub enum Answer {
    /// Modules.
    Ready {
        /// Their entry.
        manifest: Box<Manifest>,
        /// Whether they were there or were built now.
        found: Found,
    },
    /// The package does not build.
    Fails {
        /// The entry that says so.
        manifest: Box<Manifest>,
        /// Whether that was known before.
        found: Found,
    },
    /// The package is not meant for this kernel.
    Excluded(String),
    /// It is not installed automatically and was not asked for.
    NotAutomatic,
    /// Neither headers nor a build.
    NoHeaders(String),
    /// No build is to be had, and none was to be made.
    NotCached,
    /// What was built or kept must not be loaded.
    Refused(Vec<Fault>),
}

/// Where an answer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The store had it.
    Store,
    /// The shared cache with this URL had it.
    Shared(String),
    /// It was built now.
    Built,
}

/// What a build is identified by.
pub struct Identified {
    /// The evaluated recipe.
    pub recipe: Recipe,
    /// Tree digest of the source.
    pub source: Digest,
    /// Tree digest of the administrator's patches and scripts for the package, where there are any.
    pub overrides: Option<Digest>,
    /// What the key is made of.
    pub fields: Vec<Field>,
    /// The key.
    pub key: Key,
    /// The kernel's side of it.
    pub facts: Arc<KernelFacts>,
    /// The packages it builds against, by the names it has for them.
    pub dependencies: Vec<(String, Identified)>,
}

/// Finds out what a build is identified by. Builds nothing.
pub fn identify(session: &Session, wish: &Wish, tree: &BuildTree) -> Result<Identified> {
    identify_within(session, wish, tree, &mut Vec::new())
}

fn identify_within<'a>(
    session: &Session,
    wish: &Wish<'a>,
    tree: &BuildTree,
    within: &mut Vec<&'a str>,
) -> Result<Identified> {
    let (source, facts) = both(|| session.seen_source(wish.package), || session.kernel(wish.kernel, tree));
    let (source, facts) = (source?, facts?);
    let recipe = session.recipe(wish.package, source, wish.kernel, tree)?;
    let source = source.digest;
    within.push(&wish.package.name);
    let mut dependencies = Vec::new();
    let depends = if recipe.excluded.is_none() { recipe.depends.as_slice() } else { &[] };
    for name in depends {
        let package = dependencies::find(wish, name, within)?;
        let id = identify_within(session, &Wish { package, ..*wish }, tree, within)?;
        dependencies.push((name.clone(), id));
    }
    within.pop();
    let overrides = session.overrides(wish.package)?;
    let keys: Vec<(String, Key)> = dependencies.iter().map(|(name, id)| (name.clone(), id.key)).collect();
    let inputs = Inputs {
        source,
        recipe: &recipe,
        overrides,
        kernel: facts.inputs(wish.kernel, tree),
        tools: &facts.tools,
        dependencies: &keys,
        environment: &ENVIRONMENT,
    };
    let fields = key::fields(&inputs);
    let key = key::key(&fields);
    Ok(Identified { recipe, source, overrides, fields, key, facts, dependencies })
}

/// What came of a look.
pub enum Looked<'a> {
    /// It needs no build, or there is none to be had.
    Answered(Answer),
    /// It is to be built.
    Missing(Box<Missing<'a>>),
}

/// What nobody has.
pub struct Missing<'a> {
    tree: &'a BuildTree,
    id: Identified,
    /// When the shared caches were asked for it.
    asked: Instant,
}

impl Missing<'_> {
    /// Whether it is built against a package of this name.
    pub fn needs(&self, package: &str) -> bool {
        self.id.needs(package)
    }
}

impl Identified {
    fn needs(&self, package: &str) -> bool {
        self.dependencies.iter().any(|(_, id)| id.recipe.name == package || id.needs(package))
    }
}

/// A package's modules for a kernel, built if need be. The answer is counted.
pub fn ensure(session: &Session, wish: &Wish, options: &Options) -> Result<Answer> {
    match look(session, wish, options)? {
        Looked::Answered(answer) => Ok(answer),
        Looked::Missing(missing) => build(session, wish, *missing, options),
    }
}

/// Looks for them in the store and in shared caches. An answer is counted.
pub fn look<'a>(session: &Session, wish: &Wish<'a>, options: &Options) -> Result<Looked<'a>> {
    let looked = search(session, wish, options)?;
    if let Looked::Answered(answer) = &looked {
        session.tally.note(&wish.name(), answer, !options.rebuild);
    }
    Ok(looked)
}

/// Builds what a look has not found, unless it has come meanwhile. The answer is counted.
pub fn build(session: &Session, wish: &Wish, missing: Missing, options: &Options) -> Result<Answer> {
    let needed = dependencies::have(session, wish, &missing.id, options)?;
    let answer = have_once(session, wish, &missing, &needed, options)?;
    session.tally.note(&wish.name(), &answer, !options.rebuild);
    Ok(answer)
}

fn search<'a>(session: &Session, wish: &Wish<'a>, options: &Options) -> Result<Looked<'a>> {
    let answered = |answer| Ok(Looked::Answered(answer));
    let tree = match &wish.kernel.headers {
        Headers::Present(tree) if wish.package.has_source() => tree,
        _ => return answered(fetch::unidentified(session, wish)?),
    };
    session.check_names(wish.package)?;
    let id = match identify(session, wish, tree) {
        // A host that never compiles needs nothing to compile with.
        Err(error) if error.lacks_tools() => {
            return match fetch::unidentified(session, wish)? {
                Answer::NoHeaders(_) => Err(error),
                answer => answered(answer),
            };
        }
        id => id?,
    };
    for note in &id.recipe.notes {
        session.world.progress.detail(&format!("{}: {note}", wish.package.name));
    }
    if options.automatic_only && !id.recipe.automatic {
        return answered(Answer::NotAutomatic);
    }
    if let Some(reason) = &id.recipe.excluded {
        return answered(Answer::Excluded(reason.clone()));
    }
    if !options.rebuild {
        if let Some(answer) = answer(session, wish, tree, &id, options)? {
            return answered(answer);
        }
        if !session.world.caches.is_empty() {
            let store = session.store.as_ref().ok_or(Error::NoStore)?;
            let _lock = lock(session, store, &id.key)?;
            if let Some(answer) = look_further(session, store, wish, tree, &id, options, true)? {
                return answered(answer);
            }
        }
    }
    if options.fetch_only {
        return answered(Answer::NotCached);
    }
    Ok(Looked::Missing(Box::new(Missing { tree, id, asked: Instant::now() })))
}

/// The answer that the store has for a run that goes so far.
fn answer(
    session: &Session,
    wish: &Wish,
    tree: &BuildTree,
    id: &Identified,
    options: &Options,
) -> Result<Option<Answer>> {
    match look_up(session, wish, tree, id)? {
        Some(Answer::Fails { manifest, .. }) if !options.fetch_only && is_advice(session, &manifest)? => {
            let advice = advice(&manifest).unwrap_or_default();
            session.say_once(&format!("{}: {advice}", wish.name()));
            Ok(None)
        }
        answer => Ok(answer),
    }
}

/// Whether an entry of the store says that a package does not build, and others say so alone. A key that was stolen from one of
/// them could else keep a package from every host.
pub fn is_advice(session: &Session, manifest: &Manifest) -> Result<bool> {
    let (Some(store), Some(_)) = (&session.store, advice(manifest)) else { return Ok(false) };
    Ok(store.lookup(&manifest.key)?.is_some_and(|entry| !session.world.made(&entry)))
}

/// What an entry that says so says, for people.
pub(crate) fn advice(manifest: &Manifest) -> Option<String> {
    let Outcome::Failed { first_error, .. } = &manifest.outcome else { return None };
    let short = |text: &str| text.escape_debug().take(200).collect::<String>();
    let (builder, why) = (short(&manifest.builder), short(first_error));
    Some(format!("{builder} says that it does not build: {why}; it is tried here"))
}

/// The answer that the store has, if it has one that is whole and may be believed.
pub fn look_up(session: &Session, wish: &Wish, tree: &BuildTree, id: &Identified) -> Result<Option<Answer>> {
    let Some(manifest) = stored(session, wish, &id.key)?.filter(|known| fits(session, wish, id, known))
    else {
        return Ok(None);
    };
    // From here on it is not collected, nor are its objects.
    if !used(session, &id.key)? {
        return Ok(None);
    }
    if manifest.outcome != Outcome::Built {
        return Ok(Some(Answer::Fails { manifest, found: Found::Store }));
    }
    let Some(outputs) = whole(session, wish, &manifest)? else { return Ok(None) };
    let needed = dependencies::have(session, wish, id, &Options::default())?;
    let mut faults = faults(session, wish, tree, &outputs, &needed)?;
    faults.extend(admit::undeclared(wish.kernel, &manifest)?);
    if !faults.is_empty() {
        return Ok(Some(Answer::Refused(faults)));
    }
    Ok(Some(Answer::Ready { manifest, found: Found::Store }))
}

/// What is wrong with modules, beside the kernel and the packages that they were built against.
fn faults(
    session: &Session,
    wish: &Wish,
    tree: &BuildTree,
    outputs: &Outputs,
    needed: &[Dependency],
) -> Result<Vec<Fault>> {
    let against = admit::Against::tree(session, wish.kernel, tree)?;
    admit::faults(wish.kernel, &against, &outputs.modules, &dependencies::exports(needed))
}

/// Notes that an entry of the store is used; false where it is gone again.
pub fn used(session: &Session, key: &Key) -> Result<bool> {
    match &session.store {
        Some(store) => Ok(store.used(key, (session.world.now)())?),
        None => Ok(false),
    }
}

/// Whether an entry's build read what it would read here; a file that cannot be read is another.
pub fn fits(session: &Session, wish: &Wish, id: &Identified, manifest: &Manifest) -> bool {
    let Some(path) = observed::difference(&id.facts, manifest) else { return true };
    let what = wish.name();
    session.world.progress.detail(&match path {
        observed::ANYTHING => format!("{what}: a build that may have read anything is known, and not used"),
        _ => format!("{what}: a build with another {path} is known, and not used"),
    });
    false
}

/// What the store says of a key. A damaged entry is forgotten, and one that is trusted no more is passed over.
pub fn stored(session: &Session, wish: &Wish, key: &Key) -> Result<Option<Box<Manifest>>> {
    let Some(store) = &session.store else { return Ok(None) };
    match store.lookup(key) {
        Ok(Some(entry)) => match session.world.distrusts(&entry) {
            None => Ok(Some(Box::new(entry.into_manifest()))),
            Some(distrust) => {
                let what = wish.name();
                session
                    .world
                    .progress
                    .say(&format!("warning: the store's entry of {what} is not used: {distrust}"));
                store.forget(key)?;
                Ok(None)
            }
        },
        Ok(None) => Ok(None),
        Err(error) if is_damage(&error) => {
            say_damage(session, wish, &error);
            store.forget(key)?;
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The outputs of an entry, where the store has all of them undamaged. Damage is deleted.
pub fn whole(session: &Session, wish: &Wish, manifest: &Manifest) -> Result<Option<Outputs>> {
    match admit::outputs(session, manifest) {
        Ok(None) => {
            let what = wish.name();
            session
                .world
                .progress
                .detail(&format!("{what}: the store has the entry, but not all of its objects"));
            Ok(None)
        }
        Err(Error::Store(error)) if is_damage(&error) => {
            say_damage(session, wish, &error);
            if let Some(store) = &session.store {
                heal(store, manifest)?;
            }
            Ok(None)
        }
        outputs => outputs,
    }
}

fn say_damage(session: &Session, wish: &Wish, error: &kcache_store::Error) {
    let what = wish.name();
    session.world.progress.say(&format!("warning: {error}; {what} is fetched or built again"));
}

/// Whether something of the store is broken, rather than not to be reached.
pub(crate) fn is_damage(error: &kcache_store::Error) -> bool {
    matches!(error, kcache_store::Error::Damaged { .. } | kcache_store::Error::Entry { .. })
}

/// Deletes the objects of an entry that do not verify.
fn heal(store: &Store, manifest: &Manifest) -> Result<()> {
    for output in &manifest.outputs {
        match store.read_object(&output.digest, output.size) {
            Err(error) if is_damage(&error) => store.discard_object(&output.digest)?,
            _ => {}
        }
    }
    Ok(store.forget(&manifest.key)?)
}

/// Waits for others who want the same.
fn lock(session: &Session, store: &Store, key: &Key) -> Result<Lock> {
    let world = session.world;
    Ok(store.lock(&key.to_string(), &world.waiting(&|message| world.progress.say(message)))?)
}

/// Under the key's lock: what another process may have put into the store meanwhile, or a shared cache has.
fn look_further(
    session: &Session,
    store: &Store,
    wish: &Wish,
    tree: &BuildTree,
    id: &Identified,
    options: &Options,
    ask_caches: bool,
) -> Result<Option<Answer>> {
    if let Some(answer) = answer(session, wish, tree, id, options)? {
        return Ok(Some(answer));
    }
    if let Some(known) = stored(session, wish, &id.key)?
        && (is_advice(session, &known)? || !fits(session, wish, id, &known))
    {
        store.forget(&id.key)?; // room for one that is an answer
    }
    if ask_caches { fetch::identified(session, wish, tree, id, options.fetch_only) } else { Ok(None) }
}

/// Builds, unless another process has done it meanwhile.
fn have_once(
    session: &Session,
    wish: &Wish,
    missing: &Missing,
    needed: &[Dependency],
    options: &Options,
) -> Result<Answer> {
    let (world, Missing { tree, id, asked }) = (session.world, missing);
    let store = session.store.as_ref().ok_or(Error::NoStore)?;
    let _lock = lock(session, store, &id.key)?;
    let ask_caches = asked.elapsed() > ASK_AGAIN;
    if !options.rebuild
        && let Some(answer) = look_further(session, store, wish, tree, id, options, ask_caches)?
    {
        return Ok(answer);
    }
    let how = How { may_launch: !options.rebuild };
    let made = make::make(session, wish, tree, id, needed, how)?;
    session.still_headers(wish.kernel, tree, id.facts.headers)?;
    session.still_facts(wish.kernel, tree, &id.facts)?;
    let outcome = match &made.result {
        Made::Outputs(outputs) => {
            let mut faults = faults(session, wish, tree, outputs, needed)?;
            let names = outputs.modules.iter().map(|module| module.name.as_str());
            faults.extend(admit::undeclared_among(wish.kernel, &id.recipe.modules, names)?);
            if !faults.is_empty() {
                return Ok(Answer::Refused(faults));
            }
            Outcome::Built
        }
        Made::Failure(outcome) => outcome.clone(),
    };
    for fault in &made.left_out {
        world.progress.say(&format!("warning: {}: left out: {fault}", wish.name()));
    }
    schedule::remember(session, wish.package, made.seconds)?;
    let entry = make::publish(session, store, wish, id, made, outcome, options.rebuild)?;
    if observed::is_known(entry.manifest()) {
        share::write_through(session, store, &entry)?;
    } else {
        let what = wish.name();
        world.progress.say(&format!(
            "warning: {what}: its build opened more files than can be watched: it is used now, not shared, and built again next time"
        ));
    }
    let manifest = Box::new(entry.into_manifest());
    let found = Found::Built;
    Ok(match manifest.outcome {
        Outcome::Built => Answer::Ready { manifest, found },
        Outcome::Failed { .. } => Answer::Fails { manifest, found },
    })
}
