//! The page of `kcache report`: one file that can be kept, mailed and printed. It has no script and loads nothing; what
//! unfolds is `<details>`, colours are the reader's choice of light or dark, and no colour is the only sign of anything.
//!
//! ```text
//! verdict    the kernel that will be booted, in a sentence          html      elements, and what escapes all text
//! kernels    a card for each                                        words     times and counts
//! matrix     packages x kernels; each cell leads to its reason      style.css
//! reasons    why, by kernel; logs of failures
//! figures    build time, where builds come from, sizes
//! ```
//! Rendering is a pure function of [`Page`]; `cli/cmd/report.rs` finds out what is in one.

mod figures;
mod html;
mod kernels;
mod matrix;
mod reasons;
mod words;

use std::collections::BTreeMap;

use html::{Element, element};
use kcache::store::Usage;
use kcache::verdict::provenance::Origin;
use kcache::verdict::state::State;
use kcache::verdict::{Survey, Verdict};

const STYLE: &str = include_str!("report/style.css");

/// All that a page tells.
pub struct Page<'a> {
    /// This host's name.
    pub host: &'a str,
    /// The directory of the system that is judged, where it is not this host's own.
    pub system: Option<String>,
    /// Seconds since 1970.
    pub now: u64,
    /// The release of the kernel that runs.
    pub running: &'a str,
    /// The release of the kernel that the boot loader takes, or why that is not known.
    pub default: Result<String, String>,
    /// Packages x kernels.
    pub survey: &'a Survey<'a>,
    /// Whether all installed kernels are in it.
    pub complete: bool,
    /// Packages that could not be read, and why.
    pub unreadable: Vec<String>,
    /// Failed builds, by the positions of kernel and package in the survey.
    pub failures: BTreeMap<(usize, usize), Failure>,
    /// What is installed, for each kernel of the survey.
    pub origins: Vec<Vec<Origin>>,
    /// The shared caches that are configured.
    pub caches: Vec<Cache>,
    /// What the store holds.
    pub usage: Usage,
    /// What was counted over runs (`kcache::run::counters`).
    pub counts: BTreeMap<String, u64>,
}

/// A build that failed.
pub struct Failure {
    /// What failed, and how.
    pub command: String,
    pub status: Option<i32>,
    /// The end of its log.
    pub log: String,
    /// How many lines come before that.
    pub left_out: usize,
}

/// A shared cache.
pub struct Cache {
    /// Its URL, without credentials.
    pub url: String,
    /// Whether this host writes to it.
    pub write: bool,
}

impl Page<'_> {
    /// Whether `kcache check` of a kernel would say so.
    fn is_ready(&self, verdict: &Verdict) -> bool {
        verdict.ready && self.unreadable.is_empty()
    }

    fn is_default(&self, verdict: &Verdict) -> bool {
        self.default.as_ref() == Ok(&verdict.kernel.release)
    }

    /// What sets a kernel apart from others.
    fn badges(&self, verdict: &Verdict) -> Vec<Element> {
        let badge = |class: &str, text: &str| element("span").class(&format!("badge {class}")).text(text);
        let next = self.is_default(verdict).then(|| badge("next", "next boot"));
        let running = (verdict.kernel.release == self.running).then(|| badge("running", "running"));
        next.into_iter().chain(running).collect()
    }
}

/// The page.
pub fn render(page: &Page) -> String {
    let main = element("main")
        .child(header(page))
        .child(kernels::banner(page))
        .child(kernels::cards(page))
        .child(matrix::matrix(page))
        .children(reasons::reasons(page))
        .children([figures::build_time(page), figures::origins(page), figures::sizes(page)])
        .child(footer());
    let title = format!("{}: {}", page.host, kernels::headline(page).1);
    html::document(&title, STYLE, &element("body").child(main))
}

fn header(page: &Page) -> Element {
    let system = page.system.as_ref().map_or(String::new(), |system| format!(" · the system under {system}"));
    let version = env!("CARGO_PKG_VERSION");
    element("header")
        .child(element("p").class("kicker").text("Kernel modules"))
        .child(element("h1").text(page.host))
        .child(
            element("p")
                .class("quiet")
                .text(&format!("{}{system} · kcache {version}", words::moment(page.now))),
        )
}

fn footer() -> Element {
    let code = |text: &str| element("code").text(text);
    element("footer").child(
        element("p")
            .text("Made by ")
            .child(code("kcache report"))
            .text(". ")
            .child(code("kcache status"))
            .text(" shows the same in a terminal, ")
            .child(code("kcache log PACKAGE -k K"))
            .text(" a whole log."),
    )
}

/// A section with its heading.
fn section(title: &str) -> Element {
    element("section").child(element("h2").text(title))
}

/// A state's sign and word.
fn state(state: State) -> [Element; 2] {
    let sign = match state {
        State::Ready => "✓",
        State::Excluded => "–",
        State::Stale => "↻",
        State::Missing => "○",
        State::NoHeaders => "?",
        State::Fails => "✗",
        State::Broken => "!",
    };
    [element("span").class("sign").with("aria-hidden", "true").text(sign), element("span").text(state.word())]
}

/// The name of the place on the page that says why.
fn place(kernel: usize, package: usize) -> String {
    format!("why-{kernel}-{package}")
}

#[cfg(test)]
mod tests;
