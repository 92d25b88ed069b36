//! Prints the report of a run: one line for each package and each kernel.

use kcache::deploy::generation::Done;
use kcache::deploy::{self, KernelReport};
use kcache::error::Error;
use kcache::kernel::install::{Act, Indexed, InstallPlan, PackageChange, Remark};
use kcache::kernel::kernels::Kernel;
use kcache::kernel::outside::{self, Header};
use kcache::kernel::packages::Package;
use kcache::kernel::recipe::build_dir;
use kcache::resolve::batch::PackageResult;
use kcache::resolve::reproduce::Comparison;
use kcache::resolve::resolution::Resolution;
use kcache::run::policy::Need;
use kcache::run::request::{Request, Source};
use kcache::run::session::Session;
use kcache::shell::word;
use kcache::store::{CacheState, Outcome, Role};

use super::task::{Ran, Task};
use crate::exit::{Exit, Failure};
use crate::json::{self, Action};
use crate::out::{BAD, Cell, GOOD, ODD, Out, PLAIN, columns, of_packages};

/// Prints a line for each package of a kernel, and the result of its transaction.
pub fn print_kernel(session: &Session, out: &Out, task: &Task, kernel: &KernelReport, ran: &mut Ran) {
    let failure = match &kernel.transaction {
        Some(Err(error)) => Some(kcache::error::chain(error)),
        _ => None,
    };
    ran.may_pass |= kernel.packages.iter().any(may_pass);
    let judge = |result| judge(result, task.install, failure.as_deref());
    let judged: Vec<Judged> = kernel.packages.iter().filter_map(judge).collect();
    let rows: Vec<Vec<Cell>> = judged.iter().map(|judged| row(&judged.record)).collect();
    for (judged, line) in judged.into_iter().zip(of_packages(&rows)) {
        // Who names a package wants it, whatever the configuration says.
        let is_optional =
            task.which.packages.is_empty() && deploy::need(session.context, judged.request) == Need::Optional;
        let name = judged.request.package.name.clone();
        ran.states.push(judged.record.state);
        ran.lacks_builds |= judged.record.reason.is_some() && !judged.request.package.has_source();
        let exit = print(out, judged, &line, is_optional);
        if exit != Exit::Done {
            ran.failed.push(name);
        }
        ran.exit = ran.exit.or(exit);
    }
    match &kernel.transaction {
        Some(Ok(done)) => report_done(out, kernel.kernel, done, kernel.seconds),
        Some(Err(error)) => ran.exit = ran.exit.or(report_error(out, kernel.kernel, error)),
        None => {}
    }
}

/// Whether a package may come later without anybody's changing this host.
fn may_pass(result: &PackageResult) -> bool {
    let request = &result.request;
    match &result.answer {
        Ok(Resolution::NoHeaders(lack)) => lack.reason.may_pass(),
        Ok(Resolution::NotCached) => true,
        // A builder said so; what this host tried itself stays.
        Ok(Resolution::Fails { .. }) => {
            request.kernel.build_tree().is_none() || !request.package.has_source()
        }
        Err(error) => error.lacks_tools() || Failure::of(error).exit == Exit::Busy,
        Ok(_) => false,
    }
}

/// Says at the end of a run how many packages ended how, if there are several; for programs, what became of each cache.
pub fn summarize(session: &Session, out: &Out, ran: &Ran) {
    if out.json {
        for (url, state) in session.context.caches().states() {
            let (state, error) = match state {
                CacheState::NotAsked => ("not-asked", None),
                CacheState::Answered => ("answered", None),
                CacheState::Unreachable(why) => ("unreachable", Some(why)),
            };
            out.record(&json::AskedCache { r#type: "cache", url, state, error });
        }
    }
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for state in &ran.states {
        match counts.iter_mut().find(|(word, _)| word == state) {
            Some((_, count)) => *count += 1,
            None => counts.push((state, 1)),
        }
    }
    if ran.states.len() > 1 {
        let parts: Vec<String> = counts.iter().map(|(word, count)| format!("{count} {word}")).collect();
        out.print(&parts.join(", "));
    }
}

/// Says why nothing of a kernel was changed, which is no other kernel's matter; the exit code.
pub fn report_error(out: &Out, kernel: &Kernel, error: &Error) -> Exit {
    let failure = Failure::of(error);
    if out.json {
        out.record(&generation_failed(kernel, &failure));
    }
    let message = format!("kernel {}: {}", kernel.release, failure.message);
    out.failure(&Failure { message, ..failure });
    failure.exit
}

/// One result as it will be printed.
struct Judged<'a> {
    request: &'a Request<'a>,
    record: json::Record,
    hint: Option<String>,
    /// The exit code that it alone would have.
    exit: Exit,
}

/// Prints the result of an installation of one package; the exit code that it alone would have.
pub fn report(out: &Out, result: &PackageResult) -> Exit {
    let Some(judged) = judge(result, true, None) else { return Exit::Done };
    let line = columns(&[row(&judged.record)]);
    print(out, judged, &line, false)
}

/// What there is to print of a result, if anything. `not_installed` says why nothing of this kernel was installed.
fn judge<'a>(result: &'a PackageResult, install: bool, not_installed: Option<&str>) -> Option<Judged<'a>> {
    let mut record = json::Record {
        r#type: "result",
        package: result.request.package.name.clone(),
        version: result.request.package.version.clone(),
        kernel: result.request.kernel.release.clone(),
        state: "built",
        how: None,
        cache: None,
        key: None,
        seconds: result.seconds,
        modules: Vec::new(),
        reason: None,
        error: None,
        again: result.comparison.as_ref().map(|compared| match compared {
            Comparison::Same => "same",
            Comparison::Different(_) => "different",
        }),
    };
    let mut hint = None;
    let exit = match &result.answer {
        Ok(Resolution::Ready { manifest, found }) => {
            record.how = Some(how(found, "store"));
            record.cache = cache(found);
            record.key = Some(manifest.key.to_string());
            record.version = manifest.labels.get("version").cloned().unwrap_or(record.version);
            record.modules =
                manifest.outputs.iter().filter(|o| o.role == Role::Module).map(|o| o.name.clone()).collect();
            record.state = match found {
                _ if install => "installed",
                Source::Shared(_) => "fetched",
                Source::Store | Source::Built => "built",
            };
            ready(&mut record, result, not_installed)
        }
        Ok(Resolution::Fails { manifest, found }) => {
            record.how = Some(how(found, "failure-remembered"));
            record.cache = cache(found);
            record.key = Some(manifest.key.to_string());
            hint = Some(where_the_log_is(result, found));
            if let Outcome::Failed { first_error, .. } = &manifest.outcome {
                record.error = Some(first_error.clone());
                if let Some(header) = outside_header(result.request.package, first_error) {
                    record.error = Some(format!("{first_error}; {}", header.0));
                    hint = Some(header.1);
                }
            }
            ended(&mut record, "failed", Exit::BuildFailed)
        }
        Ok(Resolution::Excluded(reason)) => {
            record.error = Some(reason.clone());
            ended(&mut record, "excluded", Exit::Done)
        }
        Ok(Resolution::NotAutomatic) => return None,
        Ok(Resolution::NoHeaders(lack)) => {
            record.reason = Some(lack.reason.word());
            record.error = Some(lack.error.clone());
            hint = Some(lack.hint.clone());
            ended(&mut record, "no-headers", Exit::NoHeaders)
        }
        Ok(Resolution::NotCached) => {
            let disabled = if install { ", and building is disabled (--no-build)" } else { "" };
            record.error = Some(format!("no cache has a build of it{disabled}"));
            ended(&mut record, "missing", Exit::NotReady)
        }
        Ok(Resolution::Refused(faults)) => {
            record.error = Some(faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
            ended(&mut record, "refused", Exit::Refused)
        }
        Err(error) => {
            let failure = Failure::of(error);
            record.error = Some(failure.message);
            hint = failure.hint;
            let state = if failure.exit == Exit::BuildFailed { "failed" } else { "error" };
            ended(&mut record, state, failure.exit)
        }
    };
    Some(Judged { request: &result.request, record, hint, exit })
}

/// Prints one result and its error. An optional package's error is a warning.
fn print(out: &Out, judged: Judged, line: &str, optional: bool) -> Exit {
    let Judged { request, record, hint, exit } = judged;
    if out.json {
        out.record(&record)
    } else {
        out.data(line)
    }
    let error = record.error.unwrap_or_default();
    if exit != Exit::Done && optional && exit != Exit::Interrupted {
        out.warn(&format!("{}: {error} (optional)", request.name()));
        return Exit::Done;
    }
    if exit != Exit::Done {
        out.failure(&Failure { exit, message: format!("{}: {error}", request.name()), hint });
    }
    exit
}

fn ended(record: &mut json::Record, state: &'static str, exit: Exit) -> Exit {
    record.state = state;
    exit
}

/// Modules are there; were they installed, and are they the same when built again?
fn ready(record: &mut json::Record, result: &PackageResult, not_installed: Option<&str>) -> Exit {
    if let Some(reason) = not_installed {
        record.state = "error";
        record.error = Some(reason.to_owned());
        return Exit::Done; // the transaction's own error decides
    }
    match &result.comparison {
        Some(Comparison::Different(files)) => {
            record.state = "not-reproducible";
            let verb = if files.len() == 1 { "differs" } else { "differ" };
            record.error = Some(format!("not reproducible: {} {verb} on rebuild", files.join(", ")));
            Exit::NotReproducible
        }
        _ => Exit::Done,
    }
}

fn how(found: &Source, known: &'static str) -> &'static str {
    match found {
        Source::Store => known,
        Source::Shared(_) => "shared-cache",
        Source::Built => "built",
    }
}

fn cache(found: &Source) -> Option<String> {
    match found {
        Source::Shared(url) => Some(url.clone()),
        Source::Store | Source::Built => None,
    }
}

/// What to say of an error about a header that is outside of the package's directory, and the hint.
fn outside_header(package: &Package, error: &str) -> Option<(String, String)> {
    let build = build_dir(&package.name, &package.version);
    let Header { path, both } = outside::header(&package.source, error, &build).ok()??;
    let source = package.source.display();
    let message = format!("{} is outside of {source}, and a build sees only that directory", path.display());
    Some((message, format!("give the directory that contains both: {}", word(&both.to_string_lossy()))))
}

fn where_the_log_is(result: &PackageResult, found: &Source) -> String {
    let (package, kernel) = (word(&result.request.package.name), &result.request.kernel.release);
    let again = if *found == Source::Built { "" } else { "; use `--rebuild` to try again" };
    format!("run `kcache log {package} -k {kernel}` for the whole log{again}")
}

/// One result for people: kernel, package, state, and where the build is from.
fn row(record: &json::Record) -> Vec<Cell> {
    let style = match record.state {
        "installed" | "built" | "fetched" => GOOD,
        "excluded" | "no-headers" => ODD,
        _ => BAD,
    };
    let how = match (record.state, record.how) {
        // The build was found; its installation failed.
        ("error", _) => String::new(),
        (_, Some("store")) => "from the store".to_owned(),
        ("fetched", Some(_)) => format!("in {:.1} s", record.seconds),
        ("failed", Some("shared-cache")) => "as on another host".to_owned(),
        (_, Some("shared-cache")) => format!("fetched in {:.1} s", record.seconds),
        (_, Some("failure-remembered")) => "as before".to_owned(),
        ("failed", Some(_)) => format!("after {:.1} s", record.seconds),
        ("built", Some(_)) => format!("in {:.1} s", record.seconds),
        ("excluded", _) => record.error.clone().unwrap_or_default(),
        (_, Some(_)) => format!("built in {:.1} s", record.seconds),
        _ => String::new(),
    };
    let how = match record.again {
        Some("same") if record.how == Some("built") => format!("twice {how}: the same bits"),
        Some("same") => format!("{how}, rebuilt: the same bits"),
        _ => how,
    };
    let package = super::called(&record.package, &record.version);
    vec![(record.kernel.clone(), PLAIN), (package, PLAIN), (record.state.to_owned(), style), (how, PLAIN)]
}

/// Says what a transaction did, to packages that were reported one by one.
pub fn report_done(out: &Out, kernel: &Kernel, done: &Done, seconds: f64) {
    report_set(out, kernel, done, seconds, &[]);
}

/// Says what a transaction did, and to which packages.
pub fn report_changes(out: &Out, kernel: &Kernel, done: &Done, seconds: f64) {
    report_set(out, kernel, done, seconds, &changes(&done.plan.changes));
}

fn report_set(out: &Out, kernel: &Kernel, done: &Done, seconds: f64, changes: &[String]) {
    match &done.indexed {
        Some(Indexed::Here { read }) => {
            out.detail(&format!("{}: indexes updated without depmod, {read} modules read", kernel.release));
        }
        Some(Indexed::ByDepmod { reason }) => {
            out.detail(&format!("{}: indexes generated by depmod: {reason}", kernel.release));
        }
        None => {}
    }
    for remark in &done.remarks {
        match remark {
            Remark::Depmod(line) => out.detail(line),
            Remark::Shadowed(_) => {} // reported with its package
            Remark::Unlabeled(what) => {
                out.warn(&format!("{}: {what}", kernel.release));
                let tree = format!("/lib/modules/{}", kernel.release);
                out.hint(&format!("run `restorecon -R {tree}` in that system"));
            }
            Remark::Undone(what) => out.warn(&format!("{}: {what}", kernel.release)),
        }
    }
    if out.json {
        return out.record(&json::Generation {
            r#type: "generation",
            kernel: kernel.release.clone(),
            generation: done.generation.clone(),
            changed: done.changed,
            changes: done.plan.changes.iter().filter_map(record_of).collect(),
            seconds,
            error: None,
        });
    }
    let release = &kernel.release;
    let signed: Vec<&str> = done.signed().collect();
    if !signed.is_empty() {
        let signed = signed.join(", ");
        out.print(&match &done.signer {
            Some(signer) => format!("{release}: re-signed by {}: {signed}", signer.subject),
            None => format!("{release}: signatures removed: {signed}"),
        });
    }
    let did = match (&done.generation, done.changed) {
        (_, false) => return out.print(&format!("{release}: nothing to change")),
        (Some(generation), true) => format!("installed generation {generation}"),
        (None, true) if changes.is_empty() => "removed all of kcache's modules".to_owned(),
        (None, true) => "no module of kcache's remains".to_owned(),
    };
    let did = [changes, &[did]].concat().join("; ");
    out.print(&format!("{release}: {did} ({seconds:.1} s)"));
}

/// What happened to packages, a text for each action. Re-signed ones have a line of their own.
fn changes(all: &[PackageChange]) -> Vec<String> {
    let of = |act: Act, verb: &str| {
        let changed = all.iter().filter(|change| change.act == act);
        let names: Vec<String> = changed.map(name_of_change).collect();
        (!names.is_empty()).then(|| format!("{verb} {}", names.join(", ")))
    };
    [(Act::Remove, "removed"), (Act::Replace, "replaced"), (Act::Add, "added")]
        .into_iter()
        .filter_map(|(act, verb)| of(act, verb))
        .collect()
}

/// The package as it was; where another version replaced it, that too.
fn name_of_change(change: &PackageChange) -> String {
    let version = |version: &Option<String>| version.clone().unwrap_or_default();
    match (&change.from, &change.to) {
        (Some(from), Some(to)) if from != to => format!("{}/{from} with {to}", change.package),
        (from, to) => super::called(&change.package, &version(if from.is_some() { from } else { to })),
    }
}

fn record_of(change: &PackageChange) -> Option<json::GenerationChange> {
    Some(json::GenerationChange {
        action: action(change.act)?,
        package: change.package.clone(),
        from: change.from.clone(),
        to: change.to.clone(),
    })
}

/// `None` for a package that stays as it is.
fn action(act: Act) -> Option<Action> {
    match act {
        Act::Add => Some(Action::Add),
        Act::Replace => Some(Action::Replace),
        Act::Remove => Some(Action::Remove),
        Act::Sign => Some(Action::Resign),
        Act::Keep => None,
    }
}

fn generation_failed(kernel: &Kernel, failure: &Failure) -> json::Generation {
    json::Generation {
        r#type: "generation",
        kernel: kernel.release.clone(),
        generation: None,
        changed: false,
        changes: Vec::new(),
        seconds: 0.0,
        error: Some(failure.message.clone()),
    }
}

/// Prints a plan, one line a change.
pub fn report_plan(out: &Out, plan: &InstallPlan) {
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for change in &plan.changes {
        let Some(action) = action(change.act) else { continue };
        let version = change.to.as_ref().or(change.from.as_ref()).map_or("", String::as_str);
        if out.json {
            out.record(&json::Planned {
                r#type: "change",
                kernel: &plan.kernel,
                package: &change.package,
                version,
                act: action.act(true),
                action,
                reason: None,
            });
        } else {
            let package = format!("{}/{version}", change.package);
            let cells = [plan.kernel.clone(), package, action.words(true).to_owned()];
            rows.push(cells.map(|cell| (cell, PLAIN)).into());
        }
    }
    if !rows.is_empty() {
        out.data(&columns(&rows));
    }
    for fault in &plan.faults {
        out.print(&format!("{}: would repair: {fault}", plan.kernel));
    }
    if plan.is_nothing() {
        out.print(&format!("{}: nothing to change", plan.kernel));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_name_each_package_with_its_versions() {
        let change = |package: &str, act, from: Option<&str>, to: Option<&str>| PackageChange {
            package: package.to_owned(),
            act,
            from: from.map(str::to_owned),
            to: to.map(str::to_owned),
        };
        let all = [
            change("new", Act::Add, None, Some("1")),
            change("gone", Act::Remove, Some("1"), None),
            change("old", Act::Remove, Some("2"), None),
            change("kept", Act::Keep, Some("1"), Some("1")),
            change("signed", Act::Sign, Some("1"), Some("1")),
            change("rebuilt", Act::Replace, Some("1"), Some("1")),
            change("updated", Act::Replace, Some("1"), Some("2")),
        ];
        let expect = ["removed gone/1, old/2", "replaced rebuilt/1, updated/1 with 2", "added new/1"];
        assert_eq!(changes(&all), expect);
        assert!(changes(&all[3..5]).is_empty());
    }
}
