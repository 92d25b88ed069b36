//! The site file: what a builder says that the hosts of a site want.
//!
//! ```text
//! site.json    an envelope around {"format":1,"epoch":...,"packages":[...],"policy":[{"package":...,"kernel":...,"is":...}],"threshold":2}
//! ```
//! It is signed as an entry is, and changes as a pointer does: its epoch only increases, and a reader keeps the last one that it
//! accepted, in a file of the same name in its own store, and refuses an older one.
//!
//! It confers nothing beyond its content: names of packages, whose builds are verified as always, and whether a kernel is ready
//! without them. The threshold is a hint; a host's own setting counts.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::entry::Versioned;
use crate::envelope::in_words;
use crate::manifest::is_flat;
use crate::{Envelope, Error, FORMAT, Result, SigningKey};

/// Stored, and covered by the signature: add another, never change this one.
const PAYLOAD_TYPE: &str = "application/vnd.kcache.site.v1+json";
/// Size limit of the file in bytes.
pub(crate) const MAX_SITE: u64 = 64 << 10;
/// Most packages, and most rules: Debian has some hundred packages of modules.
const MOST: usize = 1024;
/// Longest pattern of a rule, in bytes.
const LONGEST: usize = 256;

/// A site file with its signatures.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    document: Document,
    envelope: Envelope,
}

/// The signed document. Its JSON is stored: add, never rename.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Document {
    format: u32,
    epoch: u64,
    #[serde(flatten)]
    contents: SiteContent,
}

/// What the hosts of a site want.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteContent {
    /// Names of packages.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Which of them are needed for which kernels; the last matching rule counts.
    #[serde(default)]
    pub policy: Vec<SiteRule>,
    /// Number of builders that sign each build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<u32>,
}

/// A rule of a site's policy. Both patterns are shell patterns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteRule {
    /// Pattern for names of packages.
    #[serde(default = "all")]
    pub package: String,
    /// Pattern for releases of kernels.
    #[serde(default = "all")]
    pub kernel: String,
    /// required, optional, ignore. Readers ignore rules with other words.
    pub is: String,
}

fn all() -> String {
    "*".to_owned()
}

impl SiteContent {
    /// Checks limits and names.
    ///
    /// # Errors
    ///
    /// What is wrong, in words that quote no more than a name.
    pub fn check(&self) -> std::result::Result<(), String> {
        if self.packages.len() > MOST || self.policy.len() > MOST {
            return Err(format!("more than {MOST} packages or rules"));
        }
        if let Some(name) = self.packages.iter().find(|name| !is_flat(name)) {
            let name: String = name.escape_debug().take(LONGEST).collect();
            return Err(format!("'{name}' is no name of a package"));
        }
        let is_plain = |text: &str| text.len() <= LONGEST && !text.chars().any(char::is_control);
        let plain =
            |rule: &SiteRule| [&rule.package, &rule.kernel, &rule.is].iter().all(|text| is_plain(text));
        if self.policy.iter().all(plain) { Ok(()) } else { Err("a rule that is too long".to_owned()) }
    }
}

impl Site {
    /// Makes a site file, signed with `key`.
    pub fn new(contents: SiteContent, epoch: u64, key: &SigningKey) -> Result<Site> {
        contents.check().map_err(|reason| Error::Entry { path: PathBuf::from("site.json"), reason })?;
        let document = Document { format: FORMAT, epoch, contents };
        let payload = serde_json::to_vec(&document).map_err(std::io::Error::other)?;
        let mut envelope = Envelope::new(PAYLOAD_TYPE, payload);
        envelope.sign(key);
        Ok(Site { document, envelope })
    }

    /// Parses a site file. `origin` is where the bytes came from, for messages. Signatures are not verified.
    ///
    /// # Errors
    ///
    /// [`Error::Entry`] if the file is no valid envelope of a site file, [`Error::Format`] if a newer kcache wrote it.
    pub fn parse(origin: &Path, file: &[u8]) -> Result<Site> {
        let invalid = |reason: String| Error::Entry { path: origin.to_owned(), reason };
        let envelope = Envelope::parse(file, PAYLOAD_TYPE).map_err(invalid)?;
        Versioned::check(envelope.payload(), origin)?;
        let document: Document =
            serde_json::from_slice(envelope.payload()).map_err(|e| invalid(in_words(&e)))?;
        document.contents.check().map_err(invalid)?;
        Ok(Site { document, envelope })
    }

    /// What the hosts want.
    pub fn contents(&self) -> &SiteContent {
        &self.document.contents
    }

    /// The version: it only increases. Builders use the time in seconds since 1970.
    pub fn epoch(&self) -> u64 {
        self.document.epoch
    }

    /// Adds a signature; false if the key already signed it.
    pub fn sign(&mut self, key: &SigningKey) -> bool {
        self.envelope.sign(key)
    }

    /// The signatures, and the bytes they cover.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Result<Vec<u8>> {
        self.envelope.encode().map_err(|reason| Error::Entry { path: PathBuf::from("site.json"), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::tests::builder;

    fn contents(packages: &[&str]) -> SiteContent {
        let rule = SiteRule { package: "zfs".to_owned(), kernel: all(), is: "required".to_owned() };
        SiteContent {
            packages: packages.iter().map(|&name| name.to_owned()).collect(),
            policy: vec![rule],
            threshold: Some(2),
        }
    }

    fn parse(file: &[u8]) -> Result<Site> {
        Site::parse(Path::new("site.json"), file)
    }

    #[test]
    fn a_site_file_is_read_back_unchanged() {
        let site = Site::new(contents(&["zfs", "v4l2loopback"]), 5, &builder(1)).unwrap();
        let again = parse(&site.encode().unwrap()).unwrap();
        assert_eq!((&again, again.epoch(), again.contents()), (&site, 5, site.contents()));
        // What a later version adds is no obstacle.
        let json = br#"{"format":1,"epoch":1,"packages":["a"],"later":true}"#;
        let file = Envelope::new(PAYLOAD_TYPE, json.to_vec()).encode().unwrap();
        assert_eq!(parse(&file).unwrap().contents().packages, ["a"]);
    }

    #[test]
    fn names_that_are_no_packages_and_too_much_of_anything_are_refused() {
        for name in ["", "..", "a/b", "a b", "@site", "\u{1b}[2J"] {
            assert!(Site::new(contents(&[name]), 1, &builder(1)).is_err(), "{name:?}");
        }
        let many = SiteContent { packages: vec!["a".to_owned(); MOST + 1], ..SiteContent::default() };
        assert!(Site::new(many, 1, &builder(1)).is_err());
        let mut long = contents(&[]);
        long.policy[0].kernel = "6".repeat(LONGEST + 1);
        assert!(Site::new(long, 1, &builder(1)).is_err());
    }

    #[test]
    fn every_truncation_and_a_pointer_are_refused() {
        let file = Site::new(contents(&["zfs"]), 5, &builder(1)).unwrap().encode().unwrap();
        for length in 0..file.len() - 1 {
            assert!(parse(&file[..length]).is_err(), "{length} bytes");
        }
        let name = crate::pointer::tests::name("a");
        let pointer = crate::Pointer::new(&name, crate::Key::from_bytes([7; 32]), 5, &builder(1)).unwrap();
        assert!(parse(&pointer.encode().unwrap()).unwrap_err().to_string().contains("payload type"));
    }
}
