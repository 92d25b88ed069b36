//! `kcache install`, `build` and `pull`: turn arguments into a job for the flow, and print its report.

use kcache::deploy::{self, Job, RunReport};
use kcache::kernel::kernels::Kernel;
use kcache::resolve::batch::Again;
use kcache::run::context::Context;
use kcache::run::request::Options;
use kcache::run::select::Packages;
use kcache::run::session::Session;

use super::dry_run::dry_run;
use super::run_report::{print_kernel, summarize};
use super::task::{Ran, Task};
use super::{initramfs, report_oddities};
use crate::args::{Build, Install, Kernels, Pull, Selection};
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::Out;

pub fn install(context: &Context, out: &Out, args: &Install, dry: bool) -> Result<Exit, Failure> {
    let task = Task {
        fetch_only: args.no_build,
        install: true,
        by_hand: true,
        ..Task::building(&args.which, &args.building)
    };
    run(context, out, &task, dry)
}

pub fn build(context: &Context, out: &Out, args: &Build, dry: bool) -> Result<Exit, Failure> {
    let task = Task { check: args.check, ..Task::building(&args.which, &args.building) };
    run(context, out, &task, dry)
}

pub fn pull(context: &Context, out: &Out, args: &Pull, dry: bool) -> Result<Exit, Failure> {
    let task = Task { fetch_only: true, ..Task::of(&args.which) };
    run(context, out, &task, dry)
}

/// For one kernel all that is installed automatically: what a hook does. Without `install`, into the store only.
pub fn for_kernel(context: &Context, out: &Out, release: &str, install: bool) -> Result<Ran, Failure> {
    let kernels = Kernels { kernels: vec![release.to_owned()] };
    let which = Selection { packages: Vec::new(), kernels };
    perform(context, out, &Task { install, ..Task::of(&which) })
}

fn run(context: &Context, out: &Out, task: &Task, dry: bool) -> Result<Exit, Failure> {
    if dry {
        return dry_run(context, out, task);
    }
    let exit = perform(context, out, task)?.exit;
    if out.json {
        out.record(&json::Summary { r#type: "summary", exit: exit as u8 });
    }
    Ok(exit)
}

fn perform(context: &Context, out: &Out, task: &Task) -> Result<Ran, Failure> {
    let session = Session::new(context, Some(context.open_store()?))?;
    let packages = super::packages(context, out, &task.which.packages)?;
    let mut kernels = super::kernels(context, &task.which.kernels, session.store.as_ref())?;
    report_oddities(out, context, &packages, &kernels);
    if task.install {
        // What is built against the headers of another build of the kernel would be stale at once.
        kernels.iter_mut().for_each(Kernel::keep_to_image);
    }
    let report = deploy::run(&session, &job(task, &packages, &kernels))?;
    let mut ran = reported(&session, out, task, &packages, &report);
    if let Some(why) = context.elsewhere.unresolved.as_ref().filter(|_| !packages.named) {
        out.warn(why);
        ran.exit = ran.exit.or(Exit::NotReady);
    }
    Ok(ran)
}

fn job<'a>(task: &Task, packages: &'a Packages, kernels: &'a [Kernel]) -> Job<'a> {
    let options = Options {
        rebuild: task.rebuild,
        automatic_only: !packages.named,
        fetch_only: task.fetch_only,
        exact_tools: task.refresh_tools,
    };
    let again = match (task.check, task.verify) {
        (true, _) => Again::Always,
        (false, true) => Again::Found,
        (false, false) => Again::Never,
    };
    Job { packages, kernels, options, again, install: task.install }
}

/// Says what came of a run, kernel by kernel.
fn reported(session: &Session, out: &Out, task: &Task, packages: &Packages, report: &RunReport) -> Ran {
    let exit = if packages.broken.is_empty() { Exit::Done } else { Exit::BuildFailed };
    let changed = report.changed();
    let mut ran =
        Ran { exit, failed: Vec::new(), states: Vec::new(), lacks_builds: false, may_pass: false, changed };
    for kernel in &report.kernels {
        print_kernel(session, out, task, kernel, &mut ran);
    }
    if task.by_hand && !session.context.services.cancelled() {
        for kernel in &report.kernels {
            let Some(Ok(done)) = &kernel.transaction else { continue };
            ran.exit = ran.exit.or(initramfs::follow(session, out, kernel.kernel, None, done.changed));
        }
    }
    summarize(session, out, &ran);
    ran
}
