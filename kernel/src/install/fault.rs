//! What can be wrong with an installed generation.

use std::path::PathBuf;

/// What is wrong with an installed generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A file is gone.
    #[error("{path} is missing")]
    Missing {
        /// The module file.
        path: PathBuf,
    },
    /// A file has other bytes than were installed.
    #[error("{path} has the digest {found}, expected {expected}")]
    Changed {
        /// The module file.
        path: PathBuf,
        /// What was installed.
        expected: blake3::Hash,
        /// What is there.
        found: blake3::Hash,
    },
    /// `modules.dep.bin` is missing or damaged: nothing can be loaded.
    #[error("{path} cannot be read: {why}")]
    NoIndex {
        /// `modules.dep.bin`.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An index is another than depmod would make of the tree ([`super::compare()`]).
    #[error("{path} differs from what depmod writes for the tree")]
    Unlike {
        /// The index.
        path: PathBuf,
    },
    /// One of kmod's indexes is not what depmod writes.
    #[error("{path} is corrupt: {why}")]
    Index {
        /// The index.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// `generation.json` or its copy is not as it was written.
    #[error("{path} is corrupt: {why}")]
    Record {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The index does not know a module.
    #[error("modprobe does not find {module}: modules.dep.bin does not list it")]
    Unlisted {
        /// The module's name.
        module: String,
    },
    /// A module it depends on is listed, and not there.
    #[error("{module} depends on {path}, which is missing")]
    NoDependency {
        /// The module's name.
        module: String,
        /// The file, as the index names it.
        path: PathBuf,
    },
    /// The index gives another file for a module.
    #[error("modprobe loads {winner} for {module}, not kcache's {ours}")]
    Shadowed {
        /// The module's name.
        module: String,
        /// Our file, relative to the tree.
        ours: String,
        /// The file that modprobe takes, relative to the tree.
        winner: String,
    },
}
