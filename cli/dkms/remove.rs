//! `dkms uninstall`, `unbuild` and `remove`: remove modules from kernels, builds from the store, and records.
//!
//! Modules that DKMS itself installed are removed by a transaction too, and its records with them.

use fs_err as fs;

use kcache::deploy::{adopt, generation as flow, scripts};
use kcache::error::Error;
use kcache::kernel::dkms::originals::{self, Original};
use kcache::kernel::dkms::{DkmsBuild, Version, weakly_used};
use kcache::kernel::install::{ForeignFile, ForeignFiles, ModulesDir};
use kcache::run::request::Request;
use kcache::run::session::Session;

use super::place::{Place, of_dkms, session};
use super::print::{complain, warn};
use super::{DkmsError, upgrade};

/// Runs an action for each selected kernel.
pub fn each(
    place: &Place,
    act: fn(&Place, &Session, &Version, &str) -> Result<(), DkmsError>,
) -> Result<u8, DkmsError> {
    place.check_arch()?;
    let what = known(place, "uninstall")?;
    let session = session(place)?;
    releases(place, &what)?.iter().try_for_each(|release| act(place, &session, &what, release))?;
    Ok(0)
}

pub fn remove(place: &Place) -> Result<u8, DkmsError> {
    place.check_arch()?;
    let what = known(place, "remove")?;
    if place.typed.rpm_safe_upgrade && upgrade::is_upgrade(place, &what) {
        warn("Remove cancelled because --rpm_safe_upgrade scenario detected.");
        return Ok(0);
    }
    let session = session(place)?;
    for release in releases(place, &what)? {
        uninstall(place, &session, &what, &release)?;
        forget_builds(place, &what, &release)?;
    }
    let is_left = |standing: &super::place::Standing| standing.installed || standing.built.is_some();
    if !place.standings(&what)?.iter().any(is_left) {
        place
            .print(&format!("Deleting module {}/{} completely from the DKMS tree.", what.name, what.version));
        place.records.forget(&what)?;
    }
    Ok(0)
}

fn known(place: &Place, action: &str) -> Result<Version, DkmsError> {
    let what = place.version(action)?;
    place.check_broken(&what)?;
    if place.known()?.contains(&what) {
        return Ok(what);
    }
    let line =
        format!("The module/version combo: {}/{} is not located in the DKMS tree.", what.name, what.version);
    Err(DkmsError::new(3, &[&line]))
}

fn releases(place: &Place, what: &Version) -> Result<Vec<String>, DkmsError> {
    if !place.typed.all {
        return Ok(place.releases());
    }
    Ok(place.standings(what)?.into_iter().map(|standing| standing.kernel).collect())
}

/// Out of one kernel. The package's other kernels, and the kernel's other packages, stay as they are.
pub fn uninstall(place: &Place, session: &Session, what: &Version, release: &str) -> Result<(), DkmsError> {
    let standing = place.standings(what)?.into_iter().find(|s| s.kernel == release && s.installed);
    let (name, version, arch) = (&what.name, &what.version, place.arch());
    let (Some(standing), Some(kernel)) = (standing, place.kernel(release)?) else {
        place.print(&format!(
            "Module {name}/{version} is not installed for kernel {release} ({arch}). Skipping..."
        ));
        return Ok(());
    };
    place.print(&format!("Module {name}/{version} for kernel {release} ({arch}):"));
    place.print("Before uninstall, this module version was ACTIVE on this kernel.");
    let names: Vec<String> = standing.by_kcache.iter().map(|_| name.clone()).collect();
    let theirs: Vec<(DkmsBuild, Vec<ForeignFile>)> =
        of_dkms(place, name, &kernel)?.into_iter().filter(|(built, _)| built.what == *what).collect();
    let files: Vec<ForeignFile> = theirs.iter().flat_map(|(_, files)| files.clone()).collect();
    let dir = flow::tree(session, &kernel)?;
    if let Some(other) = weakly_used(&place.context.root, dir, &files)? {
        warn(&format!("weak-updates of {} linked to its modules.", other.display()));
    }
    let originals = place.records.originals(name, release, &arch, dir)?;
    for original in &originals {
        originals::give_back(dir, original)?;
    }
    flow::apply_with(session, &kernel, &adopt::without(&names), &ForeignFiles::Drop(files))?;
    for Original { kept, place: at } in originals {
        fs::remove_file(kept)?;
        place.print(&format!("Original module restored: {}", dir.join(at).display()));
    }
    if let Ok((package, all)) = place.package(what) {
        scripts::after_remove(
            session,
            &Request { package: &package, kernel: &kernel, all: &all, exact: true },
        );
    }
    forget_kept(place, dir, name)?;
    for (built, _) in theirs {
        place.records.forget_build(&built)?;
    }
    Ok(place.records.deactivate(what, release, &arch)?)
}

/// What was taken over from DKMS is not to come back by `kcache adopt --undo`.
fn forget_kept(place: &Place, tree: &ModulesDir, name: &str) -> Result<(), DkmsError> {
    flow::forget_kept(&place.context, tree, name)?;
    Ok(())
}

pub fn unbuild(place: &Place, session: &Session, what: &Version, release: &str) -> Result<(), DkmsError> {
    uninstall(place, session, what, release)?;
    let labels = [("package", what.name.as_str()), ("version", what.version.as_str()), ("kernel", release)];
    let store = session.store.as_ref().ok_or_else(|| DkmsError::new(1, &["There is no store."]))?;
    for row in store.find(&labels).map_err(Error::from)? {
        store.forget(&row.key).map_err(Error::from)?;
    }
    forget_builds(place, what, release)
}

fn forget_builds(place: &Place, what: &Version, release: &str) -> Result<(), DkmsError> {
    for built in place.records.built(what)?.into_iter().filter(|built| built.kernel == release) {
        place.records.forget_build(&built)?;
    }
    Ok(())
}

/// Everything out of a kernel that goes. One package that stays keeps no other there.
pub fn of_kernel(place: &Place) -> Result<u8, DkmsError> {
    let release = place.named_release("kernel_prerm")?;
    let session = session(place)?;
    let mut failed = Vec::new();
    for what in place.known()? {
        let Some(standing) = place.standings(&what)?.into_iter().find(|s| s.kernel == release) else {
            continue;
        };
        if standing.installed || standing.built.is_some() {
            let removed = uninstall(place, &session, &what, &release)
                .and_then(|()| forget_builds(place, &what, &release));
            if let Err(trouble) = removed {
                complain(&trouble.lines);
                failed.push(format!("{}/{}({})", what.name, what.version, trouble.code));
            }
        }
    }
    if failed.is_empty() {
        return Ok(0);
    }
    let line = format!(
        "dkms kernel_prerm for kernel {release} ({}) failed for module(s) {}.",
        place.arch(),
        failed.join(" ")
    );
    Err(DkmsError::new(14, &[&line]))
}
