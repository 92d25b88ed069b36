//! Certificates: whom a signature names, and the public key that it is checked with.
//!
//! The kernel looks at neither dates nor chains, so nor does this module; a date that has passed is for a warning.

use std::path::Path;

use der::oid::ObjectIdentifier;
use der::{Decode, Encode};
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use ring::signature::{self as rsa, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::{Error, Hash, Identity, pem, secret};

/// RFC 3279, 2.3.1.
pub(super) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// RFC 5480, 2.1.1.
pub(super) const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// RFC 5480, 2.1.1.1: secp256r1 and secp384r1.
pub(super) const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
pub(super) const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// A certificate (RFC 5280).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub(super) parsed: x509_cert::Certificate,
    der: Vec<u8>,
}

impl Certificate {
    /// Reads a file of PEM or DER. Of several certificates in PEM the first counts.
    pub fn read(path: &Path) -> Result<Certificate, Error> {
        Certificate::parse(path, &secret::read_small(path, fs_err::File::open(path)?)?)
    }

    /// Reads PEM or DER; the path is for errors.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Certificate, Error> {
        let wrong = |reason: String| Error::Malformed { path: path.to_owned(), reason };
        let Some(blocks) = pem::blocks(bytes) else {
            return Certificate::of_der(bytes).map_err(|e| wrong(format!("not a certificate: {e}")));
        };
        let blocks = blocks.map_err(wrong)?;
        match blocks.iter().find(|block| block.label == "CERTIFICATE") {
            Some(block) => Certificate::of_der(&block.der).map_err(|e| wrong(e.to_string())),
            None => Err(wrong("no certificate in the file".to_owned())),
        }
    }

    /// Reads DER.
    pub fn of_der(der: &[u8]) -> Result<Certificate, der::Error> {
        Ok(Certificate { parsed: x509_cert::Certificate::from_der(der)?, der: der.to_owned() })
    }

    /// As DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The subject, for people: `CN=host Secure Boot Module Signature key`.
    pub fn subject(&self) -> String {
        plain(&self.parsed.tbs_certificate().subject().to_string())
    }

    /// SHA-256 of the DER, as 64 hex digits.
    pub fn fingerprint(&self) -> String {
        hex(&self.fingerprint_bytes())
    }

    /// The same, as bytes.
    pub fn fingerprint_bytes(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// Who signs, when this certificate's key does.
    pub fn identity(&self, hash: Option<Hash>) -> Identity {
        Identity { subject: self.subject(), certificate: self.fingerprint(), hash }
    }

    /// Seconds since 1970 until which it is valid.
    pub fn not_after(&self) -> u64 {
        self.parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs()
    }

    /// Whether its key made this signature of these bytes.
    pub fn verifies(&self, hash: Hash, body: &[u8], signature: &[u8]) -> bool {
        let spki = self.parsed.tbs_certificate().subject_public_key_info();
        let Some(key) = spki.subject_public_key.as_bytes() else { return false };
        match (spki.algorithm.oid, self.curve()) {
            (RSA, _) => UnparsedPublicKey::new(rsa_rule(hash), key).verify(body, signature).is_ok(),
            (EC, Some(P256)) => p256::ecdsa::VerifyingKey::from_sec1_bytes(key)
                .and_then(|key| {
                    key.verify_prehash(&hash.digest(body), &p256::ecdsa::Signature::from_der(signature)?)
                })
                .is_ok(),
            (EC, Some(P384)) => p384::ecdsa::VerifyingKey::from_sec1_bytes(key)
                .and_then(|key| {
                    key.verify_prehash(&hash.digest(body), &p384::ecdsa::Signature::from_der(signature)?)
                })
                .is_ok(),
            _ => false,
        }
    }

    /// Whether its key is for RSA.
    pub(super) fn is_rsa(&self) -> bool {
        self.parsed.tbs_certificate().subject_public_key_info().algorithm.oid == RSA
    }

    fn curve(&self) -> Option<ObjectIdentifier> {
        let spki = self.parsed.tbs_certificate().subject_public_key_info();
        spki.algorithm.parameters.as_ref()?.decode_as().ok()
    }

    /// The certificate's subject key identifier, where it has one.
    pub(super) fn key_identifier(&self) -> Option<Vec<u8>> {
        use x509_cert::ext::pkix::SubjectKeyIdentifier;
        let (_, found) =
            self.parsed.tbs_certificate().get_extension::<SubjectKeyIdentifier>().ok().flatten()?;
        Some(found.0.as_bytes().to_owned())
    }

    /// Issuer and serial number, as signatures name it.
    pub(super) fn issuer_and_serial(&self) -> cms::cert::IssuerAndSerialNumber {
        let tbs = self.parsed.tbs_certificate();
        cms::cert::IssuerAndSerialNumber {
            issuer: tbs.issuer().clone(),
            serial_number: tbs.serial_number().clone(),
        }
    }
}

fn rsa_rule(hash: Hash) -> &'static rsa::RsaParameters {
    match hash {
        Hash::Sha256 => &rsa::RSA_PKCS1_2048_8192_SHA256,
        Hash::Sha384 => &rsa::RSA_PKCS1_2048_8192_SHA384,
        Hash::Sha512 => &rsa::RSA_PKCS1_2048_8192_SHA512,
    }
}

/// Lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Names come from whoever made the certificate and end on terminals.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The DER of what is made here, which always has one.
pub(super) fn der_of(value: &impl Encode) -> Result<Vec<u8>, Error> {
    value.to_der().map_err(|e| Error::Message { reason: e.to_string() })
}
