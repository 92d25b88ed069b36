//! Reading files of untrusted trees, without blocking and with a size limit.
//!
//! Reading a FIFO may block, a device never ends, a sparse file is larger than memory, and a link may lead to files
//! that are not the package's: kcache may be root, and the package's author is not. Files that are refused for such a
//! reason are `None`; a missing file is an error as usual. Links are followed as long as they stay inside the package.
//! The kernel resolves them (openat2(2)), so they cannot be changed between a check and the opening.

use std::io::{self, Read};
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// Limit in bytes on source files. Sources of modules have some hundred KiB.
pub const MOST: u64 = 8 << 20;

/// Limit in bytes on configurations and generated headers. A kernel's `.config` has 300 KiB, `grub.cfg` some tens.
pub const MOST_CONFIG: u64 = 8 << 20;

/// Limit in bytes on indexes, modules and symbol lists. `Module.symvers` has 2 MiB, the largest module 100 MiB.
pub const MOST_DATA: u64 = 512 << 20;

/// Reads a regular file of at most `most` bytes. Without the limits, whoever can write a tree under `--root` could
/// exhaust memory with a sparse file, or make kcache wait forever for a FIFO.
///
/// # Errors
///
/// `InvalidData` if it is not a regular file, or larger.
pub fn bytes(path: impl AsRef<Path>, most: u64) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    let file = open(path)?;
    let size = file.metadata()?.len();
    if size > most {
        let what = format!("{} has {size} bytes, more than {most}", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut bytes = Vec::with_capacity(size as usize);
    file.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Opens a regular file, without blocking on a FIFO in its place.
///
/// # Errors
///
/// `InvalidData` if it is not a regular file.
pub fn open(path: &Path) -> io::Result<fs::File> {
    let file =
        fs::OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => {
            let what = format!("{} is not a regular file", path.display());
            Err(io::Error::new(io::ErrorKind::InvalidData, what))
        }
    }
}

/// Reads a text file of at most [`MOST_CONFIG`] bytes.
pub fn config(path: &Path) -> io::Result<String> {
    let invalid = |_| io::Error::new(io::ErrorKind::InvalidData, format!("{} is not UTF-8", path.display()));
    String::from_utf8(bytes(path, MOST_CONFIG)?).map_err(invalid)
}

/// Reads a regular file of at most `most` bytes as text; `None` if it is something else or larger. Invalid UTF-8 is
/// replaced.
pub fn text(path: &Path, most: u64) -> io::Result<Option<String>> {
    let file =
        fs::OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    Ok(read(&file.into_parts().0, most)?.map(readable))
}

/// Like [`text`], for a file of the tree `top`; links that lead out of the tree are refused.
pub fn text_in(top: &Path, path: &Path) -> io::Result<Option<String>> {
    Ok(bytes_in(top, path, MOST)?.map(readable))
}

/// Like [`text_in`], as bytes, with a limit.
pub fn bytes_in(top: &Path, path: &Path, most: u64) -> io::Result<Option<Vec<u8>>> {
    let inside = path.strip_prefix(top).unwrap_or(path);
    let at = |errno: Errno| {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("{}: {error}", top.join(inside).display()))
    };
    let directory = openat(CWD, top, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let stays = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match openat2(directory.map_err(at)?, inside, flags, Mode::empty(), stays) {
        Ok(file) => read(&file.into(), most),
        Err(Errno::XDEV | Errno::LOOP) => Ok(None),
        Err(errno) => Err(at(errno)),
    }
}

fn read(file: &std::fs::File, most: u64) -> io::Result<Option<Vec<u8>>> {
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then_some(bytes))
}

fn readable(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs::os::unix::fs::symlink;

    #[test]
    fn large_and_endless_files_are_errors_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("text"), "abc").unwrap();
        fs::write(path("binary"), [0xff]).unwrap();
        fs::File::create(path("sparse")).unwrap().set_len(1 << 40).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), 0o600.into()).unwrap();
        assert_eq!(bytes(path("text"), 3).unwrap(), b"abc");
        assert_eq!(config(&path("text")).unwrap(), "abc");
        let refused = |result: io::Result<Vec<u8>>| result.unwrap_err().kind();
        assert_eq!(refused(bytes(path("text"), 2)), io::ErrorKind::InvalidData);
        for name in ["sparse", "pipe", "binary"] {
            assert_eq!(config(&path(name)).unwrap_err().kind(), io::ErrorKind::InvalidData, "{name}");
        }
        assert_eq!(refused(bytes(path("none"), 1)), io::ErrorKind::NotFound);
    }

    #[test]
    fn files_outside_the_tree_and_special_files_are_refused() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a.c"), "a").unwrap();
        fs::write(elsewhere.path().join("b.c"), "b").unwrap();
        symlink("a.c", path("inside")).unwrap();
        symlink(elsewhere.path().join("b.c"), path("outside")).unwrap();
        symlink("/proc/kmsg", path("endless")).unwrap();
        symlink("/proc/self/root", path("root")).unwrap();
        fs::create_dir(path("sub")).unwrap();
        symlink("../a.c", path("sub/up")).unwrap();
        symlink("../..", path("sub/out")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), 0o600.into()).unwrap();
        fs::File::create(path("huge")).unwrap().set_len(6 << 30).unwrap();
        let read = |name: &str| text_in(dir.path(), Path::new(name)).unwrap();
        assert_eq!((read("a.c"), read("inside")), (Some("a".into()), Some("a".into())));
        assert_eq!((read("sub/up"), read("sub/../a.c")), (Some("a".into()), Some("a".into())));
        assert_eq!(text_in(dir.path(), &path("a.c")).unwrap(), Some("a".into()));
        let above = format!("sub/out/{}/a.c", dir.path().file_name().unwrap().display());
        for name in ["outside", "endless", "pipe", "huge", "sub", "root/etc/passwd", "../x", &above] {
            assert_eq!(read(name), None, "{name}");
        }
        assert!(text_in(dir.path(), Path::new("none")).is_err());
    }
}
