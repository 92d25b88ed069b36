//! `/usr/lib/dkms/common.postinst NAME VERSION [TARBALL_ROOT [ARCH [UPGRADE]]]`, which the postinst of every `-dkms` package
//! calls.
//!
//! It deletes the old record of the version, adds the source, and installs the modules for every kernel that has headers or a
//! build. DKMS does so for the running and the newest kernel only, and the others boot without the modules. Only those two
//! decide the exit code: a failure for an older kernel is a warning, so that it does not break an upgrade.

use std::path::Path;

use kcache::kernel::dkms::Version;
use kcache::kernel::kernels::{self, Kernel};
use kcache::run::session::Session;

use super::args::{self, Typed};
use super::build::install;
use super::place::{NO_AUTOINSTALL, Place, session};
use super::print::{answer, complain};
use super::source::add_version;
use super::{DkmsError, remove, tarball};
use crate::cmd;

pub fn run(words: &[String]) -> Result<u8, DkmsError> {
    let word = |at: usize| words.get(at).filter(|word| !word.is_empty());
    let (Some(name), Some(version)) = (word(0), word(1)) else {
        answer("Need NAME, and VERSION defined\nARCH is optional");
        return Ok(1);
    };
    // As for kcache's hooks: what the administrator has installed precedes what the kernel has.
    let mut typed = typed(name, version, word(3))?;
    typed.version_override = true;
    let place = Place::new(&typed)?;
    if place.context.root.find(NO_AUTOINSTALL).is_some() {
        answer("autoinstall for dkms modules has been disabled.");
        return Ok(0);
    }
    place.check_exposed()?;
    let what = place.version("install")?;
    register(&place, &what, word(2).map(Path::new))?;
    everywhere(&place, &what)
}

/// Whether the package wants to be installed by itself. Without headers for any kernel, nobody knows, and nothing is built.
fn is_automatic(
    place: &Place,
    session: &Session,
    what: &Version,
    installed: &[Kernel],
) -> Result<bool, DkmsError> {
    let Some((kernel, tree)) = installed.iter().rev().find_map(|kernel| Some((kernel, kernel.build_tree()?)))
    else {
        return Ok(true);
    };
    let (package, _) = place.package(what)?;
    let source = session.seen_source(&package)?;
    // What is wrong with the recipe is said for each kernel.
    Ok(session.recipe(&package, source, kernel, tree).map_or(true, |recipe| recipe.automatic))
}

fn typed(name: &str, version: &str, arch: Option<&String>) -> Result<Typed, DkmsError> {
    let mut words = ["-m", name, "-v", version].map(str::to_owned).to_vec();
    words.extend(arch.map(|arch| format!("--arch={arch}")));
    args::parse(&words)
}

fn register(place: &Place, what: &Version, tarballs: Option<&Path>) -> Result<(), DkmsError> {
    if place.known()?.contains(what) {
        answer(&format!("Removing old {}/{} DKMS files...", what.name, what.version));
        let all =
            args::parse(&[format!("{}/{}", what.name, what.version), "--all".into(), "--quiet".into()])?;
        remove::remove(&Place::new(&all)?)?;
    }
    let tarball = tarballs.map(|dir| dir.join(format!("{}-{}.dkms.tar.gz", what.name, what.version)));
    if let Some(tarball) = tarball.and_then(|path| place.context.root.find(path)) {
        tarball::unpack_archive(place, &tarball)?;
    }
    answer(&format!("Loading new {}/{} DKMS files...", what.name, what.version));
    add_version(place, what)
}

fn everywhere(place: &Place, what: &Version) -> Result<u8, DkmsError> {
    let installed = kernels::installed(&place.context.root).map_err(kcache::error::Error::from)?;
    let newest = installed.last().map(|kernel| kernel.release.clone());
    let running = cmd::running();
    let session = session(place)?;
    if !is_automatic(place, &session, what, &installed)? {
        answer(&format!("Not building the {} module which does not have AUTOINSTALL enabled.", what.name));
        return Ok(0);
    }
    let mut code = 0;
    for kernel in &installed {
        let release = &kernel.release;
        match install(place, &session, what, release) {
            Ok(()) => answer(&format!("{release}: Done.")),
            Err(trouble) if trouble.code == 77 => answer(&format!("{release}: Skipped.")),
            Err(_) if kernel.build_tree().is_none() => answer(&format!(
                "Module build for kernel {release} was skipped since the\nkernel headers for this kernel do not seem to be installed."
            )),
            Err(trouble) => {
                complain(&trouble.lines);
                let decides = *release == running || Some(release) == newest.as_ref();
                code = if decides { trouble.code } else { code };
            }
        }
    }
    Ok(code)
}
