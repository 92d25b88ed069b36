//! The reason for each cell: problems by package, unfolded, required packages first; everything else by kernel, folded.

use kcache::inputs::change::listed;
use kcache::kernel::packages::Package;
use kcache::shell::word;
use kcache::verdict::Verdict;
use kcache::verdict::provenance::{Made, Origin};
use kcache::verdict::state::{Foreign, Standing, State};

use super::html::{Element, element};
use super::words::{count, duration};
use super::{Failure, Page, classes, need, place, section, state};

/// What is not good, package by package; then everything else, by kernel. None where there is no kernel.
pub fn reasons(page: &Page) -> Option<Element> {
    let verdicts = &page.survey.verdicts;
    let packages = 0..page.survey.packages.len();
    let ill = packages.filter(|at| verdicts.iter().any(|verdict| !verdict.standings[*at].state.is_good()));
    let (required, optional): (Vec<_>, Vec<_>) =
        ill.partition(|at| verdicts.iter().any(|verdict| verdict.standings[*at].blocks()));
    let packages = required.into_iter().chain(optional).map(|at| of_package(page, at));
    let kernels = verdicts.iter().enumerate().filter_map(|(at, verdict)| of_kernel(page, at, verdict));
    (!verdicts.is_empty()).then(|| section("Why").children(packages).children(kernels))
}

/// A reason of a package, with all kernels that it is the same for.
struct Same<'a> {
    standing: &'a Standing,
    kernels: Vec<usize>,
}

/// The problems of one package: each reason once.
fn of_package(page: &Page, at: usize) -> Element {
    let mut all: Vec<Same> = Vec::new();
    for (kernel, verdict) in page.survey.verdicts.iter().enumerate() {
        let standing = &verdict.standings[at];
        let is_same = |one: &&mut Same| {
            let Standing { state, reason, need, changed, .. } = one.standing;
            (state, reason, need, changed)
                == (&standing.state, &standing.reason, &standing.need, &standing.changed)
        };
        match all.iter_mut().find(is_same) {
            _ if standing.state.is_good() => {}
            Some(one) => one.kernels.push(kernel),
            None => all.push(Same { standing, kernels: vec![kernel] }),
        }
    }
    let name = page.survey.packages[at].to_string();
    element("section")
        .class("kernel")
        .child(element("h3").text(&name))
        .children(all.iter().map(|same| problem(page, at, same)))
}

fn problem(page: &Page, at: usize, same: &Same) -> Element {
    let Same { standing, kernels } = same;
    let package = &page.survey.packages[at];
    let release = |kernel: &usize| page.survey.verdicts[*kernel].kernel.release.as_str();
    let releases: Vec<&str> = kernels.iter().map(release).collect();
    let failure = kernels.iter().find_map(|kernel| page.failures.get(&(*kernel, at)));
    let next = next(standing.state, &package.name, &releases);
    let own = &page.origins[kernels[0]];
    row(&place(kernels[0], at), &releases.join(", "), standing, package, own, failure)
        .children(
            next.map(|command| {
                element("p").class("todo").text("Next: ").child(element("code").text(&command))
            }),
        )
        // What the cells of other kernels lead to.
        .children(
            kernels[1..].iter().map(|kernel| element("span").class("place").with("id", &place(*kernel, at))),
        )
}

/// What to type about a state that is not good; nothing where its reason says it.
pub fn next(state: State, package: &str, releases: &[&str]) -> Option<String> {
    let kernel = |release: &&str| format!(" -k {}", word(release));
    match state {
        State::Missing | State::Stale | State::Broken => {
            Some(format!("kcache install{}", releases.iter().map(kernel).collect::<String>()))
        }
        // Of one kernel: the log is the same, or the next reason has its own.
        State::Fails => {
            releases.first().map(|first| format!("kcache log {}{}", word(package), kernel(first)))
        }
        State::Ready | State::Outdated | State::Excluded | State::NoHeaders => None,
    }
}

/// Foreign modules that would not load, and folded, what is good; none where there is neither.
fn of_kernel(page: &Page, at: usize, verdict: &Verdict) -> Option<Element> {
    let packages = page.survey.packages.iter().zip(&verdict.standings).enumerate();
    let well = packages.filter(|(_, (_, standing))| standing.state.is_good());
    let row = |(package_at, (package, standing)): (usize, (&Package, &Standing))| {
        row(&place(at, package_at), &package.to_string(), standing, package, &page.origins[at], None)
    };
    let (loading, faulty): (Vec<_>, Vec<_>) =
        verdict.foreign.iter().partition(|foreign| foreign.fault.is_none());
    let folded: Vec<Element> = well.map(row).chain(loading.into_iter().map(stranger)).collect();
    let faulty: Vec<Element> = faulty.into_iter().map(stranger).collect();
    let is_empty = folded.is_empty() && faulty.is_empty();
    let head = element("h3").text(&verdict.kernel.release).children(page.badges(verdict));
    let text = count(folded.len() as u64, "is ready", "are ready");
    let folded = (!folded.is_empty())
        .then(|| element("details").child(element("summary").text(&text)).children(folded));
    (!is_empty).then(|| element("section").class("kernel").child(head).children(faulty).children(folded))
}

/// A state and its reason. `title` says what of: the package, or the kernels below its name.
fn row(
    place: &str,
    title: &str,
    standing: &Standing,
    package: &Package,
    origins: &[Origin],
    failure: Option<&Failure>,
) -> Element {
    let reason = standing.reason.as_deref().unwrap_or(plain_reason(standing.state));
    // The list below it says the rest.
    let is_list = reason.strip_prefix("changed: ") == Some(listed(&standing.changed).as_str());
    let reason = if is_list { "Inputs have changed since it was built." } else { reason };
    let origin = origins.iter().find(|origin| origin.package == package.name);
    let origin = origin.and_then(|origin| Some(made(origin.made.as_ref()?)));
    let chip = element("span").class(&format!("chip {}", classes(standing)));
    element("article")
        .class("why")
        .with("id", place)
        .child(chip.children(state(standing.state)).children(need(standing)))
        .child(
            element("div")
                .child(element("h4").text(title))
                .child(element("p").text(reason))
                .children(changed(standing))
                .children(origin.map(|text| element("p").class("quiet").text(&text)))
                .children(failure.map(log)),
        )
}

fn plain_reason(state: State) -> &'static str {
    match state {
        State::Ready => "Installed, intact and up to date.",
        State::Outdated => "Installed and intact; a shared cache has a newer build.",
        State::Missing => "Not installed, and not yet built here.",
        _ => "",
    }
}

fn made(made: &Made) -> String {
    let who = if made.here { "on this host" } else { &made.builder };
    let time = made.seconds.map_or(String::new(), |seconds| format!(" in {}", duration(seconds)));
    let by = if made.here { "Built" } else { "Built by" };
    format!("{by} {who}{time}.")
}

fn changed(standing: &Standing) -> Option<Element> {
    let items =
        standing.changed.iter().map(|field| element("li").child(element("code").text(&field.to_string())));
    (!standing.changed.is_empty())
        .then(|| element("ul").class("changed").with("aria-label", "What has changed").children(items))
}

fn log(failure: &Failure) -> Element {
    let status = failure.status.map_or(String::new(), |status| format!(" exited with status {status}"));
    let command = element("p").class("quiet").child(element("code").text(&failure.command)).text(&status);
    let title = match failure.left_out {
        0 => "The build's log".to_owned(),
        more => format!("The end of the build's log, after {}", count(more as u64, "line", "lines")),
    };
    element("details")
        .child(element("summary").text(&title))
        .child(command)
        .child(element("pre").with("tabindex", "0").text(&failure.log))
}

fn stranger(Foreign { path, fault }: &Foreign) -> Element {
    let (class, sign, word) = match fault {
        Some(_) => (State::Broken.word(), "!", "broken"),
        None => (State::Ready.word(), "✓", "loads"),
    };
    let sign = element("span").class("sign").with("aria-hidden", "true").text(sign);
    let fault = fault.as_ref().map_or(String::new(), |fault| format!(": {fault}"));
    element("article")
        .class("why")
        .child(element("span").class(&format!("chip {class}")).child(sign).child(element("span").text(word)))
        .child(
            element("div")
                .child(element("h4").text(path))
                .child(element("p").text(&format!("Foreign module{fault}"))),
        )
}
