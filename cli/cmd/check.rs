//! `kcache check`: may I reboot into this kernel?

use kcache::inputs::change::listed;
use kcache::inputs::version;
use kcache::kernel::kernels::Kernel;
use kcache::run::context::Context;
use kcache::run::policy::Need;
use kcache::run::request::{Options, Request};
use kcache::run::select::Packages;
use kcache::run::session::Session;
use kcache::verdict::state::{Foreign, Standing, State};
use kcache::verdict::{self, Survey, Verdict, ready_file};

use super::status::{document, leftovers, of_version, painted, report_leftovers};
use super::{interrupted, judging, look_remotely, report_empty};
use crate::args::Check;
use crate::exit::{Exit, Failure};
use crate::out::{BAD, Cell, GOOD, Out, PLAIN, of_packages, paint};
use kcache::deploy;
use kcache::resolve::batch;

pub fn check(context: &Context, out: &Out, args: &Check, dry: bool) -> Result<Exit, Failure> {
    let (mut session, packages, kernels) = judging(context, out, &args.which)?;
    let mut survey = verdict::survey(&session, &packages, &kernels)?;
    if args.build && !dry {
        session = Session::new(context, Some(context.open_store()?))?;
        try_missing(&session, &packages, &survey, &kernels);
        survey = verdict::survey(&session, &packages, &kernels)?;
    }
    if args.remote {
        look_remotely(context, &packages, &mut survey, dry)?;
    }
    interrupted(context)?;
    if args.mark && !dry {
        survey.verdicts.iter().try_for_each(|verdict| ready_file::set(&context.root, verdict))?;
    }
    // No kernel at all, or a package that cannot even be read, is no reason to say "ready".
    let ready = survey.is_ready() && !kernels.is_empty() && packages.broken.is_empty();
    let leftovers = leftovers(context, &args.which.kernels)?;
    if out.json {
        out.document(&document(&survey, &leftovers, ready));
    } else if out.quiet {
        out.data(&one_line(context, &survey, ready));
    } else {
        report_empty(out, context, &packages, &kernels);
        survey.verdicts.iter().for_each(|verdict| print_verdict(out, &survey, verdict));
        report_leftovers(out, &leftovers);
    }
    Ok(if ready { Exit::Done } else { Exit::NotReady })
}

/// Builds what is not built yet, into the store only. What does not build is remembered there, which the next look finds.
fn try_missing(session: &Session, packages: &Packages, survey: &Survey, kernels: &[Kernel]) {
    let is_open = |standing: &Standing| {
        matches!(standing.state, State::Missing | State::Stale)
            && !standing.built
            && standing.need != Need::Ignored
    };
    let of_kernel = |(kernel, verdict): (_, &Verdict)| {
        let open = survey.packages.iter().zip(&verdict.standings).filter(|(_, standing)| is_open(standing));
        open.map(move |(package, _)| version::request(session, packages, package, kernel)).collect::<Vec<_>>()
    };
    let requests: Vec<Request> = kernels.iter().zip(&survey.verdicts).flat_map(of_kernel).collect();
    let options = Options { automatic_only: !packages.named, ..Options::default() };
    batch::attempt(session, &requests, &options);
    deploy::keep_counters(session);
}

/// One kernel's verdict: a line, and below it a table of what it is made of.
fn print_verdict(out: &Out, survey: &Survey, verdict: &Verdict) {
    let release = &verdict.kernel.release;
    let word = if verdict.ready { paint(GOOD, "ready") } else { paint(BAD, "not ready") };
    out.data(&format!("{release}: {word}"));
    let packages = survey.packages.iter().zip(&verdict.standings).map(|(package, standing)| {
        let reason = standing.reason.as_deref().unwrap_or_default();
        let optional = standing.need == Need::Optional && !standing.state.is_good();
        let reason = if optional { format!("(optional) {reason}") } else { reason.to_owned() };
        let reason = reason.trim_end().to_owned();
        vec![
            (format!("  {}", of_version(package, standing)), PLAIN),
            painted(standing.state),
            (reason, PLAIN),
        ]
    });
    let rows: Vec<Vec<Cell>> = packages.chain(verdict.foreign.iter().map(stranger)).collect();
    if !rows.is_empty() {
        out.data(&of_packages(&rows).join("\n"));
    }
    for warning in &verdict.warnings {
        out.warn(&format!("{release}: {warning}"));
    }
    for (package, standing) in survey.packages.iter().zip(&verdict.standings) {
        if !standing.tools_changed.is_empty() {
            let tools = listed(&standing.tools_changed);
            out.detail(&format!("{release}: {package} was built with other tools: {tools}"));
        }
    }
    for detail in &verdict.details {
        out.detail(&format!("{release}: {detail}"));
    }
}

fn stranger(Foreign { path, fault }: &Foreign) -> Vec<Cell> {
    let (word, style) = if fault.is_some() { ("broken", BAD) } else { ("loads", GOOD) };
    let fault = fault.as_ref().map_or(String::new(), |fault| format!(": {fault}"));
    vec![(format!("  {path}"), PLAIN), (word.to_owned(), style), (format!("foreign module{fault}"), PLAIN)]
}

/// Everything in one line, for logs and gates.
fn one_line(context: &Context, survey: &Survey, ready: bool) -> String {
    let in_the_way = |verdict: &Verdict| {
        let blocking =
            survey.packages.iter().zip(&verdict.standings).filter(|(_, standing)| standing.blocks());
        let mut words: Vec<String> = blocking
            .map(|(package, standing)| format!("{} {}", package.name, standing.state.word()))
            .collect();
        if words.is_empty() && context.elsewhere.unresolved.is_some() {
            words.push("no site file is known".to_owned());
        }
        if words.is_empty() {
            words.push("a foreign module is broken".to_owned());
        }
        format!("{} ({})", verdict.kernel.release, words.join(", "))
    };
    if ready {
        let releases: Vec<&str> =
            survey.verdicts.iter().map(|verdict| verdict.kernel.release.as_str()).collect();
        return format!("ready: {}", releases.join(", "));
    }
    let parts: Vec<String> =
        survey.verdicts.iter().filter(|verdict| !verdict.ready).map(in_the_way).collect();
    match parts.is_empty() {
        true => "not ready: no kernel installed, or a package cannot be read".to_owned(),
        false => format!("not ready: {}", parts.join("; ")),
    }
}
