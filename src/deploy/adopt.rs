//! Takes over the modules that DKMS installed, and gives them back.
//!
//! DKMS's records say, for each kernel, which packages it installed and which files in the kernel's tree belong to them. kcache
//! builds or fetches its own modules from the same source, which replace DKMS's in one transaction. Packages that kcache has no
//! build of are left to DKMS, untouched. DKMS's records are not changed: to DKMS everything is still installed, so it does not
//! build again, and after [`give_back`] everything is as before.

use std::collections::BTreeSet;
use std::path::Path;

use kcache_kernel::dkms::{self, DkmsBuild, Records};
use kcache_kernel::install::{self as tree, ForeignFile, ForeignFiles, ModulesDir};
use kcache_kernel::kernels::Kernel;
use kcache_kernel::module_name::ModuleName;
use kcache_kernel::packages::{self, Package};
use kcache_kernel::rootfs::Root;
use kcache_store::{Exposed, Manifest, Role};

use crate::deploy::generation::{self, SetChange};
use crate::error::{Error, Result};
use crate::run::select;
use crate::run::session::Session;

/// A package that DKMS has installed for a kernel.
pub struct Adoptable {
    /// DKMS's record of the build.
    pub built: DkmsBuild,
    /// Its files in the kernel's tree.
    pub files: Vec<ForeignFile>,
    /// The same package as kcache finds it; or the reason why it stays with DKMS.
    pub package: std::result::Result<Package, String>,
}

/// Packages that DKMS has installed for a kernel and kcache could take over. Those whose files have been deleted do
/// not count.
pub fn candidates(session: &Session, kernel: &Kernel, all: &[Package]) -> Result<Vec<Adoptable>> {
    let root = &session.context.root;
    let records = Records::of(root)?;
    if root.is_host()
        && let Some(exposed) = Exposed::above(&records.dir().join("record"))?
    {
        return Err(kcache_store::Error::Exposed(exposed).into()); // its links name the sources
    }
    let dir = generation::tree(session, kernel)?;
    let mut found = Vec::new();
    for built in records.installed(&kernel.release)? {
        let files = records.files(&built, dir)?;
        if files.is_empty() {
            continue;
        }
        let package = match obstacle(root, dir, &files)? {
            Some(why) => Err(why),
            None => package(&records, &built, all, session),
        };
        found.push(Adoptable { built, files, package });
    }
    Ok(found)
}

/// Why files cannot be taken over, if they cannot.
fn obstacle(root: &Root, dir: &Path, files: &[ForeignFile]) -> std::io::Result<Option<String>> {
    if let Some(link) = files.iter().find(|file| dir.join(&file.path).is_symlink()) {
        return Ok(Some(format!("{} is a link", link.path.display())));
    }
    let other = dkms::weakly_used(root, dir, files)?;
    Ok(other.map(|other| format!("weak-updates of {} link to its modules", other.display())))
}

fn package(
    records: &Records,
    built: &DkmsBuild,
    all: &[Package],
    session: &Session,
) -> std::result::Result<Package, String> {
    let what = format!("{}/{}", built.what.name, built.what.version);
    if let Some(package) = select::find(all, &what) {
        return Ok(package.clone());
    }
    let root = &session.context.root;
    let link = records.place(&built.what).join("source");
    let source = root.inside(&link).and_then(|inside| root.find(inside));
    let source = source.ok_or("its source is no longer on this machine")?;
    packages::at_path(&source).map_err(|error| crate::error::chain(&error))
}

/// Why a build cannot replace DKMS's modules, if it cannot: it lacks one of them.
pub fn lacks(manifest: &Manifest, files: &[ForeignFile]) -> Option<String> {
    let ours: BTreeSet<ModuleName> = manifest
        .outputs
        .iter()
        .filter(|output| output.role == Role::Module)
        .filter_map(|output| ModuleName::of_file(Path::new(&output.name)))
        .collect();
    let lost = files.iter().find(|file| file.module().is_none_or(|module| !ours.contains(&module)))?;
    Some(format!("kcache's build lacks {}", lost.path.display()))
}

/// The kept modules of a kernel, and the kcache packages that are removed when they are given back.
pub fn give_back(session: &Session, kernel: &Kernel) -> Result<(ForeignFiles, Vec<String>)> {
    let dir = generation::tree(session, kernel)?;
    let files = tree::kept(dir)?;
    let installed = installed(dir)?;
    let mut names: Vec<String> = files.iter().map(|file| file.package.clone()).collect();
    names.dedup();
    names.retain(|name| installed.contains(name));
    Ok((ForeignFiles::GiveBack(files), names))
}

/// The change that removes exactly these packages.
pub fn without(names: &[String]) -> SetChange<'_> {
    // An empty list would remove all packages.
    if names.is_empty() { SetChange::Add(&[]) } else { SetChange::Remove(names) }
}

/// Names of the packages that kcache has installed in a tree.
pub fn installed(dir: &ModulesDir) -> std::result::Result<Vec<String>, Error> {
    let generation = tree::current(dir)?;
    let packages = generation.into_iter().flat_map(|generation| generation.set.packages);
    Ok(packages.map(|package| package.name).collect())
}
