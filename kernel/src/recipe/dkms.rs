//! `dkms.conf`: a recipe that is a bash program.
//!
//! bash evaluates it in the sandbox, once for each kernel, in the same way as DKMS (dkms(8), and the functions
//! `read_conf` and `safe_source` of the `dkms` script), including quirks, because real packages rely on them:
//!
//! - The package's file comes first, then those of [`override_files`]. Only directives are kept from each, no other
//!   variables.
//! - The value of a directive is expanded a second time, in double quotes, after white space was collapsed.
//! - A scalar is element 0 of an array; `STRIP[0]` is the default for all, and `BUILD_EXCLUSIVE_*[0]` apply to every
//!   module in addition to those with the module's own index.
//! - `MAKE_MATCH`: the last one that matches counts. The default of `MAKE` is the plain Kbuild command.
//! - A `MAKE` that begins with `make` gets `KERNELRELEASE=K` after it; `'make'` in quotes does not.
//!
//! The evaluation ends by printing its results as text separated by NUL, after a mark that no directive can contain
//! (`dkms/evaluate.bash`); `dkms/answer.rs` makes a recipe from them.

mod answer;
mod assigned;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::{Error, Recipe, Target, checked, kernel_source_dir};
use crate::build;
use crate::sandbox::{Ended, Sandbox, Watch};
use answer::Answer;

pub use answer::padded;
pub use assigned::{literal_name, name_in};

/// Time limit for evaluating a recipe. Real ones take milliseconds; some run `sort -V`, a few a compiler.
const LIMIT: Duration = Duration::from_secs(20);

/// Limit in bytes on an evaluation's output; a module list has a few KiB.
const MOST_OUTPUT: usize = 1 << 20;

/// Placeholder for the number of jobs and of CPUs while a recipe is evaluated: the jobserver limits the run, and this
/// machine's number must not become part of a key. It is a number because recipes calculate with it.
pub const JOBS: usize = 7919;

/// Marks the beginning of the results in the output.
const MARK: &[u8] = b"\0kcache answers\0";

/// The fixed part of the script that evaluates a recipe.
const EVALUATE: &str = include_str!("dkms/evaluate.bash");

/// A package's `dkms.conf`.
pub struct Conf<'a> {
    /// Path of the package's source in the sandbox.
    pub source: &'a Path,
    /// Name that the package goes by, which the file may call otherwise.
    pub name: &'a str,
    /// Version that it goes by.
    pub version: &'a str,
    /// Directives that override all files, each `NAME=VALUE` (dkms(8), `--directive`).
    pub directives: &'a [String],
}

/// Evaluates a package's `dkms.conf` for the kernel that the sandbox shows as running. `wrote` is set if the file tried to
/// write where it may not.
pub fn evaluate(
    sandbox: &Sandbox,
    conf: &Conf,
    target: &Target,
    cancel: &AtomicBool,
    wrote: &mut bool,
) -> Result<Recipe, Error> {
    let Conf { source, name, version, directives } = *conf;
    let conf = source.join("dkms.conf");
    let bad = |reason: String| Error::Bad { path: conf.clone(), reason };
    build::give_writable(sandbox)?;
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
    let text = String::from_utf8_lossy(&output[..answer.unwrap_or(output.len())]);
    *wrote = ["Read-only file system", "Permission denied"].iter().any(|sign| text.contains(sign));
    let (talk, answer) = match answer {
        Some(at) if ended == Ended::Status(0) => (&output[..at], &output[at + MARK.len()..]),
        _ => return Err(bad(complaint(&conf, &output, ended))),
    };
    let Some(answer) = Answer::parse(answer) else { return Err(bad(complaint(&conf, talk, ended))) };
    checked(answer.called(name, version).recipe(target).map_err(bad)?, &conf)
}

/// Makes a recipe for a kernel from an evaluation's results; `None` if the output contains none. The results are
/// trusted as much as any recipe, because the recipe's code could have forged them.
pub fn recipe(conf: &Path, answer: &[u8], target: &Target) -> Result<Option<Recipe>, Error> {
    let Some(answer) = Answer::parse(answer) else { return Ok(None) };
    let bad = |reason: String| Error::Bad { path: conf.to_owned(), reason };
    checked(answer.recipe(target).map_err(bad)?, conf).map(Some)
}

/// The variables that recipes may use, as shell assignments (dkms(8), "dkms.conf"; used here and when commands run).
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

/// The error messages of a failed evaluation, shortened. The error itself names the file, which bash begins each with.
fn complaint(conf: &Path, output: &[u8], ended: Ended) -> String {
    let text = String::from_utf8_lossy(output);
    let named = format!("{}: ", conf.display());
    let plain = |line| str::trim_end(line).trim_start_matches(&named);
    let lines: Vec<&str> = text.lines().map(plain).filter(|line| !line.is_empty()).take(5).collect();
    match (lines.is_empty(), ended) {
        (false, Ended::Status(65)) => format!("bash syntax error: {}", lines.join("; ")),
        (false, _) => lines.join("; "),
        (true, Ended::Status(status)) => format!("evaluation exited with status {status}"),
        (true, _) => "evaluation was killed".to_owned(),
    }
}

/// The administrator's files that override a package's recipe; later ones have precedence.
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
    fn complaints_name_the_file_only_if_it_is_another() {
        let check = |output: &str, status: i32, expect: &str| {
            let conf = Path::new("/usr/src/a-1/dkms.conf");
            assert_eq!(complaint(conf, output.as_bytes(), Ended::Status(status)), expect);
        };
        check(
            "/usr/src/a-1/dkms.conf: line 2: unexpected `then'\n/usr/src/a-1/dkms.conf: line 2: `if then'\n",
            65,
            "bash syntax error: line 2: unexpected `then'; line 2: `if then'",
        );
        check("/etc/dkms/a.conf: line 1: x\n", 65, "bash syntax error: /etc/dkms/a.conf: line 1: x");
        check("\n", 1, "evaluation exited with status 1");
    }
}
