//! Drafting a `kcache.toml`, from a source tree's Kbuild files or from the evaluation of a `dkms.conf` for some
//! kernels.
//!
//! A `dkms.conf` is a program, a `kcache.toml` is data. Values that are equal for all of the kernels are used; in
//! commands, variables are restored (`$kernelver` for the release), so that they are valid for other kernels too.
//! Values that differ between kernels, or that have no counterpart, become a comment with the line of the `dkms.conf`,
//! so that the author can decide.

use std::collections::BTreeMap;

use super::directives::{self, Directive};
use super::objects::Objects;
use super::{Modules, Recipe, RecipeModule, StepKind, build_dir, kernel_source_dir};

/// The plain Kbuild command with variables, the default of `make`.
const PLAIN: &str = "make -C $kernel_source_dir M=$dkms_tree/$module/$module_version/build";

/// Whether a command is the one that is run if there is none.
fn is_plain(command: &str) -> bool {
    command == PLAIN || command == format!("{PLAIN} modules")
}

/// A `kcache.toml` being written: its fields, with comments above each.
#[derive(Debug, Default)]
struct Draft {
    remarks: Vec<String>,
    name: String,
    version: String,
    automatic: bool,
    depends: Vec<String>,
    prepare: Vec<String>,
    make: Vec<String>,
    kernels: Vec<String>,
    modules: Vec<RecipeModule>,
    about_modules: Vec<String>,
    patches: Vec<String>,
    about_patches: Vec<String>,
}

/// Drafts one for a source tree without recipe: with the command that built it for a release, or with the first of the
/// commands that a build would try.
pub fn from_source(recipe: &Recipe, release: &str, built_by: Option<&str>, objects: &Objects) -> String {
    let mut draft = Draft {
        name: recipe.name.clone(),
        version: recipe.version.clone(),
        automatic: true,
        ..Draft::default()
    };
    let commands: Vec<&str> = recipe
        .steps
        .iter()
        .filter(|step| matches!(step.kind, StepKind::Make | StepKind::Attempt))
        .map(|step| step.command.as_str())
        .collect();
    let command = built_by.or(commands.first().copied()).unwrap_or_default();
    let portable = |command: &str| portable(command, recipe, release);
    draft.make = vec![portable(command)].into_iter().filter(|command| !is_plain(command)).collect();
    if let (None, [_, others @ ..]) = (built_by, commands.as_slice())
        && !others.is_empty()
    {
        draft
            .remarks
            .push("Not built yet. `kcache build` without this file would try, in this order:".into());
        draft.remarks.extend(commands.iter().map(|command| format!("    {}", portable(command))));
    }
    let conditional: Vec<String> = objects
        .modules
        .iter()
        .filter_map(|object| Some(format!("{} ({})", object.built(), object.condition.as_ref()?)))
        .collect();
    if !objects.complete {
        draft.about_modules.push(
            "Whatever is built is installed: not all of obj-m can be read from the Kbuild files.".into(),
        );
    } else if !conditional.is_empty() {
        draft.about_modules.push(
            "Whatever is built is installed: a module listed here must be built for every kernel.".into(),
        );
        draft.about_modules.push(format!("Conditional modules: {}.", conditional.join(", ")));
    } else {
        draft.modules = objects
            .modules
            .iter()
            .map(|object| RecipeModule { built: object.built(), name: object.name.clone(), strip: true })
            .collect();
    }
    draft.text()
}

/// Drafts one from a `dkms.conf`: its text, and its evaluation for some kernels, the most important one last.
pub fn from_dkms(conf: &str, evaluated: &[(&str, &Recipe)]) -> Option<String> {
    let (release, newest) = evaluated.last()?;
    let mut draft = Draft {
        name: newest.name.clone(),
        version: newest.version.clone(),
        automatic: newest.automatic,
        depends: newest.depends.clone(),
        ..Draft::default()
    };
    let directives = directives::read(conf);
    draft.commands(newest, release);
    draft.report_commands(evaluated);
    draft.patches(evaluated);
    draft.modules(evaluated);
    draft.kernels(&directives);
    draft.report_directives(&directives);
    Some(draft.text())
}

impl Draft {
    fn commands(&mut self, recipe: &Recipe, release: &str) {
        for step in &recipe.steps {
            let command = portable(&step.command, recipe, release);
            match step.kind {
                StepKind::Patch => {}
                // A build starts with a fresh copy of the source, so plain cleaning is omitted; other commands may do
                // more.
                StepKind::Clean if command == format!("{PLAIN} clean") => {}
                StepKind::Clean => self.prepare.push(format!("{command} || true")),
                StepKind::Hook if self.make.is_empty() => self.prepare.push(format!("./{command}")),
                StepKind::Hook => self.make.push(format!("./{command}")),
                StepKind::Make | StepKind::Attempt => self.make.push(command),
            }
        }
        let plain = |command: &String| is_plain(&command.replacen(" KERNELRELEASE=$kernelver", "", 1));
        if self.make.len() == 1 && plain(&self.make[0]) {
            self.make.clear();
        }
        if recipe.steps.iter().any(|step| step.kind == StepKind::Hook) {
            self.remarks.push("PRE_BUILD and POST_BUILD are commands here, which must end with 0.".into());
        }
    }

    /// Adds comments about commands for other kernels.
    fn report_commands(&mut self, evaluated: &[(&str, &Recipe)]) {
        let make = |(release, recipe): &(&str, &Recipe)| -> Vec<String> {
            let steps = recipe.steps.iter().filter(|step| step.kind != StepKind::Patch);
            steps.map(|step| portable(&step.command, recipe, release)).collect()
        };
        let Some((newest, others)) = evaluated.split_last() else { return };
        for other in others.iter().filter(|other| make(other) != make(newest)) {
            self.remarks.push(format!("dkms.conf has different commands for {}:", other.0));
            self.remarks.extend(make(other).into_iter().map(|command| format!("    {command}")));
        }
        for (release, _) in others.iter().filter(|(_, recipe)| recipe.depends != newest.1.depends) {
            self.remarks.push(format!("dkms.conf has different BUILD_DEPENDS for {release}."));
        }
    }

    fn patches(&mut self, evaluated: &[(&str, &Recipe)]) {
        let mut takes: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let mut order = Vec::new();
        for (release, recipe) in evaluated.iter().rev() {
            for step in recipe.steps.iter().filter(|step| step.kind == StepKind::Patch) {
                if !takes.contains_key(step.command.as_str()) {
                    order.push(step.command.as_str());
                }
                takes.entry(&step.command).or_default().push(release);
            }
        }
        for file in order {
            if takes[file].len() == evaluated.len() {
                self.patches.push(file.to_owned());
            } else {
                let kernels = takes[file].join(", ");
                self.about_patches.push(format!(
                    "{file} is applied for {kernels}, and not for the others. As a patch of its own:"
                ));
                let entry = format!("[[patch]]\nfile = {}\nkernels = {{ max = \"...\" }}", quoted(file));
                self.about_patches.extend(entry.lines().map(|line| format!("    {line}")));
            }
        }
    }

    fn modules(&mut self, evaluated: &[(&str, &Recipe)]) {
        let Some(((_, newest), others)) = evaluated.split_last() else { return };
        if others.iter().all(|(_, recipe)| recipe.modules == newest.modules) {
            if let Modules::Listed(modules) = &newest.modules {
                self.modules.clone_from(modules);
            }
            return;
        }
        self.about_modules.push(
            "Whatever is built is installed: dkms.conf names different modules for other kernels.".into(),
        );
        for (release, recipe) in evaluated {
            if let Modules::Listed(modules) = &recipe.modules {
                let names: Vec<&str> = modules.iter().map(|module| module.built.as_str()).collect();
                self.about_modules.push(format!("{release}: {}", names.join(" ")));
            }
        }
    }

    /// Adds literal values of BUILD_EXCLUSIVE_*.
    fn kernels(&mut self, directives: &[Directive]) {
        let words = |text: &str| {
            let words: Vec<String> = text.split_whitespace().map(quoted).collect();
            format!("[{}]", words.join(", "))
        };
        for directive in directives.iter().filter(|directive| directive.index == Some(0)) {
            let Some(value) = directive.literal().filter(|value| !value.is_empty()) else { continue };
            match directive.name.as_str() {
                "BUILD_EXCLUSIVE_KERNEL_MIN" => self.kernels.push(format!("min = {}", quoted(value))),
                "BUILD_EXCLUSIVE_KERNEL_MAX" => self.kernels.push(format!("max = {}", quoted(value))),
                "BUILD_EXCLUSIVE_CONFIG" => self.kernels.push(format!("config = {}", words(value))),
                "BUILD_EXCLUSIVE_ARCH" => {
                    if let Some(names) = alternatives(value) {
                        self.kernels.push(format!("arch = {}", words(&names)));
                    }
                }
                _ => {}
            }
        }
    }

    /// Adds comments about directives that have no counterpart.
    fn report_directives(&mut self, directives: &[Directive]) {
        for directive in directives.iter().filter(|directive| !directive.value.is_empty()) {
            let name = directive.name.as_str();
            let literal = directive.literal();
            let why = match name {
                "POST_INSTALL" | "PRE_INSTALL" | "POST_ADD" | "POST_REMOVE" => "has no counterpart; not run",
                "BUILD_EXCLUSIVE_ARCH" if literal.and_then(alternatives).is_some() => continue,
                "BUILD_EXCLUSIVE_KERNEL" if literal.is_some() => {
                    "is a regular expression; use min, max or match in [kernels]"
                }
                _ if name.starts_with("BUILD_EXCLUSIVE") && literal.is_none() => {
                    "is computed; add the condition to [kernels]"
                }
                "BUILD_EXCLUSIVE_ARCH" => "is a regular expression; list the architectures in [kernels]",
                _ => continue,
            };
            self.remarks.push(format!("dkms.conf:{}: {name} {why}: {}", directive.line, directive.value));
        }
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: &str| {
            text.push_str(line);
            text.push('\n');
        };
        line(&format!("name = {}", quoted(&self.name)));
        line(&format!("version = {}", quoted(&self.version)));
        if !self.automatic {
            line("automatic = false");
        }
        for (field, values) in [("depends", &self.depends), ("prepare", &self.prepare), ("make", &self.make)]
        {
            if !values.is_empty() {
                line(&format!("{field} = {}", list(values)));
            }
        }
        let remark = |remark: &String| format!("# {remark}");
        self.remarks.iter().for_each(|it| line(&remark(it)));
        if !self.kernels.is_empty() {
            line("\n[kernels]");
            self.kernels.iter().for_each(|it| line(it));
        }
        if !self.about_modules.is_empty() {
            line("");
            self.about_modules.iter().for_each(|it| line(&remark(it)));
        }
        self.modules.iter().for_each(|module| line(&module_table(module)));
        if !self.about_patches.is_empty() {
            line("");
            self.about_patches.iter().for_each(|it| line(&remark(it)));
        }
        self.patches.iter().for_each(|file| line(&format!("\n[[patch]]\nfile = {}", quoted(file))));
        text
    }
}

fn module_table(module: &RecipeModule) -> String {
    let (dir, name) = module.built.rsplit_once('/').unwrap_or(("", &module.built));
    let mut table = format!("\n[[module]]\nname = {}", quoted(name));
    if !dir.is_empty() {
        table.push_str(&format!("\npath = {}", quoted(dir)));
    }
    if module.name != name {
        table.push_str(&format!("\ninstall-as = {}", quoted(&module.name)));
    }
    if !module.strip {
        table.push_str("\nstrip = false");
    }
    table
}

fn quoted(text: &str) -> String {
    ::toml::Value::String(text.to_owned()).to_string()
}

fn list(values: &[String]) -> String {
    match values {
        [one] => format!("[{}]", quoted(one)),
        many => format!(
            "[\n{}]",
            many.iter().map(|value| format!("    {},\n", quoted(value))).collect::<String>()
        ),
    }
}

/// The names in a regular expression that is only an alternative of names: `^(x86_64|aarch64)$`.
fn alternatives(expression: &str) -> Option<String> {
    let names = expression.strip_prefix('^')?.strip_suffix('$')?;
    let names = names.strip_prefix('(').and_then(|names| names.strip_suffix(')')).unwrap_or(names);
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    names.split('|').all(is_name).then(|| names.replace('|', " "))
}

/// Replaces the kernel's and the package's values in a command by variables.
fn portable(command: &str, recipe: &Recipe, release: &str) -> String {
    let (name, version) = (&recipe.name, &recipe.version);
    let values = [
        (build_dir(name, version).display().to_string(), "$dkms_tree/$module/$module_version/build"),
        (format!("/usr/src/{name}-{version}"), "$source_tree/$module-$module_version"),
        (kernel_source_dir(release), "$kernel_source_dir"),
        (release.to_owned(), "$kernelver"),
    ];
    let mut out = String::new();
    let mut quote = None;
    let mut rest = command;
    while let Some(c) = rest.chars().next() {
        if let Some((value, variable)) = values.iter().find(|(value, _)| rest.starts_with(value.as_str())) {
            rest = &rest[value.len()..];
            let joins = rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            let variable = match (joins, variable.strip_prefix("$")) {
                (true, Some(name)) if !name.contains('/') => format!("${{{name}}}"),
                _ => (*variable).to_owned(),
            };
            // In single quotes, a variable would not be expanded.
            out.push_str(&if quote == Some('\'') { format!("'\"{variable}\"'") } else { variable });
            continue;
        }
        match (quote, c) {
            (Some(open), c) if open == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            _ => {}
        }
        let width = if c == '\\' && quote != Some('\'') {
            1 + rest[1..].chars().next().map_or(0, char::len_utf8)
        } else {
            c.len_utf8()
        };
        out.push_str(&rest[..width]);
        rest = &rest[width..];
    }
    out
}

#[cfg(test)]
mod tests;
