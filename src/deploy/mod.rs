//! Installs builds into kernels' trees: the use case behind `install`, `build`, `pull`, the hooks and `dkms autoinstall`.
//!
//! ```text
//! may it be signed and installed?   for each kernel, before anything is built
//! resolve                           every package for every kernel: found, fetched or built
//! resolve::conflicts                packages with modules of one name: they are left out, and nothing else
//! before_install                    the packages' own scripts; if one fails, its package is left out
//! one transaction per kernel        in parallel; a kernel that fails does not stop the others
//! after_install                     the packages' own scripts
//! ```
//!
//! The result is plain data, a [`RunReport`]; nothing is printed here.

pub mod adopt;
pub mod boot_repair;
pub mod debuginfo;
pub mod detached_signature;
pub mod gc;
pub mod generation;
pub mod retry;
pub mod scripts;
pub mod verify;

use std::time::Instant;

use kcache_kernel::install::{self, Fault, Remark};
use kcache_kernel::kernels::Kernel;
use kcache_kernel::module_name::ModuleName;
use kcache_kernel::modules;
use kcache_kernel::parallel::each;
use kcache_store::Manifest;

use crate::error::{Error, Result};
use crate::inputs::version;
use crate::resolve::batch::{self, Again, PackageResult};
use crate::resolve::resolution::Resolution;
use crate::resolve::{conflicts, local};
use crate::run::context::Context;
use crate::run::labels::Labels;
use crate::run::policy::Need;
use crate::run::request::{Options, Request};
use crate::run::select::Packages;
use crate::run::session::Session;
use crate::shell::word;
use generation::{Done, SetChange};

/// Input of [`run`].
pub struct Job<'a> {
    /// The selected packages.
    pub packages: &'a Packages,
    /// The selected kernels.
    pub kernels: &'a [Kernel],
    /// Whether to build, fetch or rebuild.
    pub options: Options,
    /// Build each once more and compare.
    pub again: Again,
    /// Install, and not only obtain.
    pub install: bool,
}

/// Result of a run.
pub struct RunReport<'a> {
    /// A report for each kernel, in the order of the job.
    pub kernels: Vec<KernelReport<'a>>,
}

/// Result for one kernel.
pub struct KernelReport<'a> {
    /// The kernel of the report.
    pub kernel: &'a Kernel,
    /// Result for each requested package.
    pub packages: Vec<PackageResult<'a>>,
    /// Result of its transaction; `None` if there was nothing to install.
    pub transaction: Option<Result<Done>>,
    /// Duration of the transaction in seconds.
    pub seconds: f64,
}

impl RunReport<'_> {
    /// Whether the modules of any kernel have changed.
    pub fn changed(&self) -> bool {
        let done = self.kernels.iter().filter_map(|report| report.transaction.as_ref()?.as_ref().ok());
        done.into_iter().any(|done| done.changed)
    }
}

/// Runs a job: obtains a build of each package for each kernel, and installs them if requested.
///
/// # Errors
///
/// Fails before anything is built if modules could not be signed or installed. Errors of single packages and kernels
/// are in the report.
pub fn run<'a>(session: &Session, job: &Job<'a>) -> Result<RunReport<'a>> {
    let context = session.context;
    if job.install {
        may_sign(context)?;
        job.kernels.iter().try_for_each(|kernel| may_install(session, kernel))?;
    }
    let mut results = batch::obtain_all(session, &requests(session, job), &job.options, job.again);
    if context.services.cancelled() {
        report_what_is_done(session, job, &results);
        return Err(Error::Cancelled);
    }
    let mut kernels: Vec<KernelReport> = job
        .kernels
        .iter()
        .map(|kernel| KernelReport { kernel, packages: Vec::new(), transaction: None, seconds: 0.0 })
        .collect();
    for report in &mut kernels {
        report.packages =
            results.extract_if(.., |result| result.request.kernel.release == report.kernel.release).collect();
    }
    if job.install {
        let mut replaced = Vec::new();
        for report in &mut kernels {
            replaced.push(conflicts::settle(session, job.packages, report.kernel, &mut report.packages));
            before_install(session, report);
            warn_of_excluded(session, report);
        }
        let jobs: Vec<(&KernelReport, Vec<String>)> = kernels.iter().zip(replaced).collect();
        let transactions =
            each(&jobs, context.jobs, |(report, replaced)| transaction(session, report, replaced));
        for (report, transaction) in kernels.iter_mut().zip(transactions) {
            (report.transaction, report.seconds) = (transaction.done, transaction.seconds);
            for result in &mut report.packages {
                let own = |(name, _): &(String, _)| *name == result.request.package.name;
                if let Some(at) = transaction.in_the_way.iter().position(own) {
                    result.answer = Err(install::Error::from(transaction.in_the_way[at].1.clone()).into());
                }
            }
            after_install(session, report);
        }
    }
    keep_counters(session);
    Ok(RunReport { kernels })
}

/// Reports what an interrupted run has done already: the next one finds it in the store.
fn report_what_is_done(session: &Session, job: &Job, results: &[PackageResult]) {
    let done = results.iter().filter(|result| result.manifest().is_some()).count();
    let installed = if job.install { "; nothing was installed" } else { "" };
    let total = requests(session, job).len();
    let progress = session.context.progress();
    progress.print(&format!("{done} of {total} builds are in the store{installed}"));
}

/// Saves the run's counters for `kcache metrics`. A failure is only a warning, because the run is done.
pub fn keep_counters(session: &Session) {
    let Some(store) = &session.store else { return };
    if let Err(error) = session.counters.keep(store) {
        session
            .context
            .progress()
            .detail(&format!("statistics not updated: {}", crate::error::chain(&error)));
    }
}

/// Checks before a build whether modules can be installed for a kernel.
pub fn may_install(session: &Session, kernel: &Kernel) -> Result<()> {
    generation::tree(session, kernel)?;
    generation::signer(session, kernel).map(drop)
}

/// Checks before a build whether modules can be signed, if they are to be.
pub fn may_sign(context: &Context) -> Result<()> {
    let Some(signing) = &context.services.signing else { return Ok(()) };
    if let Some(warning) = signing.try_out(context.now())? {
        context.progress().warn(&warning);
    }
    Ok(())
}

/// The policy's need of a package for a kernel.
pub fn need(context: &Context, request: &Request) -> Need {
    context.policy.need(&request.package.name, &request.kernel.release)
}

/// Every package for every kernel, but for those that nobody asked for and the configuration says to ignore.
fn requests<'a>(session: &Session, job: &Job<'a>) -> Vec<Request<'a>> {
    let packages = job.packages;
    let is_wanted = |request: &Request| packages.named || need(session.context, request) != Need::Ignored;
    let of_kernel = |kernel: &'a Kernel| {
        packages.chosen.iter().map(move |package| version::request(session, packages, package, kernel))
    };
    job.kernels.iter().flat_map(of_kernel).filter(is_wanted).collect()
}

/// Runs the packages' scripts before a transaction. A failure excludes the package.
fn before_install(session: &Session, report: &mut KernelReport) {
    if !report.packages.iter().any(|result| scripts::are_allowed(session, &result.request)) {
        return;
    }
    // If planning fails, so will the transaction, which reports the error.
    let Ok(plan) = generation::plan(session, report.kernel, &SetChange::Add(&ready(report))) else { return };
    let arriving: Vec<&str> = scripts::arriving(&plan).collect();
    for result in &mut report.packages {
        let arrives = arriving.contains(&result.request.package.name.as_str());
        if arrives && let Err(error) = scripts::before_install(session, &result.request) {
            result.answer = Err(error);
        }
    }
}

/// Result of one kernel's transaction.
struct Transacted {
    /// `None` if there was nothing to install.
    done: Option<Result<Done>>,
    seconds: f64,
    /// Packages for whose modules the kernel would load other files, with the first of these.
    in_the_way: Vec<(String, Fault)>,
}

/// Performs the transaction for a kernel, if there is anything to install. A package in whose way a foreign file is costs
/// no other one its installation: it is left out. One that is installed already stays, and is reported.
fn transaction(session: &Session, report: &KernelReport, replaced: &[String]) -> Transacted {
    let (mut ready, mut in_the_way) = (ready(report), Vec::new());
    let start = Instant::now();
    report_as_installed(session, report, &ready);
    warn_of_built_in(session, report.kernel, &ready);
    let done = loop {
        if ready.is_empty() {
            break None;
        }
        let done = generation::apply(session, report.kernel, &SetChange::Exchange(&ready, replaced));
        let fault = match &done {
            Err(Error::Install(install::Error::Unresolved(fault @ Fault::Shadowed { .. }))) => fault.clone(),
            _ => break Some(done),
        };
        match owner(&ready, &fault) {
            Some(at) => in_the_way.push((package_name(&ready.remove(at)), fault)),
            None => break Some(done),
        }
    };
    if let Some(Ok(done)) = &done {
        let shadowed = done.remarks.iter().filter_map(|remark| match remark {
            Remark::Shadowed(fault) => Some((package_name(&ready[owner(&ready, fault)?]), fault.clone())),
            Remark::Depmod(_) | Remark::Unlabeled(_) | Remark::Undone(_) => None,
        });
        in_the_way.extend(shadowed);
    }
    Transacted { done, seconds: start.elapsed().as_secs_f64(), in_the_way }
}

/// Which of the entries has the module of a fault.
fn owner(ready: &[Manifest], fault: &Fault) -> Option<usize> {
    let Fault::Shadowed { module, .. } = fault else { return None };
    ready.iter().position(|manifest| local::modules(manifest).iter().any(|own| own.name == *module))
}

fn package_name(manifest: &Manifest) -> String {
    Labels::of(manifest).package.to_owned()
}

/// Says which builds with another key than the installed ones came to the same modules.
fn report_as_installed(session: &Session, report: &KernelReport, ready: &[Manifest]) {
    let Some(generation) = session.installed(report.kernel) else { return };
    let installed = generation.wanted().packages;
    for manifest in ready.iter().filter(|manifest| generation::is_as_installed(&installed, manifest)) {
        let key = manifest.key.to_string();
        if installed.iter().all(|package| package.key != key) {
            let what = Labels::of(manifest).what();
            let release = &report.kernel.release;
            session
                .context
                .progress()
                .print(&format!("{release}: {what}: the new build has the modules that are installed"));
        }
    }
}

/// Warns of installed packages of which no version is meant for the kernel any more: they stay until somebody removes them.
fn warn_of_excluded(session: &Session, report: &KernelReport) {
    let Some(generation) = session.installed(report.kernel) else { return };
    let installed = generation.wanted().packages;
    for result in &report.packages {
        let Request { package, exact, .. } = result.request;
        let own = installed.iter().find(|installed| installed.name == package.name);
        if let (Ok(Resolution::Excluded(_)), Some(own), false) = (&result.answer, own, exact) {
            let (release, name) = (&report.kernel.release, &own.name);
            session.context.progress().warn(&format!(
                "{release}: {name}/{} is still installed, although {name} is not meant for this kernel any more",
                own.version
            ));
            session.context.progress().hint(&format!(
                "run `kcache remove {} -k {}`",
                word(name),
                word(release)
            ));
        }
    }
}

/// Warns of modules that the kernel has built in: they are installed for nothing.
fn warn_of_built_in(session: &Session, kernel: &Kernel, ready: &[Manifest]) {
    let Some(tree) = kernel.modules.as_deref() else { return };
    for manifest in ready {
        let names = local::modules(manifest).into_iter().map(|module| ModuleName::new(&module.name));
        let what = Labels::of(manifest).what();
        for name in modules::built_in(tree, &names.collect()).unwrap_or_default() {
            session.context.progress().warn(&format!(
                "{}: {what}: {}",
                kernel.release,
                modules::never_loaded(&name)
            ));
        }
    }
}

fn after_install(session: &Session, report: &KernelReport) {
    let Some(Ok(done)) = &report.transaction else { return };
    let arriving: Vec<&str> = scripts::arriving(&done.plan).collect();
    for result in &report.packages {
        if arriving.contains(&result.request.package.name.as_str()) {
            scripts::after_install(session, &result.request);
        }
    }
}

/// Entries to be installed.
fn ready(report: &KernelReport) -> Vec<Manifest> {
    report.packages.iter().filter_map(|result| result.manifest().cloned()).collect()
}
