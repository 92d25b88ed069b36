//! `generation.json`: the set installed for one kernel, stored in that kernel's own tree.
//!
//! ```text
//! { "format": 1,
//!   "generation": "9f86d081884c7d65",         first 16 hex digits of the set's BLAKE3
//!   "kernel": "6.1.0-56-amd64",
//!   "kernel_version": "#1 SMP ...",           `uname -v` of the kernel the set was made for
//!   "compression": "xz",
//!   "signer": null | { "subject", "certificate", "hash" },
//!   "packages": [ { "name", "version", "key",
//!                   "modules": [ { "name", "path", "digest", "size", "installed_digest" } ] } ],
//!   "created": { "updates_dir", "indexes" },
//!   "index": "...",                           digest of the modules.dep.bin published with it
//!   "previous": { "kernel_version", "compression", "signer", "packages" } | null,
//!   "checksum": "..." }                       of all the above; see [`super::checked_json`]
//! ```
//!
//! It survives the loss of the cache, and is part of an image. `previous` is the complete set before this one, without
//! its own `previous`: enough to return one step, and of bounded size. Readers ignore unknown fields and refuse
//! unknown formats.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::checked_json::hex;
use super::checked_json::{self, Record, Unreadable};
use super::names::dir_name;
use super::tree::Tree;
use crate::compress::Compression;
use crate::module_name::ModuleName;
use crate::signing::Identity;

/// Name of the file in a generation's directory.
pub const FILE: &str = "generation.json";

/// Limit in bytes on names. They become file names on every file system and parts of lines, so only safe characters
/// are allowed.
const NAME_MAX: usize = 128;

/// A module as it was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModuleSpec {
    /// File name without `.ko`: `v4l2loopback`, `snd-hda-scodec-cs35l41`.
    pub name: String,
    /// BLAKE3 digest of the unsigned, uncompressed module, as in the store.
    #[serde(with = "hex")]
    pub digest: blake3::Hash,
    /// Size of these bytes.
    pub size: u64,
}

/// A package with the modules of its build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstalledPackage<M = ModuleSpec> {
    /// Name of the package; a generation contains one version of it.
    pub name: String,
    /// Version of the package.
    pub version: String,
    /// Key of the build, not interpreted here.
    pub key: String,
    /// The modules, sorted by name.
    pub modules: Vec<M>,
}

/// The complete set of modules to be installed for one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set<M = ModuleSpec> {
    /// The kernel's build, as `uname -v` prints it.
    pub kernel_version: String,
    /// Compression of the module files.
    pub compression: Compression,
    /// The signer of the modules; `None` if they are unsigned.
    pub signer: Option<Identity>,
    /// The packages, sorted by name.
    pub packages: Vec<InstalledPackage<M>>,
}

/// A module as it is installed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Installed {
    /// The module as it was built.
    #[serde(flatten)]
    pub spec: ModuleSpec,
    /// Path relative to the generation's directory: `v4l2loopback/v4l2loopback.ko.xz`.
    pub path: String,
    /// BLAKE3 digest of the file's bytes, signed and compressed.
    #[serde(with = "hex")]
    pub installed_digest: blake3::Hash,
}

/// What kcache created in the kernel's tree, to be deleted with the last package.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Created {
    /// Whether kcache created `updates/`.
    pub updates_dir: bool,
    /// Indexes (`modules.dep.bin`, ...) that did not exist before.
    pub indexes: Vec<String>,
}

/// A generation: the complete set of modules that kcache installed for one kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    /// Format of the file: 1.
    pub format: u32,
    /// Name of the generation: 16 hex digits, see [`Set::generation_name`].
    pub generation: String,
    /// Release of the kernel.
    pub kernel: String,
    /// The installed set.
    #[serde(flatten)]
    pub set: Set<Installed>,
    /// What did not exist before kcache.
    #[serde(default)]
    pub created: Created,
    /// BLAKE3 digest of the `modules.dep.bin` that was published with this generation.
    #[serde(with = "hex")]
    pub index: blake3::Hash,
    /// The set before this one, for `kcache rollback`.
    #[serde(default)]
    pub previous: Option<Set>,
}

impl Set {
    /// The empty set.
    pub(super) fn nothing() -> Self {
        Self {
            kernel_version: String::new(),
            compression: Default::default(),
            signer: None,
            packages: Vec::new(),
        }
    }

    /// Sorts packages and modules.
    ///
    /// # Errors
    ///
    /// [`Error::Name`], [`Error::SamePackage`] or [`Error::SameModule`] if the set cannot be installed.
    pub fn checked(mut self) -> Result<Self, Error> {
        self.packages.sort_by(|a, b| a.name.cmp(&b.name));
        let mut packages = BTreeSet::new();
        let mut modules = BTreeMap::new();
        for package in &mut self.packages {
            package.modules.sort_by(|a, b| a.name.cmp(&b.name));
            check_name(&package.name)?;
            if package.name.starts_with(FILE) {
                return Err(Error::Name { name: package.name.clone() }); // it and its copy are beside packages
            }
            if !packages.insert(package.name.clone()) {
                return Err(Error::SamePackage { package: package.name.clone() });
            }
            for module in &package.modules {
                check_name(&module.name)?;
                // The kernel calls `snd-pcm.ko` `snd_pcm`, so both spellings are one module.
                if let Some(other) = modules.insert(ModuleName::new(&module.name), package.name.clone()) {
                    return Err(Error::SameModule {
                        module: module.name.clone(),
                        package: package.name.clone(),
                        other,
                    });
                }
            }
        }
        Ok(self)
    }

    /// The name of the generation with this set: the first 16 hex digits of a BLAKE3 over everything in it except
    /// texts for people. Equal sets have equal names, so there is nothing to do.
    ///
    /// Each field is preceded by its length, so no two sets give the same bytes. Stored: never change the order.
    pub fn generation_name(&self) -> String {
        let mut hasher = blake3::Hasher::new_derive_key("kcache 2026-11 generation v1");
        let mut field = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(self.compression.extension().as_bytes());
        field(self.signer.as_ref().map(Identity::id).unwrap_or_default().as_bytes());
        for package in &self.packages {
            field(package.name.as_bytes());
            field(package.version.as_bytes());
            field(package.key.as_bytes());
            field(&(package.modules.len() as u64).to_le_bytes());
            for module in &package.modules {
                field(module.name.as_bytes());
                field(module.digest.as_bytes());
            }
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }
}

impl Generation {
    /// Name of the directory under `updates/`.
    pub fn dir_name(&self) -> String {
        dir_name(&self.generation)
    }

    /// The set as it was requested, from which the next one is made.
    pub fn wanted(&self) -> Set {
        self.set.map(|module| module.spec.clone())
    }

    /// Every module with its package.
    pub fn modules(&self) -> impl Iterator<Item = (&InstalledPackage<Installed>, &Installed)> {
        self.set
            .packages
            .iter()
            .flat_map(|package| package.modules.iter().map(move |module| (package, module)))
    }

    /// Path of a generation's `generation.json`.
    pub(super) fn path(tree: &Tree, dir: &str) -> PathBuf {
        tree.updates().join(dir).join(FILE)
    }

    /// Reads the generation in a directory of a tree, from the copy if `generation.json` is corrupt or missing. `None`
    /// if neither exists.
    pub(super) fn read(tree: &Tree, dir: &str) -> Result<Option<Self>, Error> {
        let path = Self::path(tree, dir);
        let read = Self::read_file(tree, dir, &path);
        match read {
            Ok(Some(_)) | Err(Error::Newer { .. }) => read,
            Ok(None) | Err(_) => match Self::read_file(tree, dir, &checked_json::copy(&path)) {
                Ok(Some(copy)) => Ok(Some(copy)),
                _ => read,
            },
        }
    }

    /// Reads `generation.json` or its copy.
    pub(super) fn read_file(tree: &Tree, dir: &str, path: &Path) -> Result<Option<Self>, Error> {
        checked_json::read(path, |bytes| {
            let generation = Self::parse(bytes)?;
            match generation.is_elsewhere(tree, dir) {
                Some(words) => Err(Unreadable::because(words)),
                None => Ok(generation),
            }
        })
    }

    /// Why an intact file does not belong here, if it does not.
    fn is_elsewhere(&self, tree: &Tree, dir: &str) -> Option<String> {
        if self.dir_name() != dir {
            return Some(format!("it belongs to {}", self.dir_name()));
        }
        (self.kernel != tree.release).then(|| format!("it belongs to kernel {}", self.kernel))
    }

    /// Parses a `generation.json`.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Unreadable> {
        let generation: Self = checked_json::decode(bytes)?;
        match generation.stray() {
            Some(name) => Err(Unreadable::because(format_args!("{name:?} points outside"))),
            None => Ok(generation),
        }
    }

    /// A name or path that would lead to files elsewhere, if any: the generation may be part of an untrusted image.
    fn stray(&self) -> Option<&str> {
        let modules = || self.modules().map(|(_, module)| module);
        let mut names = std::iter::once(&self.generation)
            .chain(self.set.packages.iter().map(|package| &package.name))
            .chain(modules().map(|module| &module.spec.name));
        let stray = names.find(|name| check_name(name).is_err());
        let stray = stray.or_else(|| self.created.indexes.iter().find(|name| !is_index(name)));
        stray
            .or_else(|| modules().map(|module| &module.path).find(|path| !is_inside(path)))
            .map(String::as_str)
    }
}

impl Record for Generation {
    const CONTEXT: &'static str = "kcache 2026-11 generation.json checksum v1";
}

impl<M> Set<M> {
    pub(super) fn map<N>(&self, module: impl Fn(&M) -> N) -> Set<N> {
        let package = |p: &InstalledPackage<M>| InstalledPackage {
            name: p.name.clone(),
            version: p.version.clone(),
            key: p.key.clone(),
            modules: p.modules.iter().map(&module).collect(),
        };
        Set {
            kernel_version: self.kernel_version.clone(),
            compression: self.compression,
            signer: self.signer.clone(),
            packages: self.packages.iter().map(package).collect(),
        }
    }
}

pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"._+-".contains(&c);
    let good = (1..=NAME_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(plain);
    if good { Ok(()) } else { Err(Error::Name { name: name.to_owned() }) }
}

/// Whether a name is that of one of kmod's indexes, such as `modules.dep.bin`.
pub(super) fn is_index(name: &str) -> bool {
    name.starts_with("modules.") && check_name(name).is_ok()
}

fn is_inside(path: &str) -> bool {
    use std::path::Component;
    !path.is_empty() && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::Hash;

    fn module(name: &str) -> ModuleSpec {
        ModuleSpec { name: name.into(), digest: blake3::hash(name.as_bytes()), size: 4 }
    }

    fn package(name: &str, modules: &[&str]) -> InstalledPackage {
        let modules = modules.iter().map(|m| module(m)).collect();
        InstalledPackage { name: name.into(), version: "1.0".into(), key: "k".into(), modules }
    }

    fn set(packages: Vec<InstalledPackage>) -> Set {
        Set { kernel_version: "#1 SMP".into(), compression: Compression::Xz, signer: None, packages }
    }

    fn signer(hash: Option<Hash>) -> Identity {
        Identity { subject: "CN=host".into(), certificate: "ab".repeat(32), hash }
    }

    fn generation() -> Generation {
        let set = set(vec![package("p", &["m"])]);
        Generation {
            format: checked_json::FORMAT,
            generation: set.generation_name(),
            kernel: "6.1".into(),
            set: set.map(|spec| Installed {
                spec: spec.clone(),
                path: "p/m.ko.xz".into(),
                installed_digest: blake3::hash(b"on disk"),
            }),
            created: Created::default(),
            index: blake3::hash(b"index"),
            previous: Some(set),
        }
    }

    #[test]
    fn the_name_depends_on_content_and_not_on_order() {
        let one = set(vec![package("a", &["x", "y"]), package("b", &["z"])]).checked().unwrap();
        let other = set(vec![package("b", &["z"]), package("a", &["y", "x"])]).checked().unwrap();
        assert_eq!(one.generation_name(), other.generation_name());
        assert_eq!(one.generation_name().len(), 16);
    }

    #[test]
    fn every_field_changes_the_name() {
        let base = || set(vec![package("a", &["x"]), package("b", &["y"])]);
        type Alter = fn(&mut Set);
        let changes: [(&str, Alter); 10] = [
            ("compression", |s| s.compression = Compression::Zst),
            ("signer", |s| s.signer = Some(signer(None))),
            ("signer's hash", |s| s.signer = Some(signer(Some(Hash::Sha256)))),
            ("package", |s| s.packages[0].name = "c".into()),
            ("version", |s| s.packages[0].version = "1.1".into()),
            ("key", |s| s.packages[0].key = "l".into()),
            ("module", |s| s.packages[0].modules[0].name = "w".into()),
            ("digest", |s| s.packages[0].modules[0].digest = blake3::hash(b"other")),
            ("fewer packages", |s| drop(s.packages.pop())),
            ("fewer modules", |s| drop(s.packages[1].modules.pop())),
        ];
        let mut names = BTreeSet::from([base().generation_name()]);
        for (what, change) in changes {
            let mut set = base();
            change(&mut set);
            assert!(names.insert(set.generation_name()), "{what}");
        }
    }

    #[test]
    fn conflicting_packages_and_modules_are_refused() {
        let check = |set: Set, expect: &str| assert_eq!(set.checked().unwrap_err().to_string(), expect);
        check(set(vec![package("a", &["x"]), package("a", &["y"])]), "package a was requested twice");
        check(
            set(vec![package("a", &["s-x"]), package("b", &["s_x"])]),
            "module s_x of package b is also built by a",
        );
        check(set(vec![package("../a", &[])]), "invalid package or module name \"../a\"");
        check(set(vec![package("a", &[".x"])]), "invalid package or module name \".x\"");
        check(set(vec![package("a", &[""])]), "invalid package or module name \"\"");
    }

    #[test]
    fn a_generation_is_read_back() {
        let text = checked_json::encode(&generation()).unwrap();
        assert_eq!(Generation::parse(&text).unwrap(), generation());
    }

    #[test]
    fn unknown_fields_are_ignored_and_newer_formats_refused() {
        let mut value = serde_json::to_value(generation()).unwrap();
        value["later"] = true.into();
        assert_eq!(Generation::parse(value.to_string().as_bytes()).unwrap(), generation());
        let error = Generation::parse(br#"{"format": 2}"#).unwrap_err().to_string();
        assert_eq!(error, "format 2 is newer than this kcache supports (1)");
    }

    #[test]
    fn paths_that_lead_outside_are_refused() {
        for path in ["../x.ko", "/etc/shadow", "p/../../x.ko", ""] {
            let mut value = serde_json::to_value(generation()).unwrap();
            value["packages"][0]["modules"][0]["path"] = path.into();
            assert!(Generation::parse(value.to_string().as_bytes()).is_err(), "{path}");
        }
    }

    #[test]
    fn names_that_lead_outside_are_refused() {
        let check = |field: &str, name: &str| {
            let mut value = serde_json::to_value(generation()).unwrap();
            *value.pointer_mut(field).unwrap() = name.into();
            assert!(Generation::parse(value.to_string().as_bytes()).is_err(), "{field} {name}");
        };
        for name in ["../x", "/etc", "a/b", "..", ""] {
            check("/generation", name);
            check("/packages/0/name", name);
            check("/packages/0/modules/0/name", name);
        }
        for name in ["/etc/modules.dep", "../modules.dep", "modules./../../x", "kernel"] {
            let mut value = serde_json::to_value(generation()).unwrap();
            value["created"]["indexes"] = vec!["modules.dep", name].into();
            assert!(Generation::parse(value.to_string().as_bytes()).is_err(), "{name}");
        }
    }
}
