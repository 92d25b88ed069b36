//! The arguments of `bwrap`.

use std::ffi::OsString;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Command;

use rustix::fs::{MemfdFlags, memfd_create};

/// `bwrap`'s arguments, in order of execution.
#[derive(Default)]
pub(super) struct Arguments(Vec<OsString>, Closed);

/// File systems in memory to remount read-only after all mounts.
type Closed = Vec<OsString>;

impl Arguments {
    /// All of them, with the directory in which the command runs.
    pub(super) fn ending_in(mut self, directory: &Path) -> Vec<OsString> {
        self.0.extend(["--chdir".into(), directory.into()]);
        self.0
    }

    pub(super) fn flags(&mut self, flags: &[&str]) {
        self.0.extend(flags.iter().map(OsString::from));
    }

    pub(super) fn pair(&mut self, flag: &str, from: impl Into<OsString>, to: impl Into<OsString>) {
        self.0.extend([flag.into(), from.into(), to.into()]);
    }

    /// Like [`Arguments::pair`], creating parent directories: those that bwrap creates by itself are accessible to
    /// root only.
    pub(super) fn mount(&mut self, flag: &str, from: &Path, to: &Path) {
        let parents: Vec<&Path> = to.ancestors().skip(1).filter(|dir| dir.parent().is_some()).collect();
        for parent in parents.into_iter().rev() {
            self.directory(parent);
        }
        self.pair(flag, from, to);
    }

    /// Creates an empty directory that the build's uid can traverse, whatever the umask.
    pub(super) fn directory(&mut self, path: impl Into<OsString>) {
        self.flags(&["--perms", "0755", "--dir"]);
        self.0.push(path.into());
    }

    /// Creates a file system in memory for mount points.
    pub(super) fn tmpfs(&mut self, path: impl Into<OsString>) {
        let path = path.into();
        self.flags(&["--perms", "0755", "--tmpfs"]);
        self.0.push(path.clone());
        self.1.push(path);
    }

    /// Creates a file system in memory that everybody can write, with a size limit in bytes.
    pub(super) fn memory(&mut self, path: &str, most: &str) {
        self.flags(&["--perms", "1777", "--size", most, "--tmpfs", path]);
    }

    /// Remounts read-only the file systems in memory that belong to the user and must not be written.
    pub(super) fn close(&mut self) {
        for path in std::mem::take(&mut self.1) {
            self.flags(&["--remount-ro"]);
            self.0.push(path);
        }
        self.flags(&["--remount-ro", "/dev"]);
    }

    /// Whether there is a link or mount at exactly this path.
    pub(super) fn is_made(&self, path: &Path) -> bool {
        self.0.windows(3).any(|words| {
            ["--symlink", "--ro-bind"].iter().any(|flag| words[0] == *flag) && words[2] == path.as_os_str()
        })
    }

    /// Whether something was already mounted at exactly this path.
    pub(super) fn holds(&self, path: &Path) -> bool {
        self.0.windows(2).any(|pair| pair[0] == "--tmpfs" && pair[1] == path.as_os_str())
    }
}

/// The environment that a command will have, as `NAME=VALUE`.
pub(super) fn environment(command: &Command) -> Vec<String> {
    let set = command.get_envs().filter_map(|(name, value)| Some((name.to_str()?, value?.to_str()?)));
    set.map(|(name, value)| format!("{name}={value}")).collect()
}

/// The filters of system calls as anonymous files for bwrap.
pub(crate) fn filters() -> io::Result<Vec<OwnedFd>> {
    super::seccomp::filters()?.iter().map(|filter| nameless(filter)).collect()
}

/// The arguments that pass the filters to bwrap.
pub(crate) fn with_filters(filters: &[OwnedFd]) -> impl Iterator<Item = String> {
    filters.iter().flat_map(|filter| ["--add-seccomp-fd".to_owned(), filter.as_raw_fd().to_string()])
}

/// An anonymous file in memory with this content, positioned at its beginning.
pub(super) fn nameless(content: &[u8]) -> io::Result<OwnedFd> {
    // A hardened machine allows only this kind (vm.memfd_noexec); kernels before Linux 6.3 do not have it.
    let file = memfd_create("kcache", MemfdFlags::CLOEXEC | MemfdFlags::NOEXEC_SEAL);
    let file = file.or_else(|_| memfd_create("kcache", MemfdFlags::CLOEXEC))?;
    let mut file = std::fs::File::from(file);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}
