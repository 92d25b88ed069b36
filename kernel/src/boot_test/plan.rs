//! Plans: which modules a guest loads, in which order. These are the modules to be tested and the in-tree modules they
//! need.
//!
//! A module names its dependencies in `.modinfo` (`depends`, and `softdep` for optional ones); `modules.dep.bin` says
//! where in-tree modules are. Soft dependencies may be aliases that several modules have (`crc32c`), found in
//! `modules.alias`. A module to be tested takes precedence over others of its name, so builds can be tested that are
//! not installed, or installed in another version.
//!
//! Modules are decompressed on the host: the kernel may not be able to, and an emulated CPU takes longer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use crate::bounded_read::{self, MOST_DATA};
use crate::compress::Compression;
use crate::index::DepIndex;
use crate::ko;
use crate::module_name::ModuleName;

/// Limit in bytes on a decompressed module, the same as for a build's modules.
const MOST_MODULE: u64 = 512 << 20;

/// A module to be tested: file name without `.ko`, and decompressed bytes.
#[derive(Clone, Debug)]
pub struct TestModule {
    /// File name without `.ko`, such as `v4l2loopback` or `snd-pcm`.
    pub name: String,
    /// The ELF file, not compressed.
    pub bytes: Vec<u8>,
}

impl TestModule {
    /// Reads a module's file, compressed or not.
    pub fn read(path: &Path) -> std::io::Result<TestModule> {
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let (name, compression) =
            Compression::of_file_name(&file_name).unwrap_or((&file_name, Compression::None));
        let bytes = bounded_read::bytes(path, MOST_DATA)?;
        // If it cannot be decompressed, the kernel will refuse it.
        let bytes = compression.decompress(&bytes, MOST_MODULE).unwrap_or(bytes);
        Ok(TestModule { name: name.to_owned(), bytes })
    }
}

/// A module's parameter, as on modprobe's command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name of the module.
    pub module: String,
    /// `NAME=VALUE`, or `NAME` alone for a boolean.
    pub setting: String,
}

impl std::str::FromStr for Parameter {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Parameter, Self::Err> {
        match text.split_once('.') {
            Some((module, setting)) if !module.is_empty() && !setting.is_empty() && !text.contains('\0') => {
                Ok(Parameter { module: module.to_owned(), setting: setting.to_owned() })
            }
            _ => Err("expected MODULE.NAME=VALUE"),
        }
    }
}

/// One module in the order of loading, after its dependencies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadStep {
    /// Name in the kernel, with `_` for `-`.
    pub name: String,
    /// Path of its file in the guest.
    pub file: String,
    /// Parameters: `NAME=VALUE NAME=VALUE`.
    pub parameters: String,
    /// Steps to be loaded before it, in this order.
    pub needs: Vec<LoadNeed>,
    /// Its number among the modules to be tested; `None` for a dependency.
    pub tested: Option<usize>,
}

/// A dependency on another step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoadNeed {
    /// Index of the step.
    pub step: usize,
    /// Whether it may fail to load.
    pub optional: bool,
}

/// What a guest is to load.
#[derive(Debug, Default)]
pub struct LoadPlan {
    /// All modules in the order of loading.
    pub steps: Vec<LoadStep>,
    /// The bytes of each step's file.
    pub(super) bytes: Vec<Vec<u8>>,
    /// What the kernel may request while it loads a module, with the steps that answer it.
    pub(super) answers: BTreeMap<String, Vec<usize>>,
    /// The kernel's modules: their directory and index.
    tree: Option<(PathBuf, DepIndex)>,
    /// Names of the modules to be tested.
    tested: Vec<String>,
    /// Step of each module; `None` while its dependencies are being added.
    at: BTreeMap<String, Option<usize>>,
    aliases: Option<Aliases>,
}

/// Modules by alias.
type Aliases = BTreeMap<String, Vec<String>>;

impl LoadPlan {
    /// Makes a plan for these modules on a kernel with this tree (`/lib/modules/K`). Without a tree the kernel has no
    /// modules.
    ///
    /// # Errors
    ///
    /// [`Error::NoModule`] for a parameter of another module, [`Error::Index`] if `modules.dep.bin` is corrupt.
    pub fn new(
        tested: Vec<TestModule>,
        tree: Option<&Path>,
        parameters: &[Parameter],
    ) -> Result<LoadPlan, Error> {
        let index = tree.map(|tree| read_index(&tree.join("modules.dep.bin"))).transpose()?.flatten();
        let names: Vec<String> = tested.iter().map(|module| kernel_name(&module.name)).collect();
        let tree = tree.map(Path::to_owned).zip(index);
        let mut plan = LoadPlan { tree, tested: names.clone(), ..LoadPlan::default() };
        let mut tested: Vec<Option<TestModule>> = tested.into_iter().map(Some).collect();
        for name in names {
            plan.add(&name, &mut tested)?;
        }
        for parameter in parameters {
            plan.set(parameter)?;
        }
        Ok(plan)
    }

    /// Number of modules to be tested.
    pub(super) fn count(&self) -> usize {
        self.tested.len()
    }

    /// Adds what the kernel requested (`request_module`), so that it exists in the next round. False if it is known
    /// already or does not exist.
    pub(super) fn answer(&mut self, request: &str) -> Result<bool, Error> {
        if self.answers.contains_key(request) {
            return Ok(false);
        }
        let mut steps = Vec::new();
        for name in self.called(&kernel_name(request))? {
            steps.extend(self.add(&name, &mut [])?);
        }
        let is_new = !steps.is_empty();
        self.answers.insert(request.to_owned(), steps);
        Ok(is_new)
    }

    fn set(&mut self, parameter: &Parameter) -> Result<(), Error> {
        let name = kernel_name(&parameter.module);
        let Some(step) = self.steps.iter_mut().find(|step| step.name == name) else {
            return Err(Error::NoModule { name: parameter.module.clone() });
        };
        if !step.parameters.is_empty() {
            step.parameters.push(' ');
        }
        step.parameters.push_str(&parameter.setting);
        Ok(())
    }
}

/// Name in the kernel: `snd-pcm.ko` is the module `snd_pcm`.
fn kernel_name(name: &str) -> String {
    ModuleName::new(name).into()
}

fn read_index(path: &Path) -> Result<Option<DepIndex>, Error> {
    let bytes = match bounded_read::bytes(path, MOST_DATA) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let damaged = |source| Error::Index { path: path.to_owned(), source };
    DepIndex::parse(&bytes).map(Some).map_err(damaged)
}

impl LoadPlan {
    /// Adds a module after its dependencies; returns its step. `None` if there is no such module, or it depends on
    /// itself: then loading it will fail in the kernel.
    fn add(&mut self, name: &str, tested: &mut [Option<TestModule>]) -> Result<Option<usize>, Error> {
        if let Some(known) = self.at.get(name) {
            return Ok(*known);
        }
        let number = self.tested.iter().position(|other| other == name);
        let bytes = match number.and_then(|number| tested.get_mut(number)?.take()) {
            Some(module) => module.bytes,
            None => match self.find(name)? {
                Some(module) => module.bytes,
                None => return Ok(None),
            },
        };
        self.at.insert(name.to_owned(), None);
        let mut needs: Vec<LoadNeed> = Vec::new();
        for (needed, optional) in self.needs_of(&bytes)? {
            let Some(step) = self.add(&needed, tested)? else { continue };
            let below = self.steps[step]
                .needs
                .iter()
                .map(|need| LoadNeed { optional: need.optional || optional, ..*need });
            for need in below.chain([LoadNeed { step, optional }]) {
                match needs.iter_mut().find(|known| known.step == need.step) {
                    Some(known) => known.optional &= need.optional,
                    None => needs.push(need),
                }
            }
        }
        let step = self.steps.len();
        let file = format!("/modules/{step}.ko");
        self.steps.push(LoadStep {
            name: name.to_owned(),
            file,
            parameters: String::new(),
            needs,
            tested: number,
        });
        self.bytes.push(bytes);
        self.at.insert(name.to_owned(), Some(step));
        Ok(Some(step))
    }

    /// Names of a module's dependencies, and whether they are optional. None if it cannot be parsed.
    fn needs_of(&mut self, bytes: &[u8]) -> Result<Vec<(String, bool)>, Error> {
        let Ok(ko) = ko::parse(bytes) else { return Ok(Vec::new()) };
        let mut needs = Vec::new();
        for name in ko.modinfo.all("softdep").flat_map(loaded_before) {
            needs.extend(self.called(&kernel_name(name))?.into_iter().map(|name| (name, true)));
        }
        needs.extend(ko.modinfo.depends().map(|name| (kernel_name(name), false)));
        Ok(needs)
    }

    /// The modules with this name: the one whose own name it is, else those with such an alias.
    fn called(&mut self, name: &str) -> Result<Vec<String>, Error> {
        let Some((tree, index)) = &self.tree else { return Ok(vec![name.to_owned()]) };
        if self.tested.iter().any(|other| other == name) || index.lookup(name).is_some() {
            return Ok(vec![name.to_owned()]);
        }
        let aliases = match &self.aliases {
            Some(aliases) => aliases,
            None => self.aliases.insert(read_aliases(&tree.join("modules.alias"))?),
        };
        Ok(aliases.get(name).cloned().unwrap_or_default())
    }

    /// Reads a module of the kernel's tree.
    fn find(&self, name: &str) -> Result<Option<TestModule>, Error> {
        let Some((tree, index)) = &self.tree else { return Ok(None) };
        let Some(entry) = index.lookup(name) else { return Ok(None) };
        Ok(Some(TestModule::read(&tree.join(entry.path))?))
    }
}

/// Modules by alias, from lines such as `alias crc32c crc32c_generic`. Aliases with patterns are for devices and are
/// left out.
fn read_aliases(path: &Path) -> Result<Aliases, Error> {
    let text = match bounded_read::config(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e.into()),
    };
    let mut aliases = Aliases::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if let (Some("alias"), Some(alias), Some(module)) = (words.next(), words.next(), words.next())
            && !alias.contains(['*', '?', '[', ':'])
        {
            aliases.entry(kernel_name(alias)).or_default().push(kernel_name(module));
        }
    }
    Ok(aliases)
}

/// The modules of `pre:` in a `softdep` such as `pre: a b post: c` (modprobe.d(5)).
fn loaded_before(softdep: &str) -> Vec<&str> {
    let mut is_before = false;
    let mut names = Vec::new();
    for word in softdep.split_ascii_whitespace() {
        match word {
            "pre:" => is_before = true,
            "post:" => is_before = false,
            name if is_before => names.push(name),
            _ => {}
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ko::fixture::Built;

    fn module(name: &str, modinfo: &[&str]) -> TestModule {
        let mut built = Built::named(name);
        built.modinfo.extend(modinfo.iter().map(|text| (*text).to_owned()));
        TestModule { name: name.to_owned(), bytes: built.bytes() }
    }

    fn plan(modules: Vec<TestModule>, parameters: &[&str]) -> Result<LoadPlan, Error> {
        let parameters: Vec<Parameter> = parameters.iter().map(|text| text.parse().unwrap()).collect();
        LoadPlan::new(modules, None, &parameters)
    }

    fn order(plan: &LoadPlan) -> Vec<&str> {
        plan.steps.iter().map(|step| step.name.as_str()).collect()
    }

    #[test]
    fn dependencies_are_loaded_first() {
        let modules = vec![
            module("top", &["depends=middle-one"]),
            module("middle-one", &["depends=base"]),
            module("base", &[]),
        ];
        let plan = plan(modules, &[]).unwrap();
        assert_eq!(order(&plan), ["base", "middle_one", "top"]);
        let needs: Vec<usize> = plan.steps[2].needs.iter().map(|need| need.step).collect();
        assert_eq!(needs, [0, 1]);
        assert_eq!(
            plan.steps.iter().map(|step| step.tested).collect::<Vec<_>>(),
            [Some(2), Some(1), Some(0)]
        );
    }

    #[test]
    fn soft_dependencies_may_fail() {
        let modules = vec![
            module("top", &["softdep=pre: soft post: after", "depends=hard"]),
            module("soft", &["depends=below"]),
            module("hard", &["depends=below"]),
            module("below", &[]),
            module("after", &[]),
        ];
        let plan = plan(modules, &[]).unwrap();
        assert_eq!(order(&plan), ["below", "soft", "hard", "top", "after"]);
        let optional: Vec<bool> = plan.steps[3].needs.iter().map(|need| need.optional).collect();
        assert_eq!(optional, [false, true, false]);
    }

    #[test]
    fn cycles_and_unknown_modules_are_left_to_the_kernel() {
        let plan = plan(vec![module("a", &["depends=b,nobody"]), module("b", &["depends=a"])], &[]).unwrap();
        assert_eq!(order(&plan), ["b", "a"]);
    }

    /// A plan for module `top` on a kernel whose tree has `modules`, with these lines in `modules.alias`.
    fn with_tree(modules: &[TestModule], aliases: &str) -> (tempfile::TempDir, LoadPlan) {
        let dir = tempfile::tempdir().unwrap();
        let pairs: Vec<(String, String)> = modules
            .iter()
            .map(|module| (kernel_name(&module.name), format!("kernel/{}.ko:", module.name)))
            .collect();
        let pairs: Vec<(&str, &str)> =
            pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        fs_err::create_dir(dir.path().join("kernel")).unwrap();
        fs_err::write(dir.path().join("modules.dep.bin"), crate::index::tests::index(&pairs)).unwrap();
        fs_err::write(dir.path().join("modules.alias"), aliases).unwrap();
        for module in modules {
            fs_err::write(dir.path().join(format!("kernel/{}.ko", module.name)), &module.bytes).unwrap();
        }
        let plan = LoadPlan::new(vec![module("top", &["softdep=pre: sum"])], Some(dir.path()), &[]).unwrap();
        (dir, plan)
    }

    #[test]
    fn an_alias_of_several_modules_loads_all_of_them() {
        let modules =
            [module("sum-fast", &["depends=sum-lib"]), module("sum-lib", &[]), module("sum-slow", &[])];
        let aliases = "# aliases\nalias sum sum_slow\nalias sum sum_fast\nalias pci:* sum_lib\n";
        let (_dir, plan) = with_tree(&modules, aliases);
        assert_eq!(order(&plan), ["sum_slow", "sum_lib", "sum_fast", "top"]);
        assert!(plan.steps[3].needs.iter().all(|need| need.optional));
    }

    #[test]
    fn requested_modules_are_added_once_if_they_exist() {
        let modules = [module("hmac", &["depends=lib"]), module("lib", &[])];
        let (_dir, mut plan) = with_tree(&modules, "alias crypto-hmac hmac\n");
        assert_eq!(order(&plan), ["top"]);
        assert!(plan.answer("crypto-hmac").unwrap());
        assert_eq!(order(&plan), ["top", "lib", "hmac"]);
        assert_eq!(plan.answers["crypto-hmac"], [2]);
        assert!(!plan.answer("crypto-hmac").unwrap());
        assert!(!plan.answer("crypto-sha0").unwrap());
    }

    #[test]
    fn the_first_of_two_modules_with_one_name_is_tested() {
        let plan = plan(vec![module("a-b", &[]), module("a_b", &[])], &[]).unwrap();
        assert_eq!((plan.count(), order(&plan)), (2, vec!["a_b"]));
    }

    #[test]
    fn a_file_that_is_not_a_module_is_planned() {
        let plan = plan(vec![TestModule { name: "junk".into(), bytes: b"junk".to_vec() }], &[]).unwrap();
        assert_eq!(order(&plan), ["junk"]);
    }

    #[test]
    fn parameters_are_passed_to_their_module() {
        let modules = || vec![module("snd-pcm", &[]), module("other", &[])];
        let plan = |parameters: &[&str]| self::plan(modules(), parameters);
        let planned = plan(&["snd_pcm.debug=1", "snd-pcm.name=a.b=c"]).unwrap();
        assert_eq!(planned.steps[0].parameters, "debug=1 name=a.b=c");
        assert_eq!(planned.steps[1].parameters, "");
        assert_eq!(
            plan(&["nobody.x=1"]).unwrap_err().to_string(),
            "module nobody is not among the modules to load"
        );
        for wrong in ["", "x", ".x=1", "x."] {
            assert!(wrong.parse::<Parameter>().is_err(), "{wrong}");
        }
    }
}
