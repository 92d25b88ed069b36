//! The errors of the flow. Variants that wrap no other module's error say what was being done.

mod advice;

pub use advice::{Advice, ErrorKind};

use std::path::PathBuf;
use std::sync::Arc;

use kcache_kernel as kernel;

/// An error of the flow.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// An error of the store.
    #[error(transparent)]
    Store(#[from] kcache_store::Error),
    /// A kernel could not be read.
    #[error(transparent)]
    Kernel(#[from] kernel::kernels::Error),
    /// A package could not be read.
    #[error(transparent)]
    Package(#[from] kernel::packages::Error),
    /// A recipe is invalid.
    #[error(transparent)]
    Recipe(#[from] kernel::recipe::Error),
    /// The toolchain could not be determined.
    #[error(transparent)]
    Toolchain(#[from] kernel::toolchain::Error),
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] kernel::sandbox::Error),
    /// The installation failed.
    #[error(transparent)]
    Install(#[from] kernel::install::Error),
    /// Signing modules failed. Shared, because a key that cannot be opened is reported for every kernel.
    #[error(transparent)]
    Signing(#[from] Arc<kernel::signing::Error>),
    /// A signing service has not signed a module yet.
    #[error("no signature for {module} by {subject} in the store or a shared cache")]
    NoSignature {
        /// Name of the module.
        module: String,
        /// The certificate's subject.
        subject: String,
    },
    /// A boot test could not be run.
    #[error(transparent)]
    BootTest(#[from] kernel::boot_test::Error),
    /// A kernel has no image to boot.
    #[error("no image of kernel {release} under {}: tried /boot/vmlinuz-{release} and /lib/modules/{release}/vmlinuz", root.display())]
    NoImage {
        /// Release of the kernel.
        release: String,
        /// The root that was searched.
        root: PathBuf,
    },
    /// There is no such kernel.
    #[error("kernel '{asked}' not found under {}", root.display())]
    NoKernel {
        /// The name as given.
        asked: String,
        /// The root that was searched.
        root: PathBuf,
        /// The most similar release.
        nearest: Option<String>,
    },
    /// There is no such package.
    #[error("package '{asked}' not found under {}", root.display())]
    NoPackage {
        /// The name as given.
        asked: String,
        /// The root that was searched.
        root: PathBuf,
        /// The most similar name.
        nearest: Option<String>,
    },
    /// A build tree was given, but its kernel is not installed.
    #[error("kernel {release} is not installed under {}: /lib/modules/{release} does not exist", root.display())]
    NotInstalled {
        /// Release of the kernel.
        release: String,
        /// The root that was searched.
        root: PathBuf,
    },
    /// A file name in a package's source is not UTF-8.
    #[error("{}: the file name is not UTF-8", path.display())]
    NotUtf8 {
        /// Path of the file.
        path: PathBuf,
    },
    /// There is no previous set to return to.
    #[error("kernel {release} has no previous generation")]
    NoPrevious {
        /// Release of the kernel.
        release: String,
    },
    /// The kernel requires signatures, and no signing key is configured.
    #[error("kernel {release} enforces module signatures ({why}), and no signing key is configured")]
    Unsigned {
        /// Release of the kernel.
        release: String,
        /// Why it requires signatures.
        why: String,
        /// The key that DKMS signs with on this host, if it has one.
        of_dkms: Option<kernel::dkms::framework::DkmsKey>,
    },
    /// Only the package's name is known.
    #[error("the source of {package} is not on this machine")]
    NoSource {
        /// Name of the package.
        package: String,
    },
    /// Building requires a store.
    #[error("no store to build into")]
    NoStore,
    /// Inputs changed while they were used.
    #[error("{what} changed during the run")]
    Changed {
        /// Which inputs, as text.
        what: String,
    },
    /// There is no build of this package for this kernel.
    #[error("no build or log of {package} for kernel {release}")]
    Unknown {
        /// Name of the package.
        package: String,
        /// Release of the kernel.
        release: String,
    },
    /// There is no debug information for a module.
    #[error("no debug information for {of}: {lack}")]
    NoDebugInfo {
        /// Name of the module or package.
        of: String,
        /// The reason.
        lack: Lack,
    },
    /// A package's script for the system failed.
    #[error("{directive} script ({command}) {reason}")]
    Script {
        /// The directive that names it.
        directive: &'static str,
        /// The script with its arguments.
        command: String,
        /// How it failed.
        reason: String,
    },
    /// The results of another package's build cannot be shown to a build.
    #[error("invalid build results of {package} for other packages")]
    Kept {
        /// Name of that package.
        package: String,
        /// The reason.
        source: kernel::build::kept::Error,
    },
    /// A build dependency is missing, or depends on the package itself.
    #[error("{package} builds against {needs}, which {problem}")]
    Dependency {
        /// Name of the package.
        package: String,
        /// Name of the dependency.
        needs: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// This machine could not build.
    #[error("cannot build {package} for kernel {release}: {reason}")]
    Environment {
        /// Name of the package.
        package: String,
        /// Release of the kernel.
        release: String,
        /// What failed or is missing.
        reason: String,
    },
    /// Packages build a module of one name, and the kernel loads one of a name.
    #[error("module {module} is also built by {others}{}", if *.stays { ", which is installed" } else { "; only one of them can be installed" })]
    SameModule {
        /// Name of the module.
        module: String,
        /// Name of the package.
        package: String,
        /// Names of the others.
        others: String,
        /// Whether the other one is installed.
        stays: bool,
    },
    /// Scratch directories are where nothing can be executed.
    #[error("builds run in {}, which is on a file system that is mounted noexec", path.display())]
    NoExec {
        /// The scratch directory's parent.
        path: PathBuf,
    },
    /// A directory of the setting `tool-paths` is one that the sandbox makes itself.
    #[error("the directory {} of the setting tool-paths cannot be shown to builds, which have their own there", path.display())]
    ReservedToolPath {
        /// The directory.
        path: PathBuf,
    },
    /// A directory of the setting `tool-paths` does not exist.
    #[error("the directory {} of the setting tool-paths does not exist", path.display())]
    NoToolPath {
        /// The directory.
        path: PathBuf,
    },
    /// An entry that this host does not trust was to be pushed or exported.
    #[error("refusing to push or export entry {key}: {distrust}")]
    Distrusted {
        /// Key of the entry.
        key: kcache_store::Key,
        /// Why it is not trusted.
        distrust: kcache_store::Distrust,
    },
    /// An entry whose modules are for CPUs like this host's only was to be pushed or exported.
    #[error(
        "refusing to push or export entry {key}: its flags (-march=native) make it depend on this host's CPU"
    )]
    ForOneCpu {
        /// Key of the entry.
        key: kcache_store::Key,
    },
    /// The kernel that will be booted cannot be determined.
    #[error(transparent)]
    NoDefault(#[from] kernel::bootloader::Error),
    /// A kernel's installed set cannot be read, so roots for garbage collection are unknown.
    #[error("not collecting garbage: cannot determine which builds kernel {release} needs")]
    Unreachable {
        /// Release of the kernel.
        release: String,
        /// The error.
        source: kernel::install::Error,
    },
    /// The cancel flag was set.
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

    /// The sandbox's own error.
    fn of_sandbox(&self) -> Option<&kernel::sandbox::Error> {
        match self {
            Error::Sandbox(error)
            | Error::Recipe(kernel::recipe::Error::Sandbox(error))
            | Error::Toolchain(kernel::toolchain::Error::Sandbox(error)) => Some(error),
            _ => None,
        }
    }

    /// Bubblewrap is not installed.
    pub fn lacks_bubblewrap(&self) -> bool {
        matches!(self.of_sandbox(), Some(kernel::sandbox::Error::NoBubblewrap))
    }

    /// There is no sandbox on this machine: bubblewrap is not installed, or may not make one, as in many containers.
    fn lacks_sandbox(&self) -> bool {
        self.lacks_bubblewrap() || matches!(self.of_sandbox(), Some(kernel::sandbox::Error::NotMade { .. }))
    }

    /// Whether it is a shared cache's failure, for which there has been a warning.
    pub fn is_reported(&self) -> bool {
        matches!(self, Error::Store(error) if error.is_reported())
    }

    /// Whether nothing can be built here for want of a program, or of a sandbox.
    pub fn lacks_tools(&self) -> bool {
        self.lacks_sandbox() || matches!(self, Error::Toolchain(kernel::toolchain::Error::Missing { .. }))
    }
}

/// Result of the flow's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The messages of an error and its causes, without repetition.
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
    /// No entry of the build is known.
    #[error("the store and shared caches have no entry for its build")]
    NoEntry,
    /// The known entry is of a build with other bytes.
    #[error("the store has a different build than the installed one")]
    OtherBuild,
    /// The build produced none.
    #[error("its build produced none (kernel without CONFIG_DEBUG_INFO, or module not stripped)")]
    NotMade,
    /// Neither the store nor a shared cache has the object.
    #[error("not in the store or a shared cache")]
    NoObject,
    /// The builder signed debug information of another module.
    #[error("it belongs to another module: the build-id is not {0}")]
    OtherModule(String),
}
