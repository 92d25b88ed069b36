//! The labels by which the flow finds entries, under the names that the store has for them.

use std::collections::BTreeMap;

use kcache_store::Manifest;

/// The labels of one entry; missing ones are empty. The names are stored: add, never rename.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labels<'m> {
    /// Name of the package.
    pub package: &'m str,
    /// Version of the package.
    pub version: &'m str,
    /// Release of the kernel.
    pub kernel: &'m str,
    /// Build of the kernel, as `uname -v` prints it.
    pub kernel_version: &'m str,
    /// Architecture, as `uname -m` prints it.
    pub arch: &'m str,
    /// Tree digest of the package's source.
    pub source: &'m str,
    /// The digest of what was built, whatever with (`inputs/key.rs`); entries from before it was kept have none.
    pub kin: &'m str,
}

impl<'m> Labels<'m> {
    /// The labels of an entry.
    pub fn of(manifest: &'m Manifest) -> Labels<'m> {
        Labels::read(&manifest.labels)
    }

    /// The labels in the store's form.
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

    /// Converts them to the store's form.
    pub fn stored(&self) -> BTreeMap<String, String> {
        self.named().into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// `PACKAGE/VERSION`, for people.
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
