//! Packages that cannot be installed beside each other, because the kernel loads one module of a name.
//!
//! ```text
//! two packages of the run build it                     neither is installed
//! an installed package has it already                  that one stays
//! ... whose source is gone, and whose modules          it is replaced, as after a package was renamed
//!     the others build, all of them
//! ```
//!
//! Whatever is not part of a conflict is installed. A foreign module file in the way is found by the transaction itself.

use std::collections::{BTreeMap, BTreeSet};

use kcache_kernel::install::{Generation, InstalledPackage};
use kcache_kernel::kernels::Kernel;
use kcache_kernel::module_name::ModuleName;
use kcache_kernel::packages::Package;
use kcache_store::Manifest;

use crate::error::{Error, Result};
use crate::resolve::batch::PackageResult;
use crate::resolve::local;
use crate::run::labels::Labels;
use crate::run::select::Packages;
use crate::run::session::Session;

/// Gives the packages of a run that conflict their errors. Returns the installed packages that the others replace.
pub(crate) fn settle(
    session: &Session,
    packages: &Packages,
    kernel: &Kernel,
    results: &mut [PackageResult],
) -> Vec<String> {
    let arriving: Vec<(String, BTreeSet<ModuleName>)> =
        results.iter().filter_map(PackageResult::manifest).map(names).collect();
    let (replaced, refused) = of_kernel(session, &packages.all, kernel, &arriving);
    for result in results {
        let Some(manifest) = result.manifest() else { continue };
        let name = names(manifest).0;
        if let Some(conflict) = refused.get(&name) {
            result.answer = Err(conflict.error(&name));
        } else if let Some(old) = replaced.get(&name) {
            report_replaced(session, kernel, manifest, old);
        }
    }
    replaced.into_values().collect::<BTreeSet<_>>().into_iter().collect()
}

/// The installed package that one entry replaces, if it replaces any. `all` are the packages of the system.
///
/// # Errors
///
/// [`Error::SameModule`] if another package's module of the same name is installed, and stays.
pub fn replaced(
    session: &Session,
    all: &[Package],
    kernel: &Kernel,
    manifest: &Manifest,
) -> Result<Option<String>> {
    let (mut replaced, mut refused) = of_kernel(session, all, kernel, &[names(manifest)]);
    let name = names(manifest).0;
    if let Some(conflict) = refused.remove(&name) {
        return Err(conflict.error(&name));
    }
    let old = replaced.remove(&name);
    if let Some(old) = &old {
        report_replaced(session, kernel, manifest, old);
    }
    Ok(old)
}

/// Why packages that are not installed could not be, because of each other or of what is installed. `arriving` are their names,
/// with the modules that they build.
pub(crate) fn refused(
    session: &Session,
    packages: &Packages,
    kernel: &Kernel,
    arriving: &Owners,
) -> BTreeMap<String, Error> {
    let (_, refused) = of_kernel(session, &packages.all, kernel, arriving);
    let error = |(name, conflict): (String, Conflict)| {
        let error = conflict.error(&name);
        (name, error)
    };
    refused.into_iter().map(error).collect()
}

fn of_kernel(
    session: &Session,
    all: &[Package],
    kernel: &Kernel,
    arriving: &Owners,
) -> (BTreeMap<String, String>, BTreeMap<String, Conflict>) {
    let installed = session.installed(kernel).map_or(Vec::new(), |generation| installed(&generation));
    let wanted = &session.context.elsewhere.wanted;
    let is_gone = |name: &str| {
        !all.iter().any(|package| package.is_called(name, None)) && !wanted.iter().any(|other| other == name)
    };
    conflicts(&installed, arriving, &is_gone)
}

fn report_replaced(session: &Session, kernel: &Kernel, manifest: &Manifest, old: &str) {
    let message = format!(
        "{}: {} replaces {old}, which builds the same modules and has no source any more",
        kernel.release,
        Labels::of(manifest).what()
    );
    session.context.progress().print(&message);
}

/// Why a package is not installed.
#[derive(Debug, PartialEq, Eq)]
struct Conflict {
    module: ModuleName,
    /// The other packages that build it.
    others: Vec<String>,
    /// Whether the other one is installed, and stays.
    stays: bool,
}

impl Conflict {
    fn error(&self, package: &str) -> Error {
        Error::SameModule {
            module: self.module.to_string(),
            package: package.to_owned(),
            others: self.others.join(", "),
            stays: self.stays,
        }
    }
}

/// Packages and the names of their modules.
pub(crate) type Owners = [(String, BTreeSet<ModuleName>)];

/// Which installed package each arriving one replaces, and which arriving ones conflict.
fn conflicts(
    installed: &Owners,
    arriving: &Owners,
    is_gone: &dyn Fn(&str) -> bool,
) -> (BTreeMap<String, String>, BTreeMap<String, Conflict>) {
    let coming: BTreeSet<&ModuleName> = arriving.iter().flat_map(|(_, modules)| modules).collect();
    let is_coming = |name: &str| arriving.iter().any(|(other, _)| other == name);
    let is_replaced = |(name, modules): &(String, BTreeSet<ModuleName>)| {
        !is_coming(name) && is_gone(name) && modules.iter().all(|module| coming.contains(module))
    };
    let (mut replaced, mut refused) = (BTreeMap::new(), BTreeMap::new());
    for module in &coming {
        let builds = |(_, modules): &&(String, BTreeSet<ModuleName>)| modules.contains(*module);
        let builders: Vec<&str> = arriving.iter().filter(builds).map(|(name, _)| name.as_str()).collect();
        let holder = installed.iter().find(builds);
        let holder_stays = holder.filter(|holder| !is_replaced(holder)).map(|(name, _)| name.as_str());
        for builder in &builders {
            let others: Vec<String> = match holder_stays {
                Some(holder) if holder == *builder => continue,
                Some(holder) => vec![holder.to_owned()],
                None => builders
                    .iter()
                    .filter(|other| *other != builder)
                    .map(|other| (*other).to_owned())
                    .collect(),
            };
            if !others.is_empty() {
                let conflict = Conflict { module: (*module).clone(), others, stays: holder_stays.is_some() };
                refused.entry((*builder).to_owned()).or_insert(conflict);
            } else if let Some((old, _)) = holder {
                replaced.insert((*builder).to_owned(), old.clone());
            }
        }
    }
    // What is not installed replaces nothing.
    replaced.retain(|name, _| !refused.contains_key(name));
    (replaced, refused)
}

fn installed(generation: &Generation) -> Vec<(String, BTreeSet<ModuleName>)> {
    let of = |package: InstalledPackage| {
        let names = package.modules.iter().map(|module| ModuleName::new(&module.name)).collect();
        (package.name, names)
    };
    generation.wanted().packages.into_iter().map(of).collect()
}

fn names(manifest: &Manifest) -> (String, BTreeSet<ModuleName>) {
    (Labels::of(manifest).package.to_owned(), modules(manifest))
}

/// Names of the modules of a build.
pub(crate) fn modules(manifest: &Manifest) -> BTreeSet<ModuleName> {
    local::modules(manifest).iter().map(|module| ModuleName::new(&module.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(list: &[(&str, &[&str])]) -> Vec<(String, BTreeSet<ModuleName>)> {
        let of = |(name, modules): &(&str, &[&str])| {
            ((*name).to_owned(), modules.iter().map(|module| ModuleName::new(module)).collect())
        };
        list.iter().map(of).collect()
    }

    /// Who replaces whom, and who is refused on account of whom.
    fn settled(
        installed: &[(&str, &[&str])],
        arriving: &[(&str, &[&str])],
        gone: &[&str],
    ) -> [Vec<String>; 2] {
        let (replaced, refused) =
            conflicts(&owners(installed), &owners(arriving), &|name| gone.contains(&name));
        let replaced = replaced.into_iter().map(|(new, old)| format!("{new} for {old}")).collect();
        let refused = refused.into_iter().map(|(name, conflict)| {
            let word = if conflict.stays { "installed" } else { "beside" };
            format!("{name}: {} {word} {}", conflict.module, conflict.others.join(" "))
        });
        [replaced, refused.collect()]
    }

    #[test]
    fn of_two_that_arrive_neither_is_installed_and_the_rest_is() {
        let arriving: &[(&str, &[&str])] =
            &[("nva", &["nv"]), ("nvb", &["nv", "more"]), ("third", &["other"])];
        assert_eq!(
            settled(&[], arriving, &[]),
            [vec![], vec!["nva: nv beside nvb".to_owned(), "nvb: nv beside nva".to_owned()]]
        );
        // The kernel takes dash and underscore for one.
        let [_, refused] = settled(&[], &[("a", &["snd-x"]), ("b", &["snd_x"])], &[]);
        assert_eq!(refused.len(), 2);
    }

    #[test]
    fn what_is_installed_stays() {
        let now: &[(&str, &[&str])] = &[("nva", &["nv"])];
        let both: &[(&str, &[&str])] = &[("nva", &["nv"]), ("nvb", &["nv"])];
        assert_eq!(settled(now, both, &[]), [vec![], vec!["nvb: nv installed nva".to_owned()]]);
        assert_eq!(settled(now, &both[1..], &[]), [vec![], vec!["nvb: nv installed nva".to_owned()]]);
        assert_eq!(settled(now, &both[..1], &[]), [Vec::<String>::new(), vec![]]);
    }

    #[test]
    fn a_package_without_source_is_replaced_by_what_builds_all_its_modules() {
        let now: &[(&str, &[&str])] = &[("old", &["a", "b"])];
        assert_eq!(
            settled(now, &[("new", &["a", "b", "c"])], &["old"]),
            [vec!["new for old".to_owned()], vec![]]
        );
        let halves: &[(&str, &[&str])] = &[("one", &["a"]), ("two", &["b"])];
        assert_eq!(
            settled(now, halves, &["old"]),
            [vec!["one for old".to_owned(), "two for old".to_owned()], vec![]]
        );
        assert_eq!(settled(now, &[("new", &["a"])], &["old"])[1], ["new: a installed old"]);
        assert_eq!(settled(now, &[("new", &["a", "b"])], &[])[1], ["new: a installed old"]);
    }
}
