//! What is kept under a key, as data: the manifest, and the rules each manifest obeys.
//!
//! A manifest says what was asked (key, labels, fields), what came of it (outcome, outputs), and what to compare
//! before it counts as an answer (observed). Here it is opaque: labels and fields are text, roles are names. Its
//! JSON is stored: add, never rename.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::envelope::MAX_WORDS;
use crate::{Digest, Key};

/// Outputs of one entry. The largest known set has some hundred; an entry of 4 MiB could hold no more than this
/// with names and digests anyway.
const MAX_OUTPUTS: usize = 4096;
/// Bytes of one output, uncompressed, and of all of one entry: ten times those of the largest modules known, unstripped.
/// Readers make room for what a manifest promises.
const MAX_OUTPUT: u64 = 1 << 30;
const MAX_SIZE: u64 = 4 << 30;

/// What an output is for. Stored by its word: add, never rename.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Role {
    /// The result itself.
    Module,
    /// What an entry can do without, such as debug information: it is fetched when somebody asks for it, not with its entry.
    Debug,
    /// What others need that are built against this.
    Kept,
    /// The log of the making, so two makings of the same outputs may differ in it.
    Log,
    /// What another version of kcache knows.
    Other(String),
}

impl Role {
    /// Its word.
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
    /// The key this answers.
    pub key: Key,
    /// What [`crate::Store::find`] finds it by.
    pub labels: BTreeMap<String, String>,
    /// What the key was made of, in its order, so that a miss can be explained field by field.
    pub fields: Vec<Field>,
    /// Whether there is a result, or a failure worth remembering.
    pub outcome: Outcome,
    /// The results, sorted by name.
    pub outputs: Vec<Output>,
    /// What was read beyond what the key is made of: an answer only where these are the same.
    #[serde(default)]
    pub observed: Vec<Observed>,
    /// What is worth knowing without opening the outputs.
    #[serde(default)]
    pub facts: serde_json::Map<String, serde_json::Value>,
    /// Who made it.
    pub builder: String,
    /// When, in seconds since 1970.
    pub created: u64,
}

/// One field of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name, e.g. `source`.
    pub name: String,
    /// What went into the key.
    pub value: String,
    /// The same for people, where the value is a digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum Outcome {
    /// The outputs are the result.
    Built,
    /// There is no result, and would not be one next time; the log is among the outputs.
    Failed {
        /// Exit status; none where a signal ended it, or where it succeeded without a result.
        status: Option<i32>,
        /// The command that failed.
        command: String,
        /// The first line of the log that says why.
        first_error: String,
    },
}

/// One result: an object of the store, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Flat name: 1 to 128 of `A-Z a-z 0-9 . _ + -`, and not a dot or two.
    pub name: String,
    /// What it is for: [`LOG`] or a word of the caller's; a flat name too.
    pub role: Role,
    /// Size in bytes of what the digest names, uncompressed.
    pub size: u64,
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
}

/// A file that was read although the key knows nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Where it was looked for.
    pub path: String,
    /// What it held; none where it was missing.
    pub digest: Option<Digest>,
}

impl Manifest {
    /// The outputs that must be there for the entry to be of use.
    pub(crate) fn needed(&self) -> impl Iterator<Item = &Output> {
        self.outputs.iter().filter(|output| output.role != Role::Debug)
    }

    /// Checks the rules that hold for every manifest; an error is the rule that is broken.
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

    /// Whether both say the same about their key, logs aside.
    pub(crate) fn agrees_with(&self, other: &Manifest) -> bool {
        let built = |m: &Manifest| m.outcome == Outcome::Built;
        let results = |m: &Manifest| -> Vec<(String, Digest)> {
            m.outputs.iter().filter(|o| o.role != Role::Log).map(|o| (o.name.clone(), o.digest)).collect()
        };
        built(self) == built(other) && results(self) == results(other)
    }

    /// Size in bytes of all outputs, uncompressed.
    pub(crate) fn size(&self) -> u64 {
        self.outputs.iter().fold(0, |sum, output| sum.saturating_add(output.size))
    }
}

/// Whether `name` can be one file's name anywhere: no separator, no dot directory, nothing to quote.
pub(crate) fn is_flat(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    (1..=128).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != ".."
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An output of role `data`.
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
    fn a_flat_name_is_any_short_plain_name() {
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
    fn two_manifests_agree_when_their_outputs_do_logs_aside() {
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
