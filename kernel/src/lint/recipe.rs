//! Rules about recipes: statements that are wrong, or that have no effect.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use super::kbuild::wrong_call;
use super::{Answer, LintFinding, calls, commands, finding, shell};
use crate::makefile::joined;
use crate::recipe::objects::Objects;
use crate::recipe::{Modules, Recipe, StepKind, build_dir, directives};

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
    for (number, line) in joined(written.text) {
        let line = line.trim_start();
        if !line.starts_with('#') {
            found.extend(jobs(written, number, line));
            found.extend(commands::in_shell(written.path, number, &without_defaults(line)));
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

/// Removes defaults of `kernelver` from a line, which have no effect because DKMS and kcache both set it.
fn without_defaults(line: &str) -> String {
    [
        "${kernelver:-$(uname -r)}",
        "${kernelver-$(uname -r)}",
        "${kernelver:=$(uname -r)}",
        "${kernelver:-`uname -r`}",
    ]
    .iter()
    .fold(line.to_owned(), |line, default| line.replace(default, "$kernelver"))
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
    for recipe in answers.iter().filter_map(|answer| answer.recipe.as_ref().ok()) {
        let build = build_dir(&recipe.name, &recipe.version).display().to_string();
        for step in &recipe.steps {
            match step.kind {
                StepKind::Patch => found.extend(absent_patch(written, &step.command)),
                // Only trees without a recipe have attempts.
                StepKind::Clean | StepKind::Attempt => {}
                StepKind::Hook => found.extend(script(written, &step.command, releases)?),
                StepKind::Make => {
                    found.extend(in_make(written, &step.command, &build));
                    for command in shell::commands(&step.command) {
                        found.extend(script(written, &run_by(&command), releases)?);
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

/// The program that a command finally runs, with its arguments.
fn run_by(command: &shell::Command) -> String {
    let leads =
        |word: &&String| shell::is_assignment(word) || ["sh", "bash", "exec"].contains(&word.as_str());
    command.words.iter().skip_while(leads).map(String::as_str).collect::<Vec<_>>().join(" ")
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

/// Findings in a script that the recipe runs, if it is part of the source tree.
fn script(written: &Written, command: &str, releases: &[&str]) -> io::Result<Vec<LintFinding>> {
    let word = command.split_whitespace().next().unwrap_or_default();
    let path = word.strip_prefix("./").unwrap_or(word);
    let outside = path.is_empty() || path.starts_with('/') || path.contains("..");
    if outside || !written.top.join(path).is_file() {
        return Ok(Vec::new());
    }
    let text = super::read(written.top, Path::new(path))?;
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
    for (number, line) in joined(&text).into_iter().filter(|(_, line)| !line.trim_start().starts_with('#')) {
        found.extend(commands::in_shell(path, number, &line));
    }
    // A script that gets the release as an argument may call uname as a fallback.
    let is_told =
        command.contains("/lib/modules/") || releases.iter().any(|release| command.contains(release));
    found.retain(|finding| !is_told || finding.rule.name != "uname-r");
    Ok(found)
}

/// Findings about modules that are listed but not built, or built but not listed.
pub fn in_modules(written: &Written, recipes: &[&Recipe], trees: &[Objects]) -> Vec<LintFinding> {
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
        if object.condition.is_none() && !stems.contains(&object.name) {
            let what = format!("builds module {}, which the recipe does not name", object.name);
            found.extend(finding("unlisted-module", &object.file, object.line, what));
        }
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
