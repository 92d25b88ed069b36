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

pub use log::printable;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fs_err as fs;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, openat2};

use crate::kernels::Mount;
use crate::recipe::{Modules, Recipe, build_dir, debug_dir, kept_dir};
use crate::sandbox::jobs::Seat;
use crate::sandbox::{self, Ended, Identity, Opened, Sandbox, Watch};
use log::{Log, Logged};

/// Most of a build's output that is kept, in bytes. The longest log of a real package is below 1 MiB.
const MOST_LOG: u64 = 16 << 20;

/// Most that one module may weigh, in bytes. The largest unstripped ones (nvidia) have about 100 MiB.
const MOST_MODULE: u64 = 512 << 20;

/// Most that the debug information of one build may weigh, in bytes: it goes through memory. jool's three modules have 21 MiB.
const MOST_DEBUG: u64 = 1 << 30;

/// Most of a file of a build that is shown in its log, in bytes. NVIDIA's `conftest/functions.h` has 10 KiB.
const MOST_SHOWN: u64 = 64 << 10;

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

/// One file that was built.
#[derive(Debug)]
pub struct Built {
    /// Its file name, `.ko` included, or `.ko.debug`.
    pub name: String,
    /// Opened; no process of the build has it.
    pub file: fs_err::File,
    /// Size in bytes.
    pub size: u64,
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
    let Request { mut sandbox, recipe, scratch, environment, limit, cancel, jobs, opened, line } =
        request;
    fs::create_dir(scratch.join("kept"))?;
    fs::create_dir(scratch.join("debug"))?;
    let inside = build_dir(&recipe.name, &recipe.version);
    let machine = &sandbox.machine;
    let kept = kept_dir(&recipe.name, &recipe.version, &machine.release, &machine.arch);
    let debug = debug_dir(&recipe.name, &recipe.version);
    for (name, inside) in [("build", inside.clone()), ("kept", kept), ("debug", debug)] {
        let outside = scratch.join(name);
        if let Identity::Drop(uid) = sandbox.identity {
            give(&outside, uid)?;
        }
        sandbox.writable.push(Mount { outside, inside });
    }
    if let (Some(launcher), Identity::Drop(uid)) = (&sandbox.launcher, sandbox.identity) {
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
        Ended::TimedOut => Outcome::Environment(format!("it was stopped after {} s", limit.as_secs())),
        Ended::Signal(signal) => Outcome::Environment(format!("it was killed by signal {signal}")),
        Ended::Status(0) => collect(scratch, recipe, logged)?,
        Ended::Status(status) => match logged.environment.clone() {
            Some(reason) => Outcome::Environment(reason),
            None => Outcome::Failed(logged.failure(Some(status))),
        },
    })
}

/// Adds a file of the build's own to its log, as far as it can be shown.
fn append(scratch: &Path, file: &Path) -> io::Result<()> {
    let (name, tree) = (file.display().to_string(), open_dir(&scratch.join("build"))?);
    let Ok((found, _)) = take(&tree, &name)? else { return Ok(()) };
    let mut bytes = Vec::new();
    found.take(MOST_SHOWN).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(printable);
    let mut log = fs::OpenOptions::new().append(true).open(log_path(scratch))?;
    writeln!(log, "kcache: {}:", printable(&name))?;
    lines.into_iter().try_for_each(|line| writeln!(log, "{line}"))
}

/// Makes the build's user the owner of the scratch tree.
fn give(tree: &Path, uid: u32) -> io::Result<()> {
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)));
    chownat(CWD, tree, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?;
    if fs::symlink_metadata(tree)?.is_dir() {
        for entry in fs::read_dir(tree)? {
            give(&entry?.path(), uid)?;
        }
    }
    Ok(())
}

/// What was built, or what of it is not there.
fn collect(scratch: &Path, recipe: &Recipe, logged: Logged) -> io::Result<Outcome> {
    let modules = match modules(scratch, &recipe.modules)? {
        Ok(modules) => modules,
        Err(what) => return Ok(Outcome::Failed(logged.failure_in_spite_of_success(&what))),
    };
    let outputs: BTreeSet<PathBuf> =
        modules.iter().map(|module| Path::new("module").join(&module.name)).collect();
    let packed = match kept::pack(&scratch.join("kept"), &outputs) {
        Ok(packed) => packed,
        Err(kept::Error::Io(error)) => return Err(error),
        Err(what) => return Ok(Outcome::Failed(logged.failure_in_spite_of_success(&what.to_string()))),
    };
    let (debug, lost) = debug(scratch, &modules)?;
    let not_kept = packed.left_out.iter().map(|what| format!("not kept for other packages: {what}"));
    warn(scratch, not_kept.chain(lost))?;
    Ok(Outcome::Built { modules, debug, kept: packed.tar })
}

/// The debug information of these modules, where there is any; and a line each for what is lost.
fn debug(scratch: &Path, modules: &[Built]) -> io::Result<(Vec<Built>, Vec<String>)> {
    let dir = scratch.join("debug");
    let tree = open_dir(&dir)?;
    let (mut found, mut lost, mut room) = (Vec::new(), Vec::new(), MOST_DEBUG);
    for module in modules {
        let name = format!("{}.debug", module.name);
        if fs::symlink_metadata(dir.join(&name)).is_err() {
            continue; // it has none
        }
        match take(&tree, &name).unwrap_or_else(|error| Err(error.to_string())) {
            Ok((_, size)) if size > MOST_MODULE.min(room) => lost.push(format!("{name} has {size} bytes")),
            Ok((file, size)) => {
                room -= size;
                let file = fs::File::from_parts(file, dir.join(&name));
                found.push(Built { name, file, size });
            }
            Err(what) => lost.push(what),
        }
    }
    Ok((found, lost))
}

/// The promised modules; the inner error says which of them is not there.
fn modules(scratch: &Path, promised: &Modules) -> io::Result<Result<Vec<Built>, String>> {
    let (source, kept) = (scratch.join("build"), scratch.join("kept"));
    let (tree, kept_tree) = (open_dir(&source)?, open_dir(&kept)?);
    let wanted: Vec<(String, String)> = match promised {
        Modules::Listed(list) => {
            list.iter().map(|m| (format!("{}.ko", m.built), format!("{}.ko", m.name))).collect()
        }
        Modules::Found => found_modules(&source)?,
    };
    if wanted.is_empty() {
        return Ok(Err("made no module".into()));
    }
    let mut built: Vec<Built> = Vec::new();
    for (path, name) in wanted {
        let taken = match take(&kept_tree, &format!("module/{name}"))? {
            Err(_) => take(&tree, &path)?,
            kept => kept,
        };
        match taken {
            Ok((_, size)) if size > MOST_MODULE => return Ok(Err(format!("{path} has {size} bytes"))),
            Ok(_) if built.iter().any(|other| other.name == name) => {
                return Ok(Err(format!("made more than one {name}")));
            }
            Ok((file, size)) => {
                built.push(Built { name, file: fs::File::from_parts(file, source.join(&path)), size })
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

fn open_dir(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a regular file that lies in the tree itself; the inner error says in words why there is none.
fn take(tree: &OwnedFd, path: &str) -> io::Result<Result<(std::fs::File, u64), String>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file: std::fs::File = match openat2(tree, path, flags, Mode::empty(), resolve) {
        Ok(fd) => fd.into(),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => {
            return Ok(Err(format!("built no {path}")));
        }
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::XDEV) => {
            return Ok(Err(format!("{path} is a link or lies behind one")));
        }
        Err(e) => return Err(e.into()),
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(Err(format!("{path} is not a regular file")));
    }
    if metadata.mode() & 0o6000 != 0 {
        return Ok(Err(format!("{path} is set-user-ID or set-group-ID, which no module is")));
    }
    Ok(Ok((file, metadata.len())))
}

/// Every module in a tree: path and file name, sorted.
fn found_modules(source: &Path) -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(source.join(&directory))? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let kind = entry.file_type()?;
            let path = directory.join(&name);
            if kind.is_dir() {
                directories.push(path);
            } else if kind.is_file() && name.ends_with(".ko") {
                found.push((path.display().to_string(), name));
            }
        }
    }
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
        let module = |name: &str| {
            let file = fs::File::open(at("good.ko.debug")).unwrap();
            Built { name: format!("{name}.ko"), file, size: 1 }
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

    #[test]
    fn outputs_are_regular_files_of_the_tree_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("tree/sub")).unwrap();
        fs::write(at("secret.ko"), "s").unwrap();
        fs::write(at("tree/sub/good.ko"), "g").unwrap();
        std::os::unix::fs::symlink("../secret.ko", at("tree/link.ko")).unwrap();
        std::os::unix::fs::symlink("..", at("tree/up")).unwrap();
        std::os::unix::fs::symlink("sub", at("tree/alias")).unwrap();
        fs::create_dir(at("tree/dir.ko")).unwrap();
        let tree = rustix::fs::open(at("tree"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let check = |path: &str, expect: &str| {
            let what = take(&tree, path).unwrap().map(|(_, size)| size.to_string());
            let what = what.unwrap_or_else(|reason| reason);
            assert!(what.contains(expect), "{path}: {what}");
        };
        check("sub/good.ko", "1");
        check("alias/good.ko", "1");
        check("link.ko", "is a link");
        check("up/secret.ko", "is a link");
        check("dir.ko", "not a regular file");
        check("none.ko", "built no none.ko");
    }
}
