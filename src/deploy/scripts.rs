//! Packages' scripts for the system that they are installed on: `PRE_INSTALL`, `POST_INSTALL`, `POST_REMOVE`.
//!
//! A build is confined, but these scripts change the system and need root: they add a udev rule, a service, a file in
//! `modprobe.d`. So they run only for packages that the caller's setting `package-scripts` names (a tree under `--root` cannot
//! set it), and one line says what was not run. They run from a copy of the source that only root can change, and whose bytes
//! are those that were hashed:
//!
//! ```text
//! /var/lib/kcache/kcache-scratch-*/source     the copy; the script's directory
//! /var/lib/kcache/kcache-scratch-*/output     its output
//! ```
//!
//! Under `--root` both are among this machine's scratch directories, and the script runs in a sandbox that can write only the
//! tree and the copy (`kernel/src/scripts.rs`).
//!
//! Scripts run when a package's modules change, not on every run. If a `PRE_INSTALL` fails, its package is not installed; a
//! failure of the others is a warning, because the modules are already installed. After a crash, the next run deletes the
//! directory; an interrupted script is not run again.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use kcache_kernel::build::printable;
use kcache_kernel::install::{Act, InstallPlan};
use kcache_kernel::packages::RecipeFile;
use kcache_kernel::recipe::{Hook, When};
use kcache_kernel::release;
use kcache_kernel::sandbox::Ended;
use kcache_kernel::scripts::{self, Script};
use kcache_store::{Digest, Scratch, tree};

use crate::error::{Error, Result, chain};
use crate::run::request::Request;
use crate::run::sandbox;
use crate::run::session::Session;

/// Time limit of a script; some regenerate an initramfs.
const LIMIT: Duration = Duration::from_secs(600);

/// Directory for copies on this machine, from which programs may be executed.
const PLACE: &str = "/var/lib/kcache";

/// Names of the packages whose modules a plan installs.
pub fn arriving(plan: &InstallPlan) -> impl Iterator<Item = &str> {
    let arrives = |act| matches!(act, Act::Add | Act::Replace);
    plan.changes.iter().filter(move |change| arrives(change.act)).map(|change| change.package.as_str())
}

/// Runs scripts before a package's modules are installed. After an error they must not be.
pub fn before_install(session: &Session, request: &Request) -> Result<()> {
    if !are_allowed(session, request) {
        return Ok(());
    }
    let (hooks, source) = hooks(session, request)?;
    hooks
        .iter()
        .filter(|hook| hook.when == When::BeforeInstall)
        .try_for_each(|hook| run(session, request, hook, source))
}

/// Runs scripts after a package's modules were installed.
pub fn after_install(session: &Session, request: &Request) {
    let not_run = [When::Added, When::BeforeInstall, When::AfterInstall, When::AfterRemove];
    afterwards(session, request, When::AfterInstall, &not_run);
}

/// Runs scripts after a package's modules were removed.
pub fn after_remove(session: &Session, request: &Request) {
    afterwards(session, request, When::AfterRemove, &[When::AfterRemove]);
}

/// Runs the scripts for an event; if they are not allowed, reports those in `not_run`.
fn afterwards(session: &Session, request: &Request, when: When, not_run: &[When]) {
    let progress = session.context.progress();
    let outcome = hooks(session, request).and_then(|(hooks, source)| {
        if !are_allowed(session, request) {
            report_not_run(session, request, hooks.iter().filter(|hook| not_run.contains(&hook.when)));
            return Ok(());
        }
        hooks.iter().filter(|hook| hook.when == when).try_for_each(|hook| run(session, request, hook, source))
    });
    if let Err(error) = outcome {
        progress.warn(&format!("{}: {}", request.name(), chain(&error)));
    }
}

/// Whether the setting `package-scripts` allows a package's scripts.
pub fn are_allowed(session: &Session, request: &Request) -> bool {
    session.context.package_scripts.iter().any(|glob| release::matches(glob, &request.package.name))
}

fn report_not_run<'a>(session: &Session, request: &Request, hooks: impl Iterator<Item = &'a Hook>) {
    let named: Vec<&str> = hooks.map(|hook| hook.when.directive()).collect();
    if named.is_empty() {
        return;
    }
    let (package, verb) = (&request.package.name, if named.len() == 1 { "is" } else { "are" });
    session.report_once(&format!(
        "{package}: {} {verb} not run (allow with `package-scripts = [\"{package}\"]` in {})",
        named.join(", "),
        if session.context.root.is_host() { "/etc/kcache/config.toml" } else { "a file named with --config" }
    ));
}

/// The scripts of a package's recipe for a kernel, with the digest of the source. Without headers there are none.
fn hooks(session: &Session, request: &Request) -> Result<(Vec<Hook>, Digest)> {
    let (RecipeFile::Dkms, Some(tree)) = (&request.package.recipe, request.kernel.build_tree()) else {
        return Ok((Vec::new(), Digest::of(b"")));
    };
    let source = session.source(request.package)?;
    Ok((session.recipe(request.package, source, request.kernel, tree)?.hooks, source.digest))
}

/// Runs one script in a copy of the source.
fn run(session: &Session, request: &Request, hook: &Hook, source: Digest) -> Result<()> {
    let context = session.context;
    let failed = |reason: String| Error::Script {
        directive: hook.when.directive(),
        command: hook.command.clone(),
        reason,
    };
    if !context.services.is_root() {
        return Err(failed("is not run, because kcache is not running as root".to_owned()));
    }
    let scratch = match context.root.is_host() {
        true => {
            fs::create_dir_all(PLACE)?;
            Scratch::new(Path::new(PLACE))?
        }
        false => session.scratch()?,
    };
    let copy = scratch.path().join("source");
    if tree::snapshot(&request.package.source, &copy, &[".git".to_owned()])? != source {
        return Err(Error::Changed { what: format!("the source of {}", request.package.name) });
    }
    context.progress().print(&format!(
        "{}: running {} ({})",
        request.name(),
        hook.when.directive(),
        hook.command
    ));
    let output = scratch.path().join("output");
    let ended = scripts::run(Script {
        root: &context.root,
        bwrap: &context.bwrap,
        source: &copy,
        directory: &directory(session, request, hook, &copy),
        command: &hook.command,
        output: fs::File::create(&output)?.into_parts().0,
        limit: LIMIT,
        cancel: &context.services.cancel,
    })?;
    let mut printed = Vec::new();
    fs::File::open(&output)?.take(scripts::MOST_OUTPUT).read_to_end(&mut printed)?;
    for line in String::from_utf8_lossy(&printed).lines().take(1000) {
        context.progress().detail(&format!("{}: {}", request.package.name, printable(line)));
    }
    match ended {
        Ended::Status(0) => Ok(()),
        Ended::Cancelled => Err(Error::Cancelled),
        Ended::Status(status) => Err(failed(format!("ended with status {status}"))),
        Ended::OutOfMemory => Err(failed("was killed: out of memory".to_owned())),
        Ended::Signal(signal) => Err(failed(format!("was killed by signal {signal}"))),
        Ended::TookTooMuch(_) => {
            Err(failed(format!("killed: printed more than {} MiB", scripts::MOST_OUTPUT >> 20)))
        }
        Ended::TimedOut => Err(failed(format!("timed out after {} s", LIMIT.as_secs()))),
    }
}

/// The script's working directory, as the system under the root sees it. The administrator's script of the same name
/// takes precedence over the package's.
fn directory(session: &Session, request: &Request, hook: &Hook, copy: &Path) -> PathBuf {
    let root = &session.context.root;
    let overrides = sandbox::overrides_dir(request.package);
    let name = hook.command.split(' ').next().unwrap_or_default();
    match root.find(overrides.join(name)) {
        Some(own) if own.is_file() => overrides,
        _ if root.is_host() => copy.to_owned(),
        _ => PathBuf::from(scripts::SOURCE),
    }
}
