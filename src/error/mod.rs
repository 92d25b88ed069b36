//! The errors of the flow. Variants that wrap no other module's error say what was being done.

mod advice;

pub use advice::{Advice, Kind};

use std::path::PathBuf;
use std::sync::Arc;

use kcache_kernel as kernel;

/// An error of the flow.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] kcache_store::Error),
    /// A kernel could not be read.
    #[error(transparent)]
    Kernel(#[from] kernel::kernels::Error),
    /// A package could not be read.
    #[error(transparent)]
    Package(#[from] kernel::packages::Error),
    /// A recipe is wrong.
    #[error(transparent)]
    Recipe(#[from] kernel::recipe::Error),
    /// The compiler.
    #[error(transparent)]
    Toolchain(#[from] kernel::toolchain::Error),
    /// The sandbox.
    #[error(transparent)]
    Sandbox(#[from] kernel::sandbox::Error),
    /// Installation.
    #[error(transparent)]
    Install(#[from] kernel::install::Error),
    /// Signing modules. Shared: what keeps a key from being opened is said of every kernel.
    #[error(transparent)]
    Signing(#[from] Arc<kernel::signing::Error>),
    /// A signing service has not signed a module yet.
    #[error("no signature for {module} by {subject} in the store or a shared cache")]
    NoSignature {
        /// The module's name.
        module: String,
        /// The certificate's subject.
        subject: String,
    },
    /// A boot test.
    #[error(transparent)]
    BootTest(#[from] kernel::boot_test::Error),
    /// There is nothing to boot.
    #[error("no image of kernel {release} under {}: tried /boot/vmlinuz-{release} and /lib/modules/{release}/vmlinuz", root.display())]
    NoImage {
        /// The release.
        release: String,
        /// Where.
        root: PathBuf,
    },
    /// No kernel is called so.
    #[error("kernel '{asked}' not found under {}", root.display())]
    NoKernel {
        /// What was asked for.
        asked: String,
        /// Where.
        root: PathBuf,
        /// The one with the most similar name.
        nearest: Option<String>,
    },
    /// No package is called so.
    #[error("package '{asked}' not found under {}", root.display())]
    NoPackage {
        /// What was asked for.
        asked: String,
        /// Where.
        root: PathBuf,
        /// The one with the most similar name.
        nearest: Option<String>,
    },
    /// A build tree was given for a kernel that is not installed.
    #[error("kernel {release} is not installed under {}: /lib/modules/{release} does not exist", root.display())]
    NotInstalled {
        /// The release.
        release: String,
        /// Where.
        root: PathBuf,
    },
    /// A file name in a package's source is not UTF-8.
    #[error("{}: the file name is not UTF-8", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
    },
    /// There is no set to go back to.
    #[error("kernel {release} has no previous generation")]
    NoPrevious {
        /// The kernel.
        release: String,
    },
    /// The kernel loads signed modules only.
    #[error("kernel {release} enforces module signatures ({why}), and no signing key is configured")]
    Unsigned {
        /// The kernel.
        release: String,
        /// What makes it so strict.
        why: String,
    },
    /// The package is only known by name.
    #[error("the source of {package} is not on this machine")]
    NoSource {
        /// The package.
        package: String,
    },
    /// A build needs a store to be put into.
    #[error("no store to build into")]
    NoStore,
    /// Inputs changed while they were used.
    #[error("{what} changed during the run")]
    Changed {
        /// Which.
        what: String,
    },
    /// Nothing was built of this package for this kernel yet.
    #[error("no build or log of {package} for kernel {release}")]
    Unknown {
        /// The package.
        package: String,
        /// The kernel.
        release: String,
    },
    /// A module's debug information is not to be had.
    #[error("no debug information for {of}: {lack}")]
    NoDebugInfo {
        /// The module, or the package.
        of: String,
        /// Why.
        lack: Lack,
    },
    /// A package's script for the system failed.
    #[error("{directive} script ({command}) {reason}")]
    Script {
        /// The directive that names it.
        directive: &'static str,
        /// The script and its arguments.
        command: String,
        /// What became of it.
        reason: String,
    },
    /// What the build of another package left cannot be shown to those that build against it.
    #[error("invalid build results of {package} for other packages")]
    Kept {
        /// The other package.
        package: String,
        /// Why.
        source: kernel::build::kept::Error,
    },
    /// A package builds against another one that is not there, or in a circle.
    #[error("{package} builds against {needs}, which {problem}")]
    Dependency {
        /// The package.
        package: String,
        /// The other.
        needs: String,
        /// What is wrong with that.
        problem: &'static str,
    },
    /// This machine could not build.
    #[error("cannot build {package} for kernel {release}: {reason}")]
    Environment {
        /// The package.
        package: String,
        /// The kernel.
        release: String,
        /// What was lacking.
        reason: String,
    },
    /// An entry that this host would not use was to be shared.
    #[error("refusing to push or export entry {key}: {distrust}")]
    Distrusted {
        /// The entry's key.
        key: kcache_store::Key,
        /// Why it is not to be used.
        distrust: kcache_store::Distrust,
    },
    /// It cannot be told which kernel will be booted.
    #[error(transparent)]
    NoDefault(#[from] kernel::bootloader::Error),
    /// What is installed for a kernel cannot be read, so what must stay is not known.
    #[error("not collecting garbage: cannot determine which builds kernel {release} needs")]
    Unreachable {
        /// The kernel.
        release: String,
        /// Why not.
        source: kernel::install::Error,
    },
    /// The run was ended from outside.
    #[error("interrupted")]
    Cancelled,
}

impl From<kernel::signing::Error> for Error {
    fn from(error: kernel::signing::Error) -> Error {
        Error::Signing(Arc::new(error))
    }
}

impl Error {
    /// Of what kind it is, and what to do next.
    pub fn advice(&self) -> Advice {
        advice::of(self)
    }

    /// Bubblewrap is not installed.
    pub fn lacks_bubblewrap(&self) -> bool {
        use kernel::sandbox::Error::NoBubblewrap;
        matches!(
            self,
            Error::Sandbox(NoBubblewrap)
                | Error::Recipe(kernel::recipe::Error::Sandbox(NoBubblewrap))
                | Error::Toolchain(kernel::toolchain::Error::Sandbox(NoBubblewrap))
        )
    }

    /// A program that building takes is not installed.
    pub fn lacks_tools(&self) -> bool {
        self.lacks_bubblewrap() || matches!(self, Error::Toolchain(kernel::toolchain::Error::Missing { .. }))
    }
}

/// A result of the flow.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its causes, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Why there is no debug information.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lack {
    /// Nobody knows the build.
    #[error("the store and shared caches have no entry for its build")]
    NoEntry,
    /// The entry is that of other bits.
    #[error("the store has a different build than the installed one")]
    OtherBuild,
    /// The build made none.
    #[error("its build produced none (kernel without CONFIG_DEBUG_INFO, or module not stripped)")]
    NotMade,
    /// Nobody has the object.
    #[error("not in the store or a shared cache")]
    NoObject,
    /// What its builder has signed does not belong together.
    #[error("it belongs to another module: the build-id is not {0}")]
    OtherModule(String),
}
