//! `kcache hooks run EVENT [RELEASE]`: what hooks call.
//!
//! The names of events are in files that outlive this version: names are added, never changed.
//!
//! | event | caller | action |
//! |---|---|---|
//! | `kernel-installed R` | package managers, before R's initramfs is generated | install for R; verdict |
//! | `headers-installed R` | package managers | the same, or only build if R is not installed yet; regenerate the initramfs |
//! | `kernel-removed R` | package managers | remove kcache's modules for R |
//! | `boot` | kcache-boot.service | recover interrupted installations; install what the running kernel lacks from the store |
//! | `booted` | kcache-ready.service | the verdict for every kernel |
//! | `configured` | kcache's own package, when it is installed | as `headers-installed`, for every kernel that is there |
//! | `retry` | kcache-retry.service | ask shared caches again for what installed kernels lack, and install it |
//!
//! Package managers call in the middle of a transaction. So hooks never wait for input; a whole run is limited to the time of
//! one build (`build-timeout`); everything is also logged to the journal; and a failure is a warning unless
//! `on-failure = "block"`. An unknown event and unreadable settings are warnings too.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kcache::deploy::{boot_repair, generation as flow};
use kcache::error::Error;
use kcache::kernel::install::{has_kernel, is_live};
use kcache::kernel::kernels::{self, Kernel};
use kcache::kernel::release;
use kcache::run::context::Context;
use kcache::run::select;
use kcache::run::session::Session;

use super::super::context::Asked;
use super::super::task::Ran;
use super::super::{context, has_builds, packages, running};
use super::super::{initramfs, install, run_report};
use super::verdict::{bootable, print};
use super::{retry, timer};
use crate::args::Global;
use crate::confined::{self, Caller};
use crate::dkms_key;
use crate::exit::{Exit, Failure};
use crate::journal::Journal;
use crate::out::Out;
use crate::settings::Settings;
use crate::settings::choices::OnFailure;

/// Longest that the boot may be held up: below the unit's TimeoutStartSec, so that kcache ends by itself.
const BOOT: Duration = Duration::from_secs(45);
/// At boot nobody else should be at work.
const BOOT_LOCK: Duration = Duration::from_secs(10);
/// Whoever is at work may well be about to do what a retry is for; it comes again.
const RETRY_LOCK: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Event<'a> {
    KernelInstalled(&'a str),
    HeadersInstalled(&'a str),
    KernelRemoved(&'a str),
    Boot(Option<&'a str>),
    Booted,
    Configured,
    Retry,
}

impl<'a> Event<'a> {
    fn of(word: &str, release: Option<&'a str>) -> Option<Event<'a>> {
        // It becomes part of paths, and of hints.
        Some(match (word, release.filter(|release| release::is_plain(release))) {
            ("kernel-installed", Some(release)) => Event::KernelInstalled(release),
            ("headers-installed", Some(release)) => Event::HeadersInstalled(release),
            ("kernel-removed", Some(release)) => Event::KernelRemoved(release),
            ("boot", release) => Event::Boot(release),
            ("booted", _) => Event::Booted,
            ("configured", _) => Event::Configured,
            ("retry", _) => Event::Retry,
            _ => return None,
        })
    }

    /// Something waits for what comes of it.
    fn may_block(self) -> bool {
        !matches!(self, Event::Boot(_) | Event::Booted | Event::Retry)
    }
}

pub fn run(global: &Global, word: &str, release: Option<&str>, out: &Arc<Out>) -> Result<Exit, Failure> {
    if global.dry_run {
        return Err(Failure::usage(
            "hooks run has no dry run",
            Some("use `kcache --dry-run install -k R`".into()),
        ));
    }
    if let Some(journal) = Journal::open() {
        out.log_to_journal(journal);
    }
    let Some(event) = Event::of(word, release) else {
        let event = format!("{word} {}", release.unwrap_or_default());
        out.warn(&format!("unknown event '{}'; doing nothing", event.trim_end()));
        return Ok(Exit::Done);
    };
    let carried =
        |settings: Settings| match event.may_block() && dkms_key::carry_over(&settings, global, out)? {
            true => context::settings(global),
            false => Ok(settings),
        };
    let settings = match context::settings(global).and_then(carried) {
        Ok(settings) => settings,
        Err(failure) => {
            out.failure(&failure);
            out.warn("invalid configuration; doing nothing");
            out.hint("run `kcache config`");
            return Ok(Exit::Done);
        }
    };
    settings.warnings.iter().for_each(|warning| out.warn(warning));
    confined::confine(&settings, Caller::Hook, out);
    let exit = happened(event, &settings, out).unwrap_or_else(|failure| {
        out.failure(&failure);
        if let Event::KernelInstalled(release) | Event::HeadersInstalled(release) = event {
            warn(out, release, &failure.message);
        }
        failure.exit
    });
    let forgiven = settings.on_failure.value == OnFailure::Warn || !event.may_block();
    Ok(if forgiven { Exit::Done } else { exit })
}

fn happened(event: Event, settings: &Settings, out: &Arc<Out>) -> Result<Exit, Failure> {
    let at_boot = matches!(event, Event::Boot(_));
    let limit = if at_boot { BOOT } else { settings.build_timeout.value };
    let lock_limit = match event {
        Event::Boot(_) => BOOT_LOCK,
        Event::Retry => RETRY_LOCK,
        _ => limit,
    };
    let site = !matches!(event, Event::Boot(_) | Event::Booted | Event::KernelRemoved(_));
    let asked = Asked { offline: at_boot, lock_limit: Some(lock_limit), site, ..Asked::default() };
    let context = context::context(settings, out, &asked)?;
    let over = end_after(&context, limit);
    let done = match event {
        Event::KernelInstalled(release) => kernel_installed(&context, out, release),
        Event::HeadersInstalled(release) => headers_installed(&context, out, release),
        Event::KernelRemoved(release) => kernel_removed(&context, out, release),
        Event::Boot(release) => boot(&context, out, release.unwrap_or(&running())),
        Event::Booted => booted(&context, out),
        Event::Configured => configured(&context, out),
        Event::Retry => retry::run(&context, settings, out),
    };
    done.map_err(|failure| match over.load(Ordering::Relaxed) {
        true => Failure { message: format!("timed out after {} s", limit.as_secs()), ..failure },
        false => failure,
    })
}

/// Ends the run after a while, as a signal would. The flag tells that it was this.
fn end_after(context: &Context, limit: Duration) -> Arc<AtomicBool> {
    let over = Arc::new(AtomicBool::new(false));
    let (told, cancel) = (over.clone(), context.services.cancel.clone());
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        told.store(true, Ordering::Relaxed);
        cancel.store(true, Ordering::Relaxed);
    });
    over
}

fn kernel_installed(context: &Context, out: &Out, release: &str) -> Result<Exit, Failure> {
    let Some(kernel) = worth_it(context, out, release)? else { return Ok(Exit::Done) };
    if !tree_is(&kernel, has_kernel)? {
        out.print(&format!(
            "{release}: kernel is not installed, only its modules directory exists; nothing to do"
        ));
        return Ok(Exit::Done);
    }
    let ran = install::for_kernel(context, out, release, true)?;
    conclude(context, out, &kernel, &ran)
}

fn headers_installed(context: &Context, out: &Out, release: &str) -> Result<Exit, Failure> {
    let Some(kernel) = worth_it(context, out, release)? else { return Ok(Exit::Done) };
    // Before its package has run depmod, what is installed into a kernel's tree is not to be told from what was there.
    if !tree_is(&kernel, is_live)? {
        out.print(&format!(
            "{release}: kernel is not installed yet; building its modules now, to be installed with it"
        ));
        let ran = install::for_kernel(context, out, release, false)?;
        if ran.exit != Exit::Done {
            warn(out, release, &format!("not ready: {}", ran.failed.join(", ")));
        }
        return Ok(ran.exit);
    }
    let ran = install::for_kernel(context, out, release, true)?;
    if ran.changed {
        initramfs::make_anew(context, out, release, false);
    }
    conclude(context, out, &kernel, &ran)
}

/// The kernel, if there is anything to be done for it. What is not there yet will have a hook of its own.
fn worth_it(context: &Context, out: &Out, release: &str) -> Result<Option<Kernel>, Failure> {
    let Some(kernel) = kernels::of_release(&context.root, release).map_err(Error::from)? else {
        out.print(&format!("/lib/modules/{release} does not exist; nothing to do"));
        return Ok(None);
    };
    let packages = select::packages(&context.root, &[], &context.elsewhere)?;
    let unresolved = context.elsewhere.unresolved.is_some();
    if packages.chosen.is_empty() && packages.broken.is_empty() && !unresolved {
        out.detail(&format!("{release}: no packages to build"));
        return Ok(None);
    }
    let store = context.open_existing_store()?;
    // Headers help only where there is a source to build.
    let builds = packages.chosen.iter().any(|package| package.has_source()) || unresolved;
    let has_none = kernel.build_tree().is_none() && !has_builds(store.as_ref(), &kernel);
    if has_none && !context.elsewhere.any && builds {
        wait_for_headers(context, out, release);
        return Ok(None);
    }
    Ok(Some(kernel))
}

fn tree_is(kernel: &Kernel, what: fn(&Path) -> std::io::Result<bool>) -> Result<bool, Failure> {
    kernel.modules.as_deref().map_or(Ok(false), |tree| Ok(what(tree)?))
}

fn wait_for_headers(context: &Context, out: &Out, release: &str) {
    let command = kernels::headers_hint(&context.root, release);
    out.print(&format!(
        "{release}: not ready: no headers and no cached build; modules will be installed with the headers"
    ));
    out.hint(&command);
}

/// The verdict, which decides. What is not there for want of headers is nobody's failure: they may come next.
fn conclude(context: &Context, out: &Out, kernel: &Kernel, ran: &Ran) -> Result<Exit, Failure> {
    let release = &kernel.release;
    if print(context, out, std::slice::from_ref(release))? == Exit::Done {
        return Ok(Exit::Done);
    }
    if ran.exit == Exit::NoHeaders && kernel.build_tree().is_none() {
        if ran.lacks_builds {
            out.warn(&format!(
                "do not reboot into {release} (no cache has a build of {} yet)",
                ran.failed.join(", ")
            ));
            timer::report_what_follows(context, out, release, ran);
            return Ok(Exit::NotReady.or(ran.exit));
        }
        wait_for_headers(context, out, release);
        return Ok(Exit::Done);
    }
    warn(out, release, &format!("not ready: {}", ran.failed.join(", ")));
    Ok(Exit::NotReady.or(ran.exit))
}

/// The one line that must not be overlooked.
fn warn(out: &Out, release: &str, what: &str) {
    out.warn(&format!("do not reboot into {release} ({})", what.trim_end_matches([' ', ':'])));
    out.hint(&format!(
        "run `kcache check -k {release}`, and `kcache log PACKAGE -k {release}` for a build log"
    ));
}

fn kernel_removed(context: &Context, out: &Out, release: &str) -> Result<Exit, Failure> {
    if flow::retire(context, release)? {
        out.print(&format!("{release}: removed kcache's modules together with the kernel"));
    }
    Ok(Exit::Done)
}

fn boot(context: &Context, out: &Out, running: &str) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    for (release, error) in boot_repair::settle(context)? {
        let failure = Failure::of(&error);
        out.warn(&format!("{release}: cannot recover from an interrupted run: {}", failure.message));
        exit = exit.or(failure.exit);
    }
    let Some(kernel) = kernels::of_release(&context.root, running).map_err(Error::from)? else {
        return Ok(exit);
    };
    if !tree_is(&kernel, is_live)? {
        return Ok(exit);
    }
    let packages = packages(context, out, &[])?;
    let session = Session::new(context, context.open_existing_store()?)?;
    let start = Instant::now();
    match boot_repair::complete(&session, &kernel, &packages)? {
        Some(done) => run_report::report_done(out, &kernel, &done, start.elapsed().as_secs_f64()),
        None => out.detail(&format!("{running}: nothing to install from the store")),
    }
    Ok(exit)
}

fn booted(context: &Context, out: &Out) -> Result<Exit, Failure> {
    let releases = bootable(context)?;
    if releases.is_empty() { Ok(Exit::Done) } else { print(context, out, &releases) }
}

/// Kernels that were configured before kcache, as in one run of a package manager, called no hook of kcache's.
fn configured(context: &Context, out: &Out) -> Result<Exit, Failure> {
    let mut exit = Exit::Done;
    for release in bootable(context)? {
        // A kernel that cannot be dealt with keeps no other from its modules.
        exit = exit.or(headers_installed(context, out, &release).unwrap_or_else(|failure| {
            out.failure(&failure);
            warn(out, &release, &failure.message);
            failure.exit
        }));
        super::super::interrupted(context)?;
    }
    Ok(exit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::Parser;
    use fs_err as fs;

    #[test]
    fn what_is_no_release_is_no_event() {
        for release in ["..", ".", "", "../x", "-k", "6.1 x", "6.1\n", "$(id)", "\u{1b}[2J", "6.1/x"] {
            for word in ["kernel-installed", "headers-installed", "kernel-removed"] {
                assert!(Event::of(word, Some(release)).is_none(), "{release:?}");
            }
        }
        assert!(Event::of("kernel-removed", Some("6.1.0-57-amd64")).is_some());
    }

    /// Who calls the library with what a package manager said has a tree and a file elsewhere to lose.
    #[test]
    fn what_is_no_release_is_not_retired() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for made in ["lib/modules", "run/kcache/ready", "elsewhere/updates/kcache-1/p"] {
            fs::create_dir_all(at(made)).unwrap();
        }
        fs::write(at("run/victim"), "").unwrap();
        let (root, store) = (dir.path().display().to_string(), at("store").display().to_string());
        let global = Args::parse_from(["kcache", "--root", &root, "--store", &store, "config"]).global;
        let out = Arc::new(Out::new(&global));
        let context = context::context(
            &context::settings(&global).unwrap(),
            &out,
            &Asked { offline: true, ..Asked::default() },
        )
        .unwrap();
        for release in ["../../elsewhere", "../../victim", "..", "-x", ""] {
            assert!(!flow::retire(&context, release).unwrap(), "{release}");
        }
        assert!(at("elsewhere/updates/kcache-1/p").exists() && at("run/victim").exists());
    }
}
