//! Making a recipe from the evaluation of a `dkms.conf`.

use std::cmp::Ordering;

use super::JOBS;
use crate::recipe::toml::{join, missing_config};
use crate::recipe::{
    Hook, Modules, NO_MODULES, Recipe, RecipeModule, Step, StepKind, Target, When, build_dir,
    kernel_source_dir,
};

/// Names and values, in order: first the scalar ones, then those of each module after a `module`.
pub(super) struct Answer {
    package: Records,
    modules: Vec<Records>,
}

/// Names and values.
#[derive(Default)]
struct Records(Vec<(String, String)>);

impl Records {
    /// The value of a scalar directive; `None` if it is empty.
    fn one(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

impl Answer {
    pub(super) fn parse(bytes: &[u8]) -> Option<Answer> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.split_terminator('\0').map(str::to_owned);
        let mut answer = Answer { package: Records::default(), modules: Vec::new() };
        while let Some(name) = words.next() {
            let value = words.next()?;
            if name == "module" {
                answer.modules.push(Records::default());
            }
            answer.modules.last_mut().unwrap_or(&mut answer.package).0.push((name, value));
        }
        Some(answer)
    }

    /// The same under another name and version, if the file assigns any.
    pub(super) fn called(mut self, name: &str, version: &str) -> Self {
        for (record, value) in &mut self.package.0 {
            match record.as_str() {
                "name" if !value.is_empty() => *value = name.to_owned(),
                "version" if !value.is_empty() => *value = version.to_owned(),
                _ => {}
            }
        }
        self
    }

    pub(super) fn recipe(&self, target: &Target) -> Result<Recipe, String> {
        let required = |name: &str, directive: &str| {
            self.package.one(name).map(str::to_owned).ok_or_else(|| format!("{directive} is not assigned"))
        };
        let name = required("name", "PACKAGE_NAME")?;
        let version = required("version", "PACKAGE_VERSION")?;
        // A module that does not support this kernel may or may not be built, so it is not included. Element 0 applies
        // to all modules, so if one supports the kernel, the first one does.
        let mut modules = self.modules.iter().map(module).collect::<Result<Vec<_>, _>>()?;
        let mut built: Vec<&str> = modules.iter().map(|module| module.built.as_str()).collect();
        built.sort_unstable();
        if let Some(twice) = built.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(format!("BUILT_MODULE_NAME names '{}' twice", twice[0]));
        }
        let mut meant = self.modules.iter().map(|module| excluded(module, target).is_none());
        modules.retain(|_| meant.next().unwrap_or(true));
        Ok(Recipe {
            excluded: excluded(&self.package, target)
                .or_else(|| self.obsolete(target))
                .or_else(|| self.modules.is_empty().then(|| NO_MODULES.to_owned())),
            steps: self.steps(&name, &version, target)?,
            modules: Modules::Listed(modules),
            depends: self.all_of("depends"),
            automatic: self
                .package
                .one("automatic")
                .is_some_and(|value| !value.starts_with(['n', 'N', 'f', 'F', '0'])),
            hooks: self.hooks(),
            notes: self.all_of("note"),
            writes: false,
            name,
            version,
        })
    }

    fn all_of(&self, name: &str) -> Vec<String> {
        self.package.all(name).filter(|value| !value.is_empty()).map(str::to_owned).collect()
    }

    fn steps(&self, name: &str, version: &str, target: &Target) -> Result<Vec<Step>, String> {
        let plain =
            format!("make -C {} M={}", kernel_source_dir(target.release), build_dir(name, version).display());
        let one = |name: &'static str| self.package.one(name);
        let make = one("make").unwrap_or(&plain);
        let clean = one("clean").map_or_else(|| format!("{plain} clean"), str::to_owned);
        let step = |kind, command: String| Step { kind, command };
        if let Some(patch) = self.package.all("patch").find(|patch| format!("/{patch}").contains("/../")) {
            return Err(format!("PATCH '{patch}' contains '..'"));
        }
        let patches = self.package.all("patch").map(|file| step(StepKind::Patch, format!("patches/{file}")));
        let hook = |name: &'static str| one(name).map(|command| step(StepKind::Hook, without_jobs(command)));
        Ok(patches
            .chain(hook("pre_build"))
            .chain([
                step(StepKind::Clean, without_jobs(&clean)),
                step(StepKind::Make, make_command(make, target)),
            ])
            .chain(hook("post_build"))
            .collect())
    }

    fn hooks(&self) -> Vec<Hook> {
        let hook = |when: When| {
            let command = self.package.one(&when.directive().to_lowercase())?.to_owned();
            Some(Hook { when, command })
        };
        When::ALL.into_iter().filter_map(hook).collect()
    }

    /// `OBSOLETE_BY` is a maximum, used if there is no other; its own release is excluded.
    fn obsolete(&self, target: &Target) -> Option<String> {
        let limit = self.package.one("obsolete_by")?;
        let has_maximum =
            [&self.package].into_iter().chain(&self.modules).any(|records| records.one("max").is_some());
        let obsolete = !has_maximum && padded(target.release) >= padded(limit);
        obsolete.then(|| format!("OBSOLETE_BY is {limit}"))
    }
}

fn module(records: &Records) -> Result<RecipeModule, String> {
    let one = |name: &'static str| records.one(name).unwrap_or_default();
    let (index, built, name) = (one("module"), one("built"), one("dest"));
    if built.is_empty() {
        return Err(format!("BUILT_MODULE_NAME[{index}] is not assigned"));
    }
    for (directive, value) in [("BUILT_MODULE_NAME", built), ("DEST_MODULE_NAME", name)] {
        if value.ends_with(".ko") || value.ends_with(".o") {
            return Err(format!("{directive}[{index}] is {value}: module names are given without .ko"));
        }
    }
    check_destination(index, one("dest_location"))?;
    let strip = !one("strip").starts_with(['n', 'N']);
    Ok(RecipeModule { built: join(one("location"), built), name: name.to_owned(), strip })
}

/// Modules are installed where kcache decides, but an invalid location is still an error (dkms(8),
/// `DEST_MODULE_LOCATION`).
fn check_destination(index: &str, location: &str) -> Result<(), String> {
    let problem = if location.is_empty() {
        return Err(format!("DEST_MODULE_LOCATION[{index}] is not assigned"));
    } else if !["/kernel", "/updates", "/extra"].iter().any(|begin| location.starts_with(begin)) {
        "must begin with /kernel, /updates or /extra"
    } else if climbs(location) {
        "outside the kernel's modules directory"
    } else {
        return Ok(());
    };
    Err(format!("DEST_MODULE_LOCATION[{index}] is {location}: {problem}"))
}

/// Whether a path leads out of the directory that it begins in: Mellanox's mstflint has `/kernel/../misc/`, which does not.
fn climbs(path: &str) -> bool {
    let mut depth = 0_i32;
    path.split('/').any(|part| {
        depth += match part {
            "" | "." => 0,
            ".." => -1,
            _ => 1,
        };
        depth < 0
    })
}

/// Why a package, or one of its modules, does not support a kernel.
fn excluded(records: &Records, target: &Target) -> Option<String> {
    if let Some(reason) = records.one("excluded") {
        return Some(reason.to_owned());
    }
    let of_module = records.one("module").map_or(String::new(), |index| format!("[{index}]"));
    let order = |limit: &str| padded(target.release).cmp(&padded(limit));
    if let Some(min) = records.one("min").filter(|min| order(min) == Ordering::Less) {
        return Some(format!("BUILD_EXCLUSIVE_KERNEL_MIN{of_module} is {min}"));
    }
    if let Some(max) = records.one("max").filter(|max| order(max) == Ordering::Greater) {
        return Some(format!("BUILD_EXCLUSIVE_KERNEL_MAX{of_module} is {max}"));
    }
    let symbols: Vec<&str> = records.one("config").unwrap_or_default().split_whitespace().collect();
    missing_config(&symbols, target)
}

/// A release as DKMS compares it, bytewise: each number is padded to three digits. So `6.1-rc2` and `6.1.0-56-amd64`
/// come after `6.1`, unlike in `kcache_kernel::release`.
pub fn padded(release: &str) -> String {
    let mut text = String::new();
    let mut rest = release;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let digits = rest[at..].find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len() - at);
        text.push_str(&rest[..at]);
        text.push_str(&format!("{:0>3}", &rest[at..at + digits]));
        rest = &rest[at + digits..];
    }
    text + rest
}

/// The build command: what DKMS makes of `MAKE`, without the number of jobs.
fn make_command(make: &str, target: &Target) -> String {
    let make = match make.strip_prefix("make") {
        Some(rest) => format!("make KERNELRELEASE={}{rest}", target.release),
        None => make.to_owned(),
    };
    let llvm = if target.config.is_clang() { " LLVM=1" } else { "" };
    without_jobs(&make) + llvm
}

/// Removes the options for the number of jobs from a command.
fn without_jobs(command: &str) -> String {
    let mut command = command.to_owned();
    for option in
        [format!(" -j{JOBS}"), format!(" -j {JOBS}"), format!(" --jobs={JOBS}"), format!(" -l{JOBS}")]
    {
        command = command.replace(&option, "");
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kconfig::Kconfig;

    const RELEASE: &str = "6.1.0-56-amd64";

    /// A recipe from names and values, for a kernel with `config`.
    fn recipe_on(config: &str, records: &[(&str, &str)]) -> Result<Recipe, String> {
        let words = records.iter().flat_map(|(name, value)| [*name, *value]);
        let bytes: String = words.map(|word| format!("{word}\0")).collect();
        let config = Kconfig::new(config.to_owned());
        let target = Target { release: RELEASE, arch: "x86_64", config: &config };
        Answer::parse(bytes.as_bytes()).unwrap().recipe(&target)
    }

    /// A recipe of a package with one module, with more directives.
    fn recipe(package: &[(&str, &str)], more: &[(&str, &str)]) -> Result<Recipe, String> {
        let name = [("name", "a"), ("version", "1")];
        let module = [("module", "0"), ("built", "a"), ("dest", "a"), ("strip", "yes")];
        let place = [("dest_location", "/extra")];
        let place =
            if more.first().is_some_and(|(name, _)| *name == "dest_location") { &[][..] } else { &place };
        recipe_on("CONFIG_ACPI=y\n", &[&name, package, &module, place, more].concat())
    }

    #[test]
    fn a_make_gets_the_release_and_a_quoted_one_does_not() {
        let check = |config: &str, make: &str, expect: &str| {
            let config = Kconfig::new(config.to_owned());
            let target = Target { release: "6.1", arch: "x86_64", config: &config };
            assert_eq!(make_command(make, &target), expect);
        };
        check("", "make -C x", "make KERNELRELEASE=6.1 -C x");
        check("", "'make' -C x", "'make' -C x");
        check("", "make -j7919 all && make -j 7919 x", "make KERNELRELEASE=6.1 all && make x");
        check("", "make a; make b | tee c", "make KERNELRELEASE=6.1 a; make b | tee c");
        check("CONFIG_CC_IS_CLANG=y\n", "make all", "make KERNELRELEASE=6.1 all LLVM=1");
    }

    #[test]
    fn output_with_an_odd_number_of_fields_is_invalid() {
        assert!(Answer::parse(b"name\0a\0version\0").is_none());
        assert!(Answer::parse(b"name\0\xff\0").is_none());
    }

    #[test]
    fn releases_are_compared_as_dkms_does() {
        let check = |directive: &str, limit: &str, expect: bool| {
            let excluded = recipe(&[(directive, limit)], &[]).unwrap().excluded;
            assert_eq!(excluded.is_some(), expect, "{directive} {limit}: {excluded:?}");
        };
        check("min", "6.1", false);
        check("min", "6.1.0-55", false);
        check("min", "6.2", true);
        check("max", "6.1", true);
        check("max", "6.1.9", false);
        check("max", "6.12", false);
        check("obsolete_by", "6.1.0-56", true);
        check("obsolete_by", "6.1.0-57", false);
        check("config", "CONFIG_ACPI !CONFIG_X", false);
        check("config", "!CONFIG_ACPI", true);
        assert_eq!(padded("6.1-rc2"), "006.001-rc002");
        assert_eq!(padded("6.12.117+deb12"), "006.012.117+deb012");
    }

    #[test]
    fn a_maximum_overrides_obsolete_by() {
        assert_eq!(recipe(&[("obsolete_by", "5.1"), ("max", "6.12")], &[]).unwrap().excluded, None);
        assert_eq!(recipe(&[("obsolete_by", "5.1")], &[("max", "6.12")]).unwrap().excluded, None);
    }

    #[test]
    fn a_module_that_excludes_this_kernel_is_not_listed() {
        let second =
            [("module", "1"), ("built", "b"), ("dest", "b"), ("dest_location", "/extra"), ("max", "5.10")];
        let recipe = recipe(&[], &second).unwrap();
        let Modules::Listed(modules) = &recipe.modules else { panic!() };
        assert_eq!((modules.len(), modules[0].name.as_str(), &recipe.excluded), (1, "a", &None));
    }

    #[test]
    fn module_destinations_are_checked() {
        let check = |location: &str, expect: Option<&str>| {
            let found = recipe(&[], &[("dest_location", location)]).err();
            match (&found, expect) {
                (None, None) => {}
                (Some(found), Some(expect)) => assert!(found.contains(expect), "{found}"),
                _ => panic!("{location}: {found:?}"),
            }
        };
        check("/kernel//drivers/./net/", None);
        check("/updates", None);
        check("/updates/../..", Some("outside the kernel's modules directory"));
        check("/lib/modules", Some("must begin with"));
        check("updates", Some("must begin with"));
        check("", Some("[0] is not assigned"));
    }

    #[test]
    fn patches_cannot_leave_the_patches_directory() {
        assert!(recipe(&[("patch", "sub/a.patch")], &[]).is_ok());
        assert!(recipe(&[("patch", "../../a.patch")], &[]).unwrap_err().contains("contains '..'"));
    }

    #[test]
    fn packages_are_automatic_unless_they_opt_out() {
        for (value, expect) in
            [("yes", true), ("Y", true), ("true", true), ("1", true), ("no", false), ("", false)]
        {
            assert_eq!(recipe(&[("automatic", value)], &[]).unwrap().automatic, expect, "{value}");
        }
    }

    #[test]
    fn scripts_for_the_system_are_not_build_steps() {
        let hooks = recipe(&[("post_install", "after.sh x"), ("pre_install", "")], &[]).unwrap().hooks;
        assert_eq!(hooks, [Hook { when: When::AfterInstall, command: "after.sh x".into() }]);
    }
}
