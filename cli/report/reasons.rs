//! The reason for each cell, by kernel: problems first and unfolded, everything else folded.

use kcache::inputs::change::listed;
use kcache::kernel::packages::Package;
use kcache::verdict::Verdict;
use kcache::verdict::provenance::{Made, Origin};
use kcache::verdict::state::{Foreign, Standing, State};

use super::html::{Element, element};
use super::words::{count, duration};
use super::{Failure, Page, place, section, state};

/// A part for each kernel; none where there is no kernel.
pub fn reasons(page: &Page) -> Option<Element> {
    let verdicts = &page.survey.verdicts;
    let kernels = verdicts.iter().enumerate().map(|(at, verdict)| of_kernel(page, at, verdict));
    (!verdicts.is_empty()).then(|| section("Why").children(kernels))
}

fn of_kernel(page: &Page, at: usize, verdict: &Verdict) -> Element {
    let packages = page.survey.packages.iter().zip(&verdict.standings).enumerate();
    let (well, ill): (Vec<_>, Vec<_>) = packages.partition(|(_, (_, standing))| standing.state.is_good());
    let row = |(package_at, (package, standing)): (usize, (&Package, &Standing))| {
        let origin = page.origins[at].iter().find(|origin| origin.package == package.name);
        row(&place(at, package_at), package, standing, origin, page.failures.get(&(at, package_at)))
    };
    let (loading, faulty): (Vec<_>, Vec<_>) =
        verdict.foreign.iter().partition(|foreign| foreign.fault.is_none());
    let well_count = (well.len() + loading.len()) as u64;
    let folded: Vec<Element> = well.into_iter().map(row).chain(loading.into_iter().map(stranger)).collect();
    element("section")
        .class("kernel")
        .child(element("h3").text(&verdict.kernel.release).children(page.badges(verdict)))
        .children(ill.into_iter().map(row))
        .children(faulty.into_iter().map(stranger))
        .children((!folded.is_empty()).then(|| {
            let text = count(well_count, "is ready", "are ready");
            element("details").child(element("summary").text(&text)).children(folded)
        }))
}

fn row(
    place: &str,
    package: &Package,
    standing: &Standing,
    origin: Option<&Origin>,
    failure: Option<&Failure>,
) -> Element {
    let reason = standing.reason.as_deref().unwrap_or(plain_reason(standing.state));
    // The list below it says the rest.
    let is_list = reason.strip_prefix("changed: ") == Some(listed(&standing.changed).as_str());
    let reason = if is_list { "Inputs have changed since it was built." } else { reason };
    let origin = origin.and_then(|origin| Some(made(origin.made.as_ref()?)));
    element("article")
        .class("why")
        .with("id", place)
        .child(
            element("span").class(&format!("chip {}", standing.state.word())).children(state(standing.state)),
        )
        .child(
            element("div")
                .child(element("h4").text(&package.to_string()))
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
