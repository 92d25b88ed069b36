//! The PKCS#7 message (RFC 5652, `SignedData`) of a module's signature: written as `sign-file` writes it, and read.

use cms::cert::IssuerAndSerialNumber;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos};
use der::asn1::{Any, AnyRef, OctetString, SetOfVec};
use der::oid::ObjectIdentifier;
use der::{Decode, Encode};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::certificate::{Certificate, RSA, der_of, hex, plain};
use super::{Error, Hash};

/// RFC 5652, 4 and 5.1.
pub(super) const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

impl Hash {
    /// RFC 5754, 2.
    pub(super) fn oid(self) -> ObjectIdentifier {
        match self {
            Hash::Sha256 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1"),
            Hash::Sha384 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2"),
            Hash::Sha512 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3"),
        }
    }

    /// ECDSA with this hash (RFC 5758, 3.2).
    pub(super) fn ecdsa_oid(self) -> ObjectIdentifier {
        match self {
            Hash::Sha256 => ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2"),
            Hash::Sha384 => ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3"),
            Hash::Sha512 => ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4"),
        }
    }

    /// `DigestInfo` of RFC 8017, A.2.4: what an RSA token is given to sign.
    pub(super) fn digest_info(self, body: &[u8]) -> Result<Vec<u8>, Error> {
        #[derive(der::Sequence)]
        struct DigestInfo {
            algorithm: AlgorithmIdentifierOwned,
            digest: OctetString,
        }
        let digest = OctetString::new(self.digest(body)).map_err(wrong)?;
        der_of(&DigestInfo {
            algorithm: AlgorithmIdentifierOwned { oid: self.oid(), parameters: Some(Any::null()) },
            digest,
        })
    }
}

/// A message, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Whom it names as its signer.
    pub sid: Sid,
    /// What was hashed with.
    pub hash: Hash,
    /// What kind of key it says has signed.
    algorithm: ObjectIdentifier,
    pub(super) signature: Vec<u8>,
}

/// Whom a message names as its signer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sid(SignerIdentifier);

impl std::fmt::Display for Sid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            SignerIdentifier::IssuerAndSerialNumber(name) => {
                let serial = hex(name.serial_number.as_bytes());
                write!(f, "{} (serial {serial})", plain(&name.issuer.to_string()))
            }
            SignerIdentifier::SubjectKeyIdentifier(id) => write!(f, "key {}", hex(id.0.as_bytes())),
        }
    }
}

impl Message {
    /// Reads DER from anywhere: any bytes give a message or an error.
    pub fn parse(der: &[u8]) -> Result<Message, Error> {
        let outer = ContentInfo::from_der(der).map_err(wrong)?;
        if outer.content_type != SIGNED_DATA {
            return Err(Error::Message { reason: "no signed data".to_owned() });
        }
        let data: SignedData = outer.content.decode_as().map_err(wrong)?;
        let [signer] = data.signer_infos.0.as_slice() else {
            return Err(Error::Message { reason: "must have exactly one signer".to_owned() });
        };
        // crypto/asymmetric_keys/pkcs7_parser.c takes no other versions, and pkcs7_verify.c no other content.
        let versions = match &signer.sid {
            SignerIdentifier::IssuerAndSerialNumber(_) => (CmsVersion::V1, CmsVersion::V1),
            SignerIdentifier::SubjectKeyIdentifier(_) => (CmsVersion::V3, CmsVersion::V3),
        };
        if (data.version, signer.version) != versions {
            return Err(Error::Message { reason: "its versions contradict the signer's name".to_owned() });
        }
        if data.encap_content_info.econtent_type != DATA || data.encap_content_info.econtent.is_some() {
            return Err(Error::Message { reason: "not a detached signature of plain data".to_owned() });
        }
        // kernel: "PKCS7 module sig has authenticatedAttrs"
        if signer.signed_attrs.is_some() {
            return Err(Error::Message { reason: "has signed attributes (sign with -noattr)".to_owned() });
        }
        let hash = Hash::ALL.into_iter().find(|hash| hash.oid() == signer.digest_alg.oid);
        let unknown = || Error::Hash { name: signer.digest_alg.oid.to_string() };
        Ok(Message {
            sid: Sid(signer.sid.clone()),
            hash: hash.ok_or_else(unknown)?,
            algorithm: signer.signature_algorithm.oid,
            signature: signer.signature.as_bytes().to_owned(),
        })
    }

    /// Whether it names this certificate.
    pub fn names(&self, certificate: &Certificate) -> bool {
        match &self.sid.0 {
            SignerIdentifier::IssuerAndSerialNumber(name) => *name == certificate.issuer_and_serial(),
            SignerIdentifier::SubjectKeyIdentifier(id) => {
                certificate.key_identifier().is_some_and(|own| own == id.0.as_bytes())
            }
        }
    }

    /// Whether this certificate's key has signed these bytes, and the message says so in words that kernels know.
    pub fn verifies(&self, body: &[u8], certificate: &Certificate) -> bool {
        self.is_known_algorithm(certificate) && certificate.verifies(self.hash, body, &self.signature)
    }

    /// pkcs7_sig_note_pkey_algo: RSA has one name there, ECDSA one for each hash, and which of them does not matter.
    fn is_known_algorithm(&self, certificate: &Certificate) -> bool {
        if certificate.is_rsa() {
            return self.algorithm == RSA;
        }
        Hash::ALL.into_iter().any(|hash| hash.ecdsa_oid() == self.algorithm)
    }
}

/// The message for a signature, in DER.
pub(super) fn encode(certificate: &Certificate, hash: Hash, signature: Vec<u8>) -> Result<Vec<u8>, Error> {
    // As OpenSSL writes it: no parameters for a hash (RFC 5754, 2), NULL for RSA, none for ECDSA.
    let digest_alg = AlgorithmIdentifierOwned { oid: hash.oid(), parameters: None };
    let signature_algorithm = if certificate.is_rsa() {
        AlgorithmIdentifierOwned { oid: RSA, parameters: Some(Any::null()) }
    } else {
        AlgorithmIdentifierOwned { oid: hash.ecdsa_oid(), parameters: None }
    };
    let IssuerAndSerialNumber { issuer, serial_number } = certificate.issuer_and_serial();
    let signer = SignerInfo {
        version: CmsVersion::V1,
        sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber { issuer, serial_number }),
        digest_alg: digest_alg.clone(),
        signed_attrs: None,
        signature_algorithm,
        signature: OctetString::new(signature).map_err(wrong)?,
        unsigned_attrs: None,
    };
    let data = SignedData {
        version: CmsVersion::V1,
        digest_algorithms: SetOfVec::try_from(vec![digest_alg]).map_err(wrong)?,
        encap_content_info: EncapsulatedContentInfo { econtent_type: DATA, econtent: None },
        certificates: None,
        crls: None,
        signer_infos: SignerInfos(SetOfVec::try_from(vec![signer]).map_err(wrong)?),
    };
    let data = data.to_der().map_err(wrong)?;
    let content = Any::from(AnyRef::try_from(data.as_slice()).map_err(wrong)?);
    der_of(&ContentInfo { content_type: SIGNED_DATA, content })
}

fn wrong(error: der::Error) -> Error {
    Error::Message { reason: error.to_string() }
}
