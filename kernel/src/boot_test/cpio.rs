//! cpio archives in the format of an initramfs (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! ```text
//! a file:  "070701" and 13 numbers of 8 hex digits: inode, mode, uid, gid, links, mtime, size, device (2), node's device (2),
//!          length of the name, checksum;  the name, NUL, up to a multiple of 4;  the bytes, up to a multiple of 4
//! the end: a file called TRAILER!!!
//! ```
//!
//! All entries belong to root, have time 0, and are uncompressed, because an emulated CPU takes longer to decompress
//! than to read. Creating an archive needs no privileges, not even for device nodes, which exist in the guest only.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// Writes an archive entry by entry.
pub(super) struct Cpio<W: Write> {
    to: W,
    written: u64,
    files: u32,
    directories: BTreeSet<PathBuf>,
}

impl<W: Write> Cpio<W> {
    pub(super) fn new(to: W) -> Self {
        Self { to, written: 0, files: 0, directories: BTreeSet::new() }
    }

    /// Adds a directory and its missing parents.
    pub(super) fn directory(&mut self, path: &str) -> io::Result<()> {
        let mut at = PathBuf::new();
        for part in Path::new(path).components() {
            let Component::Normal(name) = part else { continue };
            at.push(name);
            if self.directories.insert(at.clone()) {
                self.entry(&at, DIRECTORY, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    /// Adds an executable file and its missing parents.
    pub(super) fn file(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.place(path, PROGRAM, (0, 0), bytes)
    }

    /// Adds a character device.
    pub(super) fn device(&mut self, path: &str, number: (u32, u32)) -> io::Result<()> {
        self.place(path, CHARACTER_DEVICE, number, &[])
    }

    /// Ends the archive; returns its size in bytes.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.entry(Path::new("TRAILER!!!"), 0, (0, 0), &[])?;
        self.to.flush()?;
        Ok(self.written)
    }

    fn place(&mut self, path: &str, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        let path = path.trim_start_matches('/');
        if let Some((directory, _)) = path.rsplit_once('/') {
            self.directory(directory)?;
        }
        self.entry(Path::new(path), mode, device, bytes)
    }

    fn entry(&mut self, path: &Path, mode: u32, device: (u32, u32), bytes: &[u8]) -> io::Result<()> {
        let name = path.as_os_str().as_encoded_bytes();
        let size = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.files += 1;
        let length = name.len() as u32 + 1;
        let numbers = [self.files, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, length, 0];
        self.write(b"070701")?;
        for number in numbers {
            self.write(format!("{number:08x}").as_bytes())?;
        }
        self.write(name)?;
        self.write(b"\0")?;
        self.pad()?;
        self.write(bytes)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.to.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let over = (self.written % 4) as usize;
        if over > 0 { self.write(&[0; 4][over..]) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, mode, device and bytes of each entry.
    fn entries(mut archive: &[u8]) -> Vec<(String, u32, u32, Vec<u8>)> {
        let mut found = Vec::new();
        while !archive.is_empty() {
            assert_eq!(&archive[..6], b"070701");
            let number = |at: usize| {
                let text = std::str::from_utf8(&archive[6 + 8 * at..14 + 8 * at]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, minor, length) =
                (number(1), number(6) as usize, number(10), number(11) as usize);
            let name = String::from_utf8(archive[110..110 + length - 1].to_vec()).unwrap();
            let start = (110 + length).next_multiple_of(4);
            found.push((name, mode, minor, archive[start..start + size].to_vec()));
            archive = &archive[(start + size).next_multiple_of(4)..];
        }
        found
    }

    #[test]
    fn directories_precede_their_files_and_occur_once() {
        let mut bytes = Vec::new();
        let mut cpio = Cpio::new(&mut bytes);
        cpio.file("/lib/a/x.ko", b"xyz12").unwrap();
        cpio.file("/lib/a/y.ko", b"").unwrap();
        cpio.device("/dev/console", (5, 1)).unwrap();
        assert_eq!(cpio.finish().unwrap() as usize, bytes.len());
        let found = entries(&bytes);
        let names: Vec<&str> = found.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["lib", "lib/a", "lib/a/x.ko", "lib/a/y.ko", "dev", "dev/console", "TRAILER!!!"]);
        assert_eq!(found[2].3, b"xyz12");
        assert_eq!(
            (found[0].1, found[2].1, found[5].1, found[5].2),
            (DIRECTORY, PROGRAM, CHARACTER_DEVICE, 1)
        );
    }

    #[test]
    fn entries_are_aligned_to_four_bytes() {
        for length in 0..8 {
            let mut bytes = Vec::new();
            let mut cpio = Cpio::new(&mut bytes);
            cpio.file(&"n".repeat(length + 1), &vec![7; length]).unwrap();
            cpio.finish().unwrap();
            assert_eq!(entries(&bytes).len(), 2, "{length}");
        }
    }
}
