//! What can go wrong while modules are signed.

use std::path::PathBuf;

/// What keeps a module from being signed, or a signature from being used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed; the message names what and where.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A file that holds a secret may be read by others, or is no file at all.
    #[error("{path}: {reason}")]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Who may read it.
        reason: String,
    },
    /// A file is not what it should be.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is encrypted, and no passphrase is configured.
    #[error("{path}: the key is encrypted, but no passphrase is configured")]
    NoPassphrase {
        /// The key's file.
        path: PathBuf,
    },
    /// The passphrase is wrong.
    #[error("{path}: wrong passphrase")]
    Passphrase {
        /// The key's file.
        path: PathBuf,
    },
    /// The program that was to tell a passphrase failed.
    #[error("the passphrase command failed: {reason}")]
    Command {
        /// How.
        reason: String,
    },
    /// Neither in a file of its own nor in the key's.
    #[error("no certificate is configured for the module signing key")]
    NoCertificate,
    /// A certificate alone signs nothing.
    #[error("no module signing key is configured")]
    NoKey,
    /// The certificate is another key's.
    #[error("the module signing key does not match the certificate of {subject}")]
    Mismatch {
        /// The certificate's subject.
        subject: String,
    },
    /// A hash that is not made here.
    #[error("unsupported hash {}: must be sha256, sha384 or sha512", name.escape_debug())]
    Hash {
        /// Its name.
        name: String,
    },
    /// A signature that is not of these bytes, or by another key.
    #[error("the signature does not verify with the certificate of {subject}")]
    Unverified {
        /// The certificate's subject.
        subject: String,
    },
    /// Bytes that are no PKCS#7 message of the kind that kernels read.
    #[error("not a signature that kernels read: {reason}")]
    Message {
        /// What is wrong with it.
        reason: String,
    },
    /// A `pkcs11:` URI, or the token that it names.
    #[error("cannot use the token of the signing key: {reason}")]
    Token {
        /// What is in the way.
        reason: String,
    },
    /// The private key refused to sign.
    #[error("the key cannot sign: {reason}")]
    Key {
        /// What it said.
        reason: String,
    },
}
