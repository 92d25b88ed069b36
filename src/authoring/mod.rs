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
use kcache_kernel::recipe::{self, Recipe, draft, kbuild};

use crate::build;
use crate::error::{Error, Result};
use crate::inputs::identify;
use crate::resolve::local;
use crate::run::request::Request;
use crate::run::session::Session;

/// Drafts a `kcache.toml` for a package that has none, from its Kbuild files or from the evaluation of its `dkms.conf`
/// for these kernels.
pub fn draft(session: &Session, package: &Package, kernels: &[Kernel]) -> Result<String> {
    if !matches!(package.recipe, RecipeFile::Dkms) {
        return from_source(session, package, kernels);
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

/// Drafts one for a tree without recipe. If it was built for one of the kernels, by the command that has built it.
fn from_source(session: &Session, package: &Package, kernels: &[Kernel]) -> Result<String> {
    let changed = || Error::Changed { what: format!("the source of {}", package.name) };
    let plain = kbuild::find(&package.source)?.map_err(|_| changed())?;
    let mut objects = match &plain.part {
        Some(part) => objects::read(&package.source, part, &Given::default())?,
        None => Objects::default(),
    };
    objects.complete &= !plain.moves_modules(&package.source)?;
    let known = kernels.iter().rev().find_map(|kernel| built(session, package, kernel));
    let (release, command) = match known {
        Some((release, command)) => (release, Some(command)),
        None => ("0.0-any-release".to_owned(), None),
    };
    let version = match package.version.as_str() {
        "0" => declared_version(package, &objects)?.unwrap_or_else(|| "0".to_owned()),
        known => known.to_owned(),
    };
    let recipe = kbuild::recipe(&package.source, &package.name, &version, &release)?.ok_or_else(changed)?;
    // The version may have become another than it was built as.
    let [own, new] = [&package.version, &version]
        .map(|version| recipe::build_dir(&package.name, version).display().to_string());
    let command = command.map(|command| command.replace(&own, &new));
    Ok(draft::from_source(&recipe, &release, command.as_deref(), &objects))
}

/// The release of a kernel for which the store has a build of the package as it is now, and the command that built it.
fn built(session: &Session, package: &Package, kernel: &Kernel) -> Option<(String, String)> {
    session.store.as_ref()?;
    let all = std::slice::from_ref(package);
    let request = Request { package, kernel, all, exact: true };
    let id = identify::identify(session, &request, kernel.build_tree()?).ok()?;
    let manifest = local::stored(session, &request, &id.key).ok()??;
    let command = build::built_by(&manifest)?.to_owned();
    Some((kernel.release.clone(), command))
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
