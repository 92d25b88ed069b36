//! `kcache report`: collect the content of the HTML page. `crate::report` renders it.

use std::collections::BTreeMap;
use std::path::Path;

use kcache::kernel::build::printable;
use kcache::resolve::log;
use kcache::run::context::Context;
use kcache::run::request::Request;
use kcache::run::select::{self, Packages};
use kcache::run::session::Session;
use kcache::store::transport::without_credentials;
use kcache::store::{Outcome, Usage};
use kcache::verdict::{self, Survey, provenance};

use super::{interrupted, judging, report_oddities, running};
use crate::args::Report;
use crate::exit::{Exit, Failure};
use crate::file;
use crate::out::Out;
use crate::report::{self, Cache, Page};
use crate::settings::caches;

/// Of a log the last lines tell what went wrong; `kcache log` has all of them.
const LINES: usize = 40;
/// Characters of a line. Command lines of compilers are as long, and nobody reads further.
const WIDTH: usize = 600;

pub fn run(
    context: &Context,
    out: &Out,
    args: &Report,
    caches: &[caches::Cache],
    dry: bool,
) -> Result<Exit, Failure> {
    if out.json {
        let hint = "use `kcache status --json`";
        return Err(Failure::usage("report has no JSON output", Some(hint.into())));
    }
    let (session, packages, kernels) = judging(context, out, &args.which)?;
    let survey = verdict::survey(&session, &packages, &kernels)?;
    interrupted(context)?;
    report_oddities(out, context, &packages, &kernels);
    let (mut usage, mut counts) = (Usage::default(), BTreeMap::new());
    if let Some(store) = &session.store {
        (usage, counts) = (store.usage()?, store.counts()?);
    }
    let origins = survey.verdicts.iter().map(|verdict| provenance::of_kernel(&session, verdict.kernel));
    let page = Page {
        host: &super::context::hostname(),
        system: (context.root.dir() != Path::new("/")).then(|| context.root.dir().display().to_string()),
        now: context.now(),
        running: &running(),
        default: select::default_kernel(&context.root, context.default_kernel.as_deref())
            .map_err(|error| kcache::error::chain(&error)),
        survey: &survey,
        complete: args.which.kernels.kernels.is_empty(),
        unreadable: packages.broken.iter().map(|broken| kcache::error::chain(broken)).collect(),
        failures: failures(&session, &packages, &survey),
        origins: origins.collect::<Result<_, _>>()?,
        caches: caches.iter().map(cache).collect(),
        usage,
        counts,
    };
    let html = report::render(&page);
    if args.html == Path::new("-") {
        out.raw(html.as_bytes());
    } else if dry {
        out.print(&format!("would write {}", args.html.display()));
    } else {
        file::write(&args.html, |to| to.write_all(html.as_bytes()))?;
    }
    Ok(Exit::Done)
}

fn cache(cache: &caches::Cache) -> Cache {
    Cache { url: without_credentials(&cache.called()), write: cache.write }
}

/// The failed builds behind what is not well.
fn failures(
    session: &Session,
    packages: &Packages,
    survey: &Survey,
) -> BTreeMap<(usize, usize), report::Failure> {
    let mut failures = BTreeMap::new();
    for (kernel_at, verdict) in survey.verdicts.iter().enumerate() {
        for (at, (package, standing)) in survey.packages.iter().zip(&verdict.standings).enumerate() {
            let request = Request { package, kernel: verdict.kernel, all: &packages.all, exact: true };
            if !standing.state.is_good() && standing.built {
                failures.extend(failure(session, &request).map(|failure| ((kernel_at, at), failure)));
            }
        }
    }
    failures
}

/// A request's build, if it failed and its log is there.
fn failure(session: &Session, request: &Request) -> Option<report::Failure> {
    let (manifest, log) = log::last(session, request).ok()?;
    let Outcome::Failed { status, command, .. } = manifest.outcome else { return None };
    let (log, left_out) = end(&String::from_utf8_lossy(&log));
    Some(report::Failure { command, status, log, left_out })
}

/// The last lines of a log, and how many come before them.
fn end(log: &str) -> (String, usize) {
    let lines: Vec<&str> = log.lines().collect();
    let left_out = lines.len().saturating_sub(LINES);
    let shown = lines[left_out..].iter().map(|line| match line.char_indices().nth(WIDTH) {
        Some((end, _)) => printable(&line[..end]) + "…",
        None => printable(line),
    });
    (shown.collect::<Vec<_>>().join("\n"), left_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_the_last_lines_are_shown_and_of_a_long_line_the_beginning() {
        assert_eq!(end("a\nb\n"), ("a\nb".to_owned(), 0));
        assert_eq!(end(""), (String::new(), 0));
        let numbers: String = (0..100).map(|n| format!("{n}\n")).collect();
        let (shown, left_out) = end(&numbers);
        assert_eq!((shown.lines().next(), shown.lines().count(), left_out), (Some("60"), 40, 60));
        let (shown, _) = end(&"ä".repeat(WIDTH + 1));
        assert_eq!(shown.chars().count(), WIDTH + 1);
        assert!(shown.ends_with("ä…"), "{shown}");
    }
}
