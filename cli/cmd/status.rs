//! `kcache status`: packages x kernels.

use std::collections::BTreeSet;

use kcache::kernel::install::is_orphaned;
use kcache::kernel::kernels::{self, Kernel};
use kcache::kernel::packages::Package;
use kcache::run::context::Context;
use kcache::verdict::state::{Standing, State};
use kcache::verdict::{self, Survey, Verdict};

use super::{judging, look_remotely, report_empty};
use crate::args::{Kernels, Status};
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::{BAD, Cell, GOOD, ODD, Out, PLAIN, of_packages};

pub fn status(context: &Context, out: &Out, args: &Status, dry: bool) -> Result<Exit, Failure> {
    let selection = &args.which;
    let (session, packages, kernels) = judging(context, out, selection)?;
    let mut survey = verdict::survey(&session, &packages, &kernels)?;
    if args.remote {
        look_remotely(context, &packages, &mut survey, dry)?;
    }
    if out.json {
        let leftovers = leftovers(context, &selection.kernels)?;
        out.document(&document(&survey, &leftovers, survey.is_ready()));
        return Ok(Exit::Done);
    }
    report_empty(out, context, &packages, &kernels);
    if !survey.packages.is_empty() && !kernels.is_empty() {
        out.data(&matrix(&survey));
    }
    report_reasons(out, &survey);
    survey.verdicts.iter().for_each(|verdict| report_more(out, verdict));
    report_leftovers(out, &leftovers(context, &selection.kernels)?);
    Ok(Exit::Done)
}

/// Leftovers of removed kernels, unless kernels were named.
pub fn leftovers(context: &Context, asked: &Kernels) -> Result<Vec<Kernel>, Failure> {
    if !asked.kernels.is_empty() {
        return Ok(Vec::new());
    }
    let installed = kernels::installed(&context.root).map_err(kcache::error::Error::from)?;
    Ok(installed.into_iter().filter(|kernel| kernel.is_leftover).collect())
}

/// Says which directories are no kernels any more, and how to remove kcache's part of them.
pub fn report_leftovers(out: &Out, leftovers: &[Kernel]) {
    for kernel in leftovers {
        let release = &kernel.release;
        let is_ours = kernel.modules.as_ref().is_some_and(|tree| is_orphaned(tree).unwrap_or(true));
        let way = if is_ours {
            format!("; `kcache remove -k {release}` removes kcache's modules")
        } else {
            String::new()
        };
        out.print(&format!("{release}: leftover of a removed kernel, not counted{way}"));
    }
}

fn matrix(survey: &Survey) -> String {
    let plain = |text: String| (text, PLAIN);
    let releases = survey.verdicts.iter().map(|verdict| plain(verdict.kernel.release.clone()));
    let mut rows = vec![std::iter::once(plain("package".to_owned())).chain(releases).collect::<Vec<Cell>>()];
    for (at, package) in survey.packages.iter().enumerate() {
        let standings = || survey.verdicts.iter().map(|verdict| &verdict.standings[at]);
        let versions: BTreeSet<&str> = standings().map(|standing| standing.version.as_str()).collect();
        // Which version is for which kernel is shown where they differ.
        let cell = |standing: &Standing| {
            let (word, style) = painted(standing.state);
            if versions.len() < 2 { (word, style) } else { (format!("{word} {}", standing.version), style) }
        };
        let name = match standings().next().filter(|_| versions.len() < 2) {
            Some(standing) => of_version(package, standing).to_string(),
            None => package.name.clone(),
        };
        rows.push(std::iter::once(plain(name)).chain(standings().map(cell)).collect());
    }
    of_packages(&rows).join("\n")
}

/// A reason, with the packages and kernels it is of.
struct Reason<'a> {
    state: State,
    reason: &'a str,
    packages: Vec<String>,
    releases: Vec<&'a str>,
}

/// Under the table: what is not good, and why. Each reason once, with all packages and kernels that it is of.
fn report_reasons(out: &Out, survey: &Survey) {
    for Reason { state, reason, packages, releases } in reasons(survey) {
        let line = format!("{} for {}: {}: {reason}", packages.join(", "), releases.join(", "), state.word());
        let is_shown = !state.is_good() || state == State::Outdated;
        if is_shown { out.print(&line) } else { out.detail(&line) }
    }
}

fn reasons<'a>(survey: &'a Survey) -> Vec<Reason<'a>> {
    // The kernels of each package's reasons, then the packages with the same reason for the same kernels.
    let mut found: Vec<Reason> = Vec::new();
    for (at, package) in survey.packages.iter().enumerate() {
        let mut own: Vec<Reason> = Vec::new();
        for verdict in &survey.verdicts {
            let standing = &verdict.standings[at];
            let Some(reason) = standing.reason.as_deref() else { continue };
            let (state, release) = (standing.state, verdict.kernel.release.as_str());
            let packages = vec![of_version(package, standing).to_string()];
            let is_same =
                |one: &&mut Reason| one.state == state && one.reason == reason && one.packages == packages;
            match own.iter_mut().find(is_same) {
                Some(one) => one.releases.push(release),
                None => own.push(Reason { state, reason, packages, releases: vec![release] }),
            }
        }
        for one in own {
            let is_same = |other: &&mut Reason| {
                other.state == one.state && other.reason == one.reason && other.releases == one.releases
            };
            match found.iter_mut().find(is_same) {
                Some(other) => other.packages.extend(one.packages),
                None => found.push(one),
            }
        }
    }
    found
}

/// What else there is to say of a kernel.
fn report_more(out: &Out, verdict: &Verdict) {
    let release = &verdict.kernel.release;
    for foreign in &verdict.foreign {
        match &foreign.fault {
            Some(fault) => out.print(&format!("{release}: foreign module is broken: {fault}")),
            None => out.detail(&format!("{release}: foreign module will load: {}", foreign.path)),
        }
    }
    if let Some(signer) = &verdict.signer {
        out.detail(&format!("{release}: modules are signed by {}", signer.subject));
    }
    verdict.warnings.iter().for_each(|warning| out.warn(&format!("{release}: {warning}")));
    verdict.details.iter().for_each(|detail| out.detail(&format!("{release}: {detail}")));
}

/// The package, in the version that is meant for the kernel.
pub fn of_version(package: &Package, standing: &Standing) -> Package {
    Package { version: standing.version.clone(), ..package.clone() }
}

/// A state's word in its colour.
pub fn painted(state: State) -> Cell {
    let style = match state {
        State::Ready | State::Excluded => GOOD,
        State::Outdated | State::Missing | State::Stale | State::NoHeaders => ODD,
        State::Fails | State::Broken => BAD,
    };
    (state.word().to_owned(), style)
}

/// A survey for programs.
pub fn document(survey: &Survey, leftovers: &[Kernel], ready: bool) -> json::Status {
    let package = |(at, package): (usize, &kcache::kernel::packages::Package)| json::Package {
        name: package.name.clone(),
        version: package.version.clone(),
        kernels: survey
            .verdicts
            .iter()
            .map(|verdict| (verdict.kernel.release.clone(), standing(&verdict.standings[at])))
            .collect(),
    };
    json::Status {
        kernels: survey.verdicts.iter().map(kernel).collect(),
        packages: survey.packages.iter().enumerate().map(package).collect(),
        leftovers: leftovers.iter().map(|kernel| kernel.release.clone()).collect(),
        ready,
    }
}

fn kernel(verdict: &Verdict) -> json::Kernel {
    let kernel = verdict.kernel;
    let foreign = |foreign: &verdict::state::Foreign| json::Foreign {
        path: foreign.path.clone(),
        state: if foreign.fault.is_some() { "broken" } else { "loads" },
        reason: foreign.fault.clone(),
    };
    json::Kernel {
        release: kernel.release.clone(),
        version: kernel
            .build_tree()
            .map(|tree| tree.version.clone())
            .or_else(|| kernel.image_version.clone()),
        headers: kernel.build_tree().is_some(),
        generation: verdict.generation.clone(),
        signer: verdict.signer.as_ref().map(|signer| json::Signer {
            subject: signer.subject.clone(),
            certificate: signer.certificate.clone(),
            hash: signer.hash.map(|hash| hash.name()),
        }),
        ready: verdict.ready,
        warnings: verdict.warnings.clone(),
        foreign: verdict.foreign.iter().map(foreign).collect(),
    }
}

fn standing(standing: &verdict::state::Standing) -> json::Standing {
    json::Standing {
        state: standing.state.word(),
        version: standing.version.clone(),
        reason: standing.reason.clone(),
        changed: standing.changed.clone(),
        tools_changed: standing.tools_changed.clone(),
        built: standing.built,
        policy: standing.need.word(),
    }
}
