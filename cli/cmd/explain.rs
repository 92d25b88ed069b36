//! `kcache explain`: show what a key consists of, and why a build is found or not.

use kcache::inputs::explain::{self, Explanation, Nearest, StandsIn};
use kcache::inputs::undeclared::ANYTHING;
use kcache::inputs::version;
use kcache::kernel::kernels::{Headers, Kernel, headers_hint};
use kcache::kernel::packages::Package;
use kcache::resolve::elsewhere::{self, Found};
use kcache::run::context::Context;
use kcache::run::labels::Labels;
use kcache::run::session::Session;
use kcache::store::{Entry, Manifest, Observed, Outcome};
use kcache::verdict::provenance::{Made, made};

use super::log::selection;
use super::looking;
use crate::args::One;
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::Out;
use crate::report::words::{duration, minute};

/// So many files are listed of a tree that differs; the rest is counted.
const FILES: usize = 20;

/// Columns of a value before the rest is left to --json: as many as a digest has.
const WIDTH: usize = 64;

/// Columns before the first difference between two values, which show where in them it is.
const BEFORE: usize = 16;

pub fn run(context: &Context, out: &Out, one: &One) -> Result<Exit, Failure> {
    let (session, packages, kernels) = looking(context, out, &selection(one))?;
    for kernel in &kernels {
        let Some(tree) = kernel.build_tree() else {
            return Err(Failure {
                exit: Exit::NoHeaders,
                message: match &kernel.headers {
                    Headers::Incomplete { .. } => {
                        format!("kernel {}: {}", kernel.release, kernel.why_no_headers())
                    }
                    _ => format!("the headers of kernel {} are not installed", kernel.release),
                },
                hint: Some(headers_hint(&context.root, &kernel.release)),
            });
        };
        for package in &packages.chosen {
            let request = version::request(&session, &packages, package, kernel);
            let package = request.package;
            let mut explanation = explain::explain(&session, &request, tree)?;
            let elsewhere = match (&explanation.entry, &explanation.excluded) {
                (None, None) => elsewhere::look(&session, &request, tree, &explanation.key, explanation.kin)?,
                _ => None,
            };
            let seen = seen(&session, &mut explanation, elsewhere);
            if out.json {
                out.document(&document(&session, package, kernel, explanation, seen));
            } else {
                print(&session, out, package, kernel, &explanation, &seen);
            }
        }
    }
    Ok(Exit::Done)
}

/// What shared caches have.
enum Seen {
    /// They were not asked, or have nothing of the package.
    Nothing,
    /// The entry of exactly this key.
    Entry(Box<Found>),
    /// The nearest build, at this URL: it is in the explanation.
    Nearest(String),
}

/// Puts what a shared cache has into the explanation, where it is nearer than what the store has.
fn seen(session: &Session, explanation: &mut Explanation, found: Option<Found>) -> Seen {
    let Some(found) = found else { return Seen::Nothing };
    if found.entry.manifest().key == explanation.key {
        return Seen::Entry(Box::new(found));
    }
    let other = Nearest::of(session, explanation, found.entry);
    let nearest = &mut explanation.nearest;
    if nearest.as_ref().is_some_and(|nearest| nearest.differences.len() <= other.differences.len()) {
        return Seen::Nothing;
    }
    *nearest = Some(other);
    Seen::Nearest(found.cache)
}

fn print(
    session: &Session,
    out: &Out,
    package: &Package,
    kernel: &Kernel,
    explanation: &Explanation,
    seen: &Seen,
) {
    out.data(&format!("{}/{} for {}", package.name, package.version, kernel.release));
    out.data(&format!("  key                 {}", explanation.key));
    for field in &explanation.fields {
        let value = match &field.note {
            Some(note) => format!("{}  {note}", &field.value[..field.value.len().min(12)]),
            None => field.value.clone(),
        };
        out.data(format!("  {:<18}  {}", field.name, one_line(&value)).trim_end());
    }
    if let Some(reason) = &explanation.excluded {
        out.data(&format!("excluded for this kernel: {reason}"));
    }
    match (&explanation.entry, seen, &explanation.nearest) {
        (Some(entry), ..) => {
            out.data(&format!("in the store: {}", outcome(entry.manifest())));
            print_made(out, &made(session, entry));
            print_observed(out, explanation);
        }
        (None, Seen::Entry(found), _) => {
            let (cache, outcome) = (&found.cache, outcome(found.entry.manifest()));
            out.data(&format!("not in the store; {cache} has it: {outcome}"));
            print_made(out, &made(session, &found.entry));
        }
        (None, Seen::Nearest(cache), Some(nearest)) => print_nearest(session, out, nearest, Some(cache)),
        (None, Seen::Nothing, Some(nearest)) => print_nearest(session, out, nearest, None),
        (None, _, None) => out.data(match session.context.caches().have_answered() {
            true => {
                "not in the store; neither the store nor a shared cache has another build of this package"
            }
            false => "not in the store; the store has no other build of this package",
        }),
    }
}

/// Who made a build, and when.
fn print_made(out: &Out, made: &Made) {
    let Made { builder, here, signers, seconds, created } = made;
    let signed = match signers.is_empty() {
        true => "not signed".to_owned(),
        false => format!("signed by {}", signers.join(", ")),
    };
    let took = seconds.map_or(String::new(), |seconds| format!(" in {}", duration(seconds)));
    let by = if *here { " (this host)" } else { "" };
    out.data(&format!("  built on {builder}{by}, {}{took}; {signed}", minute(*created)));
}

fn print_observed(out: &Out, explanation: &Explanation) {
    if explanation.observed.iter().any(|(_, same)| !same) {
        out.data("not used, because files that its build read are different here");
    }
    for (file, same) in &explanation.observed {
        match file.path.as_str() {
            ANYTHING => out.data("  undeclared inputs: more files than could be recorded"),
            path => out.data(&format!(
                "  undeclared input {path}: {} here",
                if *same { "same" } else { "different" }
            )),
        }
    }
}

fn print_nearest(session: &Session, out: &Out, nearest: &Nearest, cache: Option<&str>) {
    let manifest = nearest.entry.manifest();
    let labels = Labels::of(manifest);
    out.data(&format!(
        "not in the store; nearest build{}: {} ({} for {})",
        cache.map_or(String::new(), |cache| format!(", in {cache}")),
        manifest.key.short(),
        labels.version,
        labels.kernel
    ));
    print_made(out, &made(session, &nearest.entry));
    out.data("differences:");
    for difference in &nearest.differences {
        let (before, now) = (difference.before.as_deref(), difference.now.as_deref());
        let same = same_beginning(before.unwrap_or_default(), now.unwrap_or_default());
        let text = |side: Option<&str>| side.map_or("(none)".to_owned(), |side| from(side, same));
        out.data(&format!("  {:<18}  was  {}", difference.field.to_string(), text(before)));
        out.data(&format!("  {:<18}  now  {}", "", text(now)));
        for (change, path) in difference.files.iter().take(FILES) {
            out.data(&format!("  {:<18}    {} {path}", "", change.letter()));
        }
        if difference.files.len() > FILES {
            out.data(&format!("  {:<18}    and {} more files", "", difference.files.len() - FILES));
        }
    }
    match nearest.stands_in {
        Some(StandsIn::Installed) => out.data(
            "it is installed and differs in its tools only, so it is up to date; `kcache install --refresh-tools` replaces it",
        ),
        Some(StandsIn::Allowed) => {
            out.data("it differs in its tools only, as far as `other-tools` allows, so `kcache install` uses it");
        }
        None => {}
    }
}

fn observed((file, same): (Observed, bool)) -> json::Observed {
    json::Observed { path: file.path, digest: file.digest.map(|digest| digest.to_string()), same }
}

fn outcome(manifest: &Manifest) -> String {
    match &manifest.outcome {
        Outcome::Built => "built".to_owned(),
        Outcome::Failed { first_error, .. } => format!("fails: {first_error}"),
    }
}

fn one_line(text: &str) -> String {
    let text = text.replace('\n', " ");
    match text.chars().count() > WIDTH {
        true => text.chars().take(WIDTH - 3).chain("...".chars()).collect(),
        false => text,
    }
}

/// The number of characters that two texts have in common at their beginnings.
fn same_beginning(one: &str, other: &str) -> usize {
    one.chars().zip(other.chars()).take_while(|(one, other)| one == other).count()
}

/// A text in one line, in which the part that begins after `same` characters is visible.
fn from(text: &str, same: usize) -> String {
    if text.chars().count() <= WIDTH || same <= BEFORE {
        return one_line(text);
    }
    let rest: String = text.chars().skip(same - BEFORE).collect();
    one_line(&format!("...{rest}"))
}

fn provenance(session: &Session, entry: &Entry, cache: Option<&str>) -> json::Provenance {
    let Made { builder, here, signers, seconds, created } = made(session, entry);
    json::Provenance { builder, here, signers, seconds, created, cache: cache.map(str::to_owned) }
}

fn document(
    session: &Session,
    package: &Package,
    kernel: &Kernel,
    explanation: Explanation,
    seen: Seen,
) -> json::Explanation {
    let of_entry = explanation.entry.as_ref().map(|entry| provenance(session, entry, None));
    let (elsewhere, nearest_in) = match &seen {
        Seen::Entry(found) => (Some(provenance(session, &found.entry, Some(&found.cache))), None),
        Seen::Nearest(cache) => (None, Some(cache.as_str())),
        Seen::Nothing => (None, None),
    };
    let undeclared_inputs: Vec<json::Observed> = explanation.observed.into_iter().map(observed).collect();
    let result = |manifest: &Manifest| if manifest.outcome == Outcome::Built { "built" } else { "failed" };
    json::Explanation {
        package: package.name.clone(),
        version: package.version.clone(),
        kernel: kernel.release.clone(),
        key: explanation.key.to_string(),
        fields: explanation.fields,
        excluded: explanation.excluded,
        entry: explanation.entry.as_ref().map(|entry| result(entry.manifest())),
        provenance: of_entry.or(elsewhere),
        observed: undeclared_inputs.clone(),
        undeclared_inputs,
        nearest: explanation.nearest.map(|nearest| json::Nearest {
            key: nearest.entry.manifest().key.to_string(),
            kernel: nearest.entry.manifest().labels.get("kernel").cloned(),
            provenance: provenance(session, &nearest.entry, nearest_in),
            stands_in: nearest.stands_in.map(|why| match why {
                StandsIn::Installed => "installed",
                StandsIn::Allowed => "other-tools",
            }),
            differences: nearest
                .differences
                .into_iter()
                .map(|d| json::Difference {
                    files: d
                        .files
                        .iter()
                        .take(FILES)
                        .map(|(c, path)| format!("{} {path}", c.letter()))
                        .collect(),
                    files_total: d.files.len(),
                    field: d.field,
                    before: d.before,
                    now: d.now,
                })
                .collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_long_values_the_first_difference_is_shown() {
        let (before, now) = (format!("{}was", "x".repeat(100)), format!("{}now", "x".repeat(100)));
        let same = same_beginning(&before, &now);
        assert_eq!(same, 100);
        assert_eq!(from(&before, same), format!("...{}was", "x".repeat(BEFORE)));
        assert_eq!(from(&now, same), format!("...{}now", "x".repeat(BEFORE)));
        assert_eq!(from("short", 0), "short");
        assert_eq!(from(&"ä".repeat(WIDTH + 1), 0), "ä".repeat(WIDTH - 3) + "...");
        assert_eq!(from(&"x".repeat(WIDTH), 40), "x".repeat(WIDTH));
    }
}
