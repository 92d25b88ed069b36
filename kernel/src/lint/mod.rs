//! What will go wrong with a package, told to who writes it, before anybody builds it.
//!
//! [`check`] reads a source tree's text and the recipe as it was evaluated; it runs nothing. Each [`Rule`] is about one kind of
//! mistake. Rules look only at what a build reaches: commands of a Makefile that the recipe's goals lead to, with the
//! variables that the recipe gives; files that Kbuild reads; sources of the modules it makes. What cannot be told from the
//! text is passed over: a finding that is wrong costs its reader more than one that is missing.
//!
//! ```text
//! recipe's commands ─ calls ─ readings: makefiles with their goals ─┬─ commands, kbuild
//!                                       └ objects: modules, sources ─┼─ sources, recipe
//! source tree ───────────────────────────────────────────────────────┴─ tree
//! ```

mod calls;
mod commands;
mod kbuild;
mod readings;
mod recipe;
mod rules;
mod shell;
mod sources;
mod tree;

use std::io;
use std::path::{Path, PathBuf};

pub use rules::{RULES, Rule, Severity};

use crate::bounded_read;
use crate::packages::{Package, RecipeFile};
use crate::recipe::Recipe;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, relative to the source's top; empty is the tree itself.
    pub file: PathBuf,
    /// Line number, from 1; 0 where it is about the whole file.
    pub line: usize,
    /// Which kind of mistake.
    pub rule: &'static Rule,
    /// What was found there, in words.
    pub what: String,
}

/// Makes a finding by the name of its rule.
fn finding(name: &str, file: &Path, line: usize, what: impl Into<String>) -> Option<Finding> {
    let rule = RULES.iter().find(|rule| rule.name == name)?;
    Some(Finding { file: file.to_owned(), line, rule, what: what.into() })
}

/// What a recipe said to one kernel.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The kernel.
    pub release: &'a str,
    /// The recipe, or in words why there is none.
    pub recipe: Result<Recipe, String>,
}

/// Everything that is wrong with a package, by file and line. Without answers nothing is said of what commands do.
pub fn check(package: &Package, answers: &[Answer]) -> io::Result<Vec<Finding>> {
    let top = &package.source;
    let mut found = tree::check(top)?;
    let recipes: Vec<&Recipe> = answers.iter().filter_map(|answer| answer.recipe.as_ref().ok()).collect();
    let readings = readings::read(top, &recipes)?;
    for reading in &readings.makefiles {
        found.extend(commands::in_makefile(reading));
        found.extend(kbuild::in_makefile(reading));
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
) -> io::Result<Vec<Finding>> {
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
    let recipes: Vec<&Recipe> = answers.iter().filter_map(|answer| answer.recipe.as_ref().ok()).collect();
    found.extend(recipe::in_steps(&written, answers)?);
    found.extend(recipe::in_modules(&written, &recipes, &readings.objects));
    Ok(found)
}

/// The text of a recipe that lies apart from its source.
fn whole(path: &Path) -> io::Result<String> {
    Ok(bounded_read::text(path, bounded_read::MOST)?.unwrap_or_default())
}

/// The text of a file of the source; what is left out of it is nothing.
fn read(top: &Path, path: &Path) -> io::Result<String> {
    Ok(bounded_read::text_in(top, path)?.unwrap_or_default())
}

#[cfg(test)]
mod tests;
