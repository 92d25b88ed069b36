//! Requests of a run, and the sources that a build may come from.

use kcache_kernel::kernels::Kernel;
use kcache_kernel::packages::Package;

/// What is to be had of one package for one kernel.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The package.
    pub package: &'a Package,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// Every package, for dependencies.
    pub all: &'a [Package],
    /// This version, and no other one.
    pub exact: bool,
}

impl Request<'_> {
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
    /// Use builds by exactly the tools of this host, whatever is installed and the setting `other-tools` says.
    pub exact_tools: bool,
}

/// Where an answer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The store had it.
    Store,
    /// The shared cache with this URL had it.
    Shared(String),
    /// It was built now.
    Built,
}
