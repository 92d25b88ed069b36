//! Makes the context of a run from its settings and this process.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_err as fs;
use kcache::kernel::dkms::framework::{BuildEnvironment, Framework};
use kcache::kernel::rootfs::Root;
use kcache::kernel::sandbox::{self, Entrance, Groups, Identities, Limits, Uids};
use kcache::run::context::Context;
use kcache::run::policy::Policy;
use kcache::run::progress::Progress;
use kcache::run::select::Elsewhere;
use kcache::run::services::Services;
use kcache::run::signing::Signing;
use kcache::store::transport::{self, Location};
use kcache::store::{Say, SharedCache, SharedCaches, SigningKey, Trust};

use crate::args::Global;
use crate::confined;
use crate::exit::{Exit, Failure};
use crate::memory;
use crate::out::Out;
use crate::own_program::own_program;
use crate::progress::Reporter;
use crate::settings::choices::{CompilerLauncher, Depmod, Foreign};
use crate::settings::{Origin, Process, REVOKED_KEYS, Settings, TRUSTED_KEYS, signing};
use crate::site;

/// Builds run under a uid that belongs to nobody: of the range that systemd keeps for dynamic users (61184 to 65519),
/// which distributions give to no account.
const UIDS: std::ops::Range<u32> = 61184..65519;

/// Which of them are taken, by whichever kcache of this machine.
const UID_LOCKS: &str = "/run/kcache/uids";

/// Where there are no locks: how far from each other processes begin that were started one after the other.
const STRIDE: u32 = 64;

pub fn settings(global: &Global) -> Result<Settings, Failure> {
    Settings::resolve(global, &process())
}

pub fn process() -> Process<'static> {
    Process {
        variable: &|name| std::env::var(name).ok().filter(|value| !value.is_empty()),
        is_root: rustix::process::geteuid().is_root(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory: memory::available(),
        total_memory: memory::total(),
    }
}

/// Options of a command that are part of the context.
#[derive(Default)]
pub struct Asked<'a> {
    /// Use no shared cache.
    pub offline: bool,
    /// Follow pointers to older entries too.
    pub roll_back: bool,
    /// `NAME=VALUE` for every `dkms.conf`.
    pub directives: &'a [String],
    /// Build without the packages that one builds against, if they are not there.
    pub without_dependencies: bool,
    /// Ask shared caches for the site file.
    pub site: bool,
    /// Wait for other kcache processes no longer than this.
    pub lock_limit: Option<Duration>,
}

pub fn context(settings: &Settings, out: &Arc<Out>, asked: &Asked) -> Result<Context, Failure> {
    let services = services(settings, out, asked.offline)?;
    let store = settings.store.value.clone();
    let root = Root::new(&settings.root.value);
    let site = if services.signer.is_some() { site::published(&root)? } else { None };
    let elsewhere = Elsewhere {
        wanted: settings.packages.iter().map(|package| package.value.clone()).collect(),
        // An imported set may hold what no cache here has.
        any: !services.caches.is_empty() || store.join("by-kernel").is_dir(),
        unresolved: None,
        offline: asked.offline && !settings.caches.is_empty(),
    };
    let tool_paths = tool_paths(settings, &root, out);
    let mut context = Context {
        root,
        site,
        store,
        temporary: crate::temporary::temporary(&std::env::temp_dir(), out)?,
        bwrap: program("bwrap"),
        depmod: program("depmod"),
        always_depmod: settings.depmod.value == Depmod::Always,
        launches_ccache: settings.compiler_launcher.value == CompilerLauncher::Ccache,
        limits: Limits {
            memory: settings.build_memory.value << 20,
            processes: settings.build_processes.value,
            cpus: settings.jobs.value as u64,
            disk: settings.build_disk.value << 20,
            files: settings.build_files.value,
        },
        jobs: settings.jobs.value,
        build_limit: settings.build_timeout.value,
        lock_limit: settings.lock_timeout.value.min(asked.lock_limit.unwrap_or(Duration::MAX)),
        builder: hostname(),
        elsewhere,
        default_kernel: settings.default_kernel.as_ref().map(|setting| setting.value.clone()),
        policy: Policy {
            rules: settings.policy.iter().map(|rule| rule.value.clone()).collect(),
            needs_foreign: settings.foreign.value == Foreign::Require,
        },
        other_tools: settings.other_tools.value.into(),
        directives: asked.directives.to_vec(),
        says_signing: settings.signing.is_some(),
        without_dependencies: asked.without_dependencies,
        package_scripts: settings.package_scripts.iter().map(|glob| glob.value.clone()).collect(),
        tool_paths,
        search_path: std::env::var_os("PATH")
            .map(|path| std::env::split_paths(&path).collect())
            .unwrap_or_default(),
        roll_back: asked.roll_back,
        cpu: kcache::kernel::native::cpu(&fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
        number: crate::confined::number(),
        services,
    };
    site::apply(settings, out, &mut context, asked.site)?;
    Ok(context)
}

/// The directories of tools: those of the setting, else those that DKMS's `build_environment` puts on its `PATH`. A system under
/// `--root` does not choose what builds see.
fn tool_paths(settings: &Settings, root: &Root, out: &Out) -> Vec<PathBuf> {
    let set: Vec<PathBuf> = settings.tool_paths.iter().map(|path| path.value.clone()).collect();
    if !set.is_empty() {
        return set;
    }
    let Some(found) = Framework::of(root).build_environment(root) else { return set };
    let (taken, said) = taken(found, root.is_host());
    said.iter().for_each(|said| out.detail(said));
    taken
}

/// What is taken of a `build_environment`, and what is said of it.
fn taken(found: BuildEnvironment, is_host: bool) -> (Vec<PathBuf>, Vec<String>) {
    let file = found.file.display();
    let mut said = Vec::new();
    if !found.others.is_empty() {
        let others = found.others.join(", ");
        said.push(format!(
            "{file}, which DKMS reads before each build, sets {others}; kcache's builds do without"
        ));
    }
    if found.tool_paths.is_empty() {
        return (Vec::new(), said);
    }
    let shown: Vec<String> = found.tool_paths.iter().map(|path| path.display().to_string()).collect();
    let shown = shown.join(", ");
    if !is_host {
        said.push(format!("{file} puts {shown} on DKMS's PATH; list it in `tool-paths` to build with it"));
        return (Vec::new(), said);
    }
    said.push(format!("builds find programs in {shown}, as {file} says for DKMS"));
    (found.tool_paths, said)
}

/// What the run works with. From now on signals cancel it.
fn services(settings: &Settings, out: &Arc<Out>, offline: bool) -> Result<Services, Failure> {
    let cancel = cancelled_by_signals()?;
    let progress: Arc<dyn Progress> = Arc::new(Reporter::new(out.clone()));
    let caches = caches(settings, &progress, &cancel, offline)?;
    Ok(Services {
        signer: signer(settings, caches.trust(), &*progress)?,
        signing: signing::meaning(settings.signing.as_ref(), &Root::new(&settings.root.value))?
            .map(|signing| Signing::new(signing.pair, signing.hash)),
        caches,
        identities: identities(),
        entrance: Arc::new(Entrance::new(own_program)),
        control_groups: LazyLock::new(control_groups),
        now: || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        available_memory: memory::available,
        cancel,
        progress,
    })
}

/// A flag that the first signal sets; the second one ends the process at once.
fn cancelled_by_signals() -> io::Result<Arc<AtomicBool>> {
    let cancel = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, Exit::Interrupted as i32, cancel.clone())?;
        signal_hook::flag::register(signal, cancel.clone())?;
    }
    Ok(cancel)
}

/// The users that builds run as: this process's own unless it is root.
fn identities() -> Identities {
    if rustix::process::geteuid().is_root() {
        Identities::Drop(Uids::new(UIDS, confined::number().wrapping_mul(STRIDE), Path::new(UID_LOCKS)))
    } else {
        Identities::Own
    }
}

pub fn hostname() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

/// The trusted and revoked keys below the root, and the threshold.
pub fn trust(settings: &Settings) -> Result<Trust, Failure> {
    let root = Root::new(&settings.root.value);
    let (trusted, revoked) = (root.place(TRUSTED_KEYS)?, root.place(REVOKED_KEYS)?);
    let open = |path: &Path| match root.inside(path) {
        Some(inside) => root.open(inside),
        None => Err(std::io::Error::other(format!("{} is outside the root", path.display()))),
    };
    Ok(Trust::read_by(&open, &trusted, &revoked, settings.threshold.value)?)
}

/// The shared caches, or none where the network is not to be used.
fn caches(
    settings: &Settings,
    progress: &Arc<dyn Progress>,
    cancel: &Arc<AtomicBool>,
    offline: bool,
) -> Result<SharedCaches, Failure> {
    let trust = trust(settings)?;
    if offline || settings.caches.is_empty() {
        return Ok(SharedCaches::new(Vec::new(), trust));
    }
    let print: Say = {
        let progress = progress.clone();
        Arc::new(move |notice| progress.notice(notice))
    };
    let root = Root::new(&settings.root.value);
    let open = |cache: &crate::settings::caches::Cache| {
        let location = Location { cancel: cancel.clone(), ..cache.location(&root, &process())? };
        let transport = transport::open(&location)
            .map_err(|error| Failure::usage(format!("{error} ({})", cache.origin), None))?;
        Ok::<_, Failure>(SharedCache::new(&cache.called(), transport, cache.write, print.clone()))
    };
    Ok(SharedCaches::new(settings.caches.iter().map(open).collect::<Result<_, _>>()?, trust))
}

/// This host's own key. A host without one is no builder; so is a user who may not read root's.
fn signer(
    settings: &Settings,
    trust: &Trust,
    progress: &dyn Progress,
) -> Result<Option<SigningKey>, Failure> {
    let setting = &settings.signing_key;
    let key = match open(settings, &setting.value) {
        Ok(file) => SigningKey::read_from(&setting.value, file)?,
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Ok(None),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && setting.origin == Origin::Default => {
            return Ok(None);
        }
        Err(e) => return Err(Failure::usage(format!("{e} (signing-key, {})", setting.origin), None)),
    };
    if trust.revoked().any(|revoked| revoked.key.id() == key.public().id()) {
        let path = setting.value.display();
        progress.warn("this host's own key is revoked, so nothing is signed");
        progress.hint(&format!("delete {path} and run `kcache keys generate`"));
        return Ok(None);
    }
    Ok(Some(key))
}

/// Opens a key's file: one of the system that is worked on without being led out of it, else as it is named.
fn open(settings: &Settings, path: &Path) -> std::io::Result<File> {
    let root = Root::new(&settings.root.value);
    match (&settings.signing_key.origin, root.inside(path)) {
        (Origin::Default | Origin::File(_), Some(inside)) => root.open(inside),
        _ => Root::new("/").open(path),
    }
}

/// Where control groups for builds can be made, if anywhere.
fn control_groups() -> Option<Groups> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let groups = Groups::find(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)?;
    Some(if confined::is_confined() { groups.among_unseen(confined::number()) } else { groups })
}

/// Calls a program of this machine that gets nothing of the caller's environment: `TAR_OPTIONS` runs programs.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    command.env_clear().env("PATH", sandbox::PATH).env("LC_ALL", "C");
    command
}

/// A program of this machine; administrators' ones are not always on a user's path.
pub fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_absolute() && path.is_file())
        .unwrap_or_else(|| PathBuf::from("/usr/bin").join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_environment_is_taken_of_this_machine_alone() {
        let found = |tool_paths: &[&str], others: &[&str]| BuildEnvironment {
            file: "/opt/enable".into(),
            tool_paths: tool_paths.iter().map(PathBuf::from).collect(),
            others: others.iter().map(|name| (*name).to_owned()).collect(),
        };
        let (paths, said) = taken(found(&["/opt/a"], &[]), true);
        assert_eq!((paths, said.len()), (vec![PathBuf::from("/opt/a")], 1));
        let (paths, said) = taken(found(&["/opt/a"], &["CC"]), false);
        assert!(
            paths.is_empty() && said[0].contains("sets CC") && said[1].contains("`tool-paths`"),
            "{said:?}"
        );
        assert_eq!(taken(found(&[], &[]), true), (Vec::new(), Vec::new()));
    }
}
