//! What can go wrong with bytes, each told once and with its path.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::transport::TransportError;
use crate::{Exposed, Key};

/// The result of nearly everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the store. A miss is none: that is `None` or `false`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed; the error names path and cause.
    #[error(transparent)]
    Io(#[from] io::Error),

    /// A file operation that names no path by itself.
    #[error("cannot {act} {}", path.display())]
    At {
        /// What was being done: "open", "read", ...
        act: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },

    /// The index could not be used.
    #[error("cannot use the index {}", path.display())]
    Sqlite {
        /// The database file.
        path: PathBuf,
        /// SQLite's own words.
        #[source]
        source: rusqlite::Error,
    },

    /// Stored bytes are not those their name promises. Heal by deleting, then fetch or make them again.
    #[error("{} is corrupt: expected {expected}, found {found}", path.display())]
    Damaged {
        /// The damaged file.
        path: PathBuf,
        /// What its name or its entry promises.
        expected: String,
        /// What it holds.
        found: String,
    },

    /// An entry breaks a rule of its format.
    #[error("{} is not a valid entry: {reason}", path.display())]
    Entry {
        /// The entry's file.
        path: PathBuf,
        /// Which rule, and how.
        reason: String,
    },

    /// Others could read a private key.
    #[error("refusing key file {}: readable by others (mode {mode:04o})", path.display())]
    KeyReadable {
        /// The key's file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },

    /// A file does not hold the key that it should, or not as it should.
    #[error("refusing key file {}: {reason}", path.display())]
    KeyFile {
        /// The key's file.
        path: PathBuf,
        /// Why not.
        reason: String,
    },

    /// A store is not used, because others could have changed it.
    #[error("refusing to use the store: {0}")]
    Exposed(Exposed),

    /// Something is in the place of a store's file or directory.
    #[error("refusing to use the store: {} is a link or special file", path.display())]
    NotStore {
        /// What.
        path: PathBuf,
    },

    /// A shared cache could not be used.
    #[error("shared cache {url} {trouble}")]
    Shared {
        /// Its URL.
        url: String,
        /// Why not.
        trouble: TransportError,
    },

    /// An entry that nobody has signed was to leave this host.
    #[error("entry {key} is unsigned, and there is no signing key")]
    Unsigned {
        /// The entry's key.
        key: Key,
    },

    /// Made by a newer kcache.
    #[error("{} has format {found}; this kcache supports up to {known}", path.display(), known = crate::FORMAT)]
    Format {
        /// The file with the newer format.
        path: PathBuf,
        /// Its format.
        found: u32,
    },

    /// Another process held on to something for longer than the caller would wait.
    #[error("timed out after {} s waiting for another kcache: {what}", waited.as_secs())]
    Busy {
        /// The lock's file.
        what: String,
        /// How long it was waited for.
        waited: Duration,
    },

    /// The store was opened where nothing can be written.
    #[error("the store {} is read-only", path.display())]
    ReadOnly {
        /// The store's directory.
        path: PathBuf,
    },

    /// The index would lie where its locks cannot be trusted.
    #[error("the index cannot be on a network file system ({kind}): {}", path.display())]
    NetworkFs {
        /// The directory the index was to be in.
        path: PathBuf,
        /// The file system's name.
        kind: &'static str,
    },

    /// The run was ended.
    #[error("interrupted")]
    Interrupted,

    /// A name that cannot be a file's name here.
    #[error("invalid name `{name}`: must be 1 to 128 of the characters A-Z a-z 0-9 . _ + -")]
    Name {
        /// The refused name.
        name: String,
    },

    /// A tree holds something that is neither file, directory nor symbolic link.
    #[error("{} is a {kind}, not a file, directory or symbolic link", path.display())]
    NotPlain {
        /// Where it lies.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },

    /// A tree changed under the eyes of its reader.
    #[error("{} changed while it was being read", path.display())]
    Changed {
        /// The first file that differs.
        path: PathBuf,
    },

    /// A tree is larger than any source or header tree has reason to be.
    #[error("{} is larger than {limit}", path.display())]
    TooLarge {
        /// The tree's root.
        path: PathBuf,
        /// The bound that was passed.
        limit: &'static str,
    },
}

/// Names act and path of an error that names neither, as those of bare system calls do.
pub(crate) fn at(act: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::At { act, path: path.to_owned(), source }
}
