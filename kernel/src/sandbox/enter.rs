//! The entrance of a sandbox: kcache itself, between `bwrap`, which may run as root, and the first program of the
//! shown tree.
//!
//! **Nothing of that tree is executed with privileges**: no program, dynamic loader, library, `ld.so.preload`,
//! `ld.so.cache` or name service. It may be an image from an untrusted source under `--root`. So privileges cannot be
//! dropped by the tree's `setpriv`, nor by this machine's if the tree's loader runs it. They are dropped by this
//! program, run by this machine's loader with this machine's libraries, all of them mounted in a separate directory
//! and called by explicit path:
//!
//! ```text
//! /run/kcache/enter/ld.so            this machine's loader (PT_INTERP of kcache)
//! /run/kcache/enter/lib/NAME         libraries, named by their DT_SONAME
//! /run/kcache/enter/kcache           kcache
//!
//! ld.so --inhibit-cache --inhibit-rpath ... --library-path /run/kcache/enter/lib /run/kcache/enter/kcache ORDERS
//! ```
//!
//! No library is searched elsewhere, because all are found there; the loader's environment is empty, because the
//! build's is passed in the orders; and `/etc/ld.so.preload` is empty. Both are mounted last, over any links and
//! mounts that the tree may contain on the way there, and the files in a directory with nothing else in it, because
//! loaders prefer libraries below `glibc-hwcaps`. Nothing else is mounted there on purpose (`is_reserved`). This
//! program looks up no users and no locale, so it loads nothing more. `bwrap` leaves it three capabilities, which are
//! needed to drop the others.
//!
//! Then, in this order: a new session keyring; resource limits; groups, gid, bounding set, uid, capabilities; a check
//! of the result; a message that the sandbox is set up; waiting for permission to begin, while kcache moves the
//! processes into their control group and has their files observed; and exec of the tree's bash.
//!
//! Alternatives considered: a user namespace with only the build's uid, which would require every parent of scratch
//! directories and images to be accessible to that uid; and a small static program from another toolchain, which would
//! be a second artifact to build, ship and trust. A run as a user takes the same path, without privileges to drop.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::OnceLock;

use fs_err as fs;
use rustix::process::{Resource, Rlimit, getegid, geteuid, getgid, getgroups, getuid, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, Uid};

use super::run::READY;
use super::{BuildIdentity, Limits, OWN};
use crate::program::{DELETED, OwnProgram};

/// Path of this program in a sandbox, by which it recognizes its task.
const INSIDE: &str = "/run/kcache/enter/kcache";
const LOADER: &str = "/run/kcache/enter/ld.so";
pub(super) const LIBRARIES: &str = "/run/kcache/enter/lib";
/// Directory in a sandbox reserved for the entrance.
pub(super) const PLACE: &str = "/run/kcache/enter";

/// Capabilities of root that `bwrap`'s child keeps.
pub(super) const KEPT: [&str; 3] = ["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"];

/// Represents in the orders that the uid does not change.
const OWN_UID: &str = "own";

/// Limit in bytes on a file that a build writes, unless its disk limit is smaller. No object file of a module is that
/// large.
pub(crate) const MOST_FILE: u64 = 4 << 30;

/// This program as mounted in sandboxes. Its parts are determined at first use.
pub struct Entrance {
    find: fn() -> io::Result<OwnProgram>,
    shown: OnceLock<Shown>,
}

/// Mounts and the beginning of its command line.
struct Shown {
    program: PathBuf,
    others: Vec<(PathBuf, PathBuf)>,
    call: Vec<OsString>,
}

impl std::fmt::Debug for Entrance {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("Entrance")
    }
}

impl Entrance {
    /// Makes the entrance; `find` returns the running program.
    pub fn new(find: fn() -> io::Result<OwnProgram>) -> Entrance {
        Entrance { find, shown: OnceLock::new() }
    }

    /// Files of this machine with their paths in a sandbox. `own` is for a copy of the program, if its file was
    /// deleted.
    pub(super) fn mounts(&self, own: &Path) -> io::Result<Vec<(PathBuf, PathBuf)>> {
        let shown = self.shown()?;
        let program = named(&shown.program, own)?;
        let others = shown.others.iter().cloned();
        Ok([(program, PathBuf::from(INSIDE))].into_iter().chain(others).collect())
    }

    /// Its command line in the sandbox, up to the orders.
    pub(super) fn call(&self) -> io::Result<&[OsString]> {
        Ok(&self.shown()?.call)
    }

    fn shown(&self) -> io::Result<&Shown> {
        if let Some(shown) = self.shown.get() {
            return Ok(shown);
        }
        let shown = Shown::of(&(self.find)()?)?;
        Ok(self.shown.get_or_init(|| shown))
    }
}

impl Shown {
    fn of(program: &OwnProgram) -> io::Result<Shown> {
        let parts = program.parts()?;
        let inside = |name: &OsString| Path::new(LIBRARIES).join(name);
        let mut others: Vec<(PathBuf, PathBuf)> =
            parts.libraries.iter().map(|(name, path)| (path.clone(), inside(name))).collect();
        let mut call: Vec<OsString> = Vec::new();
        if let Some(loader) = parts.loader {
            call.push(LOADER.into());
            // musl's loader has no cache, and searches run paths after the given directory.
            if !loader.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld-musl")) {
                // Disables the run paths of the program, which is called "", and of each library.
                let mut unsearched = OsString::new();
                for (_, inside) in &others {
                    unsearched.push(":");
                    unsearched.push(inside);
                }
                call.extend(["--inhibit-cache".into(), "--inhibit-rpath".into(), unsearched]);
            }
            call.extend(["--library-path".into(), LIBRARIES.into()]);
            others.push((loader, LOADER.into()));
        }
        call.push(INSIDE.into());
        Ok(Shown { program: program.path.clone(), others, call })
    }
}

/// A path of a program that bwrap can mount: its own, or a copy if it was replaced or deleted while running.
fn named(program: &Path, own: &Path) -> io::Result<PathBuf> {
    let Ok(place) = fs::read_link(program) else { return Ok(program.to_owned()) };
    let (is, named) = (fs::metadata(program)?, fs::metadata(&place));
    let is_same = |named: std::fs::Metadata| (named.dev(), named.ino()) == (is.dev(), is.ino());
    if !place.to_string_lossy().ends_with(DELETED) && named.is_ok_and(is_same) {
        return Ok(place);
    }
    let copy = own.join("enter");
    if !copy.exists() {
        fs::copy(program, &copy)?;
        fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    Ok(copy)
}

/// Orders for a process that enters a sandbox.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Orders {
    /// The uid to switch to.
    pub uid: Option<u32>,
    /// Limit on processes of its uid (RLIMIT_NPROC).
    pub processes: u64,
    /// Limit on the size of a file in bytes (RLIMIT_FSIZE).
    pub file: u64,
    /// The environment of the program to execute, `NAME=VALUE`.
    pub environment: Vec<String>,
    /// The program to execute, with its arguments.
    pub program: Vec<String>,
}

impl Orders {
    pub(super) fn new(
        identity: &BuildIdentity,
        limits: &Limits,
        environment: Vec<String>,
        program: &[&str],
    ) -> Orders {
        let program = program.iter().map(|&word| word.to_owned()).collect();
        let (processes, file) = (limits.processes, limits.disk.min(MOST_FILE));
        Orders { uid: identity.uid(), processes, file, environment, program }
    }

    /// Encodes the orders as command-line arguments.
    pub(super) fn words(&self) -> Vec<String> {
        let uid = self.uid.map_or(OWN_UID.to_owned(), |uid| uid.to_string());
        let numbers =
            [self.processes, self.file, self.environment.len() as u64].map(|number| number.to_string());
        [vec![uid], numbers.into(), self.environment.clone(), self.program.clone()].concat()
    }

    fn parse(words: &[String]) -> Option<Orders> {
        let [uid, processes, file, count, rest @ ..] = words else { return None };
        let (environment, program) = rest.split_at_checked(count.parse().ok()?)?;
        let uid = if uid == OWN_UID { None } else { Some(uid.parse().ok().filter(|&uid| uid != 0)?) };
        let (environment, program) = (environment.to_vec(), program.to_vec());
        (!program.is_empty()).then_some(Orders {
            uid,
            processes: processes.parse().ok()?,
            file: file.parse().ok()?,
            environment,
            program,
        })
    }
}

/// Whether a process started under this name enters a sandbox.
pub fn is_entering(name: &str) -> bool {
    name == INSIDE
}

/// Enters a sandbox; returns only on failure.
pub fn run(words: &[String]) -> ExitCode {
    let Err(error) = enter(words);
    // Output before the sandbox is set up is the reason why that failed.
    let _ = writeln!(io::stderr(), "kcache: {error}");
    ExitCode::FAILURE
}

fn enter(words: &[String]) -> io::Result<std::convert::Infallible> {
    let orders = Orders::parse(words).ok_or_else(|| io::Error::other("invalid orders"))?;
    // A kernel without keyrings (CONFIG_KEYS) has none to leave.
    match keyutils::Keyring::join_anonymous_session() {
        Err(error) if error.0 != nix::libc::ENOSYS => {
            return Err(doing("cannot create a session keyring", io::Error::from_raw_os_error(error.0)));
        }
        _ => {}
    }
    bound(&orders).map_err(|error| doing("cannot set limits", error))?;
    if let Some(uid) = orders.uid {
        become_nobody(uid).map_err(|error| doing(&format!("cannot become uid {uid}"), error))?;
    }
    has_no_privileges(orders.uid)?;
    let mut stdout = io::stdout();
    stdout.write_all(READY)?;
    stdout.flush()?;
    io::stdin().read_exact(&mut [0])?;
    let mut command = Command::new(&orders.program[0]);
    command.args(&orders.program[1..]).env_clear().stdin(Stdio::null());
    command.envs(orders.environment.iter().filter_map(|pair| pair.split_once('=')));
    Err(doing(&orders.program[0], command.exec()))
}

fn doing(what: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Sets resource limits, which child processes inherit.
fn bound(orders: &Orders) -> io::Result<()> {
    for (resource, most) in
        [(Resource::Nproc, orders.processes), (Resource::Core, 0), (Resource::Fsize, orders.file)]
    {
        // A lower existing limit is kept.
        let hard = rustix::process::getrlimit(resource).maximum;
        let most = Some(hard.map_or(most, |hard| hard.min(most)));
        setrlimit(resource, Rlimit { current: most, maximum: most })?;
    }
    Ok(())
}

/// Drops groups, gid, bounding set, uid and capabilities, irrevocably.
fn become_nobody(uid: u32) -> io::Result<()> {
    use rustix::thread;
    thread::set_thread_groups(&[])?;
    let gid = Gid::from_raw(uid);
    thread::set_thread_res_gid(gid, gid, gid)?;
    // bwrap has dropped all capabilities that it knows but three. Newer kernels may have others.
    for capability in (0..u64::BITS).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
        match thread::capability_is_in_bounding_set(capability) {
            Ok(true) => thread::remove_capability_from_bounding_set(capability)?,
            Ok(false) => {}
            Err(_) => break, // beyond the kernel's last capability
        }
    }
    let uid = Uid::from_raw(uid);
    thread::set_thread_res_uid(uid, uid, uid)?;
    let none = CapabilitySet::empty();
    thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    thread::clear_ambient_capability_set()?;
    Ok(thread::set_no_new_privs(true)?)
}

/// Checks that this process has no privileges, according to the kernel.
fn has_no_privileges(uid: Option<u32>) -> io::Result<()> {
    let privileged = |what: &str| Err(io::Error::other(format!("privileges remain: {what}")));
    if let Some(uid) = uid {
        let is_nobody = [getuid(), geteuid()] == [Uid::from_raw(uid); 2]
            && [getgid(), getegid()] == [Gid::from_raw(uid); 2]
            && getgroups()?.is_empty();
        if !is_nobody {
            return privileged("uid, gid or groups");
        }
    }
    let status = fs::read_to_string("/proc/self/status")?;
    match with_privileges(&status, uid.is_some()) {
        Some(line) => privileged(line),
        None => Ok(()),
    }
}

/// The first line of `/proc/PID/status` (proc_pid_status(5)) that shows a privilege. `bounded` includes the bounding
/// set, which is harmless in a user's sandbox, because no file there grants capabilities.
fn with_privileges(status: &str, bounded: bool) -> Option<&str> {
    let is_bad = |line: &&str| {
        let Some((name, value)) = line.split_once(':') else { return false };
        match name {
            "CapInh" | "CapPrm" | "CapEff" | "CapAmb" => value.trim().bytes().any(|digit| digit != b'0'),
            "CapBnd" => bounded && value.trim().bytes().any(|digit| digit != b'0'),
            "NoNewPrivs" => value.trim() != "1",
            _ => false,
        }
    };
    status.lines().find(is_bad)
}

/// Whether a mount at this place would cover the entrance or a file that its loader reads.
pub(super) fn is_reserved(place: &Path) -> bool {
    let beneath = [OWN, "/proc", "/dev", "/etc"].iter().any(|own| place.starts_with(own));
    let above = [OWN, "/proc", "/dev", "/etc", "/tmp", "/var/lib/dkms"].map(Path::new);
    let is_free = place.starts_with("/etc/dkms") || place != "/dev/shm" && place.starts_with("/dev/shm");
    let is_normal = place
        .components()
        .all(|part| matches!(part, std::path::Component::RootDir | std::path::Component::Normal(_)));
    !place.is_absolute()
        || !is_normal
        || (beneath && !is_free)
        || above.iter().any(|own| own.starts_with(place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_back_and_never_keep_root() {
        let program = ["/bin/bash".to_owned(), "script".to_owned()];
        let environment = vec!["A=1=2".to_owned(), "EMPTY=".to_owned()];
        for uid in [Some(61184), None] {
            let orders = Orders {
                uid,
                processes: 600,
                file: 1 << 32,
                environment: environment.clone(),
                program: program.to_vec(),
            };
            assert_eq!(Orders::parse(&orders.words()), Some(orders));
        }
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for wrong in
            ["0 1 1 0 /bin/sh", "own 1 1 0", "own 1 1 3 A=1 /bin/sh", "root 1 1 0 /bin/sh", "-1 1 1 0 x", ""]
        {
            assert_eq!(Orders::parse(&words(wrong)), None, "{wrong}");
        }
    }

    #[test]
    fn privileges_are_detected_in_every_set() {
        let sound = "Name:\tkcache\nNoNewPrivs:\t1\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t0000000000000000\nCapAmb:\t0000000000000000\n";
        assert_eq!(with_privileges(sound, true), None);
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let bad =
                sound.replace(&format!("{set}:\t0000000000000000"), &format!("{set}:\t0000000000000100"));
            assert!(with_privileges(&bad, true).is_some_and(|line| line.starts_with(set)));
        }
        assert!(with_privileges(&sound.replace("NoNewPrivs:\t1", "NoNewPrivs:\t0"), false).is_some());
    }

    #[test]
    fn no_mount_may_cover_the_entrance() {
        let reserved = [
            "/",
            "/run",
            "/run/kcache",
            "/run/kcache/enter",
            "/run/kcache/enter/lib",
            "/etc",
            "/etc/ld.so.preload",
            "/proc",
            "/proc/self",
            "/dev",
            "/dev/shm",
            "/var",
            "/tmp",
            "/usr/../etc",
            "etc",
        ];
        for place in reserved {
            assert!(is_reserved(Path::new(place)), "{place}");
        }
        let free = [
            "/usr/src/a-1",
            "/lib/modules/6.1/build",
            "/boot/config-6.1",
            "/etc/dkms/a",
            "/var/lib/dkms/a/1/build",
            "/tmp/linux",
            "/home/user/linux",
            "/run/user/1000/linux",
            "/dev/shm/linux",
        ];
        for place in free {
            assert!(!is_reserved(Path::new(place)), "{place}");
        }
    }

    #[test]
    fn everything_executed_with_privileges_is_in_the_entrance() {
        let own = fs::read_link("/proc/self/exe").unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let shown = Shown::of(&OwnProgram::of_maps(&own, &own, &maps)).unwrap();
        assert!(shown.others.iter().all(|(_, inside)| inside.starts_with("/run/kcache/enter")));
        let call: Vec<&str> = shown.call.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!((call[0], *call.last().unwrap()), (LOADER, INSIDE));
        assert!(call.windows(2).any(|pair| pair == ["--library-path", LIBRARIES]), "{call:?}");
    }
}
