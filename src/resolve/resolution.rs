//! The result of a request.

use crate::resolve::lack::Lack;
use std::time::Instant;

use kcache_kernel::kernels::BuildTree;
use kcache_kernel::ko::ModuleFault;
use kcache_store::Manifest;

use crate::inputs::identify::Identified;
use crate::run::counters::Answered;
use crate::run::request::Source;

/// The result of a request.
pub enum Resolution {
    /// There are modules.
    Ready {
        /// Their entry.
        manifest: Box<Manifest>,
        /// Where the build came from.
        found: Source,
    },
    /// The package does not build.
    Fails {
        /// The entry that records the failure.
        manifest: Box<Manifest>,
        /// Where the failure came from.
        found: Source,
    },
    /// The package does not support this kernel; the reason.
    Excluded(String),
    /// It is not installed automatically and was not named.
    NotAutomatic,
    /// There are neither headers nor a build.
    NoHeaders(Lack),
    /// No cache has a build, and building is disabled.
    NotCached,
    /// The modules must not be loaded, because of these faults.
    Refused(Vec<ModuleFault>),
}

impl Resolution {
    /// How it is counted.
    pub fn answered(&self) -> Answered<'_> {
        match self {
            Resolution::Ready { manifest, found } | Resolution::Fails { manifest, found } => {
                Answered::By(manifest, found)
            }
            Resolution::NoHeaders(_) | Resolution::NotCached => Answered::Nothing,
            Resolution::Excluded(_) | Resolution::NotAutomatic | Resolution::Refused(_) => Answered::NotMeant,
        }
    }
}

/// Result of a look-up.
pub enum Lookup<'a> {
    /// It needs no build, or none is possible.
    Answered(Resolution),
    /// It must be built.
    Missing(Box<Missing<'a>>),
}

/// A request that must be built.
pub struct Missing<'a> {
    pub(super) tree: &'a BuildTree,
    pub(super) id: Identified,
    /// When shared caches were queried for it.
    pub(super) asked: Instant,
}

impl Missing<'_> {
    /// Whether it builds against a package of this name.
    pub fn needs(&self, package: &str) -> bool {
        self.id.needs(package)
    }
}
