//! Errors of signing modules.

use std::path::PathBuf;

/// Why a module cannot be signed, or a signature not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file operation failed; the message contains operation and path.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Others can read a file with a secret, or it is not a regular file.
    #[error("{path}: {reason}")]
    Exposed {
        /// Path of the file.
        path: PathBuf,
        /// Who could read it.
        reason: String,
    },
    /// A file has the wrong format.
    #[error("{path}: {reason}")]
    Malformed {
        /// Path of the file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is encrypted, and no passphrase is configured.
    #[error("{path}: the key is encrypted, but no passphrase is configured")]
    NoPassphrase {
        /// Path of the key's file.
        path: PathBuf,
    },
    /// The passphrase is wrong.
    #[error("{path}: wrong passphrase")]
    Passphrase {
        /// Path of the key's file.
        path: PathBuf,
    },
    /// The program that prints the passphrase failed.
    #[error("the passphrase command failed: {reason}")]
    Command {
        /// How it failed.
        reason: String,
    },
    /// There is no certificate, neither in its own file nor in the key's.
    #[error("no certificate is configured for the module signing key")]
    NoCertificate,
    /// There is a certificate, but no private key.
    #[error("no module signing key is configured")]
    NoKey,
    /// The certificate belongs to another key.
    #[error("the module signing key does not match the certificate of {subject}")]
    Mismatch {
        /// The certificate's subject.
        subject: String,
    },
    /// An unsupported hash.
    #[error("unsupported hash {}: must be sha256, sha384 or sha512", name.escape_debug())]
    Hash {
        /// Name of the hash.
        name: String,
    },
    /// The signature is not valid for these bytes and this certificate.
    #[error("the signature does not verify with the certificate of {subject}")]
    Unverified {
        /// The certificate's subject.
        subject: String,
    },
    /// Bytes that are not a PKCS#7 message of the kind that kernels accept.
    #[error("not a signature that kernels read: {reason}")]
    Message {
        /// What is wrong with it.
        reason: String,
    },
    /// A `pkcs11:` URI is invalid, or its token cannot be used.
    #[error("cannot use the token of the signing key: {reason}")]
    Token {
        /// What failed.
        reason: String,
    },
    /// The private key failed to sign.
    #[error("the key cannot sign: {reason}")]
    Key {
        /// The error of the library or token.
        reason: String,
    },
}
