//! Source trees without a recipe: those whose Makefiles lead to Kbuild (Documentation/kbuild/modules.rst).
//!
//! The README of such a tree says `make`, and only that is certain to do all that the tree needs: the default target may
//! generate headers first, or pass a configuration to Kbuild. But it may also build programs that lack a library here,
//! install, or be for people only. So the recipe is a list of commands in the order in which they are tried:
//!
//! ```text
//! make KDIR=/lib/modules/K/build       in each directory whose Makefile leads to the kernel part, from the top
//! make                                 if a Makefile there looks for the kernel among several places
//! make KDIR=/lib/modules/K/build modules    if that is another target there
//! make -C /lib/modules/K/build M=PART modules    Kbuild itself, in the kernel part
//! ```
//!
//! The list follows from the source's text alone (`tree`, `variables`). It is part of the key as a whole, so hosts
//! agree on the key before anybody has built; a build tries the commands in one sandbox, each on a fresh copy of the
//! source, and the first that makes a module counts. Equal inputs lead to the same one.

mod tree;
mod variables;

use std::io;
use std::path::Path;

pub(crate) use tree::{ASIDE, is_project};
pub use tree::{Lack, Plain, find};

use super::{Modules, Recipe, Step, StepKind, build_dir, kernel_source_dir};

/// A command that may build a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The tree's own Makefile.
    Make {
        /// Directory of the Makefile, relative to the top; empty for the top.
        dir: String,
        /// The goal; `None` for the default one.
        goal: Option<&'static str>,
    },
    /// Kbuild, for a directory relative to the top.
    Kbuild {
        /// The directory with the Kbuild file.
        dir: String,
    },
}

/// The recipe of a tree: Kbuild's command, or the commands to try. `None` if the tree is no longer one that leads to
/// Kbuild.
pub fn recipe(source: &Path, name: &str, version: &str, release: &str) -> io::Result<Option<Recipe>> {
    let Ok(plain) = find(source)? else { return Ok(None) };
    let variables = variables::for_kernel(source, release)?;
    let build = build_dir(name, version).display().to_string();
    let kbuild = |dir: &str, goal: &str| {
        format!("make -C {} M={} {goal}", kernel_source_dir(release), below(&build, dir))
    };
    let command = |attempt: &Attempt, words: &[&str]| match attempt {
        Attempt::Kbuild { dir } => kbuild(dir, "modules"),
        Attempt::Make { dir, goal } => {
            let words = ["make"].into_iter().chain(words.iter().copied()).chain(*goal);
            let make = words.collect::<Vec<_>>().join(" ");
            if dir.is_empty() { make } else { format!("cd {} && {make}", quoted(dir)) }
        }
    };
    let kind = match plain.attempts.as_slice() {
        [Attempt::Kbuild { .. }] => StepKind::Make,
        _ => StepKind::Attempt,
    };
    let clean = plain.part.iter().map(|dir| Step { kind: StepKind::Clean, command: kbuild(dir, "clean") });
    let words: Vec<&str> = variables.words.iter().map(String::as_str).collect();
    // A Makefile that looks for the kernel itself finds the one that the sandbox shows as running.
    let by_itself = |attempt: &Attempt| {
        let may_differ = variables.are_searched && matches!(attempt, Attempt::Make { goal: None, .. });
        may_differ.then(|| command(attempt, &[]))
    };
    let tried = plain.attempts.iter().flat_map(|attempt| {
        let commands = [Some(command(attempt, &words)), by_itself(attempt)];
        commands.into_iter().flatten().map(|command| Step { kind, command })
    });
    Ok(Some(Recipe {
        name: name.to_owned(),
        version: version.to_owned(),
        excluded: None,
        steps: clean.chain(tried).collect(),
        modules: Modules::Found,
        depends: Vec::new(),
        automatic: true,
        hooks: Vec::new(),
        notes: Vec::new(),
        writes: false,
    }))
}

/// The path of a directory of the source, for a command.
fn below(build: &str, dir: &str) -> String {
    if dir.is_empty() { build.to_owned() } else { quoted(&format!("{build}/{dir}")) }
}

/// A word for bash.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests;
