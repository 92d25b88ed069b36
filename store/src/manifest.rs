//! Manifests: the documents inside entries, and the rules that each obeys.
//!
//! A manifest contains what was asked (key, labels, fields), the result (outcome, outputs), and what to compare before
//! it is used (observed). This crate does not interpret it: labels and fields are text, roles are names. Its JSON is
//! stored: add, never rename.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::envelope::MAX_WORDS;
use crate::{Digest, Key};

/// Limit on outputs of one entry. The largest known set has some hundred; 4 MiB of JSON could not contain more than
/// this anyway.
const MAX_OUTPUTS: usize = 4096;
/// Limit in bytes on one output, uncompressed, and on all outputs of one entry: ten times the largest known modules,
/// unstripped. Readers allocate as much as a manifest says.
const MAX_OUTPUT: u64 = 1 << 30;
const MAX_SIZE: u64 = 4 << 30;

/// The purpose of an output. Stored by its name: add, never rename.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Role {
    /// The result itself: a module.
    Module,
    /// Optional data such as debug information, fetched on demand and not with its entry.
    Debug,
    /// Files that packages built against this one need.
    Kept,
    /// The build's log. It may differ between equal builds.
    Log,
    /// A role of another version of kcache.
    Other(String),
}

impl Role {
    /// The stored name.
    pub fn as_str(&self) -> &str {
        match self {
            Role::Module => "module",
            Role::Debug => "debug",
            Role::Kept => "kept",
            Role::Log => "log",
            Role::Other(word) => word,
        }
    }
}

impl From<String> for Role {
    fn from(word: String) -> Role {
        let known = [Role::Module, Role::Debug, Role::Kept, Role::Log];
        known.into_iter().find(|role| role.as_str() == word).unwrap_or(Role::Other(word))
    }
}

impl From<Role> for String {
    fn from(role: Role) -> String {
        role.as_str().to_owned()
    }
}

/// Everything known about one key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format: [`crate::FORMAT`].
    pub format: u32,
    /// The key of the build.
    pub key: Key,
    /// Labels for [`crate::Store::find`].
    pub labels: BTreeMap<String, String>,
    /// The inputs of the key, in its order, to explain a miss field by field.
    pub fields: Vec<Field>,
    /// Whether this is a build, or a failure to remember.
    pub outcome: Outcome,
    /// The results, sorted by name.
    pub outputs: Vec<Output>,
    /// Undeclared inputs: the entry may be used only where these files are equal.
    #[serde(default)]
    pub observed: Vec<Observed>,
    /// The caller's summary of the outputs.
    #[serde(default)]
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// The building host's name for itself.
    pub builder: String,
    /// When it was built, in seconds since 1970.
    pub created: u64,
}

/// One input of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// The field's name, such as `source`.
    pub name: String,
    /// The value that was hashed into the key.
    pub value: String,
    /// A readable form, if the value is a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The result of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Outcome {
    /// The build succeeded; the outputs are its result.
    Built,
    /// The build failed, and would fail again; the log is among the outputs.
    Failed {
        /// Exit status; `None` if a signal killed the command, or if it succeeded without producing a result.
        status: Option<i32>,
        /// The command that failed.
        command: String,
        /// The first line of the log that states the cause.
        first_error: String,
    },
}

/// A file that a build produced: an object in the store, with its name and role.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// File name without directories: 1 to 128 of `A-Z a-z 0-9 . _ + -`, and not `.` or `..`.
    pub name: String,
    /// The purpose of the file.
    pub role: Role,
    /// Size in bytes of the uncompressed object.
    pub size: u64,
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
}

/// An undeclared input: a file outside the declared inputs that the build read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Absolute path at which the build looked for it.
    pub path: String,
    /// Digest of its bytes; `None` if it did not exist.
    pub digest: Option<Digest>,
}

impl Manifest {
    /// The outputs whose objects must exist for the entry to be usable.
    pub(crate) fn needed(&self) -> impl Iterator<Item = &Output> {
        self.outputs.iter().filter(|output| output.role != Role::Debug)
    }

    /// Checks the rules that hold for every manifest. An error says which one is broken.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.outputs.len() > MAX_OUTPUTS {
            return Err(format!("{} outputs, more than {MAX_OUTPUTS}", self.outputs.len()));
        }
        for output in &self.outputs {
            for name in [output.name.as_str(), output.role.as_str()] {
                if !is_flat(name) {
                    let name: String = name.escape_debug().take(MAX_WORDS).collect();
                    return Err(format!("invalid name `{name}`"));
                }
            }
        }
        if self.outputs.iter().any(|output| output.size > MAX_OUTPUT) || self.size() > MAX_SIZE {
            return Err(format!("outputs are larger than {MAX_OUTPUT} bytes, or {MAX_SIZE} together"));
        }
        if i64::try_from(self.created).is_err() {
            return Err(format!("created at {}, which is no time", self.created));
        }
        let mut sizes = BTreeMap::new();
        let other = |output: &&Output| *sizes.entry(output.digest).or_insert(output.size) != output.size;
        if let Some(output) = self.outputs.iter().find(other) {
            return Err(format!("two sizes for the object of output `{}`", output.name));
        }
        match self.outputs.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            Some(pair) => Err(format!("output `{}` does not sort before `{}`", pair[0].name, pair[1].name)),
            None => Ok(()),
        }
    }

    /// Whether both have the same outcome and outputs, not counting logs.
    pub(crate) fn agrees_with(&self, other: &Manifest) -> bool {
        let built = |m: &Manifest| m.outcome == Outcome::Built;
        let results = |m: &Manifest| -> Vec<(String, Digest)> {
            m.outputs.iter().filter(|o| o.role != Role::Log).map(|o| (o.name.clone(), o.digest)).collect()
        };
        built(self) == built(other) && results(self) == results(other)
    }

    /// Whether both say the same: all but who built it and when, how long that took, and the log.
    pub(crate) fn says_the_same_as(&self, other: &Manifest) -> bool {
        let outputs = |m: &Manifest| -> Vec<Output> {
            m.outputs.iter().filter(|output| output.role != Role::Log).cloned().collect()
        };
        let facts = |m: &Manifest| {
            let mut facts = m.facts.clone();
            facts.remove("seconds");
            facts
        };
        let said = |m: &Manifest| {
            (m.format, m.key, m.labels.clone(), m.fields.clone(), m.outcome.clone(), m.observed.clone())
        };
        said(self) == said(other) && outputs(self) == outputs(other) && facts(self) == facts(other)
    }

    /// Size in bytes of all outputs, uncompressed.
    pub(crate) fn size(&self) -> u64 {
        self.outputs.iter().fold(0, |sum, output| sum.saturating_add(output.size))
    }
}

/// Whether `name` is a valid file name: no separators, no `.` or `..`, nothing that needs quoting.
pub(crate) fn is_flat(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    (1..=128).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != ".."
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An output for tests.
    pub(crate) fn output(name: &str, digest: Digest) -> Output {
        Output { name: name.to_owned(), role: Role::Module, size: 3, digest }
    }

    /// A small manifest with one output.
    pub(crate) fn manifest(key: Key) -> Manifest {
        Manifest {
            format: crate::FORMAT,
            key,
            labels: BTreeMap::from([("colour".to_owned(), "red".to_owned())]),
            fields: vec![Field { name: "source".to_owned(), value: "1".to_owned(), note: None }],
            outcome: Outcome::Built,
            outputs: vec![output("a", Digest::of(b"abc"))],
            observed: vec![Observed { path: "/etc/x".to_owned(), digest: None }],
            facts: serde_json::Map::new(),
            builder: "test".to_owned(),
            created: 1_000_000,
        }
    }

    #[test]
    fn flat_names_are_short_and_plain() {
        for name in ["a", "8188eu.ko", "libc++_x-1.2", ".hidden", "...", &"a".repeat(128)] {
            assert!(is_flat(name), "{name}");
        }
    }

    #[test]
    fn an_object_has_one_size_and_an_entry_a_time_that_the_index_can_hold() {
        let key = Key::from_bytes([1; 32]);
        let two =
            |size| vec![output("a", Digest::of(b"abc")), Output { size, ..output("b", Digest::of(b"abc")) }];
        let check = |outputs, created| Manifest { outputs, created, ..manifest(key) }.check();
        assert_eq!(check(two(3), i64::MAX as u64), Ok(()));
        assert!(check(two(4), 1).unwrap_err().contains("two sizes for the object of output `b`"));
        assert!(check(two(3), u64::MAX).unwrap_err().contains("no time"));
    }

    #[test]
    fn manifests_agree_if_their_outputs_do_except_for_logs() {
        let key = Key::from_bytes([1; 32]);
        let log = |text: &[u8]| Output { role: Role::Log, ..output("log", Digest::of(text)) };
        let with = |outputs: Vec<Output>| Manifest { outputs, created: 2_000_000, ..manifest(key) };
        let one = with(vec![output("a", Digest::of(b"1")), log(b"x")]);
        assert!(one.agrees_with(&with(vec![output("a", Digest::of(b"1")), log(b"y")])));
        assert!(!one.agrees_with(&with(vec![output("a", Digest::of(b"2")), log(b"x")])));
        assert!(!one.agrees_with(&with(vec![output("b", Digest::of(b"1")), log(b"x")])));
        let failed = Outcome::Failed { status: None, command: String::new(), first_error: String::new() };
        assert!(!one.agrees_with(&Manifest { outcome: failed, ..one.clone() }));
    }
}
