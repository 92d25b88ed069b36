//! Determining all inputs of a build, and its key. Nothing is built.

use std::sync::Arc;

use kcache_kernel::kernels::{BuildTree, Kernel};
use kcache_kernel::packages::Package;
use kcache_kernel::parallel::both;
use kcache_kernel::recipe::Recipe;
use kcache_store::{Digest, Field, Key};

use crate::error::{Error, Result};
use crate::inputs::key::{self, ENVIRONMENT, Inputs, KernelInputs};
use crate::run::request::Request;
use crate::run::select;
use crate::run::session::{KernelFacts, Session};

/// The inputs and key of a build.
pub struct Identified {
    /// The evaluated recipe.
    pub recipe: Recipe,
    /// Tree digest of the source.
    pub source: Digest,
    /// Tree digest of the administrator's patches and scripts for the package, if any.
    pub overrides: Option<Digest>,
    /// The fields of the key.
    pub fields: Vec<Field>,
    /// The hash of the fields.
    pub key: Key,
    /// The kernel's inputs.
    pub facts: Arc<KernelFacts>,
    /// The build dependencies, by the names that the recipe uses.
    pub dependencies: Vec<(String, Identified)>,
}

impl Identified {
    /// Whether it builds against a package of this name, directly or not.
    pub fn needs(&self, package: &str) -> bool {
        self.dependencies.iter().any(|(_, id)| id.recipe.name == package || id.needs(package))
    }
}

/// Determines the inputs and the key of a build. Builds nothing.
///
/// # Errors
///
/// [`Error::Dependency`] if a build dependency is missing or cyclic; errors of evaluating the recipe and determining
/// the toolchain.
pub fn identify(session: &Session, request: &Request, tree: &BuildTree) -> Result<Identified> {
    identify_within(session, request, tree, &mut Vec::new())
}

fn identify_within<'a>(
    session: &Session,
    request: &Request<'a>,
    tree: &BuildTree,
    within: &mut Vec<&'a str>,
) -> Result<Identified> {
    let (source, facts) =
        both(|| session.seen_source(request.package), || session.kernel(request.kernel, tree));
    let (source, facts) = (source?, facts?);
    let recipe = session.recipe(request.package, source, request.kernel, tree)?;
    let source = source.digest;
    within.push(&request.package.name);
    let mut dependencies = Vec::new();
    let depends = if recipe.excluded.is_none() { recipe.depends.as_slice() } else { &[] };
    for name in depends {
        let package = find(request, name, within)?;
        let id = identify_within(session, &Request { package, ..*request }, tree, within)?;
        dependencies.push((name.clone(), id));
    }
    within.pop();
    let overrides = session.overrides(request.package)?;
    let keys: Vec<(String, Key)> = dependencies.iter().map(|(name, id)| (name.clone(), id.key)).collect();
    let inputs = Inputs {
        source,
        recipe: &recipe,
        overrides,
        kernel: kernel_inputs(&facts, request.kernel, tree),
        tools: &facts.tools,
        dependencies: &keys,
        environment: &ENVIRONMENT,
    };
    let fields = key::fields(&inputs);
    let key = key::key(&fields);
    Ok(Identified { recipe, source, overrides, fields, key, facts, dependencies })
}

/// The package of this name that `request` builds against; `within` are the packages that build against it in turn.
pub fn find<'a>(request: &Request<'a>, name: &str, within: &[&str]) -> Result<&'a Package> {
    if within.contains(&name) {
        return Err(problem(request, name, "builds against it in turn (circular dependency)"));
    }
    select::find(request.all, name).ok_or_else(|| problem(request, name, "is not installed"))
}

/// The error for a build dependency.
pub fn problem(request: &Request, needs: &str, problem: &'static str) -> Error {
    Error::Dependency { package: request.package.name.clone(), needs: needs.to_owned(), problem }
}

/// A kernel's inputs, for computing a key.
fn kernel_inputs<'a>(facts: &KernelFacts, kernel: &'a Kernel, tree: &'a BuildTree) -> KernelInputs<'a> {
    KernelInputs {
        release: &kernel.release,
        arch: &tree.arch,
        version: &tree.version,
        config: facts.config,
        headers: facts.headers.digest,
        source: (tree.source != tree.inside).then_some(&tree.source),
    }
}
