//! Recipes: how a package is built for one kernel.
//!
//! There are three forms, which all become a [`Recipe`]:
//!
//! - `dkms.conf`, a bash program, evaluated by bash in the sandbox ([`dkms`]);
//! - `kcache.toml`, declarative ([`toml`]);
//! - no file: a tree whose Makefiles lead to Kbuild ([`kbuild`]).
//!
//! A recipe is evaluated for each kernel, because it may differ between kernels. It is plain data: its JSON is part of
//! a build's key, so its fields contain everything that can affect the modules, and nothing of the machine on which it
//! was evaluated. Its commands do not contain the number of jobs: the jobserver provides that.

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

/// How to build a package for one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Name of the package.
    pub name: String,
    /// Version of the package.
    pub version: String,
    /// Why the package does not support this kernel; `None` if it does.
    pub excluded: Option<String>,
    /// Commands to run in order, in the source tree.
    pub steps: Vec<Step>,
    /// The modules that the build produces.
    pub modules: Modules,
    /// Names of packages that this one builds against.
    pub depends: Vec<String>,
    /// Whether the package is installed without being selected.
    pub automatic: bool,
    /// Scripts to run on the system on which the modules are installed.
    pub hooks: Vec<Hook>,
    /// Notes for the recipe's maintainer, a line each.
    pub notes: Vec<String>,
    /// Whether its file makes others beside itself when it is evaluated, which the build may read.
    #[serde(default)]
    pub writes: bool,
}

/// Why a package without any module supports no kernel: there is nothing to build or install (DKMS warns of it).
pub const NO_MODULES: &str = "it has no modules";

/// A script of a package that is not part of its build: it runs as root on the system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// The event after or before which it runs.
    pub when: When,
    /// A path in the source tree, and arguments.
    pub command: String,
}

/// The event for which a package's script runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// The package's source was installed.
    Added,
    /// Before its modules are installed for a kernel.
    BeforeInstall,
    /// After its modules were installed for a kernel.
    AfterInstall,
    /// After its modules were removed from a kernel.
    AfterRemove,
}

impl When {
    pub(crate) const ALL: [When; 4] =
        [When::Added, When::BeforeInstall, When::AfterInstall, When::AfterRemove];

    /// The directive of `dkms.conf` for such a script.
    pub fn directive(self) -> &'static str {
        match self {
            When::Added => "POST_ADD",
            When::BeforeInstall => "PRE_INSTALL",
            When::AfterInstall => "POST_INSTALL",
            When::AfterRemove => "POST_REMOVE",
        }
    }
}

/// A command of a build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The purpose of the command.
    pub kind: StepKind,
    /// A line of bash.
    pub command: String,
}

/// The purpose of a command, which determines how failure is treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    /// Applies a patch; must succeed.
    Patch,
    /// A package's own script, as DKMS runs it: skipped with a warning if it is not executable.
    Hook,
    /// Removes results of an earlier build; may fail.
    Clean,
    /// Builds; must succeed.
    Make,
    /// May build: of the attempts in a row, the first that makes a module counts. Each begins with a fresh copy of the
    /// source, on which the cleaning before them has run.
    Attempt,
}

/// The modules that a recipe lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Modules {
    /// These, each of which must exist after the build.
    Listed(Vec<RecipeModule>),
    /// All modules that the build produces, at least one.
    Found,
}

/// A module that a recipe lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeModule {
    /// Path in the source tree after the build, without `.ko`.
    pub built: String,
    /// Name under which it is installed, without `.ko`.
    pub name: String,
    /// Whether debug information is stripped (`strip -g`).
    pub strip: bool,
}

/// The kernel for which a recipe is evaluated.
#[derive(Clone, Debug)]
pub struct Target<'a> {
    /// Release, as `uname -r` prints it.
    pub release: &'a str,
    /// Architecture, as `uname -m` prints it.
    pub arch: &'a str,
    /// The kernel's `.config`.
    pub config: &'a crate::kconfig::Kconfig,
}

/// Why there is no recipe.
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
        /// Path of the recipe.
        path: PathBuf,
        /// The reason, possibly several lines, some of them printed by the recipe itself.
        reason: String,
    },
    /// The cancel flag was set.
    #[error("interrupted")]
    Cancelled,
}

/// Escapes untrusted text for a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Path in the sandbox at which a package's source is built: DKMS's own, which recipes rely on.
pub fn build_dir(name: &str, version: &str) -> PathBuf {
    PathBuf::from(format!("/var/lib/dkms/{name}/{version}/build"))
}

/// Path in the sandbox of a build's results: DKMS's own, in which packages look for each other's.
pub fn kept_dir(name: &str, version: &str, release: &str, arch: &str) -> PathBuf {
    PathBuf::from(format!("/var/lib/dkms/{name}/{version}/{release}/{arch}"))
}

/// Path in the sandbox of a build's debug information, where no package looks.
pub fn debug_dir(name: &str, version: &str) -> PathBuf {
    PathBuf::from(format!("/var/lib/dkms/{name}/{version}/debug"))
}

/// Path of a kernel's build tree as passed to recipes.
pub fn kernel_source_dir(release: &str) -> String {
    format!("/lib/modules/{release}/build")
}

/// Whether a name can be a file name: letters, digits and `._+-`, not beginning with a dot or dash. Names that begin with
/// `generation.json` are refused, because that file is beside packages' directories.
pub fn is_flat_name(name: &str) -> bool {
    !name.contains(['~', ':']) && !name.starts_with(install::RECORD) && is_version(name)
}

/// Whether a text can be a version: part of a path, which may also contain `~` and `:`.
pub fn is_version(text: &str) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || "._+~:-".contains(c);
    !text.is_empty() && text.len() <= 100 && !text.starts_with(['.', '-']) && text.chars().all(good)
}

/// Checks the fields that all forms of recipes have in common.
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
