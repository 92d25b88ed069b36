//! Files that say of themselves whether they are as they were written, `generation.json` and `journal.json`, and lie there
//! twice.
//!
//! ```text
//! generation.json         { "format": 1, ..., "checksum": "<64 hex digits>" }
//! generation.json.copy    the same bytes
//! ```
//! The checksum is over what the file says, not over its bytes: who lays it out anew with `jq` does not damage it. Every name
//! and value is in it, those that only a later version knows among them, so that an earlier one can tell, too. It is the same in
//! every format to come: a digit that flips in `format` is told from a newer file. Files of before it have none and are believed.
//! It says nothing of who wrote the file.
//!
//! Where the file is damaged its copy is believed; the damage is told all the same by whoever verifies, and the next installation writes
//! both anew. A file of a newer format counts as it is. A journal is open as long as `journal.json` is there, be it damaged: its copy
//! alone says nothing.

use crate::bounded_read::{self, MOST_DATA};
use std::io;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, disk};

/// Stored: add, never rename.
const CHECKSUM: &str = "checksum";
/// The newest format of either file that this program reads, and the one it writes.
pub(super) const FORMAT: u32 = 1;

/// A kind of file: each has checksums of its own, so that none is taken for another.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// Stored: never change it.
    const CONTEXT: &'static str;
}

/// The text of a file.
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

/// Why a file is not understood.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    /// It is not as it was written, or not by us.
    #[error(transparent)]
    Damaged(#[from] serde_json::Error),
    /// It is whole and not for this program.
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

/// Reads the text of a file.
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
    // Looked at first: a newer format may lack the fields of this one.
    let Head { format } = Head::deserialize(&value)?;
    if format > FORMAT {
        return Err(Unreadable::Newer(format));
    }
    Ok(T::deserialize(value)?)
}

/// Where the second one of a file lies.
pub(super) fn copy(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".copy");
    name.into()
}

/// Reads a file; `None`: it is not there.
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

/// What kind of value it is, how long, and what is in it; names in order. Stored: never change it.
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

    fn told(value: &Value) -> String {
        decode::<Note>(value.to_string().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read_also_when_it_is_laid_out_anew() {
        assert_eq!(decode::<Note>(&encode(&note()).unwrap()).unwrap(), note());
        assert_eq!(decode::<Note>(value().to_string().as_bytes()).unwrap(), note());
    }

    #[test]
    fn what_is_changed_added_or_taken_away_is_noticed_and_files_without_checksum_are_believed() {
        for (at, to) in [("/text", "y".into()), ("/list/0", false.into()), ("/list", Value::Null)] {
            let mut value = value();
            *value.pointer_mut(at).unwrap() = to;
            assert_eq!(told(&value), "checksum mismatch", "{at}");
            value[CHECKSUM] = Value::Null;
            assert_eq!(told(&value), "checksum mismatch", "{at}");
        }
        let mut value = value();
        value["later"] = true.into();
        assert_eq!(told(&value), "checksum mismatch");
        value.as_object_mut().unwrap().remove(CHECKSUM);
        assert_eq!(decode::<Note>(value.to_string().as_bytes()).unwrap(), note());
    }

    #[test]
    fn a_newer_format_is_told_from_a_digit_that_flipped() {
        let newer = encode(&Note { format: 2, ..note() }).unwrap();
        let newer: Value = serde_json::from_slice(&newer).unwrap();
        assert_eq!(told(&newer), "format 2 is newer than this kcache supports (1)");
        let mut flipped = value();
        flipped["format"] = 2.into();
        assert_eq!(told(&flipped), "checksum mismatch");
    }

    #[test]
    fn two_values_never_give_the_same_checksum() {
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

/// A BLAKE3 hash as 64 hex digits.
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
