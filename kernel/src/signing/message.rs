//! The PKCS#7 message (RFC 5652, `SignedData`) of a module's signature: encoding as `sign-file` does, and parsing.

use cms::cert::IssuerAndSerialNumber;
use cms::content_info::{CmsVersion, ContentInfo};
use cms::signed_data::{EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo, SignerInfos};
use der::asn1::{Any, AnyRef, OctetString, SetOfVec};
use der::oid::ObjectIdentifier;
use der::{Decode, Encode};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::certificate::{Certificate, RSA, der_of, hex, plain};
use super::{Error, Hash};

/// id-data (RFC 5652, section 4).
pub(super) const DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.1");
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");

impl Hash {
    /// Object identifier of the hash (RFC 5754, section 2).
    pub(super) fn oid(self) -> ObjectIdentifier {
        match self {
            Hash::Sha256 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1"),
            Hash::Sha384 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2"),
            Hash::Sha512 => ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3"),
        }
    }

    /// Object identifier of ECDSA with this hash (RFC 5758, section 3.2).
    pub(super) fn ecdsa_oid(self) -> ObjectIdentifier {
        match self {
            Hash::Sha256 => ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2"),
            Hash::Sha384 => ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3"),
            Hash::Sha512 => ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4"),
        }
    }

    /// `DigestInfo` (RFC 8017, appendix A.2.4), which an RSA token signs.
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

/// A parsed message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The signer that it names.
    pub sid: Sid,
    /// The hash algorithm.
    pub hash: Hash,
    /// The signature algorithm that it names.
    algorithm: ObjectIdentifier,
    pub(super) signature: Vec<u8>,
}

/// The signer that a message names.
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
    /// Parses DER from an untrusted source: any bytes give a message or an error.
    pub fn parse(der: &[u8]) -> Result<Message, Error> {
        let outer = ContentInfo::from_der(der).map_err(wrong)?;
        if outer.content_type != SIGNED_DATA {
            return Err(Error::Message { reason: "no signed data".to_owned() });
        }
        let data: SignedData = outer.content.decode_as().map_err(wrong)?;
        let [signer] = data.signer_infos.0.as_slice() else {
            return Err(Error::Message { reason: "must have exactly one signer".to_owned() });
        };
        // crypto/asymmetric_keys/pkcs7_parser.c accepts no other versions, and pkcs7_verify.c no other content.
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
        // The kernel's error: "PKCS7 module sig has authenticatedAttrs".
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

    /// Whether it names this certificate as its signer.
    pub fn names(&self, certificate: &Certificate) -> bool {
        match &self.sid.0 {
            SignerIdentifier::IssuerAndSerialNumber(name) => *name == certificate.issuer_and_serial(),
            SignerIdentifier::SubjectKeyIdentifier(id) => {
                certificate.key_identifier().is_some_and(|own| own == id.0.as_bytes())
            }
        }
    }

    /// Whether this certificate's key signed these bytes, and the message's algorithms are ones that kernels know.
    pub fn verifies(&self, body: &[u8], certificate: &Certificate) -> bool {
        self.is_known_algorithm(certificate) && certificate.verifies(self.hash, body, &self.signature)
    }

    /// As pkcs7_sig_note_pkey_algo: there is one identifier for RSA, and one of ECDSA for each hash, of which any is
    /// accepted.
    fn is_known_algorithm(&self, certificate: &Certificate) -> bool {
        if certificate.is_rsa() {
            return self.algorithm == RSA;
        }
        Hash::ALL.into_iter().any(|hash| hash.ecdsa_oid() == self.algorithm)
    }
}

/// Encodes the message for a signature in DER.
pub(super) fn encode(certificate: &Certificate, hash: Hash, signature: Vec<u8>) -> Result<Vec<u8>, Error> {
    // As OpenSSL does: no parameters for a hash (RFC 5754, section 2), NULL for RSA, none for ECDSA.
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
