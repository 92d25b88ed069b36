//! Trusted and revoked keys, and the threshold of signatures.
//!
//! ```text
//! trusted-keys/NAME.pem    public keys; NAME is for people
//! revoked-keys/NAME.pem    keys that are never trusted again, even if they are in trusted-keys
//! ```
//! A payload is trusted if at least `threshold` different trusted keys signed it. Everything else is treated as
//! absent: there is no fallback to unsigned data.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::keys::open_key;
use crate::{Envelope, Error, Exposed, PublicKey, Result, SignerId};

/// Trusted keys, revoked keys, and the number of signatures required.
#[derive(Debug, Clone, Default)]
pub struct Trust {
    keys: BTreeMap<SignerId, TrustedKey>,
    revoked: BTreeMap<SignerId, TrustedKey>,
    threshold: usize,
}

/// A key with the file that contains it.
#[derive(Debug, Clone)]
pub struct TrustedKey {
    /// Name of the file without `.pem`, for messages.
    pub name: String,
    /// Path of the file.
    pub path: PathBuf,
    /// The public key in it.
    pub key: PublicKey,
}

/// Why an envelope is not trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Distrust {
    /// There is no signature.
    Unsigned,
    /// A signature names a trusted key, but is invalid.
    Forged(String),
    /// The only signatures are by revoked keys.
    Revoked(String),
    /// The only signatures are by unknown keys; this is the first.
    Stranger(String),
    /// Fewer trusted keys signed than the threshold requires.
    TooFew {
        /// Number of trusted keys that signed.
        found: usize,
        /// Number of trusted keys required.
        threshold: usize,
    },
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Distrust::Unsigned => write!(f, "unsigned"),
            Distrust::Forged(name) => write!(f, "invalid signature by {name}"),
            Distrust::Revoked(name) => write!(f, "signed with a revoked key: {name}"),
            Distrust::Stranger(id) => write!(f, "signed with an untrusted key: {id}"),
            Distrust::TooFew { found, threshold } => {
                write!(f, "{found} of {threshold} required trusted signatures")
            }
        }
    }
}

impl Trust {
    /// Reads the keys in two directories, each of which may be missing. A file that is not a key is an error: ignoring
    /// a trusted key would be confusing, and ignoring a revoked one a security hole.
    ///
    /// # Errors
    ///
    /// [`Error::KeyFile`] for such a file, or one that others can change.
    pub fn read(trusted: &Path, revoked: &Path, threshold: usize) -> Result<Trust> {
        Trust::read_by(&open_key, trusted, revoked, threshold)
    }

    /// Like [`Trust::read`], opening files with a function of the caller.
    pub fn read_by(open: &Open, trusted: &Path, revoked: &Path, threshold: usize) -> Result<Trust> {
        let (keys, revoked) = (read_keys(open, trusted)?, read_keys(open, revoked)?);
        Ok(Trust { keys, revoked, threshold: threshold.max(1) })
    }

    /// The trusted keys, by id.
    pub fn keys(&self) -> impl Iterator<Item = &TrustedKey> {
        self.keys.values().filter(|key| !self.revoked.contains_key(&key.key.id()))
    }

    /// The revoked keys, by id.
    pub fn revoked(&self) -> impl Iterator<Item = &TrustedKey> {
        self.revoked.values()
    }

    /// Number of different trusted keys that must have signed.
    pub fn threshold(&self) -> usize {
        self.threshold.max(1)
    }

    /// Verifies that enough trusted keys signed, as [`Trust::threshold`] requires.
    ///
    /// # Errors
    ///
    /// [`Distrust`] says why the payload must not be used.
    pub fn verify(&self, envelope: &Envelope) -> std::result::Result<(), Distrust> {
        self.require(envelope, self.threshold())
    }

    /// Verifies that at least one trusted key signed.
    pub fn verify_one(&self, envelope: &Envelope) -> std::result::Result<(), Distrust> {
        self.require(envelope, 1)
    }

    fn require(&self, envelope: &Envelope, threshold: usize) -> std::result::Result<(), Distrust> {
        let bytes = envelope.signed_bytes();
        let mut signers = std::collections::BTreeSet::new();
        let mut distrust = Distrust::Unsigned;
        for signature in envelope.signatures() {
            let id = signature.keyid.parse::<SignerId>().ok();
            let revoked = id.and_then(|id| self.revoked.get(&id));
            match id.and_then(|id| self.keys.get(&id)) {
                _ if revoked.is_some() => {
                    distrust = Distrust::Revoked(revoked.map_or(String::new(), |key| key.name.clone()));
                }
                Some(trusted) if signature.bytes().is_some_and(|sig| trusted.key.verifies(&bytes, &sig)) => {
                    signers.insert(trusted.key.id());
                }
                Some(trusted) => distrust = Distrust::Forged(trusted.name.clone()),
                None if distrust == Distrust::Unsigned => {
                    distrust = Distrust::Stranger(signature.keyid.escape_debug().take(64).collect());
                }
                None => {}
            }
        }
        match signers.len() {
            found if found >= threshold => Ok(()),
            0 => Err(distrust),
            found => Err(Distrust::TooFew { found, threshold }),
        }
    }
}

/// Opens a key's file.
pub type Open<'a> = dyn Fn(&Path) -> std::io::Result<std::fs::File> + 'a;

fn read_keys(open: &Open, dir: &Path) -> Result<BTreeMap<SignerId, TrustedKey>> {
    let files = match fs_err::read_dir(dir) {
        Ok(files) => files,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(e.into()),
    };
    // Whoever can create a file in the directory can make a key trusted.
    if let Some(exposed) = Exposed::find(dir, &fs_err::metadata(dir)?) {
        return Err(Error::KeyFile { path: dir.to_owned(), reason: exposed.reason() });
    }
    let mut keys = BTreeMap::new();
    for file in files {
        let path = file?.path();
        if path.extension().is_none_or(|extension| extension != "pem") {
            continue;
        }
        let key = PublicKey::read_from(&path, open(&path)?)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        keys.insert(key.id(), TrustedKey { name, path, key });
    }
    Ok(keys)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{Signature, SigningKey};

    /// The signing key of a test's builder.
    pub(crate) fn builder(n: u8) -> SigningKey {
        SigningKey::from_seed([n; 32])
    }

    /// Trust in some builders.
    pub(crate) fn trust(builders: &[u8], revoked: &[u8], threshold: usize) -> Trust {
        let keys = |numbers: &[u8]| {
            let key = |n: &u8| TrustedKey {
                name: format!("builder{n}"),
                path: PathBuf::new(),
                key: builder(*n).public().clone(),
            };
            numbers.iter().map(key).map(|key| (key.key.id(), key)).collect()
        };
        Trust { keys: keys(builders), revoked: keys(revoked), threshold }
    }

    fn signed(builders: &[u8]) -> Envelope {
        let mut envelope = Envelope::new("text/plain", b"text".to_vec());
        builders.iter().for_each(|n| assert!(envelope.sign(&builder(*n))));
        envelope
    }

    #[test]
    fn enough_different_trusted_keys_must_have_signed() {
        let check = |signers: &[u8], trusted: &[u8], revoked: &[u8], threshold, expect: &str| {
            let told = trust(trusted, revoked, threshold).verify(&signed(signers));
            let told = told.map_or_else(|distrust| distrust.to_string(), |()| "believed".to_owned());
            assert!(told.contains(expect), "{told}");
        };
        check(&[1], &[1], &[], 1, "believed");
        check(&[1, 2, 3], &[1], &[], 1, "believed");
        check(&[1, 2], &[1, 2], &[], 2, "believed");
        check(&[], &[1], &[], 1, "unsigned");
        check(&[], &[], &[], 0, "unsigned");
        check(&[2], &[1], &[], 1, "an untrusted key");
        check(&[1], &[1, 2], &[], 2, "1 of 2");
        check(&[1], &[1], &[1], 1, "a revoked key: builder1");
        check(&[1, 2], &[1, 2], &[2], 2, "1 of 2");
        check(&[1, 2], &[1, 2], &[2], 1, "believed");
    }

    #[test]
    fn one_key_counts_once_however_often_it_signed() {
        let twice = signed(&[1]);
        let mut again = twice.signatures()[0].clone();
        again.sig.insert(0, ' ');
        let file = serde_json::json!({"payloadType": "text/plain", "payload": "dGV4dA==",
            "signatures": [twice.signatures()[0], twice.signatures()[0], again]});
        let envelope = Envelope::parse(file.to_string().as_bytes(), "text/plain").unwrap();
        assert_eq!(
            trust(&[1, 2], &[], 2).verify(&envelope),
            Err(Distrust::TooFew { found: 1, threshold: 2 })
        );
    }

    #[test]
    fn forged_and_mismatched_signatures_are_invalid() {
        let good = signed(&[1]);
        let check = |kind: &str, payload: &str, signature: Signature| {
            let file =
                serde_json::json!({"payloadType": kind, "payload": payload, "signatures": [signature]});
            let envelope = Envelope::parse(file.to_string().as_bytes(), kind).unwrap();
            assert_eq!(trust(&[1], &[], 1).verify(&envelope), Err(Distrust::Forged("builder1".to_owned())));
        };
        let signature = good.signatures()[0].clone();
        check("text/plain", "dGV4dA==", Signature { sig: "AAAA".to_owned(), ..signature.clone() });
        check("text/plain", "dGV4dA==", Signature { sig: "!".to_owned(), ..signature.clone() });
        let other = signed(&[2]).signatures()[0].sig.clone();
        check("text/plain", "dGV4dA==", Signature { sig: other, ..signature.clone() });
        check("text/plain", "b3RoZXI=", signature.clone());
        check("text/html", "dGV4dA==", signature);
    }

    #[test]
    fn keys_are_read_from_directories_and_an_invalid_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (trusted, revoked) = (dir.path().join("trusted"), dir.path().join("revoked"));
        assert_eq!(Trust::read(&trusted, &revoked, 1).unwrap().keys().count(), 0);
        fs_err::create_dir(&trusted).unwrap();
        fs_err::create_dir(&revoked).unwrap();
        for n in [1, 2] {
            fs_err::write(trusted.join(format!("b{n}.pem")), builder(n).public().to_pem()).unwrap();
        }
        fs_err::write(trusted.join("README"), "not a key").unwrap();
        fs_err::write(revoked.join("old.pem"), builder(2).public().to_pem()).unwrap();
        let trust = Trust::read(&trusted, &revoked, 1).unwrap();
        assert_eq!(trust.keys().map(|key| key.name.as_str()).collect::<Vec<_>>(), ["b1"]);
        assert!(trust.verify(&signed(&[1])).is_ok());
        assert!(trust.verify(&signed(&[2])).is_err());
        fs_err::write(trusted.join("c.pem"), "not a key").unwrap();
        let told = Trust::read(&trusted, &revoked, 1).unwrap_err().to_string();
        assert!(told.contains("c.pem"), "{told}");
    }
}
