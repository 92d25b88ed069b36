//! `dkms add`, `build`, `install`, `match` and `autoinstall`: kcache's flow, for one package and kernel at a time.

use kcache::deploy::generation::{self as flow, SetChange};
use kcache::deploy::scripts;
use kcache::kernel::dkms::Version;
use kcache::kernel::install::ForeignFiles;
use kcache::kernel::kernels::Kernel;
use kcache::kernel::packages::Package;
use kcache::kernel::release;
use kcache::resolve::conflicts;
use kcache::resolve::resolution::Resolution;
use kcache::run::request::{Options, Request};
use kcache::run::session::Session;
use kcache::store::{Manifest, Outcome, Role};

use super::DkmsError;
use super::place::{Place, of_dkms, session};
use super::print::{answer, warn};
use super::source::{add_version, copy_source};
use crate::cmd::initramfs;
use crate::cmd::install::for_kernel;
use crate::exit::{Exit, Failure};
use kcache::deploy;
use kcache::resolve::batch;

pub fn add(place: &Place) -> Result<u8, DkmsError> {
    let what = match (&place.typed.source, &place.typed.archive, &place.typed.module) {
        (Some(source), _, None) => copy_source(place, source)?,
        (None, Some(_), None) => super::tarball::unpack(place)?,
        _ => place.version("add")?,
    };
    let added = add_version(place, &what);
    // Noted also where it is there already: that is how an upgrade to another release of one version begins.
    if place.typed.rpm_safe_upgrade && place.records.is_added(&what) {
        super::upgrade::note(place, &what)?;
    }
    added.map(|()| 0)
}

/// Runs an action for each selected kernel.
pub fn each(
    place: &Place,
    act: fn(&Place, &Session, &Version, &str) -> Result<(), DkmsError>,
) -> Result<u8, DkmsError> {
    place.check_arch()?;
    let what = match &place.typed.source {
        Some(source) if place.typed.module.is_none() => copy_source(place, source)?,
        _ => place.version("install")?,
    };
    if !place.records.is_added(&what) {
        add_version(place, &what)?;
    }
    let session = session(place)?;
    place.releases().iter().try_for_each(|release| act(place, &session, &what, release))?;
    Ok(0)
}

pub fn build(place: &Place, session: &Session, what: &Version, release: &str) -> Result<(), DkmsError> {
    let is_built = place.standings(what)?.iter().any(|standing| standing.kernel == release);
    if is_built && !place.typed.force {
        already(place, what, "built for", release);
        return Ok(());
    }
    let kernel = kernel_to_build_for(place, release)?;
    let (package, all) = place.package(what)?;
    obtained(place, session, &Request { package: &package, kernel: &kernel, all: &all, exact: true })
        .map(|_| ())
}

pub fn install(place: &Place, session: &Session, what: &Version, release: &str) -> Result<(), DkmsError> {
    let is_installed =
        place.standings(what)?.iter().any(|standing| standing.kernel == release && standing.installed);
    if is_installed && !place.typed.force {
        already(place, what, "installed on", release);
        return Ok(());
    }
    let kernel = kernel_to_build_for(place, release)?;
    if kernel.modules.is_none() {
        let directory = format!("The directory /lib/modules/{release} doesn't exist.");
        return Err(DkmsError::new(
            6,
            &[&directory, "You cannot install a module onto a non-existant kernel."],
        ));
    }
    deploy::may_sign(&place.context)?;
    deploy::may_install(session, &kernel)?;
    let (package, all) = place.package(what)?;
    let request = Request { package: &package, kernel: &kernel, all: &all, exact: true };
    let manifest = obtained(place, session, &request)?;
    let replaced: Vec<String> = conflicts::replaced(session, &all, &kernel, &manifest)?.into_iter().collect();
    let change = SetChange::Exchange(std::slice::from_ref(&manifest), &replaced);
    before_install(place, session, &request, &change)?;
    let changed = put_in(place, session, &request, &change, &manifest)?;
    follow(place, session, &kernel, changed);
    Ok(())
}

/// Regenerates the initramfs, if one of the modules belongs in it. That it fails is a warning: the modules are installed.
fn follow(place: &Place, session: &Session, kernel: &Kernel, changed: bool) {
    if !place.typed.no_initrd {
        initramfs::follow(session, &place.out, kernel, None, changed);
    }
}

/// The package's own script for the system, where its modules will be others than before.
fn before_install(
    place: &Place,
    session: &Session,
    request: &Request,
    change: &SetChange,
) -> Result<(), DkmsError> {
    let plan = flow::plan(session, request.kernel, change)?;
    if !scripts::arriving(&plan).any(|name| name == request.package.name) {
        return Ok(());
    }
    match scripts::before_install(session, request) {
        Err(error) if place.typed.force => warn(&kcache::error::chain(&error)),
        Err(error) => {
            let lines = ["pre_install failed, aborting install.", &kcache::error::chain(&error)];
            return Err(DkmsError::new(101, &lines));
        }
        Ok(()) => {}
    }
    Ok(())
}

fn already(place: &Place, what: &Version, state: &str, release: &str) {
    place.print(&format!(
        "Module {}/{} already {state} kernel {release} ({}), skip. You may override by specifying --force.",
        what.name,
        what.version,
        place.arch()
    ));
}

fn kernel_to_build_for(place: &Place, release: &str) -> Result<Kernel, DkmsError> {
    place.kernel(release)?.ok_or_else(|| no_headers(release))
}

fn no_headers(release: &str) -> DkmsError {
    if !release::is_plain(release) {
        return DkmsError::new(1, &[&format!("{} is no release of a kernel.", release.escape_debug())]);
    }
    DkmsError::new(
        21,
        &[
            &format!(
                "Your kernel headers for kernel {release} cannot be found at /lib/modules/{release}/build or /lib/modules/{release}/source."
            ),
            &format!(
                "Please install the linux-headers-{release} package or use the --kernelsourcedir option to tell DKMS where it's located."
            ),
        ],
    )
}

/// A build of a version for a kernel: from the store, a shared cache, or made.
fn obtained(place: &Place, session: &Session, request: &Request) -> Result<Manifest, DkmsError> {
    let Request { package, kernel, .. } = *request;
    let options = Options { rebuild: place.typed.force, ..Options::default() };
    let result =
        batch::obtain_all(session, std::slice::from_ref(request), &options, batch::Again::Never).remove(0);
    deploy::keep_counters(session);
    match result.answer {
        Ok(Resolution::Ready { manifest, .. }) => Ok(*manifest),
        Ok(Resolution::Fails { manifest, .. }) => Err(failed(package, kernel, place, &manifest)),
        Ok(Resolution::Excluded(reason)) => Err(DkmsError::new(
            77,
            &[
                &format!(
                    "The dkms.conf for module {} includes a BUILD_EXCLUSIVE directive which does not match this kernel/arch/config.",
                    package.name
                ),
                &format!("This indicates that it should not be built: {reason}."),
            ],
        )),
        Ok(Resolution::Refused(faults)) => {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            Err(DkmsError::new(6, &["Installation aborted.", &faults.join("; ")]))
        }
        Ok(Resolution::NoHeaders(_) | Resolution::NotCached | Resolution::NotAutomatic) => {
            Err(no_headers(&kernel.release))
        }
        Err(error) => Err(Failure::from(error).into()),
    }
}

fn failed(package: &Package, kernel: &Kernel, place: &Place, manifest: &Manifest) -> DkmsError {
    let release = &kernel.release;
    let first = match &manifest.outcome {
        Outcome::Failed { first_error, .. } => first_error.as_str(),
        Outcome::Built => "",
    };
    DkmsError::new(
        10,
        &[
            &format!("Bad return status for module build on kernel: {release} ({})", place.arch()),
            first,
            &format!("Consult `kcache log {} -k {release}` for more information.", package.name),
        ],
    )
}

/// Adds a build to a kernel's set; whether that changed it. What DKMS itself has installed of the package goes in the same
/// transaction.
fn put_in(
    place: &Place,
    session: &Session,
    request: &Request,
    change: &SetChange,
    manifest: &Manifest,
) -> Result<bool, DkmsError> {
    let Request { package, kernel, .. } = *request;
    let theirs = of_dkms(place, &package.name, kernel)?;
    let files = theirs.iter().flat_map(|(_, files)| files.clone()).collect();
    let done = flow::apply_with(session, kernel, change, &ForeignFiles::Drop(files))?;
    if scripts::arriving(&done.plan).any(|name| name == package.name) {
        scripts::after_install(session, request);
    }
    for (built, _) in theirs {
        place.records.forget_build(&built)?;
    }
    for output in manifest.outputs.iter().filter(|output| output.role == Role::Module) {
        place.print(&format!(
            "{}:\n - Installation\n   - Installing to /lib/modules/{}/updates/",
            output.name, kernel.release
        ));
    }
    Ok(done.changed)
}

/// Installs all packages that are installed automatically, for the selected kernel.
pub fn autoinstall(place: &Place) -> Result<u8, DkmsError> {
    let release = place.one_release("autoinstall")?;
    install_all(place, &release, true)
}

/// The same for a kernel that was installed, whose initramfs others generate afterwards.
pub fn of_kernel(place: &Place) -> Result<u8, DkmsError> {
    let release = place.named_release("kernel_postinst")?;
    install_all(place, &release, false)
}

fn install_all(place: &Place, release: &str, follows: bool) -> Result<u8, DkmsError> {
    let Some(kernel) = place.kernel(release)? else {
        return if place.known()?.is_empty() { Ok(0) } else { Err(no_headers(release)) };
    };
    let ran = for_kernel(&place.context, &place.out, release, true)?;
    if follows {
        follow(place, &session(place)?, &kernel, ran.changed);
    }
    match ran.exit {
        Exit::Done => Ok(0),
        _ => Err(DkmsError::new(
            11,
            &[
                "One or more modules failed to install during autoinstall.",
                "Refer to previous errors for more information.",
            ],
        )),
    }
}

/// Installs for one kernel what another has installed (`match --templatekernel`).
pub fn match_kernel(place: &Place) -> Result<u8, DkmsError> {
    let Some(template) = &place.typed.template else {
        return Err(DkmsError::new(
            1,
            &[
                "Invalid number of parameters passed.",
                "Usage: match --templatekernel=<kernel-version> -k <kernel-version>",
                "   or: match --templatekernel=<kernel-version> -k <kernel-version> <module>",
            ],
        ));
    };
    let release = &place.one_release("match")?;
    if release == template {
        return Err(DkmsError::new(
            2,
            &["The templatekernel and the specified kernel version are the same."],
        ));
    }
    let mut meant = Vec::new();
    for what in place.known()? {
        let of_template = place.standings(&what)?.into_iter().find(|standing| standing.kernel == *template);
        if of_template.is_some_and(|standing| standing.installed) {
            meant.push(what);
        }
    }
    if let Some(module) = &place.typed.module {
        if !place.known()?.iter().any(|what| what.name == *module) {
            return Err(DkmsError::new(
                3,
                &[&format!("The module: {module} is not located in the DKMS tree.")],
            ));
        }
        meant.retain(|what| what.name == *module);
    }
    place.print(&format!(
        "\nMatching modules in kernel: {release} ({0})\nto the configuration of kernel: {template} ({0})",
        place.arch()
    ));
    if meant.is_empty() {
        place.print("\nThere is nothing to be done for this match.");
    }
    let session = session(place)?;
    for what in meant {
        answer(&format!("Module:  {}\nVersion: {}", what.name, what.version));
        install(place, &session, &what, release)?;
    }
    Ok(0)
}
