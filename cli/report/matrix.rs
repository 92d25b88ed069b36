//! Packages x kernels, as a table. It scrolls in a box if the page is narrower.

use kcache::verdict::state::{Standing, State};

use super::html::{Element, element};
use super::{Page, classes, need, place, section, state};

/// The table, and what its words mean.
pub fn matrix(page: &Page) -> Element {
    if page.survey.packages.is_empty() || page.survey.verdicts.is_empty() {
        let text = "No package and kernel to show.";
        return section("Packages and kernels").child(element("p").class("quiet").text(text));
    }
    let table = element("table").class("matrix").child(head(page)).child(body(page));
    section("Packages and kernels")
        .child(
            element("div")
                .class("scroll")
                .with("tabindex", "0")
                .with("role", "region")
                .with("aria-label", "Packages and kernels")
                .child(table),
        )
        .child(legend(page))
}

fn head(page: &Page) -> Element {
    let cells = page.survey.verdicts.iter().map(|verdict| {
        let badges = page.badges(verdict);
        let badges = (!badges.is_empty()).then(|| element("span").class("badges").children(badges));
        element("th").with("scope", "col").text(&verdict.kernel.release).children(badges)
    });
    let corner = element("th").with("scope", "col").text("Package");
    element("thead").child(element("tr").child(corner).children(cells))
}

fn body(page: &Page) -> Element {
    let row = |(at, package): (usize, &kcache::kernel::packages::Package)| {
        let cells = page.survey.verdicts.iter().enumerate();
        let cells = cells.map(|(kernel, verdict)| cell(&place(kernel, at), &verdict.standings[at]));
        let version = element("span").class("quiet").text(&format!(" {}", package.version));
        element("tr")
            .child(element("th").with("scope", "row").text(&package.name).child(version))
            .children(cells)
    };
    element("tbody").children(page.survey.packages.iter().enumerate().map(row))
}

fn cell(place: &str, standing: &Standing) -> Element {
    let link = element("a").with("href", &format!("#{place}"));
    let link = link.children(state(standing.state)).children(need(standing));
    element("td").class(&classes(standing)).child(link)
}

/// The words that occur, and what they mean.
fn legend(page: &Page) -> Element {
    let occurs = |wanted: &State| {
        page.survey
            .verdicts
            .iter()
            .flat_map(|verdict| &verdict.standings)
            .any(|standing| standing.state == *wanted)
    };
    let item = |which: State| {
        element("div")
            .child(
                element("dt")
                    .child(element("span").class(&format!("chip {}", which.word())).children(state(which))),
            )
            .child(element("dd").text(meaning(which)))
    };
    element("dl").class("legend").children(State::ALL.into_iter().filter(occurs).map(item))
}

fn meaning(state: State) -> &'static str {
    match state {
        State::Ready => "installed and intact; the kernel will load it",
        State::Outdated => "installed and intact; a shared cache has a newer build",
        State::Excluded => "excluded for this kernel",
        State::Stale => "installed, but an input has changed",
        State::Missing => "not installed",
        State::NoHeaders => "not installed, and no headers to build it with",
        State::Fails => "does not build",
        State::Broken => "installed, but the kernel would not load it",
    }
}
