//! Pointers: the newest entry of a package for a kernel, for hosts that cannot compute its key.
//!
//! ```text
//! by-kernel/<release>/<kernel>/<package>.json    an envelope around {"format":1,"path":...,"key":...,"epoch":...}
//! ```
//! A pointer is signed, and contains its own path, so no other pointer can be served in its place. Unlike an entry it
//! changes, and an old pointer is validly signed too. So each has an epoch that only increases. A reader stores the
//! last one it accepted, in a file of the same name in its own store, and refuses an older one, which may be a
//! rollback attack.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::entry::Versioned;
use crate::envelope::{MAX_WORDS, in_words};
use crate::manifest::is_flat;
use crate::transport::Name;
use crate::{Digest, Envelope, Error, FORMAT, Key, Result, SigningKey};

/// Stored, and covered by the signature: add another, never change this one.
const PAYLOAD_TYPE: &str = "application/vnd.kcache.pointer.v1+json";
/// Size limit in bytes. A signed pointer has some 600, and 300 more for each further signature.
pub(crate) const MAX_POINTER: u64 = 64 << 10;

/// A pointer with its signatures.
#[derive(Debug, Clone, PartialEq)]
pub struct Pointer {
    target: Target,
    envelope: Envelope,
}

/// The signed document. Its JSON is stored: add, never rename.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Target {
    format: u32,
    path: String,
    key: Key,
    epoch: u64,
}

impl Pointer {
    /// Makes the name of a package's pointer for a kernel. `kernel` is the digest of architecture and `uname -v`.
    ///
    /// # Errors
    ///
    /// [`Error::Name`] if release or package cannot be a file name.
    pub fn name(release: &str, kernel: Digest, package: &str) -> Result<Name> {
        match [release, package].into_iter().find(|name| !is_flat(name)) {
            Some(name) => Err(Error::Name { name: name.to_owned() }),
            None => Ok(Name::Pointer { release: release.to_owned(), kernel, package: package.to_owned() }),
        }
    }

    /// Makes a pointer, signed with `key`.
    pub fn new(name: &Name, to: Key, epoch: u64, key: &SigningKey) -> Result<Pointer> {
        let target = Target { format: FORMAT, path: name.path(), key: to, epoch };
        let payload = serde_json::to_vec(&target).map_err(std::io::Error::other)?;
        let mut envelope = Envelope::new(PAYLOAD_TYPE, payload);
        envelope.sign(key);
        Ok(Pointer { target, envelope })
    }

    /// Parses the pointer `name`. `origin` is where the bytes came from, for messages. Signatures are not verified.
    ///
    /// # Errors
    ///
    /// [`Error::Entry`] if the file is no valid envelope of a pointer, [`Error::Damaged`] if it is the pointer of
    /// another name, and [`Error::Format`] if a newer kcache wrote it.
    pub fn parse(origin: &Path, name: &Name, file: &[u8]) -> Result<Pointer> {
        let invalid = |reason: String| Error::Entry { path: origin.to_owned(), reason };
        let envelope = Envelope::parse(file, PAYLOAD_TYPE).map_err(invalid)?;
        Versioned::check(envelope.payload(), origin)?;
        let target: Target = serde_json::from_slice(envelope.payload()).map_err(|e| invalid(in_words(&e)))?;
        if target.path != name.path() {
            let (expected, found) = (name.path(), target.path.escape_debug().take(MAX_WORDS).collect());
            return Err(Error::Damaged { path: origin.to_owned(), expected, found });
        }
        Ok(Pointer { target, envelope })
    }

    /// The key of the entry that it refers to.
    pub fn key(&self) -> Key {
        self.target.key
    }

    /// The pointer's version: it only increases. Builders use the time in seconds since 1970.
    pub fn epoch(&self) -> u64 {
        self.target.epoch
    }

    /// Adds a signature; false if the key already signed it.
    pub fn sign(&mut self, key: &SigningKey) -> bool {
        self.envelope.sign(key)
    }

    /// Whether both have the same document, regardless of signatures.
    pub(crate) fn agrees_with(&self, other: &Pointer) -> bool {
        self.target == other.target
    }

    /// The signatures, and the bytes they cover.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The bytes of the pointer's file.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let path = || PathBuf::from(&self.target.path);
        self.envelope.encode().map_err(|reason| Error::Entry { path: path(), reason })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::trust::tests::builder;

    const KEY: Key = Key::from_bytes([7; 32]);

    /// Name of the pointer of a package.
    pub(crate) fn name(package: &str) -> Name {
        Pointer::name("6.1.0-1-amd64", Digest::of(b"kernel"), package).unwrap()
    }

    fn parse(file: &[u8]) -> Result<Pointer> {
        Pointer::parse(Path::new("p.json"), &name("a"), file)
    }

    #[test]
    fn a_pointer_is_read_back_unchanged() {
        let pointer = Pointer::new(&name("a"), KEY, 5, &builder(1)).unwrap();
        assert_eq!(parse(&pointer.encode().unwrap()).unwrap(), pointer);
        assert_eq!((pointer.key(), pointer.epoch()), (KEY, 5));
    }

    #[test]
    fn the_pointer_of_another_package_or_an_entry_is_refused() {
        let other = Pointer::new(&name("b"), KEY, 5, &builder(1)).unwrap();
        assert!(matches!(parse(&other.encode().unwrap()), Err(Error::Damaged { .. })));
        let entry = crate::Entry::new(crate::manifest::tests::manifest(KEY)).unwrap();
        let told = parse(&entry.encode().unwrap()).unwrap_err().to_string();
        assert!(told.contains("payload type"), "{told}");
    }

    #[test]
    fn every_truncation_is_refused() {
        let file = Pointer::new(&name("a"), KEY, 5, &builder(1)).unwrap().encode().unwrap();
        for length in 0..file.len() - 1 {
            assert!(parse(&file[..length]).is_err(), "{length} bytes");
        }
    }
}
