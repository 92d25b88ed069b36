//! Build dependencies: the packages that a package builds against (`BUILD_DEPENDS`, `depends`).
//!
//! Their keys are part of its key. They are resolved first, and its build sees them as on a host where DKMS installed them: their
//! source, their modules and `Module.symvers`, and whatever else their builds left in their own directory. Indirect dependencies
//! are shown too.
//!
//! ```text
//! scratch/dependencies/NAME/source     the source as it was hashed; in the sandbox /usr/src/NAME-VERSION
//! scratch/dependencies/NAME/kept       its build's results; in the sandbox /var/lib/dkms/NAME/VERSION/KERNEL/ARCH, and
//!                                      its modules at /lib/modules/KERNEL/updates/dkms
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use fs_err as fs;
use kcache_kernel::build::kept;
use kcache_kernel::ko::ModuleExport;
use kcache_kernel::packages::Package;
use kcache_kernel::sandbox::Sandbox;
use kcache_store::{Digest, tree};

use crate::build::check_modules::{self, Outputs};
use crate::error::{Error, Result};
use crate::run::sandbox;
use crate::run::session::Session;

/// A package that another one builds against, with its build.
pub struct Dependency<'a> {
    pub(crate) package: &'a Package,
    pub(crate) source: Digest,
    pub(crate) outputs: Outputs,
}

/// All symbols that these export.
pub fn exports(dependencies: &[Dependency]) -> BTreeMap<String, ModuleExport> {
    dependencies.iter().flat_map(|dependency| check_modules::exports(&dependency.outputs.modules)).collect()
}

/// Shows build dependencies to a build.
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
        sandbox::show_source(sandbox, package, &dir.join("source"));
        let kept = dir.join("kept");
        fs::create_dir(&kept)?;
        let packed = outputs.kept.as_ref().map_or(Ok(Vec::new()), |kept| kept.read(session))?;
        kept::unpack(&packed, &kept)
            .map_err(|source| Error::Kept { package: package.name.clone(), source })?;
        drop(packed);
        lay_out(session, outputs, &kept)?;
        let modules = outputs.modules.iter().map(|module| &module.name[..]);
        sandbox::show_kept(sandbox, package, &kept, modules);
    }
    Ok(())
}

/// Puts a build's modules beside its other results.
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

/// Sets the mode, whatever the umask, so that the build's user can read it.
fn readable(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
}
