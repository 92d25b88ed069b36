//! One build: a private copy of a package's source, a sandbox, a script made from the recipe; out come modules or a log.
//!
//! ```text
//! scratch/build    the source copy, put there by the caller; seen at /var/lib/dkms/NAME/VERSION/build
//! scratch/kept     what it leaves for other packages (`kept`); seen at /var/lib/dkms/NAME/VERSION/KERNEL/ARCH
//! scratch/debug    the modules' debug information, NAME.ko.debug; seen at /var/lib/dkms/NAME/VERSION/debug
//! scratch/log      what it printed
//! ```
//!
//! Everything the build writes stays under `scratch`, a directory that only kcache's own user can enter from outside.
//! Outputs are read when every process of the sandbox is dead, and only regular files reached without leaving the tree are
//! taken, so that nothing can be swapped or linked in. A module is the one that DKMS would install: as it was when the last
//! command that builds had ended, or, where it came later, as it is in the end. What `strip` would throw away of it is kept
//! in a file beside it, which the module names (`.gnu_debuglink`). That it cannot be had fails no build.
//!
//! A failure is one of two kinds. [`Outcome::Failed`] is the package's own: the same inputs will fail again, anywhere, so
//! it is worth remembering. [`Outcome::Environment`] is this machine's: a full disk, a killed compiler, a missing tool.

pub mod kept;
mod log;
mod script;
mod tree;

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
use crate::recipe::{Modules, Recipe, build_dir, debug_dir, kept_dir};
use crate::sandbox::enter::MOST_FILE;
use crate::sandbox::jobs::Seat;
use crate::sandbox::{self, Ended, Excess, Limits, Opened, Sandbox, Watch};
use log::{Log, Logged};
use tree::Tree;

/// Most of a build's output that is kept, in bytes. The longest log of a real package is below 1 MiB.
const MOST_LOG: u64 = 16 << 20;

/// Most that one module may weigh, in bytes. The largest unstripped ones (nvidia) have about 100 MiB.
const MOST_MODULE: u64 = 512 << 20;

/// Most modules of one build, and most that they may weigh together, in bytes. The largest sets known have some hundred modules,
/// nvidia's five of 65 MiB when they are stripped.
const MOST_MODULES: usize = 1024;
const MOST_MODULES_SIZE: u64 = 1 << 30;

/// Most that the debug information of one build may weigh, in bytes. jool's three modules have 21 MiB.
const MOST_DEBUG: u64 = 1 << 30;

/// Most of a file of a build that is shown in its log, in bytes. NVIDIA's `conftest/functions.h` has 10 KiB.
const MOST_SHOWN: u64 = 64 << 10;

/// What bash ends with where it cannot fork (jobs.c, `make_child`), having said so on a stderr that may lead nowhere.
const NO_FORK: i32 = 254;

/// SIGXFSZ, which ends a process that writes more to a file than it may (signal(7)); the number is the same wherever there are
/// [`crate::sandbox`]es.
const FILE_SIZE: i32 = nix::libc::SIGXFSZ;

/// What is to be built, and with what.
pub struct Request<'a> {
    /// The sandbox, headers mounted.
    pub sandbox: Sandbox,
    /// What to do.
    pub recipe: &'a Recipe,
    /// Holds `build`, the private source copy.
    pub scratch: &'a Path,
    /// The closed environment.
    pub environment: &'a [(&'a str, &'a str)],
    /// The longest it may take.
    pub limit: Duration,
    /// Set from outside to end it at once.
    pub cancel: &'a AtomicBool,
    /// Its place among the builds of the run, which has begun.
    pub jobs: Option<&'a Seat>,
    /// Receives which files of the system were opened; only root may ask.
    pub opened: Option<&'a mut Opened>,
    /// Is told each line of the log.
    pub line: &'a mut dyn FnMut(&str),
}

/// How a build ended. The log is at `scratch/log` in every case.
#[derive(Debug)]
pub enum Outcome {
    /// Every promised module is there.
    Built {
        /// The modules.
        modules: Vec<Built>,
        /// Debug information that was taken out of them, `NAME.ko.debug`.
        debug: Vec<Built>,
        /// What is kept for other packages, as a tar, where there is any.
        kept: Option<Vec<u8>>,
    },
    /// The package does not build.
    Failed(Failure),
    /// This machine could not build it.
    Environment(String),
    /// It was cancelled.
    Cancelled,
}

/// One file that was built. No process of the build is there any more, so it stays what it is.
#[derive(Debug)]
pub struct Built {
    /// Its file name, `.ko` included, or `.ko.debug`.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    tree: Arc<Tree>,
    path: PathBuf,
}

impl Built {
    /// Its bytes, to be read once more each time; never more than its size.
    pub fn open(&self) -> io::Result<impl Read + use<>> {
        let (file, _) = self.tree.file(&self.path)?.map_err(io::Error::other)?;
        Ok(file.take(self.size))
    }
}

/// Why a package does not build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Exit status of the command that failed.
    pub status: Option<i32>,
    /// That command.
    pub command: String,
    /// The first thing the compiler complained about.
    pub first_error: String,
}

/// Where a build's log is.
pub fn log_path(scratch: &Path) -> PathBuf {
    scratch.join("log")
}

/// Builds.
pub fn build(request: Request) -> Result<Outcome, sandbox::Error> {
    let Request { mut sandbox, recipe, scratch, environment, limit, cancel, jobs, opened, line } = request;
    fs::create_dir(scratch.join("kept"))?;
    fs::create_dir(scratch.join("debug"))?;
    let inside = build_dir(&recipe.name, &recipe.version);
    let machine = &sandbox.machine;
    let kept = kept_dir(&recipe.name, &recipe.version, &machine.release, &machine.arch);
    let debug = debug_dir(&recipe.name, &recipe.version);
    for (name, inside) in [("build", inside.clone()), ("kept", kept), ("debug", debug)] {
        let outside = scratch.join(name);
        if let Some(uid) = sandbox.identity.uid() {
            give(&outside, uid)?;
        }
        sandbox.writable.push(Mount { outside, inside });
    }
    if let (Some(launcher), Some(uid)) = (&sandbox.launcher, sandbox.identity.uid())
        && give(&launcher.directory, uid).is_err()
    {
        // An earlier build has made of it what is none of ccache's.
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
    Ok(match ended {
        Ended::Cancelled => Outcome::Cancelled,
        Ended::TimedOut => {
            Outcome::Environment(format!("timed out after {} s (build-timeout)", limit.as_secs()))
        }
        Ended::OutOfMemory => Outcome::Environment(format!(
            "killed: exceeded the memory limit of {} MiB (build-memory)",
            sandbox.limits.memory >> 20
        )),
        Ended::TookTooMuch(excess) => Outcome::Environment(too_much(excess, &sandbox.limits)),
        Ended::Signal(FILE_SIZE) => Outcome::Environment(too_large(&sandbox.limits)),
        Ended::Signal(signal) => Outcome::Environment(format!("killed by signal {signal}")),
        Ended::Status(0) => collect(scratch, recipe, logged)?,
        Ended::Status(_) if logged.met_file_limit => Outcome::Environment(too_large(&sandbox.limits)),
        Ended::Status(NO_FORK) if logged.environment.is_none() => Outcome::Environment(format!(
            "it could start no more processes, of which it may have {} (build-processes)",
            sandbox.limits.processes
        )),
        Ended::Status(status) => match logged.environment.clone() {
            Some(reason) => Outcome::Environment(reason),
            None => Outcome::Failed(logged.failure(Some(status))),
        },
    })
}

/// What a build took too much of, and which setting says so.
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

/// Adds a file of the build's own to its log, as far as it can be shown.
fn append(scratch: &Path, file: &Path) -> io::Result<()> {
    let Ok((found, _)) = Tree::open(&scratch.join("build"))?.file(file)? else { return Ok(()) };
    let mut bytes = Vec::new();
    found.take(MOST_SHOWN).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut log = fs::OpenOptions::new().append(true).open(log_path(scratch))?;
    writeln!(log, "kcache: {}:", printable(&file.display().to_string()))?;
    text.lines().try_for_each(|line| writeln!(log, "{}", printable(line)))
}

/// Makes the build's user the owner of a tree that no build has yet.
fn give(path: &Path, uid: u32) -> io::Result<()> {
    Tree::open(path)?.give(uid).map_err(|error| match error {
        tree::Error::Io(error) => error,
        other => io::Error::other(format!("{} cannot be given to a build: {other}", path.display())),
    })
}

/// What was built, or what of it is not there.
fn collect(scratch: &Path, recipe: &Recipe, logged: Logged) -> io::Result<Outcome> {
    let modules = match modules(scratch, &recipe.modules)? {
        Ok(modules) => modules,
        Err(what) => return Ok(Outcome::Failed(logged.failure_in_spite_of_success(&what))),
    };
    let outputs: BTreeSet<PathBuf> =
        modules.iter().map(|module| Path::new("module").join(&module.name)).collect();
    let packed = match kept::pack(&Tree::open(&scratch.join("kept"))?, &outputs) {
        Ok(packed) => packed,
        Err(kept::Error::Io(error)) => return Err(error),
        Err(what) => return Ok(Outcome::Failed(logged.failure_in_spite_of_success(&what.to_string()))),
    };
    let (debug, lost) = debug(scratch, &modules)?;
    let not_kept = packed.left_out.iter().map(|what| format!("not stored for other packages: {what}"));
    warn(scratch, not_kept.chain(lost))?;
    Ok(Outcome::Built { modules, debug, kept: packed.tar })
}

/// The debug information of these modules, where there is any; and a line each for what is lost.
fn debug(scratch: &Path, modules: &[Built]) -> io::Result<(Vec<Built>, Vec<String>)> {
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
                found.push(Built { name, size, tree: tree.clone(), path });
            }
            Err(what) => lost.push(what),
        }
    }
    Ok((found, lost))
}

/// The promised modules; the inner error says which of them is not there.
fn modules(scratch: &Path, promised: &Modules) -> io::Result<Result<Vec<Built>, String>> {
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
                built.push(Built { name, size, tree: tree.clone(), path: at });
            }
            Err(what) => return Ok(Err(what)),
        }
    }
    Ok(Ok(built))
}

/// Adds to the log what is lost of a build that has succeeded.
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

/// The whole of a log, for showing or storing.
pub fn read_log(scratch: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(log_path(scratch))?.take(2 * MOST_LOG).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_information_that_is_no_plain_file_or_too_large_is_lost_and_fails_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let at = |name: &str| scratch.path().join("debug").join(name);
        fs::create_dir(scratch.path().join("debug")).unwrap();
        fs::write(at("good.ko.debug"), "g").unwrap();
        fs::write(at("of-nothing.ko.debug"), "n").unwrap();
        std::os::unix::fs::symlink("/etc/shadow", at("link.ko.debug")).unwrap();
        fs::create_dir(at("dir.ko.debug")).unwrap();
        fs::File::create(at("huge.ko.debug")).unwrap().set_len(MOST_MODULE + 1).unwrap();
        let tree = Arc::new(Tree::open(scratch.path()).unwrap());
        let module = |name: &str| Built {
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
