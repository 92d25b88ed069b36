//! Signatures of modules: making, attaching and verifying them as the kernel does.
//!
//! # The file
//!
//! ```text
//! <ELF object>                      the module as built; the hashed bytes
//! <PKCS#7 message>                  DER, detached, one signer given by issuer and serial number, no certificates,
//!                                     no signed attributes: exactly what the kernel's scripts/sign-file makes
//! struct module_signature           12 bytes: id_type 2, the message's length, big-endian
//! ~Module signature appended~\n
//! ```
//!
//! An RSA signature is, byte for byte, the one that `sign-file` makes with the same key and hash. Sources:
//! `scripts/sign-file.c`, `include/linux/module_signature.h`, `crypto/asymmetric_keys/pkcs7_parser.c`, RFC 5652.
//!
//! # Guarantees
//!
//! Every signature that [`Signer::sign`] returns verifies with the certificate: a mismatch of key and certificate, a
//! token that returns nonsense, and a detached signature of something else are all detected here, not by the booting
//! kernel. Secrets come from files that nobody else can read, or from a program's output; never from an argument or a
//! variable. They are wiped from memory after use.
//!
//! ```text
//! certificate    the signer's name, and the public key for verification
//! message        the PKCS#7 message
//! key            private keys and their signatures: PEM or DER, encrypted or not
//! token          private keys in hardware (PKCS#11)
//! secret         files and programs with secrets
//! enrolled       certificates that this machine's firmware and shim pass to the kernel
//! known          signers that a kernel trusts
//! ```
//!
//! Nothing is cached or written here, so a crash leaves nothing.

mod certificate;
mod enrolled;
mod error;
mod key;
mod known;
mod message;
mod pem;
mod secret;
#[cfg(test)]
mod tests;
mod token;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::kconfig::Kconfig;
use crate::ko::split_signature;

pub use certificate::Certificate;
pub use enrolled::{Enrolled, enrolled, parse_list};
pub use error::Error;
pub use known::{KnownKeys, Signed};
pub use message::{Message, Sid};
pub use secret::Secret;

use key::PrivateKey;

/// The hash algorithm of a signature. Stored in `generation.json`: add, never rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// SHA-256
    Sha256,
    /// SHA-384
    Sha384,
    /// SHA-512
    Sha512,
}

impl Hash {
    const ALL: [Hash; 3] = [Hash::Sha256, Hash::Sha384, Hash::Sha512];

    /// The kernel's name for it, such as `sha256`.
    pub fn name(self) -> &'static str {
        match self {
            Hash::Sha256 => "sha256",
            Hash::Sha384 => "sha384",
            Hash::Sha512 => "sha512",
        }
    }

    /// The hash of this name; an error for unsupported ones.
    pub fn of_name(name: &str) -> Result<Hash, Error> {
        let found = Hash::ALL.into_iter().find(|hash| hash.name() == name);
        found.ok_or_else(|| Error::Hash { name: name.to_owned() })
    }

    /// The hash with which in-tree modules are signed, which the kernel has built in. If that is not supported here
    /// (SHA-3, since 6.7), the strongest supported one that the kernel has built in: it verifies a signature by the hash
    /// that the message names (`pkcs7_sig_note_digest_algo`, crypto/asymmetric_keys/pkcs7_parser.c). `None` if the kernel
    /// does not verify signatures.
    pub fn of_kernel(config: &Kconfig) -> Result<Option<Hash>, Error> {
        if !config.yes("CONFIG_MODULE_SIG") {
            return Ok(None);
        }
        let built_in = [("CONFIG_CRYPTO_SHA512", Hash::Sha512), ("CONFIG_CRYPTO_SHA256", Hash::Sha256)];
        let other = || built_in.into_iter().find(|(symbol, _)| config.yes(symbol)).map(|(_, hash)| hash);
        let hash = |name| Hash::of_name(name).or_else(|error| other().ok_or(error));
        config.value("CONFIG_MODULE_SIG_HASH").map(hash).transpose()
    }

    fn digest(self, bytes: &[u8]) -> Vec<u8> {
        use sha2::Digest;
        match self {
            Hash::Sha256 => sha2::Sha256::digest(bytes).to_vec(),
            Hash::Sha384 => sha2::Sha384::digest(bytes).to_vec(),
            Hash::Sha512 => sha2::Sha512::digest(bytes).to_vec(),
        }
    }
}

/// The signer of a set of modules, as recorded. Signatures of equal identities are equivalent for the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The certificate's subject, for people.
    pub subject: String,
    /// SHA-256 of the certificate's DER, as 64 hex digits.
    pub certificate: String,
    /// The hash; `None` if a signing service chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
}

impl Identity {
    /// Distinguishes signers, as one word. Stored in names of generations: never change it.
    pub fn id(&self) -> String {
        format!("{}:{}", self.certificate, self.hash.map_or("detached", Hash::name))
    }
}

/// The location of a private key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// Path of a file: PEM or DER; PKCS#8, encrypted or not, PKCS#1 or SEC 1.
    File(PathBuf),
    /// A `pkcs11:` URI (RFC 7512).
    Token(String),
}

/// Where to find key and certificate for signing modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The private key; without one, only a signing service makes signatures, which are verified here.
    pub key: Option<KeyPlace>,
    /// The certificate, PEM or DER; by default it is in the key's file.
    pub certificate: Option<PathBuf>,
    /// The passphrase of an encrypted key, or the PIN of a token.
    pub secret: Option<Secret>,
}

impl KeyPair {
    /// Reads the certificate. Does not need the passphrase.
    pub fn certificate(&self) -> Result<Certificate, Error> {
        match (&self.certificate, &self.key) {
            (Some(path), _) => Certificate::read(path),
            (None, Some(KeyPlace::File(path))) => Certificate::parse(path, &secret::read_file(path)?),
            (None, _) => Err(Error::NoCertificate),
        }
    }

    /// Reads key and certificate and checks that they match. This may prompt for a passphrase. After that, the process leaves
    /// no core dump (`PR_SET_DUMPABLE`, prctl(2)), which would contain the key.
    ///
    /// # Errors
    ///
    /// [`Error::Mismatch`] if they do not match, [`Error::NoPassphrase`] or [`Error::Passphrase`] if the key cannot be
    /// decrypted.
    pub fn open(&self) -> Result<Signer, Error> {
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .map_err(std::io::Error::from)?;
        let certificate = self.certificate()?;
        let place = self.key.as_ref().ok_or(Error::NoKey)?;
        let key = PrivateKey::open(place, self.secret.as_ref())?;
        let signer = Signer { key, certificate };
        match signer.message(b"", Hash::Sha256) {
            Err(Error::Unverified { .. }) => Err(Error::Mismatch { subject: signer.certificate.subject() }),
            result => result.map(|_| signer),
        }
    }
}

/// A private key with its certificate, ready to sign.
#[derive(Debug)]
pub struct Signer {
    key: PrivateKey,
    certificate: Certificate,
}

impl Signer {
    /// The certificate that verifies its signatures.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Signs a module and appends the signature, replacing an existing one.
    pub fn sign(&self, module: &[u8], hash: Hash) -> Result<Vec<u8>, Error> {
        let (body, _) = split_signature(module);
        Ok(append(body, &self.message(body, hash)?))
    }

    /// The PKCS#7 message for these bytes, in DER.
    fn message(&self, body: &[u8], hash: Hash) -> Result<Vec<u8>, Error> {
        let signature = self.key.sign(hash, body)?;
        if !self.certificate.verifies(hash, body, &signature) {
            return Err(Error::Unverified { subject: self.certificate.subject() });
        }
        message::encode(&self.certificate, hash, signature)
    }
}

/// Attaches a detached signature to a module: a PKCS#7 message in DER, as made by `sign-file -d` and
/// `openssl cms -sign -binary -noattr -outform DER`. It must verify with the certificate, and is attached in the same
/// form as by [`Signer::sign`].
///
/// # Errors
///
/// [`Error::Unverified`] if it does not verify, [`Error::Message`] if it is not such a message.
pub fn attach(module: &[u8], detached: &[u8], certificate: &Certificate) -> Result<Vec<u8>, Error> {
    let (body, _) = split_signature(module);
    let message = Message::parse(detached)?;
    // The algorithm's identifier is not checked, because it is replaced.
    if !certificate.verifies(message.hash, body, &message.signature) {
        return Err(Error::Unverified { subject: certificate.subject() });
    }
    Ok(append(body, &message::encode(certificate, message.hash, message.signature)?))
}

/// The PKCS#7 message appended to a module; `None` if it is unsigned.
pub fn message_of(module: &[u8]) -> Option<Result<Message, Error>> {
    let (_, tail) = split_signature(module);
    let (message, trailer) = tail?.split_at_checked(tail?.len().checked_sub(TRAILER)?)?;
    // mod_check_sig (kernel/module_signature.c) accepts nothing else.
    if trailer[..INFO.len()] != INFO {
        return Some(Err(Error::Message { reason: "not declared as PKCS#7".to_owned() }));
    }
    Some(Message::parse(message))
}

/// Size in bytes of `struct module_signature` and the magic line.
const TRAILER: usize = crate::ko::SIGNATURE_INFO + crate::ko::SIGNATURE_MAGIC.len();
/// `struct module_signature` before its length: type `PKEY_ID_PKCS7`, all other fields zero.
const INFO: [u8; 8] = [0, 0, 2, 0, 0, 0, 0, 0];

fn append(body: &[u8], message: &[u8]) -> Vec<u8> {
    // A message has some hundred bytes, so its length fits.
    let length = (message.len() as u32).to_be_bytes();
    [body, message, &INFO, &length, crate::ko::SIGNATURE_MAGIC].concat()
}
