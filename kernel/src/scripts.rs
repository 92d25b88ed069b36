//! Running a package's script for the system, as DKMS does, on the system itself.
//!
//! As in DKMS, its working directory is the source, its arguments are split at white space, and it gets nothing of
//! kcache's environment. Its time is limited; processes that it leaves running in its group are killed only if it is.
//!
//! On this machine it runs as root, unconfined. For another root, chroot would confine nobody, because root can leave
//! it. So there it runs in a sandbox of this machine's `bwrap`, in which that root is `/`:
//!
//! | | |
//! |---|---|
//! | writable | that root, and a copy of the package's source that is deleted afterwards; nothing else exists |
//! | `/proc`, `/dev`, `/run`, `/sys` | its own processes, read-only, with all sysctls; harmless devices; empty; empty: whatever is mounted there in the tree, and the sockets of this machine's services with it, is out of reach |
//! | uid 0 | in a user namespace that has no other. It owns root's files of the tree, which the script is there to change; everywhere else it is nobody. Files of other users it can neither write nor give away |
//! | capabilities | `CAPABILITIES`, in that namespace: none applies to this machine |
//! | system calls, keyrings | as in builds' sandboxes: filtered, and a session keyring of its own |
//! | namespaces | own processes, network, IPC, host name, mounts, control groups; it ends with its first process |
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

/// Interval at which a running script is checked.
const TICK: Duration = Duration::from_millis(50);

/// Capabilities of another system's root over its own files.
const CAPABILITIES: [&str; 4] = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID"];

/// Directories of another root in which something of this machine may be mounted.
const HIDDEN: [&str; 4] = ["/proc", "/dev", "/run", "/sys"];

/// Path of the source when running in another root.
pub const SOURCE: &str = "/run/kcache/source";

/// A script to run.
pub struct Script<'a> {
    /// The system that it runs on.
    pub root: &'a Root,
    /// Path of this machine's `bwrap`, for scripts of another root.
    pub bwrap: &'a Path,
    /// Path on this machine of the copy of the source.
    pub source: &'a Path,
    /// Its working directory as the script sees it: the copy of the source, or a directory of the system.
    pub directory: &'a Path,
    /// Its path relative to that directory, and arguments.
    pub command: &'a str,
    /// Receives its output. A file, because reading a pipe would block as long as any process has it open.
    pub output: File,
    /// Time limit.
    pub limit: Duration,
    /// Cancels the script when set.
    pub cancel: &'a AtomicBool,
}

/// Limit in bytes on a script's output, which is read after its end.
pub const MOST_OUTPUT: u64 = 16 << 20;

/// As in DKMS: split at white space, and skipped if it is not executable.
const RUN: &str = r#"
run=$1/$2
cd "$1" || exit
[[ -x ${run%% *} ]] || { echo "${2%% *} is not executable and was skipped"; exit 0; }
exec $run
"#;

/// Runs a script and waits for its end.
pub fn run(script: Script) -> io::Result<Ended> {
    if script.root.is_host() {
        return start(script, Command::new("/bin/bash"));
    }
    let command = confined(&script)?;
    // The sandbox ends with the thread that starts it, so that thread waits for the end. It also leaves its keyrings
    // first.
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

/// bash in a sandbox with another root as `/`.
fn confined(script: &Script) -> io::Result<Command> {
    for place in HIDDEN.iter().map(|place| script.root.outside(place)) {
        // A mount on a link would be mounted at its target.
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
    // The sandbox's uid may write this machine's sysctls in any namespace, and bwrap leaves them writable.
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

    /// Runs a script with this text; returns how it ended, and its output.
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
    fn a_script_that_takes_too_long_is_killed_with_its_children() {
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
