//! Selects kernels and packages from the arguments.

use std::path::Path;

use kcache_kernel::kernels::{self, Kernel};
use kcache_kernel::packages::{self, Package};
use kcache_kernel::rootfs::Root;
use kcache_kernel::{bootloader, release};

use crate::error::{Error, Result};

/// Minimum similarity of a suggested name (Jaro-Winkler, 0 to 1). Less similar names are not what was meant.
const ALIKE: f64 = 0.75;

/// The kernels that `asked` selects: releases, globs, `all`, `newest`, `running` or paths of build trees; oldest
/// first, each once. If `asked` is empty, every installed kernel for which `worth` is true. Leftovers of removed kernels
/// are selected by name only.
///
/// # Errors
///
/// [`Error::NoKernel`] with the most similar release for a word that selects none.
pub fn kernels(
    root: &Root,
    asked: &[String],
    running: &str,
    worth: &dyn Fn(&Kernel) -> bool,
) -> Result<Vec<Kernel>> {
    let installed = kernels::installed(root)?;
    if asked.is_empty() {
        return Ok(installed.into_iter().filter(|kernel| !kernel.is_leftover && worth(kernel)).collect());
    }
    let mut chosen: Vec<Kernel> = Vec::new();
    for word in asked {
        let named = match word.as_str() {
            path if path.contains('/') => vec![kernels::at_path(root, Path::new(path))?],
            "all" => installed.iter().filter(|kernel| !kernel.is_leftover).cloned().collect(),
            "newest" => installed.iter().rfind(|kernel| !kernel.is_leftover).cloned().into_iter().collect(),
            "running" => matching(&installed, running),
            glob => matching(&installed, glob),
        };
        if named.is_empty() {
            let releases = installed.iter().map(|kernel| kernel.release.as_str());
            let nearest = nearest(word, releases);
            return Err(Error::NoKernel { asked: word.clone(), root: root.dir().to_owned(), nearest });
        }
        chosen.extend(named);
    }
    chosen.sort_by(|a, b| release::compare(&a.release, &b.release));
    chosen.dedup_by(|a, b| a.release == b.release);
    Ok(chosen)
}

/// The release of the kernel that the boot loader will start. `configured` replaces an unsupported boot loader: a
/// release, or the path of an image.
pub fn default_kernel(root: &Root, configured: Option<&str>) -> Result<String> {
    let choice = match configured {
        Some(path) if path.contains('/') => bootloader::at_path(root, Path::new(path))?,
        Some(release) => return Ok(release.to_owned()),
        None => bootloader::default_kernel(root)?,
    };
    Ok(choice.release)
}

fn matching(installed: &[Kernel], glob: &str) -> Vec<Kernel> {
    installed.iter().filter(|kernel| release::matches(glob, &kernel.release)).cloned().collect()
}

/// Every package of a system, and the selected ones.
pub struct Packages {
    /// All packages, to find build dependencies.
    pub all: Vec<Package>,
    /// The selected packages.
    pub chosen: Vec<Package>,
    /// Whether they were named; unnamed ones count only if they are installed automatically.
    pub named: bool,
    /// Errors of broken packages.
    pub broken: Vec<packages::Error>,
    /// Names and versions of those that were asked for by version or path.
    exact: Vec<(String, String)>,
}

impl Packages {
    /// Whether a package was asked for in this version.
    pub fn is_exact(&self, package: &Package) -> bool {
        self.exact.iter().any(|(name, version)| (name, version) == (&package.name, &package.version))
    }
}

/// Packages whose source need not be on this machine, because other hosts may have built them.
#[derive(Clone, Debug, Default)]
pub struct Elsewhere {
    /// Names of those that are selected if none is named.
    pub wanted: Vec<String>,
    /// Whether any other name may be one, too.
    pub any: bool,
    /// Why it is not known which packages are wanted, if it is not: then no kernel is ready.
    pub unresolved: Option<String>,
    /// Whether the shared caches that are configured are not used in this run.
    pub offline: bool,
}

/// The packages that `asked` selects: a name, `NAME/VERSION` or a source directory. If `asked` is empty, the newest
/// version of every package.
///
/// # Errors
///
/// [`Error::NoPackage`] with the most similar name for a word that selects none.
pub fn packages(root: &Root, asked: &[String], elsewhere: &Elsewhere) -> Result<Packages> {
    let (mut all, broken) = packages::installed(root)?;
    let (mut chosen, mut exact) = (Vec::new(), Vec::new());
    for word in asked {
        let package = match find(&all, word) {
            Some(package) => package.clone(),
            None if word.contains('/') || word == "." || word == ".." => {
                let source = fs_err::canonicalize(word).map_err(packages::Error::from)?;
                let package = packages::at_path(&source)?;
                all.push(package.clone());
                package
            }
            None if elsewhere.any || elsewhere.wanted.contains(word) => Package::elsewhere(word),
            None => {
                let nearest = nearest(word, all.iter().map(|package| package.name.as_str()));
                return Err(Error::NoPackage { asked: word.clone(), root: root.dir().to_owned(), nearest });
            }
        };
        if word.contains('/') || word.starts_with('.') {
            exact.push((package.name.clone(), package.version.clone()));
        }
        if !chosen.iter().any(|other: &Package| other.source == package.source && other.name == package.name)
        {
            chosen.push(package);
        }
    }
    if asked.is_empty() {
        chosen = newest_versions(&all);
        let absent = elsewhere.wanted.iter().filter(|name| find(&all, name).is_none());
        chosen.extend(absent.map(|name| Package::elsewhere(name)));
    }
    Ok(Packages { all, chosen, named: !asked.is_empty(), broken, exact })
}

/// The package of this name; the newest of several versions. The directory's name comes before its `dkms.conf`'s.
pub fn find<'a>(all: &'a [Package], word: &str) -> Option<&'a Package> {
    let (name, version) = match word.split_once('/') {
        Some((name, version)) => (name, Some(version)),
        None => (word, None),
    };
    let own =
        |package: &&Package| package.name == name && version.is_none_or(|version| package.version == version);
    all.iter().rfind(own).or_else(|| all.iter().rfind(|package| package.is_called(name, version)))
}

fn newest_versions(all: &[Package]) -> Vec<Package> {
    let newest =
        |package: &&Package| find(all, &package.name).is_some_and(|other| other.version == package.version);
    let mut chosen: Vec<Package> = all.iter().filter(newest).cloned().collect();
    chosen.dedup_by(|a, b| a.name == b.name);
    chosen
}

/// The most similar name, if any is similar enough.
pub fn nearest<'a>(word: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let alike = |name: &str| strsim::jaro_winkler(word, name);
    names
        .map(|name| (alike(name), name))
        .filter(|(score, _)| *score >= ALIKE)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    fn root(releases: &[&str], packages: &[&str]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        for release in releases {
            let modules = dir.path().join("lib/modules").join(release);
            fs::create_dir_all(&modules).unwrap();
            fs::write(modules.join("modules.order"), "").unwrap();
        }
        for package in packages {
            let source = dir.path().join("usr/src").join(package);
            let (name, version) = package.split_once('-').unwrap();
            fs::create_dir_all(&source).unwrap();
            fs::write(source.join("dkms.conf"), format!("PACKAGE_NAME={name}\nPACKAGE_VERSION={version}\n"))
                .unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    fn chosen(asked: &[&str]) -> Result<Vec<String>> {
        let (_dir, root) = root(&["6.12.1-amd64", "6.1.0-10-amd64", "6.1.0-9-amd64"], &[]);
        let asked: Vec<String> = asked.iter().map(|word| (*word).to_owned()).collect();
        let kernels = kernels(&root, &asked, "6.1.0-9-amd64", &|_| true)?;
        Ok(kernels.into_iter().map(|kernel| kernel.release).collect())
    }

    #[test]
    fn kernels_are_selected_by_every_kind_of_name() {
        let all = ["6.1.0-9-amd64", "6.1.0-10-amd64", "6.12.1-amd64"];
        assert_eq!(chosen(&[]).unwrap(), all);
        assert_eq!(chosen(&["all"]).unwrap(), all);
        assert_eq!(chosen(&["newest"]).unwrap(), ["6.12.1-amd64"]);
        assert_eq!(chosen(&["running"]).unwrap(), ["6.1.0-9-amd64"]);
        assert_eq!(chosen(&["6.1.0-*", "6.1.0-9-amd64"]).unwrap(), all[..2]);
    }

    #[test]
    fn an_unknown_kernel_is_an_error_with_a_suggestion() {
        match chosen(&["6.1.0-11-amd64"]).unwrap_err() {
            Error::NoKernel { nearest, .. } => assert_eq!(nearest.as_deref(), Some("6.1.0-10-amd64")),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_newest_version_is_selected() {
        let (_dir, root) = root(&[], &["a-1.9", "a-1.10", "b-1"]);
        let names = |asked: &[&str]| -> Vec<String> {
            let asked: Vec<String> = asked.iter().map(|word| (*word).to_owned()).collect();
            let packages = packages(&root, &asked, &Elsewhere::default()).unwrap();
            packages.chosen.iter().map(|package| format!("{}/{}", package.name, package.version)).collect()
        };
        assert_eq!(names(&[]), ["a/1.10", "b/1"]);
        assert_eq!(names(&["a"]), ["a/1.10"]);
        assert_eq!(names(&["a/1.9", "b"]), ["a/1.9", "b/1"]);
    }

    #[test]
    fn a_package_built_elsewhere_needs_no_source() {
        let (_dir, root) = root(&[], &["a-1"]);
        let names = |asked: &[&str], wanted: &[&str], any| -> Result<Vec<String>> {
            let texts = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            let packages = packages(
                &root,
                &texts(asked),
                &Elsewhere { wanted: texts(wanted), any, ..Elsewhere::default() },
            )?;
            Ok(packages.chosen.iter().map(|package| package.name.clone()).collect())
        };
        assert_eq!(names(&[], &["a", "b"], false).unwrap(), ["a", "b"]);
        assert_eq!(names(&["b"], &["b"], false).unwrap(), ["b"]);
        assert_eq!(names(&["c"], &[], true).unwrap(), ["c"]);
        assert!(matches!(names(&["c"], &["b"], false), Err(Error::NoPackage { .. })));
        assert!(names(&["./c"], &[], true).is_err());
    }
}
