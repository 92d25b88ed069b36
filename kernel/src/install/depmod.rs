//! Running depmod on the staged base, where it cannot do harm.
//!
//! depmod renames its outputs into place before it knows whether writing succeeded, syncs nothing, and silently lists
//! only one of two modules with the same name. So its exit status is checked, time and memory are limited, and its
//! output is read again ([`super::make_indexes`]).

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process_group, prlimit};

use super::names::DIR_PREFIX;
use super::tree::{DEP_BIN, Tree};
use super::{Error, Remark, Site, disk};
use crate::bounded_read::{self};

/// Directories in which depmod looks for its configuration (depmod.d(5)).
pub(super) const CONFIG_DIRS: [&str; 5] = ["etc", "run", "usr/local/lib", "usr/lib", "lib"];
/// `PATH` of depmod, which may be a wrapper that calls other programs.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Time limit. A whole kernel on a slow disk takes a minute.
const LIMIT: Duration = Duration::from_secs(600);
/// Interval at which its end is checked.
const TICK: Duration = Duration::from_millis(5);
/// Memory limit in bytes. A whole kernel takes less than a tenth.
const MOST_MEMORY: u64 = 4 << 30;
/// Limit in bytes on its output that is kept.
const MOST_WORDS: u64 = 1 << 20;

pub(super) fn call(site: &Site<'_>, tree: &Tree) -> Result<Vec<Remark>, Error> {
    let mut command = Command::new(site.depmod);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    for dir in configuration(site.root, tree)? {
        command.arg("-C").arg(dir);
    }
    command.arg("-b").arg(tree.base()).arg(&tree.release);
    let failed = |source| Error::NoDepmod { program: site.depmod.to_owned(), source };
    let (status, stderr) = bounded(command, LIMIT).map_err(failed)?;
    if !status.success() || stderr.lines().any(is_fatal) {
        return Err(Error::Depmod { status, stderr });
    }
    Ok(stderr.lines().map(|line| Remark::Depmod(line.to_owned())).collect())
}

/// Runs a command within limits of time and memory, and returns its output. An untrusted tree under `--root` can make
/// depmod read without end, or decompress to more than the memory.
fn bounded(mut command: Command, limit: Duration) -> io::Result<(ExitStatus, String)> {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn()?;
    let (pid, most) = (Pid::from_child(&child), Some(MOST_MEMORY));
    let _ = prlimit(Some(pid), Resource::As, Rlimit { current: most, maximum: most }); // it may have ended
    let words = child.stderr.take();
    let listener = std::thread::spawn(move || {
        let (mut said, mut words) = (Vec::new(), words?);
        words.by_ref().take(MOST_WORDS).read_to_end(&mut said).ok()?;
        io::copy(&mut words, &mut io::sink()).ok()?;
        Some(said)
    });
    let start = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if start.elapsed() > limit => {
                kill_process_group(pid, Signal::KILL)?;
                let status = child.wait()?;
                return Ok((status, format!("it took longer than {} s", limit.as_secs())));
            }
            None => std::thread::sleep(TICK),
        }
    };
    let said = listener.join().ok().flatten().unwrap_or_default();
    Ok((status, String::from_utf8_lossy(&said).trim_end().to_owned()))
}

/// Whether a line of output means that an index is incomplete, for which depmod may exit with 0. Other errors, such as
/// a dangling link among foreign modules, concern the state before; they are warnings.
fn is_fatal(line: &str) -> bool {
    let error = line.contains("ERROR:") || line.contains("FATAL:");
    error && ["modules.", DIR_PREFIX, "runcated", "No space"].iter().any(|word| line.contains(word))
}

/// The configuration directories of another root. For the running system, depmod finds them itself.
fn configuration(root: &Path, tree: &Tree) -> io::Result<Vec<PathBuf>> {
    if root == Path::new("/") {
        return Ok(Vec::new());
    }
    let mut dirs: Vec<PathBuf> = CONFIG_DIRS.iter().map(|dir| root.join(dir).join("depmod.d")).collect();
    dirs.retain(|dir| dir.is_dir());
    for dir in &dirs {
        for name in disk::names(dir)?.iter().filter(|name| name.ends_with(".conf")) {
            bounded_read::bytes(dir.join(name), bounded_read::MOST_CONFIG)?; // depmod would block on a FIFO
        }
    }
    if dirs.is_empty() {
        // Without any -C, depmod would read this machine's configuration.
        dirs.push(tree.depmod_dir());
        fs_err::create_dir(&dirs[0])?;
    }
    Ok(dirs)
}

/// The files that depmod wrote; links in the base are its input.
pub(super) fn written(base: &Path) -> io::Result<Vec<String>> {
    let mut names = disk::names(base)?;
    names.retain(|name| {
        name.starts_with("modules.") && base.join(name).symlink_metadata().is_ok_and(|m| m.is_file())
    });
    names.retain(|name| name != DEP_BIN);
    names.push(DEP_BIN.to_owned());
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_about_indexes_are_fatal_and_others_are_not() {
        for (line, expect) in [
            (
                "depmod: ERROR: Could not create index 'modules.dep.bin'. Output is truncated: No space left",
                true,
            ),
            ("depmod: FATAL: could not load updates/kcache-0123/a/a.ko", true),
            ("depmod: ERROR: fstatat(5, gone.ko): No such file or directory", false),
            ("depmod: WARNING: could not open modules.order at /x: No such file or directory", false),
        ] {
            assert_eq!(is_fatal(line), expect, "{line}");
        }
    }

    fn call_shell(script: &str, limit: Duration) -> (ExitStatus, String) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        bounded(command, limit).unwrap()
    }

    #[test]
    fn a_hanging_depmod_is_killed_with_its_children() {
        let start = Instant::now();
        let (status, said) = call_shell("sleep 600 & sleep 600", Duration::from_millis(300));
        assert!(!status.success() && said.contains("longer than"), "{status} {said}");
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn output_and_memory_of_depmod_are_limited() {
        let (status, said) = call_shell("head -c 3000000 /dev/zero | tr '\\0' x >&2; echo end >&2", LIMIT);
        assert!(status.success());
        assert_eq!(said.len() as u64, MOST_WORDS);
        let (_, said) = call_shell("sleep 0.3; ulimit -v >&2", LIMIT);
        assert_eq!(said.parse::<u64>().unwrap() << 10, MOST_MEMORY);
        assert_eq!(call_shell("echo well >&2", LIMIT).1, "well");
    }
}
