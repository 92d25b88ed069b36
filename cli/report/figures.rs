//! Build time, provenance of builds, and sizes.

use std::collections::BTreeMap;

use kcache::run::counters;
use kcache::run::progress::size;
use kcache::verdict::provenance::{Made, Origin};

use super::html::{Element, element};
use super::words::{count, duration};
use super::{Page, section};

/// One figure and what it is.
fn tile(label: &str, figure: &str, more: &str) -> Element {
    element("div")
        .class("tile")
        .child(element("p").class("label").text(label))
        .child(element("p").class("figure").text(figure))
        .child(element("p").class("quiet").text(more))
}

fn tiles(tiles: impl IntoIterator<Item = Element>) -> Element {
    element("div").class("tiles").children(tiles)
}

fn installed<'a>(page: &'a Page) -> impl Iterator<Item = &'a Origin> {
    page.origins.iter().flatten()
}

fn made<'a>(page: &'a Page) -> impl Iterator<Item = &'a Made> {
    installed(page).filter_map(|origin| origin.made.as_ref())
}

fn seconds<'a>(made: impl Iterator<Item = &'a Made>) -> f64 {
    // The sum of nothing would be -0.
    made.filter_map(|made| made.seconds).fold(0.0, |sum, seconds| sum + seconds)
}

/// What compiling took, and what was spared.
pub fn build_time(page: &Page) -> Element {
    let counted = |name: &str| page.counts.get(name).copied().unwrap_or(0);
    let (store, shared, misses) =
        (counted(counters::HITS_STORE), counted(counters::HITS_SHARED), counted(counters::MISSES));
    let (hits, asked) = (store + shared, store + shared + misses);
    let share = (hits * 100).checked_div(asked).map_or("–".to_owned(), |share| format!("{share} %"));
    let unknown = installed(page).filter(|o| o.made.as_ref().and_then(|made| made.seconds).is_none()).count();
    let unknown = match unknown {
        0 => "compile time of installed builds".to_owned(),
        n => format!("compile time of installed builds; unknown for {n}"),
    };
    let here = counted(counters::BUILT) + counted(counters::FAILED);
    section("Build time").child(tiles([
        tile(
            "Time saved",
            &duration(counted(counters::SPARED) as f64 / 1000.0),
            "installed builds that were compiled elsewhere or earlier",
        ),
        tile(
            "Time spent here",
            &duration(counted(counters::COMPILED) as f64 / 1000.0),
            &format!("{}, {} failed", count(here, "build", "builds"), counted(counters::FAILED)),
        ),
        tile(
            "Look-ups answered",
            &share,
            &format!("{store} by the store, {shared} by shared caches, {misses} misses"),
        ),
        tile("Installed builds", &duration(seconds(made(page))), &unknown),
    ]))
}

/// Who built what is installed, and the shared caches.
pub fn origins(page: &Page) -> Element {
    let mut builders: BTreeMap<(bool, &str), Vec<&Made>> = BTreeMap::new();
    for made in made(page) {
        builders.entry((!made.here, made.builder.as_str())).or_default().push(made);
    }
    let unknown = installed(page).filter(|origin| origin.made.is_none()).count() as u64;
    let rows = builders.into_iter().map(|((_, builder), made)| builder_row(builder, &made));
    let unknown = (unknown > 0)
        .then(|| row(["unknown: the store no longer has the entry", "", &unknown.to_string(), ""]));
    let head = ["Built by", "Signed by", "Builds", "Compile time"]
        .map(|text| element("th").with("scope", "col").text(text));
    let table = element("table")
        .child(element("thead").child(element("tr").children(head)))
        .child(element("tbody").children(rows).children(unknown));
    let is_any = installed(page).next().is_some();
    section("Provenance of builds")
        .children(is_any.then(|| element("div").class("scroll").with("tabindex", "0").child(table)))
        .child(caches(page))
}

fn builder_row(builder: &str, made: &[&Made]) -> Element {
    let mut signers: Vec<&str> = made.iter().flat_map(|made| &made.signers).map(String::as_str).collect();
    signers.sort_unstable();
    signers.dedup();
    let who = if made[0].here { format!("{builder} (this host)") } else { builder.to_owned() };
    let signers = if signers.is_empty() { "unsigned".to_owned() } else { signers.join(", ") };
    row([&who, &signers, &made.len().to_string(), &duration(seconds(made.iter().copied()))])
}

fn row([first, rest @ ..]: [&str; 4]) -> Element {
    element("tr")
        .child(element("th").with("scope", "row").text(first))
        .children(rest.map(|text| element("td").text(text)))
}

fn caches(page: &Page) -> Element {
    if page.caches.is_empty() {
        return element("p").class("quiet").text("No shared cache is configured.");
    }
    let item = |cache: &super::Cache| {
        let access = if cache.write { "read-write" } else { "read-only" };
        element("li")
            .child(element("code").text(&cache.url))
            .child(element("span").class("quiet").text(&format!(" {access}")))
    };
    element("div")
        .child(element("h3").text("Shared caches"))
        .child(element("ul").class("caches").children(page.caches.iter().map(item)))
}

/// What lies on the disk.
pub fn sizes(page: &Page) -> Element {
    let modules: u64 = installed(page).map(|origin| origin.modules).sum();
    let bytes: u64 = installed(page).map(|origin| origin.bytes).sum();
    let kernels = page.origins.iter().filter(|origins| !origins.is_empty()).count() as u64;
    let usage = &page.usage;
    let entries = count(usage.entries, "entry", "entries");
    let objects = count(usage.objects, "object", "objects");
    section("Sizes").child(tiles([
        tile(
            "Installed modules",
            &size(bytes),
            &format!("{} for {}", count(modules, "module", "modules"), count(kernels, "kernel", "kernels")),
        ),
        tile("Store", &size(usage.bytes), &format!("{entries}, {objects}")),
    ]))
}
