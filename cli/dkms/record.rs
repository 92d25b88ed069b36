//! Records of what was built and installed, in DKMS's places (`kcache_kernel::dkms`), for scripts and packages that look there.

use std::path::Path;

use fs_err as fs;
use kcache::error::Error;
use kcache::kernel::bounded_read::{self, MOST_DATA};
use kcache::kernel::build::kept;
use kcache::kernel::compress::Compression;
use kcache::kernel::dkms::{DkmsBuild, Version, copies};
use kcache::kernel::install::{self, Generation, ModulesDir};
use kcache::kernel::kernels::{self, Kernel};
use kcache::kernel::rootfs::put;
use kcache::run::session::Session;
use kcache::store::{Manifest, Output, Role};

use super::DkmsError;
use super::place::Place;
use super::print::warn;

/// Records a build of an added version.
pub fn built(
    place: &Place,
    session: &Session,
    what: &Version,
    kernel: &Kernel,
    manifest: &Manifest,
) -> Result<(), DkmsError> {
    write(place, session, &of(place, what, &kernel.release), kernel, manifest, None)
}

/// Records an installed build, with the files as they are installed. The modules are in place: that this fails is a warning.
pub fn installed(place: &Place, session: &Session, what: &Version, kernel: &Kernel, manifest: &Manifest) {
    let Some(tree) = &kernel.modules else { return };
    let built = of(place, what, &kernel.release);
    let noted = install::current(tree).map_err(|error| Error::from(error).into()).and_then(|generation| {
        write(place, session, &built, kernel, manifest, generation.as_ref().map(|found| (tree, found)))?;
        Ok::<_, DkmsError>(place.records.activate(&built)?)
    });
    if let Err(trouble) = noted {
        let lines = trouble.lines.join(": ");
        warn(&format!("{}/{} is installed, but not recorded: {lines}", what.name, what.version));
    }
}

/// Records a package without modules, which is in no generation.
pub fn without_modules(place: &Place, what: &Version, release: &str, install: bool) -> Result<(), DkmsError> {
    let built = of(place, what, release);
    place.records.keep(&built, copies::NO_MODULES, &|draft| fs::create_dir(draft.join("module")))?;
    if install {
        place.records.activate(&built)?;
    }
    Ok(())
}

/// Records what `autoinstall` installed of the versions that are added.
pub fn all_installed(place: &Place, session: &Session, kernel: &Kernel) -> Result<(), DkmsError> {
    let Some(tree) = &kernel.modules else { return Ok(()) };
    let Some(generation) = install::current(tree).map_err(Error::from)? else { return Ok(()) };
    let Some(store) = &session.store else { return Ok(()) };
    for package in &generation.set.packages {
        let what = Version { name: package.name.clone(), version: package.version.clone() };
        let records = place.records.built(&what)?;
        let is_recorded = records
            .iter()
            .any(|built| built.kernel == kernel.release && built.key.as_deref() == Some(&package.key));
        if !place.records.is_added(&what) {
            continue;
        }
        if is_recorded {
            place.records.activate(&of(place, &what, &kernel.release))?;
            continue;
        }
        let Ok(key) = package.key.parse() else { continue };
        if let Some(entry) = store.lookup(&key).map_err(Error::from)? {
            installed(place, session, &what, kernel, &entry.into_manifest());
        }
    }
    Ok(())
}

/// Keeps the log of a build that failed where DKMS has it, if the version is added. Returns where.
pub fn failed(place: &Place, session: &Session, what: &Version, manifest: &Manifest) -> Option<String> {
    let store = session.store.as_ref()?;
    let output = manifest.outputs.iter().find(|output| output.role == Role::Log)?;
    let log = store.read_object(&output.digest, output.size).ok()??;
    let kept = place.records.is_added(what).then(|| place.records.keep_log(what, &log))?;
    Some(kept.ok()?.display().to_string())
}

fn of(place: &Place, what: &Version, release: &str) -> DkmsBuild {
    let (kernel, arch) = (release.to_owned(), place.arch());
    DkmsBuild { what: what.clone(), kernel, arch, installed: false, key: None }
}

fn write(
    place: &Place,
    session: &Session,
    built: &DkmsBuild,
    kernel: &Kernel,
    manifest: &Manifest,
    installed: Option<(&ModulesDir, &Generation)>,
) -> Result<(), DkmsError> {
    let config = kernels::config(&place.context.root, kernel).map_err(Error::from)?;
    let compression = config.as_ref().map_or(Compression::None, kernels::compression);
    place.records.keep(built, &manifest.key.to_string(), &|draft| {
        // What packages that build against it look for, among it Module.symvers.
        if let Some(output) = manifest.outputs.iter().find(|output| output.role == Role::Kept) {
            let lost = |error: kept::Error| DkmsError::new(1, &[&error.to_string()]);
            kept::unpack(&object(session, output)?, draft).map_err(lost)?;
        }
        for name in ["module", "log"] {
            if !fs::symlink_metadata(draft.join(name)).is_ok_and(|metadata| metadata.is_dir()) {
                fs::create_dir(draft.join(name))?;
            }
        }
        for output in &manifest.outputs {
            match output.role {
                Role::Log => put(&draft.join("log/make.log"), &object(session, output)?)?,
                Role::Module => put_module(session, draft, output, compression, installed)?,
                _ => {}
            }
        }
        Ok(())
    })
}

/// A module as it is installed, or, if it is not, as it would be but for the signature.
fn put_module(
    session: &Session,
    draft: &Path,
    output: &Output,
    compression: Compression,
    installed: Option<(&ModulesDir, &Generation)>,
) -> Result<(), DkmsError> {
    let file = installed.and_then(|(tree, generation)| {
        let is_it = |digest: &[u8; 32]| digest == output.digest.as_bytes();
        let (_, module) = generation.modules().find(|(_, module)| is_it(module.spec.digest.as_bytes()))?;
        let path = tree.join("updates").join(generation.dir_name()).join(&module.path);
        let bytes = bounded_read::bytes_in(tree, &path, MOST_DATA).ok()??;
        Some((path.file_name()?.to_string_lossy().into_owned(), bytes))
    });
    let (name, bytes) = match file {
        Some(file) => file,
        None => {
            let name = format!("{}{}", output.name, compression.extension());
            (name, compression.compress(&object(session, output)?)?)
        }
    };
    Ok(put(&draft.join("module").join(name), &bytes)?)
}

fn object(session: &Session, output: &Output) -> Result<Vec<u8>, DkmsError> {
    let store = session.store.as_ref().ok_or_else(|| DkmsError::new(1, &["There is no store."]))?;
    let found = store.read_object(&output.digest, output.size).map_err(Error::from)?;
    found.ok_or_else(|| DkmsError::new(1, &[&format!("{} is not in the store", output.name)]))
}
