//! `kcache push`: push builds to shared caches.

use std::collections::BTreeSet;

use kcache::inputs::key::is_for_one_cpu;
use kcache::inputs::undeclared;
use kcache::inputs::version;
use kcache::resolve::by_pointer;
use kcache::resolve::publish::{self, Publishable};
use kcache::run::context::Context;
use kcache::run::labels::Labels;
use kcache::run::session::Session;
use kcache::shell::word;
use kcache::store::{Entry, Pushed, SharedCache, SignEntry, Store};

use super::{interrupted, looking};
use crate::args::{Push, Selection};
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::{BAD, GOOD, ODD, Out, paint};
use crate::settings::caches::Cache;
use crate::settings::{Origin, Settings};

/// Makes the caches at these URLs the ones that are written to; none given: those that are configured so.
pub fn aim(settings: &mut Settings, to: &[String]) {
    if to.is_empty() {
        return;
    }
    for url in to {
        if !settings.caches.iter().any(|cache| cache.url == *url) {
            settings.caches.push(Cache::of_url(url, Origin::Flag("--to")));
        }
    }
    settings.caches.iter_mut().for_each(|cache| cache.write = to.contains(&cache.url));
}

/// An entry to push or export, or a package that has none.
pub enum Choice {
    Entry { entry: Box<Entry>, newest: bool },
    Missing { package: String, version: String, kernel: String, error: Option<Failure> },
}

pub fn push(context: &Context, out: &Out, args: &Push, dry: bool) -> Result<Exit, Failure> {
    if context.caches().writable().next().is_none() {
        return Err(Failure::usage(
            "no writable shared cache",
            Some("configure one with `write = true`, or name one with --to URL; do not use --offline".into()),
        ));
    }
    let sign = sign(context, args.adopt, args.unsigned);
    let (session, choices) = choices(context, out, &args.which, args.all)?;
    let mut exit = Exit::Done;
    if choices.is_empty() {
        out.print("nothing to push");
        exit = Exit::NotReady;
    }
    for choice in &choices {
        let (Choice::Entry { entry, newest }, Some(store)) = (choice, &session.store) else {
            exit = exit.or(report_missing(out, choice, dry));
            continue;
        };
        for cache in context.caches().writable() {
            interrupted(context)?;
            let result = match dry {
                true => None,
                false => Some(publish::push(&session, store, cache, entry, sign, *newest)),
            };
            exit = exit.or(report(out, entry, cache, result));
        }
    }
    publish::confirm(&session);
    Ok(exit)
}

/// How entries are signed before they leave this host.
pub fn sign(context: &Context, adopt: bool, unsigned: bool) -> SignEntry<'_> {
    match &context.services.signer {
        Some(key) => SignEntry::With { key, adopt },
        None if unsigned => SignEntry::Unsigned,
        None => SignEntry::Signed,
    }
}

/// What to share: the builds of what is meant as it is now, or all.
pub fn choices<'w>(
    context: &'w Context,
    out: &Out,
    which: &Selection,
    all: bool,
) -> Result<(Session<'w>, Vec<Choice>), Failure> {
    if all {
        let session = Session::new(context, context.open_existing_store()?)?;
        let mut choices = session.store.as_ref().map(everything).transpose()?.unwrap_or_default();
        choices.retain(|choice| may_be_shared(out, choice));
        return Ok((session, choices));
    }
    let (session, packages, kernels) = looking(context, out, which)?;
    let mut choices = Vec::new();
    for kernel in &kernels {
        for package in &packages.chosen {
            let request = version::request(&session, &packages, package, kernel);
            let missing = |error| Choice::Missing {
                package: package.name.clone(),
                version: package.version.clone(),
                kernel: kernel.release.clone(),
                error,
            };
            match publish::known(&session, &request) {
                Ok(Publishable::Entry(entry)) => choices.push(Choice::Entry { entry, newest: true }),
                Ok(Publishable::Excluded) => {}
                Ok(Publishable::Nothing) => choices.push(missing(None)),
                Err(error) => choices.push(missing(Some(error.into()))),
            }
        }
    }
    Ok((session, choices))
}

/// Whether an entry is of use to other hosts; reports one that is not.
fn may_be_shared(out: &Out, choice: &Choice) -> bool {
    let Choice::Entry { entry, .. } = choice else { return true };
    let for_one = is_for_one_cpu(&entry.manifest().fields);
    if for_one {
        let labels = Labels::of(entry.manifest());
        out.warn(&format!("skipping {} for {}: it depends on this host's CPU", labels.what(), labels.kernel));
    }
    !for_one
}

/// Every entry of a store. Of those of one package for one kernel the newest is pointed to.
fn everything(store: &Store) -> Result<Vec<Choice>, Failure> {
    let mut pointed = BTreeSet::new();
    let mut choices = Vec::new();
    for row in store.find(&[])? {
        let Some(entry) = store.lookup(&row.key)? else { continue };
        if !undeclared::is_known(entry.manifest()) {
            continue;
        }
        let newest = by_pointer::pointer_name(&entry).is_some_and(|name| pointed.insert(name));
        choices.push(Choice::Entry { entry: Box::new(entry), newest });
    }
    Ok(choices)
}

pub fn report_missing(out: &Out, choice: &Choice, dry_run: bool) -> Exit {
    let Choice::Missing { package, version, kernel, error } = choice else { return Exit::Done };
    let told = error.as_ref().map_or("not built", |failure| &failure.message);
    let state = if error.is_some() { "error" } else { "missing" };
    if out.json {
        out.record(&json::Push {
            r#type: "push",
            package: package.clone(),
            version: version.clone(),
            kernel: kernel.clone(),
            key: None,
            cache: None,
            state,
            dry_run,
            error: Some(told.to_owned()),
        });
    }
    let message = format!("{} for {kernel}: {told}", super::called(package, version));
    let hint = error.is_none().then(|| format!("run `kcache build {} -k {}`", word(package), word(kernel)));
    let exit = error.as_ref().map_or(Exit::NotReady, |failure| failure.exit);
    out.failure(&Failure { exit, message, hint });
    exit
}

/// Prints what became of one push; `None` where it was only to be said.
fn report(
    out: &Out,
    entry: &Entry,
    cache: &SharedCache,
    result: Option<kcache::error::Result<Pushed>>,
) -> Exit {
    let url = cache.url();
    let reported = matches!(&result, Some(Err(error)) if error.is_reported());
    let dry_run = result.is_none();
    let (state, style, exit, error) = match result {
        None => ("would push", GOOD, Exit::Done, None),
        Some(Ok(Pushed::New)) => ("pushed", GOOD, Exit::Done, None),
        Some(Ok(Pushed::Present)) => ("present", GOOD, Exit::Done, None),
        Some(Ok(Pushed::Cosigned(_))) => ("signed", GOOD, Exit::Done, None),
        Some(Ok(Pushed::Conflict(builder))) => {
            let told = format!(
                "conflict: {builder} pushed different outputs, which are kept; either the build is not reproducible, or one of the two builders cannot be trusted"
            );
            ("conflict", BAD, Exit::Refused, Some(Failure { exit: Exit::Refused, message: told, hint: None }))
        }
        Some(Err(error)) => {
            let failure = Failure::of(&error);
            ("error", ODD, failure.exit, Some(failure))
        }
    };
    let Labels { package, version, kernel, .. } = Labels::of(entry.manifest());
    if out.json {
        out.record(&json::Push {
            r#type: "push",
            package: package.to_owned(),
            version: version.to_owned(),
            kernel: kernel.to_owned(),
            key: Some(entry.manifest().key.to_string()),
            cache: Some(url.to_owned()),
            state,
            dry_run,
            error: error.as_ref().map(|failure| failure.message.clone()),
        });
    } else {
        out.data(&format!("{kernel}  {package}/{version}  {}  {url}", paint(style, state)));
    }
    if let Some(failure) = error {
        let message = match reported {
            true => publish::not_pushed(entry, cache),
            false => format!("{} for {kernel}: {}", super::called(package, version), failure.message),
        };
        out.failure(&Failure { message, ..failure });
    }
    exit
}
