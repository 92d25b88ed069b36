//! Entries: the documents stored under keys, `entries/ab/<key>.json`.
//!
//! The file is an [`Envelope`] around a manifest. An entry built here is unsigned or has this host's signature; an
//! entry from a shared cache has other hosts'. A file is untrusted input, so reading it compares its key with the key
//! that was asked for, and checks every rule of a manifest again.

use std::fs::Metadata;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::disk::if_there;
use crate::envelope::{MAX_FILE, in_words};
use crate::publish::open_plain;
use crate::{Envelope, Error, FORMAT, Key, Manifest, PublicKey, Result, SigningKey};

/// Stored, and covered by the signature: add another, never change this one.
const PAYLOAD_TYPE: &str = "application/vnd.kcache.entry.v1+json";

/// The result for a key, with its signatures.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    manifest: Manifest,
    envelope: Envelope,
}

/// The field that manifests of every format version have.
#[derive(Deserialize)]
pub(crate) struct Versioned {
    format: u32,
}

impl Versioned {
    /// Refuses formats newer than this kcache.
    pub(crate) fn check(payload: &[u8], path: &Path) -> Result<()> {
        let invalid = |reason: String| Error::Entry { path: path.to_owned(), reason };
        match serde_json::from_slice(payload).map_err(|e| invalid(in_words(&e)))? {
            Versioned { format: FORMAT } => Ok(()),
            Versioned { format: 0 } => Err(invalid("format 0 does not exist".to_owned())),
            Versioned { format: found } => Err(Error::Format { path: path.to_owned(), found }),
        }
    }
}

impl Entry {
    /// Makes an unsigned entry.
    ///
    /// # Errors
    ///
    /// [`Error::Entry`] if the manifest breaks a rule of the format.
    pub fn new(manifest: Manifest) -> Result<Entry> {
        let invalid = |reason| Error::Entry { path: path(Path::new("entries"), &manifest.key), reason };
        manifest.check().map_err(invalid)?;
        let payload = serde_json::to_vec(&manifest).map_err(|e| invalid(e.to_string()))?;
        let envelope = Envelope::new(PAYLOAD_TYPE, payload);
        envelope.encode().map_err(invalid)?;
        Ok(Entry { manifest, envelope })
    }

    /// Parses the entry of `key` from a file's bytes. `path` is where they came from, for messages. Signatures are not
    /// verified; [`crate::Trust`] does that.
    ///
    /// # Errors
    ///
    /// [`Error::Entry`] if the file is no valid envelope or the manifest breaks a rule, [`Error::Damaged`] if it is the
    /// entry of another key, and [`Error::Format`] if a newer kcache wrote it.
    pub fn parse(path: &Path, key: &Key, file: &[u8]) -> Result<Entry> {
        let invalid = |reason: String| Error::Entry { path: path.to_owned(), reason };
        let envelope = Envelope::parse(file, PAYLOAD_TYPE).map_err(invalid)?;
        Versioned::check(envelope.payload(), path)?;
        let manifest: Manifest =
            serde_json::from_slice(envelope.payload()).map_err(|e| invalid(in_words(&e)))?;
        if manifest.key != *key {
            let (expected, found) = (format!("key {key}"), format!("key {}", manifest.key));
            return Err(Error::Damaged { path: path.to_owned(), expected, found });
        }
        manifest.check().map_err(invalid)?;
        Ok(Entry { manifest, envelope })
    }

    /// The document inside the envelope.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Takes the document out of the envelope, dropping the signatures.
    pub fn into_manifest(self) -> Manifest {
        self.manifest
    }

    /// The signatures, and the bytes they cover.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Signs the entry; false if the key already signed it.
    pub fn sign(&mut self, key: &SigningKey) -> bool {
        self.envelope.sign(key)
    }

    /// Whether the holder of this key built it: it is unsigned, or has this key's signature. Fetched entries have
    /// other signatures.
    pub fn is_made_by(&self, key: &PublicKey) -> bool {
        self.envelope.signatures().is_empty() || self.envelope.is_signed_by(key)
    }

    /// Adds the signatures of the same entry from elsewhere; false if there are no new ones.
    pub(crate) fn merge(&mut self, other: &Entry) -> bool {
        self.envelope.merge(&other.envelope)
    }

    /// The bytes of the entry's file.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let path = || path(Path::new("entries"), &self.manifest.key);
        self.envelope.encode().map_err(|reason| Error::Entry { path: path(), reason })
    }
}

/// Path of a key's entry in a store's `entries` directory.
pub(crate) fn path(entries: &Path, key: &Key) -> PathBuf {
    let name = key.to_string();
    entries.join(&name[..2]).join(name + ".json")
}

/// Reads a key's entry; `None` if there is no file.
pub(crate) fn read(entries: &Path, key: &Key) -> Result<Option<Entry>> {
    let path = path(entries, key);
    match read_file(&path)? {
        Some(bytes) => Entry::parse(&path, key, &bytes).map(Some),
        None => Ok(None),
    }
}

/// Reads a file that should contain an envelope. Reads at most one byte above the limit, which is enough to refuse it.
pub(crate) fn read_file(path: &Path) -> Result<Option<Vec<u8>>> {
    Ok(read_with_metadata(path)?.map(|(_, bytes)| bytes))
}

/// Like [`read_file`], with the metadata of the file that was read.
pub(crate) fn read_with_metadata(path: &Path) -> Result<Option<(Metadata, Vec<u8>)>> {
    let Some(file) = if_there(open_plain(path))? else { return Ok(None) };
    let metadata = file.metadata()?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    Ok(Some((metadata, bytes)))
}

/// All keys that have a file here, unordered.
#[cfg(test)]
pub(crate) fn keys(entries: &Path) -> Result<Vec<Key>> {
    let mut keys = Vec::new();
    for shard in fs_err::read_dir(entries)? {
        for file in fs_err::read_dir(shard?.path())? {
            let name = file?.file_name();
            keys.extend(name.to_str().and_then(|name| name.strip_suffix(".json")?.parse::<Key>().ok()));
        }
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::{manifest, output};
    use crate::trust::tests::builder;
    use crate::{Digest, Outcome};

    const KEY: Key = Key::from_bytes([7; 32]);

    fn envelope(payload: &[u8]) -> Vec<u8> {
        Envelope::new(PAYLOAD_TYPE, payload.to_owned()).encode().unwrap()
    }

    /// The file of a manifest that was changed as JSON, bypassing the checks of the writer.
    fn forged(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut json = serde_json::to_value(manifest(KEY)).unwrap();
        change(&mut json);
        envelope(json.to_string().as_bytes())
    }

    fn decode(file: &[u8]) -> Result<Entry> {
        Entry::parse(Path::new("e.json"), &KEY, file)
    }

    fn check_refused(file: &[u8], expect: &str) {
        let error = decode(file).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn a_manifest_is_read_back_unchanged() {
        let mut failed = manifest(KEY);
        failed.outcome =
            Outcome::Failed { status: Some(2), command: "make".to_owned(), first_error: "x.c:1".to_owned() };
        for manifest in [manifest(KEY), failed] {
            let mut entry = Entry::new(manifest).unwrap();
            assert!(entry.sign(&builder(1)));
            assert_eq!(decode(&entry.encode().unwrap()).unwrap(), entry);
        }
    }

    #[test]
    fn every_truncation_is_refused() {
        let file = Entry::new(manifest(KEY)).unwrap().encode().unwrap();
        for length in 0..file.len() - 1 {
            assert!(decode(&file[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn every_rule_of_the_envelope_is_checked() {
        check_refused(b"{}", "payloadType");
        check_refused(&envelope(b"{}"), "format");
        check_refused(&vec![b' '; MAX_FILE as usize + 1], "larger than 4194304 bytes");
        check_refused(&forged(|m| m["format"] = 2.into()), "has format 2");
        check_refused(&forged(|m| m["format"] = 0.into()), "format 0 does not exist");
        check_refused(&forged(|m| m["key"] = "1".repeat(64).into()), "found key 1111");
        check_refused(&forged(|m| m["outcome"] = "built".into()), "Outcome");
        check_refused(
            &forged(|m| m["outcome"]["result"] = "\u{1b}[2J".into()),
            "unknown variant `\\u{1b}[2J`",
        );
        let nested = ["{\"a\":".repeat(1000), "0".to_owned(), "}".repeat(1000)].concat();
        let json = serde_json::to_string(&manifest(KEY)).unwrap();
        let deep = json.replace("\"facts\":{}", &format!("\"facts\":{nested}"));
        check_refused(&envelope(deep.as_bytes()), "recursion limit");
    }

    #[test]
    fn what_two_readers_of_json_could_take_for_different_things_is_refused() {
        let text = serde_json::to_string(&manifest(KEY)).unwrap();
        let with = |from: &str, to: &str| {
            assert!(text.contains(from), "{from} in {text}");
            text.replacen(from, to, 1)
        };
        let key = format!("\"key\":\"{KEY}\"");
        for (payload, expect) in [
            (with("\"format\":1", "\"format\":2,\"format\":1"), "duplicate field `format`"),
            (with(&key, &format!("\"key\":\"{}\",{key}", "1".repeat(64))), "duplicate field `key`"),
            (with("\"outputs\":", "\"outputs\":[],\"outputs\":"), "duplicate field `outputs`"),
            (with("\"format\":1", "\"format\":1.0"), "invalid type"),
            (with("\"format\":1", "\"format\":1e0"), "invalid type"),
            (with("\"format\":1", "\"format\":4294967297"), "invalid value"),
            (with("\"created\":1000000", "\"created\":1e6"), "invalid type"),
            (with("\"created\":1000000", "\"created\":18446744073709551617"), "invalid type"),
            (with("\"builder\":\"test\"", "\"builder\":\"\\ud800\""), "hex escape"),
            (format!("\u{feff}{text}"), "expected value"),
            (format!("{text}{text}"), "trailing characters"),
            (format!("{text}\0"), "trailing characters"),
        ] {
            check_refused(&envelope(payload.as_bytes()), expect);
        }
        // The envelope itself is strict as well: no field twice, no unknown field.
        let file = String::from_utf8(envelope(text.as_bytes())).unwrap();
        let twice =
            |name: &str| file.replacen(&format!("\"{name}\":"), &format!("\"{name}\":\"\",\"{name}\":"), 1);
        check_refused(twice("payload").as_bytes(), "duplicate field `payload`");
        check_refused(twice("payloadType").as_bytes(), "duplicate field `payloadType`");
        check_refused(format!("{file}{{}}").as_bytes(), "trailing characters");
    }

    #[test]
    fn every_rule_of_the_manifest_is_checked_by_writer_and_reader() {
        let check = |names: &[&str], expect: &str| {
            let mut bad = manifest(KEY);
            bad.outputs = names.iter().map(|name| output(name, Digest::of(b""))).collect();
            let told = Entry::new(bad.clone()).unwrap_err().to_string();
            assert!(told.contains(expect), "{told}");
            let outputs = serde_json::to_value(&bad.outputs).unwrap();
            check_refused(&forged(|m| m["outputs"] = outputs), expect);
        };
        check(&["b", "a"], "`b` does not sort before `a`");
        check(&["a", "a"], "`a` does not sort before `a`");
        for name in ["", ".", "..", "a/b", "/a", "a b", "é", "a\0", "a\n"] {
            check(&[name], "invalid name");
        }
        check(&[&"a".repeat(129)], "invalid name");
        let many: Vec<String> = (0..4097).map(|n| format!("{n:04}")).collect();
        check(&many.iter().map(String::as_str).collect::<Vec<_>>(), "4097 outputs, more than 4096");
        let mut bad = manifest(KEY);
        bad.outputs[0].role = crate::Role::Other("a role".to_owned());
        assert!(Entry::new(bad).unwrap_err().to_string().contains("invalid name `a role`"));
    }
}
