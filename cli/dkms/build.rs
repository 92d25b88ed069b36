//! `dkms add`, `build`, `install`, `match` and `autoinstall`: kcache's flow, for one package and kernel at a time.

use fs_err as fs;
use kcache::deploy::generation::{self as flow, SetChange};
use kcache::deploy::scripts;
use kcache::error::Error;
use kcache::kernel::dkms::Version;
use kcache::kernel::install::ForeignFiles;
use kcache::kernel::kernels::Kernel;
use kcache::kernel::packages::Package;
use kcache::kernel::{recipe, release};
use kcache::resolve::conflicts;
use kcache::resolve::resolution::Resolution;
use kcache::run::labels::Labels;
use kcache::run::request::{Options, Request};
use kcache::run::session::Session;
use kcache::store::{Manifest, Outcome, Role};

use super::DkmsError;
use super::place::{NO_AUTOINSTALL, Place, of_dkms, session};
use super::print::{answer, complain, warn};
use super::source::{add_version, copy_source};
use super::{record, sanity};
use crate::cmd::initramfs;
use crate::cmd::install::for_kernel;
use crate::exit::{Exit, Failure};
use kcache::deploy;
use kcache::resolve::batch;

/// A package that this one builds against is missing.
const LACKS_DEPENDENCY: u8 = 13;

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
    place.check_broken(&what)?;
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
    check_source(place, &package)?;
    let request = Request { package: &package, kernel: &kernel, all: &all, exact: true };
    match obtained(place, session, &request)? {
        Some(manifest) => record::built(place, session, what, &kernel, &manifest),
        None => record::without_modules(place, what, release, false),
    }
}

/// Refuses the stub of a source that an archive of binaries had.
fn check_source(place: &Place, package: &Package) -> Result<(), DkmsError> {
    if fs::read_dir(&package.source)?.count() > 1 {
        return Ok(());
    }
    let source = place.records.dir().join(&package.name).join(&package.version).join("source");
    let line = format!(
        "The directory {} does not appear to have module source located within it.",
        source.display()
    );
    Err(DkmsError::new(8, &[&line, "Build halted."]))
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
    let manifest = match obtained(place, session, &request) {
        Ok(Some(manifest)) => manifest,
        Ok(None) => return record::without_modules(place, what, release, true),
        Err(trouble) => recorded(place, session, what, &request, trouble)?,
    };
    if !place.typed.force {
        sanity::check(place, session, &request, &manifest)?;
    }
    let replaced: Vec<String> = conflicts::replaced(session, &all, &kernel, &manifest)?.into_iter().collect();
    let change = SetChange::Exchange(std::slice::from_ref(&manifest), &replaced);
    before_install(place, session, &request, &change)?;
    let changed = put_in(place, session, &request, &change, &manifest)?;
    record::installed(place, session, what, &kernel, &manifest);
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

/// What was built with `--force` for lack of a package that it builds against, if its source is the same still.
fn recorded(
    place: &Place,
    session: &Session,
    what: &Version,
    request: &Request,
    trouble: DkmsError,
) -> Result<Manifest, DkmsError> {
    let records = if trouble.code == LACKS_DEPENDENCY { place.records.built(what)? } else { Vec::new() };
    let key =
        records.into_iter().find(|built| built.kernel == request.kernel.release).and_then(|built| built.key);
    let (Some(key), Some(store)) = (key.and_then(|key| key.parse().ok()), &session.store) else {
        return Err(trouble);
    };
    let Some(entry) = store.lookup(&key).map_err(Error::from)? else { return Err(trouble) };
    let manifest = entry.into_manifest();
    let source = session.source(request.package)?.digest.to_string();
    let is_same = manifest.outcome == Outcome::Built && Labels::of(&manifest).source == source;
    if is_same { Ok(manifest) } else { Err(trouble) }
}

/// A build of a version for a kernel: from the store, a shared cache, or made. `None` if the package has no modules.
fn obtained(place: &Place, session: &Session, request: &Request) -> Result<Option<Manifest>, DkmsError> {
    let Request { package, kernel, .. } = *request;
    let options = Options { rebuild: place.typed.force, ..Options::default() };
    let result =
        batch::obtain_all(session, std::slice::from_ref(request), &options, batch::Again::Never).remove(0);
    deploy::keep_counters(session);
    match result.answer {
        Ok(Resolution::Ready { manifest, .. }) => Ok(Some(*manifest)),
        Ok(Resolution::Fails { manifest, .. }) => Err(failed(place, session, request, &manifest)),
        Ok(Resolution::Excluded(reason)) if reason == recipe::NO_MODULES => Ok(None),
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
        Err(error) => Err(unbuildable(error)),
    }
}

/// Errors before a build, with DKMS's codes.
fn unbuildable(error: Error) -> DkmsError {
    let code = match &error {
        Error::Dependency { .. } => LACKS_DEPENDENCY,
        Error::Recipe(recipe::Error::Bad { reason, .. }) if reason.starts_with("PATCH ") => 5,
        Error::Recipe(recipe::Error::Bad { .. }) => 8,
        _ => return Failure::from(error).into(),
    };
    let trouble = DkmsError::from(error);
    DkmsError { code, ..trouble }
}

fn failed(place: &Place, session: &Session, request: &Request, manifest: &Manifest) -> DkmsError {
    let (release, arch) = (&request.kernel.release, place.arch());
    let Package { name, version, .. } = request.package;
    let log =
        record::failed(place, session, &Version { name: name.clone(), version: version.clone() }, manifest);
    let log = log.unwrap_or_else(|| format!("`kcache log {name} -k {release}`"));
    let (code, what, first) = match &manifest.outcome {
        Outcome::Failed { first_error, .. } if first_error.ends_with(": no such patch") => {
            (5, "A patch as specified in dkms.conf cannot be found.".to_owned(), first_error.as_str())
        }
        Outcome::Failed { command, first_error, .. } if command.starts_with("patch -p1 ") => {
            (6, format!("Application of a patch failed: {command}"), first_error.as_str())
        }
        Outcome::Failed { status: Some(0), first_error, .. } => {
            (7, format!("Build of {name} failed for: {release} ({arch})"), first_error.as_str())
        }
        Outcome::Failed { first_error, .. } => (
            10,
            format!("Bad return status for module build on kernel: {release} ({arch})"),
            first_error.as_str(),
        ),
        Outcome::Built => (10, String::new(), ""),
    };
    DkmsError::new(code, &[&what, first, &format!("Consult {log} for more information.")])
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
    forgiven(place, &release, install_all(place, &release, true))
}

/// The same for a kernel that was installed, whose initramfs others generate afterwards.
pub fn of_kernel(place: &Place) -> Result<u8, DkmsError> {
    let release = place.named_release("kernel_postinst")?;
    forgiven(place, &release, install_all(place, &release, false))
}

/// Variables that say who calls: a kernel's maintainer scripts, which have it from dpkg or set it for their hooks, and
/// kernel-install.
const CALLERS: [(&str, &str); 3] =
    [("DEB_MAINT_PARAMS", ""), ("DPKG_MAINTSCRIPT_PACKAGE", "linux-"), ("KERNEL_INSTALL_MACHINE_ID", "")];

/// A failure within a package manager's run is a warning unless `on-failure = "block"`, as for kcache's own hooks: those of the
/// package dkms call this program too, and would leave the kernel unconfigured.
fn forgiven(place: &Place, release: &str, done: Result<u8, DkmsError>) -> Result<u8, DkmsError> {
    let calls = |(name, begins): (&str, &str)| {
        std::env::var(name).is_ok_and(|value| !value.is_empty() && value.starts_with(begins))
    };
    match done {
        Err(trouble) if place.forgives && CALLERS.into_iter().any(calls) => {
            complain(&trouble.lines);
            warn(&format!(
                "do not reboot into {release} before `kcache check -k {release}` says that it is ready"
            ));
            Ok(0)
        }
        done => done,
    }
}

fn install_all(place: &Place, release: &str, follows: bool) -> Result<u8, DkmsError> {
    if place.context.root.find(NO_AUTOINSTALL).is_some() {
        place.print("Automatic installation of modules has been disabled.");
        return Ok(0);
    }
    let known = place.known()?;
    for what in known.iter().filter(|what| place.is_broken(what)) {
        complain(&place.check_broken(what).err().map(|trouble| trouble.lines).unwrap_or_default());
    }
    let Some(kernel) = place.kernel(release)? else {
        return if known.is_empty() { Ok(0) } else { Err(no_headers(release)) };
    };
    let ran = for_kernel(&place.context, &place.out, release, true)?;
    if follows {
        follow(place, &session(place)?, &kernel, ran.changed);
    }
    if !known.is_empty() {
        record::all_installed(place, &session(place)?, &kernel)?;
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
