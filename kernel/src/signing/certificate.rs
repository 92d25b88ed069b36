//! Certificates: the name that a signature contains, and the public key that verifies it.
//!
//! The kernel ignores dates and chains, so this module does too; an expired certificate is only a warning.

use std::path::Path;

use der::oid::ObjectIdentifier;
use der::{Decode, Encode};
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use ring::signature::{self as rsa, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::{Error, Hash, Identity, pem, secret};

/// rsaEncryption (RFC 3279, section 2.3.1).
pub(super) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// id-ecPublicKey (RFC 5480, section 2.1.1).
pub(super) const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// secp256r1 and secp384r1 (RFC 5480, section 2.1.1.1).
pub(super) const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
pub(super) const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");

/// A certificate (RFC 5280).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    pub(super) parsed: x509_cert::Certificate,
    der: Vec<u8>,
}

impl Certificate {
    /// Reads a file in PEM or DER. Of several certificates in PEM, the first is used.
    pub fn read(path: &Path) -> Result<Certificate, Error> {
        Certificate::parse(path, &secret::read_small(path, fs_err::File::open(path)?)?)
    }

    /// Parses PEM or DER; the path is for errors.
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

    /// Parses DER.
    pub fn of_der(der: &[u8]) -> Result<Certificate, der::Error> {
        Ok(Certificate { parsed: x509_cert::Certificate::from_der(der)?, der: der.to_owned() })
    }

    /// The certificate's DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The subject, for people, such as `CN=host Secure Boot Module Signature key`.
    pub fn subject(&self) -> String {
        plain(&self.parsed.tbs_certificate().subject().to_string())
    }

    /// SHA-256 of the DER, as 64 hex digits.
    pub fn fingerprint(&self) -> String {
        hex(&self.fingerprint_bytes())
    }

    /// SHA-256 of the DER, as bytes.
    pub fn fingerprint_bytes(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// The identity of signatures made with this certificate's key.
    pub fn identity(&self, hash: Option<Hash>) -> Identity {
        Identity { subject: self.subject(), certificate: self.fingerprint(), hash }
    }

    /// End of validity, in seconds since 1970.
    pub fn not_after(&self) -> u64 {
        self.parsed.tbs_certificate().validity().not_after.to_unix_duration().as_secs()
    }

    /// Whether the certificate's key made this signature over these bytes.
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

    /// Whether the key is an RSA key.
    pub(super) fn is_rsa(&self) -> bool {
        self.parsed.tbs_certificate().subject_public_key_info().algorithm.oid == RSA
    }

    fn curve(&self) -> Option<ObjectIdentifier> {
        let spki = self.parsed.tbs_certificate().subject_public_key_info();
        spki.algorithm.parameters.as_ref()?.decode_as().ok()
    }

    /// The subject key identifier, if any (RFC 5280, section 4.2.1.2).
    pub(super) fn key_identifier(&self) -> Option<Vec<u8>> {
        use x509_cert::ext::pkix::SubjectKeyIdentifier;
        let (_, found) =
            self.parsed.tbs_certificate().get_extension::<SubjectKeyIdentifier>().ok().flatten()?;
        Some(found.0.as_bytes().to_owned())
    }

    /// Issuer and serial number, with which signatures refer to it.
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

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Escapes an untrusted name for terminals.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Encodes a value as DER, which does not fail for values constructed here.
pub(super) fn der_of(value: &impl Encode) -> Result<Vec<u8>, Error> {
    value.to_der().map_err(|e| Error::Message { reason: e.to_string() })
}
