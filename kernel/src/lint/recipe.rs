//! Rules about recipes: statements that are wrong, or that have no effect.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::guards::Guards;
use super::kbuild::wrong_call;
use super::readings::{Reading, Readings};
use super::{Answer, LintFinding, calls, commands, finding, shell};
use crate::makefile::joined;
use crate::recipe::objects::Objects;
use crate::recipe::{Modules, Recipe, Step, StepKind, build_dir, directives};

/// Directives without effect.
const DEPRECATED: [&str; 5] = [
    "REMAKE_INITRD",
    "MODULES_CONF",
    "MODULES_CONF_OBSOLETES",
    "MODULES_CONF_ALIAS_TYPE",
    "MODULES_CONF_OBSOLETE_ONLY",
];

/// Directives that run a script at installation.
const HOOKS: [&str; 4] = ["POST_INSTALL", "PRE_INSTALL", "POST_ADD", "POST_REMOVE"];

/// Directories into which DKMS installs modules.
const DESTINATIONS: [&str; 3] = ["/kernel", "/updates", "/extra"];

/// Files of the running system that recipes read.
const OUTSIDE: [&str; 5] =
    ["/etc/sysconfig", "/etc/default", "/boot/config", "/boot/System.map", "/proc/config"];

/// The file of a recipe.
pub struct Written<'a> {
    /// Top of the source tree.
    pub top: &'a Path,
    /// Path of the file, for messages.
    pub path: &'a Path,
    /// Contents of the file.
    pub text: &'a str,
    /// Whether it is a `dkms.conf`.
    pub is_dkms: bool,
}

impl Written<'_> {
    /// Number of the first line that contains a word; 0 if there is none.
    fn line_of(&self, word: &str) -> usize {
        let mut lines = self.text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
        lines.find(|(_, line)| line.contains(word)).map_or(0, |(at, _)| at + 1)
    }

    /// Number of the first line, outside comments, with a name as a word of its own that is assigned or listed.
    fn line_naming(&self, name: &str) -> Option<usize> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
        let has = |line: &str| {
            line.match_indices(name).any(|(at, _)| {
                !line[..at].ends_with(is_part) && !line[at + name.len()..].starts_with(is_part)
            })
        };
        let mut lines = self.text.lines().enumerate().filter(|(_, line)| {
            let line = line.trim_start();
            !(line.starts_with('#') || self.is_dkms && line.starts_with("PACKAGE_NAME"))
        });
        lines.find(|(_, line)| has(line)).map(|(at, _)| at + 1)
    }

    fn finding(&self, name: &str, line: usize, what: impl Into<String>) -> Option<LintFinding> {
        finding(name, self.path, line, what)
    }
}

/// Findings about recipes that cannot be evaluated, or that support no kernel.
pub fn in_answers(written: &Written, answers: &[Answer]) -> Vec<LintFinding> {
    let mut found: Vec<LintFinding> = Vec::new();
    for answer in answers {
        if let Err(reason) = &answer.recipe {
            found.extend(written.finding("bad-recipe", 0, reason.as_str()));
        }
    }
    let excluded: Vec<&str> =
        answers.iter().filter_map(|answer| answer.recipe.as_ref().ok()?.excluded.as_deref()).collect();
    if !excluded.is_empty() && excluded.len() == answers.len() {
        let word = if written.is_dkms { "BUILD_EXCLUSIVE" } else { "[kernels]" };
        let releases: Vec<&str> = answers.iter().map(|answer| answer.release).collect();
        let what = format!("excludes all kernels: {}: {}", releases.join(", "), excluded[0]);
        found.extend(written.finding("matches-no-kernel", written.line_of(word), what));
    }
    found
}

/// Findings in the file's text.
pub fn in_text(written: &Written) -> Vec<LintFinding> {
    let mut found = Vec::new();
    if !written.is_dkms {
        for (at, line) in written.text.lines().enumerate() {
            found.extend(jobs(written, at + 1, line));
        }
        return found;
    }
    if let Some(at) = written.text.split('\n').position(|line| line.ends_with('\r')) {
        found.extend(written.finding("crlf", at + 1, "lines end with carriage returns"));
    }
    // DKMS and kcache set these.
    let given = ["kernelver", "arch", "kernel_source_dir"].map(str::to_owned);
    let mut guards = Guards::new(&given);
    for (number, line) in joined(written.text) {
        let line = line.trim_start();
        if !line.starts_with('#') {
            found.extend(jobs(written, number, line));
            found.extend(in_line(written.path, number, line, &mut guards));
            found.extend(outside_file(written, number, line));
        }
    }
    for directive in directives::read(written.text) {
        found.extend(directive_finding(written, &directive));
    }
    found
}

fn outside_file(written: &Written, number: usize, line: &str) -> Option<LintFinding> {
    // A second look at /boot's configuration is for hosts without headers.
    let has_headers = ["kernel_source_dir/.config", "kernel_source_dir}/.config"];
    let has_headers = has_headers.iter().any(|path| written.text.contains(path));
    let path =
        OUTSIDE.iter().find(|path| line.contains(*path) && !(has_headers && path.starts_with("/boot/")))?;
    written.finding("outside-file", number, format!("reads {path}..."))
}

fn jobs(written: &Written, number: usize, line: &str) -> Option<LintFinding> {
    let line = line.split(" #").next().unwrap_or(line);
    let counts = ["nproc", "_NPROCESSORS", "/proc/cpuinfo", "parallel_jobs"];
    let after =
        line.split_once(" -j").map(|(_, after)| after).or_else(|| Some(line.split_once("--jobs=")?.1))?;
    let counted =
        counts.iter().any(|word| after.contains(word)) || after.starts_with(|c: char| c.is_ascii_digit());
    if !counted || !line.contains("make") {
        return None;
    }
    written.finding("jobs", number, "sets the number of jobs")
}

/// Findings in a line of shell, without an answer of the running kernel that is not used.
fn in_line(path: &Path, number: usize, line: &str, guards: &mut Guards) -> Vec<LintFinding> {
    let unused = guards.unused(line);
    let mut found = commands::in_shell(path, number, line);
    found.retain(|finding| !unused || finding.rule.name != "uname-r");
    found
}

fn directive_finding(written: &Written, directive: &directives::Directive) -> Option<LintFinding> {
    let name = directive.name.as_str();
    if directive.value.is_empty() {
        return None;
    }
    if DEPRECATED.contains(&name) {
        return written.finding("deprecated-directive", directive.line, format!("{name} is deprecated"));
    }
    if HOOKS.contains(&name) {
        return written.finding(
            "hook-not-run",
            directive.line,
            format!("{name} does not run during the build"),
        );
    }
    let place = directive.literal()?;
    if name == "DEST_MODULE_LOCATION" && !DESTINATIONS.iter().any(|good| place.starts_with(good)) {
        return written.finding("odd-destination", directive.line, format!("the destination is {place}"));
    }
    None
}

/// Findings in the commands of evaluated recipes.
pub fn in_steps(written: &Written, answers: &[Answer]) -> io::Result<Vec<LintFinding>> {
    let mut found = Vec::new();
    let releases: &[&str] = &answers.iter().map(|answer| answer.release).collect::<Vec<_>>();
    for recipe in super::meant(answers) {
        let build = build_dir(&recipe.name, &recipe.version).display().to_string();
        for step in &recipe.steps {
            match step.kind {
                StepKind::Patch => found.extend(absent_patch(written, &step.command)),
                // Only trees without a recipe have attempts.
                StepKind::Clean | StepKind::Attempt => {}
                StepKind::Hook => {
                    for command in shell::commands(&step.command).iter().take(1) {
                        found.extend(script(written.top, command, releases)?);
                    }
                }
                StepKind::Make => {
                    found.extend(in_make(written, &step.command, &build));
                    for command in shell::commands(&step.command) {
                        found.extend(script(written.top, &command, releases)?);
                    }
                }
            }
        }
    }
    Ok(found)
}

fn in_make(written: &Written, command: &str, build: &str) -> Vec<LintFinding> {
    let line = written.line_of(if written.is_dkms { "MAKE" } else { first_line(command) });
    let calls = calls::calls(command, "", build, &Default::default());
    let wrong = calls.iter().filter_map(wrong_call);
    let mut found: Vec<LintFinding> =
        wrong.filter_map(|(name, what)| written.finding(name, line, what)).collect();
    if !written.is_dkms {
        found.extend(commands::in_shell(written.path, line, command));
    }
    found
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn absent_patch(written: &Written, file: &str) -> Option<LintFinding> {
    if written.top.join(file).is_file() {
        return None;
    }
    let name = file.rsplit('/').next().unwrap_or(file);
    written.finding("absent-patch", written.line_of(name), format!("{file} does not exist"))
}

/// Findings in the scripts that a makefile's reached commands run. Which kernel they ask for follows from variables that
/// are not known here.
pub fn in_scripts_of(top: &Path, reading: &Reading) -> io::Result<Vec<LintFinding>> {
    let mut found = Vec::new();
    for (_, text) in reading.commands().filter(|_| reading.dir.is_empty()) {
        for command in shell::commands(&text) {
            found.extend(script(top, &command, &[])?);
        }
    }
    found.retain(|finding| ["network", "touches-host"].contains(&finding.rule.name));
    Ok(found)
}

/// Findings in a script that a command runs, if it is part of the source tree.
fn script(top: &Path, command: &shell::Command, releases: &[&str]) -> io::Result<Vec<LintFinding>> {
    let leads =
        |word: &&String| shell::is_assignment(word) || ["sh", "bash", "exec"].contains(&word.as_str());
    let mut words = command.words.iter().skip_while(leads);
    let word = words.next().map_or("", String::as_str);
    let path = word.strip_prefix("./").unwrap_or(word);
    let outside = path.is_empty() || path.starts_with('/') || path.contains("..");
    if outside || !top.join(path).is_file() {
        return Ok(Vec::new());
    }
    let text = super::read(top, Path::new(path))?;
    let is_shell = first_line(&text).starts_with("#!") && first_line(&text).contains("sh");
    // A configure script generated by autoconf examines the build machine on purpose.
    if !is_shell || text.contains("Generated by GNU Autoconf") {
        return Ok(Vec::new());
    }
    let path = Path::new(path);
    let mut found: Vec<LintFinding> = Vec::new();
    if text.contains("\r\n") {
        found.extend(finding("crlf", path, 1, "lines end with carriage returns"));
    }
    let arguments: Vec<&str> = words.map(String::as_str).collect();
    let given: Vec<String> = command
        .environment()
        .map(str::to_owned)
        .chain((1..=arguments.len()).map(|at| at.to_string()))
        .collect();
    let mut guards = Guards::new(&given);
    for (number, line) in joined(&text).into_iter().filter(|(_, line)| !line.trim_start().starts_with('#')) {
        found.extend(in_line(path, number, &line, &mut guards));
    }
    // A script that gets the release as an argument may call uname as a fallback.
    let is_told = arguments
        .iter()
        .any(|word| word.contains("/lib/modules/") || releases.iter().any(|release| word.contains(release)));
    found.retain(|finding| !is_told || finding.rule.name != "uname-r");
    Ok(found)
}

/// Findings about modules that are listed but not built, or built but not listed.
pub fn in_modules(written: &Written, recipes: &[&Recipe], readings: &Readings) -> Vec<LintFinding> {
    let trees = &readings.objects;
    let listed: BTreeSet<&str> = recipes
        .iter()
        .flat_map(|recipe| match &recipe.modules {
            Modules::Listed(modules) => modules.as_slice(),
            Modules::Found => &[],
        })
        .map(|module| module.built.as_str())
        .collect();
    // If a recipe moves its results, only the names can be compared.
    let stem = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let stems: BTreeSet<String> = listed.iter().map(|path| stem(path)).collect();
    if listed.is_empty() || trees.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for object in trees.iter().flat_map(|objects| &objects.modules) {
        // One of other kernels is in the text.
        let is_named = written.line_naming(&object.name).is_some();
        if object.condition.is_none() && !stems.contains(&object.name) && !is_named {
            let what = format!("builds module {}, which the recipe does not name", object.name);
            found.extend(finding("unlisted-module", &object.file, object.line, what));
        }
    }
    if !moves_modules(recipes, readings) {
        found.extend(listed.iter().filter_map(|path| elsewhere(written, path, trees)));
    }
    let built: BTreeSet<&str> =
        trees.iter().flat_map(|objects| &objects.modules).map(|object| object.name.as_str()).collect();
    if trees.iter().all(|objects| objects.complete) {
        for name in stems.iter().filter(|name| !built.contains(name.as_str())) {
            let what = format!("names module {name}, which no Kbuild file builds");
            found.extend(written.finding("unbuilt-module", written.line_of(name), what));
        }
    }
    found
}

/// A module that is built in another directory than the recipe names.
fn elsewhere(written: &Written, path: &str, trees: &[Objects]) -> Option<LintFinding> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut same = trees.iter().flat_map(|objects| &objects.modules).filter(|object| object.name == name);
    let object = same.next().filter(|object| object.dir != dir)?;
    if same.any(|other| other.dir == dir) {
        return None;
    }
    let shown = |dir: &str| if dir.is_empty() { "the top directory".to_owned() } else { format!("{dir}/") };
    let what = format!("names module {name} in {}, but it is built in {}", shown(dir), shown(&object.dir));
    let word = if written.is_dkms { "BUILT_MODULE_LOCATION" } else { "path" };
    let line = Some(written.line_of(word)).filter(|line| *line > 0).or_else(|| written.line_naming(name));
    written.finding("module-location", line.unwrap_or(0), what)
}

/// Whether something may move modules after Kbuild has made them.
fn moves_modules(recipes: &[&Recipe], readings: &Readings) -> bool {
    let steps = recipes.iter().flat_map(|recipe| &recipe.steps);
    let by_recipe = |step: &Step| {
        let is_make = |command: &shell::Command| ["make", "gmake", "cd"].contains(&command.program().0);
        step.kind == StepKind::Hook
            || step.kind == StepKind::Make && !shell::commands(&step.command).iter().all(is_make)
    };
    let by_makefile = |text: &str| {
        let moves = ["cp", "mv", "install", "ln"];
        text.contains(".ko") || shell::commands(text).iter().any(|it| moves.contains(&it.program().0))
    };
    steps.into_iter().any(by_recipe)
        || readings
            .makefiles
            .iter()
            .filter(|reading| reading.goals.is_some())
            .any(|reading| reading.commands().any(|(_, text)| by_makefile(&text)))
}
