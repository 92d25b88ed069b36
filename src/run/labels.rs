//! Labels of entries in the store, with the names that the flow uses.

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
        }
    }

    /// Names and values.
    pub fn named(&self) -> [(&'static str, &'m str); 6] {
        [
            ("package", self.package),
            ("version", self.version),
            ("kernel", self.kernel),
            ("kernel-version", self.kernel_version),
            ("arch", self.arch),
            ("source", self.source),
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
    fn labels_are_read_back() {
        let labels =
            Labels { package: "p", version: "1", kernel: "k", kernel_version: "#1", arch: "a", source: "s" };
        assert_eq!(Labels::read(&labels.stored()), labels);
        assert_eq!(Labels::read(&BTreeMap::new()), Labels::default());
    }
}
