//! This program's own files, found while it runs: it may have been replaced on disk.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use fs_err as fs;
use kcache::kernel::program::OwnProgram;

const OWN: &str = "/proc/self/exe";

/// What `/proc/self` says of the program and of what it has mapped.
struct Seen {
    called: PathBuf,
    maps: String,
}

static BEFORE: OnceLock<Option<Seen>> = OnceLock::new();

/// Looks before this process gets mounts of its own: in a chroot, the paths of files that it opened before are afterwards those
/// outside of it (proc_pid_maps(5)).
pub fn look() {
    BEFORE.get_or_init(|| see().ok());
}

/// The running program.
///
/// # Errors
///
/// If `/proc` cannot be read.
pub fn own_program() -> io::Result<OwnProgram> {
    let before = BEFORE.get().and_then(Option::as_ref);
    let now = if before.is_none() { Some(see()?) } else { None };
    let Some(Seen { called, maps }) = before.or(now.as_ref()) else { return Err(io::Error::other(OWN)) };
    let same = |other: &Path| {
        let (own, other) = (fs::metadata(OWN).ok()?, fs::metadata(other).ok()?);
        Some((own.dev(), own.ino()) == (other.dev(), other.ino()))
    };
    let path = if same(called) == Some(true) { called } else { Path::new(OWN) };
    Ok(OwnProgram::of_maps(path, called, maps))
}

fn see() -> io::Result<Seen> {
    Ok(Seen { called: fs::read_link(OWN)?, maps: fs::read_to_string("/proc/self/maps")? })
}
