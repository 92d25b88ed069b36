//! Pointers: which entry is the newest of something, for readers that cannot work out its key.
//!
//! ```text
//! by-kernel/<release>/<kernel>/<package>.json    an envelope around {"format":1,"path":...,"key":...,"epoch":...}
//! ```
//! A pointer is signed, and says where it belongs, so that no other can stand in its place. Unlike an entry it changes,
//! and an old one is as well signed as a new one. So each has an epoch, which only grows; a reader remembers the one it
//! accepted last, in a file of the same name in its own store, and does not go back unnoticed.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::entry::Versioned;
use crate::envelope::{MAX_WORDS, in_words};
use crate::manifest::is_flat;
use crate::transport::Name;
use crate::{Digest, Envelope, Error, FORMAT, Key, Result, SigningKey};

/// Stored, and part of what is signed: add, never change.
const PAYLOAD_TYPE: &str = "application/vnd.kcache.pointer.v1+json";
/// A signed pointer takes some 600 bytes, and 300 more for each further signature.
pub(crate) const MAX_POINTER: u64 = 64 << 10;

/// A pointer, and who vouches for it.
#[derive(Debug, Clone, PartialEq)]
pub struct Pointer {
    target: Target,
    envelope: Envelope,
}

/// Its JSON is stored: add, never rename.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Target {
    format: u32,
    path: String,
    key: Key,
    epoch: u64,
}

impl Pointer {
    /// The name of the pointer of a package for a kernel; an error where one of them cannot be a file's name.
    pub fn name(release: &str, kernel: Digest, package: &str) -> Result<Name> {
        match [release, package].into_iter().find(|name| !is_flat(name)) {
            Some(name) => Err(Error::Name { name: name.to_owned() }),
            None => Ok(Name::Pointer { release: release.to_owned(), kernel, package: package.to_owned() }),
        }
    }

    /// A pointer signed by `key`.
    pub fn new(name: &Name, to: Key, epoch: u64, key: &SigningKey) -> Result<Pointer> {
        let target = Target { format: FORMAT, path: name.path(), key: to, epoch };
        let payload = serde_json::to_vec(&target).map_err(std::io::Error::other)?;
        let mut envelope = Envelope::new(PAYLOAD_TYPE, payload);
        envelope.sign(key);
        Ok(Pointer { target, envelope })
    }

    /// Reads the pointer that came from `origin` and is to be the one of this name.
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

    /// The key of the entry that it points to.
    pub fn key(&self) -> Key {
        self.target.key
    }

    /// Grows with each pointer of one name.
    pub fn epoch(&self) -> u64 {
        self.target.epoch
    }

    /// Signs the pointer too; false where the key has signed it before.
    pub fn sign(&mut self, key: &SigningKey) -> bool {
        self.envelope.sign(key)
    }

    /// Whether both say the same, whoever has signed them.
    pub(crate) fn agrees_with(&self, other: &Pointer) -> bool {
        self.target == other.target
    }

    /// Who says so, and over which bytes.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Its file.
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

    /// The pointer name of a package.
    pub(crate) fn name(package: &str) -> Name {
        Pointer::name("6.1.0-1-amd64", Digest::of(b"kernel"), package).unwrap()
    }

    fn parse(file: &[u8]) -> Result<Pointer> {
        Pointer::parse(Path::new("p.json"), &name("a"), file)
    }

    #[test]
    fn a_pointer_comes_back_as_it_went_in() {
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
