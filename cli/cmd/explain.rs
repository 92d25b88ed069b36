//! `kcache explain`: show what a key consists of, and why a build is found or not.

use kcache::inputs::explain::{self, Explanation, Nearest, StandsIn};
use kcache::inputs::undeclared::ANYTHING;
use kcache::inputs::version;
use kcache::kernel::kernels::{Kernel, headers_hint};
use kcache::kernel::packages::Package;
use kcache::run::context::Context;
use kcache::run::labels::Labels;
use kcache::store::{Manifest, Observed, Outcome};

use super::log::selection;
use super::looking;
use crate::args::One;
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::Out;

/// So many files are listed of a tree that differs; the rest is counted.
const FILES: usize = 20;

/// Columns a value may take before the rest is left to --json.
const WIDTH: usize = 90;

pub fn run(context: &Context, out: &Out, one: &One) -> Result<Exit, Failure> {
    let (session, packages, kernels) = looking(context, out, &selection(one))?;
    for kernel in &kernels {
        let Some(tree) = kernel.build_tree() else {
            return Err(Failure {
                exit: Exit::NoHeaders,
                message: format!("the headers of kernel {} are not installed", kernel.release),
                hint: Some(headers_hint(&context.root, &kernel.release)),
            });
        };
        for package in &packages.chosen {
            let request = version::request(&session, &packages, package, kernel);
            let package = request.package;
            let explanation = explain::explain(&session, &request, tree)?;
            if out.json {
                out.document(&document(package, kernel, explanation));
            } else {
                print(out, package, kernel, &explanation);
            }
        }
    }
    Ok(Exit::Done)
}

fn print(out: &Out, package: &Package, kernel: &Kernel, explanation: &Explanation) {
    out.data(&format!("{}/{} for {}", package.name, package.version, kernel.release));
    out.data(&format!("  key                 {}", explanation.key));
    for field in &explanation.fields {
        let value = match &field.note {
            Some(note) => format!("{}  {note}", &field.value[..field.value.len().min(12)]),
            None => field.value.clone(),
        };
        out.data(&format!("  {:<18}  {}", field.name, one_line(&value)));
    }
    if let Some(reason) = &explanation.excluded {
        out.data(&format!("excluded for this kernel: {reason}"));
    }
    match (&explanation.entry, &explanation.nearest) {
        (Some(manifest), _) => {
            out.data(&format!("in the store: {}", outcome(manifest)));
            print_observed(out, explanation);
        }
        (None, Some(nearest)) => print_nearest(out, nearest),
        (None, None) => out.data("not in the store; the store has no other build of this package"),
    }
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

fn print_nearest(out: &Out, nearest: &Nearest) {
    let manifest = &nearest.manifest;
    let labels = Labels::of(manifest);
    out.data(&format!(
        "not in the store; nearest build: {} ({} for {}); differences:",
        manifest.key.short(),
        labels.version,
        labels.kernel
    ));
    for difference in &nearest.differences {
        let text = |side: &Option<String>| one_line(side.as_deref().unwrap_or("(none)"));
        out.data(&format!("  {:<18}  was  {}", difference.field.to_string(), text(&difference.before)));
        out.data(&format!("  {:<18}  now  {}", "", text(&difference.now)));
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
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn document(package: &Package, kernel: &Kernel, explanation: Explanation) -> json::Explanation {
    let undeclared_inputs: Vec<json::Observed> = explanation.observed.into_iter().map(observed).collect();
    let result = |manifest: &Manifest| if manifest.outcome == Outcome::Built { "built" } else { "failed" };
    json::Explanation {
        package: package.name.clone(),
        version: package.version.clone(),
        kernel: kernel.release.clone(),
        key: explanation.key.to_string(),
        fields: explanation.fields,
        excluded: explanation.excluded,
        entry: explanation.entry.as_ref().map(result),
        observed: undeclared_inputs.clone(),
        undeclared_inputs,
        nearest: explanation.nearest.map(|nearest| json::Nearest {
            key: nearest.manifest.key.to_string(),
            kernel: nearest.manifest.labels.get("kernel").cloned(),
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
