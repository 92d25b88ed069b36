//! Rules about the modules' C sources.

use std::collections::BTreeMap;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::{LintFinding, finding};
use crate::csource::{self, Use};
use crate::packages::{NO_VERSION, Package};
use crate::recipe::objects::{Object, Objects};

/// Licences that the kernel accepts (include/linux/module.h, "The following license idents are currently accepted").
const LICENSES: [&str; 7] = [
    "GPL",
    "GPL v2",
    "GPL and additional rights",
    "Dual BSD/GPL",
    "Dual MIT/GPL",
    "Dual MPL/GPL",
    "Proprietary",
];

/// Macros that expand to the time of the build (-Werror=date-time).
const CLOCK: [&str; 3] = ["__DATE__", "__TIME__", "__TIMESTAMP__"];

/// Limit on the depth of followed includes.
const DEEPEST: usize = 6;

/// Findings in the sources of a package's modules.
pub fn check(top: &Path, trees: &[Objects], package: &Package) -> io::Result<Vec<LintFinding>> {
    let mut found = Vec::new();
    for object in trees.iter().flat_map(|objects| &objects.modules) {
        let mut read = BTreeMap::new();
        for path in &object.sources {
            found.extend(clock(path, &super::read(top, path)?));
            with_included(top, path, DEEPEST, &mut read)?;
        }
        let uses = |name: &str| -> Vec<(PathBuf, Use)> {
            let of_file = |(path, code): (&PathBuf, &String)| {
                csource::uses(code, name).into_iter().map(|it| (path.clone(), it)).collect::<Vec<_>>()
            };
            read.iter().flat_map(of_file).collect()
        };
        found.extend(license(object, &uses("MODULE_LICENSE")));
        found.extend(version(package, &uses("MODULE_VERSION")));
    }
    Ok(found)
}

/// The code of a source, and of the files in the same tree that it includes.
fn with_included(
    top: &Path,
    path: &Path,
    depth: usize,
    read: &mut BTreeMap<PathBuf, String>,
) -> io::Result<()> {
    if depth == 0 || read.contains_key(path) {
        return Ok(());
    }
    let code = csource::code(&super::read(top, path)?, false);
    let included: Vec<String> = csource::included(&code).map(str::to_owned).collect();
    read.insert(path.to_owned(), code);
    let here = path.parent().unwrap_or(Path::new(""));
    for name in included {
        let places = [here.join(&name), PathBuf::from(&name), Path::new("include").join(&name)];
        if let Some(file) = places.iter().filter_map(|it| inside(it)).find(|it| top.join(it).is_file()) {
            with_included(top, &file, depth - 1, read)?;
        }
    }
    Ok(())
}

/// Removes `..` from a path; `None` if it leaves the tree.
fn inside(path: &Path) -> Option<PathBuf> {
    let mut whole = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => whole.push(part),
            Component::CurDir => {}
            Component::ParentDir if whole.pop() => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(whole)
}

fn clock(path: &Path, text: &str) -> Vec<LintFinding> {
    let code = csource::code(text, true);
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let uses = |line: &str, name: &str| {
        line.match_indices(name)
            .any(|(at, _)| !line[..at].ends_with(is_word) && !line[at + name.len()..].starts_with(is_word))
    };
    let on_line = |(at, line): (usize, &str)| {
        let name = CLOCK.iter().find(|name| uses(line, name))?;
        finding("date-macro", path, at + 1, format!("uses {name}"))
    };
    code.lines().enumerate().filter_map(on_line).collect()
}

/// A module without a licence in its C sources, or with one that the kernel does not know.
fn license(object: &Object, declared: &[(PathBuf, Use)]) -> Vec<LintFinding> {
    let is_c = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "c");
    if declared.is_empty() && object.complete && !object.sources.is_empty() && object.sources.iter().all(is_c)
    {
        let what = format!("no source of module {} has MODULE_LICENSE", object.name);
        return finding("no-license", &object.sources[0], 0, what).into_iter().collect();
    }
    let unknown = |(path, it): &(PathBuf, Use)| {
        let text = it.text.as_deref().filter(|text| !LICENSES.contains(text))?;
        finding("unknown-license", path, it.line, format!("unknown licence '{text}'"))
    };
    declared.iter().filter_map(unknown).collect()
}

/// Versions that differ even in the upstream part. A packager's suffix makes no difference. A package may have none.
fn version(package: &Package, declared: &[(PathBuf, Use)]) -> Vec<LintFinding> {
    if package.version == NO_VERSION {
        return Vec::new();
    }
    let differs = |(path, it): &(PathBuf, Use)| {
        let text = it.text.as_deref().filter(|text| !text.is_empty())?;
        let bare = text.trim_start_matches(['v', 'V']);
        let ours = package.version.trim_start_matches(['v', 'V']);
        if ours.starts_with(bare) || bare.starts_with(ours) {
            return None;
        }
        let what = format!("MODULE_VERSION is {text}, the package's version {}", package.version);
        finding("module-version", path, it.line, what)
    };
    declared.iter().filter_map(differs).collect()
}
