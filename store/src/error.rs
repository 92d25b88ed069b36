//! Errors of the store. Each message has the path once, and the cause is in the chain.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::transport::TransportError;
use crate::{Exposed, Key};

/// Result of the store's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the store. A miss is not one: it is `None` or `false`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed. The error contains the path and the cause (`fs_err`).
    #[error(transparent)]
    Io(#[from] io::Error),

    /// A file operation failed whose error contains no path.
    #[error("cannot {act} {}", path.display())]
    At {
        /// The verb of the failed operation: "open", "read", ...
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },

    /// SQLite failed on the index.
    #[error("cannot use the index {}", path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// SQLite's error.
        #[source]
        source: rusqlite::Error,
    },

    /// Corruption: stored bytes do not match their name. To repair it, delete the file, then fetch or build again.
    #[error("{} is corrupt: expected {expected}, found {found}", path.display())]
    Damaged {
        /// The corrupt file.
        path: PathBuf,
        /// The digest, size or content that its name or entry requires.
        expected: String,
        /// What the file contains.
        found: String,
    },

    /// An entry, pointer or manifest breaks a rule of its format.
    #[error("{} is not a valid entry: {reason}", path.display())]
    Entry {
        /// The entry's file.
        path: PathBuf,
        /// The rule, and how it is broken.
        reason: String,
    },

    /// A private key's file is readable by group or others.
    #[error("refusing key file {}: readable by others (mode {mode:04o})", path.display())]
    KeyReadable {
        /// The key's file.
        path: PathBuf,
        /// The file's permission bits.
        mode: u32,
    },

    /// A key's file is not one, or others can change it.
    #[error("refusing key file {}: {reason}", path.display())]
    KeyFile {
        /// The key's file.
        path: PathBuf,
        /// What is wrong with the file.
        reason: String,
    },

    /// The store could have been changed by other users.
    #[error("refusing to use the store: {0}")]
    Exposed(Exposed),

    /// A link or special file is in the place of one of the store's files or directories.
    #[error("refusing to use the store: {} is a link or special file", path.display())]
    NotStore {
        /// The link or special file.
        path: PathBuf,
    },

    /// A request to a shared cache failed.
    #[error("shared cache {url} {trouble}")]
    Shared {
        /// The cache's URL, without credentials.
        url: String,
        /// What failed.
        trouble: TransportError,
    },

    /// An unsigned entry was to be pushed or exported.
    #[error("entry {key} is unsigned, and there is no signing key")]
    Unsigned {
        /// The entry's key.
        key: Key,
    },

    /// A newer kcache wrote the store or the file.
    #[error("{} has format {found}; this kcache supports up to {known}", path.display(), known = crate::FORMAT)]
    Format {
        /// The file with the newer format.
        path: PathBuf,
        /// The version found.
        found: u32,
    },

    /// Another process held a lock for longer than the caller was willing to wait.
    #[error("timed out after {} s waiting for another kcache: {what}", waited.as_secs())]
    Busy {
        /// The lock, as text for the message.
        what: String,
        /// How long this process waited.
        waited: Duration,
    },

    /// A write to a store that was opened read-only.
    #[error("the store {} is read-only", path.display())]
    ReadOnly {
        /// The store's directory.
        path: PathBuf,
    },

    /// The index's directory is on a network file system, where SQLite's locks are unreliable.
    #[error("the index cannot be on a network file system ({kind}): {}", path.display())]
    NetworkFs {
        /// The directory for the index.
        path: PathBuf,
        /// Name of the file system's type.
        kind: &'static str,
    },

    /// The caller's cancel flag was set.
    #[error("interrupted")]
    Interrupted,

    /// A name that cannot be a file name in the store.
    #[error("invalid name `{name}`: must be 1 to 128 of the characters A-Z a-z 0-9 . _ + -")]
    Name {
        /// The refused name.
        name: String,
    },

    /// A tree contains a device, socket or FIFO.
    #[error("{} is a {kind}, not a file, directory or symbolic link", path.display())]
    NotPlain {
        /// The special file.
        path: PathBuf,
        /// Its type, as text for the message.
        kind: &'static str,
    },

    /// A tree changed while it was read.
    #[error("{} changed while it was being read", path.display())]
    Changed {
        /// The first file that differs.
        path: PathBuf,
    },

    /// A tree exceeds the limits for sources and headers.
    #[error("{} is larger than {limit}", path.display())]
    TooLarge {
        /// The tree's root.
        path: PathBuf,
        /// The limit that was exceeded.
        limit: &'static str,
    },
}

impl Error {
    /// Whether a shared cache failed, which was reported when it happened: with every failure but these two.
    pub fn is_reported(&self) -> bool {
        let Error::Shared { trouble, .. } = self else { return false };
        !matches!(trouble, TransportError::ReadOnly(_) | TransportError::Cancelled)
    }
}

/// Adds operation and path to an error that has neither, such as one of a bare system call.
pub(crate) fn at(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::At { act, path: path.to_owned(), source }
}
