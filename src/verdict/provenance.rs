//! Provenance of what is installed for a kernel: who built it, which keys signed it, and how long it took.
//!
//! The generation in the kernel's tree says what is installed; the rest is in the store's entries. An entry may have been
//! deleted (collected, or with the whole store). The modules are not affected, but their provenance is then unknown.

use kcache_kernel::install::{self, Installed, InstalledPackage};
use kcache_kernel::kernels::Kernel;
use kcache_store::Entry;

use crate::error::Result;
use crate::run::counters;
use crate::run::session::Session;

/// The provenance of an installed package.
#[derive(Debug, Clone, PartialEq)]
pub struct Origin {
    /// Name of the package.
    pub package: String,
    /// Version of the package.
    pub version: String,
    /// Number of its modules.
    pub modules: u64,
    /// Size in bytes of their files, signed and compressed.
    pub bytes: u64,
    /// Who built them; `None` if the store has no entry any more.
    pub made: Option<Made>,
}

/// How a build was made.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// Name of the building host, as it calls itself.
    pub builder: String,
    /// Whether this host built it.
    pub here: bool,
    /// Names of the trusted keys that signed it.
    pub signers: Vec<String>,
    /// Duration of the build in seconds, if known.
    pub seconds: Option<f64>,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// Every package that is installed for a kernel.
pub fn of_kernel(session: &Session, kernel: &Kernel) -> Result<Vec<Origin>> {
    let Some(tree) = &kernel.modules else { return Ok(Vec::new()) };
    let Some(generation) = install::current(tree)? else { return Ok(Vec::new()) };
    let directory = tree.join("updates").join(generation.dir_name());
    let size = |module: &Installed| fs_err::metadata(directory.join(&module.path)).map_or(0, |m| m.len());
    let origin = |package: &InstalledPackage<Installed>| Origin {
        package: package.name.clone(),
        version: package.version.clone(),
        modules: package.modules.len() as u64,
        bytes: package.modules.iter().map(size).sum(),
        made: entry(session, package).map(|entry| made(session, &entry)),
    };
    Ok(generation.set.packages.iter().map(origin).collect())
}

/// The store's entry of an installed build. A corrupt one is left for repair.
fn entry(session: &Session, package: &InstalledPackage<Installed>) -> Option<Entry> {
    session.store.as_ref()?.lookup(&package.key.parse().ok()?).ok().flatten()
}

/// How an entry's build was made.
pub fn made(session: &Session, entry: &Entry) -> Made {
    let (context, manifest) = (session.context, entry.manifest());
    let own = context.services.signer.as_ref().map(|signer| signer.public());
    let keys = context.caches().trust().keys();
    Made {
        builder: manifest.builder.clone(),
        here: entry.envelope().signatures().is_empty() || own.is_some_and(|key| entry.is_made_by(key)),
        signers: keys
            .filter(|key| entry.envelope().is_signed_by(&key.key))
            .map(|key| key.name.clone())
            .collect(),
        seconds: counters::seconds(manifest),
        created: manifest.created,
    }
}
