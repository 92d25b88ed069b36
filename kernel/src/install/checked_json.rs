//! JSON files with a checksum and a copy: `generation.json` and `journal.json`.
//!
//! ```text
//! generation.json         { "format": 1, ..., "checksum": "<64 hex digits>" }
//! generation.json.copy    the same bytes
//! ```
//! The checksum is over the values, not the bytes, so reformatting with `jq` does not invalidate it. It includes every
//! name and value, also those that only a later version knows, so earlier versions can check it. It is computed in the
//! same way for all future formats, so a flipped digit in `format` is distinguished from a newer file. Files written
//! before the checksum was introduced have none and are accepted. It proves nothing about who wrote the file.
//!
//! If the file is corrupt, its copy is used; `verify` reports the corruption nevertheless, and the next installation
//! writes both again. A file of a newer format is not replaced by its copy. A journal is open as long as
//! `journal.json` exists, even if corrupt: its copy alone means nothing.

use crate::bounded_read::{self, MOST_DATA};
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, disk};

/// Field of the checksum. Stored: add, never rename.
const CHECKSUM: &str = "checksum";
/// The newest format of either file that this program reads, and the one it writes.
pub(super) const FORMAT: u32 = 1;

/// A kind of file. Each has its own checksum context, so that one cannot be mistaken for another.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// BLAKE3 context. Stored: never change it.
    const CONTEXT: &'static str;
}

/// Encodes a record with its checksum.
pub(super) fn encode<T: Record>(record: &T) -> io::Result<Vec<u8>> {
    #[derive(Serialize)]
    struct Sealed<'a, T> {
        #[serde(flatten)]
        record: &'a T,
        #[serde(with = "hex")]
        checksum: blake3::Hash,
    }
    let checksum = checksum::<T>(&serde_json::to_value(record)?);
    Ok(serde_json::to_vec_pretty(&Sealed { record, checksum })?)
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// It is corrupt, or not written by kcache.
    #[error(transparent)]
    Damaged(#[from] serde_json::Error),
    /// It is intact, but of a newer format.
    #[error("format {0} is newer than this kcache supports ({FORMAT})")]
    Newer(u32),
}

impl Unreadable {
    pub(super) fn because(words: impl std::fmt::Display) -> Self {
        Unreadable::Damaged(serde_json::Error::custom(words))
    }

    pub(super) fn at(self, path: &Path) -> Error {
        let path = path.to_owned();
        match self {
            Unreadable::Damaged(source) => Error::Damaged { path, source },
            Unreadable::Newer(found) => Error::Newer { path, found, known: FORMAT },
        }
    }
}

/// Parses a file's bytes and verifies the checksum.
pub(super) fn decode<T: Record>(bytes: &[u8]) -> Result<T, Unreadable> {
    let mut value: Value = serde_json::from_slice(bytes)?;
    let stored = value.as_object_mut().and_then(|fields| fields.remove(CHECKSUM));
    if stored.is_some_and(|stored| stored != checksum::<T>(&value).to_hex().as_str()) {
        return Err(Unreadable::because("checksum mismatch"));
    }
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    // Checked first, because a newer format may lack fields of this one.
    let Head { format } = Head::deserialize(&value)?;
    if format > FORMAT {
        return Err(Unreadable::Newer(format));
    }
    Ok(T::deserialize(value)?)
}

/// Path of a file's copy.
pub(super) fn copy(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".copy");
    name.into()
}

/// Reads a file; `None` if it does not exist.
pub(super) fn read<T>(
    path: &Path,
    decode: impl Fn(&[u8]) -> Result<T, Unreadable>,
) -> Result<Option<T>, Error> {
    let Some(bytes) = disk::if_found(bounded_read::bytes(path, MOST_DATA))? else { return Ok(None) };
    decode(&bytes).map(Some).map_err(|unreadable| unreadable.at(path))
}

fn checksum<T: Record>(value: &Value) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_derive_key(T::CONTEXT);
    add(&mut hasher, value);
    hasher.finalize()
}

/// Hashes a value: its type, length and content, with names in order. Stored: never change it.
fn add(hasher: &mut blake3::Hasher, value: &Value) {
    let mut part = |kind: u8, length: usize, bytes: &[u8]| {
        hasher.update(&[kind]);
        hasher.update(&(length as u64).to_le_bytes());
        hasher.update(bytes);
    };
    match value {
        Value::Null => part(b'n', 0, b""),
        Value::Bool(bool) => part(b'b', 1, &[u8::from(*bool)]),
        Value::Number(number) => {
            let text = number.to_string();
            part(b'#', text.len(), text.as_bytes());
        }
        Value::String(text) => part(b's', text.len(), text.as_bytes()),
        Value::Array(values) => {
            part(b'[', values.len(), b"");
            values.iter().for_each(|value| add(hasher, value));
        }
        Value::Object(fields) => {
            part(b'{', fields.len(), b"");
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            for (name, value) in fields {
                add(hasher, &Value::String(name.clone()));
                add(hasher, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Note {
        format: u32,
        text: String,
        list: Vec<Option<bool>>,
    }

    impl Record for Note {
        const CONTEXT: &'static str = "kcache 2026-11 test of records v1";
    }

    fn note() -> Note {
        Note { format: 1, text: "x".into(), list: vec![None, Some(true)] }
    }

    fn value() -> Value {
        serde_json::from_slice(&encode(&note()).unwrap()).unwrap()
    }

    fn described(value: &Value) -> String {
        decode::<Note>(value.to_string().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn records_are_read_back_even_if_reformatted() {
        assert_eq!(decode::<Note>(&encode(&note()).unwrap()).unwrap(), note());
        assert_eq!(decode::<Note>(value().to_string().as_bytes()).unwrap(), note());
    }

    #[test]
    fn changes_are_detected_and_files_without_checksum_accepted() {
        for (at, to) in [("/text", "y".into()), ("/list/0", false.into()), ("/list", Value::Null)] {
            let mut value = value();
            *value.pointer_mut(at).unwrap() = to;
            assert_eq!(described(&value), "checksum mismatch", "{at}");
            value[CHECKSUM] = Value::Null;
            assert_eq!(described(&value), "checksum mismatch", "{at}");
        }
        let mut value = value();
        value["later"] = true.into();
        assert_eq!(described(&value), "checksum mismatch");
        value.as_object_mut().unwrap().remove(CHECKSUM);
        assert_eq!(decode::<Note>(value.to_string().as_bytes()).unwrap(), note());
    }

    #[test]
    fn a_newer_format_is_distinguished_from_a_flipped_digit() {
        let newer = encode(&Note { format: 2, ..note() }).unwrap();
        let newer: Value = serde_json::from_slice(&newer).unwrap();
        assert_eq!(described(&newer), "format 2 is newer than this kcache supports (1)");
        let mut flipped = value();
        flipped["format"] = 2.into();
        assert_eq!(described(&flipped), "checksum mismatch");
    }

    #[test]
    fn different_values_have_different_checksums() {
        let texts = [
            "null",
            "false",
            "0",
            "\"\"",
            "\"0\"",
            "[]",
            "[[]]",
            "[null]",
            "{}",
            "{\"a\":null}",
            "{\"a\":\"b\"}",
            "[\"a\",\"b\"]",
        ];
        let sums = texts.map(|text| *checksum::<Note>(&serde_json::from_str(text).unwrap()).as_bytes());
        assert_eq!(std::collections::BTreeSet::from(sums).len(), texts.len());
    }
}

/// Serializes a BLAKE3 hash as 64 hexadecimal digits.
pub(super) mod hex {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(in crate::install) fn serialize<S: Serializer>(
        hash: &blake3::Hash,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        hash.to_hex().as_str().serialize(to)
    }

    pub(in crate::install) fn deserialize<'a, D: Deserializer<'a>>(
        from: D,
    ) -> Result<blake3::Hash, D::Error> {
        blake3::Hash::from_hex(String::deserialize(from)?).map_err(D::Error::custom)
    }
}
