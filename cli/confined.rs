//! A root run on a tree under `--root` sees the rest of this machine read-only.
//!
//! The owner of a part of that tree may change it meanwhile, and replace a directory by a link to `/lib/modules` or `/etc`
//! between kcache's check and its use. kcache looks for links anyway; this protects against those that come too late, for
//! everything that is accessed by path, and for the programs that kcache starts on the tree (`depmod`, `bwrap`). The kernel
//! refuses with `EROFS`: new files, renames, deletions, owners, modes and attributes.
//!
//! ```text
//! kcache --root IMG ...        waits, and forwards signals
//!   kcache                     first process of a PID namespace, with a mount namespace of its own:
//!     /                          all file systems read-only ...
//!     IMG, the store, ...        ... except these, bind-mounted over themselves, and control groups
//!     TMPDIR                     a private scratch directory: /tmp contains other users' files
//!     /proc                      of this namespace, wherever a procfs is mounted
//! ```
//!
//! The PID namespace is essential: in the machine's own `/proc`, `/proc/1/root` leads to the same files through writable mounts,
//! and a link may lead there. For the same reason this is another process, not a thread: descriptors that were opened earlier
//! would lead there too.
//!
//! Without `CAP_SYS_ADMIN` (most containers) or a PID namespace, or if the kernel refuses the mounts, the run continues
//! unconfined, and `-v` reports it. If the caller's settings run a program or library that may write anywhere
//! (`passphrase-command`, `pkcs11:`), only `/proc` is replaced.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::{Arc, Once, OnceLock};

use fs_err as fs;
use nix::sched::{CloneFlags, unshare};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind_recursive, mount_change, mount_remount,
};
use rustix::process::{Pid, Signal, getpid, kill_process, set_parent_process_death_signal};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use kcache::store::Scratch;

use crate::args;
use crate::out::Out;
use crate::own_program;
use crate::settings::Settings;
use crate::temporary::temporary;

/// What the second process is called, up to the first one's number and the name that it was called by: `7 dkms`.
const NAME: &str = "kcache: confined by ";
/// Where this machine's kcaches meet.
const MEETING: &str = "/run/kcache";
/// Of these nothing is made read-only: builds are put into control groups, and `/proc` is this namespace's own.
const LEFT: [&str; 3] = ["proc", "cgroup", "cgroup2"];
/// Of these, mounted in a tree to be entered by `chroot`, nothing is written either.
const OF_THE_MACHINE: [&str; 3] = ["sysfs", "devtmpfs", "securityfs"];

/// By which process this one was confined.
static BY: OnceLock<u32> = OnceLock::new();

/// The number by which other processes of this machine know this run.
pub fn number() -> u32 {
    BY.get().copied().unwrap_or_else(std::process::id)
}

/// Whether other processes of this machine are to be seen from here.
pub fn is_confined() -> bool {
    BY.get().is_some()
}

/// Takes note of being the second process, and gives the name that the first was called by. It ends with the first one.
pub fn second_of(name: &str) -> Option<&str> {
    let (number, called) = name.strip_prefix(NAME)?.split_once(' ')?;
    let by = number.parse().ok().filter(|_| getpid().is_init())?;
    BY.get_or_init(|| by);
    let is_bound = set_parent_process_death_signal(Some(Signal::KILL)).is_ok();
    if is_dead(by) {
        std::process::exit(1); // it was killed before this one could be bound to it
    }
    is_bound.then_some(called)
}

/// Whether a process is known to have ended. `/proc` is still the one that the first process has.
fn is_dead(pid: u32) -> bool {
    let state = |stat: String| stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => matches!(state(stat), Some('Z' | 'X')),
        Err(e) => e.kind() == io::ErrorKind::NotFound && Path::new("/proc/stat").exists(),
    }
}

/// Has another process, called by the same name, do what was typed, if that is work of root's on another tree. `None`: this
/// one is to do it.
pub fn in_another(root: Option<&Path>, name: &str, words: &[OsString], out: &Out) -> Option<ExitCode> {
    let root = fs::canonicalize(root?).ok()?;
    let admin = rustix::thread::CapabilitySet::SYS_ADMIN;
    let capable = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(admin));
    let is_roots = rustix::process::geteuid().is_root() && root != Path::new("/");
    if is_confined() || !is_roots {
        return None;
    }
    if !capable {
        out.detail(&unconfined(&"no CAP_SYS_ADMIN"));
        return None;
    }
    // Where there is none the second process says so, for it may write to no other.
    let scratch = temporary(&std::env::temp_dir(), out).and_then(|dir| Ok(Scratch::new(&dir)?));
    wait_for(name, words, scratch.ok().as_ref()).inspect_err(|error| out.detail(&unconfined(error))).ok()
}

fn unconfined(reason: &dyn std::fmt::Display) -> String {
    format!("the rest of this machine is not read-only to this run: {reason}")
}

/// Starts the second process and waits for it. An error: there is none.
fn wait_for(name: &str, words: &[OsString], scratch: Option<&Scratch>) -> io::Result<ExitCode> {
    let child = Arc::new(OnceLock::new());
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let handle = signals.handle();
    // Before the next line: a process whose children go into another namespace makes no threads.
    let to = child.clone();
    std::thread::spawn(move || signals.forever().for_each(|signal| hand_on(signal, *to.wait())));
    let started = unshare(CloneFlags::CLONE_NEWPID).map_err(io::Error::from).and_then(|()| {
        let name = format!("{NAME}{} {name}", std::process::id());
        let temporary = scratch.map(|scratch| ("TMPDIR", scratch.path()));
        Command::new("/proc/self/exe").arg0(name).args(words).envs(temporary).spawn()
    });
    let mut second = started.inspect_err(|_| handle.close())?;
    child.get_or_init(|| Pid::from_child(&second));
    let status = second.wait()?;
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

/// What a terminal sends it sends to both.
fn hand_on(signal: i32, child: Pid) {
    let is_terminals = || {
        let terminal = rustix::fs::open("/dev/tty", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let foreground = terminal.ok().and_then(|terminal| rustix::termios::tcgetpgrp(terminal).ok());
        // 0 in a PID namespace whose first process was started by a group outside of it: no terminal's.
        foreground.is_some_and(|group| group.as_raw_pid() == nix::unistd::getpgrp().as_raw())
    };
    if (signal == SIGTERM || !is_terminals())
        && let Some(signal) = Signal::from_named_raw(signal)
    {
        let _ = kill_process(child, signal); // it may have ended by now
    }
}

/// Who wants to write, which decides where to.
#[derive(Debug, Clone, Copy)]
pub enum Caller<'a> {
    /// A command that was typed. `dry`: it makes no store.
    Command { command: &'a args::Command, dry: bool },
    /// A hook.
    Hook,
    /// DKMS's command line, and the archive that it is to write.
    Dkms { archive: Option<&'a Path> },
}

/// From here on no file can be changed but in the places that this run is to write to. Before there are threads.
pub fn confine(settings: &Settings, caller: Caller, out: &Out) {
    static ENTERED: Once = Once::new();
    if is_confined() {
        ENTERED.call_once(|| enter_for(settings, caller, out));
    }
}

fn enter_for(settings: &Settings, caller: Caller, out: &Out) {
    let entered = match settings.runs_what_may_write_anywhere() {
        true => enter_own_proc(),
        false => enter(&places(settings, caller)),
    };
    if let Err(error) = entered {
        out.detail(&unconfined(&error));
    }
}

/// The directories that a run writes to, as they are called without links.
fn places(settings: &Settings, caller: Caller) -> Vec<PathBuf> {
    use args::Command::{DebugInfo, Export, Init, Metrics, Push, Report, Signatures};
    let root = &settings.root.value;
    let mut there = Vec::new();
    let mut made = vec![PathBuf::from(MEETING)];
    let (command, dry) = match caller {
        Caller::Command { command, dry } => (Some(command), dry),
        Caller::Hook => (None, false),
        Caller::Dkms { archive } => {
            made.extend(archive.and_then(|file| Some(file.parent()?.to_owned())));
            (None, false)
        }
    };
    match command {
        Some(Report(report)) => there.extend(report.html.parent().map(Path::to_owned)),
        Some(Metrics(metrics)) => {
            there.extend(metrics.textfile.iter().filter_map(|file| Some(file.parent()?.to_owned())))
        }
        Some(Export(export)) => there.extend(export.file.parent().map(Path::to_owned)),
        Some(Init(init)) => there.push(init.dir.clone()),
        Some(DebugInfo(debuginfo)) => made.extend(debuginfo.output.clone()),
        Some(Signatures(signatures)) => {
            if let args::SignaturesCommand::Export { dir, .. } = &signatures.command {
                made.push(dir.clone());
            }
        }
        Some(Push(push)) => there.extend(push.to.iter().filter_map(|url| directory(url))),
        _ => {}
    }
    let written = settings.caches.iter().filter(|cache| cache.write && !cache.of_image);
    there.extend(written.filter_map(|cache| directory(&cache.url)));
    there.extend(Some(std::env::temp_dir()).filter(|dir| is_private(dir)));
    if makes_a_store(command) { &mut made } else { &mut there }.push(settings.store.value.clone());
    // A place that is not there yet is made: to be writable is for it alone and not for all that is beside it.
    for dir in made.into_iter().filter(|dir| !dir.starts_with(root)) {
        if !dry {
            let _ = fs::create_dir_all(&dir); // who wants to write to it will say so
        }
        there.push(dir);
    }
    // What lies in the tree is writable with it. Where it really is is asked of nothing in there: a link may have come in between.
    there.retain(|dir| !dir.starts_with(root));
    there.push(root.clone());
    let real =
        |dir: &PathBuf| fs::canonicalize(if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
    there.iter().filter_map(|dir| real(dir).ok().filter(|dir| dir.is_dir())).collect()
}

/// Where a shared cache in a directory is.
fn directory(url: &str) -> Option<PathBuf> {
    url.strip_prefix("file://").map(PathBuf::from)
}

/// Commands that make a store where there is none, hooks among them.
fn makes_a_store(command: Option<&args::Command>) -> bool {
    use args::Command::{Adopt, BootTest, Build, Check, DebugInfo, Import, Install, Pull};
    command.is_none_or(|command| {
        matches!(
            command,
            Adopt(_) | BootTest(_) | Build(_) | Check(_) | DebugInfo(_) | Import(_) | Install(_) | Pull(_)
        )
    })
}

fn is_private(dir: &Path) -> bool {
    fs::metadata(dir).is_ok_and(|found| found.uid() == 0 && found.mode() & 0o077 == 0)
}

/// Mounts of this process's own, with the `/proc` of its process namespace: in the other one its children have other numbers,
/// and other processes theirs.
fn enter_own_proc() -> io::Result<()> {
    own_program::look();
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let plain = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for place in mounts()?.iter().filter(|mount| mount.kind == "proc" && mount.is_whole) {
        mount("proc", &place.at, "proc", plain, None)?;
    }
    Ok(())
}

fn enter(places: &[PathBuf]) -> io::Result<()> {
    let here = std::env::current_dir();
    let mut writable = places.to_owned();
    writable.sort();
    writable.dedup_by(|below, above| below.starts_with(above));
    enter_own_proc()?;
    for dir in &writable {
        let opened =
            rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let opened = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&opened));
        mount_bind_recursive(&opened, &opened)?;
    }
    for mount in mounts()? {
        let is_ours = writable.iter().any(|dir| mount.at.starts_with(dir));
        if LEFT.contains(&&*mount.kind) || (is_ours && !OF_THE_MACHINE.contains(&&*mount.kind)) {
            continue;
        }
        let done = mount_remount(&mount.at, mount.flags | MountFlags::BIND | MountFlags::RDONLY, "");
        // Others are hidden below mounts, or somebody's own (FUSE) that root does not see into.
        if mount.at == Path::new("/") {
            done?;
        }
    }
    // Where this process is, it is still by the mounts from before.
    here.and_then(std::env::set_current_dir)
}

/// A mount of this process's.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    at: PathBuf,
    kind: String,
    /// Not of a directory in the file system.
    is_whole: bool,
    /// What has to stay as it is when it is mounted anew.
    flags: MountFlags,
}

fn mounts() -> io::Result<Vec<Mount>> {
    Ok(fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(parse).collect())
}

/// A line of proc_pid_mountinfo(5): `36 35 98:0 /root /at rw,noatime shared:1 - ext3 /dev/root rw`.
fn parse(line: &str) -> Option<Mount> {
    let (own, of_type) = line.split_once(" - ")?;
    let mut words = own.split(' ').skip(3);
    let (root, at, options) = (words.next()?, words.next()?, words.next()?);
    let flag = |option| match option {
        "nosuid" => MountFlags::NOSUID,
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "relatime" => MountFlags::RELATIME,
        _ => MountFlags::empty(),
    };
    Some(Mount {
        at: unescaped(at),
        kind: of_type.split(' ').next()?.to_owned(),
        is_whole: root == "/",
        flags: options.split(',').map(flag).collect(),
    })
}

/// Blanks, tabs, line feeds and backslashes are `\040` and so on.
fn unescaped(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, others)) = rest.split_first() {
        let digits =
            others.get(..3).filter(|_| first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[3..];
            }
            None => {
                bytes.push(first);
                rest = others;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line = r"36 35 98:0 /a /mnt/a\040b\134 rw,nosuid,noatime shared:1 master:2 - fuse.x /dev/root rw,errors=continue";
        let flags = MountFlags::NOSUID | MountFlags::NOATIME;
        let found = parse(line).unwrap();
        assert_eq!(found, Mount { at: r"/mnt/a b\".into(), kind: "fuse.x".into(), is_whole: false, flags });
        assert_eq!(parse("22 1 0:5 / /proc rw - proc proc rw").unwrap().kind, "proc");
        assert_eq!(parse("nonsense"), None);
    }

    #[test]
    fn a_name_alone_confines_nothing() {
        let names = ["kcache: confined by 7 dkms", "kcache: confined by 7", "kcache"];
        assert!(names.iter().all(|name| second_of(name).is_none()));
        assert!(!is_confined());
        assert_eq!(number(), std::process::id());
    }
}
