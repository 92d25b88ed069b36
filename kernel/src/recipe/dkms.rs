//! `dkms.conf`: a recipe that is a bash program.
//!
//! It is evaluated by bash, in the sandbox, once for each kernel, the way DKMS does it (dkms(8), and the functions
//! `read_conf` and `safe_source` of the `dkms` script), quirks included, because real packages lean on them:
//!
//! - The package's file comes first, then those that [`override_files`] names. Of each only the directives survive, not
//!   other variables.
//! - The value of a directive is expanded a second time, between double quotes, after white space was folded.
//! - A scalar stands for element 0 of an array; `STRIP[0]` is the default for all, and `BUILD_EXCLUSIVE_*[0]` hold for
//!   every module, those with a module's own index for that one besides.
//! - `MAKE_MATCH`: the last one that matches wins. Without `MAKE` it is the plain Kbuild line.
//! - A `MAKE` that begins with `make` gets `KERNELRELEASE=K` right behind it; `'make'` in quotes does not.
//!
//! The evaluation ends by printing what it decided, as text separated by NUL, behind a mark that no directive can hold
//! (`dkms/evaluate.bash`); the rest is decided here (`dkms/answer.rs`).

mod answer;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{Error, Recipe, Target, checked, kernel_source_dir};
use crate::sandbox::{Ended, Sandbox, Watch};
use answer::Answer;

/// Longest that evaluating a recipe may take. Real ones take milliseconds; some run `sort -V`, a few a compiler.
const LIMIT: Duration = Duration::from_secs(20);

/// Most that an evaluation may print, in bytes; a module list is a few KiB.
const MOST_OUTPUT: usize = 1 << 20;

/// Stands for the number of jobs and of CPUs while a recipe is evaluated: the jobserver bounds the run, and this machine's
/// own number must not become part of a key. A number, because recipes calculate with it.
pub const JOBS: usize = 7919;

/// What stands before the answer in the output.
const MARK: &[u8] = b"\0kcache answers\0";

/// The rest of the script that evaluates a recipe.
const EVALUATE: &str = include_str!("dkms/evaluate.bash");

/// Evaluates a package's `dkms.conf` for the kernel that the sandbox claims to run. `source` is where the sandbox shows
/// the package's source; `directives`, each `NAME=VALUE`, count after all files (dkms(8), `--directive`).
pub fn evaluate(
    sandbox: &Sandbox,
    source: &Path,
    name: &str,
    version: &str,
    target: &Target,
    directives: &[String],
    cancel: &AtomicBool,
) -> Result<Recipe, Error> {
    let conf = source.join("dkms.conf");
    let bad = |reason: String| Error::Bad { path: conf.clone(), reason };
    let script = script(&conf, name, version, target, directives);
    let mut output = Vec::new();
    let mut keep = |piece: &[u8]| {
        output.extend_from_slice(&piece[..piece.len().min(MOST_OUTPUT - output.len().min(MOST_OUTPUT))])
    };
    let watch = Watch { limit: LIMIT, cancel, output: &mut keep, jobs: None, opened: None };
    let env = [("LANG", "C"), ("LC_ALL", "C"), ("TZ", "UTC"), ("HOME", "/tmp")];
    let ended = sandbox.run(&script, source, &env, watch)?;
    if ended == Ended::Cancelled {
        return Err(Error::Cancelled);
    }
    if ended == Ended::TimedOut {
        return Err(bad(format!("evaluation timed out after {} s", LIMIT.as_secs())));
    }
    let answer = find_last(&output, MARK);
    let (talk, answer) = match answer {
        Some(at) if ended == Ended::Status(0) => (&output[..at], &output[at + MARK.len()..]),
        _ => return Err(bad(complaint(&output, ended))),
    };
    recipe(&conf, answer, target)?.ok_or_else(|| bad(complaint(talk, ended)))
}

/// What the evaluation's answer means for a kernel; `None` where it is none. The recipe that it comes from had its hands on
/// it: it is believed as far as any recipe is.
pub fn recipe(conf: &Path, answer: &[u8], target: &Target) -> Result<Option<Recipe>, Error> {
    let Some(answer) = Answer::parse(answer) else { return Ok(None) };
    let bad = |reason: String| Error::Bad { path: conf.to_owned(), reason };
    checked(answer.recipe(target).map_err(bad)?, conf).map(Some)
}

/// The name and version that a `dkms.conf` assigns in so many words; most do, and finding a package then takes no bash.
pub fn literal_name(text: &str) -> (Option<String>, Option<String>) {
    let assigned = |variable: &str, is_good: fn(&str) -> bool| {
        text.lines().find_map(|line| {
            let value = line.trim().strip_prefix(variable)?.strip_prefix('=')?.trim_end();
            let value = value.split(" #").next().unwrap_or(value).trim_end();
            let value = match value.as_bytes() {
                [b'"', .., b'"'] | [b'\'', .., b'\''] => &value[1..value.len() - 1],
                _ => value,
            };
            is_good(value).then(|| value.to_owned())
        })
    };
    (assigned("PACKAGE_NAME", super::is_flat_name), assigned("PACKAGE_VERSION", super::is_version))
}

/// The variables that recipes may use, as shell assignments (dkms(8), "dkms.conf"; evaluated here and when steps run).
pub fn variables(name: &str, version: &str, release: &str, arch: &str) -> String {
    let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    format!(
        "dkms_tree=/var/lib/dkms source_tree=/usr/src install_tree=/lib/modules tmp_location=/tmp\n\
         module={name} PACKAGE_NAME={name} module_version={version} PACKAGE_VERSION={version}\n\
         kernelver={release} arch={arch} kernel_source_dir={source}\n",
        name = quote(name),
        version = quote(version),
        release = quote(release),
        arch = quote(arch),
        source = quote(&kernel_source_dir(release)),
    )
}

fn script(conf: &Path, name: &str, version: &str, target: &Target, directives: &[String]) -> String {
    let variables = variables(name, version, target.release, target.arch);
    let quote = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let (conf, given) = (quote(&conf.display().to_string()), directives.iter().map(|given| quote(given)));
    let given = given.collect::<Vec<_>>().join(" ");
    format!(
        "{variables}parallel_jobs={JOBS}\nunset PACKAGE_NAME PACKAGE_VERSION\nconf={conf} given=({given})\n{EVALUATE}"
    )
}

fn find_last(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).rposition(|window| window == needle)
}

/// What an evaluation that failed had to say, in a few lines.
fn complaint(output: &[u8], ended: Ended) -> String {
    let text = String::from_utf8_lossy(output);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).take(5).collect();
    match (lines.is_empty(), ended) {
        (false, Ended::Status(65)) => format!("bash syntax error: {}", lines.join("; ")),
        (false, _) => lines.join("; "),
        (true, Ended::Status(status)) => format!("evaluation exited with status {status}"),
        (true, _) => "evaluation was killed".to_owned(),
    }
}

/// Files of the administrator that override a package's recipe, as far as they are named after it; later ones count more.
pub fn override_files(name: &str, version: &str, release: &str, arch: &str) -> Vec<PathBuf> {
    [
        name.to_owned(),
        format!("{name}-{version}"),
        format!("{name}-{version}-{release}"),
        format!("{name}-{version}-{release}-{arch}"),
        format!("{name}--{release}"),
        format!("{name}--{release}-{arch}"),
    ]
    .iter()
    .map(|stem| PathBuf::from(format!("/etc/dkms/{stem}.conf")))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_without_bash_where_they_are_literal() {
        let check = |text: &str, name: Option<&str>, version: Option<&str>| {
            assert_eq!(literal_name(text), (name.map(str::to_owned), version.map(str::to_owned)), "{text}");
        };
        check(
            "PACKAGE_NAME=\"acpi-call\"\r\nPACKAGE_VERSION='1.2~rc1'\n",
            Some("acpi-call"),
            Some("1.2~rc1"),
        );
        check("PACKAGE_NAME=a # comment\nPACKAGE_VERSION=$(cat VERSION)\n", Some("a"), None);
        check("", None, None);
    }
}
