//! Recipes: how a package is built for one kernel.
//!
//! A package says it in one of three ways, and all three become the same [`Recipe`]:
//!
//! - `dkms.conf`, a bash program, evaluated by bash in the sandbox ([`dkms`]);
//! - `kcache.toml`, declarative ([`toml`]);
//! - nothing: a plain Kbuild directory whose Makefile names `obj-m` ([`kbuild`]).
//!
//! A recipe is evaluated for each kernel anew, because it may say different things to different kernels. It is plain data:
//! its JSON is what enters a build's key, so whatever of it can shape the modules stands in its fields, and nothing of the
//! machine it was evaluated on does. How many jobs may run at once is left out of its commands: the jobserver says that.

pub mod directives;
pub mod dkms;
pub mod draft;
pub mod kbuild;
pub mod objects;
pub mod toml;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::install;
use crate::module_name::ModuleName;
use crate::sandbox;

/// A package's build, for one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// The package's name.
    pub name: String,
    /// The package's version.
    pub version: String,
    /// Why the package is not meant for this kernel, if it is not.
    pub excluded: Option<String>,
    /// What to run, in order, in the source tree.
    pub steps: Vec<Step>,
    /// What comes out.
    pub modules: Modules,
    /// Packages whose modules this one builds against.
    pub depends: Vec<String>,
    /// The package is installed without being named.
    pub automatic: bool,
    /// Scripts for the system that the modules are installed on.
    pub hooks: Vec<Hook>,
    /// Things worth a line to whoever maintains the recipe.
    pub notes: Vec<String>,
}

/// A script of a package that is no part of its build: it is meant for the system, and to be run as root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// When it is meant to run.
    pub when: When,
    /// A path in the source tree, and arguments.
    pub command: String,
}

/// When a package's script for the system is meant to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// The package's source was installed.
    Added,
    /// Its modules are about to be installed for a kernel.
    BeforeInstall,
    /// They were.
    AfterInstall,
    /// They were removed.
    AfterRemove,
}

impl When {
    pub(crate) const ALL: [When; 4] =
        [When::Added, When::BeforeInstall, When::AfterInstall, When::AfterRemove];

    /// The directive of `dkms.conf` that names such a script.
    pub fn directive(self) -> &'static str {
        match self {
            When::Added => "POST_ADD",
            When::BeforeInstall => "PRE_INSTALL",
            When::AfterInstall => "POST_INSTALL",
            When::AfterRemove => "POST_REMOVE",
        }
    }
}

/// One thing to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What it is for.
    pub kind: StepKind,
    /// A line of bash.
    pub command: String,
}

/// What a step is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// Applies a patch; must succeed.
    Patch,
    /// A package's own script, as DKMS runs it: skipped with a warning where it is not executable.
    Hook,
    /// Removes what an earlier build left in the source; may fail.
    Clean,
    /// Must succeed.
    Make,
}

/// The modules a recipe promises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modules {
    /// These, each of which must be there.
    Listed(Vec<Module>),
    /// Whatever modules the build makes, at least one.
    Found,
}

/// One promised module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Module {
    /// Where the build leaves it: a path in the source tree, without `.ko`.
    pub built: String,
    /// The name it is installed under, without `.ko`.
    pub name: String,
    /// Debug information is stripped (`strip -g`).
    pub strip: bool,
}

/// The kernel that a recipe is evaluated for.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// `uname -r`.
    pub release: &'a str,
    /// `uname -m`.
    pub arch: &'a str,
    /// `.config`.
    pub config: &'a crate::kconfig::Kconfig,
}

/// What is wrong with a recipe.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sandbox failed.
    #[error(transparent)]
    Sandbox(#[from] sandbox::Error),
    /// A file could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The recipe could not be evaluated.
    #[error("{}: {}", path.display(), shown(reason))]
    Bad {
        /// The recipe.
        path: PathBuf,
        /// In words, of several lines where bash had several to say. Some are the recipe's own.
        reason: String,
    },
    /// Evaluation was cancelled.
    #[error("interrupted")]
    Cancelled,
}

/// A text of a stranger's for a terminal, which it does not command.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// The path at which a package's source is built, in the sandbox: DKMS's own, which recipes rely on.
pub fn build_dir(name: &str, version: &str) -> PathBuf {
    PathBuf::from(format!("/var/lib/dkms/{name}/{version}/build"))
}

/// The directory of a build's results, in the sandbox: DKMS's own, in which packages look for each other's.
pub fn kept_dir(name: &str, version: &str, release: &str, arch: &str) -> PathBuf {
    PathBuf::from(format!("/var/lib/dkms/{name}/{version}/{release}/{arch}"))
}

/// Where a build's debug information is put, in the sandbox: in nothing that packages look into.
pub fn debug_dir(name: &str, version: &str) -> PathBuf {
    PathBuf::from(format!("/var/lib/dkms/{name}/{version}/debug"))
}

/// The way to a kernel's build tree that recipes are given.
pub fn kernel_source_dir(release: &str) -> String {
    format!("/lib/modules/{release}/build")
}

/// Names become file names: letters, digits and `._+-`, not beginning with a dot or dash. Beside packages' directories lies
/// what says what is installed, and no package is called so.
pub fn is_flat_name(name: &str) -> bool {
    !name.contains(['~', ':']) && !name.starts_with(install::RECORD) && is_version(name)
}

/// Versions become parts of paths; they may hold `~` and `:`, too.
pub fn is_version(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+~:-".contains(c);
    !text.is_empty() && text.len() <= 100 && !text.starts_with(['.', '-']) && text.chars().all(good)
}

/// Checks what every kind of recipe must say right.
fn checked(recipe: Recipe, path: &std::path::Path) -> Result<Recipe, Error> {
    let bad = |reason: String| Err(Error::Bad { path: path.to_owned(), reason });
    if !is_flat_name(&recipe.name) {
        return bad(format!(
            "invalid package name '{}': must consist of letters, digits and ._+-",
            recipe.name
        ));
    }
    if !is_version(&recipe.version) {
        return bad(format!(
            "invalid package version '{}': must consist of letters, digits and ._+~:-",
            recipe.version
        ));
    }
    let Modules::Listed(modules) = &recipe.modules else { return Ok(recipe) };
    let mut names: Vec<_> = modules.iter().map(|module| ModuleName::new(&module.name)).collect();
    names.sort();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        return bad(format!("module '{}' is named twice", twice[0]));
    }
    for module in modules {
        if !is_flat_name(&module.name) {
            return bad(format!(
                "invalid module name '{}': must consist of letters, digits and ._+-",
                module.name
            ));
        }
        if module.built.split('/').any(|part| part == "..") || module.built.starts_with('/') {
            return bad(format!("module '{}' is outside the source tree", module.built));
        }
    }
    Ok(recipe)
}
