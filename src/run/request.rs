//! Requests of a run, and the sources that a build may come from.

use kcache_kernel::kernels::Kernel;
use kcache_kernel::packages::Package;

/// A request: one package for one kernel.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The package.
    pub package: &'a Package,
    /// The kernel.
    pub kernel: &'a Kernel,
    /// All packages, for finding build dependencies.
    pub all: &'a [Package],
    /// This version, and no other one.
    pub exact: bool,
}

impl Request<'_> {
    /// Its name in messages.
    pub fn name(&self) -> String {
        format!("{} for {}", self.package, self.kernel.release)
    }
}

/// Options for resolving requests.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Build even if there is an entry, including a remembered failure.
    pub rebuild: bool,
    /// Skip packages that are not installed automatically.
    pub automatic_only: bool,
    /// Build nothing.
    pub fetch_only: bool,
    /// Use builds by exactly the tools of this host, whatever is installed and the setting `other-tools` says.
    pub exact_tools: bool,
}

/// Where a build or failure came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The store.
    Store,
    /// The shared cache with this URL.
    Shared(String),
    /// It was built in this run.
    Built,
}
