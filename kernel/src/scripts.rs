//! A package's script for the system: run as DKMS runs it, on the system itself.
//!
//! It gets what DKMS gives it: the source as its directory, its arguments split at white space, nothing of kcache's
//! environment. It may not take for ever, and what it leaves running in its process group is ended only with it by force.
//!
//! On this machine it runs as root, unconfined. Under another root a chroot would confine nobody: root leaves it as it
//! likes. So there it runs in a sandbox made of this machine's `bwrap`, in which that root is `/`:
//!
//! | | |
//! |---|---|
//! | writable | that root, and a copy of the package's source that is deleted afterwards; nothing else is there |
//! | `/proc`, `/dev`, `/run`, `/sys` | its own processes, read-only, with all sysctls; harmless devices; empty; empty: whatever is mounted there in the tree, and the sockets of this machine's services with it, is out of reach |
//! | uid 0 | in a user namespace that has no other. It owns root's files of the tree, which the script is there to change; everywhere else it is nobody. Files of other users it can neither write nor give away |
//! | capabilities | [`CAPABILITIES`], of that namespace: none reaches this machine |
//! | system calls, keyrings | as in builds' sandboxes: filtered, and a session keyring of its own |
//! | namespaces | processes, network, IPC, host name, mounts, control groups of its own; it ends with its first process |
//!
//! Device nodes and set-user-id programs of the tree have no effect in it: bwrap mounts `nodev` and `nosuid`.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use command_fds::CommandFdExt;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::rootfs::Root;
use crate::sandbox::{self, Ended, Excess, PATH};

/// How often a running script is looked at.
const TICK: Duration = Duration::from_millis(50);

/// What root of another root may do with its own files.
const CAPABILITIES: [&str; 4] = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"];

/// Places of another root in which something of this machine may be mounted.
const HIDDEN: [&str; 4] = ["/proc", "/dev", "/run", "/sys"];

/// Where the source lies under another root.
pub const SOURCE: &str = "/run/kcache/source";

/// One script to be run.
pub struct Script<'a> {
    /// The system that it runs on.
    pub root: &'a Root,
    /// The `bwrap` program of this machine, for another root's scripts.
    pub bwrap: &'a Path,
    /// The copy of the source, a path of this machine.
    pub source: &'a Path,
    /// The directory that it lies and runs in, as it sees it: the copy of the source, or one of the system's.
    pub directory: &'a Path,
    /// Its path in there, and arguments.
    pub command: &'a str,
    /// Receives what it prints. A file, because a pipe would be waited for as long as anybody has it.
    pub output: File,
    /// The longest it may take.
    pub limit: Duration,
    /// Set from outside to end it at once.
    pub cancel: &'a AtomicBool,
}

/// Most that a script may print, in bytes. It is read when it has ended.
pub const MOST_OUTPUT: u64 = 16 << 20;

/// As DKMS: split at white space, and skipped where it is no program.
const RUN: &str = r#"
run=$1/$2
cd "$1" || exit
[[ -x ${run%% *} ]] || { echo "${2%% *} is not executable and was skipped"; exit 0; }
exec $run
"#;

/// Runs a script to its end.
pub fn run(script: Script) -> io::Result<Ended> {
    if script.root.is_host() {
        return start(script, Command::new("/bin/bash"));
    }
    let command = confined(&script)?;
    // Who starts it has its keyrings, and is a thread: it leaves them, and stays until the script has ended, for that ends with it.
    let run = || {
        match keyutils::Keyring::join_anonymous_session() {
            Err(error) if error.0 != nix::libc::ENOSYS => return Err(io::Error::from_raw_os_error(error.0)),
            _ => {}
        }
        start(script, command)
    };
    std::thread::scope(|scope| scope.spawn(run).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn start(script: Script, mut command: Command) -> io::Result<Ended> {
    let printed = script.output.try_clone()?;
    command.args(["--norc", "--noprofile", "-c", RUN, "script"]).arg(script.directory).arg(script.command);
    command.env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C");
    command.stdin(Stdio::null()).stdout(script.output.try_clone()?).stderr(script.output);
    follow(command.process_group(0).spawn()?, &printed, script.limit, script.cancel)
}

/// bash in a sandbox that has another root as its own.
fn confined(script: &Script) -> io::Result<Command> {
    for place in HIDDEN.iter().map(|place| script.root.outside(place)) {
        // What is mounted on a link is mounted elsewhere.
        if place.is_symlink() {
            return Err(io::Error::other(format!(
                "{} is a link; refusing to run scripts there",
                place.display()
            )));
        }
    }
    let mut command = Command::new(script.bwrap);
    command.args(["--unshare-user", "--uid", "0", "--gid", "0", "--unshare-pid", "--unshare-net"]);
    command.args(["--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try", "--hostname", "localhost"]);
    command.args(["--die-with-parent", "--new-session", "--cap-drop", "ALL"]);
    command.args(CAPABILITIES.iter().flat_map(|capability| ["--cap-add", capability]));
    command.arg("--bind").arg(script.root.dir()).arg("/");
    // Its uid is the one that may write this machine's sysctls, in whichever namespace: bwrap leaves these as they are.
    command.args(["--proc", "/proc", "--remount-ro", "/proc"]);
    command.args(["--dev", "/dev", "--tmpfs", "/run", "--tmpfs", "/sys"]);
    command.arg("--bind").arg(script.source).arg(SOURCE);
    let filters = sandbox::filters()?;
    command.args(sandbox::with_filters(&filters));
    command.preserved_fds(filters);
    command.args(["--chdir", "/", "--", "/bin/bash"]);
    Ok(command)
}

fn follow(mut child: Child, printed: &File, limit: Duration, cancel: &AtomicBool) -> io::Result<Ended> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(ended(status));
        }
        let forced = match cancel.load(Ordering::Relaxed) {
            true => Some(Ended::Cancelled),
            false if printed.metadata()?.len() > MOST_OUTPUT => Some(Ended::TookTooMuch(Excess::Bytes)),
            false => (start.elapsed() > limit).then_some(Ended::TimedOut),
        };
        if let Some(forced) = forced {
            kill_process_group(Pid::from_child(&child), Signal::KILL)?;
            child.wait()?;
            return Ok(forced);
        }
        std::thread::sleep(TICK);
    }
}

fn ended(status: ExitStatus) -> Ended {
    match status.code() {
        Some(code) => Ended::Status(code),
        None => Ended::Signal(status.signal().unwrap_or(0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;
    use std::os::unix::fs::PermissionsExt;

    /// Runs a script of this text; how it ended, and what it printed.
    fn check(text: &str, mode: u32, limit: Duration) -> (Ended, String) {
        let dir = tempfile::tempdir().unwrap();
        let (script, output) = (dir.path().join("after.sh"), dir.path().join("output"));
        fs::write(&script, format!("#!/bin/bash\n{text}\n")).unwrap();
        fs::set_permissions(&script, PermissionsExt::from_mode(mode)).unwrap();
        let ended = run(Script {
            root: &Root::new("/"),
            bwrap: Path::new("bwrap"),
            source: dir.path(),
            directory: dir.path(),
            command: "after.sh 6.1  x86_64",
            output: fs::File::create(&output).unwrap().into_parts().0,
            limit,
            cancel: &AtomicBool::new(false),
        });
        (ended.unwrap(), fs::read_to_string(output).unwrap())
    }

    #[test]
    fn a_script_runs_in_its_source_with_its_arguments_and_an_empty_environment() {
        let long = Duration::from_secs(60);
        let text = "[[ -e $PWD/after.sh ]] && echo $# $1-$2 ${HOME} ${CARGO-none}; exit 3";
        assert_eq!(check(text, 0o755, long), (Ended::Status(3), "2 6.1-x86_64 /root none\n".into()));
        let (ended, said) = check("echo never", 0o644, long);
        assert_eq!(
            (ended, said.as_str()),
            (Ended::Status(0), "after.sh is not executable and was skipped\n")
        );
    }

    #[test]
    fn a_script_that_takes_too_long_is_ended_with_what_it_started() {
        let (ended, _) = check("sleep 987 & sleep 987", 0o755, Duration::from_millis(200));
        assert_eq!(ended, Ended::TimedOut);
    }

    #[test]
    fn a_script_that_prints_without_end_is_ended() {
        let text = "head -c 50000000 /dev/zero; sleep 60";
        let (ended, said) = check(text, 0o755, Duration::from_secs(50));
        assert_eq!(ended, Ended::TookTooMuch(Excess::Bytes), "{}", said.len());
    }
}
