//! `kcache lint`: report to a package's author what will go wrong with it.

use std::collections::BTreeSet;

use kcache::authoring;
use kcache::kernel::lint::{LintFinding, LintSeverity, RULES};
use kcache::kernel::packages::{Package, RecipeFile};
use kcache::run::context::Context;
use kcache::run::select;
use kcache::run::session::Session;

use super::{interrupted, kernels_with_headers, packages};
use crate::args::Lint;
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::{BAD, ODD, Out, PLAIN, paint};

pub fn run(context: &Context, out: &Out, args: &Lint) -> Result<Exit, Failure> {
    allowed_rules_exist(&args.allow)?;
    let packages = packages(context, out, &words(args))?;
    let kernels = kernels_with_headers(context, &args.kernels)?;
    if kernels.is_empty() {
        out.warn("no kernel with headers is installed; commands were not checked");
    }
    let session = Session::new(context, context.open_existing_store()?)?;
    let mut exit = Exit::Done;
    for package in &packages.chosen {
        if matches!(package.recipe, RecipeFile::Elsewhere) {
            return Err(kcache::error::Error::NoSource { package: package.name.clone() }.into());
        }
        let mut findings = authoring::lint(&session, package, &kernels)?;
        interrupted(context)?;
        findings.retain(|finding| !args.allow.iter().any(|name| name == finding.rule.name));
        print_findings(out, package, &findings);
        let worst = findings.iter().map(|finding| finding.rule.severity).min();
        let limit = if args.strict { LintSeverity::Warning } else { LintSeverity::Error };
        if worst.is_some_and(|worst| worst <= limit) {
            exit = Exit::NotReady;
        }
    }
    Ok(exit)
}

/// What is meant: without a word the directory one is in.
fn words(args: &Lint) -> Vec<String> {
    if args.packages.is_empty() { vec![".".to_owned()] } else { args.packages.clone() }
}

fn allowed_rules_exist(names: &[String]) -> Result<(), Failure> {
    let Some(unknown) = names.iter().find(|name| RULES.iter().all(|rule| rule.name != name.as_str())) else {
        return Ok(());
    };
    let nearest = select::nearest(unknown, RULES.iter().map(|rule| rule.name));
    Err(Failure::usage(
        format!("unknown rule '{unknown}'"),
        nearest.map(|name| format!("did you mean '{name}'?")),
    ))
}

fn print_findings(out: &Out, package: &Package, findings: &[LintFinding]) {
    let mut explained = BTreeSet::new();
    for finding in findings {
        if out.json {
            out.record(&record(package, finding));
            continue;
        }
        let severity = finding.rule.severity;
        let style = match severity {
            LintSeverity::Error => BAD,
            LintSeverity::Warning => ODD,
            LintSeverity::Note => PLAIN,
        };
        let word = paint(style, severity.word());
        out.data(&format!("{}: {word}: {} [{}]", place(package, finding), finding.what, finding.rule.name));
        if !out.quiet && explained.insert(finding.rule.name) {
            out.data(&format!("    why: {}", finding.rule.why));
            out.data(&format!("    instead: {}", finding.rule.instead));
        }
    }
    if !out.json {
        out.print(&format!("{package}: {}", count(findings)));
    }
}

/// `FILE:LINE`, as editors and compilers have it.
fn place(package: &Package, finding: &LintFinding) -> String {
    let path = package.source.join(&finding.file);
    let path = path.display();
    if finding.line == 0 { path.to_string() } else { format!("{path}:{}", finding.line) }
}

fn count(findings: &[LintFinding]) -> String {
    let of = |severity: LintSeverity| {
        let count = findings.iter().filter(|finding| finding.rule.severity == severity).count();
        let plural = if count == 1 { "" } else { "s" };
        (count > 0).then(|| format!("{count} {}{plural}", severity.word()))
    };
    let counts: Vec<String> =
        [LintSeverity::Error, LintSeverity::Warning, LintSeverity::Note].into_iter().filter_map(of).collect();
    if counts.is_empty() { "no findings".to_owned() } else { counts.join(", ") }
}

fn record(package: &Package, finding: &LintFinding) -> json::LintFinding {
    json::LintFinding {
        r#type: "finding",
        package: package.name.clone(),
        version: package.version.clone(),
        rule: finding.rule.name,
        severity: finding.rule.severity.word(),
        file: package.source.join(&finding.file).display().to_string(),
        line: (finding.line > 0).then_some(finding.line),
        what: finding.what.clone(),
        why: finding.rule.why,
        instead: finding.rule.instead,
    }
}
