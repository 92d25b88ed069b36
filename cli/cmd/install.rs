//! `kcache install` and `kcache build`: look up, or build; then, for `install`, one transaction a kernel.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kcache::ensure::{self, Answer, Found, Options, Wish};
use kcache::error::Error;
use kcache::facts::Session;
use kcache::install::{self, Change, Done};
use kcache::kernel::at_once::each;
use kcache::kernel::install::{Act, Indexed, Plan};
use kcache::kernel::kernels::Kernel;
use kcache::policy::Need;
use kcache::reproduce::{self, Comparison};
use kcache::schedule;
use kcache::scripts;
use kcache::select::Packages;
use kcache::store::{Manifest, Outcome};
use kcache::verdict::{self, State};
use kcache::world::World;

use crate::args::{Build, Install, Kernels, Pull, Selection};
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::{BAD, GOOD, ODD, Out, paint};
use crate::visible::word;

use super::{interrupted, say_oddities};

/// What `install` and `build` have in common.
struct Job<'a> {
    which: &'a Selection,
    rebuild: bool,
    fetch_only: bool,
    check: bool,
    install: bool,
}

/// What came of a run.
pub struct Ran {
    pub exit: Exit,
    /// Packages that are not there now, by name.
    pub failed: Vec<String>,
    /// Whether any kernel has other modules now.
    pub changed: bool,
}

pub fn install(world: &World, out: &Out, args: &Install, dry: bool) -> Result<Exit, Failure> {
    let Install { which, rebuild, no_build, .. } = args;
    let job = Job { which, rebuild: *rebuild, fetch_only: *no_build, check: false, install: true };
    run(world, out, &job, dry)
}

/// For one kernel all that is installed automatically: what a hook does. Without `install`, into the store only.
pub fn for_kernel(world: &World, out: &Out, release: &str, install: bool) -> Result<Ran, Failure> {
    let kernels = Kernels { kernels: vec![release.to_owned()] };
    let which = Selection { packages: Vec::new(), kernels };
    perform(world, out, &Job { which: &which, rebuild: false, fetch_only: false, check: false, install })
}

pub fn build(world: &World, out: &Out, args: &Build, dry: bool) -> Result<Exit, Failure> {
    let Build { which, rebuild, check, .. } = args;
    let job = Job { which, rebuild: *rebuild, fetch_only: false, check: *check, install: false };
    run(world, out, &job, dry)
}

pub fn pull(world: &World, out: &Out, args: &Pull, dry: bool) -> Result<Exit, Failure> {
    let job = Job { which: &args.which, rebuild: false, fetch_only: true, check: false, install: false };
    run(world, out, &job, dry)
}

fn run(world: &World, out: &Out, job: &Job, dry: bool) -> Result<Exit, Failure> {
    if dry {
        return dry_run(world, out, job);
    }
    let exit = perform(world, out, job)?.exit;
    if out.json {
        out.record(&json::Summary { r#type: "summary", exit: exit as u8 });
    }
    Ok(exit)
}

fn perform(world: &World, out: &Out, job: &Job) -> Result<Ran, Failure> {
    let session = Session::new(world, Some(world.open_store()?))?;
    let packages = super::packages(world, out, &job.which.packages)?;
    let kernels = super::kernels(world, &job.which.kernels, session.store.as_ref())?;
    say_oddities(out, world, &packages, &kernels);
    if job.install {
        may_sign(world, out)?;
        kernels.iter().try_for_each(|kernel| may_install(&session, kernel))?;
    }
    let wishes = wishes(world, &packages, &kernels);
    let options =
        Options { rebuild: job.rebuild, automatic_only: !packages.named, fetch_only: job.fetch_only };
    let mut results = have(&session, &wishes, &options, job.check);
    interrupted(world)?;
    let exit = if packages.broken.is_empty() { Exit::Done } else { Exit::BuildFailed };
    let mut ran = Ran { exit, failed: Vec::new(), changed: false };
    if job.install {
        kernels.iter().for_each(|kernel| before_install(&session, kernel, &mut results));
    }
    let of_kernel = |kernel: &Kernel| -> Vec<&Had> {
        results.iter().filter(|had| had.wish.kernel.release == kernel.release).collect()
    };
    let transactions = each(&kernels, world.jobs, |kernel| match job.install {
        true => transaction(&session, kernel, &of_kernel(kernel)),
        false => None,
    });
    for (kernel, transaction) in kernels.iter().zip(transactions) {
        finish(&session, out, job, kernel, &of_kernel(kernel), transaction, &mut ran);
    }
    keep_tally(&session, out);
    Ok(ran)
}

/// Keeps what was counted, for `kcache metrics`. The run has done what it was for, whatever comes of this.
pub fn keep_tally(session: &Session, out: &Out) {
    let Some(store) = &session.store else { return };
    if let Err(error) = session.tally.keep(store) {
        out.detail(&format!("not counted: {}", kcache::error::chain(&error)));
    }
}

/// Runs the packages' own scripts that come before a transaction; one that fails takes its package out of it.
fn before_install(session: &Session, kernel: &Kernel, results: &mut [Had]) {
    let of_kernel = |had: &&mut Had| had.wish.kernel.release == kernel.release;
    if !results.iter().any(|had| scripts::are_allowed(session, &had.wish)) {
        return;
    }
    let ready: Vec<Manifest> =
        results.iter_mut().filter(of_kernel).filter_map(|had| had.manifest().cloned()).collect();
    // What stands in the way of the plan stands in the way of the transaction, which says so.
    let Ok(plan) = install::plan(session, kernel, &Change::Add(&ready)) else { return };
    let arriving: Vec<&str> = scripts::arriving(&plan).collect();
    for had in results.iter_mut().filter(of_kernel) {
        let arrives = arriving.contains(&had.wish.package.name.as_str());
        if arrives && let Err(error) = scripts::before_install(session, &had.wish) {
            had.answer = Err(error);
        }
    }
}

/// What came of a kernel's transaction, and how long that took.
type Transacted = (Result<Done, Error>, Duration);

/// One transaction for a kernel, where there is anything to install.
fn transaction(session: &Session, kernel: &Kernel, results: &[&Had]) -> Option<Transacted> {
    let ready: Vec<Manifest> = results.iter().filter_map(|had| had.manifest().cloned()).collect();
    let start = Instant::now();
    let apply = || (install::apply(session, kernel, &Change::Add(&ready)), start.elapsed());
    (!ready.is_empty()).then(apply)
}

/// A line for each package, and what came of the transaction.
fn finish(
    session: &Session,
    out: &Out,
    job: &Job,
    kernel: &Kernel,
    results: &[&Had],
    transaction: Option<Transacted>,
    ran: &mut Ran,
) {
    let failure = match &transaction {
        Some((Err(error), _)) => Some(kcache::error::chain(error)),
        _ => None,
    };
    for had in results {
        // Who names a package wants it, whatever the configuration says.
        let optional = job.which.packages.is_empty() && need(session.world, &had.wish) == Need::Optional;
        let exit = report(out, had, job.install, optional, failure.as_deref());
        if exit != Exit::Done {
            ran.failed.push(had.wish.package.name.clone());
        }
        ran.exit = ran.exit.or(exit);
    }
    match transaction {
        Some((Ok(done), took)) => {
            ran.changed |= done.changed;
            report_done(out, kernel, &done, took.as_secs_f64());
            let arriving: Vec<&str> = scripts::arriving(&done.plan).collect();
            let arrived = results.iter().filter(|had| arriving.contains(&had.wish.package.name.as_str()));
            arrived.for_each(|had| scripts::after_install(session, &had.wish));
        }
        Some((Err(error), _)) => {
            let failure = Failure::from(error);
            if out.json {
                out.record(&generation_failed(kernel, &failure));
            }
            out.failure(&Failure {
                message: format!("kernel {}: {}", kernel.release, failure.message),
                ..failure
            });
            ran.exit = ran.exit.or(failure.exit);
        }
        None => {}
    }
}

/// Refuses early what could not be installed in the end.
pub fn may_install(session: &Session, kernel: &Kernel) -> Result<(), Error> {
    install::tree(session, kernel)?;
    install::signer(session, kernel).map(|_| ())
}

/// Refuses early where modules are to be signed and cannot be.
pub fn may_sign(world: &World, out: &Out) -> Result<(), Error> {
    let Some(signing) = &world.signing else { return Ok(()) };
    if let Some(warning) = signing.try_out((world.now)())? {
        out.say(&format!("warning: {warning}"));
    }
    Ok(())
}

/// Every package for every kernel, but for those that nobody asked for and the configuration says to ignore.
fn wishes<'a>(world: &World, packages: &'a Packages, kernels: &'a [Kernel]) -> Vec<Wish<'a>> {
    let is_wanted = |wish: &Wish| packages.named || need(world, wish) != Need::Ignored;
    kernels
        .iter()
        .flat_map(|kernel| {
            packages.chosen.iter().map(move |package| Wish { package, kernel, all: &packages.all })
        })
        .filter(is_wanted)
        .collect()
}

fn need(world: &World, wish: &Wish) -> Need {
    world.policy.need(&wish.package.name, &wish.kernel.release)
}

/// Tries to have these built, and says only what stands in the way of finding out whether they build.
pub fn attempt(session: &Session, out: &Out, wishes: &[Wish], options: &Options) {
    for had in have(session, wishes, options, false) {
        if let Err(error) = &had.answer {
            out.say(&format!("warning: {}: {}", had.wish.name(), kcache::error::chain(error)));
        }
    }
}

/// What came of one wish.
pub struct Had<'a> {
    pub wish: Wish<'a>,
    pub answer: Result<Answer, Error>,
    comparison: Option<Comparison>,
    seconds: f64,
}

impl Had<'_> {
    pub fn manifest(&self) -> Option<&Manifest> {
        match &self.answer {
            Ok(Answer::Ready { manifest, .. }) => Some(manifest),
            _ => None,
        }
    }
}

/// Works on all wishes. Where a host cannot build, and a shared cache was too slow, it is asked again, after a pause that
/// differs from host to host: a whole fleet may have asked at once, and the alternative is to give up. That ends with the
/// first round that was of no use, or, where a cache has answered before, with the sixth.
pub fn have<'a>(session: &Session, wishes: &[Wish<'a>], options: &Options, check: bool) -> Vec<Had<'a>> {
    let caches = &session.world.caches;
    let mut results = work(session, wishes, options, check);
    let is_lacking = |had: &Had| matches!(had.answer, Ok(Answer::NoHeaders(_)));
    let (mut before, mut useless) = (usize::MAX, 0);
    loop {
        let lacking = results.iter().filter(|had| is_lacking(had)).count();
        useless = if lacking < before { 0 } else { useless + 1 };
        let too_often = useless >= if caches.have_answered() { 6 } else { 1 };
        if lacking == 0 || too_often || session.world.cancelled() || !caches.forgive() {
            return results;
        }
        before = lacking;
        let pause = Duration::from_millis(1000 + u64::from(crate::confined::number()) % 4000);
        session.world.progress.say(&format!("asking again in {:.0} s", pause.as_secs_f64()));
        std::thread::sleep(pause);
        for had in results.iter_mut().filter(|had| is_lacking(had)) {
            had.answer = ensure::ensure(session, &had.wish, options);
        }
    }
}

fn work<'a>(session: &Session, wishes: &[Wish<'a>], options: &Options, check: bool) -> Vec<Had<'a>> {
    schedule::all(session, wishes, options, |wish, mut answer, took| {
        let (start, mut comparison) = (Instant::now(), None);
        if check && let Ok(Answer::Ready { manifest, .. }) = &answer {
            match reproduce::compare(session, wish, manifest) {
                Ok(compared) => comparison = Some(compared),
                Err(error) => answer = Err(error),
            }
        }
        Had { wish: *wish, answer, comparison, seconds: (took + start.elapsed()).as_secs_f64() }
    })
}

/// Prints one result; the exit code it alone would have. `not_installed` says why nothing of this kernel was installed.
pub fn report(out: &Out, had: &Had, install: bool, optional: bool, not_installed: Option<&str>) -> Exit {
    let mut record = json::Record {
        r#type: "result",
        package: had.wish.package.name.clone(),
        version: had.wish.package.version.clone(),
        kernel: had.wish.kernel.release.clone(),
        state: "built",
        how: None,
        cache: None,
        key: None,
        seconds: had.seconds,
        modules: Vec::new(),
        error: None,
    };
    let mut hint = None;
    let exit = match &had.answer {
        Ok(Answer::Ready { manifest, found }) => {
            record.how = Some(how(found, "store"));
            record.cache = cache(found);
            record.key = Some(manifest.key.to_string());
            record.version = manifest.labels.get("version").cloned().unwrap_or(record.version);
            record.modules =
                manifest.outputs.iter().filter(|o| o.name.ends_with(".ko")).map(|o| o.name.clone()).collect();
            record.state = match found {
                _ if install => "installed",
                Found::Shared(_) => "fetched",
                Found::Store | Found::Built => "built",
            };
            ready(&mut record, had, not_installed)
        }
        Ok(Answer::Fails { manifest, found }) => {
            record.how = Some(how(found, "failure-remembered"));
            record.cache = cache(found);
            record.key = Some(manifest.key.to_string());
            if let Outcome::Failed { first_error, .. } = &manifest.outcome {
                record.error = Some(first_error.clone());
            }
            hint = Some(where_the_log_is(had, found));
            ended(&mut record, "failed", Exit::BuildFailed)
        }
        Ok(Answer::Excluded(reason)) => {
            record.error = Some(reason.clone());
            ended(&mut record, "excluded", Exit::Done)
        }
        Ok(Answer::NotAutomatic) => return Exit::Done,
        Ok(Answer::NoHeaders(package)) => {
            let lacks = if had.wish.package.has_source() { "headers" } else { "source" };
            record.error = Some(format!("neither {lacks} nor a cached build are there"));
            hint = Some(package.clone());
            ended(&mut record, "no-headers", Exit::NoHeaders)
        }
        Ok(Answer::NotCached) => {
            record.error = Some("no cache has a build of it, and none was to be made".to_owned());
            ended(&mut record, "missing", Exit::NotReady)
        }
        Ok(Answer::Refused(faults)) => {
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
    if out.json {
        out.record(&record)
    } else {
        out.data(&line(&record))
    }
    let error = record.error.unwrap_or_default();
    if exit != Exit::Done && optional && exit != Exit::Interrupted {
        out.say(&format!("warning: {}: {error} (optional)", had.wish.name()));
        return Exit::Done;
    }
    if exit != Exit::Done {
        out.failure(&Failure { exit, message: format!("{}: {error}", had.wish.name()), hint });
    }
    exit
}

fn ended(record: &mut json::Record, state: &'static str, exit: Exit) -> Exit {
    record.state = state;
    exit
}

/// Modules are there; were they installed, and are they the same when built again?
fn ready(record: &mut json::Record, had: &Had, not_installed: Option<&str>) -> Exit {
    if let Some(reason) = not_installed {
        record.state = "error";
        record.error = Some(reason.to_owned());
        return Exit::Done; // the transaction's own error decides
    }
    match &had.comparison {
        Some(Comparison::Different(files)) => {
            record.state = "not-reproducible";
            record.error = Some(format!("built again, these came out otherwise: {}", files.join(", ")));
            Exit::NotReproducible
        }
        _ => Exit::Done,
    }
}

fn how(found: &Found, known: &'static str) -> &'static str {
    match found {
        Found::Store => known,
        Found::Shared(_) => "shared-cache",
        Found::Built => "built",
    }
}

fn cache(found: &Found) -> Option<String> {
    match found {
        Found::Shared(url) => Some(url.clone()),
        Found::Store | Found::Built => None,
    }
}

fn where_the_log_is(had: &Had, found: &Found) -> String {
    let (package, kernel) = (word(&had.wish.package.name), &had.wish.kernel.release);
    let again = if *found == Found::Built { "" } else { "; `--rebuild` tries again" };
    format!("`kcache log {package} -k {kernel}` shows the whole log{again}")
}

/// One result for people.
fn line(record: &json::Record) -> String {
    let style = match record.state {
        "installed" | "built" | "fetched" => GOOD,
        "excluded" | "no-headers" => ODD,
        _ => BAD,
    };
    let how = match (record.state, record.how) {
        (_, Some("store")) => "from the store".to_owned(),
        ("fetched", Some(_)) => format!("in {:.1} s", record.seconds),
        ("failed", Some("shared-cache")) => "as elsewhere".to_owned(),
        (_, Some("shared-cache")) => format!("fetched in {:.1} s", record.seconds),
        (_, Some("failure-remembered")) => "as before".to_owned(),
        ("failed", Some(_)) => format!("after {:.1} s", record.seconds),
        ("built", Some(_)) => format!("in {:.1} s", record.seconds),
        ("excluded", _) => record.error.clone().unwrap_or_default(),
        (_, Some(_)) => format!("built in {:.1} s", record.seconds),
        _ => String::new(),
    };
    let state = paint(style, record.state);
    let version = if record.version.is_empty() { "" } else { &format!("/{}", record.version) };
    format!("{}  {}{version}  {state}  {how}", record.kernel, record.package).trim_end().to_owned()
}

/// Says what a transaction did.
pub fn report_done(out: &Out, kernel: &Kernel, done: &Done, seconds: f64) {
    match &done.indexed {
        Some(Indexed::Here { read }) => {
            out.detail(&format!("{}: indexes updated without depmod, {read} modules read", kernel.release));
        }
        Some(Indexed::ByDepmod { reason }) => {
            out.detail(&format!("{}: indexes made by depmod: {reason}", kernel.release));
        }
        None => {}
    }
    for warning in &done.warnings {
        // What depmod remarks is for whoever wants to know more; what is left undone after the commit is for all.
        if warning.starts_with("depmod: ") {
            out.detail(warning);
        } else {
            out.say(&format!("warning: {}: {warning}", kernel.release));
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
        let by = done.signer.as_ref().map_or("nobody", |signer| &signer.subject);
        out.say(&format!("{release}: re-signed by {by}: {}", signed.join(", ")));
    }
    match (&done.generation, done.changed) {
        (_, false) => out.say(&format!("{release}: nothing to change")),
        (Some(generation), true) => {
            out.say(&format!("{release}: generation {generation} is in place ({seconds:.1} s)"))
        }
        (None, true) => out.say(&format!("{release}: no module of kcache is left ({seconds:.1} s)")),
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
pub fn report_plan(out: &Out, plan: &Plan) {
    for change in plan.changes.iter().filter(|change| change.act != Act::Keep) {
        let verb = match change.act {
            Act::Add => "would add",
            Act::Replace => "would replace",
            Act::Remove => "would remove",
            Act::Sign => "would sign anew",
            Act::Keep => continue,
        };
        let version = change.to.as_ref().or(change.from.as_ref()).map_or("", String::as_str);
        if out.json {
            out.record(&serde_json::json!({
                "type": "change", "kernel": plan.kernel, "package": change.package, "version": version, "act": verb,
            }));
        } else {
            out.data(&format!("{}  {}/{version}  {verb}", plan.kernel, change.package));
        }
    }
    for fault in &plan.faults {
        out.say(&format!("{}: would put right: {fault}", plan.kernel));
    }
    if plan.is_nothing() {
        out.say(&format!("{}: nothing to change", plan.kernel));
    }
}

/// What `install` or `build` would do: nothing is written, not even a store is made.
fn dry_run(world: &World, out: &Out, job: &Job) -> Result<Exit, Failure> {
    let session = Session::new(world, world.open_existing_store()?)?;
    let packages = super::packages(world, out, &job.which.packages)?;
    let kernels = super::kernels(world, &job.which.kernels, session.store.as_ref())?;
    say_oddities(out, world, &packages, &kernels);
    let mut resigned = BTreeMap::new();
    for kernel in kernels.iter().filter(|_| job.install) {
        may_install(&session, kernel)?;
        resigned.insert(&kernel.release, install::signs_anew(&session, kernel)?);
    }
    let survey = verdict::survey(&session, &packages, &kernels)?;
    for verdict in &survey.verdicts {
        let kernel = verdict.kernel;
        for (package, standing) in survey.packages.iter().zip(&verdict.standings) {
            let is_built = standing.built && !job.rebuild;
            let state = match standing.state {
                State::Ready if resigned.get(&kernel.release) == Some(&true) => "would sign anew",
                State::Ready | State::Excluded | State::NoHeaders => standing.state.word(),
                State::Fails if !job.rebuild => "would fail",
                State::Broken if job.install => "would repair",
                _ if is_built && job.install => "would install",
                _ if is_built => "is built",
                _ if job.fetch_only && !job.install => "would fetch",
                _ if job.fetch_only || !package.has_source() => "would fetch and install",
                _ if world.caches.is_empty() && job.install => "would build and install",
                _ if world.caches.is_empty() => "would build",
                _ if job.install => "would fetch or build, and install",
                _ => "would fetch or build",
            };
            if out.json {
                out.record(&serde_json::json!({
                    "type": "plan", "kernel": kernel.release, "package": package.name, "version": package.version,
                    "act": state, "reason": standing.reason.clone(),
                }));
            } else {
                let reason = standing.reason.as_ref().map_or(String::new(), |reason| format!("  {reason}"));
                out.data(&format!("{}  {package}  {state}{reason}", kernel.release));
            }
        }
    }
    Ok(Exit::Done)
}
