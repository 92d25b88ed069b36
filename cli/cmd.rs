//! The commands. Each takes what was typed, asks the flow, and says what came of it.

mod adopt;
mod boot_test;
mod bundle;
mod check;
mod config;
mod debuginfo;
mod explain;
mod gc;
mod hooks;
mod init;
pub mod install;
mod keys;
mod lint;
mod log;
mod metrics;
mod mok;
mod remove;
mod report;
mod share;
mod signatures;
mod status;
mod verify;
pub mod world;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fs_err as fs;
use kcache::facts::Session;
use kcache::kernel::kernels::Kernel;
use kcache::select::{self, Packages};
use kcache::store::Store;
use kcache::world::World;

use crate::args::{Args, Build, Command, Install, Kernels, Pull, Selection};
use crate::confined;
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Runs a command.
pub fn run(args: &Args, out: &Arc<Out>) -> Result<Exit, Failure> {
    if let Command::Hooks(hooks) = &args.command {
        return hooks::run(args, &hooks.command, out);
    }
    let mut settings = world::settings(&args.global)?;
    settings.warnings.iter().for_each(|warning| out.say(warning));
    confined::confine(&settings, Some(&args.command), args.global.dry_run, out);
    if matches!(args.command, Command::Config) {
        return Ok(config::run(&settings, out));
    }
    if !settings.root.value.is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", settings.root.value.display()), None));
    }
    if args.global.dry_run && matches!(args.command, Command::Keys(_) | Command::Import(_)) {
        return Err(Failure::usage("this command has no dry run", None));
    }
    if let Command::Keys(keys) = &args.command {
        return keys::run(&settings, out, &keys.command);
    }
    if let Command::Push(push) = &args.command {
        share::aim(&mut settings, &push.to);
    }
    let dry = args.global.dry_run;
    // What a cache says goes into the store: this one's dry run asks none.
    let offline = args.global.offline || (dry && matches!(args.command, Command::DebugInfo(_)));
    let mut world = world::world(&settings, out, offline)?;
    match &args.command {
        Command::Install(Install { allow_rollback, .. }) | Command::Pull(Pull { allow_rollback, .. }) => {
            world.roll_back = *allow_rollback;
        }
        _ => {}
    }
    if let Command::Install(Install { directives, .. }) | Command::Build(Build { directives, .. }) =
        &args.command
    {
        world.directives = directives.clone();
    }
    let world = world;
    match &args.command {
        Command::Install(install) => install::install(&world, out, install, dry),
        Command::Build(build) => install::build(&world, out, build, dry),
        Command::Pull(pull) => install::pull(&world, out, pull, dry),
        Command::Check(check) => check::check(&world, out, check, dry),
        Command::Status(selection) => status::status(&world, out, selection),
        Command::BootTest(test) => boot_test::run(&world, out, test, dry),
        Command::Report(report) => report::run(&world, out, report, &settings.caches, dry),
        Command::Metrics(metrics) => metrics::run(&world, out, metrics, dry),
        Command::Explain(one) => explain::run(&world, out, one),
        Command::Log(one) => log::run(&world, out, one),
        Command::Remove(remove) => remove::remove(&world, out, remove, dry),
        Command::Adopt(adopt) => adopt::adopt(&world, out, adopt, dry),
        Command::Rollback(kernels) => remove::rollback(&world, out, kernels, dry),
        Command::Push(push) => share::push(&world, out, push, dry),
        Command::Export(export) => bundle::export(&world, out, export, dry),
        Command::Import(import) => bundle::import(&world, out, import),
        Command::Gc(gc) => gc::run(&world, out, gc, &settings.gc(), dry),
        Command::Verify(args) => verify::run(&world, out, args.repair && !dry),
        Command::Init(init) => init::run(&world, out, init, dry),
        Command::Lint(lint) => lint::run(&world, out, lint),
        Command::Signatures(signatures) => signatures::run(&world, out, &signatures.command, dry),
        Command::DebugInfo(args) => debuginfo::run(&world, out, args, dry),
        Command::Keys(_) | Command::Config | Command::Hooks(_) => Ok(Exit::Done),
    }
}

/// The packages that are meant. What is broken among all of them is said, and hides no other.
fn packages(world: &World, out: &Out, words: &[String]) -> Result<Packages, Failure> {
    let packages = select::packages(&world.root, words, &world.elsewhere)?;
    for broken in &packages.broken {
        out.say(&format!("warning: {}", kcache::error::chain(broken)));
    }
    Ok(packages)
}

/// The kernels that are meant, for commands that judge: a kernel without headers is not passed over.
fn judged_kernels(world: &World, asked: &Kernels) -> Result<Vec<Kernel>, Failure> {
    Ok(select::kernels(&world.root, &releases(world, asked)?, &running(), &|_| true)?)
}

/// The kernels among those asked for that recipes can be evaluated for; all of them where none is asked for.
fn kernels_with_headers(world: &World, asked: &[String]) -> Result<Vec<Kernel>, Failure> {
    let asked = Kernels { kernels: asked.to_vec() };
    let mut kernels = judged_kernels(world, &asked)?;
    kernels.retain(|kernel| kernel.build_tree().is_some());
    Ok(kernels)
}

/// What was asked for, with the boot loader's answer in the place of `default`.
fn releases(world: &World, asked: &Kernels) -> Result<Vec<String>, Failure> {
    let release = |word: &String| match word.as_str() {
        "default" => select::default_kernel(&world.root, world.default_kernel.as_deref()),
        _ => Ok(word.clone()),
    };
    Ok(asked.kernels.iter().map(release).collect::<Result<_, _>>()?)
}

/// The release of the kernel that runs now.
pub fn running() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The kernels that are meant.
fn kernels(world: &World, kernels: &Kernels, store: Option<&Store>) -> Result<Vec<Kernel>, Failure> {
    let elsewhere = !world.elsewhere.wanted.is_empty();
    let worth = |kernel: &Kernel| elsewhere || kernel.build_tree().is_some() || has_builds(store, kernel);
    let meant = select::kernels(&world.root, &releases(world, kernels)?, &running(), &worth)?;
    // Where nothing could be built, what others have built is all there is to look for.
    if meant.is_empty() && world.elsewhere.any {
        return judged_kernels(world, kernels);
    }
    Ok(meant)
}

/// Whether the store has a build of anything for a kernel.
fn has_builds(store: Option<&Store>, kernel: &Kernel) -> bool {
    let rows = store.map(|store| store.find(&[("kernel", &kernel.release)]));
    matches!(rows, Some(Ok(rows)) if rows.iter().any(|row| row.built))
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
