//! Whether a build's modules are newer than what the kernel has of the same names, which `dkms install` asks for.
//!
//! As in DKMS: the kernel's own module, or an installed one, with a higher `version` stays, as does one with equal `version` and
//! `srcversion`. If several files of a name exist, nothing is compared. `--force` and `--force-version-override` skip this, and
//! so do files in `/usr/share/dkms/modules_to_force_install` that list the package, alone or with `_version-override`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache::error::Error;
use kcache::kernel::bounded_read::{self, MOST_DATA};
use kcache::kernel::compress::Compression;
use kcache::kernel::install::{self, ModulesDir};
use kcache::kernel::ko;
use kcache::kernel::module_name::ModuleName;
use kcache::kernel::modules;
use kcache::kernel::recipe::dkms::padded;
use kcache::run::request::Request;
use kcache::run::session::Session;
use kcache::store::{Manifest, Role};

use super::DkmsError;
use super::place::Place;
use super::print::warn;

/// Files with the names of packages that are installed whatever the kernel has.
const FORCED: &str = "/usr/share/dkms/modules_to_force_install";

/// A module's version, and the digest that the kernel's build made of its source.
#[derive(Debug, Default, PartialEq, Eq)]
struct Versions {
    version: String,
    source: String,
}

/// Refuses a build of which the kernel has no older module, as DKMS does.
pub fn check(
    place: &Place,
    session: &Session,
    request: &Request,
    manifest: &Manifest,
) -> Result<(), DkmsError> {
    let (Some(tree), Some(store)) = (&request.kernel.modules, &session.store) else { return Ok(()) };
    if place.typed.version_override || is_forced(place, &request.package.name) {
        return Ok(());
    }
    let release = &request.kernel.release;
    let mut refused = Vec::new();
    let outputs: Vec<_> = manifest.outputs.iter().filter(|output| output.role == Role::Module).collect();
    for output in &outputs {
        let Some(name) = ModuleName::of_file(Path::new(&output.name)) else { continue };
        let found = of_name(tree, &name, &request.package.name)?;
        let [path] = &found[..] else {
            if !found.is_empty() {
                warn(&format!(
                    "Cannot do version sanity checking because multiple {} modules were found in kernel {release}.",
                    output.name
                ));
            }
            continue;
        };
        let Some(theirs) = read(tree, path) else { continue };
        let bytes = store.read_object(&output.digest, output.size).map_err(Error::from)?;
        let ours = bytes.and_then(|bytes| versions(&bytes)).unwrap_or_default();
        if let Some(why) = why_not(&ours, &theirs, &output.name, path, release) {
            refused.push(why);
        }
    }
    if refused.is_empty() || refused.len() < outputs.len() {
        refused.iter().for_each(|why| warn(why));
        return Ok(());
    }
    refused.insert(0, "Installation aborted.".to_owned());
    refused.push("You may override by specifying --force.".to_owned());
    Err(DkmsError { code: 6, lines: refused })
}

fn why_not(ours: &Versions, theirs: &Versions, name: &str, path: &Path, release: &str) -> Option<String> {
    let is_newer = padded(&theirs.version) > padded(&ours.version);
    if is_newer && theirs.version != ours.version {
        return Some(format!(
            "Module version {} for {name} is not newer than what is already found in kernel {release} ({}).",
            ours.version, theirs.version
        ));
    }
    let is_same = ours == theirs && *ours != Versions::default();
    is_same.then(|| format!("Module {} already installed at version {}.", path.display(), theirs.version))
}

/// Files of a module's name in a kernel's tree, but for those of the package itself as DKMS or kcache has them in this version.
fn of_name(tree: &ModulesDir, name: &ModuleName, package: &str) -> Result<Vec<PathBuf>, DkmsError> {
    let names = BTreeSet::from([name.clone()]);
    let mut found = Vec::new();
    for path in modules::in_tree(tree, &names)?.into_values() {
        let suffixes = [Compression::None, Compression::Gz, Compression::Xz, Compression::Zst];
        let files = suffixes.map(|suffix| PathBuf::from(format!("{path}{}", suffix.extension())));
        found.extend(files.into_iter().find(|file| tree.join(file).is_file()));
    }
    found.extend(
        modules::foreign(tree)?.into_iter().filter(|path| ModuleName::of_file(path).as_ref() == Some(name)),
    );
    if let Some(generation) = install::current(tree).map_err(Error::from)? {
        let dir = Path::new("updates").join(generation.dir_name());
        let of_package = generation.modules().filter(|(other, _)| other.name == package);
        let files = of_package.map(|(_, module)| dir.join(&module.path));
        found.extend(files.filter(|path| ModuleName::of_file(path).as_ref() == Some(name)));
    }
    Ok(found)
}

fn read(tree: &ModulesDir, path: &Path) -> Option<Versions> {
    let (_, compression) = Compression::of_file_name(path.file_name()?.to_str()?)?;
    let bytes = bounded_read::bytes_in(tree, &tree.join(path), MOST_DATA).ok()??;
    versions(&compression.decompress(&bytes, MOST_DATA).ok()?)
}

fn versions(module: &[u8]) -> Option<Versions> {
    let ko = ko::parse(module).ok()?;
    let get = |key: &str| ko.modinfo.get(key).unwrap_or_default().to_owned();
    Some(Versions { version: get("version"), source: get("srcversion") })
}

fn is_forced(place: &Place, package: &str) -> bool {
    let Some(dir) = place.context.root.find(FORCED) else { return false };
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let inside = files.filter_map(|entry| place.context.root.find(Path::new(FORCED).join(entry.file_name())));
    let text: String =
        inside.filter_map(|path| bounded_read::config(&path).ok()).collect::<Vec<_>>().join("\n");
    text.split_whitespace().any(|word| word.strip_suffix("_version-override").unwrap_or(word) == package)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_or_equal_module_of_the_kernel_stays() {
        let check = |ours: [&str; 2], theirs: [&str; 2], expect: Option<&str>| {
            let of =
                |[version, source]: [&str; 2]| Versions { version: version.into(), source: source.into() };
            let why = why_not(&of(ours), &of(theirs), "a.ko", Path::new("kernel/a.ko"), "6.1");
            assert_eq!(why.is_some(), expect.is_some(), "{ours:?} {theirs:?}: {why:?}");
            assert!(why.unwrap_or_default().contains(expect.unwrap_or_default()), "{ours:?}");
        };
        check(["1.0", "A"], ["2.0", "B"], Some("1.0 for a.ko is not newer"));
        check(["10.0", "A"], ["9.9", "B"], None);
        check(["1.0", "A"], ["1.0", "B"], None);
        check(["1.0", "A"], ["1.0", "A"], Some("already installed at version 1.0"));
        check(["", "A"], ["", "A"], Some("already installed"));
        check(["", ""], ["", ""], None);
        check(["", "A"], ["1", "B"], Some("is not newer"));
    }
}
