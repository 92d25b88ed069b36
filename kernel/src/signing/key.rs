//! Private keys and their signatures: RSA with PKCS#1 v1.5, and ECDSA on P-256 and P-384.
//!
//! ```text
//! PRIVATE KEY             PKCS#8           openssl genpkey, req -newkey
//! ENCRYPTED PRIVATE KEY   PKCS#8, PBES2    the same with a passphrase
//! RSA PRIVATE KEY         PKCS#1           openssl genrsa -traditional
//! EC PRIVATE KEY          SEC 1            openssl ecparam -genkey
//! ```
//! Each in PEM, with an optional certificate in the same file, or in DER.

use std::fmt;
use std::path::Path;

use der::Decode;
use p256::ecdsa::signature::hazmat::PrehashSigner;
use pkcs8::{EncryptedPrivateKeyInfoRef, PrivateKeyInfoRef};
use ring::rand::SystemRandom;
use ring::signature::{self as rsa, RsaKeyPair};

use super::certificate::{EC, RSA};
use super::token::Token;
use super::{Error, Hash, KeyPlace, Secret, pem, secret};

/// A private key. Its bytes are never printed.
pub(super) enum PrivateKey {
    Rsa(Box<RsaKeyPair>),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    Token(Token),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl PrivateKey {
    /// Reads a key from its file, or finds it in its token.
    pub(super) fn open(place: &KeyPlace, passphrase: Option<&Secret>) -> Result<PrivateKey, Error> {
        match place {
            KeyPlace::File(path) => PrivateKey::parse(path, &secret::read_file(path)?, passphrase),
            KeyPlace::Token(uri) => Token::open(uri, passphrase).map(PrivateKey::Token),
        }
    }

    /// Signs these bytes.
    pub(super) fn sign(&self, hash: Hash, body: &[u8]) -> Result<Vec<u8>, Error> {
        let refused = |e: &dyn fmt::Display| Error::Key { reason: e.to_string() };
        match self {
            PrivateKey::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(rsa_rule(hash), &SystemRandom::new(), body, &mut signature)
                    .map_err(|e| refused(&e))?;
                Ok(signature)
            }
            PrivateKey::P256(key) => {
                let made: p256::ecdsa::Signature =
                    key.sign_prehash(&hash.digest(body)).map_err(|e| refused(&e))?;
                Ok(made.to_der().as_bytes().to_owned())
            }
            PrivateKey::P384(key) => {
                let made: p384::ecdsa::Signature =
                    key.sign_prehash(&hash.digest(body)).map_err(|e| refused(&e))?;
                Ok(made.to_der().as_bytes().to_owned())
            }
            PrivateKey::Token(token) => token.sign(hash, body),
        }
    }

    /// Parses a key's file; the path is for errors.
    fn parse(path: &Path, bytes: &[u8], passphrase: Option<&Secret>) -> Result<PrivateKey, Error> {
        let file = KeyFile { path, passphrase };
        let Some(blocks) = pem::blocks(bytes) else { return file.of_der(bytes) };
        for block in blocks.map_err(|reason| file.wrong(reason))? {
            match block.label.as_str() {
                "PRIVATE KEY" => return file.of_pkcs8(&block.der),
                "ENCRYPTED PRIVATE KEY" => return file.of_encrypted(&block.der),
                "RSA PRIVATE KEY" => return file.of_pkcs1(&block.der),
                "EC PRIVATE KEY" => return file.of_sec1(&block.der),
                _ => {}
            }
        }
        Err(file.wrong("no private key in the file".to_owned()))
    }
}

/// A key's file being parsed.
struct KeyFile<'a> {
    path: &'a Path,
    passphrase: Option<&'a Secret>,
}

impl KeyFile<'_> {
    fn of_der(&self, der: &[u8]) -> Result<PrivateKey, Error> {
        if PrivateKeyInfoRef::from_der(der).is_ok() {
            return self.of_pkcs8(der);
        }
        if EncryptedPrivateKeyInfoRef::from_der(der).is_ok() {
            return self.of_encrypted(der);
        }
        self.of_sec1(der).or_else(|_| self.of_pkcs1(der))
    }

    fn of_encrypted(&self, der: &[u8]) -> Result<PrivateKey, Error> {
        let path = || self.path.to_owned();
        let encrypted = EncryptedPrivateKeyInfoRef::from_der(der).map_err(|e| {
            self.wrong(format!(
                "unsupported encryption ({e}); convert with `openssl pkcs8 -topk8 -v2 aes-256-cbc`"
            ))
        })?;
        let passphrase = self.passphrase.ok_or_else(|| Error::NoPassphrase { path: path() })?.read()?;
        let plain =
            encrypted.decrypt(passphrase.as_bytes()).map_err(|_| Error::Passphrase { path: path() })?;
        // With a wrong passphrase, decryption may yield bytes that only look valid.
        match PrivateKeyInfoRef::from_der(plain.as_bytes()) {
            Ok(_) => self.of_pkcs8(plain.as_bytes()),
            Err(_) => Err(Error::Passphrase { path: path() }),
        }
    }

    fn of_pkcs8(&self, der: &[u8]) -> Result<PrivateKey, Error> {
        let info = PrivateKeyInfoRef::from_der(der).map_err(|e| self.wrong(e.to_string()))?;
        match info.algorithm.oid {
            RSA => self.of_pkcs1(info.private_key.as_bytes()),
            // The curve is stored beside the key; only some programs also store it in the key.
            EC => p256::SecretKey::try_from(info)
                .map(|key| PrivateKey::P256(key.into()))
                .or_else(|_| {
                    p384::SecretKey::try_from(PrivateKeyInfoRef::from_der(der)?)
                        .map(|key| PrivateKey::P384(key.into()))
                })
                .map_err(|_| self.wrong(OTHER_CURVE.to_owned())),
            other => Err(self.wrong(format!("unsupported key type {other}; kernels support RSA and ECDSA"))),
        }
    }

    fn of_pkcs1(&self, der: &[u8]) -> Result<PrivateKey, Error> {
        match RsaKeyPair::from_der(der) {
            Ok(key) => Ok(PrivateKey::Rsa(Box::new(key))),
            Err(e) => Err(self.wrong(format!("not an RSA key of 2048 to 4096 bits or an ECDSA key ({e})"))),
        }
    }

    fn of_sec1(&self, der: &[u8]) -> Result<PrivateKey, Error> {
        p256::SecretKey::from_sec1_der(der)
            .map(|key| PrivateKey::P256(key.into()))
            .or_else(|_| p384::SecretKey::from_sec1_der(der).map(|key| PrivateKey::P384(key.into())))
            .map_err(|_| self.wrong(OTHER_CURVE.to_owned()))
    }

    fn wrong(&self, reason: String) -> Error {
        Error::Malformed { path: self.path.to_owned(), reason }
    }
}

const OTHER_CURVE: &str = "not an ECDSA key on P-256 or P-384";

fn rsa_rule(hash: Hash) -> &'static dyn rsa::RsaEncoding {
    match hash {
        Hash::Sha256 => &rsa::RSA_PKCS1_SHA256,
        Hash::Sha384 => &rsa::RSA_PKCS1_SHA384,
        Hash::Sha512 => &rsa::RSA_PKCS1_SHA512,
    }
}
