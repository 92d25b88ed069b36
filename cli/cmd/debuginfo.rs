//! `kcache debuginfo`: write the debug information of modules where debuggers look for it.
//!
//! That is `DIR/.build-id/ab/cdef....debug`, named by the module's build-id, with DIR `/usr/lib/debug`. gdb ("Debugging
//! Information in Separate Files" in its manual), perf (perf-buildid-cache(1)) and the elfutils programs look there. Files
//! appear complete or not at all; concurrent runs write the same bytes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache::deploy::debuginfo::{self, DebugInfo};
use kcache::kernel::install::{self, Installed, InstalledPackage};
use kcache::kernel::kernels::Kernel;
use kcache::kernel::packages::Package;
use kcache::kernel::rootfs::Root;
use kcache::run::context::Context;
use kcache::run::request::Request;
use kcache::run::session::Session;
use kcache::store::tree;

use crate::args::{self, Kernels};
use crate::exit::{Exit, Failure};
use crate::out::{GOOD, Out, paint};
use crate::{file, json};

/// A package whose debug information is meant.
struct Subject<'k> {
    kernel: &'k Kernel,
    package: Package,
    /// Every package, for dependencies.
    all: Vec<Package>,
    installed: Option<InstalledPackage<Installed>>,
}

pub fn run(context: &Context, out: &Out, args: &args::DebugInfo, dry: bool) -> Result<Exit, Failure> {
    let dir = args.output.as_deref();
    let kernels = super::judged_kernels(context, &Kernels { kernels: args.kernels.clone() })?;
    let (subjects, mut exit) = subjects(context, out, args, &kernels)?;
    let store = if dry { context.open_existing_store()? } else { Some(context.open_store()?) };
    let session = Session::new(context, store)?;
    for subject in &subjects {
        for module in modules(&session, subject) {
            super::interrupted(context)?;
            let placed = module.and_then(|debug| place(&session, out, subject, &debug, dir, dry));
            if let Err(failure) = placed {
                exit = exit.or(failure.exit);
                let message = format!("{}: {}", subject.kernel.release, failure.message);
                out.failure(&Failure { message, ..failure });
            }
        }
    }
    Ok(exit)
}

/// What is meant: what is installed, and of a kernel that was named also what is not. Says what is neither.
fn subjects<'k>(
    context: &Context,
    out: &Out,
    args: &args::DebugInfo,
    kernels: &'k [Kernel],
) -> Result<(Vec<Subject<'k>>, Exit), Failure> {
    let (mut subjects, mut exit) = (Vec::new(), Exit::Done);
    for kernel in kernels {
        let installed = installed(kernel)?;
        if args.packages.is_empty() {
            subjects.extend(installed.into_iter().map(|package| of_installed(kernel, package)));
            continue;
        }
        for word in &args.packages {
            match installed.iter().find(|package| is_called(package, word)) {
                Some(package) => subjects.push(of_installed(kernel, package.clone())),
                None if args.kernels.is_empty() => {}
                None => subjects.extend(of_store(context, out, kernel, word)?),
            }
        }
    }
    let found = |word: &String| {
        subjects.iter().any(|subject| subject.installed.as_ref().is_some_and(|p| is_called(p, word)))
    };
    let unknown = args.packages.iter().filter(|word| args.kernels.is_empty() && !found(word));
    let mut missing: Vec<String> =
        unknown.map(|word| format!("package '{word}' is not installed for any kernel")).collect();
    if args.packages.is_empty() && subjects.is_empty() {
        missing.push("kcache has installed nothing for the selected kernels".to_owned());
    }
    for message in missing {
        let hint = "use `kcache debuginfo PACKAGE -k K` for builds that are only in the store".to_owned();
        exit = exit.or(Exit::NotReady);
        out.failure(&Failure { exit: Exit::NotReady, message, hint: Some(hint) });
    }
    Ok((subjects, exit))
}

fn installed(kernel: &Kernel) -> Result<Vec<InstalledPackage<Installed>>, Failure> {
    let generation = kernel.modules.as_deref().map(install::current).transpose();
    let generation = generation.map_err(kcache::error::Error::from)?.flatten();
    Ok(generation.map(|generation| generation.set.packages).unwrap_or_default())
}

fn is_called(package: &InstalledPackage<Installed>, word: &str) -> bool {
    word == package.name || word.split_once('/') == Some((&package.name, &package.version))
}

fn of_installed(kernel: &Kernel, installed: InstalledPackage<Installed>) -> Subject<'_> {
    let package = Package::elsewhere(&installed.name);
    Subject { kernel, package, all: Vec::new(), installed: Some(installed) }
}

fn of_store<'k>(
    context: &Context,
    out: &Out,
    kernel: &'k Kernel,
    word: &str,
) -> Result<impl Iterator<Item = Subject<'k>> + use<'k>, Failure> {
    let packages = super::packages(context, out, &[word.to_owned()])?;
    let all = packages.all;
    let chosen = packages.chosen.into_iter();
    Ok(chosen.map(move |package| Subject { kernel, package, all: all.clone(), installed: None }))
}

fn modules(session: &Session, subject: &Subject) -> Vec<Result<DebugInfo, Failure>> {
    let request =
        Request { package: &subject.package, kernel: subject.kernel, all: &subject.all, exact: true };
    match debuginfo::of(session, &request, subject.installed.as_ref()) {
        Ok(modules) => modules.into_iter().map(|module| module.map_err(Failure::from)).collect(),
        Err(error) => vec![Err(error.into())],
    }
}

/// Writes one module's debug information, unless it is there.
fn place(
    session: &Session,
    out: &Out,
    subject: &Subject,
    debug: &DebugInfo,
    dir: Option<&Path>,
    dry: bool,
) -> Result<(), Failure> {
    let name = debug.build_id.debug_path();
    let path = match dir {
        Some(dir) => dir.join(name),
        None => in_system(&session.context.root, &name)?,
    };
    let there = path.is_file() && tree::file_digest(&path)?.0 == *debug.digest();
    let state = match (there, dry) {
        (true, _) => "present",
        (false, true) => "would write",
        (false, false) => {
            write(&path, &debuginfo::bytes(session, debug)?)?;
            "written"
        }
    };
    print_state(out, subject, debug, &path, state);
    Ok(())
}

/// Its place in the system that is worked on, however links lead there: not out of it, and not to a device of its.
fn in_system(root: &Root, name: &Path) -> Result<PathBuf, Failure> {
    let path = root.place(Path::new("/usr/lib/debug").join(name))?;
    match path.symlink_metadata() {
        Ok(there) if !there.is_file() => Err(Failure {
            exit: Exit::Refused,
            message: format!("{} is not a regular file", path.display()),
            hint: None,
        }),
        _ => Ok(path),
    }
}

fn write(path: &PathBuf, bytes: &[u8]) -> Result<(), Failure> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    file::write(path, |to| to.write_all(bytes))?;
    // Whatever the umask: a user debugs too.
    Ok(fs::set_permissions(path, Permissions::from_mode(0o644))?)
}

fn print_state(out: &Out, subject: &Subject, debug: &DebugInfo, path: &Path, state: &'static str) {
    let (kernel, path) = (subject.kernel.release.clone(), path.display().to_string());
    let (module, build_id) = (debug.module.clone(), debug.build_id.to_string());
    if !out.json {
        return out.data(&format!("{kernel}  {module}  {build_id}  {path}  {}", paint(GOOD, state)));
    }
    let (package, version) = (subject.package.name.clone(), debug.version.clone());
    out.record(&json::DebugInfo {
        r#type: "debuginfo",
        package,
        version,
        kernel,
        module,
        build_id,
        path,
        state,
    });
}
