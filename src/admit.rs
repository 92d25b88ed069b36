//! Whether modules may be believed: what every module must pass before it enters the store and again before it is
//! installed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use kcache_kernel::install::module_of;
use kcache_kernel::kconfig::Kconfig;
use kcache_kernel::kernels::{self, BuildTree, Kernel};
use kcache_kernel::ko::{self, Defect, Expect, Export, Fault, Flags, Ko, Machine};
use kcache_kernel::modules::in_tree;
use kcache_kernel::recipe::Modules;
use kcache_kernel::symvers::Symvers;
use kcache_store::{Field, Manifest};
use serde::Deserialize;

use crate::error::Result;
use crate::facts::Session;

/// The role of a module among an entry's outputs.
pub const MODULE: &str = "module";

/// The role of what a build leaves for the packages that build against it.
pub const KEPT: &str = "kept";

/// What that output is called.
pub const KEPT_NAME: &str = "kept.tar";

/// What came of a build, in memory.
#[derive(Default)]
pub struct Outputs {
    /// The modules.
    pub modules: Vec<Candidate>,
    /// The modules' debug information, of a build that was made now: an entry can do without.
    pub debug: Vec<Candidate>,
    /// What is left for other packages, packed (`kcache_kernel::build::kept`).
    pub kept: Option<Vec<u8>>,
}

/// One module, or its debug information, in memory.
pub struct Candidate {
    /// Its file name.
    pub name: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What of a kernel modules are compared with.
pub struct Against<'a> {
    config: &'a Kconfig,
    arch: &'a str,
    symvers: Option<Arc<Symvers>>,
}

impl<'a> Against<'a> {
    /// All that a kernel's build tree tells.
    pub fn tree(session: &Session, kernel: &Kernel, tree: &'a BuildTree) -> Result<Against<'a>> {
        let symvers = session.symvers(kernel, tree)?;
        Ok(Against { config: &tree.config, arch: &tree.arch, symvers })
    }

    /// Without headers: machine and vermagic. That its symbols are the kernel's was checked where it was built, for a
    /// kernel with the same `uname -v`.
    pub fn config(config: &'a Kconfig) -> Against<'a> {
        Against { config, arch: kernels::arch(config), symvers: None }
    }
}

/// What is wrong with the modules of one package, for a kernel. `needed` are the exports of the packages it builds
/// against.
pub fn faults(
    kernel: &Kernel,
    against: &Against,
    modules: &[Candidate],
    needed: &BTreeMap<String, Export>,
) -> Result<Vec<Fault>> {
    let mut faults = Vec::new();
    let mut parsed: Vec<(&str, Ko)> = Vec::new();
    for module in modules {
        match ko::parse(&module.bytes) {
            Ok(ko) => parsed.push((&module.name, ko)),
            Err(defect) => faults.push(Fault { file: module.name.clone(), defect }),
        }
    }
    let mut siblings = needed.clone();
    siblings.extend(parsed.iter().flat_map(|(_, ko)| ko.exports.clone()));
    let Some(machine) = Machine::of_arch(against.arch) else {
        return Err(std::io::Error::other(format!(
            "no module of architecture {} can be checked",
            against.arch
        ))
        .into());
    };
    let expect = Expect {
        release: &kernel.release,
        machine,
        flags: Flags::of_config(against.config),
        symvers: against.symvers.as_deref(),
        siblings: &siblings,
        any_release: false,
    };
    faults.extend(parsed.iter().flat_map(|(name, ko)| ko::check(name, ko, &expect)));
    Ok(faults)
}

/// The modules among an entry's outputs that nobody has asked for: of names that its recipe does not promise, or, where the
/// recipe takes whatever is built, of one that the kernel's own modules have. Whoever signs entries could else put an
/// `ext4.ko` beside what was asked for. The recipe is the one that the entry's key is made of.
pub fn undeclared(kernel: &Kernel, manifest: &Manifest) -> Result<Vec<Fault>> {
    let modules = manifest.outputs.iter().filter(|output| output.role == MODULE);
    undeclared_among(kernel, &promised(&manifest.fields), modules.map(|output| output.name.as_str()))
}

/// The same of modules that were built now.
pub fn undeclared_among<'a>(
    kernel: &Kernel,
    promised: &Modules,
    files: impl Iterator<Item = &'a str>,
) -> Result<Vec<Fault>> {
    let fault = |file: &str, defect| Fault { file: file.to_owned(), defect };
    if let Modules::Listed(list) = promised {
        let names: BTreeSet<String> = list.iter().map(|module| format!("{}.ko", module.name)).collect();
        return Ok(files
            .filter(|file| !names.contains(*file))
            .map(|file| fault(file, Defect::NotPromised))
            .collect());
    }
    let named: BTreeMap<String, &str> =
        files.filter_map(|file| Some((module_of(Path::new(file))?, file))).collect();
    let Some(tree) = kernel.modules.as_deref().filter(|_| !named.is_empty()) else { return Ok(Vec::new()) };
    let own = in_tree(tree, &named.keys().cloned().collect())?;
    Ok(own.into_iter().map(|(name, of)| fault(named[&name], Defect::Replaces { of })).collect())
}

/// What the recipe among the fields of a key promises. One that cannot be read promises nothing.
fn promised(fields: &[Field]) -> Modules {
    #[derive(Deserialize)]
    struct Recipe {
        modules: Modules,
    }
    let recipe = fields.iter().find(|field| field.name == "recipe");
    let recipe = recipe.and_then(|field| serde_json::from_str::<Recipe>(&field.value).ok());
    recipe.map_or(Modules::Found, |recipe| recipe.modules)
}

/// Leaves out the modules that can never be loaded, because they need a symbol that nothing exports, if others remain; returns
/// why. DKMS installs such modules, and nobody misses them: packages of many modules go on naming those that a kernel has
/// left behind.
pub fn leave_out(
    kernel: &Kernel,
    against: &Against,
    modules: &mut Vec<Candidate>,
    needed: &BTreeMap<String, Export>,
) -> Result<Vec<Fault>> {
    let mut left_out: Vec<Fault> = Vec::new();
    loop {
        let orphans: Vec<Fault> = faults(kernel, against, modules, needed)?
            .into_iter()
            .filter(|fault| matches!(fault.defect, Defect::UnknownSymbol { .. }))
            .collect();
        let is_orphan = |module: &Candidate| orphans.iter().any(|fault| fault.file == module.name);
        if orphans.is_empty() || modules.iter().all(is_orphan) {
            return Ok(left_out);
        }
        modules.retain(|module| !is_orphan(module)); // others may have needed what these export
        left_out.extend(orphans);
    }
}

/// The outputs of an entry, each byte verified; not its log. `None` where the store no longer has one of them.
pub fn outputs(session: &Session, manifest: &Manifest) -> Result<Option<Outputs>> {
    let Some(store) = &session.store else { return Ok(None) };
    let mut outputs = Outputs::default();
    for output in manifest.outputs.iter().filter(|output| [MODULE, KEPT].contains(&output.role.as_str())) {
        let Some(bytes) = store.read_object(&output.digest, output.size)? else { return Ok(None) };
        match output.role.as_str() {
            KEPT => outputs.kept = Some(bytes),
            _ => outputs.modules.push(Candidate { name: output.name.clone(), bytes }),
        }
    }
    Ok(Some(outputs))
}

/// What the modules of an entry export.
pub fn exports(modules: &[Candidate]) -> BTreeMap<String, Export> {
    modules.iter().filter_map(|module| ko::parse(&module.bytes).ok()).flat_map(|ko| ko.exports).collect()
}
