//! Signatures of modules: made, attached and checked as the kernel does it.
//!
//! # The file
//!
//! ```text
//! <ELF object>                      what was built; what is hashed
//! <PKCS#7 message>                  DER, detached, one signer named by issuer and serial number, no certificates,
//!                                     no signed attributes: exactly what the kernel's scripts/sign-file makes
//! struct module_signature           12 bytes: id_type 2, the message's length, big-endian
//! ~Module signature appended~\n
//! ```
//!
//! An RSA signature is, byte for byte, the one that `sign-file` makes with the same key and hash. Sources:
//! `scripts/sign-file.c`, `include/linux/module_signature.h`, `crypto/asymmetric_keys/pkcs7_parser.c`, RFC 5652.
//!
//! # What is promised
//!
//! No signature leaves [`Signer::sign`] that does not verify with the certificate: a key and a certificate that do not
//! belong together, a token that answers nonsense and a detached signature of something else are all found here, and not
//! by a kernel that boots. Secrets come from files that nobody else can read, or from a program's output; never from an
//! argument or a variable. They are wiped from memory when they have served.
//!
//! ```text
//! certificate    whom a signature names, and the public key that it is checked with
//! message        the PKCS#7 message
//! key            private keys, and what they make: pem or DER, encrypted or not
//! token          private keys that never leave their hardware (PKCS#11)
//! secret         files and programs that hold what nobody else may know
//! enrolled       the certificates that this machine's firmware and shim hand to the kernel
//! known          whose signatures a kernel will take
//! ```
//!
//! Nothing is cached or written here, so a crash leaves nothing behind.

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
pub use known::{Known, Signed};
pub use message::{Message, Sid};
pub use secret::Secret;

use key::PrivateKey;

/// The hash that a signature is of. Stored in `generation.json`: add, never rename.
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

    /// What the kernel calls it: `sha256`.
    pub fn name(self) -> &'static str {
        match self {
            Hash::Sha256 => "sha256",
            Hash::Sha384 => "sha384",
            Hash::Sha512 => "sha512",
        }
    }

    /// The hash of this name; an error for all that is not made here.
    pub fn of_name(name: &str) -> Result<Hash, Error> {
        let found = Hash::ALL.into_iter().find(|hash| hash.name() == name);
        found.ok_or_else(|| Error::Hash { name: name.to_owned() })
    }

    /// The hash that a kernel's own modules are signed with, which is one that it has built in. `None`: this kernel reads
    /// no signatures.
    pub fn of_kernel(config: &Kconfig) -> Result<Option<Hash>, Error> {
        if !config.yes("CONFIG_MODULE_SIG") {
            return Ok(None);
        }
        config.value("CONFIG_MODULE_SIG_HASH").map(Hash::of_name).transpose()
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

/// Who signed a set of modules, as it is recorded. Two that are equal make signatures that a kernel takes for the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The certificate's subject, for people.
    pub subject: String,
    /// SHA-256 of the certificate's DER, as 64 hex digits.
    pub certificate: String,
    /// The hash; `None` where whoever made the detached signatures chose it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<Hash>,
}

impl Identity {
    /// What tells two signers apart, as one word. Stored in names of generations: never change it.
    pub fn id(&self) -> String {
        format!("{}:{}", self.certificate, self.hash.map_or("detached", Hash::name))
    }
}

/// Where a private key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// A file: PEM or DER; PKCS#8, encrypted or not, PKCS#1 or SEC 1.
    File(PathBuf),
    /// A `pkcs11:` URI (RFC 7512).
    Token(String),
}

/// Where to find what modules are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPair {
    /// The private key; without one, signatures are made elsewhere and only checked here.
    pub key: Option<KeyPlace>,
    /// The certificate, PEM or DER; without one it is in the key's own file.
    pub certificate: Option<PathBuf>,
    /// The passphrase of an encrypted key, or the PIN of a token.
    pub secret: Option<Secret>,
}

impl KeyPair {
    /// Reads the certificate. Asks for no passphrase.
    pub fn certificate(&self) -> Result<Certificate, Error> {
        match (&self.certificate, &self.key) {
            (Some(path), _) => Certificate::read(path),
            (None, Some(KeyPlace::File(path))) => Certificate::parse(path, &secret::read_file(path)?),
            (None, _) => Err(Error::NoCertificate),
        }
    }

    /// Reads key and certificate and sees that they belong together. This may ask a person for a passphrase. From here on
    /// the process leaves no core dump (`PR_SET_DUMPABLE` of prctl(2)), which would have the key in it.
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
    /// The certificate that its signatures verify with.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// A module with a signature appended; one that it had is taken off.
    pub fn sign(&self, module: &[u8], hash: Hash) -> Result<Vec<u8>, Error> {
        let (body, _) = split_signature(module);
        Ok(append(body, &self.message(body, hash)?))
    }

    /// The message for these bytes, in DER.
    fn message(&self, body: &[u8], hash: Hash) -> Result<Vec<u8>, Error> {
        let signature = self.key.sign(hash, body)?;
        if !self.certificate.verifies(hash, body, &signature) {
            return Err(Error::Unverified { subject: self.certificate.subject() });
        }
        message::encode(&self.certificate, hash, signature)
    }
}

/// A module with a signature that was made elsewhere: a PKCS#7 message in DER, as `sign-file -d` and `openssl cms -sign
/// -binary -noattr -outform DER` make it. It must verify with the certificate, and is attached in the form that
/// [`Signer::sign`] gives it.
pub fn attach(module: &[u8], detached: &[u8], certificate: &Certificate) -> Result<Vec<u8>, Error> {
    let (body, _) = split_signature(module);
    let message = Message::parse(detached)?;
    // In whatever words: those are replaced.
    if !certificate.verifies(message.hash, body, &message.signature) {
        return Err(Error::Unverified { subject: certificate.subject() });
    }
    Ok(append(body, &message::encode(certificate, message.hash, message.signature)?))
}

/// The message that is appended to a module; `None` where it is not signed.
pub fn message_of(module: &[u8]) -> Option<Result<Message, Error>> {
    let (_, tail) = split_signature(module);
    let (message, trailer) = tail?.split_at_checked(tail?.len().checked_sub(TRAILER)?)?;
    // mod_check_sig (kernel/module_signature.c) takes nothing else.
    if trailer[..INFO.len()] != INFO {
        return Some(Err(Error::Message { reason: "not declared as PKCS#7".to_owned() }));
    }
    Some(Message::parse(message))
}

/// `struct module_signature` and the magic line.
const TRAILER: usize = crate::ko::SIGNATURE_INFO + crate::ko::SIGNATURE_MAGIC.len();
/// `struct module_signature` before its length: `PKEY_ID_PKCS7` as its type, and nothing else.
const INFO: [u8; 8] = [0, 0, 2, 0, 0, 0, 0, 0];

fn append(body: &[u8], message: &[u8]) -> Vec<u8> {
    // A message has some hundred bytes.
    let length = (message.len() as u32).to_be_bytes();
    [body, message, &INFO, &length, crate::ko::SIGNATURE_MAGIC].concat()
}
