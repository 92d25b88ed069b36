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

/// Names of directories that say nothing of the package in them.
const OF_PARTS: [&str; 12] = [
    "driver",
    "drivers",
    "kbuild",
    "kernel",
    "kernel-module",
    "kernel_module",
    "kmod",
    "linux",
    "module",
    "modules",
    "source",
    "src",
];

/// The version of a package that names none.
pub(crate) const NO_VERSION: &str = "0";

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
    /// Name and version in its `dkms.conf`, where those are others: DKMS knows a package by its directory.
    pub declared: Option<(String, String)>,
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
            declared: None,
        }
    }

    /// The same package under the name and version that DKMS was told, which its `dkms.conf` need not have.
    pub fn called(self, name: &str, version: &str) -> Package {
        let declared = (self.name.clone(), self.version.clone());
        let is_other = declared.0 != name || declared.1 != version;
        let declared = if is_other { Some(declared) } else { self.declared };
        Package { name: name.to_owned(), version: version.to_owned(), declared, ..self }
    }

    /// Whether it goes by this name, and this version if one is given: its own, or those of its `dkms.conf`.
    pub fn is_called(&self, name: &str, version: Option<&str>) -> bool {
        let is = |own: &str, own_version: &str| {
            own == name && version.is_none_or(|version| version == own_version)
        };
        is(&self.name, &self.version)
            || self.declared.as_ref().is_some_and(|(name, version)| is(name, version))
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
    /// The recipe still has a placeholder that the package's own installation replaces.
    #[error("{}:{line}: {directive} is still the placeholder '{value}'; {instead}", path.display())]
    Placeholder {
        /// Path of the recipe.
        path: PathBuf,
        /// The number of the line.
        line: usize,
        /// `PACKAGE_NAME` or `PACKAGE_VERSION`.
        directive: &'static str,
        /// What is assigned.
        value: String,
        /// What replaces it.
        instead: String,
        /// Whether the version alone is one, so that a directory called `NAME-VERSION` builds.
        is_alone: bool,
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
    for (place, source) in places(root)? {
        if source.join("dkms.conf").symlink_metadata().is_ok() {
            keep(in_place(&place, &source));
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

/// The directories of `/usr/src` with what they lead to, their links resolved inside the root. Of several names of one
/// directory there, its own counts.
fn places(root: &Root) -> io::Result<Vec<(PathBuf, PathBuf)>> {
    let resolved = |place: PathBuf| {
        let source = root.inside(&place).and_then(|inside| root.find(inside))?;
        Some((place, source))
    };
    let mut found: Vec<_> = children(root, "/usr/src")?.into_iter().filter_map(resolved).collect();
    let own: Vec<PathBuf> =
        found.iter().filter(|(place, source)| place == source).map(|(place, _)| place.clone()).collect();
    found.retain(|(place, source)| place == source || !own.contains(source));
    Ok(found)
}

fn children(root: &Root, inside: &str) -> io::Result<Vec<PathBuf>> {
    let Some(directory) = root.find(inside) else { return Ok(Vec::new()) };
    let mut paths =
        fs::read_dir(directory)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Reads the package in a directory of `/usr/src`, which may be a link to `source`. DKMS knows it by the directory,
/// `NAME-VERSION`, whatever its file says.
fn in_place(place: &Path, source: &Path) -> Result<Package, Error> {
    let is_dkms = !is_there(&source.join("kcache.toml"));
    let names = is_dkms.then(|| names_in_place(place, source)).transpose()?.flatten();
    in_place_as(source, names)
}

fn in_place_as(source: &Path, names: Option<(String, String)>) -> Result<Package, Error> {
    match (at_path(source), names) {
        (Ok(package), Some((name, version))) => Ok(package.called(&name, &version)),
        (Err(Error::NoName { .. } | Error::Placeholder { .. }), Some((name, version))) => {
            Ok(Package { name, version, source: source.to_owned(), recipe: RecipeFile::Dkms, declared: None })
        }
        (package, _) => package,
    }
}

/// Reads the package in a source directory that DKMS was told to be of this name and version.
///
/// # Errors
///
/// [`Error::NoRecipe`] if the directory is not a package.
pub fn called(source: &Path, name: &str, version: &str) -> Result<Package, Error> {
    in_place_as(source, Some((name.to_owned(), version.to_owned())))
}

/// Reads the package in a source directory.
///
/// # Errors
///
/// [`Error::NoRecipe`], [`Error::Below`] and [`Error::Several`] if the directory is not a package.
pub fn at_path(source: &Path) -> Result<Package, Error> {
    let own = source.join("kcache.toml");
    if !is_there(&own) {
        return without_toml(source);
    }
    let file = toml::parse(&own, &recipe_in(source, "kcache.toml")?)?;
    let (name, version) = (file.name.clone(), file.version.clone());
    let recipe = RecipeFile::Toml(own, Box::new(file));
    Ok(Package { name, version, source: source.to_owned(), recipe, declared: None })
}

/// Reads the package in a source directory, ignoring a `kcache.toml`.
pub fn without_toml(source: &Path) -> Result<Package, Error> {
    let conf = source.join(DKMS_CONF);
    let (from_dir, version_from_dir) = name_of_directory(source);
    let (name, version, recipe) = if is_there(&conf) {
        let text = recipe_in(source, DKMS_CONF)?;
        // A directory that is not called after a version does not say what is to be in its place.
        if let Some(found) = placeholder(source, &text).filter(|_| version_from_dir.is_none()) {
            return Err(found);
        }
        let (name, version) = dkms::name_in(source, &text);
        // Where only bash can tell the version, it is not needed to build.
        let version = version.or(version_from_dir).or_else(|| Some(NO_VERSION.to_owned()));
        (name.or(from_dir), version, RecipeFile::Dkms)
    } else if fs::metadata(source)?.is_dir() {
        let path = source.to_owned();
        match kbuild::find(source)? {
            Ok(_) => (from_dir, version_from_dir.or_else(|| Some(NO_VERSION.to_owned())), RecipeFile::Kbuild),
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
        (Some(name), Some(version)) => {
            Ok(Package { name, version, source: source.to_owned(), recipe, declared: None })
        }
        _ if is_there(&conf) => Err(Error::NoName { path: conf }),
        _ => Err(Error::NoName { path: source.to_owned() }),
    }
}

/// A placeholder such as `#MODULE_VERSION#`, `@PKGVER@` or `__VERSION__`, assigned as a name or version.
fn placeholder(source: &Path, conf: &str) -> Option<Error> {
    let mut lines = conf.lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
    lines.find_map(|(line, text)| {
        let (directive, value) = ["PACKAGE_NAME", "PACKAGE_VERSION"]
            .iter()
            .find_map(|directive| Some((*directive, text.strip_prefix(directive)?.strip_prefix('=')?)))?;
        let value = value.split(" #").next()?.trim().trim_matches(['"', '\'']);
        let marks = [("#", "#"), ("@", "@"), ("%{", "}"), ("%", "%"), ("{", "}"), ("<", ">"), ("__", "__")];
        let is_closed = marks.iter().any(|(open, close)| {
            let within = value.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
            within.is_some_and(|within| !within.is_empty())
        });
        is_closed.then(|| Error::Placeholder {
            path: source.join(DKMS_CONF),
            line,
            directive,
            value: value.to_owned(),
            instead: instead_of(source, value),
            is_alone: directive == "PACKAGE_VERSION" && !has_other_placeholder(conf, value),
        })
    })
}

/// Whether a file has another placeholder such as `@CFLAGS@` or `#NAME#`.
fn has_other_placeholder(conf: &str, known: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_uppercase() || c == '_' || c.is_ascii_digit())
    };
    let rest = conf.replace(known, "");
    ['@', '#', '%'].iter().any(|mark| {
        let parts: Vec<&str> = rest.split(*mark).collect();
        parts.len() > 2 && parts[1..parts.len() - 1].iter().any(|part| is_word(part))
    })
}

/// What replaces a placeholder: the package's own installation for DKMS, as far as it can be told, else sed(1).
fn instead_of(source: &Path, value: &str) -> String {
    let script = ["dkms-install.sh", "dkms_install.sh", "install-dkms.sh", "install.sh"]
        .iter()
        .find(|name| source.join(name).is_file());
    if let Some(script) = script {
        return format!("the package's ./{script} replaces it");
    }
    let makefile = recipe_in(source, "Makefile").unwrap_or_default();
    let is_target = |line: &str| {
        let (target, _) = line.split_once(':')?;
        let plain = target.replace(['_', '-'], "");
        ["dkmsinstall", "installdkms", "dkms", "dkmsadd"].contains(&plain.as_str()).then(|| target.to_owned())
    };
    match makefile.lines().find_map(is_target) {
        Some(target) => format!("the package's `make {target}` replaces it"),
        None => format!("replace it first: sed -i 's/{value}/VERSION/' dkms.conf"),
    }
}

/// Whether a directory has a recipe of this path, if only a link that leads nowhere: such a package is not another one.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The text of a recipe in a source tree. It may be a link to another file of the tree, but not to one elsewhere: builds see only
/// the source, and a link in a tree that nobody trusts could lead to any file of this machine.
fn recipe_in(source: &Path, name: &str) -> Result<String, Error> {
    let path = source.join(name);
    let target = fs::read_link(&path).ok();
    let read = bounded_read::bytes_in(source, Path::new(name), MOST_RECIPE);
    let reason = match (read, target) {
        (Ok(Some(bytes)), _) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
        (Ok(None), Some(target)) => format!(
            "it is a link to {}, outside of the package's source; put a copy of that file in its place",
            target.display()
        ),
        (Err(error), Some(target)) if error.kind() == io::ErrorKind::NotFound => {
            format!("it is a link to {}, which does not exist", target.display())
        }
        (Ok(None), None) => "a recipe is a regular file of the package itself, of at most 1 MiB".to_owned(),
        (Err(error), _) => return Err(error.into()),
    };
    Err(recipe::Error::Bad { path, reason }.into())
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
    let recipe = RecipeFile::Toml(path.to_owned(), Box::new(file));
    Ok(Package { name, version, source, recipe, declared: None })
}

/// Name and version by which DKMS knows a directory of `/usr/src`, `NAME-VERSION`; `None` if it does not end like that.
/// Where both have dashes, what the recipe assigns tells where the version begins.
fn names_in_place(place: &Path, source: &Path) -> Result<Option<(String, String)>, Error> {
    let Some(base) = place.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
    let (name, version) = dkms::name_in(source, &recipe_in(source, DKMS_CONF)?);
    let good = |name: &str, version: &str| {
        let are = recipe::is_flat_name(name) && recipe::is_version(version);
        are.then(|| (name.to_owned(), version.to_owned()))
    };
    let after_name =
        name.as_deref().and_then(|name| Some((name, base.strip_prefix(name)?.strip_prefix('-')?)));
    if let Some((name, rest)) =
        after_name.filter(|(_, rest)| version.as_deref() == Some(rest) || is_like_version(rest))
    {
        return Ok(good(name, rest));
    }
    let before = version
        .as_deref()
        .and_then(|version| Some((base.strip_suffix(version)?.strip_suffix('-')?, version)));
    Ok(before.or_else(|| split(base)).and_then(|(name, version)| good(name, version)))
}

/// Name and version from a directory called `NAME-VERSION`, as in DKMS's layout. A directory called `src` or the like is a part of
/// a project, which has the name.
fn name_of_directory(source: &Path) -> (Option<String>, Option<String>) {
    let is_part = source.file_name().is_some_and(|name| OF_PARTS.iter().any(|part| name == *part));
    match source.parent().filter(|above| is_part && kbuild::is_project(above).unwrap_or(false)) {
        Some(above) => name_of_directory(above),
        None => name_of_own(source),
    }
}

fn name_of_own(source: &Path) -> (Option<String>, Option<String>) {
    let Some(base) = source.file_name().and_then(|name| name.to_str()) else { return (None, None) };
    let flat = |name: &str| recipe::is_flat_name(name).then(|| name.to_owned());
    match split(base) {
        Some((name, version)) => (flat(name), recipe::is_version(version).then(|| version.to_owned())),
        None => (flat(base), None),
    }
}

/// Splits `NAME-VERSION` at the last dash, or at the one before if only that begins a version: `a-1.0-rc1`.
fn split(base: &str) -> Option<(&str, &str)> {
    let (name, version) = base.rsplit_once('-')?;
    if is_like_version(version) {
        return Some((name, version));
    }
    let (name, _) = name.rsplit_once('-')?;
    let version = &base[name.len() + 1..];
    is_like_version(version).then_some((name, version))
}

/// Whether a text begins like a version: with a digit, `v` and a digit, a Subversion revision with a dot after it (`r128.1`: a
/// device is called `r8152`), or as an abbreviated git hash.
fn is_like_version(text: &str) -> bool {
    let digit = |text: &str| text.starts_with(|c: char| c.is_ascii_digit());
    let is_hash = (7..=40).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && text.bytes().any(|b| b.is_ascii_digit());
    let is_revision = text.strip_prefix('r').is_some_and(|rest| {
        digit(rest) && rest.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with('.')
    });
    digit(text) || text.strip_prefix(['v', 'V']).is_some_and(digit) || is_revision || is_hash
}

#[cfg(test)]
mod tests;
