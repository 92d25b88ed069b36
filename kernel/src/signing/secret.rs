//! Secrets: passphrases, and the files that contain keys.
//!
//! A file is used only if nobody but its owner can read it, and the owner is root or the current user. A passphrase
//! may come from such a file, for instance `$CREDENTIALS_DIRECTORY/NAME` of a systemd service, or from a program that
//! prompts a person or queries a vault. It never is an argument or a variable, which other users of the machine can
//! see.

use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use fs_err as fs;
use rustix::process::{Pid, Signal, kill_process};
use zeroize::Zeroizing;

use super::Error;

/// Size limit in bytes of keys, certificates and passphrases.
const MAX: u64 = 64 << 10;

/// Time limit of a command that prints a secret: a kernel's lock is held meanwhile, and nobody may be there to type.
const PATIENCE: Duration = Duration::from_secs(60);

/// The source of a passphrase or PIN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// The first line of a file.
    File(PathBuf),
    /// The first line of a shell command's output.
    Command(String),
}

impl Secret {
    /// Reads the secret, or runs the command.
    pub(super) fn read(&self) -> Result<Zeroizing<String>, Error> {
        let bytes = match self {
            Secret::File(path) => read_file(path)?,
            Secret::Command(command) => output(command, PATIENCE)?,
        };
        let not_text = || match self {
            Secret::File(path) => {
                Error::Malformed { path: path.clone(), reason: "not UTF-8 text".to_owned() }
            }
            Secret::Command(_) => Error::Command { reason: "the output is not UTF-8 text".to_owned() },
        };
        let text = std::str::from_utf8(&bytes).map_err(|_| not_text())?;
        Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
    }
}

/// Runs a shell command, which may use the terminal. Its stdout is the secret.
fn output(command: &str, limit: Duration) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |reason: String| Error::Command { reason };
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = shell.spawn().map_err(|e| failed(e.to_string()))?;
    let pid = Pid::from_child(&child);
    let (send, receive) = mpsc::channel();
    // Reading ends with the pipe, which programs started by the command may keep open after its end.
    thread::spawn(move || send.send(listen(&mut child)));
    let Ok(listened) = receive.recv_timeout(limit) else {
        kill_with_children(pid);
        return Err(failed(format!("timed out after {} s", limit.as_secs())));
    };
    let (printed, status) = listened.map_err(|e| failed(e.to_string()))?;
    if printed.len() as u64 > MAX {
        return Err(failed(format!("printed more than {MAX} bytes")));
    }
    if !status.success() {
        return Err(failed(status.to_string()));
    }
    if printed.is_empty() {
        return Err(failed("no output".to_owned()));
    }
    Ok(printed)
}

/// Reads a command's output, at most one byte more than [`MAX`], and its status. One that prints more is killed.
fn listen(child: &mut Child) -> io::Result<(Zeroizing<Vec<u8>>, ExitStatus)> {
    let stdout = child.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?;
    let printed = read_at_most(stdout)?;
    if printed.len() as u64 > MAX {
        kill_with_children(Pid::from_child(child));
    }
    Ok((printed, child.wait()?))
}

/// Kills a process and what it has started. A process group would do, but one of its own could not read from the terminal.
fn kill_with_children(pid: Pid) {
    // proc_pid_task_tid_children(5): of a stopped process they are all there. Without that file only the process is killed.
    let _ = kill_process(pid, Signal::STOP); // it may have ended
    let number = pid.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{number}/task/{number}/children")).unwrap_or_default();
    let _ = kill_process(pid, Signal::KILL);
    children
        .split_whitespace()
        .filter_map(|child| Pid::from_raw(child.parse().ok()?))
        .for_each(kill_with_children);
}

/// Reads a file that belongs to root or the current user, and that nobody else can read.
pub(super) fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
    let exposed = |reason: String| Error::Exposed { path: path.to_owned(), reason };
    // Opening a FIFO would block.
    let options = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
        .to_owned();
    let file = fs_err::OpenOptions::from_options(options).open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(exposed("not a regular file".to_owned()));
    }
    if meta.mode() & 0o077 != 0 {
        let mode = meta.mode() & 0o7777;
        return Err(exposed(format!("accessible by users other than its owner (mode {mode:04o})")));
    }
    if meta.uid() != 0 && meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(exposed(format!("owned by another user (uid {})", meta.uid())));
    }
    read_small(path, file)
}

/// Reads a small file.
pub(super) fn read_small(path: &Path, file: impl Read) -> Result<Zeroizing<Vec<u8>>, Error> {
    let bytes = read_at_most(file)?;
    if bytes.len() as u64 > MAX {
        let reason = format!("larger than {MAX} bytes");
        return Err(Error::Malformed { path: path.to_owned(), reason });
    }
    Ok(bytes)
}

/// Reads at most one byte more than [`MAX`].
fn read_at_most(from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    // Allocated at once, because a growing buffer would leave copies in memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX as usize + 1));
    from.take(MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_does_not_answer_times_out() {
        let told = output("exec sleep 987", Duration::from_millis(100)).unwrap_err().to_string();
        assert!(told.contains("timed out after"), "{told}");
        assert_eq!(**output("echo open", PATIENCE).unwrap(), *b"open\n");
    }

    #[test]
    fn what_a_command_has_started_ends_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let pids = dir.path().join("pids");
        let command = format!("(sleep 987 & echo $! > '{}'; wait) & wait", pids.display());
        output(&command, Duration::from_millis(500)).unwrap_err();
        let child = fs::read_to_string(pids).unwrap();
        let stat = || fs::read_to_string(format!("/proc/{}/stat", child.trim())).unwrap_or_default();
        let is_dead = |_| {
            thread::sleep(Duration::from_millis(50)); // it dies when it is next scheduled
            stat().is_empty() || stat().contains(") Z ")
        };
        assert!((0..200).any(is_dead), "{}", stat());
    }

    #[test]
    fn a_command_that_prints_without_end_is_killed_and_not_kept_in_memory() {
        for endless in ["yes", "exec cat /dev/zero", "yes | cat"] {
            let told = output(endless, PATIENCE).unwrap_err().to_string();
            assert!(told.contains("printed more than 65536 bytes"), "{endless}: {told}");
        }
    }
}
