//! `/run/kcache/ready/RELEASE`: a ready file exists if the last verdict on a kernel was "ready".
//!
//! It is for gates that cannot run a command: an orchestrator's reboot gate, a shell's `test -e`. It is created or deleted with
//! each verdict (`check --mark`, which the hooks call), and deleted before kcache changes anything for that kernel. Changes by
//! others are not noticed before the next verdict. The directory is in memory, so no ready file survives a reboot. The file
//! contains the name of the generation that was checked.

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
