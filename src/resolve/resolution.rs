//! What came of a request.

use std::time::Instant;

use kcache_kernel::kernels::BuildTree;
use kcache_kernel::ko::Fault;
use kcache_store::Manifest;

use crate::inputs::identify::Identified;
use crate::run::counters::Answered;
use crate::run::request::Found;

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

impl Answer {
    /// As it is counted.
    pub fn answered(&self) -> Answered<'_> {
        match self {
            Answer::Ready { manifest, found } | Answer::Fails { manifest, found } => {
                Answered::By(manifest, found)
            }
            Answer::NoHeaders(_) | Answer::NotCached => Answered::Nothing,
            Answer::Excluded(_) | Answer::NotAutomatic | Answer::Refused(_) => Answered::NotMeant,
        }
    }
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
