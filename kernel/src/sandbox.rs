//! The room in which other people's Makefiles and recipes run.
//!
//! `bubblewrap` makes it; this module decides what is in it. It is built up from nothing, so that what is not named here
//! is not there:
//!
//! ```text
//! /usr /bin /lib ...       read-only, of the root whose tools are used; /usr/src, /usr/local and /lib/modules are empty
//! /usr/src/linux-headers-K and all that it reaches, read-only; /lib/modules/K/build leads to it, and source to where
//!                          the kernel's own link of that name leads
//! /boot/config-K           the .config of the headers
//! /etc                     alternatives, ld.so.cache, os-release; passwd and group with one made-up user
//! /proc                    of its own pid namespace; osrelease and version are those of K
//! /usr/bin/uname           answers for K
//! /usr/bin/pahole          runs without -j, whose output differs from run to run
//! /usr/bin/make            runs without -jN where a jobserver says how many may run; /usr/bin/nproc says what it is told to
//! /var/lib/dkms            the scratch tree, and what the packages that a build is against have left there
//! /usr/bin/gcc-N           where that is configured, runs ccache, which keeps what it knows in /run/kcache/ccache
//! /tmp /dev /run           private; no /home, no /root, nothing else of /var, no network, no keys
//! /run/kcache/enter        kcache itself, this machine's: what is executed first ([`enter`])
//! ```
//!
//! Code in it is never uid 0. A root run drops to an unprivileged uid that owns nothing but the scratch tree and loses
//! every capability before anything of the tree shown is executed ([`enter`]); a user's run is in a user namespace and stays
//! that user. What it may ask the kernel for is bounded ([`seccomp`]), and so is what it may use ([`cgroup`], [`space`], [`uids`]). When
//! the run ends, by itself or by force, the whole pid namespace is dead before [`Sandbox::run`] returns.
//!
//! Places in memory that can be written are `/tmp` and `/dev/shm`, both bounded; all others are root's, or, where a user is
//! their owner, read-only when the sandbox stands (each mount costs `bwrap` a look at all others). `bwrap`'s arguments,
//! which name places of this machine, go by a descriptor, since its command line can be read inside;
//! `/proc/self/mountinfo` still names what of its file system each mount shows.

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
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use command_fds::CommandFdExt;
use fs_err as fs;
use rustix::fs::{MemfdFlags, memfd_create};

pub use cgroup::{Groups, Limits};
pub use enter::Entrance;
pub use space::{Excess, holds_more};
pub use uids::{Identities, Identity, Uids};

use crate::kernels::Mount;
use crate::rootfs::Root;

/// What the tools in the sandbox are found by.
pub const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Where the sandbox's own files lie inside it.
const OWN: &str = "/run/kcache";

/// What is shown of the system whose tools are used: of `/etc` some files, of the others all that is not hidden.
const SYSTEM: [&str; 10] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/nix", "/gnu", "/etc"];

/// Programs of the system that one of the sandbox's own scripts stands in for.
const REPLACED: [&str; 4] = ["uname", "nproc", "make", "pahole"];

/// Names libraries that loaders load into every program (ld.so(8)).
const PRELOAD: &str = "/etc/ld.so.preload";

/// Before a compiler stands [`LAUNCHED`], which runs the launcher, which may run [`COMPILER`], which is the real one by its own name.
const LAUNCHED: &str = "launched";
const COMPILER: &str = "compiler";
const REAL_COMPILER: &str = "cc";
/// What ccache knows.
const CCACHE: &str = "ccache";

/// Size of the sandbox's `/tmp`, in bytes: it is memory. Compilers keep some MiB there.
const MOST_TEMPORARY: &str = "2147483648";

/// Size of its `/dev/shm`, in bytes: for semaphores and the like.
const MOST_SHARED: &str = "268435456";

/// What went wrong with the sandbox itself, not with what ran in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// `bwrap` is not installed.
    #[error("bubblewrap is not installed, but builds need it")]
    NoBubblewrap,
    /// `bwrap` failed before anything ran in it.
    #[error("cannot create the sandbox: {said}")]
    NotMade {
        /// The first line of what it said.
        said: String,
    },
    /// The processes in the sandbox did not die.
    #[error("sandbox processes are still running {} s after being killed", run::DEATH.as_secs())]
    Undead,
}

/// The kernel that the sandbox claims to run.
#[derive(Clone, Debug)]
pub struct Machine {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
    /// `uname -m`.
    pub arch: String,
    /// Where `/lib/modules/R/build` leads; `None` without headers.
    pub build: Option<PathBuf>,
    /// Where `/lib/modules/R/source` leads; `None` without headers.
    pub source: Option<PathBuf>,
}

/// A sandbox to be made.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// The `bwrap` program.
    pub bwrap: PathBuf,
    /// The root whose `/usr` is shown.
    pub tools: Root,
    /// The kernel it claims to run.
    pub machine: Machine,
    /// The way in.
    pub entrance: Arc<Entrance>,
    /// As whom.
    pub identity: Identity,
    /// What it may use.
    pub limits: Limits,
    /// Where control groups can be made.
    pub groups: Option<Groups>,
    /// Shown read-only: headers, sources.
    pub read_only: Vec<Mount>,
    /// Shown writable: the scratch tree.
    pub writable: Vec<Mount>,
    /// The number of CPUs that `nproc` tells.
    pub cpus: usize,
    /// Links made inside: path, target.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Modules that are found as installed for the kernel, where DKMS installs them; by where they lie inside.
    pub installed: Vec<PathBuf>,
    /// What stands before the compiler.
    pub launcher: Option<Launcher>,
    /// A private directory of this machine for the sandbox's own small files.
    pub own: PathBuf,
}

/// A program that runs the compiler, or knows what it would say: ccache.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program, in the tools' root.
    pub program: PathBuf,
    /// The compiler that it stands before, in the tools' root.
    pub compiler: PathBuf,
    /// What the program is to take the compiler for.
    pub identity: String,
    /// Where it keeps what it knows.
    pub directory: PathBuf,
}

/// How a run is bounded and watched.
pub struct Watch<'a> {
    /// The longest it may take.
    pub limit: Duration,
    /// Set from outside to end it at once.
    pub cancel: &'a AtomicBool,
    /// Receives what it prints, stdout and stderr in one, in pieces.
    pub output: &'a mut dyn FnMut(&[u8]),
    /// Gives the run its share of the jobs: a make jobserver.
    pub jobs: Option<&'a jobs::Seat>,
    /// Receives which files of the system were opened. Only root may ask for it.
    pub opened: Option<&'a mut Opened>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status.
    Status(i32),
    /// By this signal.
    Signal(i32),
    /// It took longer than it may.
    TimedOut,
    /// It was cancelled.
    Cancelled,
    /// It was killed, for it used more memory than [`Limits`] allow.
    OutOfMemory,
    /// It was killed, for it took too much of a disk.
    TookTooMuch(Excess),
}

impl Sandbox {
    /// Runs a bash script in the sandbox, in directory `cwd`, with nothing but `env` in its environment.
    pub fn run(&self, script: &str, cwd: &Path, env: &[(&str, &str)], watch: Watch) -> Result<Ended, Error> {
        programs::write(self, script)?;
        let mut command = Command::new(&self.bwrap);
        command.env_clear().env("PATH", PATH).envs(env.iter().copied());
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

    /// The words that bwrap is called with. Those that tell of this machine are in a file without a name.
    fn call(&self, command: &mut Command, cwd: &Path, environment: Vec<String>) -> Result<(), Error> {
        let mut args = self.arguments(cwd)?;
        let mut passed = filters()?;
        args.extend(with_filters(&passed).map(OsString::from));
        let args: Vec<u8> = args.iter().flat_map(|arg| [arg.as_bytes(), b"\0"].concat()).collect();
        let args = nameless(&args)?;
        command.args(["--args", &args.as_raw_fd().to_string(), "--"]);
        passed.push(args);
        command.preserved_fds(passed);
        let program = ["/bin/bash", "--norc", "--noprofile", "/run/kcache/script"];
        let orders = enter::Orders::new(&self.identity, &self.limits, environment, &program);
        command.args(self.entrance.call()?).args(orders.words());
        Ok(())
    }

    /// What of this machine's disks it can write.
    fn writable_places(&self) -> Vec<PathBuf> {
        let launcher = self.launcher.iter().map(|launcher| &launcher.directory);
        self.writable.iter().map(|mount| &mount.outside).chain(launcher).cloned().collect()
    }

    /// Whether a path is one of the system's in a sandbox.
    pub fn is_system(path: &Path) -> bool {
        SYSTEM.iter().any(|place| path.starts_with(place))
    }

    /// Whether what is mounted at this place is the system's, not an input or the sandbox's own.
    fn shows_system_at(&self, mount: &Path) -> bool {
        let inputs = self.read_only.iter().chain(&self.writable).map(|input| self.place(&input.inside));
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
            Identity::Own => args.flags(&["--unshare-user", "--uid", "1000", "--gid", "1000"]),
            Identity::Drop(_) => {
                args.flags(&["--cap-drop", "ALL"]);
                enter::KEPT.iter().for_each(|capability| args.flags(&["--cap-add", capability]));
            }
        }
        self.show_system(&mut args)?;
        self.show_kernel(&mut args);
        self.show_private(&mut args);
        for mount in &self.read_only {
            args.mount("--ro-bind", &mount.outside, &self.place(&mount.inside));
        }
        for (path, target) in &self.links {
            args.mount("--symlink", target, path);
        }
        for mount in &self.writable {
            args.mount("--bind", &mount.outside, &mount.inside);
        }
        self.show_entrance(&mut args)?;
        if matches!(self.identity, Identity::Own) {
            args.close();
        }
        // There are sysctls of its own namespaces, its score for being killed, pressure to be watched.
        args.flags(&["--remount-ro", "/proc"]);
        args.flags(&["--remount-ro", "/"]);
        args.flags(&["--chdir"]);
        args.0.push(cwd.into());
        Ok(args.0)
    }

    /// The way in, after everything else, so that nothing covers it: in a directory in which there is nothing else. Loaders obey
    /// a file that is not to be there, so an empty one is.
    fn show_entrance(&self, args: &mut Arguments) -> io::Result<()> {
        args.tmpfs(enter::PLACE);
        args.directory(enter::LIBRARIES);
        for (outside, inside) in self.entrance.mounts(&self.own)? {
            args.pair("--ro-bind", outside, inside);
        }
        args.pair("--ro-bind", self.own.join(programs::NOTHING), PRELOAD);
        Ok(())
    }

    /// An error where a mount or link would lie where the way in does, or what that obeys: a kernel's `build` in an image is a
    /// link to anywhere.
    fn leaves_the_entrance_alone(&self) -> Result<(), Error> {
        let mounts = self.read_only.iter().chain(&self.writable).map(|mount| &mount.inside);
        let mut places = mounts.chain(self.links.iter().map(|(path, _)| path));
        let reserved =
            places.find(|inside| enter::is_reserved(inside) || enter::is_reserved(&self.place(inside)));
        let said = |place: &PathBuf| format!("cannot mount anything at {}", place.display());
        reserved.map_or(Ok(()), |place| Err(Error::NotMade { said: said(place) }))
    }

    /// The tools' root, without what builds have no business with.
    fn show_system(&self, args: &mut Arguments) -> io::Result<()> {
        let missing = self.missing_mount_points();
        for inside in SYSTEM.iter().filter(|inside| **inside != "/etc") {
            self.show(Path::new(inside), &missing, args)?;
        }
        for hidden in ["/usr/src", "/usr/local", "/lib/modules", "/usr/lib/modules"] {
            let at = self.place(Path::new(hidden));
            if self.tools.outside(&at).exists() && !args.holds(&at) {
                args.tmpfs(&at);
            }
        }
        Ok(())
    }

    /// One directory or link of the tools' root. A bind mount needs a place to be mounted on: where the tools' root lacks
    /// one, the directory that should hold it is put together from its entries, which leaves room for more.
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

    /// Existing directories of the tools' root in which something must be mounted that is not there.
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

    /// `/lib/modules/K`, of which a build sees the way to the headers and the modules of the packages that it is against: some,
    /// such as nvidia-fs, read the versions of symbols out of them.
    fn show_kernel(&self, args: &mut Arguments) {
        let dir = self.place(&self.modules_dir());
        args.directory(&dir);
        let Machine { build, source, .. } = &self.machine;
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
        for name in
            ["alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "os-release", "debian_version"]
        {
            let inside = Path::new("/etc").join(name);
            if let Some(outside) = self.tools.find(&inside) {
                args.pair("--ro-bind", outside, inside);
            }
        }
        args.flags(&["--proc", "/proc", "--dev", "/dev"]);
        if matches!(self.identity, Identity::Own) {
            // The first process is bwrap. Here it has the build's uid, and its memory is not for the build.
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
        args.pair("--ro-bind", own("script"), format!("{OWN}/script"));
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

    /// Puts one of the sandbox's own scripts in the place of a program; the program itself stays at hand under [`OWN`].
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

    /// Puts the launcher in the place of the compiler, under every name that leads to it.
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

    /// An empty directory and an empty file of this machine, to hide things of the sandbox behind.
    pub fn blanks(&self) -> (PathBuf, PathBuf) {
        (self.own.join("empty"), PathBuf::from("/dev/null"))
    }

    /// `inside` as the mount point it becomes: links of the tools' root on the way are followed as far as it reaches.
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

/// `bwrap`'s arguments, in the order in which it performs them.
#[derive(Default)]
struct Arguments(Vec<OsString>, Closed);

/// File systems in memory that are read-only when all mounts have their places.
type Closed = Vec<OsString>;

impl Arguments {
    fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    fn pair(&mut self, flag: &str, from: impl Into<OsString>, to: impl Into<OsString>) {
        self.0.extend([flag.into(), from.into(), to.into()]);
    }

    /// As [`Arguments::pair`], with the directories on the way: those that bwrap makes by itself only root can pass.
    fn mount(&mut self, flag: &str, from: &Path, to: &Path) {
        let parents: Vec<&Path> = to.ancestors().skip(1).filter(|dir| dir.parent().is_some()).collect();
        for parent in parents.into_iter().rev() {
            self.directory(parent);
        }
        self.pair(flag, from, to);
    }

    /// An empty directory that the build's uid can pass through, whatever the umask.
    fn directory(&mut self, path: impl Into<OsString>) {
        self.flags(&["--perms", "0755", "--dir"]);
        self.0.push(path.into());
    }

    /// A place for mounts.
    fn tmpfs(&mut self, path: impl Into<OsString>) {
        let path = path.into();
        self.flags(&["--perms", "0755", "--tmpfs"]);
        self.0.push(path.clone());
        self.1.push(path);
    }

    /// A place in memory that everybody can write, of at most so many bytes.
    fn memory(&mut self, path: &str, most: &str) {
        self.flags(&["--perms", "1777", "--size", most, "--tmpfs", path]);
    }

    /// Makes everything read-only that is in memory and not to be written, for those whose it is.
    fn close(&mut self) {
        for path in std::mem::take(&mut self.1) {
            self.flags(&["--remount-ro"]);
            self.0.push(path);
        }
        self.flags(&["--remount-ro", "/dev"]);
    }

    /// True where something was already put at exactly this path.
    fn holds(&self, path: &Path) -> bool {
        self.0.windows(2).any(|pair| pair[0] == "--tmpfs" && pair[1] == path.as_os_str())
    }
}

/// What a command's environment will be, as `NAME=VALUE`.
fn environment(command: &Command) -> Vec<String> {
    let set = command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
    set.map(|(name, value)| format!("{name}={value}")).collect()
}

/// The filters of system calls, for bwrap to read.
pub(crate) fn filters() -> io::Result<Vec<OwnedFd>> {
    seccomp::filters()?.iter().map(|filter| nameless(filter)).collect()
}

/// The words by which bwrap is told of them.
pub(crate) fn with_filters(filters: &[OwnedFd]) -> impl Iterator<Item = String> {
    filters.iter().flat_map(|filter| ["--add-seccomp-fd".to_owned(), filter.as_raw_fd().to_string()])
}

/// A file in memory, without a name, that is read from its beginning.
fn nameless(content: &[u8]) -> io::Result<OwnedFd> {
    // A hardened machine has no other (vm.memfd_noexec), an old one has not got these (before Linux 6.3).
    let file = memfd_create("kcache", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL);
    let file = file.or_else(|_| memfd_create("kcache", MemfdFlags::CLOEXEC))?;
    let mut file = std::fs::File::from(file);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}
