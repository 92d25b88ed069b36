//! DSSE envelopes (<https://github.com/secure-systems-lab/dsse>): bytes, their type, and signatures over both.
//!
//! ```json
//! {"payloadType":"application/vnd.kcache.entry.v1+json","payload":"<base64>","signatures":[{"keyid":"<hex>","sig":"<base64>"}],"checksum":"<hex>"}
//! ```
//! The checksum is not part of DSSE, whose readers ignore fields that they do not know. It detects corruption of
//! unsigned entries, and proves nothing about who wrote the file.
//!
//! A signature covers the payload's bytes unchanged, and its type. So no canonical JSON is needed, and a signed entry
//! cannot be passed off as a signed pointer. An envelope is untrusted input: its size is limited before it is read,
//! and the payload is used only after [`crate::Trust`] verified it, or if the file is the store's own.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::{Digest, PublicKey, SigningKey};

/// Size limit of an envelope's file in bytes. An entry of a hundred outputs has 100 KB.
pub(crate) const MAX_FILE: u64 = 4 << 20;
/// Limit on signatures, each of which costs a verification.
const MAX_SIGNATURES: usize = 64;
/// Limit on characters of untrusted text in a message.
pub(crate) const MAX_WORDS: usize = 512;

/// A payload with its signatures, which are not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    payload_type: String,
    payload: Vec<u8>,
    signatures: Vec<Signature>,
}

/// A signature as DSSE stores it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Signature {
    /// Key id: [`crate::SignerId`] in hexadecimal.
    pub keyid: String,
    /// The 64 bytes of an ed25519 signature, in base64.
    pub sig: String,
}

/// The envelope's JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
    /// BLAKE3 of the fields above. Files written before the checksum was introduced have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<Digest>,
}

impl Envelope {
    /// Makes an unsigned envelope.
    pub(crate) fn new(payload_type: &str, payload: Vec<u8>) -> Envelope {
        Envelope { payload_type: payload_type.to_owned(), payload, signatures: Vec::new() }
    }

    /// Parses an envelope of this payload type. An error says which rule the file breaks.
    pub fn parse(file: &[u8], payload_type: &str) -> Result<Envelope, String> {
        check_size(file)?;
        let file: File = serde_json::from_slice(file).map_err(|e| in_words(&e))?;
        if file.payload_type != payload_type {
            let found: String = file.payload_type.escape_debug().take(MAX_WORDS).collect();
            return Err(format!("unexpected payload type `{found}`"));
        }
        if file.signatures.len() > MAX_SIGNATURES {
            return Err(format!("{} signatures, more than {MAX_SIGNATURES}", file.signatures.len()));
        }
        let payload = BASE64.decode(&file.payload).map_err(|e| e.to_string())?;
        // Sorted, so that equal sets of signatures give equal files.
        let signatures = BTreeSet::from_iter(file.signatures).into_iter().collect();
        let envelope = Envelope { payload_type: file.payload_type, payload, signatures };
        match file.checksum {
            Some(checksum) if checksum != envelope.checksum() => Err("checksum mismatch".to_owned()),
            _ => Ok(envelope),
        }
    }

    /// The envelope's JSON, with its checksum.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, String> {
        let file = File {
            payload_type: self.payload_type.clone(),
            payload: BASE64.encode(&self.payload),
            signatures: self.signatures.clone(),
            checksum: Some(self.checksum()),
        };
        let mut bytes = serde_json::to_vec(&file).map_err(|e| e.to_string())?;
        bytes.push(b'\n');
        check_size(&bytes)?;
        Ok(bytes)
    }

    /// The bytes inside, unverified.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The signatures, unverified, sorted.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Signs the payload; false if the key already signed it. Replaces invalid signatures under the key's id.
    pub fn sign(&mut self, key: &SigningKey) -> bool {
        if self.is_signed_by(key.public()) {
            return false;
        }
        let keyid = key.public().id().to_string();
        self.signatures.retain(|signature| signature.keyid != keyid);
        let sig = BASE64.encode(key.sign(&self.signed_bytes()));
        self.add(Signature { keyid, sig });
        true
    }

    /// Whether there is a valid signature of this key.
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        let (keyid, bytes) = (key.id().to_string(), self.signed_bytes());
        let mut own = self.signatures.iter().filter(|signature| signature.keyid == keyid);
        own.any(|signature| signature.bytes().is_some_and(|sig| key.verifies(&bytes, &sig)))
    }

    /// Adds the signatures of another envelope with the same payload; false if there are no new ones.
    pub(crate) fn merge(&mut self, other: &Envelope) -> bool {
        let before = self.signatures.len();
        if self.payload == other.payload {
            other.signatures.iter().for_each(|signature| self.add(signature.clone()));
        }
        self.signatures.len() > before
    }

    /// Inserts in order, so that equal sets of signatures give equal files.
    fn add(&mut self, signature: Signature) {
        if let Err(at) = self.signatures.binary_search(&signature) {
            self.signatures.insert(at, signature);
        }
    }

    /// DSSE's pre-authentication encoding (PAE): the bytes that are signed.
    pub(crate) fn signed_bytes(&self) -> Vec<u8> {
        let (kind, payload) = (&self.payload_type, &self.payload);
        let mut bytes = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
        bytes.extend(payload);
        bytes
    }
}

impl Envelope {
    /// BLAKE3 of all fields, each after its length. Stored: never change it.
    fn checksum(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("kcache 2026-11 envelope checksum v1");
        let mut part = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        part(&self.signed_bytes());
        for signature in &self.signatures {
            part(signature.keyid.as_bytes());
            part(signature.sig.as_bytes());
        }
        hasher.finalize().into()
    }
}

impl Signature {
    /// The raw signature; `None` unless it is 64 bytes in base64.
    pub(crate) fn bytes(&self) -> Option<[u8; 64]> {
        BASE64.decode(&self.sig).ok()?.try_into().ok()
    }
}

/// Formats an error of serde for a message. serde quotes the input in full and unescaped, so the text is shortened and
/// control characters are escaped.
pub(crate) fn in_words(error: &serde_json::Error) -> String {
    let shown = |c: char| match c {
        '\'' | '"' | '\\' => c.to_string(),
        c => c.escape_debug().to_string(),
    };
    error.to_string().chars().take(MAX_WORDS).map(shown).collect()
}

fn check_size(file: &[u8]) -> Result<(), String> {
    if file.len() as u64 > MAX_FILE { Err(format!("larger than {MAX_FILE} bytes")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: &str = "http://example.com/HelloWorld";

    fn hello() -> Envelope {
        Envelope::new(KIND, b"hello world".to_vec())
    }

    #[test]
    fn the_signed_bytes_follow_the_dsse_specification() {
        // The example of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
        assert_eq!(hello().signed_bytes(), b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");
    }

    #[test]
    fn an_envelope_is_read_back_unchanged() {
        let mut envelope = hello();
        assert!(envelope.sign(&SigningKey::from_seed([1; 32])));
        assert!(!envelope.sign(&SigningKey::from_seed([1; 32])));
        assert!(envelope.sign(&SigningKey::from_seed([2; 32])));
        assert_eq!(Envelope::parse(&envelope.encode().unwrap(), KIND), Ok(envelope));
    }

    #[test]
    fn a_forged_signature_does_not_keep_the_keys_owner_from_signing() {
        let key = SigningKey::from_seed([1; 32]);
        let mut envelope = hello();
        envelope.add(Signature { keyid: key.public().id().to_string(), sig: "AAAA".to_owned() });
        assert!(!envelope.is_signed_by(key.public()));
        assert!(envelope.sign(&key) && envelope.is_signed_by(key.public()));
        assert_eq!(envelope.signatures().len(), 1);
    }

    #[test]
    fn signatures_add_up_in_any_order_but_only_over_the_same_payload() {
        let signed = |seeds: &[u8]| {
            let mut envelope = hello();
            seeds.iter().for_each(|seed| assert!(envelope.sign(&SigningKey::from_seed([*seed; 32]))));
            envelope
        };
        let mut envelope = signed(&[1]);
        assert!(envelope.merge(&signed(&[2])));
        assert!(!envelope.merge(&signed(&[1, 2])));
        assert_eq!(envelope, signed(&[2, 1]));
        let mut other = Envelope::new(KIND, b"other".to_vec());
        assert!(!other.merge(&envelope));
    }

    #[test]
    fn invalid_envelopes_are_refused_with_the_broken_rule() {
        let check = |file: &[u8], expect: &str| {
            let told = Envelope::parse(file, KIND).unwrap_err();
            assert!(told.contains(expect), "{told}");
        };
        check(b"<html>Not what you wanted</html>", "expected value");
        check(b"", "EOF");
        check(b"{}", "payloadType");
        check(
            &Envelope::new("text/plain", Vec::new()).encode().unwrap(),
            "unexpected payload type `text/plain`",
        );
        check(&vec![b' '; MAX_FILE as usize + 1], "larger than 4194304 bytes");
        check(&[b"[".repeat(10_000), b"]".repeat(10_000)].concat(), "invalid type");
        let mut many = hello();
        many.signatures = vec![Signature { keyid: String::new(), sig: String::new() }; MAX_SIGNATURES + 1];
        check(&many.encode().unwrap(), "65 signatures");
    }
}
