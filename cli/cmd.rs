//! The commands. Each takes the parsed arguments, calls the flow, and prints the result.

mod adopt;
mod boot_test;
mod bundle;
mod check;
mod config;
pub mod context;
mod debuginfo;
mod dry_run;
mod explain;
mod gc;
mod hooks;
mod init;
pub mod initramfs;
pub mod install;
mod keys;
mod lint;
mod log;
mod metrics;
mod mok;
mod remove;
mod report;
mod run_report;
mod share;
mod signatures;
mod status;
mod task;
mod use_cache;
mod verify;

use std::sync::Arc;

use fs_err as fs;
use kcache::kernel::kernels::{self, Kernel};
use kcache::run::context::Context;
use kcache::run::select::{self, Packages};
use kcache::run::session::Session;
use kcache::store::Store;
use kcache::verdict::{self, Survey};

use crate::args::{Args, Build, Command, Install, Kernels, Pull, Selection};
use crate::confined::{self, Caller};
use crate::dkms_key;
use crate::exit::{Exit, Failure};
use crate::out::Out;
use context::Asked;

/// Resolves the settings, confines the process where it works on another tree, and runs the command.
pub fn run(args: &Args, out: &Arc<Out>) -> Result<Exit, Failure> {
    if let Command::Hooks(hooks) = &args.command {
        return hooks::run(args, &hooks.command, out);
    }
    let mut settings = context::settings(&args.global)?;
    let takes_over = matches!(&args.command, Command::Adopt(adopt) if !adopt.undo && !args.global.dry_run);
    if takes_over && dkms_key::carry_over(&settings, &args.global, out)? {
        settings = context::settings(&args.global)?;
    }
    settings.warnings.iter().for_each(|warning| out.warn(warning));
    let caller = Caller::Command { command: &args.command, dry: args.global.dry_run };
    confined::confine(&settings, caller, out);
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
    if let Command::Use(asked) = &args.command {
        if args.global.offline {
            return Err(Failure::usage("use asks the cache; do not use --offline", None));
        }
        return use_cache::run(&settings, out, asked, args.global.dry_run);
    }
    if let Command::Push(push) = &args.command {
        share::aim(&mut settings, &push.to);
    }
    let dry = args.global.dry_run;
    // What a cache says goes into the store: this one's dry run asks none.
    let offline = args.global.offline || (dry && matches!(args.command, Command::DebugInfo(_)));
    let asked = asked(&args.command, offline);
    let asked = Asked { site: asked.site && !dry, ..asked };
    let context = context::context(&settings, out, &asked)?;
    match &args.command {
        Command::Install(install) => install::install(&context, out, install, dry),
        Command::Build(build) => install::build(&context, out, build, dry),
        Command::Pull(pull) => install::pull(&context, out, pull, dry),
        Command::Check(check) => check::check(&context, out, check, dry),
        Command::Status(status) => status::status(&context, out, status, dry),
        Command::BootTest(test) => boot_test::run(&context, out, test, dry),
        Command::Report(report) => report::run(&context, out, report, &settings.caches, dry),
        Command::Metrics(metrics) => metrics::run(&context, out, metrics, dry),
        Command::Explain(one) => explain::run(&context, out, one),
        Command::Log(one) => log::run(&context, out, one),
        Command::Remove(remove) => remove::remove(&context, out, remove, dry),
        Command::Adopt(adopt) => adopt::adopt(&context, out, adopt, dry),
        Command::Rollback(kernels) => remove::rollback(&context, out, kernels, dry),
        Command::Push(push) => share::push(&context, out, push, dry),
        Command::Export(export) => bundle::export(&context, out, export, dry),
        Command::Import(import) => bundle::import(&context, out, import),
        Command::Gc(gc) => gc::run(&context, out, gc, &settings.gc(), dry),
        Command::Verify(args) => verify::run(&context, out, args.repair && !dry),
        Command::Init(init) => init::run(&context, out, init, dry),
        Command::Lint(lint) => lint::run(&context, out, lint),
        Command::Signatures(signatures) => signatures::run(&context, out, &signatures.command, dry),
        Command::DebugInfo(args) => debuginfo::run(&context, out, args, dry),
        Command::Keys(_) | Command::Use(_) | Command::Config | Command::Hooks(_) => Ok(Exit::Done),
    }
}

/// The packages that are meant. What is broken among all of them is said, and hides no other.
fn packages(context: &Context, out: &Out, words: &[String]) -> Result<Packages, Failure> {
    let packages = select::packages(&context.root, words, &context.elsewhere)?;
    for broken in &packages.broken {
        out.warn(&kcache::error::chain(broken));
    }
    Ok(packages)
}

/// The kernels that are meant, for commands that judge: a kernel without headers is not passed over.
fn judged_kernels(context: &Context, asked: &Kernels) -> Result<Vec<Kernel>, Failure> {
    Ok(select::kernels(&context.root, &releases(context, asked)?, &running(), &|_| true)?)
}

/// The kernels among those asked for that recipes can be evaluated for; all of them where none is asked for.
fn kernels_with_headers(context: &Context, asked: &[String]) -> Result<Vec<Kernel>, Failure> {
    let asked = Kernels { kernels: asked.to_vec() };
    let mut kernels = judged_kernels(context, &asked)?;
    kernels.retain(|kernel| kernel.build_tree().is_some());
    Ok(kernels)
}

/// What was asked for, with the boot loader's answer in the place of `default`.
fn releases(context: &Context, asked: &Kernels) -> Result<Vec<String>, Failure> {
    let release = |word: &String| match word.as_str() {
        "default" => select::default_kernel(&context.root, context.default_kernel.as_deref()),
        _ => Ok(word.clone()),
    };
    Ok(asked.kernels.iter().map(release).collect::<Result<_, _>>()?)
}

/// What a command says of its context.
fn asked(command: &Command, offline: bool) -> Asked<'_> {
    let roll_back = match command {
        Command::Install(Install { allow_rollback, .. }) | Command::Pull(Pull { allow_rollback, .. }) => {
            *allow_rollback
        }
        _ => false,
    };
    let directives: &[String] = match command {
        Command::Install(Install { building, .. }) | Command::Build(Build { building, .. }) => {
            &building.directives
        }
        _ => &[],
    };
    let site = matches!(command, Command::Install(_) | Command::Build(_) | Command::Pull(_));
    Asked { offline, roll_back, directives, site, lock_limit: None, without_dependencies: false }
}

/// Release of the running kernel (`uname -r`); empty without /proc.
pub fn running() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// The selected kernels: without a selection, those with headers or with a build in the store.
fn kernels(context: &Context, kernels: &Kernels, store: Option<&Store>) -> Result<Vec<Kernel>, Failure> {
    let elsewhere = !context.elsewhere.wanted.is_empty();
    let worth = |kernel: &Kernel| elsewhere || kernel.build_tree().is_some() || has_builds(store, kernel);
    let meant = select::kernels(&context.root, &releases(context, kernels)?, &running(), &worth)?;
    // Where nothing could be built, what others have built is all there is to look for.
    if meant.is_empty() && context.elsewhere.any {
        return judged_kernels(context, kernels);
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
    context: &'w Context,
    out: &Out,
    selection: &Selection,
) -> Result<(Session<'w>, Packages, Vec<Kernel>), Failure> {
    let session = Session::new(context, context.open_existing_store()?)?;
    let packages = packages(context, out, &selection.packages)?;
    let kernels = judged_kernels(context, &selection.kernels)?;
    Ok((session, packages, kernels))
}

/// The same for commands that judge: installed modules are for a kernel's image, so only headers of that build count.
fn judging<'w>(
    context: &'w Context,
    out: &Out,
    selection: &Selection,
) -> Result<(Session<'w>, Packages, Vec<Kernel>), Failure> {
    let (session, packages, mut kernels) = looking(context, out, selection)?;
    kernels.iter_mut().for_each(Kernel::keep_to_image);
    Ok((session, packages, kernels))
}

/// Asks shared caches for newer builds than the installed ones, with a session that may keep what it accepts.
fn look_remotely(
    context: &Context,
    packages: &Packages,
    survey: &mut Survey,
    dry: bool,
) -> Result<(), Failure> {
    if dry {
        return Err(Failure::usage("--remote has no dry run", None));
    }
    if context.caches().is_empty() {
        let hint = "name one in the configuration or with --cache URL; do not use --offline";
        return Err(Failure::usage("--remote: no shared cache to ask", Some(hint.into())));
    }
    let session = Session::new(context, Some(context.open_store()?))?;
    verdict::remote::look(&session, packages, survey);
    interrupted(context)
}

/// Warns of what is odd about the selected kernels and packages, before anything is done. Nothing to do is no error.
fn report_oddities(out: &Out, context: &Context, packages: &Packages, kernels: &[Kernel]) {
    report_empty(out, context, packages, kernels);
    for kernel in kernels {
        if let Some((image, headers)) = kernel.builds_differ() {
            out.warn(&format!(
                "{}: image and headers are from different builds: image '{image}', headers '{headers}'",
                kernel.release
            ));
            out.hint("install matching packages");
        }
    }
}

/// Warns if no kernel or no package is selected. A verdict itself contains the other warnings about its kernel.
fn report_empty(out: &Out, context: &Context, packages: &Packages, kernels: &[Kernel]) {
    let root = context.root.dir();
    if kernels.is_empty() {
        let any = kernels::trees(&context.root).is_ok_and(|trees| !trees.is_empty());
        let which = if any { "kernel with headers or a cached build" } else { "kernel" };
        out.warn(&format!("no {which} is installed under {}", root.display()));
        if any {
            out.hint("run `kcache status` to list installed kernels and the headers they lack");
        }
    }
    if packages.chosen.is_empty() && context.elsewhere.unresolved.is_none() {
        let (usr_src, packages) = (root.join("usr/src"), root.join("etc/kcache/packages.d"));
        let (usr_src, packages) = (usr_src.display(), packages.display());
        out.warn(&format!("no package found in {usr_src}/*/dkms.conf or {packages}"));
    }
}

/// NAME/VERSION; only NAME of a package whose version is not known.
fn called(package: &str, version: &str) -> String {
    if version.is_empty() { package.to_owned() } else { format!("{package}/{version}") }
}

/// Ends a command that was interrupted.
fn interrupted(context: &Context) -> Result<(), Failure> {
    if context.services.cancelled() { Err(kcache::error::Error::Cancelled.into()) } else { Ok(()) }
}
