//! In a plain chroot, a root directory that is a mount point.
//!
//! bubblewrap changes its root with pivot_root(2), which wants `/` to be a mount point. After `chroot DIR`, it is one only if DIR
//! is: after debootstrap, in most scripts of image builders, it is not. So root's kcache makes itself a mount namespace in which it is
//! one, and starts again in it, since the files of a running program stay where they were mounted:
//!
//! ```text
//! before   /srv            a mount          after, in this namespace only
//!            DIR           root of kcache     DIR         as it was
//!              usr, proc                        usr       DIR once more, with all that is mounted in it: root of kcache
//! ```
//! What is covered by that mount (`usr` as it is seen from outside) nobody in this namespace sees.
//!
//! The namespace's mounts must be private before, or the mount would propagate to the machine's own. That can be said of a whole
//! namespace only at its root, to which `..` leads from a directory that is outside of the process's root (chroot(2)).
//!
//! Nothing is done where it is not needed, for users, and without `/proc`. If it fails, the run continues as it is, and
//! builds say what they need.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxAttributes, StatxFlags, open, statx};
use rustix::mount::{MountPropagationFlags, mount_bind_recursive, mount_change};
use rustix::process::{chdir, chroot, fchdir};

/// A directory of every system. The new root is mounted over it.
const COVERED: &str = "usr";
/// Most directories between a root and that of its namespace.
const DEEPEST: usize = 256;

/// Starts this program again with a root that is a mount point, if it is root's and has none. Returns if it does not.
pub fn ensure() {
    if !rustix::process::geteuid().is_root() || is_mount_point("/").unwrap_or(true) {
        return;
    }
    let Ok(program) = std::env::current_exe() else { return };
    let here = std::env::current_dir();
    let Ok(before) = enter() else { return };
    let mut arguments = std::env::args_os();
    let mut again = Command::new(program);
    again.arg0(arguments.next().unwrap_or_default()).args(arguments);
    // A directory that does not exist any more is no reason not to run.
    if let Ok(here) = here {
        again.current_dir(here);
    }
    let _ = again.exec(); // returns only if it failed
    let _ = leave(&before);
}

fn look(path: &str) -> io::Result<Statx> {
    Ok(statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)?)
}

fn is_mount_point(path: &str) -> io::Result<bool> {
    let found = look(path)?;
    match found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        true => Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Changes the root; returns the one before. On failure it is that again.
fn enter() -> io::Result<OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // Opened before, it would lead to the mounts of the other namespace.
    let root = open("/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match bind(&root) {
        Ok(()) => Ok(root),
        Err(error) => {
            leave(&root)?;
            Err(error)
        }
    }
}

fn leave(before: &OwnedFd) -> io::Result<()> {
    fchdir(before)?;
    Ok(chroot(".")?)
}

fn bind(root: &OwnedFd) -> io::Result<()> {
    fchdir(root)?;
    chroot(COVERED)?;
    // The root of the namespace is its own parent.
    for _ in 0..DEEPEST {
        let before = look(".")?;
        chdir("..")?;
        let now = look(".")?;
        let place = |found: &Statx| (found.stx_dev_major, found.stx_dev_minor, found.stx_ino);
        if place(&before) == place(&now) {
            break;
        }
    }
    mount_change(".", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    fchdir(root)?;
    chroot(".")?;
    mount_bind_recursive(".", COVERED)?;
    chroot(COVERED)?;
    chdir("/")?;
    if is_mount_point("/")? { Ok(()) } else { Err(io::ErrorKind::Unsupported.into()) }
}
