//! How things stand: each package for each kernel, compared with what is installed and what is in the store.

use kcache_kernel::install::{self, Fault, Generation};
use kcache_kernel::kernels::{self, Kernel};
use kcache_store::{Manifest, Outcome};

use crate::ensure::{self, Identified, Wish};
use crate::error::{Error, Result};
use crate::explain;
use crate::facts::Session;

/// How one package stands for one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Installed, intact, and what would be built now; or would be but for another compiler.
    Ready,
    /// Built, not installed.
    Cached,
    /// Neither built nor installed.
    Missing,
    /// Installed, but its inputs have changed since.
    Stale,
    /// Known not to build.
    Fails,
    /// Not meant for this kernel.
    Excluded,
    /// Installed and damaged.
    Broken,
    /// It cannot be told: no headers.
    NoHeaders,
    /// It cannot be told: something is wrong with the package.
    Error,
}

impl State {
    /// The word for it. Printed, and part of the JSON: never changed.
    pub fn word(&self) -> &'static str {
        match self {
            State::Ready => "ready",
            State::Cached => "cached",
            State::Missing => "missing",
            State::Stale => "stale",
            State::Fails => "fails",
            State::Excluded => "excluded",
            State::Broken => "broken",
            State::NoHeaders => "no-headers",
            State::Error => "error",
        }
    }

    /// True where a reboot into the kernel is none the worse for this package.
    pub fn is_good(&self) -> bool {
        matches!(self, State::Ready | State::Excluded)
    }
}

/// The state, and why.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The state.
    pub state: State,
    /// In words, where there is more to say.
    pub reason: Option<String>,
}

/// What is installed for one kernel.
pub struct Installed {
    /// The generation, if kcache installed one.
    pub generation: Option<Generation>,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

impl Installed {
    /// Reads and verifies it.
    pub fn read(kernel: &Kernel) -> Result<Installed> {
        let Some(tree) = &kernel.modules else {
            return Ok(Installed { generation: None, faults: Vec::new() });
        };
        let generation = install::current(tree)?;
        let faults = match &generation {
            Some(generation) => install::verify(tree, generation)?,
            None => Vec::new(),
        };
        Ok(Installed { generation, faults })
    }

    /// The key of a package's installed build.
    fn key(&self, package: &str) -> Option<&str> {
        let packages = &self.generation.as_ref()?.set.packages;
        packages.iter().find(|installed| installed.name == package).map(|installed| installed.key.as_str())
    }

    /// What is wrong with one package's installed modules: what concerns it by name, or all of them at once.
    fn fault(&self, package: &str) -> Option<&Fault> {
        let generation = self.generation.as_ref()?;
        let own = generation.set.packages.iter().find(|installed| installed.name == package)?;
        self.faults.iter().find(|fault| match fault {
            Fault::NoIndex { .. } => true,
            Fault::Missing { path } | Fault::Changed { path, .. } => {
                own.modules.iter().any(|module| path.ends_with(&module.path))
            }
            Fault::Unlisted { module } | Fault::Shadowed { module, .. } => {
                own.modules.iter().any(|installed| installed.spec.name == *module)
            }
        })
    }
}

/// How a package stands for a kernel. Where packages were not named, those that are not installed automatically are
/// nothing to wait for.
pub fn standing(session: &Session, wish: &Wish, installed: &Installed, named: bool) -> Standing {
    judge(session, wish, installed, named)
        .unwrap_or_else(|error| Standing { state: State::Error, reason: Some(error.to_string()) })
}

fn judge(session: &Session, wish: &Wish, installed: &Installed, named: bool) -> Result<Standing> {
    let say = |state, reason: Option<String>| Ok(Standing { state, reason });
    let name = &wish.package.name;
    if let Some(fault) = installed.fault(name) {
        return say(State::Broken, Some(fault.to_string()));
    }
    let sourceless = !wish.package.has_source();
    let Some(tree) = wish.kernel.build_tree().filter(|_| !sourceless) else {
        let lacks = if sourceless { "source" } else { "headers" };
        return match installed.key(name) {
            Some(_) => say(State::Ready, Some(format!("without {lacks} its inputs cannot be compared"))),
            None if sourceless => say(
                State::Missing,
                Some("its source is not here; `kcache install` fetches it, if a cache has it".into()),
            ),
            None => {
                say(State::NoHeaders, Some(kernels::headers_hint(&session.world.root, &wish.kernel.release)))
            }
        };
    };
    let id = ensure::identify(session, wish, tree)?;
    if let Some(reason) = &id.recipe.excluded {
        return say(State::Excluded, Some(reason.clone()));
    }
    match installed.key(name) {
        Some(key) if key == id.key.to_string() => say(State::Ready, None),
        Some(key) => compare(session, &id, key),
        None if !named && !id.recipe.automatic => {
            say(State::Excluded, Some("it is not installed automatically".into()))
        }
        None => not_installed(session, &id),
    }
}

/// The installed build has another key: which inputs have changed.
fn compare(session: &Session, id: &Identified, key: &str) -> Result<Standing> {
    let known: Option<Manifest> = match (&session.store, key.parse()) {
        (Some(store), Ok(key)) => store.lookup(&key).ok().flatten().map(kcache_store::Entry::into_manifest),
        _ => None,
    };
    let Some(before) = known else {
        return Ok(Standing { state: State::Stale, reason: Some("its inputs have changed".into()) });
    };
    let differences = explain::differences(&before.fields, &id.fields);
    let names: Vec<&str> = differences.iter().map(|difference| difference.field.as_str()).collect();
    let compiler_only = names.iter().all(|name| name.starts_with("toolchain."));
    let reason = Some(format!("changed: {}", names.join(", ")));
    Ok(Standing { state: if compiler_only { State::Ready } else { State::Stale }, reason })
}

fn not_installed(session: &Session, id: &Identified) -> Result<Standing> {
    let entry = match &session.store {
        Some(store) => store.lookup(&id.key)?,
        None => None,
    };
    Ok(match entry.map(|entry| entry.into_manifest().outcome) {
        None => Standing { state: State::Missing, reason: None },
        Some(Outcome::Built) => {
            Standing { state: State::Cached, reason: Some("built, not installed".into()) }
        }
        Some(Outcome::Failed { first_error, .. }) => {
            Standing { state: State::Fails, reason: Some(first_error) }
        }
    })
}

/// The log of the last build of a package for a kernel: of exactly what is there now, else of the newest known build.
pub fn log(session: &Session, wish: &Wish) -> Result<(Manifest, Vec<u8>)> {
    let unknown =
        || Error::Unknown { package: wish.package.name.clone(), release: wish.kernel.release.clone() };
    let store = session.store.as_ref().ok_or_else(unknown)?;
    let exact = match wish.kernel.build_tree() {
        Some(tree) => store.lookup(&ensure::identify(session, wish, tree)?.key)?,
        None => None,
    };
    let labels = [("package", wish.package.name.as_str()), ("kernel", wish.kernel.release.as_str())];
    let entry = match exact {
        Some(entry) => Some(entry),
        None => match store.find(&labels)?.first() {
            Some(row) => store.lookup(&row.key)?,
            None => None,
        },
    };
    let manifest = entry.ok_or_else(unknown)?.into_manifest();
    let output =
        manifest.outputs.iter().find(|output| output.role == kcache_store::LOG).ok_or_else(unknown)?;
    let log = store.read_object(&output.digest, output.size)?.ok_or_else(unknown)?;
    Ok((manifest, log))
}
