//! `/run/kcache/ready/RELEASE`: a file that exists if the last verdict on a kernel was "ready".
//!
//! It is for programs that only check for a file: an orchestration's reboot gate, a shell's `test -e`. `check --mark`,
//! which the hooks call, creates or deletes it according to the verdict, and kcache deletes it before it changes
//! anything for that kernel. Later changes by others are not noticed before the next verdict; the directory is in
//! memory, so no file survives a reboot. It contains the name of the generation.

use std::io;
use std::path::PathBuf;

use fs_err as fs;
use kcache_kernel::rootfs::{self, Root};

use crate::error::Result;
use crate::verdict::Verdict;

const DIRECTORY: &str = "/run/kcache/ready";

/// Creates or deletes a kernel's file, according to the verdict.
pub fn set(root: &Root, verdict: &Verdict) -> Result<()> {
    let release = &verdict.kernel.release;
    if !verdict.ready {
        return clear(root, release);
    }
    let path = path(root, release)?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let generation = verdict.generation.as_deref().unwrap_or("-");
    Ok(rootfs::put(&path, format!("{generation}\n").as_bytes())?)
}

/// Deletes a kernel's file, if it exists.
pub fn clear(root: &Root, release: &str) -> Result<()> {
    match fs::remove_file(path(root, release)?) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    }
}

fn path(root: &Root, release: &str) -> io::Result<PathBuf> {
    Ok(root.place(DIRECTORY)?.join(release))
}
