//! Determines all inputs of one build, and its key. Builds nothing.

use std::sync::Arc;

use kcache_kernel::kernels::{BuildTree, Kernel};
use kcache_kernel::packages::Package;
use kcache_kernel::parallel::both;
use kcache_kernel::recipe::Recipe;
use kcache_store::{Digest, Field, Key};

use crate::error::{Error, Result};
use crate::inputs::key::{self, ENVIRONMENT, Inputs, KernelInputs};
use crate::inputs::system_files::SystemFiles;
use crate::inputs::version;
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
    /// Files of the target system that the package mentions.
    pub system: SystemFiles,
    /// Whether there is Rust in it.
    pub rust: bool,
    /// The fields of the key.
    pub fields: Vec<Field>,
    /// The hash of the fields.
    pub key: Key,
    /// The kin: what is built, whatever with.
    pub kin: Digest,
    /// The kernel's side of it.
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
    let system = session.system_files(request.package, source, request.kernel, tree)?;
    let source = source.digest;
    within.push(&request.package.name);
    let mut dependencies = Vec::new();
    let depends = if recipe.excluded.is_none() { recipe.depends.as_slice() } else { &[] };
    for name in depends {
        let package = match find(session, request, name, tree, within) {
            Err(error @ Error::Dependency { .. }) if session.context.without_dependencies => {
                session.report_once(&format!("{}: building all the same: {error}", request.name()));
                continue;
            }
            found => found?,
        };
        let id = identify_within(session, &Request { package, ..*request }, tree, within)?;
        dependencies.push((name.clone(), id));
    }
    within.pop();
    let overrides = session.overrides(request.package)?;
    let kin: Vec<(String, Digest)> = dependencies.iter().map(|(name, id)| (name.clone(), id.kin)).collect();
    let traits = session.traits(request.package, source, overrides, &recipe)?;
    let inputs = Inputs {
        source,
        recipe: &recipe,
        overrides,
        kernel: kernel_inputs(&facts, request.kernel, tree),
        tools: &facts.tools,
        dependencies: &kin,
        system: [system.releases, system.map],
        cpu: traits.asks_cpu.then_some(&session.context.cpu),
        rust: traits.rust,
        environment: &ENVIRONMENT,
    };
    let fields = key::fields(&inputs);
    let (key, kin) = (key::key(&fields), key::kin(&fields));
    let rust = traits.rust;
    Ok(Identified { recipe, source, overrides, system, rust, fields, key, kin, facts, dependencies })
}

/// The package called so that `request` builds against; `within` are those that build against it in turn.
fn find<'a>(
    session: &Session,
    request: &Request<'a>,
    name: &str,
    tree: &BuildTree,
    within: &[&str],
) -> Result<&'a Package> {
    if within.contains(&name) {
        return Err(problem(request, name, "builds against it in turn (circular dependency)"));
    }
    version::dependency(session, request, name, tree)
        .ok_or_else(|| problem(request, name, "is not installed"))
}

/// The package of a dependency, in the version that it was identified as.
pub fn of_dependency<'a>(request: &Request<'a>, name: &str, id: &Identified) -> Result<&'a Package> {
    let named = format!("{name}/{}", id.recipe.version);
    let package = select::find(request.all, &named).or_else(|| select::find(request.all, name));
    package.ok_or_else(|| problem(request, name, "is not installed"))
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
        programs: facts.headers.programs,
        source: (tree.source != tree.inside).then_some(&tree.source),
    }
}
