//! `dkms status`: one line a version and kernel, as DKMS 3.2.2 prints it.
//!
//! ```text
//! acpi-call/1.2.2, 6.1.0-56-amd64, x86_64: installed
//! bbswitch/0.8: added
//! ```

use kcache::error::Error;
use kcache::kernel::dkms::Version;
use kcache::kernel::install::{self, Fault, Generation, ModulesDir};

use super::DkmsError;
use super::place::{Place, Standing};
use super::print::complain;

pub fn show(place: &Place) -> Result<u8, DkmsError> {
    let typed = place.typed;
    let is_meant = |request: &Option<String>, is: &str| request.as_ref().is_none_or(|request| request == is);
    let kernels =
        if typed.kernels.is_empty() { vec![None] } else { typed.kernels.iter().map(Some).collect() };
    for kernel in kernels {
        for what in place.known()? {
            if is_meant(&typed.module, &what.name) && is_meant(&typed.version, &what.version) {
                lines(place, &what, kernel)?.iter().for_each(|line| place.print(line));
            }
        }
    }
    Ok(0)
}

fn lines(place: &Place, what: &Version, kernel: Option<&String>) -> Result<Vec<String>, DkmsError> {
    let name = format!("{}/{}", what.name, what.version);
    if place.is_broken(what) {
        let lines = [
            format!("{name}: Missing the module source directory or the symbolic link pointing to it."),
            "Manual intervention is required!".to_owned(),
        ];
        complain(&lines);
        return Ok(vec![format!("{name}: broken")]);
    }
    let mut standings = place.standings(what)?;
    standings.retain(|standing| kernel.is_none_or(|kernel| standing.kernel == *kernel));
    if !place.typed.arches.is_empty() {
        let arch = place.arch();
        let asked = &place.typed.arches;
        let is_asked = |standing: &Standing| {
            asked.contains(standing.built.as_ref().map_or(&arch, |built| &built.arch))
                || place.check_arch().is_ok()
        };
        standings.retain(is_asked);
    }
    if standings.is_empty() {
        return Ok(vec![format!("{name}: added")]);
    }
    standings.iter().map(|standing| line(place, what, &name, standing)).collect()
}

fn line(place: &Place, what: &Version, name: &str, standing: &Standing) -> Result<String, DkmsError> {
    let arch = standing.built.as_ref().map_or_else(|| place.arch(), |built| built.arch.clone());
    let state = if standing.installed { "installed" } else { "built" };
    let originals = if place.records.has_originals(&what.name, &standing.kernel, &arch) {
        " (Original modules exist)"
    } else {
        ""
    };
    let warning = if standing.built.as_ref().is_some_and(|built| place.records.is_without_modules(built)) {
        " (Built modules are missing in the kernel modules folder)"
    } else if is_corrupt(place, what, standing)? {
        " (Differences between built and installed modules)"
    } else {
        ""
    };
    Ok(format!("{name}, {}, {arch}: {state}{originals}{warning}", standing.kernel))
}

/// Whether an installed file is not what it was.
fn is_corrupt(place: &Place, what: &Version, standing: &Standing) -> Result<bool, DkmsError> {
    let Some(tree) = place.installed_kernels()?.into_iter().find(|tree| tree.release() == standing.kernel)
    else {
        return Ok(false);
    };
    match (&standing.by_kcache, &standing.built) {
        (Some(generation), _) => is_faulty(&tree, generation, what),
        (None, Some(built)) if built.installed => Ok(!place.records.is_intact(built, &tree)?),
        _ => Ok(false),
    }
}

fn is_faulty(tree: &ModulesDir, generation: &Generation, what: &Version) -> Result<bool, DkmsError> {
    let faults = install::verify(tree, generation).map_err(Error::from)?;
    Ok(faults.iter().any(|fault| match fault {
        Fault::Missing { path } | Fault::Changed { path, .. } => {
            path.parent().is_some_and(|dir| dir.ends_with(&what.name))
        }
        _ => false,
    }))
}
