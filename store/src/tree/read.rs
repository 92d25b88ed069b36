//! Reading the files of a walk: many at a time, each through one buffer.
//!
//! Reading cold files means waiting for the disk, so there are more readers than processors: sixteen read 17,000
//! headers three times as fast as one. Most files fit into the buffer, so one `read` suffices.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode};

use super::open::{FILE, changed_or, open_below, os};
use super::program;
use super::walk::{Entry, Tree};
use crate::error::at;
use crate::{Digest, Error, Result};

/// Reader threads; more gain nothing (see above).
const READERS: usize = 16;
/// Files that a reader takes at a time.
const BATCH: usize = 16;
const BUFFER: usize = 128 << 10;

/// Opens a regular file of a tree.
pub(super) fn open_file(tree: &Tree, entry: &Entry) -> Result<OwnedFd> {
    let opened = match &tree.dir {
        Some(dir) => open_below(dir, tree.path(entry), FILE),
        None => rustix::fs::open(&tree.root.path, FILE, Mode::empty()),
    };
    opened.map_err(|e| changed_or(e, "open", &tree.full_path(entry)))
}

/// Reads the target of a link in a tree.
pub(super) fn link_target(tree: &Tree, entry: &Entry) -> Result<Vec<u8>> {
    let target = match &tree.dir {
        Some(dir) => rustix::fs::readlinkat(dir, os(tree.path(entry)), Vec::new()),
        None => rustix::fs::readlink(&tree.root.path, Vec::new()),
    };
    target.map(|t| t.into_bytes()).map_err(|e| changed_or(e, "read", &tree.full_path(entry)))
}

/// Passes on all bytes of a file in a tree, and hashes exactly those.
pub(super) fn pass_on(
    tree: &Tree,
    entry: &Entry,
    buffer: &mut [u8],
    to: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Digest> {
    let path = || tree.full_path(entry);
    let fd = open_file(tree, entry)?;
    let mut hasher = blake3::Hasher::new();
    loop {
        let n = read(&fd, buffer).map_err(|e| at("read", &path())(e))?;
        hasher.update(&buffer[..n]);
        to(&buffer[..n])?;
        // A read that fills less than the buffer reached the end; then the size must match.
        if n < buffer.len() && hasher.count() >= entry.size || n == 0 {
            break;
        }
    }
    if hasher.count() == entry.size {
        Ok(hasher.finalize().into())
    } else {
        Err(Error::Changed { path: path() })
    }
}

/// Digest and size in bytes of one file, by its path.
pub(super) fn file(path: &Path) -> Result<(Digest, u64)> {
    each_piece(path, &mut |_| ())
}

/// Digest of one file, by its path: of an ELF program by what it does. It is read once: by its path there may be another one
/// the next time.
pub(super) fn program(path: &Path) -> Result<Digest> {
    let (mut bytes, mut is_first) = (None, true);
    let (digest, _) = each_piece(path, &mut |piece| {
        if std::mem::take(&mut is_first) && program::is_program(piece) {
            bytes = Some(Vec::new());
        }
        // What grows beyond the limit is a plain file.
        bytes = bytes.take().filter(|kept: &Vec<u8>| (kept.len() + piece.len()) as u64 <= program::MOST);
        bytes.iter_mut().for_each(|kept| kept.extend_from_slice(piece));
    })?;
    Ok(bytes.map_or(digest, |bytes| program::digest(&bytes)))
}

/// Passes on all bytes of one file, hashing them; returns their digest and number.
fn each_piece(path: &Path, to: &mut dyn FnMut(&[u8])) -> Result<(Digest, u64)> {
    let fd = rustix::fs::open(path, FILE, Mode::empty()).map_err(|e| at("open", path)(e.into()))?;
    let mode = rustix::fs::fstat(&fd).map_err(|e| at("access", path)(e.into()))?.st_mode;
    if FileType::from_raw_mode(mode) != FileType::RegularFile {
        return Err(Error::NotPlain { path: path.to_owned(), kind: "directory or special file" });
    }
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let n = read(&fd, &mut buffer).map_err(at("read", path))?;
        if n == 0 {
            return Ok((hasher.finalize().into(), hasher.count()));
        }
        hasher.update(&buffer[..n]);
        to(&buffer[..n]);
    }
}

/// Calls `work` for each number below `count`, on many threads with a buffer each, and collects the results in order.
pub(super) fn each<T: Send>(
    count: usize,
    work: impl Fn(usize, &mut [u8]) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let reader = || {
        let mut done = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let start = next.fetch_add(BATCH, Ordering::Relaxed);
            if start >= count {
                return Ok(done);
            }
            for n in start..count.min(start + BATCH) {
                let made = work(n, &mut buffer).inspect_err(|_| next.store(count, Ordering::Relaxed))?;
                done.push((n, made));
            }
        }
    };
    let readers = READERS.min(count.div_ceil(BATCH));
    let mut all: Vec<(usize, T)> = std::thread::scope(|threads| {
        let running: Vec<_> = (0..readers).map(|_| threads.spawn(reader)).collect();
        let done = running.into_iter().map(|reader| match reader.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        done.collect::<Result<Vec<_>>>()
    })?
    .into_iter()
    .flatten()
    .collect();
    all.sort_unstable_by_key(|(n, _)| *n);
    Ok(all.into_iter().map(|(_, made)| made).collect())
}

fn read(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut *buffer))?)
}
