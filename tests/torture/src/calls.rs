//! The system calls that change something which lasts, and where each says what it changes.
//!
//! A table, one row a call. Only these stop under the tracer: a filter in the kernel (seccomp) lets all others pass at
//! full speed. `openat` stops when it may write. What is written through a shared mapping is not seen; kcache does so in
//! the `-shm` file of its index only, which nothing depends on after a crash. `mount` is none of them: a mount is gone after a crash.

use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// How a call names what it changes. The numbers are those of its arguments.
#[derive(Clone, Copy)]
enum Names {
    /// An open file.
    Fd(usize),
    /// A path, relative to the working directory.
    Path(usize),
    /// A directory and a path relative to it; without a path, the directory itself.
    At(usize, usize),
    /// `openat2`, whose flags are in memory.
    Open2,
}
use Names::{At, Fd, Open2, Path as ByPath};

/// What kind of change a call makes, which decides the errors that it may return.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Opens a file for writing, or makes it.
    Open,
    /// Gives bytes to an open file, or room.
    Write,
    /// Changes names in a directory.
    Name,
    /// Takes names away.
    Remove,
    /// Changes mode, owner or times.
    Attribute,
    /// Waits for the disk.
    Sync,
}
use Kind::{Attribute, Name, Open, Remove, Sync, Write};

struct Row(i64, &'static str, Kind, Names);

const FCHMODAT2: i64 = 452;

const TABLE: &[Row] = &[
    Row(libc::SYS_open, "open", Open, ByPath(0)),
    Row(libc::SYS_creat, "creat", Open, ByPath(0)),
    Row(libc::SYS_openat, "openat", Open, At(0, 1)),
    Row(libc::SYS_openat2, "openat2", Open, Open2),
    Row(libc::SYS_write, "write", Write, Fd(0)),
    Row(libc::SYS_pwrite64, "pwrite64", Write, Fd(0)),
    Row(libc::SYS_writev, "writev", Write, Fd(0)),
    Row(libc::SYS_pwritev, "pwritev", Write, Fd(0)),
    Row(libc::SYS_pwritev2, "pwritev2", Write, Fd(0)),
    Row(libc::SYS_copy_file_range, "copy_file_range", Write, Fd(2)),
    Row(libc::SYS_sendfile, "sendfile", Write, Fd(0)),
    Row(libc::SYS_splice, "splice", Write, Fd(2)),
    Row(libc::SYS_truncate, "truncate", Write, ByPath(0)),
    Row(libc::SYS_ftruncate, "ftruncate", Write, Fd(0)),
    Row(libc::SYS_fallocate, "fallocate", Write, Fd(0)),
    Row(libc::SYS_rename, "rename", Name, ByPath(1)),
    Row(libc::SYS_renameat, "renameat", Name, At(2, 3)),
    Row(libc::SYS_renameat2, "renameat2", Name, At(2, 3)),
    Row(libc::SYS_link, "link", Name, ByPath(1)),
    Row(libc::SYS_linkat, "linkat", Name, At(2, 3)),
    Row(libc::SYS_symlink, "symlink", Name, ByPath(1)),
    Row(libc::SYS_symlinkat, "symlinkat", Name, At(1, 2)),
    Row(libc::SYS_mkdir, "mkdir", Name, ByPath(0)),
    Row(libc::SYS_mkdirat, "mkdirat", Name, At(0, 1)),
    Row(libc::SYS_unlink, "unlink", Remove, ByPath(0)),
    Row(libc::SYS_unlinkat, "unlinkat", Remove, At(0, 1)),
    Row(libc::SYS_rmdir, "rmdir", Remove, ByPath(0)),
    Row(libc::SYS_chmod, "chmod", Attribute, ByPath(0)),
    Row(libc::SYS_fchmod, "fchmod", Attribute, Fd(0)),
    Row(libc::SYS_fchmodat, "fchmodat", Attribute, At(0, 1)),
    Row(FCHMODAT2, "fchmodat2", Attribute, At(0, 1)),
    Row(libc::SYS_chown, "chown", Attribute, ByPath(0)),
    Row(libc::SYS_fchown, "fchown", Attribute, Fd(0)),
    Row(libc::SYS_lchown, "lchown", Attribute, ByPath(0)),
    Row(libc::SYS_fchownat, "fchownat", Attribute, At(0, 1)),
    Row(libc::SYS_utime, "utime", Attribute, ByPath(0)),
    Row(libc::SYS_utimes, "utimes", Attribute, ByPath(0)),
    Row(libc::SYS_futimesat, "futimesat", Attribute, At(0, 1)),
    Row(libc::SYS_utimensat, "utimensat", Attribute, At(0, 1)),
    Row(libc::SYS_fsync, "fsync", Sync, Fd(0)),
    Row(libc::SYS_fdatasync, "fdatasync", Sync, Fd(0)),
    Row(libc::SYS_syncfs, "syncfs", Sync, Fd(0)),
];

/// The flags that make an `open` a change. `O_RDWR` alone counts: what follows may be a write through a mapping.
const CHANGING: [i32; 4] = [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC];

/// The filter that stops exactly these calls.
pub fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let rules = TABLE.iter().map(|row| Ok((row.0, rules(row)?))).collect::<Result<_, _>>()?;
    SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Trace(0), TargetArch::x86_64)?.try_into()
}

/// No rule: every such call. Else a call that fits one of them.
fn rules(row: &Row) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let flags_at = match (row.2, row.3) {
        (Open, At(..)) => 2,
        (Open, ByPath(_)) if row.1 == "open" => 1,
        _ => return Ok(Vec::new()),
    };
    let rule = |flag: &i32| {
        let flag = u64::from(flag.unsigned_abs());
        let has = SeccompCmpOp::MaskedEq(flag);
        SeccompRule::new(vec![SeccompCondition::new(flags_at, SeccompCmpArgLen::Dword, has, flag)?])
    };
    CHANGING.iter().map(rule).collect()
}

/// A call that a process is about to make.
#[derive(Clone, Debug)]
pub struct Call {
    /// Its name.
    pub name: &'static str,
    pub kind: Kind,
    /// What it changes; of a rename or link the new name.
    pub path: PathBuf,
}

impl Call {
    /// The call with this number and these arguments, if it is one that changes a file.
    pub fn of(pid: i32, number: i64, arguments: [u64; 6]) -> Option<Call> {
        let row = TABLE.iter().find(|row| row.0 == number)?;
        let path = match row.3 {
            Fd(fd) => opened(pid, arguments[fd])?,
            ByPath(path) => named(pid, libc::AT_FDCWD, &text(pid, arguments[path])?)?,
            At(dir, path) => named(pid, as_fd(arguments[dir]), &text(pid, arguments[path])?)?,
            Open2 if !opens_to_change(pid, arguments[2]) => return None,
            Open2 => named(pid, as_fd(arguments[0]), &text(pid, arguments[1])?)?,
        };
        Some(Call { name: row.1, kind: row.2, path })
    }

    pub fn is_under(&self, roots: &[PathBuf]) -> bool {
        roots.iter().any(|root| self.path.starts_with(root))
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(to, "{} {}", self.name, self.path.display())
    }
}

/// An `int` in a register: the upper half says nothing.
fn as_fd(argument: u64) -> i32 {
    argument as u32 as i32
}

fn opened(pid: i32, fd: u64) -> Option<PathBuf> {
    fs_err::read_link(format!("/proc/{pid}/fd/{}", as_fd(fd))).ok()
}

fn named(pid: i32, dir: i32, path: &Path) -> Option<PathBuf> {
    if path.is_absolute() {
        return Some(straight(path));
    }
    let base = match dir {
        libc::AT_FDCWD => fs_err::read_link(format!("/proc/{pid}/cwd")).ok()?,
        fd => fs_err::read_link(format!("/proc/{pid}/fd/{fd}")).ok()?,
    };
    Some(straight(&base.join(path)))
}

/// Without `.` and `..`, as text: links are not followed, so that a call on a link is one on the link.
fn straight(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::CurDir => {}
            part => path.push(part),
        }
        path
    })
}

/// The text at an address in a process's memory; the null address is the empty path.
fn text(pid: i32, address: u64) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = vec![0; libc::PATH_MAX as usize];
    if address == 0 {
        return Some(PathBuf::new());
    }
    let read = memory(pid)?.file().read_at(&mut bytes, address).ok()?;
    bytes.truncate(bytes[..read].iter().position(|byte| *byte == 0)?);
    Some(std::ffi::OsString::from_vec(bytes).into())
}

/// `struct open_how` begins with the flags, 64 bits of them.
fn opens_to_change(pid: i32, how: u64) -> bool {
    let mut flags = [0; 8];
    let read = memory(pid).and_then(|memory| memory.file().read_exact_at(&mut flags, how).ok());
    let flags = u64::from_ne_bytes(flags);
    read.is_none() || CHANGING.iter().any(|flag| flags & u64::from(flag.unsigned_abs()) != 0)
}

fn memory(pid: i32) -> Option<fs_err::File> {
    fs_err::File::open(format!("/proc/{pid}/mem")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_made_straight_as_text() {
        assert_eq!(straight(Path::new("/a/./b/../c")), Path::new("/a/c"));
    }

    #[test]
    fn every_call_has_one_row() {
        for row in TABLE {
            assert_eq!(TABLE.iter().filter(|other| other.0 == row.0).count(), 1, "{}", row.1);
        }
    }
}
