//! Expected build times: the time that the package's last build took here, for whatever kernel; for a new package, an estimate
//! from the size of its source.

use std::path::Path;

use fs_err as fs;
use kcache_kernel::packages::Package;
use kcache_store::Digest;

use crate::error::Result;
use crate::run::session::Session;

/// Kind of the memo with the duration of a package's last build.
const KIND: &str = "seconds of a build";

/// Bytes of C compiled per second, including headers; measured for Debian's packages with two CPUs.
const BYTES_A_SECOND: f64 = 20_000.0;

/// Duration of the smallest build in seconds.
const LEAST_SECONDS: f64 = 2.0;

/// Records the duration of a build.
pub(crate) fn remember(session: &Session, package: &Package, seconds: f64) -> Result<()> {
    let Some(store) = &session.store else { return Ok(()) };
    Ok(store.remember(KIND, &name(package), &seconds.to_le_bytes(), session.context.now())?)
}

/// Expected duration of a package's build in seconds.
pub(super) fn expected(session: &Session, package: &Package) -> f64 {
    let known = session.store.as_ref().and_then(|store| store.memo(KIND, &name(package)).ok().flatten());
    let known = known.and_then(|bytes| Some(f64::from_le_bytes(bytes.try_into().ok()?)));
    match known.filter(|seconds| (0.0..1e6).contains(seconds)) {
        Some(seconds) => seconds,
        None => LEAST_SECONDS + bytes_of_c(&package.source) as f64 / BYTES_A_SECOND,
    }
}

fn name(package: &Package) -> Digest {
    Digest::of(package.name.as_bytes())
}

/// Bytes of C source below a directory; unreadable files do not count.
fn bytes_of_c(dir: &Path) -> u64 {
    let size = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => bytes_of_c(&entry.path()),
        Ok(kind) if kind.is_file() && entry.path().extension().is_some_and(|end| end == "c") => {
            entry.metadata().map_or(0, |metadata| metadata.len())
        }
        _ => 0,
    };
    fs::read_dir(dir).into_iter().flatten().flatten().map(size).sum()
}
