//! `kcache.toml`: a declarative recipe. `docs/kcache.toml.md` describes its fields.

use std::cmp::Ordering;
use std::path::Path;

use serde::Deserialize;

use super::{
    Error, Modules, Recipe, RecipeModule, Step, StepKind, Target, build_dir, checked, kernel_source_dir,
};
use crate::release;

/// The parsed file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct TomlRecipe {
    /// Name of the package.
    pub name: String,
    /// Version of the package.
    pub version: String,
    /// Path of the source; only in `/etc/kcache/packages.d`, where the file is outside the source tree.
    pub source: Option<std::path::PathBuf>,
    /// Build commands; by default the plain Kbuild command.
    #[serde(default)]
    make: Vec<String>,
    /// Commands that run before `make`.
    #[serde(default)]
    prepare: Vec<String>,
    /// The modules that must be produced; by default all that are built.
    #[serde(default, rename = "module")]
    modules: Vec<ModuleTable>,
    /// The supported kernels.
    #[serde(default)]
    kernels: Kernels,
    /// Patches in order.
    #[serde(default, rename = "patch")]
    patches: Vec<Patch>,
    /// Names of packages that must be built first.
    #[serde(default)]
    depends: Vec<String>,
    /// Whether the package is installed without being selected.
    #[serde(default = "yes")]
    automatic: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct ModuleTable {
    name: String,
    #[serde(default)]
    path: String,
    install_as: Option<String>,
    #[serde(default = "yes")]
    strip: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Patch {
    file: String,
    #[serde(default)]
    kernels: Kernels,
}

/// A condition on kernels; an empty one accepts all.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Kernels {
    min: Option<String>,
    max: Option<String>,
    #[serde(rename = "match")]
    glob: Option<String>,
    #[serde(default)]
    arch: Vec<String>,
    #[serde(default)]
    config: Vec<String>,
}

fn yes() -> bool {
    true
}

impl Kernels {
    /// Why a kernel is not supported; `None` if it is.
    fn excludes(&self, target: &Target) -> Option<String> {
        let release = target.release;
        // The maximum names a series: 6.1 includes 6.1.0-56-amd64.
        let within = |max: &str| {
            release.strip_prefix(max).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        if let Some(min) = &self.min
            && release::compare(release, min) == Ordering::Less
            && !within(min)
        {
            return Some(format!("requires kernel {min} or later"));
        }
        if let Some(max) = &self.max
            && release::compare(release, max) == Ordering::Greater
            && !within(max)
        {
            return Some(format!("requires kernel {max} or earlier"));
        }
        if let Some(glob) = &self.glob
            && !release::matches(glob, release)
        {
            return Some(format!("requires a kernel matching {glob}"));
        }
        if !self.arch.is_empty() && !self.arch.iter().any(|arch| arch == target.arch) {
            return Some(format!("requires architecture {}, not {}", self.arch.join(", "), target.arch));
        }
        missing_config(&self.config, target)
    }
}

/// Why a kernel's configuration is unsuitable: each symbol must be `y` or `m`, or with `!` before it must not be.
pub(super) fn missing_config<S: AsRef<str>>(symbols: &[S], target: &Target) -> Option<String> {
    symbols.iter().map(AsRef::as_ref).find_map(|symbol| match symbol.strip_prefix('!') {
        Some(unwanted) if target.config.yes_or_module(unwanted) => {
            Some(format!("requires {unwanted} unset in the kernel configuration"))
        }
        None if !target.config.yes_or_module(symbol) => {
            Some(format!("requires {symbol} set in the kernel configuration"))
        }
        _ => None,
    })
}

/// Parses the text of a `kcache.toml`; `path` is for messages.
pub fn parse(path: &Path, text: &str) -> Result<TomlRecipe, Error> {
    ::toml::from_str(text)
        .map_err(|e| Error::Bad { path: path.to_owned(), reason: e.to_string().trim_end().to_owned() })
}

/// Makes the recipe for one kernel.
pub fn recipe(path: &Path, file: &TomlRecipe, target: &Target) -> Result<Recipe, Error> {
    let build = build_dir(&file.name, &file.version);
    let plain = format!("make -C {} M={} modules", kernel_source_dir(target.release), build.display());
    let make = if file.make.is_empty() { vec![plain] } else { file.make.clone() };
    let patches = file.patches.iter().filter(|patch| patch.kernels.excludes(target).is_none());
    let steps = patches
        .map(|patch| (StepKind::Patch, patch.file.clone()))
        .chain(file.prepare.iter().map(|command| (StepKind::Make, command.clone())))
        .chain(make.into_iter().map(|command| (StepKind::Make, command)))
        .map(|(kind, command)| Step { kind, command })
        .collect();
    let recipe = Recipe {
        name: file.name.clone(),
        version: file.version.clone(),
        excluded: file.kernels.excludes(target),
        steps,
        modules: modules(&file.modules),
        depends: file.depends.clone(),
        automatic: file.automatic,
        hooks: Vec::new(),
        notes: Vec::new(),
        writes: false,
    };
    checked(recipe, path)
}

fn modules(tables: &[ModuleTable]) -> Modules {
    if tables.is_empty() {
        return Modules::Found;
    }
    let module = |table: &ModuleTable| RecipeModule {
        built: join(&table.path, &table.name),
        name: table.install_as.clone().unwrap_or_else(|| table.name.clone()),
        strip: table.strip,
    };
    Modules::Listed(tables.iter().map(module).collect())
}

/// Joins a directory and a name to a relative path.
pub(super) fn join(dir: &str, name: &str) -> String {
    let dir = dir.trim_matches('/');
    if dir.is_empty() || dir == "." { name.to_owned() } else { format!("{dir}/{name}") }
}

#[cfg(test)]
mod schema;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kconfig::Kconfig;

    fn read(text: &str, release: &str) -> Result<Recipe, Error> {
        let config = Kconfig::new("CONFIG_ACPI=y\n".into());
        let path = Path::new("kcache.toml");
        recipe(path, &parse(path, text)?, &Target { release, arch: "x86_64", config: &config })
    }

    fn excluded(kernels: &str, release: &str) -> Option<String> {
        read(&format!("name = 'a'\nversion = '1'\n[kernels]\n{kernels}"), release).unwrap().excluded
    }

    #[test]
    fn a_name_and_a_version_are_a_recipe() {
        let recipe = read("name = 'hello'\nversion = '1.0'\n", "6.1").unwrap();
        assert_eq!(recipe.modules, Modules::Found);
        assert_eq!(
            recipe.steps[0].command,
            "make -C /lib/modules/6.1/build M=/var/lib/dkms/hello/1.0/build modules"
        );
    }

    #[test]
    fn kernels_are_chosen_by_series_arch_and_configuration() {
        assert_eq!(excluded("max = '6.1'", "6.1.0-56-amd64"), None);
        assert!(excluded("max = '6.1'", "6.12.1").is_some());
        assert!(excluded("min = '6.2'", "6.1.0-56-amd64").is_some());
        assert!(excluded("match = '*-cloud-*'", "6.1.0-56-amd64").is_some());
        assert!(excluded("arch = ['aarch64']", "6.1").is_some());
        assert_eq!(excluded("config = ['CONFIG_ACPI', '!CONFIG_X']", "6.1"), None);
        assert!(excluded("config = ['!CONFIG_ACPI']", "6.1").unwrap().contains("CONFIG_ACPI"));
    }

    #[test]
    fn patches_apply_to_the_kernels_they_name() {
        let text = "name='a'\nversion='1'\n[[patch]]\nfile='p/old.diff'\nkernels={max='6.1'}\n";
        let patches = |release| {
            read(text, release).unwrap().steps.iter().filter(|step| step.kind == StepKind::Patch).count()
        };
        assert_eq!((patches("6.1.5"), patches("6.12.1")), (1, 0));
    }

    #[test]
    fn mistakes_are_named() {
        let check = |text: &str, expect: &str| {
            let message = read(text, "6.1").unwrap_err().to_string();
            assert!(message.contains(expect), "{message}");
        };
        check("name='a'\nversion='1'\nmakee=[]\n", "makee");
        check("name='a/b'\nversion='1'\n", "a/b");
        check("name='a'\nversion='1'\n[[module]]\nname='m'\npath='../x'\n", "outside the source tree");
        check("name='a'\nversion='1'\n[[module]]\nname='m-x'\n[[module]]\nname='m_x'\n", "named twice");
    }
}
