//! The packages of a system: source trees with a recipe, found in the usual places or given by path.
//!
//! ```text
//! /usr/src/NAME-VERSION/dkms.conf        what distributions' -dkms packages install
//! /etc/kcache/packages.d/NAME.toml       a kcache.toml that names its source: source = "/opt/src/NAME"
//! /etc/kcache/packages.d/NAME/           a source tree, or a link to one
//! ```

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::bounded_read;
use crate::recipe::{self, dkms, kbuild, toml};
use crate::rootfs::Root;

/// Limit in bytes on a recipe. The longest real one, which lists its modules, has 40 KiB.
const MOST_RECIPE: u64 = 1 << 20;

/// Name of DKMS's recipe in a source tree.
const DKMS_CONF: &str = "dkms.conf";

/// A package: a source tree and its recipe.
#[derive(Clone, Debug)]
pub struct Package {
    /// Name of the package.
    pub name: String,
    /// Version of the package.
    pub version: String,
    /// Path of the source tree on this machine.
    pub source: PathBuf,
    /// The recipe's file.
    pub recipe: RecipeFile,
}

/// The location of a package's recipe.
#[derive(Clone, Debug)]
pub enum RecipeFile {
    /// `dkms.conf` in the source tree.
    Dkms,
    /// A parsed `kcache.toml`, with its path.
    Toml(PathBuf, Box<toml::TomlRecipe>),
    /// There is no recipe file: Makefiles lead to Kbuild.
    Kbuild,
    /// The package's source is not on this machine: it can only be installed from a build of another host.
    Elsewhere,
}

impl Package {
    /// A package of which only the name is known.
    pub fn elsewhere(name: &str) -> Package {
        Package {
            name: name.to_owned(),
            version: String::new(),
            source: PathBuf::new(),
            recipe: RecipeFile::Elsewhere,
        }
    }

    /// Whether its source is on this machine.
    pub fn has_source(&self) -> bool {
        !matches!(self.recipe, RecipeFile::Elsewhere)
    }
}

/// Prints `NAME/VERSION`.
impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.has_source() {
            true => write!(f, "{}/{}", self.name, self.version),
            false => f.write_str(&self.name),
        }
    }
}

/// Why a directory or recipe is not a package.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The recipe is invalid.
    #[error(transparent)]
    Recipe(#[from] recipe::Error),
    /// The directory has no recipe, and nothing in it leads to Kbuild.
    #[error("{} is not a package: it has no dkms.conf, no kcache.toml and no Makefile with obj-m", path.display())]
    NoRecipe {
        /// Path of the directory.
        path: PathBuf,
    },
    /// A directory below has a recipe.
    #[error("{} is not a package, but {} in it is", path.display(), below.display())]
    Below {
        /// Path of the directory.
        path: PathBuf,
        /// The package, relative to it.
        below: PathBuf,
    },
    /// Several directories have modules, and no Makefile leads to all of them.
    #[error("{} is not a package: several directories in it have modules: {}", path.display(), listed(parts))]
    Several {
        /// Path of the directory.
        path: PathBuf,
        /// The directories, relative to it.
        parts: Vec<PathBuf>,
    },
    /// A recipe outside a source tree does not name its source.
    #[error("{}: missing field `source` (the package's source directory)", path.display())]
    NoSource {
        /// Path of the recipe.
        path: PathBuf,
    },
    /// Neither the recipe nor the directory's name contains the package's name.
    #[error("{}: cannot determine name and version", path.display())]
    NoName {
        /// Path of the recipe.
        path: PathBuf,
    },
}

/// Some paths, and how many there are beside them.
fn listed(paths: &[PathBuf]) -> String {
    let shown: Vec<String> = paths.iter().take(5).map(|path| path.display().to_string()).collect();
    let more = paths.len().saturating_sub(shown.len());
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}

/// Every package of a system, sorted by name and version. Broken ones do not hide the others: their errors are
/// returned separately.
pub fn installed(root: &Root) -> io::Result<(Vec<Package>, Vec<Error>)> {
    let mut found = Vec::new();
    let mut broken = Vec::new();
    let mut keep = |package: Result<Package, Error>| match package {
        Ok(package) => found.push(package),
        Err(error) => broken.push(error),
    };
    for directory in children(root, "/usr/src")? {
        if directory.join("dkms.conf").exists() {
            keep(at_path(&directory));
        }
    }
    for path in children(root, "/etc/kcache/packages.d")? {
        // Resolves links inside the root.
        let Some(path) = root.inside(&path).and_then(|inside| root.find(inside)) else { continue };
        if path.is_dir() {
            keep(at_path(&path));
        } else if path.extension().is_some_and(|extension| extension == "toml") {
            keep(from_toml(root, &path));
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name).then_with(|| crate::release::compare(&a.version, &b.version)));
    Ok((found, broken))
}

fn children(root: &Root, inside: &str) -> io::Result<Vec<PathBuf>> {
    let Some(directory) = root.find(inside) else { return Ok(Vec::new()) };
    let mut paths =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Reads the package in a source directory.
///
/// # Errors
///
/// [`Error::NoRecipe`], [`Error::Below`] and [`Error::Several`] if the directory is not a package.
pub fn at_path(source: &Path) -> Result<Package, Error> {
    let own = source.join("kcache.toml");
    if !own.exists() {
        return without_toml(source);
    }
    let file = toml::parse(&own, &recipe_in(source, "kcache.toml")?)?;
    let (name, version) = (file.name.clone(), file.version.clone());
    Ok(Package { name, version, source: source.to_owned(), recipe: RecipeFile::Toml(own, Box::new(file)) })
}

/// Reads the package in a source directory, ignoring a `kcache.toml`.
pub fn without_toml(source: &Path) -> Result<Package, Error> {
    let conf = source.join(DKMS_CONF);
    let (from_dir, version_from_dir) = name_of_directory(source);
    let (name, version, recipe) = if conf.exists() {
        let (name, version) = dkms::literal_name(&recipe_in(source, DKMS_CONF)?);
        (name.or(from_dir), version.or(version_from_dir), RecipeFile::Dkms)
    } else if fs::metadata(source)?.is_dir() {
        let path = source.to_owned();
        match kbuild::find(source)? {
            Ok(_) => (from_dir, version_from_dir.or_else(|| Some("0".into())), RecipeFile::Kbuild),
            Err(kbuild::Lack::Nothing) => return Err(Error::NoRecipe { path }),
            Err(kbuild::Lack::Recipe(below)) => return Err(Error::Below { path, below }),
            Err(kbuild::Lack::Several(parts)) => return Err(Error::Several { path, parts }),
        }
    } else {
        return Err(io::Error::new(
            io::ErrorKind::NotADirectory,
            format!("{}: not a directory", source.display()),
        )
        .into());
    };
    match (name, version) {
        (Some(name), Some(version)) => Ok(Package { name, version, source: source.to_owned(), recipe }),
        _ => Err(Error::NoName { path: if conf.exists() { conf } else { source.to_owned() } }),
    }
}

/// The text of a recipe in a source tree. It may be a link to another file of the tree.
fn recipe_in(source: &Path, name: &str) -> Result<String, Error> {
    match bounded_read::bytes_in(source, Path::new(name), MOST_RECIPE)? {
        Some(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        None => {
            let reason = "a recipe is a regular file of the package itself, of at most 1 MiB".to_owned();
            Err(recipe::Error::Bad { path: source.join(name), reason }.into())
        }
    }
}

impl Package {
    /// Contents of its `dkms.conf`; empty if that is not a file of the package.
    pub fn dkms_conf(&self) -> io::Result<Vec<u8>> {
        Ok(bounded_read::bytes_in(&self.source, Path::new(DKMS_CONF), MOST_RECIPE)?.unwrap_or_default())
    }
}

/// The text of a recipe outside its source tree.
fn recipe_text(path: &Path) -> Result<String, Error> {
    let bad = || {
        let reason = "a recipe is a regular file of at most 1 MiB".to_owned();
        recipe::Error::Bad { path: path.to_owned(), reason }
    };
    Ok(bounded_read::text(path, MOST_RECIPE)?.ok_or_else(bad)?)
}

fn from_toml(root: &Root, path: &Path) -> Result<Package, Error> {
    let file = toml::parse(path, &recipe_text(path)?)?;
    let Some(source) = &file.source else { return Err(Error::NoSource { path: path.to_owned() }) };
    let source = root.outside(root.resolve(source)?);
    let (name, version) = (file.name.clone(), file.version.clone());
    Ok(Package { name, version, source, recipe: RecipeFile::Toml(path.to_owned(), Box::new(file)) })
}

/// Name and version from a directory called `NAME-VERSION`, as in DKMS's layout.
fn name_of_directory(source: &Path) -> (Option<String>, Option<String>) {
    let Some(base) = source.file_name().and_then(|name| name.to_str()) else { return (None, None) };
    let flat = |name: &str| recipe::is_flat_name(name).then(|| name.to_owned());
    let version_of = |text: &str| recipe::is_version(text).then(|| text.to_owned());
    match base.rsplit_once('-') {
        Some((name, version)) if version.starts_with(|c: char| c.is_ascii_digit()) => {
            (flat(name), version_of(version))
        }
        _ => (flat(base), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn packages_are_found_in_both_places_despite_a_broken_one() {
        let dir = tree(&[
            ("usr/src/b-2.0/dkms.conf", "PACKAGE_NAME=b\nPACKAGE_VERSION=2.0\n"),
            ("usr/src/linux-headers/Makefile", "obj-m := no.o\n"),
            ("etc/kcache/packages.d/a.toml", "name='a'\nversion='1'\nsource='/opt/a'\n"),
            ("etc/kcache/packages.d/c.toml", "name='c'\nversion='1'\n"),
            ("opt/a/Makefile", "obj-m := a.o\n"),
        ]);
        let (found, broken) = installed(&Root::new(dir.path())).unwrap();
        let names: Vec<_> = found.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert!(broken[0].to_string().contains("c.toml: missing field `source`"));
    }

    #[test]
    fn the_directory_name_replaces_a_computed_name() {
        let dir = tree(&[("my-mod-1.5/dkms.conf", "PACKAGE_NAME=$X\nPACKAGE_VERSION=$(cat V)\n")]);
        let package = at_path(&dir.path().join("my-mod-1.5")).unwrap();
        assert_eq!((package.name.as_str(), package.version.as_str()), ("my-mod", "1.5"));
    }

    #[test]
    fn a_directory_without_recipe_is_not_a_package() {
        let message = |files: &[(&str, &str)]| {
            let dir = tree(files);
            let at = dir.path().join("x");
            at_path(&at).unwrap_err().to_string().replace(&at.display().to_string(), "X")
        };
        assert!(message(&[("x/README", "")]).starts_with("X is not a package: it has no dkms.conf"));
        assert_eq!(message(&[("x/src/dkms.conf", "")]), "X is not a package, but src in it is");
        assert_eq!(
            message(&[("x/b/Makefile", "obj-m := b.o\n"), ("x/a/Kbuild", "obj-m := a.o\n")]),
            "X is not a package: several directories in it have modules: a, b"
        );
    }
}
