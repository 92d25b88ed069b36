//! The labels by which the flow finds entries, under the names that the store has for them.

use std::collections::BTreeMap;

use kcache_store::Manifest;

/// The labels of one entry; what an entry does not have is empty. The names are stored: add, never rename.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels<'m> {
    /// The package.
    pub package: &'m str,
    /// Its version.
    pub version: &'m str,
    /// The kernel's release.
    pub kernel: &'m str,
    /// Its `uname -v` text.
    pub kernel_version: &'m str,
    /// Its architecture, as `uname -m` has it.
    pub arch: &'m str,
    /// The tree digest of the package's source.
    pub source: &'m str,
    /// The digest of what was built, whatever with (`inputs/key.rs`); entries from before it was kept have none.
    pub kin: &'m str,
}

impl<'m> Labels<'m> {
    /// Of an entry.
    pub fn of(manifest: &'m Manifest) -> Labels<'m> {
        Labels::read(&manifest.labels)
    }

    /// As the store has them.
    pub fn read(stored: &'m BTreeMap<String, String>) -> Labels<'m> {
        let label = |name: &str| stored.get(name).map_or("", String::as_str);
        Labels {
            package: label("package"),
            version: label("version"),
            kernel: label("kernel"),
            kernel_version: label("kernel-version"),
            arch: label("arch"),
            source: label("source"),
            kin: label("kin"),
        }
    }

    /// Each with its name.
    pub fn named(&self) -> [(&'static str, &'m str); 7] {
        [
            ("package", self.package),
            ("version", self.version),
            ("kernel", self.kernel),
            ("kernel-version", self.kernel_version),
            ("arch", self.arch),
            ("source", self.source),
            ("kin", self.kin),
        ]
    }

    /// For the store.
    pub fn stored(&self) -> BTreeMap<String, String> {
        self.named().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// The package and its version, as people write them.
    pub fn what(&self) -> String {
        format!("{}/{}", self.package, self.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_again() {
        let labels = Labels {
            package: "p",
            version: "1",
            kernel: "k",
            kernel_version: "#1",
            arch: "a",
            source: "s",
            kin: "n",
        };
        assert_eq!(Labels::read(&labels.stored()), labels);
        assert_eq!(Labels::read(&BTreeMap::new()), Labels::default());
    }
}
