//! `kcache lint`: mistakes in a package, reported to its author before anybody builds it.
//!
//! [`check`] reads the text of a source tree and the evaluated recipe; it runs nothing. Each [`LintRule`] is about one
//! kind of mistake. Rules consider only what a build uses: commands of a Makefile that the recipe's goals reach, with
//! the variables that the recipe sets; files that Kbuild reads; sources of the modules it builds. Anything that the
//! text does not determine is skipped, because a wrong finding costs its reader more than a missing one.
//!
//! ```text
//! recipe's commands ─ calls ─ readings: makefiles with their goals ─┬─ commands, kbuild
//!                                       └ objects: modules, sources ─┼─ sources, recipe
//! source tree ───────────────────────────────────────────────────────┴─ tree
//! ```

mod calls;
mod commands;
mod guards;
mod kbuild;
mod machine;
mod readings;
mod recipe;
mod rules;
mod shell;
mod sources;
mod tree;

use std::io;
use std::path::{Path, PathBuf};

pub use rules::{LintRule, LintSeverity, RULES};

use crate::bounded_read;
use crate::packages::{Package, RecipeFile};
use crate::recipe::{Recipe, Step, StepKind};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LintFinding {
    /// Path relative to the source's top; empty for the tree itself.
    pub file: PathBuf,
    /// Line number, from 1; 0 for the whole file.
    pub line: usize,
    /// The kind of mistake.
    pub rule: &'static LintRule,
    /// What was found there, as text.
    pub what: String,
}

/// Makes a finding, given the name of its rule.
fn finding(name: &str, file: &Path, line: usize, what: impl Into<String>) -> Option<LintFinding> {
    let rule = RULES.iter().find(|rule| rule.name == name)?;
    Some(LintFinding { file: file.to_owned(), line, rule, what: what.into() })
}

/// The evaluation of a recipe for one kernel.
#[derive(Clone, Debug)]
pub struct Answer<'a> {
    /// Release of the kernel.
    pub release: &'a str,
    /// The evaluated recipe, or the error as text.
    pub recipe: Result<Recipe, String>,
}

/// All findings about a package, by file and line. Without answers, commands are not checked.
///
/// Of commands that a build would try, those about the first that has no error: a default target that also installs
/// fails in a build, and the package builds by the next one.
pub fn check(package: &Package, answers: &[Answer]) -> io::Result<Vec<LintFinding>> {
    let is_error = |finding: &LintFinding| finding.rule.severity == LintSeverity::Error;
    let first = check_attempt(package, answers)?;
    if !first.iter().any(is_error) {
        return Ok(first);
    }
    let mut left = answers.to_vec();
    // Each kernel's recipe has the same ones.
    while left.iter_mut().filter_map(|answer| answer.recipe.as_mut().ok()).filter_map(skip_attempt).count()
        > 0
    {
        let found = check_attempt(package, &left)?;
        if !found.iter().any(is_error) {
            return Ok(found);
        }
    }
    Ok(first)
}

/// Removes and returns the first of several attempts.
fn skip_attempt(recipe: &mut Recipe) -> Option<Step> {
    let is_attempt = |step: &Step| step.kind == StepKind::Attempt;
    let first = recipe.steps.iter().position(is_attempt);
    let has_more = recipe.steps.iter().filter(|step| is_attempt(step)).count() > 1;
    first.filter(|_| has_more).map(|at| recipe.steps.remove(at))
}

fn check_attempt(package: &Package, answers: &[Answer]) -> io::Result<Vec<LintFinding>> {
    let top = &package.source;
    let mut found = tree::check(top)?;
    let recipes = meant(answers);
    let readings = readings::read(top, &recipes)?;
    found.extend(machine::check(top)?);
    for reading in &readings.makefiles {
        found.extend(commands::in_makefile(reading));
        found.extend(kbuild::in_makefile(reading));
        found.extend(recipe::in_scripts_of(top, reading)?);
    }
    found.extend(sources::check(top, &readings.objects, package)?);
    found.extend(recipe_findings(package, answers, &readings)?);
    found.sort();
    found.dedup();
    Ok(found)
}

fn recipe_findings(
    package: &Package,
    answers: &[Answer],
    readings: &readings::Readings,
) -> io::Result<Vec<LintFinding>> {
    let (path, text) = match &package.recipe {
        RecipeFile::Dkms => {
            let text = String::from_utf8_lossy(&package.dkms_conf()?).into_owned();
            (PathBuf::from("dkms.conf"), text)
        }
        RecipeFile::Toml(path, _) => match path.strip_prefix(&package.source) {
            Ok(inside) => (inside.to_owned(), read(&package.source, inside)?),
            Err(_) => (path.clone(), whole(path)?),
        },
        RecipeFile::Kbuild | RecipeFile::Elsewhere => return Ok(Vec::new()),
    };
    let written = recipe::Written {
        top: &package.source,
        path: &path,
        text: &text,
        is_dkms: path.ends_with("dkms.conf"),
    };
    let mut found = recipe::in_answers(&written, answers);
    found.extend(recipe::in_text(&written));
    found.extend(recipe::in_steps(&written, answers)?);
    found.extend(recipe::in_modules(&written, &meant(answers), readings));
    Ok(found)
}

/// The recipes of the kernels that the package supports: what it would do for others does not matter.
fn meant<'a>(answers: &'a [Answer]) -> Vec<&'a Recipe> {
    let recipes = answers.iter().filter_map(|answer| answer.recipe.as_ref().ok());
    recipes.filter(|recipe| recipe.excluded.is_none()).collect()
}

/// The text of a recipe outside its source tree.
fn whole(path: &Path) -> io::Result<String> {
    Ok(bounded_read::text(path, bounded_read::MOST)?.unwrap_or_default())
}

/// The text of a file in the source tree; empty if it is refused.
fn read(top: &Path, path: &Path) -> io::Result<String> {
    Ok(bounded_read::text_in(top, path)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
