//! Unified kernel images: a kernel, its initramfs and its command line in one PE file, which the firmware or systemd-boot
//! starts. Its sections are specified in UAPI.5
//! (<https://uapi-group.org/specifications/specs/unified_kernel_image/>):
//!
//! ```text
//! .linux     the kernel's image
//! .initrd    its initramfs
//! .uname     its release
//! .cmdline   its command line
//! .osrel     os-release(5) of the system
//! ```
//!
//! systemd-boot starts what is in `EFI/Linux` on the EFI system partition or in `/boot` (Boot Loader Specification, type 2).

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use fs_err as fs;
use object::read::ReadCache;
use object::{Object, ObjectSection};

use crate::bounded_read;
use crate::kernels;
use crate::rootfs::Root;

/// Where the EFI system partition, or the boot partition, may be mounted.
pub(crate) const ESPS: [&str; 3] = ["/efi", "/boot/efi", "/boot"];
/// Limit on the initramfs sections that are read: one for each profile, of which there are a few.
const MOST_INITRAMFS: usize = 16;
/// Limit in bytes on the sections of text.
const MOST_TEXT: u64 = 1 << 20;

/// A unified kernel image.
#[derive(Debug)]
pub struct Uki {
    path: PathBuf,
    sections: Vec<(String, u64, u64)>,
}

impl Uki {
    /// Reads a file's sections; `None` if it is not a unified kernel image.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn of_file(path: &Path) -> io::Result<Option<Uki>> {
        let mut file = bounded_read::open(path)?;
        let mut magic = [0; 2];
        // Every PE file begins with these (Microsoft's PE format, "MS-DOS stub").
        if file.read_exact(&mut magic).is_err() || magic != *b"MZ" {
            return Ok(None);
        }
        let cache = ReadCache::new(file);
        let Ok(pe) = object::File::parse(&cache) else { return Ok(None) };
        let section = |section: object::Section<'_, '_, _>| {
            let (start, length) = section.file_range()?;
            Some((section.name().ok()?.to_owned(), start, length))
        };
        let sections: Vec<_> = pe.sections().filter_map(section).collect();
        let is_uki = sections.iter().any(|(name, ..)| name == ".linux");
        Ok(is_uki.then(|| Uki { path: path.to_owned(), sections }))
    }

    /// Release of its kernel.
    pub fn release(&self) -> Option<String> {
        if let Some(text) = self.text(".uname") {
            return Some(text);
        }
        let (_, start, length) = self.sections.iter().find(|(name, ..)| name == ".linux")?;
        kernels::release_of_image(self.section(*start, *length).ok()?)
    }

    /// Its command line; `None` if the loader's is used.
    pub fn command_line(&self) -> Option<String> {
        self.text(".cmdline")
    }

    /// Name of the system, as menus show it.
    pub fn title(&self) -> Option<String> {
        let release = self.text(".osrel")?;
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
        Some(name.trim_matches(['"', '\'']).to_owned())
    }

    /// Its initramfs; there may be several, of its profiles.
    ///
    /// # Errors
    ///
    /// If the file cannot be opened.
    pub fn initramfs(&self) -> io::Result<Vec<impl Read + use<>>> {
        let sections = self.sections.iter().filter(|(name, ..)| name == ".initrd").take(MOST_INITRAMFS);
        sections.map(|(_, start, length)| self.section(*start, *length)).collect()
    }

    fn text(&self, wanted: &str) -> Option<String> {
        let (_, start, length) = self.sections.iter().find(|(name, ..)| name == wanted)?;
        let mut text = String::new();
        self.section(*start, *length).ok()?.take(MOST_TEXT).read_to_string(&mut text).ok()?;
        Some(text.trim_end_matches(['\0', '\n']).to_owned())
    }

    fn section(&self, start: u64, length: u64) -> io::Result<io::Take<fs::File>> {
        let mut file = bounded_read::open(&self.path)?;
        file.seek(SeekFrom::Start(start))?;
        Ok(file.take(length))
    }
}

/// The unified kernel images of a system that can be read, as paths inside of the root, sorted.
pub fn all(root: &Root) -> Vec<(PathBuf, Uki)> {
    let mut found = Vec::new();
    for directory in ESPS.iter().map(|esp| Path::new(esp).join("EFI/Linux")) {
        let entries = root.find(&directory).and_then(|outside| fs::read_dir(outside).ok());
        let names = entries.into_iter().flatten().filter_map(|entry| Some(entry.ok()?.file_name()));
        for inside in names.map(|name| directory.join(name)) {
            let is_efi = inside.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("efi"));
            let Some(outside) = root.find(&inside).filter(|_| is_efi) else { continue };
            // `/boot/efi` may be a link to `/efi`, or `/boot` the partition.
            if found.iter().any(|(_, uki): &(PathBuf, Uki)| uki.path == outside) {
                continue;
            }
            found.extend(Uki::of_file(&outside).ok().flatten().map(|uki| (inside, uki)));
        }
    }
    found.sort_by(|one, other| one.0.cmp(&other.0));
    found
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A PE file of these sections (Microsoft's PE format; the fields that are not given here are zero).
    pub(crate) fn uki(sections: &[(&str, &[u8])]) -> Vec<u8> {
        const HEADERS: usize = 1024;
        let mut file = vec![0; 64];
        file[..2].copy_from_slice(b"MZ");
        file[60] = 64;
        let number = |n: usize| u16::try_from(n).unwrap().to_le_bytes();
        let size = |n: usize| u32::try_from(n).unwrap().to_le_bytes();
        file.extend(b"PE\0\0");
        // COFF: machine x86-64, sections, size of the optional header.
        file.extend([0x64, 0x86]);
        file.extend(number(sections.len()));
        file.extend([[0; 12].as_slice(), &number(112), &[0; 2]].concat());
        // The optional header: PE32+, without data directories.
        file.extend([&[0x0b, 0x02][..], &[0; 110]].concat());
        let mut data = Vec::new();
        for (name, bytes) in sections {
            let mut padded = name.as_bytes().to_vec();
            padded.resize(8, 0);
            let (length, at) = (size(bytes.len()), size(HEADERS + data.len()));
            file.extend([&padded[..], &length, &at, &length, &at, &[0; 16]].concat());
            data.extend_from_slice(bytes);
        }
        file.resize(HEADERS, 0);
        file.extend(data);
        file
    }

    #[test]
    fn release_command_line_and_title_are_its_sections() {
        let sections = [
            (".linux", &b"kernel"[..]),
            (".uname", b"6.1.0-9-amd64\0"),
            (".cmdline", b"ro quiet\n"),
            (".osrel", b"ID=debian\nPRETTY_NAME=\"Debian 13\"\n"),
        ];
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("efi/EFI/Linux");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("a.efi"), uki(&sections)).unwrap();
        fs::write(directory.join("b.efi"), uki(&sections[1..])).unwrap();
        fs::write(directory.join("c.efi"), b"MZ, and no more").unwrap();
        let all = all(&Root::new(root.path()));
        let [(path, uki)] = &all[..] else { panic!("{all:?}") };
        assert_eq!(path, Path::new("/efi/EFI/Linux/a.efi"));
        assert_eq!(uki.release().as_deref(), Some("6.1.0-9-amd64"));
        assert_eq!(uki.command_line().as_deref(), Some("ro quiet"));
        assert_eq!(uki.title().as_deref(), Some("Debian 13"));
        assert_eq!(uki.initramfs().unwrap().len(), 0);
    }

    #[test]
    fn without_a_name_the_release_is_that_of_its_kernel() {
        let mut image = vec![0; 0x300];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x40_u16.to_le_bytes());
        image.splice(0x240..0x240, *b"6.9.1-arch1 (me) #1 SMP\0");
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), uki(&[(".linux", &image)])).unwrap();
        let uki = Uki::of_file(file.path()).unwrap().unwrap();
        assert_eq!(uki.release().as_deref(), Some("6.9.1-arch1"));
    }

    proptest::proptest! {
        #[test]
        fn every_truncated_or_changed_file_gives_a_result(at in 0usize..1100, to: u8, cut in 0usize..1100) {
            let mut bytes = uki(&[(".linux", b"kernel"), (".uname", b"6.1"), (".initrd", b"x")]);
            let file = tempfile::NamedTempFile::new().unwrap();
            let length = bytes.len();
            bytes[at % length] = to;
            for bytes in [&bytes[..], &bytes[..cut.min(length)]] {
                fs::write(file.path(), bytes).unwrap();
                if let Ok(Some(uki)) = Uki::of_file(file.path()) {
                    let _ = (uki.release(), uki.initramfs().map(|all| all.len()));
                }
            }
        }
    }
}
