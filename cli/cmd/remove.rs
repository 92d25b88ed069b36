//! `kcache remove` and `kcache rollback`: less, or what was there before.

use std::time::Instant;

use kcache::deploy::generation::{self, Change, Done};
use kcache::deploy::scripts;
use kcache::error::Error;
use kcache::kernel::install::{Act, Generation, base, current};
use kcache::kernel::kernels::{self, Kernel};
use kcache::kernel::packages;
use kcache::run::context::Context;
use kcache::run::request::Request;
use kcache::run::select;
use kcache::run::session::Session;

use super::install::{report_done, report_plan};
use crate::args::{Kernels, Remove};
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::Out;

pub fn remove(context: &Context, out: &Out, remove: &Remove, dry: bool) -> Result<Exit, Failure> {
    let present = |kernel: &Kernel| -> Vec<String> {
        let installed = names(kernel);
        if remove.all {
            installed
        } else {
            remove.packages.iter().filter(|n| installed.contains(n)).cloned().collect()
        }
    };
    let mut kernels = meant(context, &remove.kernels)?;
    if !dry {
        // A removal that was killed after its commit leaves nothing to remove, and a transaction to be finished.
        settle(context, &kernels)?;
    }
    if let Some(unknown) =
        remove.packages.iter().find(|name| !kernels.iter().any(|k| names(k).contains(name)))
    {
        let known: Vec<String> = kernels.iter().flat_map(names).collect();
        let nearest = kcache::run::select::nearest(unknown, known.iter().map(String::as_str));
        let message = format!("package '{unknown}' is not installed for any of the kernels that are meant");
        return Err(Failure::usage(message, nearest.map(|name| format!("did you mean {name}?"))));
    }
    kernels.retain(|kernel| !present(kernel).is_empty());
    if kernels.is_empty() {
        out.say("nothing is installed: there is nothing to remove");
    }
    let removed: Vec<Vec<String>> = kernels.iter().map(present).collect();
    let changes: Vec<Change> = removed.iter().map(|names| Change::Remove(names)).collect();
    transact(context, out, &kernels, &changes, dry)
}

pub fn rollback(context: &Context, out: &Out, asked: &Kernels, dry: bool) -> Result<Exit, Failure> {
    let mut kernels = meant(context, asked)?;
    if asked.kernels.is_empty() {
        kernels.retain(|kernel| generation(kernel).is_some_and(|generation| generation.previous.is_some()));
    }
    if kernels.is_empty() {
        return Err(Failure::usage("no kernel has an earlier set of modules to go back to", None));
    }
    let changes: Vec<Change> = kernels.iter().map(|_| Change::RollBack).collect();
    transact(context, out, &kernels, &changes, dry)
}

/// Kernels that were named, else every installed one, headers or not.
pub fn meant(context: &Context, asked: &Kernels) -> Result<Vec<Kernel>, Failure> {
    if asked.kernels.is_empty() {
        return Ok(kernels::installed(&context.root).map_err(Error::from)?);
    }
    super::kernels(context, asked, None)
}

fn settle(context: &Context, kernels: &[Kernel]) -> Result<(), Failure> {
    let trees = kernels.iter().filter_map(|kernel| Some((&kernel.release, kernel.modules.as_deref()?)));
    for (release, tree) in trees {
        generation::recover(context, release, tree)?;
    }
    Ok(())
}

fn generation(kernel: &Kernel) -> Option<Generation> {
    current(kernel.modules.as_deref()?).ok().flatten()
}

/// Also of packages of which nothing but their names is known any more.
fn names(kernel: &Kernel) -> Vec<String> {
    let base = kernel.modules.as_deref().and_then(|tree| base(tree).ok()).unwrap_or_default();
    let packages = base.generation.into_iter().flat_map(|generation| generation.set.packages);
    packages.map(|package| package.name).chain(base.lost).collect()
}

/// Runs the scripts of packages that are gone, as far as their source is still there.
fn after_remove(session: &Session, kernel: &Kernel, done: &Done) -> Result<(), Failure> {
    let gone = done.plan.changes.iter().filter(|change| change.act == Act::Remove);
    let (all, _) = packages::installed(&session.context.root)?;
    for change in gone {
        let version = change.from.as_deref().unwrap_or_default();
        if let Some(package) = select::find(&all, &format!("{}/{version}", change.package)) {
            scripts::after_remove(session, &Request { package, kernel, all: &all });
        }
    }
    Ok(())
}

fn transact(
    context: &Context,
    out: &Out,
    kernels: &[Kernel],
    changes: &[Change],
    dry: bool,
) -> Result<Exit, Failure> {
    let session = Session::new(context, context.open_existing_store()?)?;
    for (kernel, change) in kernels.iter().zip(changes) {
        super::interrupted(context)?;
        if dry {
            report_plan(out, &generation::plan(&session, kernel, change)?);
            continue;
        }
        let start = Instant::now();
        let done = generation::apply(&session, kernel, change)?;
        report_done(out, kernel, &done, start.elapsed().as_secs_f64());
        after_remove(&session, kernel, &done)?;
    }
    if out.json {
        out.record(&json::Summary { r#type: "summary", exit: Exit::Done as u8 });
    }
    Ok(Exit::Done)
}
