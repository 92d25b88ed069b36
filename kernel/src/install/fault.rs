//! Faults of an installed generation.

use std::path::PathBuf;

/// A fault of an installed generation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// A file is missing.
    #[error("{path} is missing")]
    Missing {
        /// Path of the module's file.
        path: PathBuf,
    },
    /// A file's bytes differ from what was installed.
    #[error("{path} has the digest {found}, expected {expected}")]
    Changed {
        /// Path of the module's file.
        path: PathBuf,
        /// Digest of the installed bytes.
        expected: blake3::Hash,
        /// Digest of the bytes found.
        found: blake3::Hash,
    },
    /// `modules.dep.bin` is missing or corrupt: nothing can be loaded.
    #[error("{path} cannot be read: {why}")]
    NoIndex {
        /// Path of `modules.dep.bin`.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// An index differs from what depmod would write ([`super::compare()`]).
    #[error("{path} differs from what depmod writes for the tree")]
    Unlike {
        /// Path of the index.
        path: PathBuf,
    },
    /// An index is corrupt.
    #[error("{path} is corrupt: {why}")]
    Index {
        /// Path of the index.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// `generation.json` or its copy is corrupt.
    #[error("{path} is corrupt: {why}")]
    Record {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// `modules.dep.bin` does not list a module.
    #[error("modprobe does not find {module}: modules.dep.bin does not list it")]
    Unlisted {
        /// Name of the module.
        module: String,
    },
    /// `modules.dep.bin` lists a dependency whose file is missing.
    #[error("{module} depends on {path}, which is missing")]
    NoDependency {
        /// Name of the module.
        module: String,
        /// Path of the missing file, from the index.
        path: PathBuf,
    },
    /// `modules.dep.bin` has another file for a module.
    #[error("modprobe loads {winner} for {module}, not kcache's {ours}")]
    Shadowed {
        /// Name of the module.
        module: String,
        /// kcache's file, relative to the tree.
        ours: String,
        /// The file that modprobe loads, relative to the tree.
        winner: String,
    },
}
