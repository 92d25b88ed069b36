//! The commands. Each takes what was typed, asks the flow, and says what came of it.

mod config;
mod explain;
mod install;
mod log;
mod remove;
mod status;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use fs_err as fs;
use kcache::facts::Session;
use kcache::kernel::kernels::Kernel;
use kcache::kernel::rootfs::Root;
use kcache::kernel::sandbox::Identity;
use kcache::select::{self, Packages};
use kcache::store::Store;
use kcache::world::World;

use crate::args::{Args, Command, Global, Kernels, Selection};
use crate::exit::{Exit, Failure};
use crate::out::Out;
use crate::progress::Reporter;
use crate::settings::{Process, Settings};

/// Builds run under a uid that belongs to nobody: of the range that systemd keeps for dynamic users (61184 to 65519),
/// which distributions give to no account. Which one is of no matter; two runs at once nearly always have two.
const UIDS: std::ops::Range<u32> = 61184..65519;

/// Runs a command.
pub fn run(args: &Args, out: &Arc<Out>) -> Result<Exit, Failure> {
    let settings = settings(&args.global)?;
    if matches!(args.command, Command::Config) {
        return Ok(config::run(&settings, out));
    }
    if !settings.root.value.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", settings.root.value.display()), None));
    }
    let world = world(&settings, out)?;
    let dry = args.global.dry_run;
    match &args.command {
        Command::Install(install) => install::install(&world, out, install, dry),
        Command::Build(build) => install::build(&world, out, build, dry),
        Command::Check(selection) => status::check(&world, out, selection),
        Command::Status(selection) => status::status(&world, out, selection),
        Command::Explain(one) => explain::run(&world, out, one),
        Command::Log(one) => log::run(&world, out, one),
        Command::Remove(remove) => remove::remove(&world, out, remove, dry),
        Command::Rollback(kernels) => remove::rollback(&world, out, kernels, dry),
        Command::Config => Ok(Exit::Done),
    }
}

fn settings(global: &Global) -> Result<Settings, Failure> {
    let process = Process {
        variable: &|name| std::env::var(name).ok().filter(|value| !value.is_empty()),
        is_root: rustix::process::geteuid().is_root(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
    };
    Settings::resolve(global, &process)
}

fn world(settings: &Settings, out: &Arc<Out>) -> Result<World, Failure> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        // The second one ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, Exit::Interrupted as i32, cancel.clone())?;
        signal_hook::flag::register(signal, cancel.clone())?;
    }
    let identity = if rustix::process::geteuid().is_root() {
        Identity::Drop(UIDS.start + std::process::id() % (UIDS.end - UIDS.start))
    } else {
        Identity::Own
    };
    Ok(World {
        root: Root::new(&settings.root.value),
        store: settings.store.value.clone(),
        temporary: std::env::temp_dir(),
        bwrap: program("bwrap"),
        depmod: program("depmod"),
        identity,
        jobs: settings.jobs.value,
        build_limit: settings.build_timeout.value,
        lock_limit: settings.lock_timeout.value,
        builder: fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned(),
        now: || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        cancel,
        progress: Box::new(Reporter::new(out.clone())),
    })
}

/// A program of this machine; administrators' ones are not always on a user's path.
fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_absolute() && path.is_file())
        .unwrap_or_else(|| PathBuf::from("/usr/bin").join(name))
}

/// The packages that are meant. What is broken among all of them is said, and hides no other.
fn packages(world: &World, out: &Out, words: &[String]) -> Result<Packages, Failure> {
    let packages = select::packages(&world.root, words)?;
    for broken in &packages.broken {
        out.say(&format!("warning: {}", crate::exit::chain(broken)));
    }
    Ok(packages)
}

/// The kernels that are meant, for commands that judge: a kernel without headers is not passed over.
fn judged_kernels(world: &World, asked: &Kernels) -> Result<Vec<Kernel>, Failure> {
    Ok(select::kernels(&world.root, &asked.kernels, &running(), &|_| true)?)
}

/// The release of the kernel that runs now.
fn running() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The kernels that are meant.
fn kernels(world: &World, kernels: &Kernels, store: Option<&Store>) -> Result<Vec<Kernel>, Failure> {
    let built_for = |kernel: &Kernel| {
        let rows = store.map(|store| store.find(&[("kernel", &kernel.release)]));
        matches!(rows, Some(Ok(rows)) if rows.iter().any(|row| row.built))
    };
    let worth = |kernel: &Kernel| kernel.build_tree().is_some() || built_for(kernel);
    Ok(select::kernels(&world.root, &kernels.kernels, &running(), &worth)?)
}

/// What a command that only looks needs: a session on the store as it is, and what is meant.
fn looking<'w>(
    world: &'w World,
    out: &Out,
    selection: &Selection,
) -> Result<(Session<'w>, Packages, Vec<Kernel>), Failure> {
    let session = Session::new(world, world.open_existing_store()?)?;
    let packages = packages(world, out, &selection.packages)?;
    let kernels = judged_kernels(world, &selection.kernels)?;
    Ok((session, packages, kernels))
}

/// What is odd about the kernels and packages that are meant, before anything is done. Nothing to do is no error.
fn say_oddities(out: &Out, world: &World, packages: &Packages, kernels: &[Kernel]) {
    let root = world.root.dir().display();
    if kernels.is_empty() {
        out.say(&format!("warning: no kernel that modules could be built for is installed under {root}"));
    }
    for kernel in kernels {
        if let Some((image, headers)) = kernel.builds_differ() {
            out.say(&format!(
                "warning: {}: the image is build '{image}', the headers are of '{headers}'; install matching packages",
                kernel.release
            ));
        }
    }
    if packages.chosen.is_empty() {
        out.say(&format!("warning: no package is found under {root}: neither in /usr/src/*/dkms.conf nor in /etc/kcache/packages.d"));
    }
}

/// Ends a command that was interrupted.
fn interrupted(world: &World) -> Result<(), Failure> {
    if world.cancel.load(Ordering::Relaxed) { Err(kcache::error::Error::Cancelled.into()) } else { Ok(()) }
}
