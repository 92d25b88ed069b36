//! The packages that a package builds against (`BUILD_DEPENDS`, `depends`).
//!
//! Their keys are part of its key, so whatever shapes them shapes it. They are had before it is built, and then its build
//! sees them as on a host on which DKMS has installed them: their source, their modules and `Module.symvers`, and whatever
//! else their builds left in their own directory. What those are against is seen too.
//!
//! ```text
//! scratch/dependencies/NAME/source     the source, as it was hashed; seen at /usr/src/NAME-VERSION
//! scratch/dependencies/NAME/kept       what its build left, unpacked; seen at /var/lib/dkms/NAME/VERSION/KERNEL/ARCH, and
//!                                      its modules at /lib/modules/KERNEL/updates/dkms
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use kcache_kernel::build::kept;
use kcache_kernel::ko::Export;
use kcache_kernel::packages::Package;
use kcache_kernel::sandbox::Sandbox;
use kcache_store::{Digest, tree};

use crate::admit::{self, Outputs};
use crate::ensure::{self, Answer, Identified, Options, Wish};
use crate::error::{Error, Result};
use crate::facts::Session;
use crate::{rooms, select};

/// A package that another one builds against.
pub struct Dependency<'a> {
    package: &'a Package,
    source: Digest,
    outputs: Outputs,
}

/// The package called so that `wish` builds against; `within` are those that build against it in turn.
pub fn find<'a>(wish: &Wish<'a>, name: &str, within: &[&str]) -> Result<&'a Package> {
    if within.contains(&name) {
        return Err(problem(wish, name, "builds against it in turn"));
    }
    select::find(wish.all, name).ok_or_else(|| problem(wish, name, "is not installed"))
}

fn problem(wish: &Wish, needs: &str, problem: &'static str) -> Error {
    Error::Dependency { package: wish.package.name.clone(), needs: needs.to_owned(), problem }
}

/// All that a build is against, each package once, built first if need be.
pub fn have<'a>(
    session: &Session,
    wish: &Wish<'a>,
    id: &Identified,
    options: &Options,
) -> Result<Vec<Dependency<'a>>> {
    let options = Options { fetch_only: options.fetch_only, ..Options::default() };
    let mut had: Vec<Dependency> = Vec::new();
    let mut pending: Vec<&(String, Identified)> = id.dependencies.iter().collect();
    while let Some((name, id)) = pending.pop() {
        let package = find(wish, name, &[])?;
        if had.iter().any(|other| other.package.name == package.name) {
            continue;
        }
        pending.extend(&id.dependencies);
        let manifest = match ensure::ensure(session, &Wish { package, ..*wish }, &options)? {
            Answer::Ready { manifest, .. } => manifest,
            Answer::NotCached => return Err(problem(wish, name, "is not in any cache")),
            _ => return Err(problem(wish, name, "does not build")),
        };
        let outputs = admit::outputs(session, &manifest)?.unwrap_or_default();
        had.push(Dependency { package, source: id.source, outputs });
    }
    Ok(had)
}

/// What these export.
pub fn exports(dependencies: &[Dependency]) -> BTreeMap<String, Export> {
    dependencies.iter().flat_map(|dependency| admit::exports(&dependency.outputs.modules)).collect()
}

/// Shows them to a build.
pub fn show(
    session: &Session,
    sandbox: &mut Sandbox,
    dependencies: &[Dependency],
    scratch: &Path,
) -> Result<()> {
    for Dependency { package, source, outputs } in dependencies {
        let dir = scratch.join("dependencies").join(&package.name);
        fs::create_dir_all(&dir)?;
        if tree::snapshot(&package.source, &dir.join("source"), &[".git".to_owned()])? != *source {
            return Err(Error::Changed { what: format!("the source of {}", package.name) });
        }
        rooms::show_source(sandbox, package, &dir.join("source"));
        let kept = dir.join("kept");
        fs::create_dir(&kept)?;
        let packed = outputs.kept.as_ref().map_or(Ok(Vec::new()), |kept| kept.read(session))?;
        kept::unpack(&packed, &kept)
            .map_err(|source| Error::Kept { package: package.name.clone(), source })?;
        drop(packed);
        lay_out(session, outputs, &kept)?;
        let modules = outputs.modules.iter().map(|module| &module.name[..]);
        rooms::show_kept(sandbox, package, &kept, modules);
    }
    Ok(())
}

/// The modules of a build, where it left what else it left for others.
fn lay_out(session: &Session, outputs: &Outputs, to: &Path) -> Result<()> {
    let modules = to.join("module");
    fs::create_dir_all(&modules)?;
    for module in &outputs.modules {
        let path = modules.join(&module.name);
        fs::write(&path, module.content.read(session)?)?;
        readable(&path, 0o644)?;
    }
    readable(&modules, 0o755)?;
    Ok(readable(to, 0o755)?)
}

/// Whatever the umask: the build's user is to read it.
fn readable(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}
