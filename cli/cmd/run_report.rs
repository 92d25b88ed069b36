//! Prints the report of a run: one line for each package and each kernel.

use kcache::deploy::generation::Done;
use kcache::deploy::{self, KernelReport};
use kcache::error::Error;
use kcache::kernel::install::{Act, Indexed, InstallPlan, Remark};
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
use kcache::store::{Outcome, Role};

use super::task::{Ran, Task};
use crate::exit::{Exit, Failure};
use crate::json::{self, Action};
use crate::out::{BAD, Cell, GOOD, ODD, Out, PLAIN, columns, lines};

/// Prints a line for each package of a kernel, and the result of its transaction.
pub fn tell(session: &Session, out: &Out, task: &Task, kernel: &KernelReport, ran: &mut Ran) {
    let failure = match &kernel.transaction {
        Some(Err(error)) => Some(kcache::error::chain(error)),
        _ => None,
    };
    let judge = |result| judge(result, task.install, failure.as_deref());
    let judged: Vec<Judged> = kernel.packages.iter().filter_map(judge).collect();
    let rows: Vec<Vec<Cell>> = judged.iter().map(|judged| row(&judged.record)).collect();
    for (judged, line) in judged.into_iter().zip(lines(&rows)) {
        // Who names a package wants it, whatever the configuration says.
        let is_optional =
            task.which.packages.is_empty() && deploy::need(session.context, judged.request) == Need::Optional;
        let name = judged.request.package.name.clone();
        let exit = print(out, judged, &line, is_optional);
        if exit != Exit::Done {
            ran.failed.push(name);
        }
        ran.exit = ran.exit.or(exit);
    }
    if let Some(transaction) = &kernel.transaction {
        ran.exit = ran.exit.or(report_transaction(out, kernel.kernel, transaction, kernel.seconds));
    }
}

/// Says what came of a kernel's transaction, which is no other kernel's matter; its exit code.
pub fn report_transaction(
    out: &Out,
    kernel: &Kernel,
    transaction: &Result<Done, Error>,
    seconds: f64,
) -> Exit {
    let error = match transaction {
        Ok(done) => {
            report_done(out, kernel, done, seconds);
            return Exit::Done;
        }
        Err(error) => error,
    };
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
        Ok(Resolution::NoHeaders(package)) => {
            let lacks = if result.request.package.has_source() { "headers" } else { "source" };
            record.error = Some(format!("no {lacks} installed and no cached build available"));
            hint = Some(package.clone());
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
        (_, Some("failure-remembered")) => "remembered".to_owned(),
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

/// Says what a transaction did.
pub fn report_done(out: &Out, kernel: &Kernel, done: &Done, seconds: f64) {
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
            Remark::Undone(what) => out.warn(&format!("{}: {what}", kernel.release)),
        }
    }
    if out.json {
        return out.record(&json::Generation {
            r#type: "generation",
            kernel: kernel.release.clone(),
            generation: done.generation.clone(),
            changed: done.changed,
            seconds,
            error: None,
        });
    }
    let release = &kernel.release;
    let signed: Vec<&str> = done.signed().collect();
    if !signed.is_empty() {
        let signed = signed.join(", ");
        out.say(&match &done.signer {
            Some(signer) => format!("{release}: re-signed by {}: {signed}", signer.subject),
            None => format!("{release}: signatures removed: {signed}"),
        });
    }
    match (&done.generation, done.changed) {
        (_, false) => out.say(&format!("{release}: nothing to change")),
        (Some(generation), true) => {
            out.say(&format!("{release}: installed generation {generation} ({seconds:.1} s)"))
        }
        (None, true) => out.say(&format!("{release}: removed all of kcache's modules ({seconds:.1} s)")),
    }
}

fn generation_failed(kernel: &Kernel, failure: &Failure) -> json::Generation {
    json::Generation {
        r#type: "generation",
        kernel: kernel.release.clone(),
        generation: None,
        changed: false,
        seconds: 0.0,
        error: Some(failure.message.clone()),
    }
}

/// Prints a plan, one line a change.
pub fn report_plan(out: &Out, plan: &InstallPlan) {
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for change in plan.changes.iter().filter(|change| change.act != Act::Keep) {
        let action = match change.act {
            Act::Add => Action::Add,
            Act::Replace => Action::Replace,
            Act::Remove => Action::Remove,
            Act::Sign => Action::Resign,
            Act::Keep => continue,
        };
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
        out.say(&format!("{}: would repair: {fault}", plan.kernel));
    }
    if plan.is_nothing() {
        out.say(&format!("{}: nothing to change", plan.kernel));
    }
}
