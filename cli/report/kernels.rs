//! "May I reboot?", in one sentence for the kernel that will be booted, and for each kernel.

use kcache::run::progress::size;
use kcache::verdict::Verdict;
use kcache::verdict::provenance::Origin;
use kcache::verdict::state::State;

use super::html::{Element, element};
use super::reasons::next;
use super::words::count;
use super::{Page, section};

/// How a verdict is coloured, and what it says; in short and at length.
pub fn headline(page: &Page) -> (&'static str, &'static str, String) {
    const YES: (&str, &str) = ("good", "you may reboot");
    const NO: (&str, &str) = ("bad", "do not reboot yet");
    let release = match &page.default {
        Ok(release) => release,
        Err(reason) => {
            let text =
                format!("{}. Cannot determine which one will be booted: {reason}.", how_many_ready(page));
            return ("odd", "check before you reboot", text);
        }
    };
    let verdict = page.survey.verdicts.iter().find(|verdict| page.is_default(verdict));
    let ((class, words), text) = match verdict {
        Some(verdict) if page.is_ready(verdict) => {
            (YES, format!("The boot loader starts {release}, and all its modules are ready."))
        }
        Some(verdict) => (NO, format!("The boot loader starts {release}. {}.", obstacles(page, verdict))),
        None if page.complete => (NO, format!("The boot loader starts {release}, which is not installed.")),
        None => {
            let text = format!("The boot loader starts {release}, which this report does not include.");
            return ("odd", "check before you reboot", text);
        }
    };
    (class, words, text)
}

/// The verdict on the next reboot.
pub fn banner(page: &Page) -> Element {
    let (class, words, text) = headline(page);
    let sign = match class {
        "good" => "✓",
        "bad" => "✗",
        _ => "?",
    };
    let unreadable = page
        .unreadable
        .iter()
        .map(|reason| element("p").class("warning").text(&format!("A package cannot be read: {reason}")));
    let sentence: String = words[..1].to_uppercase() + &words[1..];
    element("section")
        .class(&format!("banner {class}"))
        .child(element("span").class("mark").with("aria-hidden", "true").child(element("b").text(sign)))
        .child(
            element("div")
                .child(element("p").class("verdict").text(&sentence))
                .child(element("p").text(&text))
                .children(unreadable),
        )
}

/// A card for each kernel.
pub fn cards(page: &Page) -> Element {
    let cards =
        page.survey.verdicts.iter().zip(&page.origins).map(|(verdict, origins)| card(page, verdict, origins));
    let none = page.survey.verdicts.is_empty().then(|| element("p").text("No kernel is installed."));
    section("Kernels").children(none).child(element("div").class("cards").children(cards))
}

fn card(page: &Page, verdict: &Verdict, origins: &[Origin]) -> Element {
    let ready = page.is_ready(verdict);
    let (class, sign, text) = match ready {
        true => ("good", "✓", "You may reboot into it"),
        false => ("bad", "✗", "Not ready"),
    };
    let obstacles = (!ready).then(|| element("p").class("obstacles").text(&obstacles(page, verdict)));
    let sign = element("span").class("sign").with("aria-hidden", "true").text(sign);
    let warnings = verdict
        .warnings
        .iter()
        .map(|warning| element("p").class("warning").text(&format!("Warning: {warning}")));
    element("article")
        .class(&format!("card {class}"))
        .child(element("h3").text(&verdict.kernel.release).children(page.badges(verdict)))
        .child(element("p").class("says").child(sign).child(element("span").text(text)))
        .children(obstacles)
        .children(next_steps(page, verdict))
        .children(warnings)
        .child(element("p").class("quiet").text(&installed(origins)))
        .children(version(verdict))
}

/// What to type for a kernel that is not ready, each command once.
fn next_steps(page: &Page, verdict: &Verdict) -> Option<Element> {
    let standings = page.survey.packages.iter().zip(&verdict.standings);
    let blocking = standings.filter(|(_, standing)| standing.blocks());
    let mut commands: Vec<String> = Vec::new();
    for (package, standing) in blocking {
        let command = next(standing.state, &package.name, &[&verdict.kernel.release]);
        commands.extend(command.filter(|command| !commands.contains(command)));
    }
    let items = commands.iter().map(|command| element("li").child(element("code").text(command)));
    (!commands.is_empty()).then(|| element("ul").class("todo").with("aria-label", "Next").children(items))
}

fn installed(origins: &[Origin]) -> String {
    if origins.is_empty() {
        return "kcache has installed nothing".to_owned();
    }
    let modules: u64 = origins.iter().map(|origin| origin.modules).sum();
    let bytes: u64 = origins.iter().map(|origin| origin.bytes).sum();
    let packages = count(origins.len() as u64, "package", "packages");
    format!("{packages} installed: {}, {}", count(modules, "module", "modules"), size(bytes))
}

/// `uname -v` of a kernel.
fn version(verdict: &Verdict) -> Option<Element> {
    let kernel = verdict.kernel;
    let text = kernel.image_version.as_ref().or_else(|| kernel.build_tree().map(|tree| &tree.version))?;
    Some(element("p").class("quiet").text(text))
}

/// What keeps a kernel from being ready, with the names of those in the way.
fn obstacles(page: &Page, verdict: &Verdict) -> String {
    let of = |state: State| {
        let standings = page.survey.packages.iter().zip(&verdict.standings);
        let names: Vec<&str> = standings
            .filter(|(_, standing)| standing.blocks() && standing.state == state)
            .map(|(package, _)| package.name.as_str())
            .collect();
        (!names.is_empty()).then(|| format!("{}: {}", state.word(), names.join(", ")))
    };
    let mut parts: Vec<String> = State::ALL.into_iter().filter_map(of).collect();
    if parts.is_empty() && !verdict.ready {
        parts.push("A foreign module would not load".to_owned());
    }
    if !page.unreadable.is_empty() {
        parts.push("A package cannot be read".to_owned());
    }
    let text = parts.join("; ");
    text.chars().take(1).flat_map(char::to_uppercase).chain(text.chars().skip(1)).collect()
}

fn how_many_ready(page: &Page) -> String {
    let verdicts = &page.survey.verdicts;
    let ready = verdicts.iter().filter(|verdict| page.is_ready(verdict)).count();
    format!("{ready} of {} ready", count(verdicts.len() as u64, "kernel is", "kernels are"))
}
