//! `kcache adopt`: take over the modules that DKMS installed, in one transaction per kernel; `--undo` gives them back.

use std::time::Instant;

use kcache::deploy::adopt::{self, Adoptable};
use kcache::deploy::generation::{self as flow, SetChange};
use kcache::kernel::install::{ForeignFile, ForeignFiles, InstallPlan, current};
use kcache::kernel::kernels::Kernel;
use kcache::kernel::packages::Package;
use kcache::run::context::Context;
use kcache::run::request::{Options, Request};
use kcache::run::select::Packages;
use kcache::run::session::Session;
use kcache::store::Manifest;

use super::initramfs;
use super::remove::meant;
use super::run_report::{report, report_done, report_plan};
use crate::args::Adopt;
use crate::exit::{Exit, Failure};
use crate::json::{self, Action};
use crate::out::{Cell, Out, PLAIN, columns};
use kcache::deploy::may_install;
use kcache::resolve::batch::{Again, PackageResult, obtain_all};

pub fn adopt(context: &Context, out: &Out, args: &Adopt, dry: bool) -> Result<Exit, Failure> {
    let kernels = meant(context, &args.kernels)?;
    let store = if dry || args.undo { context.open_existing_store()? } else { Some(context.open_store()?) };
    let session = Session::new(context, store)?;
    let mut exit = Exit::Done;
    for kernel in kernels.iter().filter(|kernel| kernel.modules.is_some()) {
        super::interrupted(context)?;
        let one = match args.undo {
            true => undo(&session, out, kernel, dry),
            false => take_over(&session, out, kernel, dry),
        };
        // One kernel that stays as it is keeps no other from being taken over.
        exit = exit.or(one.unwrap_or_else(|failure| {
            out.failure(&Failure {
                message: format!("kernel {}: {}", kernel.release, failure.message),
                ..failure
            });
            failure.exit
        }));
    }
    if out.json {
        out.record(&json::Summary { r#type: "summary", exit: exit as u8 });
    }
    Ok(exit)
}

fn take_over(session: &Session, out: &Out, kernel: &Kernel, dry: bool) -> Result<Exit, Failure> {
    let packages = super::packages(session.context, out, &[])?;
    let candidates = adopt::candidates(session, kernel, &packages.all)?;
    if candidates.is_empty() {
        out.print(&format!("{}: DKMS has nothing installed", kernel.release));
        return Ok(Exit::Done);
    }
    may_install(session, kernel)?;
    let mut exit = Exit::Done;
    for candidate in &candidates {
        if let Err(reason) = &candidate.package {
            exit = exit.or(left(out, kernel, candidate, reason));
        }
    }
    if dry {
        candidates
            .iter()
            .filter(|c| c.package.is_ok())
            .for_each(|c| report_files(out, kernel, Action::TakeOver, &c.files, dry));
        return Ok(exit);
    }
    let (manifests, files) = build(session, out, kernel, &packages, &candidates, &mut exit);
    if !manifests.is_empty() {
        let taken = ForeignFiles::Take(files);
        exit = exit.or(transact(session, out, kernel, &SetChange::Add(&manifests), &taken, false)?);
    }
    Ok(exit)
}

/// Has the packages built, or fetched. Those that kcache has no build of are left to DKMS.
fn build(
    session: &Session,
    out: &Out,
    kernel: &Kernel,
    packages: &Packages,
    candidates: &[Adoptable],
    exit: &mut Exit,
) -> (Vec<Manifest>, Vec<ForeignFile>) {
    let (mut manifests, mut files) = (Vec::new(), Vec::new());
    let meant: Vec<(&Adoptable, &Package)> = candidates
        .iter()
        .filter_map(|candidate| Some((candidate, candidate.package.as_ref().ok()?)))
        .collect();
    let requests: Vec<Request> = meant
        .iter()
        .map(|(_, package)| Request { package, kernel, all: &packages.all, exact: true })
        .collect();
    for ((candidate, _), result) in
        meant.iter().zip(obtain_all(session, &requests, &Options::default(), Again::Never))
    {
        match stands_in(&result, candidate) {
            Ok(manifest) => {
                report(out, &result);
                manifests.push(manifest.clone());
                files.extend(candidate.files.iter().cloned());
            }
            Err(None) => {
                let told = report(out, &result);
                let why = if told == Exit::Done {
                    "it is excluded for this kernel"
                } else {
                    "kcache has no build of it"
                };
                *exit = exit.or(told).or(left(out, kernel, candidate, why));
            }
            Err(Some(reason)) => *exit = exit.or(left(out, kernel, candidate, &reason)),
        }
    }
    (manifests, files)
}

/// The build that takes DKMS's place; or why it cannot, where the answer itself does not say so.
fn stands_in<'a>(result: &'a PackageResult, candidate: &Adoptable) -> Result<&'a Manifest, Option<String>> {
    let manifest = result.manifest().ok_or(None)?;
    match adopt::lacks(manifest, &candidate.files) {
        Some(reason) => Err(Some(reason)),
        None => Ok(manifest),
    }
}

fn left(out: &Out, kernel: &Kernel, candidate: &Adoptable, reason: &str) -> Exit {
    let what = &candidate.built.what;
    out.warn(&format!("{}: {}/{} stays with DKMS: {reason}", kernel.release, what.name, what.version));
    Exit::NotReady
}

fn undo(session: &Session, out: &Out, kernel: &Kernel, dry: bool) -> Result<Exit, Failure> {
    let (others, names) = adopt::give_back(session, kernel)?;
    if others.is_nothing() {
        out.print(&format!("{}: nothing was taken over", kernel.release));
        return Ok(Exit::Done);
    }
    transact(session, out, kernel, &adopt::without(&names), &others, dry)
}

fn transact(
    session: &Session,
    out: &Out,
    kernel: &Kernel,
    change: &SetChange,
    others: &ForeignFiles,
    dry: bool,
) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    if dry {
        let plan: InstallPlan = flow::plan_with(session, kernel, change, others)?;
        report_plan(out, &plan);
    } else {
        let start = Instant::now();
        let before = kernel.modules.as_ref().and_then(|tree| current(tree).ok().flatten());
        let done = flow::apply_with(session, kernel, change, others)?;
        report_done(out, kernel, &done, start.elapsed().as_secs_f64());
        exit = initramfs::follow(session, out, kernel, before.as_ref(), done.changed);
    }
    match others {
        ForeignFiles::GiveBack(files) => report_files(out, kernel, Action::GiveBack, files, dry),
        ForeignFiles::Take(files) => report_files(out, kernel, Action::TakeOver, files, dry),
        ForeignFiles::Drop(_) | ForeignFiles::Untouched => {}
    }
    Ok(exit)
}

/// One line a file.
fn report_files(out: &Out, kernel: &Kernel, action: Action, files: &[ForeignFile], dry_run: bool) {
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for ForeignFile { package, path } in files {
        let path = path.display().to_string();
        if out.json {
            let kernel = kernel.release.clone();
            let (act, package) = (action.act(dry_run), package.clone());
            out.record(&json::Adopted { r#type: "file", kernel, package, path, act, action, dry_run });
        } else {
            let cells = [kernel.release.clone(), package.clone(), path, action.words(dry_run).to_owned()];
            rows.push(cells.map(|cell| (cell, PLAIN)).into());
        }
    }
    if !rows.is_empty() {
        out.data(&columns(&rows));
    }
}
