//! What can go wrong while modules are installed.

use std::path::PathBuf;

use super::BoxError;
use super::fault::Fault;
use crate::index;

/// What keeps modules from being installed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed; the message names what and where.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// There is no such kernel.
    #[error("{path} is not a directory of kernel modules")]
    NoTree {
        /// The tree that was asked for.
        path: PathBuf,
    },
    /// `updates`, or another directory on the way, is a link or a file: modules would end up somewhere else.
    #[error("{path} is a link or not a directory")]
    NotADirectory {
        /// What is in its place.
        path: PathBuf,
    },
    /// Somebody else could have put there what would be installed.
    #[error("{path} is accessible by users other than its owner")]
    NotPrivate {
        /// The staging directory, or the one of what is kept.
        path: PathBuf,
    },
    /// The same for its owner.
    #[error("{path} belongs to user {owner}, who does not own its parent directory")]
    NotOurs {
        /// The staging directory, or the one of what is kept.
        path: PathBuf,
        /// The owner's id.
        owner: u32,
    },
    /// Another process holds the lock.
    #[error("another kcache is still working on {path}")]
    Busy {
        /// The tree.
        path: PathBuf,
    },
    /// The plan was made for another generation than is installed by now.
    #[error("the modules of {kernel} were changed by another process since this was planned")]
    Changed {
        /// The kernel's release.
        kernel: String,
    },
    /// Others put modules in, take some away or run depmod, over and over again.
    #[error("another program keeps changing the modules of {kernel}")]
    Crowded {
        /// The kernel's release.
        kernel: String,
        /// What came of the last attempt.
        source: Box<Error>,
    },
    /// `generation.json` or `journal.json` cannot be understood.
    #[error("{path} is corrupt")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A later version of this program has written `generation.json` or `journal.json`.
    #[error("{path} has format {found}, newer than this kcache supports ({known})")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest one that is known here.
        known: u32,
    },
    /// It cannot be told any more what else was installed.
    #[error("{path} is corrupt, and {} is also installed", lost.join(" "))]
    Forgotten {
        /// The `generation.json`.
        path: PathBuf,
        /// The packages.
        lost: Vec<String>,
    },
    /// Not a name for a file.
    #[error("invalid package or module name {name:?}")]
    Name {
        /// What was given.
        name: String,
    },
    /// One package in two versions.
    #[error("package {package} was requested twice")]
    SamePackage {
        /// Its name.
        package: String,
    },
    /// Two packages build a module of the same name; only one could ever be loaded.
    #[error("module {module} of package {package} is also built by another package of the set")]
    SameModule {
        /// The module's name.
        module: String,
        /// The second of the two packages.
        package: String,
    },
    /// The source could not give a module.
    #[error("module {module} cannot be fetched")]
    Source {
        /// The module's name.
        module: String,
        /// Why.
        source: BoxError,
    },
    /// The source gave other bytes than were asked for.
    #[error("module {module} has the digest {found}, expected {expected}")]
    Digest {
        /// The module's name.
        module: String,
        /// What was asked for.
        expected: blake3::Hash,
        /// What came.
        found: blake3::Hash,
    },
    /// A module could not be signed.
    #[error("module {module} cannot be signed")]
    Sign {
        /// The module's name.
        module: String,
        /// Why.
        source: BoxError,
    },
    /// depmod could not be run.
    #[error("{program} cannot be run")]
    NoDepmod {
        /// The program.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// depmod ran and failed.
    #[error("depmod failed ({status}): {stderr}")]
    Depmod {
        /// Its exit status.
        status: std::process::ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// depmod wrote an index that cannot be read.
    #[error("depmod wrote a corrupt {name}")]
    Index {
        /// The index.
        name: String,
        /// What is wrong with it.
        source: index::Error,
    },
    /// depmod's indexes contradict each other.
    #[error("depmod wrote modules.dep and modules.dep.bin that differ at {module}")]
    Disagree {
        /// The first module of which they tell different things.
        module: String,
    },
    /// A module of somebody else would no longer be found.
    #[error("depmod would drop {path}, which is listed now")]
    Lost {
        /// The file, relative to the tree.
        path: String,
    },
    /// Not a module of somebody else in the kernel's tree.
    #[error("{path} is not a foreign module")]
    NotForeign {
        /// The file, relative to the tree.
        path: PathBuf,
    },
    /// A link cannot be kept.
    #[error("{path} is a link, which would break if moved")]
    Link {
        /// The file, relative to the tree.
        path: PathBuf,
    },
    /// A module would be taken away without another in its place.
    #[error("no module replaces {path}")]
    NoStandIn {
        /// The file, relative to the tree.
        path: PathBuf,
    },
    /// Where a file is to be given back lies another.
    #[error("{path} exists again; its kept copy is not restored")]
    InTheWay {
        /// The file.
        path: PathBuf,
    },
    /// A module would not be found, or another file in its place.
    #[error(transparent)]
    Unresolved(#[from] Fault),
    /// After an error, undoing failed too. The journal stays; the next run undoes.
    #[error("{what}; undoing also failed, the next run will try again")]
    NotUndone {
        /// The first error's text.
        what: String,
        /// Why undoing failed.
        source: Box<Error>,
    },
}
