//! Builds: a private copy of a package's source, a sandbox, and a script made from the recipe; the result is modules
//! or a log.
//!
//! ```text
//! scratch/build    the source copy, put there by the caller; in the sandbox /var/lib/dkms/NAME/VERSION/build
//! scratch/kept     results for other packages (`kept`); in the sandbox /var/lib/dkms/NAME/VERSION/KERNEL/ARCH
//! scratch/debug    the modules' debug information, NAME.ko.debug; in the sandbox /var/lib/dkms/NAME/VERSION/debug
//! scratch/log      the build's output
//! ```
//!
//! Everything that a build writes stays under `scratch`, a directory that only kcache's own user can enter from
//! outside. Outputs are read after every process of the sandbox is dead, and only regular files reached without
//! leaving the tree are taken, so nothing can be swapped or linked in. The modules are those that DKMS would install:
//! as they were after the last build command, or, if created later, at the end. The debug information that `strip`
//! removes from a module is kept in a file beside it, which the module names (`.gnu_debuglink`). A build does not fail
//! for lack of it.
//!
//! There are two kinds of failure. [`BuildOutcome::Failed`] is the package's fault: equal inputs will fail again, anywhere,
//! so it is remembered. [`BuildOutcome::Environment`] is this machine's: a full disk, a killed compiler, a missing tool.

mod cause;
pub mod kept;
mod log;
mod script;
mod sought;
mod tree;

pub use sought::Sought;

pub use log::printable;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fs_err as fs;
use rustix::fs::FileType;

use crate::kernels::Mount;
use crate::recipe::{Modules, Recipe, StepKind, build_dir, debug_dir, kept_dir};
use crate::sandbox::enter::MOST_FILE;
use crate::sandbox::jobs::Seat;
use crate::sandbox::{self, Ended, Excess, Limits, Opened, Sandbox, Watch};
use cause::Logged;
use log::Log;
use tree::Tree;

/// Limit in bytes on a log; the rest is dropped. The longest log of a real package is below 1 MiB.
const MOST_LOG: u64 = 16 << 20;

/// Limit in bytes on a module. The largest unstripped ones (nvidia) have about 100 MiB.
const MOST_MODULE: u64 = 512 << 20;

/// Limits on the number of modules of a build, and on their total size in bytes. The largest known sets have some
/// hundred modules; nvidia's five have 65 MiB when stripped.
const MOST_MODULES: usize = 1024;
const MOST_MODULES_SIZE: u64 = 1 << 30;

/// Limit in bytes on the debug information of a build. jool's three modules have 21 MiB.
const MOST_DEBUG: u64 = 1 << 30;

/// Limit in bytes on a build's file that is shown in its log. NVIDIA's `conftest/functions.h` has 10 KiB.
const MOST_SHOWN: u64 = 64 << 10;

/// Limit in bytes on a script's first line (BINPRM_BUF_SIZE, include/uapi/linux/binfmts.h).
const MOST_FIRST_LINE: u64 = 256;

/// So many modules are named that were built instead of a promised one.
const MOST_NAMED: usize = 5;

/// bash's exit status if it cannot fork (jobs.c, `make_child`). Its message about that goes to a stderr that may be
/// redirected.
const NO_FORK: i32 = 254;

/// SIGXFSZ, which kills a process that exceeds the file size limit (signal(7)). The number is the same on all
/// architectures with [`crate::sandbox`].
const FILE_SIZE: i32 = nix::libc::SIGXFSZ;

/// Input of [`build`].
pub struct BuildRequest<'a> {
    /// The sandbox, with the headers mounted.
    pub sandbox: Sandbox,
    /// The commands and the modules they produce.
    pub recipe: &'a Recipe,
    /// Directory that contains `build`, the private source copy.
    pub scratch: &'a Path,
    /// The complete environment of the build.
    pub environment: &'a [(&'a str, &'a str)],
    /// Time limit of the build.
    pub limit: Duration,
    /// Cancels the build when set.
    pub cancel: &'a AtomicBool,
    /// The build's seat in the run's job server, already taken.
    pub jobs: Option<&'a Seat>,
    /// Receives the system's files that the build opened; only root can observe them.
    pub opened: Option<&'a mut Opened>,
    /// Receives each line of the log.
    pub line: &'a mut dyn FnMut(&str),
}

/// Result of a build. The log is at `scratch/log` in every case.
#[derive(Debug)]
pub enum BuildOutcome {
    /// All modules of the recipe exist.
    Built {
        /// The modules, by name.
        modules: Vec<BuiltFile>,
        /// Debug information split off them, `NAME.ko.debug`.
        debug: Vec<BuiltFile>,
        /// Results for other packages, as a tar; `None` if there are none.
        kept: Option<Vec<u8>>,
        /// Of a recipe with attempts, the command that built them.
        command: Option<String>,
    },
    /// The package does not build; worth remembering.
    Failed(Failure),
    /// This machine failed, with the reason, and what of the system was not found; not to be remembered.
    Environment(String, Vec<Sought>),
    /// The cancel flag was set.
    Cancelled,
}

/// A file that was built. All processes of the build are dead, so it does not change.
#[derive(Debug)]
pub struct BuiltFile {
    /// File name, including `.ko` or `.ko.debug`.
    pub name: String,
    /// Size in bytes, not compressed.
    pub size: u64,
    tree: Arc<Tree>,
    path: PathBuf,
}

impl BuiltFile {
    /// Opens the file for reading; reads at most its size.
    pub fn open(&self) -> io::Result<impl Read + use<>> {
        let (file, _) = self.tree.file(&self.path)?.map_err(io::Error::other)?;
        Ok(file.take(self.size))
    }
}

/// Why a package does not build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit status of the failed command; `None` if a signal killed it, or if it succeeded without producing a module.
    pub status: Option<i32>,
    /// The failed command.
    pub command: String,
    /// The first line of the log that states the cause.
    pub first_error: String,
    /// What of the system the build did not find.
    pub sought: Vec<Sought>,
}

/// Path of a build's log.
pub fn log_path(scratch: &Path) -> PathBuf {
    scratch.join("log")
}

/// Runs a build and waits for its end.
///
/// # Errors
///
/// Errors of starting or ending the sandbox. A failed build is an [`BuildOutcome`].
pub fn build(request: BuildRequest) -> Result<BuildOutcome, sandbox::Error> {
    let BuildRequest { mut sandbox, recipe, scratch, environment, limit, cancel, jobs, opened, line } =
        request;
    fs::create_dir(scratch.join("kept"))?;
    fs::create_dir(scratch.join("debug"))?;
    let inside = build_dir(&recipe.name, &recipe.version);
    let machine = &sandbox.machine;
    let kept = kept_dir(&recipe.name, &recipe.version, &machine.release, &machine.arch);
    let debug = debug_dir(&recipe.name, &recipe.version);
    for (name, inside) in [("build", inside.clone()), ("kept", kept), ("debug", debug)] {
        sandbox.writable.push(Mount { outside: scratch.join(name), inside });
    }
    give_writable(&sandbox)?;
    if let (Some(launcher), Some(uid)) = (&sandbox.launcher, sandbox.identity.uid())
        && give(&launcher.directory, uid).is_err()
    {
        // An earlier build has replaced it with something that is not ccache's.
        fs::rename(&launcher.directory, scratch.join("not-ccache"))?;
        fs::create_dir(&launcher.directory)?;
        give(&launcher.directory, uid)?;
    }
    let mut log = Log::create(&log_path(scratch), line)?;
    let watch = Watch { limit, cancel, output: &mut |piece| log.take(piece), jobs, opened };
    let ended = sandbox.run(&script::script(&sandbox.machine, recipe), &inside, environment, watch)?;
    let logged = log.finish()?;
    if let Some(header) = logged.conftest().and_then(|header| header.strip_prefix(&inside).ok()) {
        append(scratch, header)?;
    }
    let environment = |reason: String| BuildOutcome::Environment(reason, Vec::new());
    let logged = match (&ended, logged.failed_here().cloned()) {
        (Ended::Status(0), Some(failed)) => {
            let reason = failed.environment.unwrap_or_else(|| too_large(&sandbox.limits));
            return Ok(environment(reason));
        }
        (Ended::Status(0), None) => logged,
        _ => logged.of_attempts(),
    };
    Ok(match ended {
        Ended::Cancelled => BuildOutcome::Cancelled,
        Ended::TimedOut => environment(format!("timed out after {} s (build-timeout)", limit.as_secs())),
        Ended::OutOfMemory => environment(format!(
            "killed: exceeded the memory limit of {} MiB (build-memory)",
            sandbox.limits.memory >> 20
        )),
        Ended::TookTooMuch(excess) => environment(too_much(excess, &sandbox.limits)),
        Ended::Signal(FILE_SIZE) => environment(too_large(&sandbox.limits)),
        Ended::Signal(signal) => environment(format!("killed by signal {signal}")),
        Ended::Status(0) => collect(scratch, recipe, &sandbox, &inside, logged)?,
        Ended::Status(_) if logged.met_file_limit => environment(too_large(&sandbox.limits)),
        Ended::Status(NO_FORK) if logged.machines_fault(NO_FORK).is_none() => environment(format!(
            "it could start no more processes, of which it may have {} (build-processes)",
            sandbox.limits.processes
        )),
        Ended::Status(status) => failed(scratch, &inside, recipe, &sandbox, &logged, status)?,
    })
}

/// The result of a build of which a command ended with this status.
fn failed(
    scratch: &Path,
    inside: &Path,
    recipe: &Recipe,
    sandbox: &Sandbox,
    logged: &Logged,
    status: i32,
) -> io::Result<BuildOutcome> {
    let step = step_of(recipe, logged.command());
    if let Some(script) = logged.unrunnable(status)
        && let Some(interpreter) = interpreter(scratch, inside, script)?
    {
        return Ok(without_interpreter(logged, step, status, script, &interpreter));
    }
    if let Some(reason) = logged.machines_fault(status) {
        return Ok(BuildOutcome::Environment(reason.clone(), logged.sought().to_vec()));
    }
    let downloads = step.is_some() && is_downloader(scratch, logged.command())?;
    let mut failure = logged.failure(Some(status), step, downloads);
    failure.sought.extend(sought::named(&failure.first_error, &sandbox.tools));
    Ok(BuildOutcome::Failed(failure))
}

/// The failure of a script that could not be run for want of the program in its first line.
fn without_interpreter(
    logged: &Logged,
    step: Option<&str>,
    status: i32,
    script: &Path,
    interpreter: &str,
) -> BuildOutcome {
    let (script, program) = (script.display(), interpreter.trim_end());
    if program != interpreter {
        let mut failure = logged.failure(Some(status), step, false);
        failure.first_error = format!(
            "{script} cannot be run: its first line ends in CR LF (Windows line endings), which is taken as part of {program}"
        );
        return BuildOutcome::Failed(failure);
    }
    let name = Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or(program);
    let sought = Sought::parse(&format!("program {name}"));
    let reason =
        format!("it needs {program}, which the first line of {script} names and which is not installed");
    BuildOutcome::Environment(reason, sought.into_iter().collect())
}

/// The program in the first line of a script of the package: `#!PROGRAM`, up to a blank; with the CR that follows it.
fn interpreter(scratch: &Path, inside: &Path, script: &Path) -> io::Result<Option<String>> {
    let path = script.strip_prefix(inside).unwrap_or(script);
    let path: PathBuf = path.components().filter(|part| *part != std::path::Component::CurDir).collect();
    let Ok((found, _)) = Tree::open(&scratch.join("build"))?.file(&path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    found.take(MOST_FIRST_LINE).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.split('\n').next().and_then(|line| line.strip_prefix("#!"));
    Ok(line.and_then(|line| line.trim_start().split([' ', '\t']).next()).map(str::to_owned))
}

/// What a recipe calls the step with this command, unless it builds.
fn step_of(recipe: &Recipe, command: &str) -> Option<&'static str> {
    let at = recipe.steps.iter().position(|step| step.command == command)?;
    let has_made =
        recipe.steps[..at].iter().any(|step| matches!(step.kind, StepKind::Make | StepKind::Attempt));
    match recipe.steps[at].kind {
        StepKind::Hook => Some(if has_made { "its POST_BUILD" } else { "its PRE_BUILD" }),
        StepKind::Patch | StepKind::Clean | StepKind::Make | StepKind::Attempt => None,
    }
}

/// Whether a package's script calls a program that downloads.
fn is_downloader(scratch: &Path, command: &str) -> io::Result<bool> {
    let script = Path::new(command.split_whitespace().next().unwrap_or_default());
    let Ok((found, _)) = Tree::open(&scratch.join("build"))?.file(script)? else { return Ok(false) };
    let mut bytes = Vec::new();
    found.take(MOST_SHOWN).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let is_call = |line: &str| {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || "-_.".contains(c)));
        let fetches =
            words.by_ref().any(|word| ["wget", "curl", "aria2c", "apt-get", "pip", "pip3"].contains(&word));
        fetches || ["git clone", "git fetch", "git pull"].iter().any(|git| line.contains(git))
    };
    Ok(text.lines().filter(|line| !line.trim_start().starts_with('#')).any(is_call))
}

/// Describes the limit that a build exceeded, and the setting for it.
fn too_much(excess: Excess, limits: &Limits) -> String {
    match excess {
        Excess::Bytes => {
            format!("it was stopped: it used more than {} MiB of disk (build-disk)", limits.disk >> 20)
        }
        Excess::Files => format!("it was stopped: it made more than {} files (build-files)", limits.files),
        Excess::Room { bytes, files } => format!(
            "it was stopped: the disk that builds are on is nearly full (less than {} MiB or {files} files are left)",
            bytes >> 20
        ),
    }
}

fn too_large(limits: &Limits) -> String {
    match limits.disk {
        disk if disk < MOST_FILE => {
            format!("it was stopped: one of its files was to have more than {} MiB (build-disk)", disk >> 20)
        }
        _ => format!("it was stopped: one of its files was to have more than {} MiB", MOST_FILE >> 20),
    }
}

/// Appends a build's file to its log, up to [`MOST_SHOWN`].
fn append(scratch: &Path, file: &Path) -> io::Result<()> {
    let Ok((found, _)) = Tree::open(&scratch.join("build"))?.file(file)? else { return Ok(()) };
    let mut bytes = Vec::new();
    found.take(MOST_SHOWN).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut log = fs::OpenOptions::new().append(true).open(log_path(scratch))?;
    writeln!(log, "kcache: {}:", printable(&file.display().to_string()))?;
    text.lines().try_for_each(|line| writeln!(log, "{}", printable(line)))
}

/// Makes a sandbox's user the owner of what it may write, which no process of it has used yet.
pub(crate) fn give_writable(sandbox: &Sandbox) -> io::Result<()> {
    let Some(uid) = sandbox.identity.uid() else { return Ok(()) };
    sandbox.writable.iter().try_for_each(|mount| give(&mount.outside, uid))
}

/// Makes the build's user the owner of a tree that no build has used yet.
fn give(path: &Path, uid: u32) -> io::Result<()> {
    Tree::open(path)?.give(uid).map_err(|error| match error {
        tree::Error::Io(error) => error,
        other => io::Error::other(format!("{} cannot be given to a build: {other}", path.display())),
    })
}

/// The outputs, or which of them is missing.
fn collect(
    scratch: &Path,
    recipe: &Recipe,
    sandbox: &Sandbox,
    inside: &Path,
    logged: Logged,
) -> io::Result<BuildOutcome> {
    let modules = match modules(scratch, &recipe.modules)? {
        Ok(modules) => modules,
        Err(what) => {
            let what = format!("{what}{}", outside(sandbox, inside, &recipe.modules));
            return Ok(BuildOutcome::Failed(logged.of_attempts().failure_in_spite_of_success(&what)));
        }
    };
    let outputs: BTreeSet<PathBuf> =
        modules.iter().map(|module| Path::new("module").join(&module.name)).collect();
    let packed = match kept::pack(&Tree::open(&scratch.join("kept"))?, &outputs) {
        Ok(packed) => packed,
        Err(kept::Error::Io(error)) => return Err(error),
        Err(what) => return Ok(BuildOutcome::Failed(logged.failure_in_spite_of_success(&what.to_string()))),
    };
    let (debug, lost) = debug(scratch, &modules)?;
    let not_kept = packed.left_out.iter().map(|what| format!("not stored for other packages: {what}"));
    warn(scratch, not_kept.chain(lost))?;
    let tried = recipe.steps.iter().any(|step| step.kind == StepKind::Attempt);
    Ok(BuildOutcome::Built {
        modules,
        debug,
        kept: packed.tar,
        command: tried.then(|| logged.command().to_owned()),
    })
}

/// The debug information of these modules, if any, and a warning for each that is lost.
fn debug(scratch: &Path, modules: &[BuiltFile]) -> io::Result<(Vec<BuiltFile>, Vec<String>)> {
    let tree = Arc::new(Tree::open(&scratch.join("debug"))?);
    let (mut found, mut lost, mut room) = (Vec::new(), Vec::new(), MOST_DEBUG);
    for module in modules {
        let name = format!("{}.debug", module.name);
        let path = PathBuf::from(&name);
        if !tree.has(&path) {
            continue; // it has none
        }
        match tree.file(&path).unwrap_or_else(|error| Err(error.to_string())) {
            Ok((_, size)) if size > MOST_MODULE.min(room) => lost.push(format!("{name} has {size} bytes")),
            Ok((_, size)) => {
                room -= size;
                found.push(BuiltFile { name, size, tree: tree.clone(), path });
            }
            Err(what) => lost.push(what),
        }
    }
    Ok((found, lost))
}

/// The modules of the recipe; the inner error says which one is missing.
fn modules(scratch: &Path, promised: &Modules) -> io::Result<Result<Vec<BuiltFile>, String>> {
    let source = Arc::new(Tree::open(&scratch.join("build"))?);
    let kept = Arc::new(Tree::open(&scratch.join("kept"))?);
    let wanted: Vec<(PathBuf, String)> = match promised {
        Modules::Listed(list) => {
            list.iter().map(|m| (format!("{}.ko", m.built).into(), format!("{}.ko", m.name))).collect()
        }
        Modules::Found => match found_modules(&source) {
            Ok(found) => found,
            Err(tree::Error::Io(error)) => return Err(error),
            Err(what) => return Ok(Err(format!("left a source tree that cannot be searched: {what}"))),
        },
    };
    if wanted.is_empty() {
        return Ok(Err("built no module".into()));
    }
    if wanted.len() > MOST_MODULES {
        return Ok(Err(format!("built {} modules, more than {MOST_MODULES}", wanted.len())));
    }
    let (mut built, mut names, mut room) = (Vec::new(), BTreeSet::new(), MOST_MODULES_SIZE);
    for (path, name) in wanted {
        let as_kept = Path::new("module").join(&name);
        let (tree, at, taken) = match kept.file(&as_kept)? {
            Err(_) => {
                let taken = source.file(&path)?;
                (&source, path, taken)
            }
            taken => (&kept, as_kept, taken),
        };
        let shown = at.display();
        match taken {
            Ok((_, size)) if size > MOST_MODULE => return Ok(Err(format!("{shown} has {size} bytes"))),
            Ok((_, size)) if size > room => {
                return Ok(Err(format!(
                    "built modules of more than {} MiB together",
                    MOST_MODULES_SIZE >> 20
                )));
            }
            Ok(_) if !names.insert(name.clone()) => return Ok(Err(format!("built more than one {name}"))),
            Ok((_, size)) => {
                room -= size;
                built.push(BuiltFile { name, size, tree: tree.clone(), path: at });
            }
            Err(what) => return Ok(Err(format!("{what}{}", elsewhere(&source, &at, &name)))),
        }
    }
    Ok(Ok(built))
}

/// Where else a module of this name was built, or what was built instead.
fn elsewhere(source: &Tree, at: &Path, name: &str) -> String {
    let found = found_modules(source).unwrap_or_default();
    let others: Vec<String> =
        found.iter().filter(|(path, _)| path != at).map(|(path, _)| path.display().to_string()).collect();
    match found.iter().find(|(path, other)| other == name && path != at) {
        Some((path, _)) => {
            format!(", but {}, which is not where the recipe has it (BUILT_MODULE_LOCATION)", path.display())
        }
        None if others.is_empty() => String::new(),
        None => {
            let shown = &others[..others.len().min(MOST_NAMED)];
            let more = if others.len() > MOST_NAMED { ", ..." } else { "" };
            format!(", but {}{more}", shown.join(", "))
        }
    }
}

/// Where a module of the recipe is in another tree that the build can write: its source in `/usr/src`. DKMS does not look
/// there either.
fn outside(sandbox: &Sandbox, inside: &Path, promised: &Modules) -> String {
    let Modules::Listed(promised) = promised else { return String::new() };
    let is_promised = |name: &str| promised.iter().any(|module| name == format!("{}.ko", module.name));
    let sources =
        sandbox.writable.iter().filter(|mount| !mount.inside.starts_with(inside.parent().unwrap_or(inside)));
    let mut found = sources.filter_map(|mount| {
        let tree = Tree::open(&mount.outside).ok()?;
        let found = found_modules(&tree).ok()?.into_iter().find(|(_, name)| is_promised(name))?;
        Some(format!(", but {}, outside of its build directory", mount.inside.join(found.0).display()))
    });
    found.next().unwrap_or_default()
}

/// Appends warnings about a successful build to its log.
fn warn(scratch: &Path, mut lost: impl Iterator<Item = String>) -> io::Result<()> {
    let mut log = fs::OpenOptions::new().append(true).open(log_path(scratch))?;
    lost.try_for_each(|line| writeln!(log, "kcache: warning: {}", printable(&line)))
}

/// Every module in a tree: path and file name, sorted.
fn found_modules(source: &Tree) -> Result<Vec<(PathBuf, String)>, tree::Error> {
    let mut found = Vec::new();
    source.walk(tree::MOST, &mut |file| {
        let name = file.path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".ko"));
        if let Some(name) = name.filter(|_| file.kind == FileType::RegularFile) {
            let name = name.to_owned();
            found.push((file.path, name));
        }
        Ok(())
    })?;
    found.sort();
    Ok(found)
}

/// Reads a whole log, for printing or storing.
pub fn read_log(scratch: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(log_path(scratch))?.take(2 * MOST_LOG).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_debug_information_is_dropped_without_failing_the_build() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join("debug").join(name);
        fs::create_dir(scratch.path().join("debug")).unwrap();
        fs::write(at("good.ko.debug"), "g").unwrap();
        fs::write(at("of-nothing.ko.debug"), "n").unwrap();
        std::os::unix::fs::symlink("/etc/shadow", at("link.ko.debug")).unwrap();
        fs::create_dir(at("dir.ko.debug")).unwrap();
        fs::File::create(at("huge.ko.debug")).unwrap().set_len(MOST_MODULE + 1).unwrap();
        let tree = Arc::new(Tree::open(scratch.path()).unwrap());
        let module = |name: &str| BuiltFile {
            name: format!("{name}.ko"),
            size: 1,
            tree: tree.clone(),
            path: PathBuf::new(),
        };
        let modules = ["good", "none", "link", "dir", "huge"].map(module);
        let (found, lost) = debug(scratch.path(), &modules).unwrap();
        assert_eq!(found.iter().map(|file| &file.name[..]).collect::<Vec<_>>(), ["good.ko.debug"]);
        let lost = lost.join("; ");
        assert!(
            ["link.ko.debug is a link", "dir.ko.debug is not", "huge.ko.debug has"]
                .iter()
                .all(|what| lost.contains(what)),
            "{lost}"
        );
        assert!(!lost.contains("none"), "{lost}");
    }
}
