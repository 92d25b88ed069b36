//! `kcache verify`: checks the store and installed modules byte by byte.

use kcache::deploy::verify::{self as installed, Damage};
use kcache::error::Error;
use kcache::run::context::Context;
use kcache::run::progress::size;
use kcache::run::session::Session;
use kcache::store::verify::{Finding, Repair, Repaired, Verified, verify};

use super::bundle::count;
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::Out;

/// Findings and repairs.
#[derive(Default)]
struct Counters {
    damaged: u64,
    repaired: u64,
}

pub fn run(context: &Context, out: &Out, repair: bool) -> Result<Exit, Failure> {
    let mut counters = Counters::default();
    let seen = stored(context, out, repair, &mut counters)?;
    let (kernels, damaged) = installed::installed(context)?;
    for damage in &damaged {
        kernel(context, out, repair, damage, &mut counters)?;
    }
    let exit = if counters.damaged > counters.repaired { Exit::Refused } else { Exit::Done };
    summary(out, seen, kernels, &counters, exit);
    if exit == Exit::Refused && !repair {
        out.hint("run `kcache verify --repair` to repair what is possible");
    }
    Ok(exit)
}

fn stored(context: &Context, out: &Out, repair: bool, counters: &mut Counters) -> Result<Verified, Failure> {
    let Some(store) = context.open_existing_store()? else {
        out.print(&format!("no store in {}", context.store.display()));
        return Ok(Verified::default());
    };
    let print = |message: &str| context.progress().print(message);
    let waiting = context.waiting(&print);
    let repairing = Repair { store: &store, caches: context.caches(), waiting: &waiting, now: context.now() };
    Ok(verify(&store, &context.services.cancel, &mut |finding| {
        let done = if repair { Some(repairing.repair(&finding)?) } else { None };
        if done != Some(Repaired::Nothing) {
            report_finding(out, &finding, done, counters);
        }
        Ok(())
    })?)
}

fn report_finding(out: &Out, finding: &Finding, done: Option<Repaired>, counters: &mut Counters) {
    let (word, words) = match done {
        Some(Repaired::Fetched) => (Some("fetched"), ": fetched again"),
        Some(Repaired::Deleted) => (Some("deleted"), ": deleted; will be fetched or rebuilt"),
        Some(Repaired::MadeAgain) => (Some("remade"), ": recreated"),
        Some(Repaired::Nothing) | None => (None, ""),
    };
    line(
        out,
        &finding.what.to_string(),
        &finding.path.display().to_string(),
        &finding.wrong,
        (word, words),
        counters,
    );
}

fn kernel(
    context: &Context,
    out: &Out,
    repair: bool,
    damage: &Damage,
    counters: &mut Counters,
) -> Result<(), Failure> {
    let left = match repair && damage.known {
        true => put_back(context, damage)?,
        false => damage.wrong.clone(),
    };
    for wrong in &damage.wrong {
        let done = if left.contains(wrong) { (None, "") } else { (Some("installed"), ": reinstalled") };
        line(out, "kernel", &damage.release, wrong, done, counters);
    }
    // The summary's hint comes first where --repair was not tried and could help.
    if !left.is_empty() && (repair || !damage.known) {
        out.hint(&format!("run `kcache install -k {}` to reinstall its modules", damage.release));
    }
    Ok(())
}

/// What is still wrong after the same set was installed again.
fn put_back(context: &Context, damage: &Damage) -> Result<Vec<String>, Failure> {
    let session = Session::new(context, context.open_existing_store()?)?;
    let kernel = installed::kernel(context, &damage.release)?;
    match installed::repair(&session, &kernel, damage) {
        Ok(left) => Ok(left),
        Err(error @ (Error::Cancelled | Error::Unsigned { .. })) => Err(error.into()),
        Err(error) => {
            context.progress().warn(&format!("{}: {}", damage.release, kcache::error::chain(&error)));
            Ok(damage.wrong.clone())
        }
    }
}

fn line(
    out: &Out,
    what: &str,
    path: &str,
    wrong: &str,
    done: (Option<&'static str>, &str),
    counters: &mut Counters,
) {
    counters.damaged += 1;
    counters.repaired += u64::from(done.0.is_some());
    if out.json {
        let (what, path, wrong) = (what.to_owned(), path.to_owned(), wrong.to_owned());
        let description = wrong.clone();
        let (r#type, repaired) = ("damage", done.0);
        return out.record(&json::Damage { r#type, what, path, wrong, description, repaired });
    }
    out.data(&format!("{what} {path}: {wrong}{}", done.1));
}

fn summary(out: &Out, seen: Verified, kernels: u64, counters: &Counters, exit: Exit) {
    let verdict = match (counters.damaged, counters.repaired) {
        (0, _) => "all intact".to_owned(),
        (damaged, 0) => format!("{damaged} corrupt"),
        (damaged, repaired) => format!("{damaged} corrupt, {repaired} repaired"),
    };
    out.print(&format!(
        "{} ({}), {}, {}, modules of {}: {verdict}",
        count(seen.objects, "object", "objects"),
        size(seen.bytes),
        count(seen.entries, "entry", "entries"),
        count(seen.pointers, "pointer", "pointers"),
        count(kernels, "kernel", "kernels"),
    ));
    if out.json {
        out.record(&json::Verified {
            r#type: "summary",
            exit: exit as u8,
            objects: seen.objects,
            bytes: seen.bytes,
            entries: seen.entries,
            pointers: seen.pointers,
            kernels,
            damaged: counters.damaged,
            corrupt: counters.damaged,
            repaired: counters.repaired,
        });
    }
}
