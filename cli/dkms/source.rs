//! Source trees and DKMS's records of them.

use std::path::Path;

use fs_err as fs;
use kcache::error::Error;
use kcache::kernel::dkms::Version;
use kcache::kernel::packages::{self, Package};
use kcache::kernel::recipe::{self, Recipe};
use kcache::run::session::Session;

use super::DkmsError;
use super::place::Place;
use super::print::warn;
use crate::cmd::context;

pub fn add_version(place: &Place, what: &Version) -> Result<(), DkmsError> {
    if place.records.is_added(what) {
        return Err(DkmsError::new(
            3,
            &[
                &format!("DKMS tree already contains: {}/{}", what.name, what.version),
                "You cannot add the same module/version combo more than once.",
            ],
        ));
    }
    let source = place.source(what);
    if !place.source_here(what)?.is_dir() {
        let directory = format!("Directory: {} does not exist.", source.display());
        return Err(DkmsError::new(2, &["Could not find module source directory.", &directory]));
    }
    let (package, _) = place.package(what)?;
    check_conf(place, &package)?;
    let link = place.records.place(what).join("source");
    place.print(&format!("Creating symlink {} -> {}", link.display(), source.display()));
    Ok(place.records.add(what, &source)?)
}

/// Refuses a `dkms.conf` that cannot be built by, as DKMS does before it adds a module. It is evaluated for the first kernel of
/// the command line, the running and the newest one that has headers; if none has, nothing is checked yet.
fn check_conf(place: &Place, package: &Package) -> Result<(), DkmsError> {
    let named = place.releases();
    let installed = place.installed_kernels()?.into_iter().rev().map(|tree| tree.release().to_owned());
    let kernels =
        named.into_iter().chain(installed).filter_map(|release| place.kernel(&release).ok().flatten());
    let Some(kernel) = kernels.into_iter().find(|kernel| kernel.build_tree().is_some()) else {
        return Ok(());
    };
    let Some(tree) = kernel.build_tree() else { return Ok(()) };
    let session = Session::new(&place.context, place.context.open_existing_store().map_err(Error::from)?)?;
    let recipe =
        session.seen_source(package).and_then(|source| session.recipe(package, source, &kernel, tree));
    match recipe {
        Ok(recipe) if recipe.excluded.as_deref() == Some(recipe::NO_MODULES) => {
            warn("dkms.conf: zero modules specified.");
            Ok(())
        }
        Err(Error::Recipe(recipe::Error::Bad { .. })) if is_patch(&recipe) => Ok(()),
        Err(error @ Error::Recipe(recipe::Error::Bad { .. })) => {
            let file = format!(
                "File: {}/dkms.conf does not represent a valid dkms.conf file.",
                package.source.display()
            );
            Err(DkmsError::new(8, &["Bad conf file.", &file, &kcache::error::chain(&error)]))
        }
        // Whatever else prevents it will be said when it is built.
        _ => Ok(()),
    }
}

/// DKMS looks at patches when it builds.
fn is_patch(recipe: &Result<Recipe, Error>) -> bool {
    matches!(recipe, Err(Error::Recipe(recipe::Error::Bad { reason, .. })) if reason.starts_with("PATCH "))
}

/// Puts a source tree where DKMS has them.
pub fn copy_source(place: &Place, from: &Path) -> Result<Version, DkmsError> {
    let from = fs::canonicalize(from)?;
    let bad = |error: packages::Error| {
        let why = kcache::error::chain(&error);
        DkmsError::new(8, &["Bad conf file.", &why])
    };
    let package = packages::at_path(&from).map_err(bad)?;
    let conf = String::from_utf8_lossy(&package.dkms_conf()?).into_owned();
    if let Some(name) =
        ["PACKAGE_NAME", "PACKAGE_VERSION"].iter().find(|name| !conf.contains(&format!("{name}=")))
    {
        let file = format!("File: {}/dkms.conf does not represent a valid dkms.conf file.", from.display());
        return Err(DkmsError::new(
            8,
            &["Bad conf file.", &file, &format!("No '{name}' directive specified.")],
        ));
    }
    let what = Version { name: package.name, version: package.version };
    let to = place.source_here(&what)?;
    if to == from {
        return Ok(what);
    }
    if to.exists() && place.typed.force {
        fs::remove_dir_all(&to)?;
    }
    fs::create_dir_all(&to)?;
    let copied = context::command("cp")
        .args(["-r", "--remove-destination", "--"])
        .arg(from.join("."))
        .arg(&to)
        .status()?;
    match copied.success() {
        true => Ok(what),
        false => {
            Err(DkmsError::new(1, &[&format!("{} could not be copied to {}.", from.display(), to.display())]))
        }
    }
}
