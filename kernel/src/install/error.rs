//! Errors of installing modules.

use std::path::PathBuf;

use super::BoxError;
use super::fault::Fault;
use crate::index;

/// Why an installation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed. The message contains operation and path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The kernel's directory does not exist.
    #[error("{path} is not a directory of kernel modules")]
    NoTree {
        /// Path of the directory.
        path: PathBuf,
    },
    /// `updates` or another directory on the way is a link or a file, so modules would be installed elsewhere.
    #[error("{path} is a link or not a directory")]
    NotADirectory {
        /// Path of the link or file.
        path: PathBuf,
    },
    /// Group or others can write a private directory, so they could replace what will be installed.
    #[error("{path} is accessible by users other than its owner")]
    NotPrivate {
        /// The staging directory, or the kept place.
        path: PathBuf,
    },
    /// A private directory has another owner, who could replace what will be installed.
    #[error("{path} belongs to user {owner}, who does not own its parent directory")]
    NotOurs {
        /// The staging directory, or the kept place.
        path: PathBuf,
        /// Uid of the owner.
        owner: u32,
    },
    /// Another process holds the lock.
    #[error("another kcache is still working on {path}")]
    Busy {
        /// Path of the kernel's tree.
        path: PathBuf,
    },
    /// The plan was made for another generation than the installed one.
    #[error("the modules of {kernel} were changed by another process since this was planned")]
    Changed {
        /// Release of the kernel.
        kernel: String,
    },
    /// Other programs keep changing modules or running depmod.
    #[error("another program keeps changing the modules of {kernel}")]
    Crowded {
        /// Release of the kernel.
        kernel: String,
        /// The error of the last attempt.
        source: Box<Error>,
    },
    /// `generation.json` or `journal.json` is corrupt, and so is its copy.
    #[error("{path} is corrupt")]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// The position and kind of corruption.
        source: serde_json::Error,
    },
    /// A newer kcache wrote `generation.json` or `journal.json`.
    #[error("{path} has format {found}, newer than this kcache supports ({known})")]
    Newer {
        /// Path of the file.
        path: PathBuf,
        /// Format of the file.
        found: u32,
        /// The newest supported format.
        known: u32,
    },
    /// The installed set cannot be determined completely.
    #[error("{path} is corrupt, and {} is also installed", lost.join(" "))]
    Forgotten {
        /// Path of `generation.json`.
        path: PathBuf,
        /// Packages whose modules are lost.
        lost: Vec<String>,
    },
    /// A name that cannot be a file name.
    #[error("invalid package or module name {name:?}")]
    Name {
        /// The name as given.
        name: String,
    },
    /// A set contains one package twice.
    #[error("package {package} was requested twice")]
    SamePackage {
        /// Name of the package.
        package: String,
    },
    /// Two packages build a module of the same name, of which only one could be loaded.
    #[error("module {module} of package {package} is also built by {other}")]
    SameModule {
        /// Name of the module.
        module: String,
        /// The second of the two packages.
        package: String,
        /// The first of them.
        other: String,
    },
    /// [`super::ModuleSource`] failed to deliver a module.
    #[error("module {module} cannot be fetched")]
    Source {
        /// Name of the module.
        module: String,
        /// The source's error.
        source: BoxError,
    },
    /// [`super::ModuleSource`] delivered other bytes than requested.
    #[error("module {module} has the digest {found}, expected {expected}")]
    Digest {
        /// Name of the module.
        module: String,
        /// Digest of the requested bytes.
        expected: blake3::Hash,
        /// Digest of the delivered bytes.
        found: blake3::Hash,
    },
    /// Signing a module failed.
    #[error("module {module} cannot be signed")]
    Sign {
        /// Name of the module.
        module: String,
        /// The signer's error.
        source: BoxError,
    },
    /// depmod could not be started.
    #[error("{program} cannot be run")]
    NoDepmod {
        /// Path of the program.
        program: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// depmod failed.
    #[error("depmod failed ({status}): {stderr}")]
    Depmod {
        /// Exit status of depmod.
        status: std::process::ExitStatus,
        /// Output of depmod.
        stderr: String,
    },
    /// depmod wrote an index that cannot be read.
    #[error("depmod wrote a corrupt {name}")]
    Index {
        /// Name of the index.
        name: String,
        /// The position and kind of corruption.
        source: index::Error,
    },
    /// depmod's text and binary indexes differ.
    #[error("depmod wrote modules.dep and modules.dep.bin that differ at {module}")]
    Disagree {
        /// The first module for which they differ.
        module: String,
    },
    /// A foreign module would no longer be found.
    #[error("depmod would drop {path}, which is listed now")]
    Lost {
        /// Path of the file, relative to the tree.
        path: String,
    },
    /// The file is not a foreign module in the kernel's tree.
    #[error("{path} is not a foreign module")]
    NotForeign {
        /// Path of the file, relative to the tree.
        path: PathBuf,
    },
    /// A link cannot be taken over.
    #[error("{path} is a link, which would break if moved")]
    Link {
        /// Path of the link, relative to the tree.
        path: PathBuf,
    },
    /// A module would be removed without a replacement.
    #[error("no module replaces {path}")]
    NoStandIn {
        /// Path of the file, relative to the tree.
        path: PathBuf,
    },
    /// Another file exists where a file is to be given back.
    #[error("{path} exists again; its kept copy is not restored")]
    InTheWay {
        /// Path of the existing file.
        path: PathBuf,
    },
    /// modprobe would not find a module, or find another file.
    #[error(transparent)]
    Unresolved(#[from] Fault),
    /// An error occurred, and undoing the transaction failed too. The journal remains, and the next run undoes it.
    #[error("{what}; undoing also failed, the next run will try again")]
    NotUndone {
        /// Text of the first error.
        what: String,
        /// The error of undoing.
        source: Box<Error>,
    },
}
