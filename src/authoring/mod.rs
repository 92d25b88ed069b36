//! For a package's author: a first `kcache.toml` (`init`), and what will go wrong with a package (`lint`).
//!
//! Both evaluate the recipe for some kernels in the sandbox, as a build would. Neither builds anything.

use kcache_kernel::bounded_read;
use kcache_kernel::csource;
use kcache_kernel::kernels::Kernel;
use kcache_kernel::lint::{self, Answer, LintFinding};
use kcache_kernel::makefile::Given;
use kcache_kernel::packages::{self, Package, RecipeFile};
use kcache_kernel::recipe::objects::{self, Objects};
use kcache_kernel::recipe::{self, Recipe, draft};

use crate::error::{Error, Result};
use crate::run::session::Session;

/// Drafts a `kcache.toml` for a package that has none, from its Kbuild files or from the evaluation of its `dkms.conf`
/// for these kernels.
pub fn draft(session: &Session, package: &Package, kernels: &[Kernel]) -> Result<String> {
    if !matches!(package.recipe, RecipeFile::Dkms) {
        let objects = objects::read(&package.source, "", &Given::default())?;
        let version = match package.version.as_str() {
            "0" => declared_version(package, &objects)?.unwrap_or_else(|| "0".to_owned()),
            known => known.to_owned(),
        };
        return Ok(draft::from_source(&package.name, &version, &objects));
    }
    let recipes =
        kernels.iter().map(|kernel| recipe(session, package, kernel)).collect::<Result<Vec<_>>>()?;
    let with_headers: Vec<(&str, &Recipe)> = kernels
        .iter()
        .zip(&recipes)
        .filter_map(|(kernel, recipe)| Some((kernel.release.as_str(), recipe.as_ref()?)))
        .collect();
    let conf = String::from_utf8_lossy(&package.dkms_conf()?).into_owned();
    let text = draft::from_dkms(&conf, &with_headers);
    text.ok_or(Error::Package(packages::Error::NoRecipe { path: package.source.clone() }))
}

/// The version that the package's modules declare, if they agree.
fn declared_version(package: &Package, objects: &Objects) -> Result<Option<String>> {
    let mut found: Option<String> = None;
    for path in objects.modules.iter().flat_map(|object| &object.sources) {
        let text = bounded_read::text_in(&package.source, path)?.unwrap_or_default();
        let code = csource::code(&text, false);
        for version in csource::uses(&code, "MODULE_VERSION").into_iter().filter_map(|it| it.text) {
            if !recipe::is_version(&version) || found.as_ref().is_some_and(|other| *other != version) {
                return Ok(None);
            }
            found = Some(version);
        }
    }
    Ok(found)
}

/// All findings about a package, for these kernels. Kernels without headers are skipped.
pub fn lint(session: &Session, package: &Package, kernels: &[Kernel]) -> Result<Vec<LintFinding>> {
    let mut answers = Vec::new();
    for kernel in kernels {
        let recipe = match recipe(session, package, kernel) {
            Ok(Some(recipe)) => Ok(recipe),
            Ok(None) => continue,
            Err(Error::Recipe(recipe::Error::Bad { reason, .. })) => Err(reason),
            // A tree that cannot be copied has a finding of its own.
            Err(Error::Store(kcache_store::Error::NotPlain { .. })) => continue,
            Err(error) => return Err(error),
        };
        answers.push(Answer { release: &kernel.release, recipe });
    }
    Ok(lint::check(package, &answers)?)
}

/// A package's recipe for a kernel; `None` if the kernel has no headers.
fn recipe(session: &Session, package: &Package, kernel: &Kernel) -> Result<Option<Recipe>> {
    let Some(tree) = kernel.build_tree() else { return Ok(None) };
    session.recipe(package, session.source(package)?, kernel, tree).map(Some)
}
