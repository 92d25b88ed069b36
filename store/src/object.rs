//! Objects: files named by the digest of their bytes, `objects/ab/<digest>.zst`.
//!
//! The digest is of the uncompressed bytes, because zstd's output differs between versions and an object's name must
//! not. The file's length is not trusted: decompressed bytes are counted, hashed and compared.

use std::io::{self, ErrorKind, Read, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use crate::disk::if_there;
use crate::publish::{Draft, open_plain};
use crate::{Digest, Error, Result};

/// zstd level. 3 has ratio 4 on ELF files of some 30 KB and decodes at 440 MB/s or more; 19 gains 17 % for 30 times
/// the time.
pub(crate) const LEVEL: i32 = 3;
/// Limit on zstd's window as a power of two: 128 MiB, zstd's default bound, so a malicious frame cannot make a reader
/// allocate more.
const WINDOW_LOG_MAX: u32 = 27;
const CHUNK: usize = 128 << 10;
/// Number of bytes from which hashing is worth a thread.
const LARGE: u64 = 4 << 20;

/// An object that was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// The object's name.
    pub digest: Digest,
    /// Its size in bytes, uncompressed.
    pub size: u64,
}

/// Path of an object in a store's `objects` directory.
pub(crate) fn path(objects: &Path, digest: &Digest) -> PathBuf {
    let name = digest.to_string();
    objects.join(&name[..2]).join(name + ".zst")
}

/// Compresses all of `from` into a draft in `tmp`; returns it with the digest and size of the bytes.
pub(crate) fn draft(tmp: &Path, from: &mut dyn Read) -> Result<(Draft, Stored)> {
    let mut draft = Draft::new(tmp)?;
    let stored = compress(from, &mut draft)?;
    Ok((draft, stored))
}

fn compress(from: &mut dyn Read, to: &mut Draft) -> io::Result<Stored> {
    let mut zstd = zstd::Encoder::new(to, LEVEL)?;
    let (hash, size) = pass_on(from, u64::MAX, &mut |bytes| zstd.write_all(bytes))?;
    zstd.finish()?;
    Ok(Stored { digest: hash.into(), size })
}

/// Writes the object's bytes to `to`; false if there is no such object. After an error, discard what was written.
pub(crate) fn copy(objects: &Path, digest: &Digest, size: u64, to: &mut dyn Write) -> Result<bool> {
    let path = path(objects, digest);
    let file = match open_plain(&path) {
        Ok(file) => file.into_parts().0,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    let mut written = Ok(());
    let read = decompress(file, size, &mut |bytes| {
        written = to.write_all(bytes);
        if written.is_ok() { Ok(()) } else { Err(io::Error::other("the receiver failed")) }
    });
    written?;
    judge(&path, digest, Some(size), read).map(|()| true)
}

/// Reads the file's compressed bytes and verifies that they are the object's; `None` if there is no file.
pub(crate) fn read_compressed(path: &Path, digest: &Digest, size: u64) -> Result<Option<Vec<u8>>> {
    let mut zstd = Vec::new();
    match open_plain(path) {
        Ok(file) => file.take(compressed_limit(size) + 1).read_to_end(&mut zstd)?,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    verify(path, digest, size, &zstd)?;
    Ok(Some(zstd))
}

/// Verifies that a file contains the object of this digest, of any size. A missing file is not an error.
pub(crate) fn examine(path: &Path, digest: &Digest) -> Result<()> {
    let Some(file) = if_there(open_plain(path))? else { return Ok(()) };
    judge(path, digest, None, decompress(file.into_parts().0, u64::MAX, &mut |_| Ok(())))
}

/// The object's size in bytes, or `most + 1` if it is larger. Its digest is not verified.
pub(crate) fn size(path: &Path, most: u64) -> io::Result<Option<u64>> {
    let Some(file) = if_there(open_plain(path))? else { return Ok(None) };
    decompress(file.into_parts().0, most, &mut |_| Ok(())).map(|(_, size)| Some(size))
}

/// Verifies that compressed bytes are the object's. `origin` is where they came from, for messages.
pub(crate) fn verify(origin: &Path, digest: &Digest, size: u64, zstd: &[u8]) -> Result<()> {
    judge(origin, digest, Some(size), decompress(zstd, size, &mut |_| Ok(())))
}

/// Upper bound on the compressed size of `size` bytes: ZSTD_compressBound of zstd.h, and the frame's header.
pub(crate) fn compressed_limit(size: u64) -> u64 {
    size + size / 256 + 4096
}

fn judge(
    path: &Path,
    digest: &Digest,
    size: Option<u64>,
    read: io::Result<(blake3::Hash, u64)>,
) -> Result<()> {
    let damaged = |found: String| {
        let expected = size.map_or(String::new(), |size| format!("{size} bytes of "));
        Err(Error::Damaged { path: path.to_owned(), expected: format!("{expected}digest {digest}"), found })
    };
    match read {
        Ok((_, n)) if size.is_some_and(|size| n > size) => damaged("more bytes".to_owned()),
        Ok((hash, n)) if hash != *digest.as_bytes() => {
            damaged(format!("{n} bytes of digest {}", Digest::from(hash)))
        }
        Ok((_, n)) if size.is_some_and(|size| n < size) => damaged(format!("{n} bytes of that digest")),
        Ok(_) => Ok(()),
        // Only I/O errors have an OS error number; zstd's errors about the bytes do not.
        Err(source) if source.raw_os_error().is_some() => {
            Err(Error::At { act: "read", path: path.to_owned(), source })
        }
        Err(e) => damaged(format!("invalid compressed data ({e})")),
    }
}

/// Passes on at most `size` decompressed bytes; returns one more than `size` if there are more.
fn decompress(
    zstd: impl Read,
    size: u64,
    pass: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(blake3::Hash, u64)> {
    let mut zstd = zstd::Decoder::new(zstd)?;
    zstd.window_log_max(WINDOW_LOG_MAX)?;
    let (hash, n) = pass_on(&mut zstd, size, pass)?;
    let more = zstd.take(1).read_to_end(&mut Vec::new())?;
    Ok((hash, n + more as u64))
}

/// Passes on at most `limit` bytes and hashes exactly those.
fn pass_on(
    from: &mut dyn Read,
    limit: u64,
    pass: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(blake3::Hash, u64)> {
    let mut hasher = blake3::Hasher::new();
    let mut from = from.take(limit);
    let mut buffer = vec![0; CHUNK];
    while hasher.count() < LARGE {
        let bytes = read_some(&mut from, &mut buffer)?;
        if bytes.is_empty() {
            return Ok((hasher.finalize(), hasher.count()));
        }
        hasher.update(bytes);
        pass(bytes)?;
    }
    pass_on_rest(&mut from, hasher, pass)
}

/// Passes on the rest, and hashes it on a thread of its own: unpacking a module of 65 MB takes a quarter less time then.
fn pass_on_rest(
    from: &mut dyn Read,
    mut hasher: blake3::Hasher,
    pass: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<(blake3::Hash, u64)> {
    let (to_hash, passed_on) = mpsc::sync_channel::<(Vec<u8>, usize)>(2);
    let (give_back, free) = mpsc::channel();
    thread::scope(|scope| {
        let hashing = scope.spawn(move || {
            for (buffer, length) in passed_on {
                hasher.update(&buffer[..length]);
                // Nobody waits for the last buffers.
                let _ = give_back.send(buffer);
            }
            (hasher.finalize(), hasher.count())
        });
        let mut read = || -> io::Result<()> {
            loop {
                let mut buffer = free.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
                let bytes = read_some(from, &mut buffer)?;
                if bytes.is_empty() {
                    return Ok(());
                }
                pass(bytes)?;
                let length = bytes.len();
                to_hash.send((buffer, length)).map_err(io::Error::other)?;
            }
        };
        let read = read();
        drop(to_hash);
        let hashed = hashing.join().unwrap_or_else(|panic| resume_unwind(panic));
        read.map(|()| hashed)
    })
}

/// The next bytes; none at the end.
fn read_some<'a>(from: &mut dyn Read, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    loop {
        match from.read(buffer) {
            Ok(n) => return Ok(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::IfTaken;

    /// An object file with these bytes, named by the digest of `content`.
    fn planted(content: &[u8], file: &[u8]) -> (tempfile::TempDir, Digest) {
        let dir = tempfile::tempdir().unwrap();
        let digest = Digest::of(content);
        let path = path(dir.path(), &digest);
        fs_err::create_dir(path.parent().unwrap()).unwrap();
        fs_err::write(path, file).unwrap();
        (dir, digest)
    }

    fn check_corrupt(content: &[u8], file: &[u8], size: u64, expect: &str) {
        let (dir, digest) = planted(content, file);
        let mut out = Vec::new();
        let error = copy(dir.path(), &digest, size, &mut out).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains(expect), "{error}");
        assert!(out.len() as u64 <= size);
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, LEVEL).unwrap()
    }

    #[test]
    fn objects_are_read_back_unchanged() {
        for size in [0, 1, CHUNK - 1, CHUNK, CHUNK * 3 + 7, LARGE as usize, LARGE as usize + 2 * CHUNK + 7] {
            let dir = tempfile::tempdir().unwrap();
            let bytes: Vec<u8> = (0..size).map(|n| (n * n / 8) as u8).collect();
            let (draft, stored) = draft(dir.path(), &mut &bytes[..]).unwrap();
            draft.publish(&path(dir.path(), &stored.digest), IfTaken::Keep).unwrap();
            assert_eq!(stored, Stored { digest: Digest::of(&bytes), size: size as u64 });
            let mut out = Vec::new();
            assert!(copy(dir.path(), &stored.digest, stored.size, &mut out).unwrap());
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn every_flipped_bit_is_corruption() {
        let good = packed(b"some bytes that were stored");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let (dir, digest) = planted(b"some bytes that were stored", &bad);
            let mut out = Vec::new();
            // A flipped bit in the frame's header may describe the same bytes; different bytes are never accepted.
            if copy(dir.path(), &digest, 27, &mut out).is_ok() {
                assert_eq!(out, b"some bytes that were stored");
            }
        }
    }

    #[test]
    fn wrong_bytes_truncation_and_garbage_are_corruption() {
        let bytes = b"some bytes that were stored";
        check_corrupt(bytes, &packed(b"other bytes, as many of them"), 28, "28 bytes of digest");
        check_corrupt(bytes, &packed(bytes)[..20], 27, "invalid compressed data");
        check_corrupt(bytes, b"", 27, "invalid compressed data");
        check_corrupt(bytes, b"not zstd", 27, "invalid compressed data");
        check_corrupt(bytes, &[packed(bytes), b"tail".to_vec()].concat(), 27, "invalid compressed data");
        check_corrupt(bytes, &packed(bytes), 99, "found 27 bytes of that digest");
        let (large, mut other) = (vec![1; 9 << 20], vec![1; 9 << 20]);
        other[8 << 20] = 2;
        check_corrupt(&large, &packed(&other), 9 << 20, "bytes of digest");
        let packed = packed(&large);
        check_corrupt(&large, &packed[..packed.len() - 9], 9 << 20, "invalid compressed data");
    }

    #[test]
    fn a_decompression_bomb_is_stopped_at_the_declared_size() {
        let zeros = vec![0; 64 << 20];
        check_corrupt(&zeros, &packed(&zeros), 1 << 20, "found more bytes");
        check_corrupt(&zeros, &packed(&zeros), LARGE + 7, "found more bytes");
    }

    #[test]
    fn a_frame_that_wants_a_giant_window_is_refused() {
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        zstd.window_log(28).unwrap();
        zstd.write_all(&[0; 100]).unwrap();
        check_corrupt(&[0; 100], &zstd.finish().unwrap(), 100, "invalid compressed data");
    }

    #[test]
    fn a_failing_writer_is_not_corruption() {
        let (dir, digest) = planted(b"some bytes", &packed(b"some bytes"));
        let error = copy(dir.path(), &digest, 10, &mut &mut [0; 3][..]).unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{error:?}");
    }
}
