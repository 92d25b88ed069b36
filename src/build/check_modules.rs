//! The checks that every module must pass before it enters the store and again before it is installed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use kcache_kernel::build::BuiltFile;
use kcache_kernel::kconfig::Kconfig;
use kcache_kernel::kernels::{self, BuildTree, Kernel};
use kcache_kernel::ko::{
    self, BuildId, Defect, ElfMachine, Expect, Flags, Ko, ModuleExport, ModuleFault, ThisModule,
};
use kcache_kernel::module_name::ModuleName;
use kcache_kernel::modules::in_tree;
use kcache_kernel::recipe::Modules;
use kcache_kernel::symvers::Symvers;
use kcache_store::{Digest, Field, Manifest, Role};
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::run::session::Session;

/// Name of the output with a build's results for packages that build against it.
pub const KEPT_NAME: &str = "kept.tar";

/// Limit on names of symbols that the modules of one package need, export and have CRCs of; each takes some 100 bytes
/// of memory. The largest packages have some thousand.
const MOST_NAMES: usize = 2_000_000;

/// The outputs of a build. At most one module's bytes are in memory, because builds and entries from elsewhere decide
/// how many modules there are, and how large.
#[derive(Default)]
pub struct Outputs {
    /// The parsed modules.
    pub modules: Vec<Candidate>,
    /// The modules' debug information, if the build was just made; entries can do without.
    pub debug: Vec<(String, Content)>,
    /// Results for other packages, as a tar (`kcache_kernel::build::kept`).
    pub kept: Option<Content>,
}

/// A module to be checked.
pub struct Candidate {
    /// File name, including `.ko`.
    pub name: String,
    /// The parsed module, or why it cannot be parsed.
    pub ko: std::result::Result<Ko, Defect>,
    /// The module's build-id, if it has one.
    pub build_id: Option<BuildId>,
    /// The location of its bytes.
    pub content: Content,
}

/// The location of bytes.
pub enum Content {
    /// In a build's scratch directory.
    Built(BuiltFile),
    /// In memory.
    Bytes(Vec<u8>),
    /// In the store.
    Stored {
        /// The object's digest.
        digest: Digest,
        /// Size in bytes.
        size: u64,
    },
}

impl Content {
    /// Reads all bytes.
    pub fn read(&self, session: &Session) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.pass_on(session, &mut |from| {
            from.read_to_end(&mut bytes)?;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Passes a reader of the bytes to a function.
    pub fn pass_on(&self, session: &Session, to: &mut dyn FnMut(&mut dyn Read) -> Result<()>) -> Result<()> {
        match self {
            Content::Built(built) => to(&mut built.open()?),
            Content::Bytes(bytes) => to(&mut &bytes[..]),
            Content::Stored { digest, size } => {
                let store = session.store.as_ref().ok_or(Error::NoStore)?;
                let gone = || std::io::Error::other(format!("object {digest} is no longer in the store"));
                to(&mut &store.read_object(digest, *size)?.ok_or_else(gone)?[..])
            }
        }
    }
}

impl Candidate {
    fn new(name: String, bytes: &[u8], content: Content) -> Candidate {
        Candidate { name, ko: ko::parse(bytes), build_id: BuildId::of(bytes), content }
    }

    /// Parses a built module. A file that does not begin like a module is not read further.
    pub fn built(built: BuiltFile) -> Result<Candidate> {
        let mut file = built.open()?;
        let mut bytes = Vec::new();
        file.by_ref().take(ko::START).read_to_end(&mut bytes)?;
        if let Err(defect) = ko::starts(&bytes) {
            let name = built.name.clone();
            return Ok(Candidate { name, ko: Err(defect), build_id: None, content: Content::Built(built) });
        }
        bytes.reserve_exact(built.size.saturating_sub(ko::START) as usize);
        file.read_to_end(&mut bytes)?;
        Ok(Candidate::new(built.name.clone(), &bytes, Content::Built(built)))
    }
}

/// Parses built modules. Exceeding `MOST_NAMES` is a defect of the modules that do.
pub fn built(modules: Vec<BuiltFile>) -> Result<Vec<Candidate>> {
    let mut room = MOST_NAMES;
    let one = |built| {
        let mut module = Candidate::built(built)?;
        let names = module.ko.as_ref().map_or(0, Ko::names);
        match room.checked_sub(names) {
            Some(left) => room = left,
            None => {
                let why = format!("it and its siblings have more than {MOST_NAMES} symbols");
                module.ko = Err(Defect::Malformed { why });
            }
        }
        Ok(module)
    };
    modules.into_iter().map(one).collect()
}

/// The facts about a kernel that modules are checked against.
pub struct Against<'a> {
    config: &'a Kconfig,
    arch: &'a str,
    symvers: Option<Arc<Symvers>>,
    this_module: Option<ThisModule>,
}

impl<'a> Against<'a> {
    /// Everything that a kernel's build tree contains.
    pub fn tree(session: &Session, kernel: &Kernel, tree: &'a BuildTree) -> Result<Against<'a>> {
        let symvers = session.symvers(kernel, tree)?;
        let this_module = session.this_module(kernel);
        Ok(Against { config: &tree.config, arch: &tree.arch, symvers, this_module })
    }

    /// Without headers: machine and vermagic only. The building host checked the symbols, for a kernel with the same
    /// `uname -v`.
    pub fn config(session: &Session, kernel: &Kernel, config: &'a Kconfig) -> Against<'a> {
        let this_module = session.this_module(kernel);
        Against { config, arch: kernels::arch(config), symvers: None, this_module }
    }
}

/// All defects of one package's modules, for a kernel. `needed` are the exports of the packages that it builds
/// against.
pub fn faults(
    kernel: &Kernel,
    against: &Against,
    modules: &[Candidate],
    needed: &BTreeMap<String, ModuleExport>,
) -> Result<Vec<ModuleFault>> {
    let mut faults = Vec::new();
    let mut parsed: Vec<(&str, &Ko)> = Vec::new();
    for module in modules {
        match &module.ko {
            Ok(ko) => parsed.push((&module.name, ko)),
            Err(defect) => faults.push(ModuleFault { file: module.name.clone(), defect: defect.clone() }),
        }
    }
    let mut siblings = needed.clone();
    siblings.extend(parsed.iter().flat_map(|(_, ko)| ko.exports.clone()));
    let Some(machine) = ElfMachine::of_arch(against.arch) else {
        return Err(
            std::io::Error::other(format!("cannot check modules of architecture {}", against.arch)).into()
        );
    };
    let expect = Expect {
        release: &kernel.release,
        machine,
        flags: Flags::of_config(against.config),
        symvers: against.symvers.as_deref(),
        this_module: against.this_module.clone(),
        siblings: &siblings,
        any_release: false,
    };
    faults.extend(parsed.iter().flat_map(|(name, ko)| ko::check(name, ko, &expect)));
    Ok(faults)
}

/// Warnings about modules that were built against other packages without CRCs of their symbols.
pub fn unversioned(modules: &[Candidate], needed: &BTreeMap<String, ModuleExport>) -> Vec<String> {
    let of = |module: &Candidate| {
        let names = ko::unversioned(module.ko.as_ref().ok()?, needed);
        let first = names.first()?;
        Some(format!(
            "{}: no symbol versions for {} symbols of other packages ({first}, ...): the kernel loads it, with a warning, also if they change",
            module.name,
            names.len()
        ))
    };
    modules.iter().filter_map(of).collect()
}

/// The modules in an entry that its recipe does not list, or, if the recipe accepts all built modules, that have the
/// name of an in-tree module. Otherwise a builder could add an `ext4.ko` to what was requested. The recipe is the one
/// in the entry's key.
pub fn undeclared(kernel: &Kernel, manifest: &Manifest) -> Result<Vec<ModuleFault>> {
    let modules = manifest.outputs.iter().filter(|output| output.role == Role::Module);
    undeclared_among(kernel, &promised(&manifest.fields), modules.map(|output| output.name.as_str()))
}

/// Like [`undeclared`], for modules that were just built.
pub fn undeclared_among<'a>(
    kernel: &Kernel,
    promised: &Modules,
    files: impl Iterator<Item = &'a str>,
) -> Result<Vec<ModuleFault>> {
    let fault = |file: &str, defect| ModuleFault { file: file.to_owned(), defect };
    if let Modules::Listed(list) = promised {
        let names: BTreeSet<String> = list.iter().map(|module| format!("{}.ko", module.name)).collect();
        return Ok(files
            .filter(|file| !names.contains(*file))
            .map(|file| fault(file, Defect::NotPromised))
            .collect());
    }
    let named: BTreeMap<ModuleName, &str> =
        files.filter_map(|file| Some((ModuleName::of_file(Path::new(file))?, file))).collect();
    let Some(tree) = kernel.modules.as_deref().filter(|_| !named.is_empty()) else { return Ok(Vec::new()) };
    let own = in_tree(tree, &named.keys().cloned().collect())?;
    Ok(own.into_iter().map(|(name, of)| fault(named[&name], Defect::Replaces { of })).collect())
}

/// The modules that the recipe in a key's fields lists; none if it cannot be parsed.
fn promised(fields: &[Field]) -> Modules {
    #[derive(Deserialize)]
    struct Recipe {
        modules: Modules,
    }
    let recipe = fields.iter().find(|field| field.name == "recipe");
    let recipe = recipe.and_then(|field| serde_json::from_str::<Recipe>(&field.value).ok());
    recipe.map_or(Modules::Found, |recipe| recipe.modules)
}

/// Removes modules that can never be loaded, because they need a symbol that nothing exports, if others remain;
/// returns the reasons. DKMS installs such modules, and nobody misses them: large packages list modules that newer
/// kernels do not support any more.
pub fn leave_out(
    kernel: &Kernel,
    against: &Against,
    modules: &mut Vec<Candidate>,
    needed: &BTreeMap<String, ModuleExport>,
) -> Result<Vec<ModuleFault>> {
    let mut left_out: Vec<ModuleFault> = Vec::new();
    loop {
        let orphans: Vec<ModuleFault> = faults(kernel, against, modules, needed)?
            .into_iter()
            .filter(|fault| matches!(fault.defect, Defect::UnknownSymbol { .. }))
            .collect();
        let is_orphan = |module: &Candidate| orphans.iter().any(|fault| fault.file == module.name);
        if orphans.is_empty() || modules.iter().all(is_orphan) {
            return Ok(left_out);
        }
        modules.retain(|module| !is_orphan(module)); // others may need what these exported
        left_out.extend(orphans);
    }
}

/// The outputs of an entry except the log, completely verified; `None` if the store lacks one of them.
pub fn outputs(session: &Session, manifest: &Manifest) -> Result<Option<Outputs>> {
    let Some(store) = &session.store else { return Ok(None) };
    let mut outputs = Outputs::default();
    for output in manifest.outputs.iter().filter(|output| [Role::Module, Role::Kept].contains(&output.role)) {
        let Some(bytes) = store.read_object(&output.digest, output.size)? else { return Ok(None) };
        let content = Content::Stored { digest: output.digest, size: output.size };
        match output.role {
            Role::Kept => outputs.kept = Some(content),
            _ => {
                outputs.modules.push(Candidate::new(output.name.clone(), &bytes, content));
                session.large.keep(&output.digest, bytes);
            }
        }
    }
    Ok(Some(outputs))
}

/// All symbols that the modules of an entry export.
pub fn exports(modules: &[Candidate]) -> BTreeMap<String, ModuleExport> {
    modules.iter().filter_map(|module| module.ko.as_ref().ok()).flat_map(|ko| ko.exports.clone()).collect()
}

/// Those files of a build's debug information that match its modules. A later step that links a module again without
/// stripping it leaves one that does not.
pub fn fitting(modules: &[Candidate], debug: Vec<BuiltFile>) -> Result<Vec<(String, Content)>> {
    let ids: BTreeMap<String, &BuildId> = modules
        .iter()
        .filter_map(|module| Some((debug_file(&module.name), module.build_id.as_ref()?)))
        .collect();
    let mut fitting = Vec::new();
    for file in debug {
        let debug = Candidate::built(file)?;
        if debug.build_id.is_some() && debug.build_id.as_ref() == ids.get(&debug.name).copied() {
            fitting.push((debug.name, debug.content));
        }
    }
    Ok(fitting)
}

/// Name of the file with a module file's debug information.
pub fn debug_file(module: &str) -> String {
    format!("{module}.debug")
}
