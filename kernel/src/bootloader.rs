//! Which kernel the boot loader will take next, and with which command line: asked of its own files.
//!
//! ```text
//! GRUB            /boot/grub{,2}/grub.cfg, and grubenv beside it: next_entry, saved_entry
//! GRUB with BLS   blscfg in grub.cfg; the entries are /boot/loader/entries/*.conf (Fedora)
//! systemd-boot    loader/loader.conf and loader/entries/*.conf under /efi, /boot/efi or /boot
//! a link          /boot/vmlinuz or /vmlinuz, as Debian keeps them for simple loaders
//! ```
//!
//! An image's release is read from the image where it says so, else taken from its name. What somebody chooses in the menu,
//! and what the firmware does before any loader runs, cannot be known here; a loader that is none of these can be stood in
//! for by a path (`default-kernel` of the configuration).
//!
//! Sources: grub.cfg as grub-mkconfig writes it and GRUB's manual (`default`, `grubenv`, `blscfg`), loader.conf(5), and the
//! Boot Loader Specification, type 1.

mod bls;
mod grub;

use std::path::{Path, PathBuf};

use crate::kernels;
use crate::rootfs::Root;

/// The kernel that will be booted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Its release.
    pub release: String,
    /// Which file says so.
    pub told_by: PathBuf,
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No boot loader that is known here.
    #[error("no boot loader configuration found under {} (GRUB, systemd-boot, link /boot/vmlinuz)", root.display())]
    NoLoader {
        /// Where.
        root: PathBuf,
    },
    /// The loader's own files lead to no kernel.
    #[error("{}: {problem}", path.display())]
    NoKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A file could not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// One entry of a loader's menu.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Entry {
    /// What it is called.
    title: String,
    /// What it is called by programs.
    id: String,
    /// The image, as the loader sees it.
    image: Option<String>,
    /// The kernel's command line.
    arguments: String,
}

/// systemd-boot says so in a variable when it was the one that booted this machine (systemd's boot loader interface).
const BOOTED_BY: &str = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const LINKS: [&str; 2] = ["/boot/vmlinuz", "/vmlinuz"];

/// The kernel that will be booted if nobody interferes.
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

/// The command line that a kernel will be booted with; `None` where no entry of a loader's menu is for it.
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

/// A loader that is installed, by the file that configures it.
enum Loader {
    Grub(PathBuf),
    SystemdBoot(PathBuf),
}

impl Loader {
    /// Those that are there, the one to be believed first.
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
            Loader::SystemdBoot(path) => bls::entries(&bls::directory_of(path)),
        }
    }
}

/// The release of an image as a loader names it: a path from the top of the file system that holds it, which may be that of
/// `/boot` or of the ESP.
fn release_of_image(root: &Root, image: &str) -> Option<String> {
    let image = image.trim_start_matches('/');
    let file = ["/", "/boot", "/efi", "/boot/efi"]
        .iter()
        .find_map(|top| root.find(Path::new(top).join(image)))
        .filter(|path| path.is_file());
    file.and_then(|path| kernels::image_release(&path)).or_else(|| release_of_name(image))
}

/// `vmlinuz-RELEASE`, or `RELEASE/linux` as kernel-install lays it out.
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

    /// What is chosen in a root with these files; a file whose text is `-> X` is a link to X.
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
    fn a_link_leads_to_its_image() {
        check(
            &[("boot/vmlinuz-6.1.0-56-amd64", ""), ("vmlinuz", "-> boot/vmlinuz-6.1.0-56-amd64")],
            Ok("6.1.0-56-amd64"),
        );
        check(&[("boot/vmlinuz", "not an image")], Err("not a kernel image"));
    }

    #[test]
    fn nothing_to_go_by_is_an_error_that_names_what_was_looked_for() {
        check(&[], Err("no boot loader configuration found"));
    }

    #[test]
    fn an_image_says_its_release_whatever_it_is_called() {
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
