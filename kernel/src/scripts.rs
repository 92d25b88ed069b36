//! A package's script for the system: run as DKMS runs it, as root, on the system itself.
//!
//! It gets what DKMS gives it: the source as its directory, its arguments split at white space, nothing of kcache's
//! environment. Under another root it runs in a chroot. It is not confined, so it is run only where the administrator has
//! allowed it; it may not take for ever, and what it leaves running in its process group is ended only with it by force.

use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::rootfs::Root;
use crate::sandbox::{Ended, PATH};

/// How often a running script is looked at.
const TICK: Duration = Duration::from_millis(50);

/// One script to be run.
pub struct Script<'a> {
    /// The system that it runs on.
    pub root: &'a Root,
    /// The directory that it lies and runs in, a path of that system.
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

/// As DKMS: split at white space, and skipped where it is no program.
const RUN: &str = r#"
run=$1/$2
cd "$1" || exit
[[ -x ${run%% *} ]] || { echo "${2%% *} is not executable and was skipped"; exit 0; }
exec $run
"#;

/// Runs a script to its end.
pub fn run(script: Script) -> io::Result<Ended> {
    let mut command = match script.root.is_host() {
        true => Command::new("/bin/bash"),
        false => {
            let mut chroot = Command::new("chroot");
            chroot.arg(script.root.dir()).arg("/bin/bash");
            chroot
        }
    };
    command.args(["--norc", "--noprofile", "-c", RUN, "script"]).arg(script.directory).arg(script.command);
    command.env_clear().env("PATH", PATH).env("HOME", "/root").env("LANG", "C");
    command.stdin(Stdio::null()).stdout(script.output.try_clone()?).stderr(script.output);
    follow(command.process_group(0).spawn()?, script.limit, script.cancel)
}

fn follow(mut child: Child, limit: Duration, cancel: &AtomicBool) -> io::Result<Ended> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(ended(status));
        }
        let forced = match cancel.load(Ordering::Relaxed) {
            true => Some(Ended::Cancelled),
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
}
