//! The sandbox in which untrusted Makefiles and recipes run.
//!
//! `bubblewrap` creates it; this module decides its contents. It starts empty, so only this exists in it:
//!
//! ```text
//! /usr /bin /lib ...       read-only, of the root that provides the tools; /usr/src, /usr/local and /lib/modules are empty
//! /usr/src/linux-headers-K and everything it refers to, read-only; /lib/modules/K/build leads to it, and source to the
//!                          target of the kernel's own link of that name
//! /boot/config-K           the .config of the headers
//! /etc                     alternatives, ld.so.cache; passwd and group with one fictional user
//! /etc/os-release ...      of the target, and System.map-K, where the package's source mentions them ([`Sandbox::files`])
//! /opt/...                 directories of tools that the administrator lists, which PATH begins with
//! /proc                    of its own pid namespace; osrelease and version are those of K
//! /usr/bin/uname           answers for K
//! /usr/bin/pahole          runs without -j, which makes its output differ from run to run
//! /usr/bin/make            runs without -jN under a jobserver; /usr/bin/nproc prints the configured number
//! /var/lib/dkms            the scratch directory, and the results of packages that the build depends on
//! /usr/bin/gcc-N           if configured, runs ccache, whose cache is at /run/kcache/ccache
//! /tmp /dev /run           private; no /home, no /root, nothing else of /var, no network, no keys
//! /run/kcache/enter        this machine's kcache, which is executed first ([`enter`])
//! ```
//!
//! Code in it never has uid 0. If kcache is root, it switches to an unprivileged uid that owns nothing but the scratch
//! directory, and drops every capability, before anything of the shown tree is executed ([`enter`]); if kcache is
//! another user, the sandbox is in a user namespace and keeps that user. System calls are filtered (`seccomp`), and
//! resources are limited ([`cgroup`], `space`, [`uids`]). When the run ends, by itself or by force, the whole pid
//! namespace is dead before [`Sandbox::run`] returns.
//!
//! The writable file systems in memory are `/tmp` and `/dev/shm`, both limited; all others belong to root or, if the
//! user owns them, are read-only once the sandbox is set up (each mount makes `bwrap` check all others). `bwrap`'s
//! arguments contain paths of this machine, so they are passed through a descriptor, because its command line is
//! readable inside; `/proc/self/mountinfo` still shows the source of each mount within its file system.

mod arguments;
pub mod cgroup;
pub mod enter;
pub mod jobs;
mod observe;
mod programs;
mod run;
mod seccomp;
mod space;
pub mod uids;

pub use observe::Opened;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use command_fds::CommandFdExt;
use fs_err as fs;

use arguments::{Arguments, environment, nameless};
pub(crate) use arguments::{filters, with_filters};
pub use cgroup::{Groups, Limits};
pub use enter::Entrance;
pub use space::{Excess, holds_more};
pub use uids::{BuildIdentity, Identities, Uids};

use crate::kernels::Mount;
use crate::rootfs::Root;

/// `PATH` in the sandbox.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Directory in the sandbox of its own files.
const OWN: &str = "/run/kcache";
/// Directory in the sandbox of programs under other names.
const CALLED: &str = "/run/kcache/bin";
/// The script that a sandbox runs; bash names it in its messages.
pub const SCRIPT: &str = "/run/kcache/script";

/// The parts of the tools' system that are shown: some files of `/etc`, and everything in the others that is not
/// hidden.
const SYSTEM: [&str; 10] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/gnu", "/etc"];

/// Directories of these that builds do not see.
const HIDDEN: [&str; 4] = ["/usr/src", "/usr/local", "/lib/modules", "/usr/lib/modules"];

/// Programs that are replaced by scripts of the sandbox.
const REPLACED: [&str; 4] = ["uname", "nproc", "make", "pahole"];

/// File with libraries that the dynamic loader loads into every program (ld.so(8)).
const PRELOAD: &str = "/etc/ld.so.preload";

/// Names for ccache: the compiler is replaced by [`LAUNCHED`], which runs the launcher, which may run [`COMPILER`],
/// the real one under its own name.
const LAUNCHED: &str = "launched";
const COMPILER: &str = "compiler";
const REAL_COMPILER: &str = "cc";
/// Name of ccache's cache directory in [`OWN`].
const CCACHE: &str = "ccache";

/// Size of the sandbox's `/tmp` in bytes, which is memory. Compilers use some MiB.
const MOST_TEMPORARY: &str = "2147483648";

/// Size of its `/dev/shm` in bytes, for semaphores and the like.
const MOST_SHARED: &str = "268435456";

/// A failure of the sandbox itself, not of the command in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// `bwrap` is not installed.
    #[error("bubblewrap is not installed, but builds need it")]
    NoBubblewrap,
    /// `bwrap` failed before any command ran.
    #[error("cannot create the sandbox: {said}")]
    NotMade {
        /// The first line of its output.
        said: String,
    },
    /// Processes in the sandbox survived SIGKILL.
    #[error("sandbox processes are still running {} s after being killed", run::DEATH.as_secs())]
    Undead,
}

/// The kernel that the sandbox shows as running.
#[derive(Clone, Debug)]
pub struct MachineNames {
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// Build, as `uname -v` prints it.
    pub version: String,
    /// Architecture, as `uname -m` prints it.
    pub arch: String,
    /// Target of `/lib/modules/R/build`; `None` without headers.
    pub build: Option<PathBuf>,
    /// Target of `/lib/modules/R/source`; `None` without headers.
    pub source: Option<PathBuf>,
}

/// Configuration of a sandbox.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Path of the `bwrap` program.
    pub bwrap: PathBuf,
    /// The root whose `/usr` is shown.
    pub tools: Root,
    /// The kernel that it shows as running.
    pub machine: MachineNames,
    /// The program that is executed first in it.
    pub entrance: Arc<Entrance>,
    /// The user that its code runs as.
    pub identity: BuildIdentity,
    /// Its resource limits.
    pub limits: Limits,
    /// The control group in which to create its own; `None` if there is none.
    pub groups: Option<Groups>,
    /// Read-only mounts: headers, sources.
    pub read_only: Vec<Mount>,
    /// Single files to show, in directories that the sandbox makes itself: of `/etc`, `/boot` and `/lib/modules/K`.
    pub files: Vec<Mount>,
    /// Directories of tools outside of the usual places, which are searched first: `/opt/llvm-18`.
    pub tool_paths: Vec<Mount>,
    /// Programs that scripts in it find before all others: names, and their paths in it.
    pub called: Vec<(String, PathBuf)>,
    /// Writable mounts: the scratch directory.
    pub writable: Vec<Mount>,
    /// The number of CPUs that `nproc` prints.
    pub cpus: usize,
    /// Symbolic links to create in it: path, target.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Links by which the headers refer to parts of them.
    pub tree_links: Vec<(PathBuf, PathBuf)>,
    /// Modules to show as installed for the kernel, in DKMS's directory; given by their paths in the sandbox.
    pub installed: Vec<PathBuf>,
    /// A launcher for the compiler, such as ccache.
    pub launcher: Option<Launcher>,
    /// A private directory of this machine for the sandbox's own small files.
    pub own: PathBuf,
}

/// A program that runs the compiler or returns a cached result: ccache.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// Path of the program in the tools' root.
    pub program: PathBuf,
    /// Path of the compiler in the tools' root.
    pub compiler: PathBuf,
    /// The identity of the compiler for the launcher's cache.
    pub identity: String,
    /// Path of the launcher's cache.
    pub directory: PathBuf,
}

/// Limits and observers of a run.
pub struct Watch<'a> {
    /// Time limit.
    pub limit: Duration,
    /// Cancels the run when set.
    pub cancel: &'a AtomicBool,
    /// Receives its output in pieces, stdout and stderr combined.
    pub output: &'a mut dyn FnMut(&[u8]),
    /// The build's seat in the run's job server, from which it gets jobs (GNU make's jobserver).
    pub jobs: Option<&'a jobs::Seat>,
    /// Receives the system's files that were opened. Only root can observe them.
    pub opened: Option<&'a mut Opened>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Status(i32),
    /// A signal killed it.
    Signal(i32),
    /// It reached the time limit.
    TimedOut,
    /// The cancel flag was set.
    Cancelled,
    /// It was killed because it exceeded the memory in [`Limits`].
    OutOfMemory,
    /// It was killed because it used too much disk space.
    TookTooMuch(Excess),
}

impl Sandbox {
    /// Runs a bash script in the sandbox, in directory `cwd`, with exactly the environment `env`.
    ///
    /// # Errors
    ///
    /// Failures of the sandbox itself. However the script ends, the result is an [`Ended`].
    pub fn run(&self, script: &str, cwd: &Path, env: &[(&str, &str)], watch: Watch) -> Result<Ended, Error> {
        programs::write(self, script)?;
        let mut command = Command::new(&self.bwrap);
        command.env_clear().env("PATH", self.search_path()).envs(env.iter().copied());
        let _served = watch.jobs.map(|seat| seat.serve(&mut command)).transpose()?;
        let environment = environment(&command);
        command.env_clear(); // bwrap may be root: nothing of it is for bwrap or the loader
        self.call(&mut command, cwd, environment)?;
        let (reader, writer) = io::pipe()?;
        command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
        let group = self.groups.as_ref().and_then(|groups| groups.make(&self.limits).ok());
        let child = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::NoBubblewrap,
            _ => Error::Io(e),
        })?;
        drop(command); // it holds the pipe's write end: the reader would wait for itself
        let bounds = run::Bounds { group, limits: self.limits, places: self.writable_places() };
        run::follow(child, reader, watch, bounds, &|mount| self.shows_system_at(mount))
    }

    /// Adds bwrap's arguments to a command. Those that show paths of this machine are passed in an anonymous file.
    fn call(&self, command: &mut Command, cwd: &Path, environment: Vec<String>) -> Result<(), Error> {
        let mut args = self.arguments(cwd)?;
        let mut passed = filters()?;
        args.extend(with_filters(&passed).map(OsString::from));
        let args: Vec<u8> = args.iter().flat_map(|arg| [arg.as_bytes(), b"\0"].concat()).collect();
        let args = nameless(&args)?;
        command.args(["--args", &args.as_raw_fd().to_string(), "--"]);
        passed.push(args);
        command.preserved_fds(passed);
        let program = ["/bin/bash", "--norc", "--noprofile", SCRIPT];
        let orders = enter::Orders::new(&self.identity, &self.limits, environment, &program);
        command.args(self.entrance.call()?).args(orders.words());
        Ok(())
    }

    /// `PATH` in the sandbox: programs under other names; of each directory of tools its `bin` and `sbin`, or itself; then the system's.
    fn search_path(&self) -> String {
        let programs = |mount: &Mount| -> Vec<PathBuf> {
            let below = ["bin", "sbin"].iter().filter(|name| mount.outside.join(name).is_dir());
            let found: Vec<PathBuf> = below.map(|name| mount.inside.join(name)).collect();
            if found.is_empty() { vec![mount.inside.clone()] } else { found }
        };
        let called = (!self.called.is_empty()).then(|| CALLED.into()).into_iter();
        let own =
            called.chain(self.tool_paths.iter().flat_map(programs)).map(|dir| dir.display().to_string());
        own.chain([PATH.to_owned()]).collect::<Vec<_>>().join(":")
    }

    /// Mounts for the directories of tools, as far as they are not seen anyway.
    fn tool_mounts(&self) -> Vec<Mount> {
        self.tool_paths.iter().filter(|mount| !Sandbox::shows(&mount.inside)).cloned().collect()
    }

    /// Directories on this machine's disks that the sandbox can write.
    fn writable_places(&self) -> Vec<PathBuf> {
        let launcher = self.launcher.iter().map(|launcher| &launcher.directory);
        self.writable.iter().map(|mount| &mount.outside).chain(launcher).cloned().collect()
    }

    /// Whether a path in a sandbox belongs to the system and not to inputs.
    pub fn is_system(path: &Path) -> bool {
        SYSTEM.iter().any(|place| path.starts_with(place))
    }

    /// Whether builds see a path of the system at all, as far as it exists.
    pub fn shows(path: &Path) -> bool {
        let is_etc = path.starts_with("/etc");
        Sandbox::is_system(path) && !is_etc && !HIDDEN.iter().any(|hidden| path.starts_with(hidden))
    }

    /// Whether a directory can be shown: not where the sandbox has its own files.
    pub fn may_show(directory: &Path) -> bool {
        !enter::is_reserved(directory)
    }

    /// Whether a path is that of a file by which programs tell the distribution: `/etc/os-release`, `/etc/debian_version`. No
    /// loader reads one.
    pub fn is_release_file(path: &Path) -> bool {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        let ends = ["-release", "_version", "-version"];
        path.parent() == Some(Path::new("/etc")) && is_plain && ends.iter().any(|end| name.ends_with(end))
    }

    /// Whether a mount shows the system, and not an input or the sandbox's own files.
    fn shows_system_at(&self, mount: &Path) -> bool {
        let files = self.files.iter().map(|file| self.place_of_file(&file.inside));
        let inputs =
            self.read_only.iter().chain(&self.writable).map(|input| self.place(&input.inside)).chain(files);
        let made = ["/etc/passwd", "/etc/group", "/etc/ld.so.cache", PRELOAD]
            .iter()
            .any(|file| mount == Path::new(file));
        let is_compiler =
            |launcher: &Launcher| self.tools.resolve(&launcher.compiler).is_ok_and(|place| mount == place);
        let replaced = REPLACED.iter().any(|name| mount.ends_with(name))
            || self.launcher.as_ref().is_some_and(is_compiler);
        Sandbox::is_system(mount)
            && !made
            && !replaced
            && !inputs.into_iter().any(|input| mount.starts_with(input))
    }

    fn arguments(&self, cwd: &Path) -> Result<Vec<OsString>, Error> {
        self.leaves_the_entrance_alone()?;
        let mut args = Arguments::default();
        args.flags(&[
            "--unshare-pid",
            "--unshare-net",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ]);
        args.flags(&["--die-with-parent", "--new-session", "--hostname", "localhost"]);
        match self.identity {
            BuildIdentity::Own => args.flags(&["--unshare-user", "--uid", "1000", "--gid", "1000"]),
            BuildIdentity::Drop(_) => {
                args.flags(&["--cap-drop", "ALL"]);
                enter::KEPT.iter().for_each(|capability| args.flags(&["--cap-add", capability]));
            }
        }
        self.show_system(&mut args)?;
        self.show_kernel(&mut args);
        self.show_private(&mut args);
        for mount in self.read_only.iter().chain(&self.tool_mounts()) {
            args.mount("--ro-bind", &mount.outside, &self.place(&mount.inside));
        }
        for file in &self.files {
            args.mount("--ro-bind", &file.outside, &self.place_of_file(&file.inside));
        }
        for (path, target) in &self.links {
            args.mount("--symlink", target, path);
        }
        for (name, path) in &self.called {
            args.mount("--symlink", path, &Path::new(CALLED).join(name));
        }
        for (path, target) in &self.tree_links {
            let at = self.place_of_file(path);
            // In a directory of the system it is there already.
            if !Sandbox::shows(path) && at != *target && !args.is_made(&at) {
                args.mount("--symlink", target, &at);
            }
        }
        for mount in &self.writable {
            args.mount("--bind", &mount.outside, &mount.inside);
        }
        self.show_entrance(&mut args)?;
        if matches!(self.identity, BuildIdentity::Own) {
            args.close();
        }
        // It contains sysctls of the sandbox's namespaces, the process's OOM score, and pressure monitors.
        args.flags(&["--remount-ro", "/proc"]);
        args.flags(&["--remount-ro", "/"]);
        Ok(args.ending_in(cwd))
    }

    /// Mounts the entrance last, so that nothing covers it, in a directory with nothing else. Dynamic loaders read
    /// `ld.so.preload`, so an empty one is mounted.
    fn show_entrance(&self, args: &mut Arguments) -> io::Result<()> {
        args.tmpfs(enter::PLACE);
        args.directory(enter::LIBRARIES);
        for (outside, inside) in self.entrance.mounts(&self.own)? {
            args.pair("--ro-bind", outside, inside);
        }
        args.pair("--ro-bind", self.own.join(programs::NOTHING), PRELOAD);
        Ok(())
    }

    /// An error if a mount or link would cover the entrance or a file that its loader reads: a kernel's `build` in an
    /// image may be a link to any path.
    fn leaves_the_entrance_alone(&self) -> Result<(), Error> {
        let files = self.files.iter().filter(|file| !Sandbox::is_release_file(&file.inside));
        let mounts = self.read_only.iter().chain(&self.writable).chain(files).map(|mount| &mount.inside);
        let mounts = mounts.chain(self.tool_paths.iter().map(|mount| &mount.inside));
        let mut places = mounts.chain(self.links.iter().map(|(path, _)| path));
        let reserved =
            places.find(|inside| enter::is_reserved(inside) || enter::is_reserved(&self.place(inside)));
        let said = |place: &PathBuf| format!("cannot mount anything at {}", place.display());
        reserved.map_or(Ok(()), |place| Err(Error::NotMade { said: said(place) }))
    }

    /// Shows the tools' root, without directories that builds must not see.
    fn show_system(&self, args: &mut Arguments) -> io::Result<()> {
        let missing = self.missing_mount_points();
        for inside in SYSTEM.iter().filter(|inside| **inside != "/etc") {
            self.show(Path::new(inside), &missing, args)?;
        }
        for hidden in HIDDEN {
            let at = self.place(Path::new(hidden));
            if self.tools.outside(&at).exists() && !args.holds(&at) {
                args.tmpfs(&at);
            }
        }
        Ok(())
    }

    /// Shows a directory or link of the tools' root. A bind mount needs an existing mount point: if the tools' root
    /// lacks one, the directory that should contain it is assembled from its entries, so that the mount point can be
    /// added.
    fn show(&self, inside: &Path, missing: &BTreeSet<PathBuf>, args: &mut Arguments) -> io::Result<()> {
        let outside = self.tools.outside(inside);
        let Ok(metadata) = fs::symlink_metadata(&outside) else { return Ok(()) };
        if metadata.file_type().is_symlink() {
            args.pair("--symlink", fs::read_link(&outside)?, inside);
        } else if metadata.is_dir() && missing.iter().any(|parent| parent.starts_with(inside)) {
            args.directory(inside);
            for entry in fs::read_dir(&outside)? {
                self.show(&inside.join(entry?.file_name()), missing, args)?;
            }
        } else {
            args.pair("--ro-bind", &outside, inside);
        }
        Ok(())
    }

    /// Directories of the tools' root that lack a needed mount point.
    fn missing_mount_points(&self) -> BTreeSet<PathBuf> {
        let modules = self.place(&self.modules_dir());
        let wanted = self.read_only.iter().map(|mount| self.place(&mount.inside)).chain([modules]);
        let hidden = ["/usr/src", "/usr/local", "/lib/modules"].map(|dir| self.place(Path::new(dir)));
        wanted
            .filter(|path| {
                !hidden.iter().any(|dir| path.starts_with(dir) && self.tools.outside(dir).exists())
            })
            .filter(|path| !self.tools.outside(path).exists())
            .filter_map(|path| {
                path.ancestors().find(|dir| self.tools.outside(dir).exists()).map(Path::to_owned)
            })
            .filter(|parent| parent != Path::new("/"))
            .collect()
    }

    fn modules_dir(&self) -> PathBuf {
        Path::new("/lib/modules").join(&self.machine.release)
    }

    /// Shows `/lib/modules/K` with the links to the headers and the modules of the build's dependencies: some
    /// packages, such as nvidia-fs, read symbol versions from these.
    fn show_kernel(&self, args: &mut Arguments) {
        let dir = self.place(&self.modules_dir());
        args.directory(&dir);
        let MachineNames { build, source, .. } = &self.machine;
        for (name, target) in [("build", build), ("source", source)] {
            let link = dir.join(name);
            if let Some(target) = target.as_ref().filter(|target| self.place(target) != link) {
                args.pair("--symlink", target, link);
            }
        }
        if !self.installed.is_empty() {
            args.directory(dir.join("updates"));
            args.directory(dir.join("updates/dkms"));
        }
        for module in &self.installed {
            let name = module.file_name().unwrap_or_default();
            args.pair("--symlink", module, dir.join("updates/dkms").join(name));
        }
    }

    fn show_private(&self, args: &mut Arguments) {
        args.directory("/etc");
        for name in ["alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"] {
            let inside = Path::new("/etc").join(name);
            if let Some(outside) = self.tools.find(&inside) {
                args.pair("--ro-bind", outside, inside);
            }
        }
        args.flags(&["--proc", "/proc", "--dev", "/dev"]);
        if matches!(self.identity, BuildIdentity::Own) {
            // The first process is bwrap. In this case it has the build's uid, and its memory must not be accessible
            // to the build.
            for memory in ["/proc/1/mem", "/proc/1/task/1/mem"] {
                args.pair("--ro-bind", "/dev/null", memory);
            }
        }
        args.memory("/tmp", MOST_TEMPORARY);
        args.memory("/dev/shm", MOST_SHARED);
        for dir in ["/run", OWN, "/var", "/var/lib", "/var/lib/dkms", "/etc/dkms"] {
            args.directory(dir);
        }
        args.pair("--symlink", "/tmp", "/var/tmp");
        let own = |name: &str| self.own.join(name);
        args.pair("--ro-bind", own("script"), SCRIPT);
        for (name, inside) in [
            ("passwd", "/etc/passwd"),
            ("group", "/etc/group"),
            ("osrelease", "/proc/sys/kernel/osrelease"),
            ("version", "/proc/version"),
        ] {
            args.pair("--ro-bind", own(name), inside);
        }
        if Path::new("/proc/config.gz").exists() {
            args.pair("--ro-bind", "/dev/null", "/proc/config.gz");
        }
        for name in REPLACED {
            self.replace_program(args, name);
        }
        if let Some(launcher) = &self.launcher {
            self.launch(args, launcher);
        }
    }

    /// Replaces a program by one of the sandbox's scripts; the program itself remains available in [`OWN`].
    fn replace_program(&self, args: &mut Arguments, name: &str) {
        let places: BTreeSet<PathBuf> = ["/usr/bin", "/bin"]
            .iter()
            .filter_map(|dir| self.tools.resolve(Path::new(dir).join(name)).ok())
            .filter(|place| !enter::is_reserved(place))
            .collect();
        if let Some(place) = places.first() {
            args.pair("--ro-bind", self.tools.outside(place), Path::new(OWN).join(name));
        }
        for place in places {
            args.pair("--ro-bind", self.own.join(name), place);
        }
    }

    /// Replaces the compiler by the launcher, under every name that refers to it.
    fn launch(&self, args: &mut Arguments, launcher: &Launcher) {
        let Some(place) =
            self.tools.resolve(&launcher.compiler).ok().filter(|place| !enter::is_reserved(place))
        else {
            return;
        };
        let inside = |name: &str| Path::new(OWN).join(name);
        args.pair("--ro-bind", self.tools.outside(&place), inside(REAL_COMPILER));
        args.pair("--ro-bind", self.own.join(COMPILER), inside(COMPILER));
        args.pair("--ro-bind", self.own.join(LAUNCHED), place);
        args.pair("--bind", &launcher.directory, inside(CCACHE));
    }

    /// Paths of an empty directory and an empty file of this machine, used to hide things.
    pub fn blanks(&self) -> (PathBuf, PathBuf) {
        (self.own.join("empty"), PathBuf::from("/dev/null"))
    }

    /// The same for a file: if it is a link itself, it is replaced, and its target is not.
    fn place_of_file(&self, inside: &Path) -> PathBuf {
        match (inside.parent(), inside.file_name()) {
            (Some(directory), Some(name)) => self.place(directory).join(name),
            _ => inside.to_owned(),
        }
    }

    /// `inside` as a mount point: links of the tools' root in it are followed.
    fn place(&self, inside: &Path) -> PathBuf {
        let found = inside.ancestors().find_map(|dir| self.tools.resolve(dir).ok().map(|real| (dir, real)));
        match found {
            Some((dir, real)) => match inside.strip_prefix(dir) {
                Ok(rest) if rest.as_os_str().is_empty() => real,
                Ok(rest) => real.join(rest),
                Err(_) => inside.to_owned(),
            },
            None => inside.to_owned(),
        }
    }
}
