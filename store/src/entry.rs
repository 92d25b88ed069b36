//! Entries: what is kept under a key, `entries/ab/<key>.json`.
//!
//! The file is a DSSE envelope (<https://github.com/secure-systems-lab/dsse>), so that a signature covers the
//! manifest's bytes as they are and nobody has to agree on canonical JSON:
//! ```json
//! {"payloadType":"application/vnd.kcache.entry.v1+json","payload":"<base64 of the manifest>","signatures":[]}
//! ```
//! What was made here is unsigned. A file may come from anywhere, so it is bounded before it is read, its key is
//! compared with the key that was asked for, and every rule of a manifest is checked again.

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::{Error, FORMAT, Key, Manifest, Result};

/// Stored, and part of what is signed: add, never change.
const PAYLOAD_TYPE: &str = "application/vnd.kcache.entry.v1+json";
/// An entry of a hundred outputs takes 100 KB.
const MAX_FILE: u64 = 4 << 20;

/// What the store holds under a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// What is known about the key.
    pub manifest: Manifest,
    /// Who vouches for it: nobody, for what was made here.
    pub signatures: Vec<Signature>,
}

/// One signature over an entry's manifest, not checked here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// Which key made it.
    pub keyid: String,
    /// The signature itself, base64.
    pub sig: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload_type: String,
    payload: String,
    signatures: Vec<Signature>,
}

/// The part of a manifest that every format has.
#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

/// Where a key's entry lies in a store's `entries` directory.
pub(crate) fn path(entries: &Path, key: &Key) -> PathBuf {
    let name = key.to_string();
    entries.join(&name[..2]).join(name + ".json")
}

/// The key's entry, or none.
pub(crate) fn read(entries: &Path, key: &Key) -> Result<Option<Entry>> {
    let path = path(entries, key);
    let file = match fs_err::File::open(&path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    decode(&path, key, &bytes).map(Some)
}

/// All keys that have a file here, in no order.
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

/// The file of an unsigned entry; an error is the rule that the manifest breaks.
pub(crate) fn encode(manifest: &Manifest) -> Result<Vec<u8>, String> {
    manifest.check()?;
    let json = |e: serde_json::Error| e.to_string();
    let envelope = Envelope {
        payload_type: PAYLOAD_TYPE.to_owned(),
        payload: BASE64.encode(serde_json::to_vec(manifest).map_err(json)?),
        signatures: Vec::new(),
    };
    let mut file = serde_json::to_vec(&envelope).map_err(json)?;
    file.push(b'\n');
    check_size(&file)?;
    Ok(file)
}

fn decode(path: &Path, key: &Key, file: &[u8]) -> Result<Entry> {
    let invalid = |reason: String| Error::Entry { path: path.to_owned(), reason };
    let json = |e: serde_json::Error| invalid(e.to_string());
    check_size(file).map_err(invalid)?;
    let envelope: Envelope = serde_json::from_slice(file).map_err(json)?;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(invalid(format!("its payload is `{}`", envelope.payload_type.escape_debug())));
    }
    let payload = BASE64.decode(&envelope.payload).map_err(|e| invalid(e.to_string()))?;
    let Versioned { format } = serde_json::from_slice(&payload).map_err(json)?;
    match format {
        FORMAT => {}
        0 => return Err(invalid("there is no format 0".to_owned())),
        found => return Err(Error::Format { path: path.to_owned(), found }),
    }
    let manifest: Manifest = serde_json::from_slice(&payload).map_err(json)?;
    if manifest.key != *key {
        let (expected, found) = (format!("key {key}"), format!("key {}", manifest.key));
        return Err(Error::Damaged { path: path.to_owned(), expected, found });
    }
    manifest.check().map_err(invalid)?;
    Ok(Entry { manifest, signatures: envelope.signatures })
}

fn check_size(file: &[u8]) -> Result<(), String> {
    if file.len() as u64 > MAX_FILE { Err(format!("it is larger than {MAX_FILE} bytes")) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::{manifest, output};
    use crate::{Digest, Outcome};

    const KEY: Key = Key::from_bytes([7; 32]);

    fn envelope(payload_type: &str, payload: &[u8]) -> Vec<u8> {
        let envelope = Envelope {
            payload_type: payload_type.to_owned(),
            payload: BASE64.encode(payload),
            signatures: vec![Signature { keyid: "k".to_owned(), sig: "c2ln".to_owned() }],
        };
        serde_json::to_vec(&envelope).unwrap()
    }

    /// The file of a manifest that was changed as JSON, past all checks of the writer.
    fn forged(change: impl FnOnce(&mut serde_json::Value)) -> Vec<u8> {
        let mut json = serde_json::to_value(manifest(KEY)).unwrap();
        change(&mut json);
        envelope(PAYLOAD_TYPE, json.to_string().as_bytes())
    }

    fn check_refused(file: &[u8], expect: &str) {
        let error = decode(Path::new("e.json"), &KEY, file).unwrap_err().to_string();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn a_manifest_comes_back_as_it_went_in() {
        let mut failed = manifest(KEY);
        failed.outcome =
            Outcome::Failed { status: Some(2), command: "make".to_owned(), first_error: "x.c:1".to_owned() };
        for manifest in [manifest(KEY), failed] {
            let file = encode(&manifest).unwrap();
            let entry = decode(Path::new("e.json"), &KEY, &file).unwrap();
            assert_eq!(entry, Entry { manifest, signatures: vec![] });
        }
    }

    #[test]
    fn signatures_are_kept() {
        let entry = decode(Path::new("e.json"), &KEY, &forged(|_| ())).unwrap();
        assert_eq!(entry.signatures[0].keyid, "k");
    }

    #[test]
    fn every_truncation_is_refused() {
        let file = encode(&manifest(KEY)).unwrap();
        for length in 0..file.len() - 1 {
            assert!(decode(Path::new("e.json"), &KEY, &file[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn every_rule_of_the_envelope_is_checked() {
        check_refused(b"{}", "payloadType");
        check_refused(&envelope("text/plain", b"{}"), "its payload is `text/plain`");
        check_refused(&envelope(PAYLOAD_TYPE, b"{}"), "format");
        check_refused(&vec![b' '; MAX_FILE as usize + 1], "larger than 4194304 bytes");
        check_refused(&forged(|m| m["format"] = 2.into()), "has format 2");
        check_refused(&forged(|m| m["format"] = 0.into()), "no format 0");
        check_refused(&forged(|m| m["key"] = "1".repeat(64).into()), "found key 1111");
        check_refused(&forged(|m| m["outcome"] = "built".into()), "Outcome");
        let nested = ["{\"a\":".repeat(1000), "0".to_owned(), "}".repeat(1000)].concat();
        let json = serde_json::to_string(&manifest(KEY)).unwrap();
        let deep = json.replace("\"facts\":{}", &format!("\"facts\":{nested}"));
        check_refused(&envelope(PAYLOAD_TYPE, deep.as_bytes()), "recursion limit");
    }

    #[test]
    fn every_rule_of_the_manifest_is_checked_by_writer_and_reader() {
        let check = |names: &[&str], expect: &str| {
            let mut bad = manifest(KEY);
            bad.outputs = names.iter().map(|name| output(name, Digest::of(b""))).collect();
            let told = encode(&bad).unwrap_err();
            assert!(told.contains(expect), "{told}");
            let outputs = serde_json::to_value(&bad.outputs).unwrap();
            check_refused(&forged(|m| m["outputs"] = outputs), expect);
        };
        check(&["b", "a"], "`b` does not sort before `a`");
        check(&["a", "a"], "`a` does not sort before `a`");
        for name in ["", ".", "..", "a/b", "/a", "a b", "é", "a\0", "a\n"] {
            check(&[name], "is not a flat name");
        }
        check(&[&"a".repeat(129)], "is not a flat name");
        let many: Vec<String> = (0..4097).map(|n| format!("{n:04}")).collect();
        check(&many.iter().map(String::as_str).collect::<Vec<_>>(), "4097 outputs, more than 4096");
        let mut bad = manifest(KEY);
        bad.outputs[0].role = "a role".to_owned();
        assert!(encode(&bad).unwrap_err().contains("`a role` is not a flat name"));
    }
}
