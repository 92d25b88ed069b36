//! Modules in an initramfs. The kernel loads a copy there before it can load one from its tree, so a stale copy undoes
//! an installation.
//!
//! An initramfs consists of one or more cpio archives in sequence, padded with zeros, each plain or compressed
//! (Documentation/driver-api/early-userspace/buffer-format.rst): often a plain one with microcode, then a compressed
//! one with everything else.
//!
//! ```text
//! "070701" or "070702"   magic; 13 fields of 8 hex digits: ino mode uid gid nlink mtime filesize
//!                          devmajor devminor rdevmajor rdevminor namesize check
//! name, NUL              padded so that header and name fill a multiple of 4
//! contents               padded to a multiple of 4; an entry "TRAILER!!!" ends the archive
//! ```
//!
//! A unified kernel image contains one ([`crate::uki`]). Archives are read as streams; at most one module is in memory.

mod generator;
mod lzo;
mod packing;
mod places;
mod wanted;

pub use generator::command;
pub use places::of_kernel;
pub use wanted::wanted;

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use self::packing::{Ahead, Packing, Unpacked};
use crate::compress::Compression;
use crate::ko;
use crate::module_name::ModuleName;
use crate::uki::Uki;

/// Limit in bytes on a module; larger files are skipped.
const MODULE_MAX: u64 = 1 << 28;
/// Limits in bytes on an initramfs as it is, and unpacked: several times the largest ones, with firmware for everything.
const PACKED_MAX: u64 = 2 << 30;
const UNPACKED_MAX: u64 = 4 << 30;
/// Limit in bytes on padding between archives. A sparse file would have no end.
const PADDING_MAX: u64 = 64 << 20;
/// Limit in bytes on a path (`PATH_MAX`, include/uapi/linux/limits.h).
const NAME_MAX: u64 = 4096;
/// Size in bytes of a newc header: 6 + 13 * 8.
const HEADER: usize = 110;

/// A copy of a module in an initramfs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// Path in the archive.
    pub path: String,
    /// The module's name.
    pub module: ModuleName,
    /// BLAKE3 digest of the file as it is in the archive, in hex.
    pub file: String,
    /// BLAKE3 digest of the module without compression and signature, in hex; `None` if it cannot be decompressed.
    pub body: Option<String>,
}

/// The copies of the named modules in an initramfs, or in that of a unified kernel image.
///
/// # Errors
///
/// `InvalidData` if the file is not an initramfs or is corrupt.
pub fn copies(path: &Path, names: &BTreeSet<ModuleName>) -> io::Result<Vec<Copy>> {
    copies_of_file(path, names)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

fn copies_of_file(path: &Path, names: &BTreeSet<ModuleName>) -> io::Result<Vec<Copy>> {
    let Some(uki) = Uki::of_file(path)? else { return copies_of(crate::bounded_read::open(path)?, names) };
    let mut found = Vec::new();
    for initramfs in uki.initramfs()? {
        found.extend(copies_of(initramfs, names)?);
    }
    Ok(found)
}

fn copies_of(stream: impl Read, names: &BTreeSet<ModuleName>) -> io::Result<Vec<Copy>> {
    read(BufReader::with_capacity(1 << 18, stream.take(PACKED_MAX)), names)
}

/// Reads all archives.
fn read(stream: impl BufRead, names: &BTreeSet<ModuleName>) -> io::Result<Vec<Copy>> {
    let mut found = Vec::new();
    let mut stream = Ahead::new(stream);
    let mut left = UNPACKED_MAX;
    while skip_zeros(&mut stream)? {
        let packing = stream.packing()?.ok_or_else(|| invalid("neither cpio nor a supported compression"))?;
        if packing == Packing::None {
            archive(&mut stream, names, &mut found)?;
            continue;
        }
        let unpacked = Unpacked::new(packing, stream)?.take(left);
        let mut inner = BufReader::with_capacity(1 << 18, unpacked);
        while skip_zeros(&mut inner)? {
            archive(&mut inner, names, &mut found)?;
        }
        left = inner.get_ref().limit();
        let unpacked = inner.into_inner().into_inner();
        stream = unpacked.rest().ok_or_else(|| invalid("larger than an initramfs"))?;
    }
    Ok(found)
}

/// Skips padding; false at the end.
fn skip_zeros(stream: &mut impl BufRead) -> io::Result<bool> {
    let mut skipped = 0;
    while skipped <= PADDING_MAX {
        let buffer = stream.fill_buf()?;
        if buffer.is_empty() {
            return Ok(false);
        }
        let zeros = buffer.iter().take_while(|byte| **byte == 0).count();
        let ended = zeros < buffer.len();
        skipped += zeros as u64;
        stream.consume(zeros);
        if ended {
            return Ok(true);
        }
    }
    Err(invalid("more padding than an initramfs has"))
}

/// Reads one cpio archive up to its trailer.
fn archive(stream: &mut impl BufRead, names: &BTreeSet<ModuleName>, found: &mut Vec<Copy>) -> io::Result<()> {
    loop {
        let mut header = [0; HEADER];
        stream.read_exact(&mut header)?;
        let field = |index: usize| hex(&header[6 + index * 8..14 + index * 8]);
        if !matches!(&header[..6], b"070701" | b"070702") {
            return Err(invalid("missing header of an archive member"));
        }
        let (mode, size, name_size) = (field(1)?, field(6)?, field(11)?);
        if name_size > NAME_MAX {
            return Err(invalid("a name that is too long"));
        }
        let mut name = vec![0; name_size as usize];
        stream.read_exact(&mut name)?;
        skip(stream, padding(HEADER as u64 + name_size))?;
        let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(&name)).into_owned();
        if name == "TRAILER!!!" {
            return skip(stream, size);
        }
        match module(&name, mode, size).filter(|(module, _)| names.contains(module)) {
            Some((module, compression)) => {
                let mut bytes = Vec::new();
                stream.by_ref().take(size).read_to_end(&mut bytes)?;
                found.push(copy(name, module, compression, &bytes));
            }
            None => skip(stream, size)?,
        }
        skip(stream, padding(size))?;
    }
}

/// The name and compression of a module; `None` for other entries.
fn module(path: &str, mode: u64, size: u64) -> Option<(ModuleName, Compression)> {
    let is_file = mode & 0o170_000 == 0o100_000;
    let (name, compression) = Compression::of_file_name(path.rsplit('/').next()?)?;
    (is_file && size <= MODULE_MAX).then(|| (ModuleName::new(name), compression))
}

fn copy(path: String, module: ModuleName, compression: Compression, bytes: &[u8]) -> Copy {
    let plain = compression.decompress(bytes, MODULE_MAX).ok();
    let body = plain.map(|plain| blake3::hash(ko::split_signature(&plain).0).to_string());
    Copy { path, module, file: blake3::hash(bytes).to_string(), body }
}

fn padding(length: u64) -> u64 {
    length.wrapping_neg() % 4
}

fn skip(stream: &mut impl BufRead, count: u64) -> io::Result<()> {
    let skipped = io::copy(&mut stream.take(count), &mut io::sink())?;
    if skipped == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn hex(digits: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|c| c.is_ascii_hexdigit()));
    text.and_then(|text| u64::from_str_radix(text, 16).ok())
        .ok_or_else(|| invalid("invalid number in a header"))
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;
    use proptest::prelude::*;

    /// An archive of these files, as cpio(1) writes it.
    fn cpio(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, bytes) in files.iter().chain(&[("TRAILER!!!", &b""[..])]) {
            let fields = [1, 0o100_644, 0, 0, 1, 0, bytes.len(), 0, 0, 0, 0, name.len() + 1, 0]
                .map(|n| format!("{n:08X}"));
            archive.extend(format!("070701{}{name}\0", fields.concat()).bytes());
            archive.resize(archive.len().next_multiple_of(4), 0);
            archive.extend(*bytes);
            archive.resize(archive.len().next_multiple_of(4), 0);
        }
        archive
    }

    fn names() -> BTreeSet<ModuleName> {
        ["snd_pcm", "jool"].map(ModuleName::new).into()
    }

    #[track_caller]
    fn check(bytes: &[u8], expect: &[(&str, &[u8])]) {
        let found = read(bytes, &names()).unwrap();
        let found: Vec<_> =
            found.iter().map(|copy| (copy.path.as_str(), copy.body.clone().unwrap())).collect();
        let expect: Vec<_> =
            expect.iter().map(|(path, body)| (*path, blake3::hash(body).to_string())).collect();
        assert_eq!(found, expect);
    }

    fn bz2(bytes: &[u8]) -> Vec<u8> {
        let mut packed = Vec::new();
        bzip2::read::BzEncoder::new(bytes, bzip2::Compression::fast()).read_to_end(&mut packed).unwrap();
        packed
    }

    /// As `lz4 -l` writes it.
    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let block = lz4_flex::block::compress(bytes);
        [&b"\x02\x21\x4c\x18"[..], &u32::try_from(block.len()).unwrap().to_le_bytes(), &block].concat()
    }

    const FILES: [(&str, &[u8]); 3] = [
        ("etc/snd-pcm.ko.conf", b"x"),
        ("lib/modules/6/kernel/snd-pcm.ko", b"module"),
        ("lib/other.ko", b"y"),
    ];
    const FOUND: [(&str, &[u8]); 1] = [("lib/modules/6/kernel/snd-pcm.ko", b"module")];

    #[test]
    fn only_the_named_modules_are_found_in_any_compression() {
        let plain = cpio(&FILES);
        check(&plain, &FOUND);
        for compression in [Compression::Gz, Compression::Xz, Compression::Zst] {
            check(&compression.compress(&plain).unwrap(), &FOUND);
        }
        assert_eq!(Packing::of(b"\x5d\0\0\x80\0"), Some(Packing::Lzma));
        check(&bz2(&plain), &FOUND);
        check(&lz4(&plain), &FOUND);
    }

    #[test]
    fn microcode_comes_first_and_padding_between() {
        let mut image = cpio(&[("kernel/x86/microcode/GenuineIntel.bin", b"microcode")]);
        image.resize(1024, 0);
        image.extend(Compression::Zst.compress(&cpio(&FILES)).unwrap());
        check(&image, &FOUND);
    }

    #[test]
    fn archives_of_different_compressions_follow_each_other() {
        let parts = |name: &str| cpio(&[(name, b"module")]);
        let other = [("x/jool.ko", &b"module"[..]), FOUND[0]];
        type Pack = fn(&[u8]) -> Vec<u8>;
        let packings: [Pack; 6] = [
            |bytes| Compression::Gz.compress(bytes).unwrap(),
            |bytes| Compression::Xz.compress(bytes).unwrap(),
            |bytes| Compression::Zst.compress(bytes).unwrap(),
            bz2,
            lz4,
            <[u8]>::to_vec,
        ];
        for (first, second) in
            packings.iter().flat_map(|first| packings.iter().map(move |second| (first, second)))
        {
            let mut image = first(&parts("x/jool.ko"));
            // LZ4 has no end of its own but padding.
            image.extend([0; 4]);
            image.extend(second(&cpio(&FILES)));
            check(&image, &other);
        }
    }

    #[test]
    fn a_compression_is_known_wherever_the_buffer_ends() {
        let mut image = cpio(&FILES);
        image.extend(Compression::Zst.compress(&cpio(&[("x/jool.ko", b"module")])).unwrap());
        for capacity in [1, 2, 5, 113] {
            let found = read(BufReader::with_capacity(capacity, &image[..]), &names()).unwrap();
            assert_eq!(found.len(), 2, "{capacity}");
        }
    }

    #[test]
    fn the_initramfs_of_a_unified_kernel_image_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.efi");
        let initramfs = Compression::Zst.compress(&cpio(&FILES)).unwrap();
        fs::write(&path, crate::uki::tests::uki(&[(".linux", b"kernel"), (".initrd", &initramfs)])).unwrap();
        let found = copies(&path, &names()).unwrap();
        assert_eq!(found.iter().map(|copy| &*copy.path).collect::<Vec<_>>(), [FOUND[0].0]);
        fs::write(&path, crate::uki::tests::uki(&[(".linux", b"kernel")])).unwrap();
        assert_eq!(copies(&path, &names()).unwrap(), []);
    }

    #[test]
    fn a_copy_is_identified_by_its_body() {
        let mut signed = b"module".to_vec();
        signed.extend(b"PKCS#7\0\0\x02\0\0\0\0\0\0\0\0\x06~Module signature appended~\n");
        let packed = Compression::Xz.compress(&signed).unwrap();
        check(&cpio(&[("x/jool.ko.xz", &packed)]), &[("x/jool.ko.xz", b"module")]);
        let [copy] = &read(&cpio(&[("x/jool.ko.xz", b"not xz")])[..], &names()).unwrap()[..] else {
            panic!()
        };
        assert_eq!(copy.body, None);
    }

    #[test]
    fn other_files_than_an_initramfs_are_errors() {
        let error = |bytes: &[u8]| read(bytes, &names()).unwrap_err().to_string();
        assert_eq!(error(b"LZ4!"), "neither cpio nor a supported compression");
        assert_eq!(
            error(&[b"07070X".as_slice(), &[b'0'; 200]].concat()),
            "missing header of an archive member"
        );
        assert!(read(&cpio(&FILES)[..150], &names()).is_err());
        let endless = BufReader::new(io::repeat(0).take(1 << 40));
        assert_eq!(read(endless, &names()).unwrap_err().to_string(), "more padding than an initramfs has");
        assert_eq!(read(&b""[..], &names()).unwrap(), []);
    }

    proptest! {
        #[test]
        fn every_truncated_or_changed_input_gives_a_result(at in 0usize..500, to: u8, cut in 0usize..500) {
            let mut bytes = cpio(&FILES);
            let _ = read(&bytes[..cut.min(bytes.len())], &names());
            for mut packed in [bz2(&bytes), lz4(&bytes)] {
                let at = at % packed.len();
                packed[at] = to;
                let _ = read(&packed[..], &names());
            }
            let at = at % bytes.len();
            bytes[at] = to;
            let _ = read(&bytes[..], &names());
        }
    }
}
