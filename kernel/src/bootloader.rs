//! The kernel that the boot loader will start, and its command line, as the boot loader's files say.
//!
//! ```text
//! GRUB            /boot/grub{,2}/grub.cfg, and grubenv beside it: next_entry, saved_entry
//! GRUB with BLS   blscfg in grub.cfg; the entries are /boot/loader/entries/*.conf (Fedora)
//! systemd-boot    loader/loader.conf and loader/entries/*.conf under /efi, /boot/efi or /boot; EFI/Linux/*.efi there
//! a link          /boot/vmlinuz or /vmlinuz, as Debian keeps them for simple loaders
//! ```
//!
//! The release is read from the image if possible, and otherwise taken from its name. What a user selects in the menu,
//! and what the firmware does before a loader runs, is not known; for other boot loaders, the configuration can name a
//! path (`default-kernel`).
//!
//! Sources: grub.cfg as grub-mkconfig writes it and GRUB's manual (`default`, `grubenv`, `blscfg`), loader.conf(5),
//! and the Boot Loader Specification, types 1 and 2
//! (<https://uapi-group.org/specifications/specs/boot_loader_specification/>).

mod bls;
mod grub;

use std::path::{Path, PathBuf};

use crate::kernels;
use crate::rootfs::Root;
use crate::uki::Uki;

/// The kernel that will be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The kernel's release.
    pub release: String,
    /// The file that selects it.
    pub told_by: PathBuf,
}

/// Why the kernel cannot be determined.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No supported boot loader is installed.
    #[error("no boot loader configuration found under {} (GRUB, systemd-boot, link /boot/vmlinuz)", root.display())]
    NoLoader {
        /// The root that was searched.
        root: PathBuf,
    },
    /// The boot loader's files select no existing kernel.
    #[error("{}: {problem}", path.display())]
    NoKernel {
        /// The file that selects it.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// An entry of a boot loader's menu.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    /// Title in the menu.
    title: String,
    /// Identifier for configuration files.
    id: String,
    /// Path of the image, as the loader sees it.
    image: Option<String>,
    /// The kernel's command line.
    arguments: String,
}

/// Variable in which systemd-boot records that it booted this machine (Boot Loader Interface).
const BOOTED_BY: &str = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const LINKS: [&str; 2] = ["/boot/vmlinuz", "/vmlinuz"];

/// The kernel that will be booted without user interaction.
///
/// # Errors
///
/// [`Error::NoLoader`] if there is no supported boot loader, [`Error::NoKernel`] if its files select no existing
/// kernel.
pub fn default_kernel(root: &Root) -> Result<Choice, Error> {
    for loader in Loader::all(root) {
        if let Some(choice) = loader.default_kernel(root)? {
            return Ok(choice);
        }
    }
    match LINKS.iter().find_map(|link| root.find(link).map(|_| Path::new(link))) {
        Some(link) => at_path(root, link),
        None => Err(Error::NoLoader { root: root.dir().to_owned() }),
    }
}

/// The kernel that a path leads to: an image, or a link to one.
pub fn at_path(root: &Root, inside: &Path) -> Result<Choice, Error> {
    let target = root.resolve(inside)?;
    match release_of_image(root, &target.to_string_lossy()) {
        Some(release) => Ok(Choice { release, told_by: root.outside(inside) }),
        None => Err(Error::NoKernel {
            path: root.outside(inside),
            problem: "not a kernel image, nor named like one".to_owned(),
        }),
    }
}

/// The command line that a kernel will be booted with; `None` if no menu entry is for it.
pub fn command_line(root: &Root, release: &str) -> Option<String> {
    let is_for = |entry: &Entry| {
        entry.image.as_deref().and_then(|image| release_of_image(root, image)).as_deref() == Some(release)
    };
    Loader::all(root)
        .iter()
        .filter_map(|loader| loader.entries(root).ok())
        .find_map(|entries| entries.into_iter().find(is_for))
        .map(|entry| entry.arguments)
}

/// An installed boot loader, with its configuration file.
enum Loader {
    Grub(PathBuf),
    SystemdBoot(PathBuf),
}

impl Loader {
    /// The installed boot loaders, in order of preference.
    fn all(root: &Root) -> Vec<Loader> {
        let grub = ["/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/efi/EFI/fedora/grub.cfg"]
            .iter()
            .find_map(|path| root.find(path))
            .map(Loader::Grub);
        let systemd = ["/efi", "/boot/efi", "/boot"]
            .iter()
            .find_map(|esp| root.find(format!("{esp}/loader/loader.conf")))
            .map(Loader::SystemdBoot);
        match root.find(BOOTED_BY) {
            Some(_) => [systemd, grub].into_iter().flatten().collect(),
            None => [grub, systemd].into_iter().flatten().collect(),
        }
    }

    fn default_kernel(&self, root: &Root) -> Result<Option<Choice>, Error> {
        let (path, entry) = match self {
            Loader::Grub(path) => {
                (path, grub::default_entry(root, path, &crate::bounded_read::config(path)?)?)
            }
            Loader::SystemdBoot(path) => (path, bls::systemd_default(root, path)?),
        };
        let Some(entry) = entry else { return Ok(None) };
        let release = entry.image.as_deref().and_then(|image| release_of_image(root, image));
        match release {
            Some(release) => Ok(Some(Choice { release, told_by: path.clone() })),
            None => Err(Error::NoKernel {
                path: path.clone(),
                problem: format!("its default entry '{}' boots an unknown kernel", entry.title),
            }),
        }
    }

    fn entries(&self, root: &Root) -> Result<Vec<Entry>, Error> {
        match self {
            Loader::Grub(path) => grub::entries(root, &crate::bounded_read::config(path)?),
            Loader::SystemdBoot(path) => bls::systemd_entries(root, path),
        }
    }
}

/// The release of an image as a loader names it: a path from the top of its file system, which may be that of `/boot`
/// or of the ESP.
fn release_of_image(root: &Root, image: &str) -> Option<String> {
    let image = image.trim_start_matches('/');
    let file = ["/", "/boot", "/efi", "/boot/efi"]
        .iter()
        .find_map(|top| root.find(Path::new(top).join(image)))
        .filter(|path| path.is_file());
    let uki = file.as_deref().and_then(|path| Uki::of_file(path).ok()?);
    match uki {
        Some(uki) => uki.release(),
        None => file.and_then(|path| kernels::image_release(&path)).or_else(|| release_of_name(image)),
    }
}

/// The release in a name: `vmlinuz-RELEASE`, or `RELEASE/linux` as in kernel-install's layout.
fn release_of_name(image: &str) -> Option<String> {
    let path = Path::new(image);
    let name = path.file_name()?.to_str()?;
    let named =
        ["vmlinuz-", "vmlinux-", "kernel-", "linux-"].iter().find_map(|prefix| name.strip_prefix(prefix));
    let release = match named {
        Some(release) => release,
        None if name == "linux" => path.parent()?.file_name()?.to_str()?,
        None => return None,
    };
    release.starts_with(|c: char| c.is_ascii_digit()).then(|| release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    /// Checks the kernel selected in a root with these files; a file with text `-> X` is a link to X.
    #[track_caller]
    pub(super) fn check(files: &[(&str, &str)], expect: Result<&str, &str>) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match text.strip_prefix("-> ") {
                Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
                None => fs::write(path, text).unwrap(),
            }
        }
        let found = default_kernel(&Root::new(dir.path()));
        match (found, expect) {
            (Ok(choice), Ok(release)) => assert_eq!(choice.release, release),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (found, expect) => panic!("{found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn a_link_selects_its_image() {
        check(
            &[("boot/vmlinuz-6.1.0-56-amd64", ""), ("vmlinuz", "-> boot/vmlinuz-6.1.0-56-amd64")],
            Ok("6.1.0-56-amd64"),
        );
        check(&[("boot/vmlinuz", "not an image")], Err("not a kernel image"));
    }

    #[test]
    fn a_missing_boot_loader_is_an_error_that_lists_the_supported_ones() {
        check(&[], Err("no boot loader configuration found"));
    }

    #[test]
    fn the_release_is_read_from_the_image_first() {
        let mut image = vec![0; 0x300];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x40_u16.to_le_bytes());
        image.splice(0x240..0x240, *b"6.9.1-arch1 (me) #1 SMP\0");
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("boot")).unwrap();
        fs::write(dir.path().join("boot/vmlinuz-linux"), image).unwrap();
        assert_eq!(
            release_of_image(&Root::new(dir.path()), "/vmlinuz-linux").as_deref(),
            Some("6.9.1-arch1")
        );
    }

    #[test]
    fn releases_are_found_in_names() {
        let check = |image: &str, expect: Option<&str>| {
            assert_eq!(release_of_name(image).as_deref(), expect, "{image}")
        };
        check("boot/vmlinuz-6.1.0-56-amd64", Some("6.1.0-56-amd64"));
        check("0123abcd/6.12.1-1/linux", Some("6.12.1-1"));
        check("vmlinuz-linux", None);
        check("memtest86+x64.bin", None);
    }
}
