//! `kcache remove` and `kcache rollback`: remove modules; return to the previous generation.

use std::time::Instant;

use fs_err as fs;
use kcache::deploy::generation::{self, Done, SetChange};
use kcache::deploy::scripts;
use kcache::error::Error;
use kcache::kernel::dkms::Records;
use kcache::kernel::dkms::originals::{self, Original};
use kcache::kernel::install::{Act, Generation, base, current};
use kcache::kernel::kernels::{self, Kernel};
use kcache::kernel::packages;
use kcache::run::context::Context;
use kcache::run::request::Request;
use kcache::run::select;
use kcache::run::session::Session;

use super::initramfs;
use super::run_report::{report_changes, report_error, report_plan};
use crate::args::{Kernels, Remove};
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::Out;

pub fn remove(context: &Context, out: &Out, remove: &Remove, dry: bool) -> Result<Exit, Failure> {
    let mut kernels = meant(context, &remove.kernels)?;
    let asked = known_as(context, &kernels, &remove.packages)?;
    let present = |kernel: &Kernel| -> Vec<String> {
        let installed = names(kernel);
        if remove.all { installed } else { asked.iter().filter(|n| installed.contains(n)).cloned().collect() }
    };
    if remove.packages.is_empty() && !remove.all {
        return leftovers(context, out, &kernels, dry);
    }
    // A removal that was killed after its commit leaves nothing to remove, and a transaction to be finished.
    let settled = if dry { Exit::Done } else { settle(context, out, &mut kernels) };
    let is_unknown = |name: &&String| !kernels.iter().any(|kernel| names(kernel).contains(name));
    if let Some(unknown) = asked.iter().find(is_unknown).filter(|_| settled == Exit::Done) {
        let known: Vec<String> = kernels.iter().flat_map(names).collect();
        let nearest = select::nearest(unknown, known.iter().map(String::as_str));
        let message = format!("package '{unknown}' is not installed for any selected kernel");
        return Err(Failure::usage(message, nearest.map(|name| format!("did you mean '{name}'?"))));
    }
    kernels.retain(|kernel| !present(kernel).is_empty());
    if kernels.is_empty() && settled == Exit::Done {
        out.print("nothing to remove");
    }
    let removed: Vec<Vec<String>> = kernels.iter().map(present).collect();
    let changes: Vec<SetChange> = removed.iter().map(|names| SetChange::Remove(names)).collect();
    transact(context, out, &kernels, &changes, settled, dry)
}

/// The names that packages are installed under: that of a `dkms.conf` may be another than its directory's.
fn known_as(context: &Context, kernels: &[Kernel], asked: &[String]) -> Result<Vec<String>, Failure> {
    let (all, _) = packages::installed(&context.root)?;
    let known = |name: &String| {
        let is_installed = kernels.iter().any(|kernel| names(kernel).contains(name));
        let other = select::find(&all, name).filter(|_| !is_installed);
        other.map_or_else(|| name.clone(), |package| package.name.clone())
    };
    Ok(asked.iter().map(known).collect())
}

/// Removes everything of kcache's from the directories of removed kernels.
fn leftovers(context: &Context, out: &Out, kernels: &[Kernel], dry: bool) -> Result<Exit, Failure> {
    if let Some(kernel) = kernels.iter().find(|kernel| !kernel.is_leftover) {
        let message = format!("kernel {} is installed: which packages are to be removed?", kernel.release);
        return Err(Failure::usage(message, Some("name them, or give --all".to_owned())));
    }
    for kernel in kernels {
        let release = &kernel.release;
        let found = if dry { !names(kernel).is_empty() } else { generation::retire(context, release)? };
        match found {
            true if dry => out.print(&format!("{release}: would remove what kcache has left there")),
            true => out.print(&format!("{release}: removed what kcache had left there")),
            false => out.print(&format!("{release}: nothing of kcache's is left there")),
        }
    }
    Ok(Exit::Done)
}

pub fn rollback(context: &Context, out: &Out, asked: &Kernels, dry: bool) -> Result<Exit, Failure> {
    let mut kernels = meant(context, asked)?;
    if asked.kernels.is_empty() {
        kernels.retain(|kernel| generation(kernel).is_some_and(|generation| generation.previous.is_some()));
    }
    if kernels.is_empty() {
        return Err(Failure::usage("no kernel has a previous generation", None));
    }
    let changes: Vec<SetChange> = kernels.iter().map(|_| SetChange::RollBack).collect();
    transact(context, out, &kernels, &changes, Exit::Done, dry)
}

/// Kernels that were named, else every installed one, headers or not.
pub fn meant(context: &Context, asked: &Kernels) -> Result<Vec<Kernel>, Failure> {
    if asked.kernels.is_empty() {
        return Ok(kernels::installed(&context.root).map_err(Error::from)?);
    }
    super::kernels(context, asked, None)
}

/// Finishes or undoes what interrupted runs left. A kernel for which that is impossible is said, and left out.
fn settle(context: &Context, out: &Out, kernels: &mut Vec<Kernel>) -> Exit {
    let mut exit = Exit::Done;
    kernels.retain(|kernel| {
        let Some(tree) = kernel.modules.as_ref() else { return true };
        let settled = generation::recover(context, tree);
        let Err(error) = settled else { return true };
        exit = exit.or(report_error(out, kernel, &error));
        false
    });
    exit
}

fn generation(kernel: &Kernel) -> Option<Generation> {
    current(kernel.modules.as_ref()?).ok().flatten()
}

/// Also of packages of which nothing but their names is known any more.
fn names(kernel: &Kernel) -> Vec<String> {
    let base = kernel.modules.as_ref().and_then(|tree| base(tree).ok()).unwrap_or_default();
    let packages = base.generation.into_iter().flat_map(|generation| generation.set.packages);
    packages.map(|package| package.name).chain(base.lost).collect()
}

/// Gives back the in-tree modules that DKMS moved away because of packages that are removed. They are in place when the
/// indexes are made.
fn originals(session: &Session, kernel: &Kernel, change: &SetChange) -> Result<Vec<Original>, Error> {
    let SetChange::Remove(names) = change else { return Ok(Vec::new()) };
    let tree = generation::tree(session, kernel)?;
    let records = Records::of(&session.context.root)?;
    let own = || rustix::system::uname().machine().to_string_lossy().into_owned();
    let arch = kernel.build_tree().map_or_else(own, |tree| tree.arch.clone());
    let mut found = Vec::new();
    for name in *names {
        for original in records.originals(name, &kernel.release, &arch, tree)? {
            originals::give_back(tree, &original)?;
            found.push(original);
        }
    }
    Ok(found)
}

/// Deletes what DKMS kept of modules that are back in place.
fn forget_originals(out: &Out, kernel: &Kernel, originals: &[Original]) -> Result<(), Error> {
    for Original { kept, place } in originals {
        fs::remove_file(kept)?;
        let place = place.display();
        out.print(&format!("{}: restored {place}, which DKMS had moved away", kernel.release));
    }
    Ok(())
}

/// Runs the scripts of packages that are gone, as far as their source is still there.
fn after_remove(session: &Session, kernel: &Kernel, done: &Done) -> Result<(), Error> {
    let gone = done.plan.changes.iter().filter(|change| change.act == Act::Remove);
    let (all, _) = packages::installed(&session.context.root)?;
    for change in gone {
        let version = change.from.as_deref().unwrap_or_default();
        if let Some(package) = select::find(&all, &format!("{}/{version}", change.package)) {
            scripts::after_remove(session, &Request { package, kernel, all: &all, exact: true });
        }
    }
    Ok(())
}

fn transact(
    context: &Context,
    out: &Out,
    kernels: &[Kernel],
    changes: &[SetChange],
    before: Exit,
    dry: bool,
) -> Result<Exit, Failure> {
    let session = Session::new(context, context.open_existing_store()?)?;
    let mut exit = before;
    for (kernel, change) in kernels.iter().zip(changes) {
        super::interrupted(context)?;
        // A kernel that stays as it is keeps no other from being changed.
        exit = exit.or(match dry {
            true => planned(&session, out, kernel, change),
            false => transact_one(&session, out, kernel, change),
        });
    }
    if out.json {
        out.record(&json::Summary { r#type: "summary", exit: exit as u8 });
    }
    Ok(exit)
}

fn planned(session: &Session, out: &Out, kernel: &Kernel, change: &SetChange) -> Exit {
    match generation::plan(session, kernel, change) {
        Ok(plan) => {
            report_plan(out, &plan);
            Exit::Done
        }
        Err(error) => report_error(out, kernel, &error),
    }
}

fn transact_one(session: &Session, out: &Out, kernel: &Kernel, change: &SetChange) -> Exit {
    let start = Instant::now();
    let originals = match originals(session, kernel, change) {
        Ok(originals) => originals,
        Err(error) => return report_error(out, kernel, &error),
    };
    let before = generation(kernel);
    let done = match generation::apply(session, kernel, change) {
        Ok(done) => done,
        Err(error) => return report_error(out, kernel, &error),
    };
    report_changes(out, kernel, &done, start.elapsed().as_secs_f64());
    let ended = after_remove(session, kernel, &done).and_then(|()| forget_originals(out, kernel, &originals));
    match ended {
        Ok(()) => initramfs::follow(session, out, kernel, before.as_ref(), done.changed),
        Err(error) => report_error(out, kernel, &error),
    }
}
