//! Source trees and DKMS's records of them.

use std::path::Path;

use fs_err as fs;
use kcache::kernel::dkms::Version;
use kcache::kernel::packages;

use super::DkmsError;
use super::place::Place;
use crate::cmd::context;

pub fn add_version(place: &Place, what: &Version) -> Result<(), DkmsError> {
    if place.records.is_added(what) {
        return Err(DkmsError::new(
            3,
            &[
                &format!("DKMS tree already contains: {}-{}", what.name, what.version),
                "You cannot add the same module/version combo more than once.",
            ],
        ));
    }
    let source = place.source(what);
    if !place.source_here(what)?.is_dir() {
        let directory = format!("Directory: {} does not exist.", source.display());
        return Err(DkmsError::new(2, &["Could not find module source directory.", &directory]));
    }
    place.package(what)?;
    let link = place.records.place(what).join("source");
    place.print(&format!("Creating symlink {} -> {}", link.display(), source.display()));
    Ok(place.records.add(what, &source)?)
}

/// Puts a source tree where DKMS has them.
pub fn copy_source(place: &Place, from: &Path) -> Result<Version, DkmsError> {
    let from = fs::canonicalize(from)?;
    let bad = |error: packages::Error| {
        let why = kcache::error::chain(&error);
        DkmsError::new(10, &["Malformed dkms.conf file. Cannot load source tree.", &why])
    };
    let package = packages::at_path(&from).map_err(bad)?;
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
