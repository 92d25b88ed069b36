//! The result of a request.

use std::time::Instant;

use kcache_kernel::kernels::BuildTree;
use kcache_kernel::ko::Fault;
use kcache_store::Manifest;

use crate::inputs::identify::Identified;
use crate::run::counters::Answered;
use crate::run::request::Source;

/// What was had.
pub enum Resolution {
    /// Modules.
    Ready {
        /// Their entry.
        manifest: Box<Manifest>,
        /// Whether they were there or were built now.
        found: Source,
    },
    /// The package does not build.
    Fails {
        /// The entry that says so.
        manifest: Box<Manifest>,
        /// Whether that was known before.
        found: Source,
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

impl Resolution {
    /// As it is counted.
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

/// What came of a look.
pub enum Lookup<'a> {
    /// It needs no build, or there is none to be had.
    Answered(Resolution),
    /// It is to be built.
    Missing(Box<Missing<'a>>),
}

/// What nobody has.
pub struct Missing<'a> {
    pub(super) tree: &'a BuildTree,
    pub(super) id: Identified,
    /// When the shared caches were asked for it.
    pub(super) asked: Instant,
}

impl Missing<'_> {
    /// Whether it is built against a package of this name.
    pub fn needs(&self, package: &str) -> bool {
        self.id.needs(package)
    }
}
