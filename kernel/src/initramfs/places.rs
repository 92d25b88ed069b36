//! Where a kernel's initramfs is.
//!
//! | place | of |
//! |---|---|
//! | `/boot/initrd.img-R` | initramfs-tools(7), Debian's dracut |
//! | `/boot/initramfs-R.img`, `/boot/initrd-R` | dracut(8) of Fedora and of SUSE |
//! | `/boot/initramfs-NAME.img`, `-fallback`, `/boot/booster-NAME.img` | mkinitcpio(8) and booster(1) of Arch, NAME in `/lib/modules/R/pkgbase` |
//! | `/lib/modules/R/initramfs.img`, `initrd` | image-based systems |
//! | `ESP/TOKEN/R/initrd*` | kernel-install(8), Boot Loader Specification, type 1 |
//! | `ESP/EFI/Linux/*.efi` | unified kernel images ([`crate::uki`]) |

use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::bounded_read;
use crate::rootfs::Root;
use crate::uki;

/// Paths of a kernel's initramfs and of its unified kernel images: there may be several, and any may be booted. The one
/// that generators make by default comes first.
pub fn of_kernel(root: &Root, release: &str) -> Vec<PathBuf> {
    let mut places = vec![
        format!("/boot/initrd.img-{release}"),
        format!("/boot/initramfs-{release}.img"),
        format!("/boot/initrd-{release}"),
    ];
    if let Some(name) = name_of_package(root, release) {
        places.extend([
            format!("/boot/initramfs-{name}.img"),
            format!("/boot/initramfs-{name}-fallback.img"),
            format!("/boot/booster-{name}.img"),
        ]);
    }
    places
        .extend([format!("/lib/modules/{release}/initramfs.img"), format!("/lib/modules/{release}/initrd")]);
    places.extend(of_kernel_install(root, release));
    let files = places.iter().filter_map(|place| root.find(place)).filter(|path| path.is_file());
    let mut found = Vec::new();
    let is_for = |uki: &uki::Uki| uki.release().is_some_and(|of| of == release);
    let images = uki::all(root).into_iter().filter(|(_, uki)| is_for(uki));
    for path in files.chain(images.filter_map(|(inside, _)| root.find(inside))) {
        if !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

/// Name of a kernel's package, after which Arch names its files.
pub(super) fn name_of_package(root: &Root, release: &str) -> Option<String> {
    let text = config(root, &format!("/lib/modules/{release}/pkgbase"))?;
    let name = text.trim();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@._+-".contains(c);
    (!name.is_empty() && !name.starts_with(['-', '.']) && name.chars().all(is_plain)).then(|| name.to_owned())
}

/// What kernel-install(8) keeps in a kernel's directory on the boot partition, which is named after an entry token.
fn of_kernel_install(root: &Root, release: &str) -> Vec<String> {
    let id = |path: &str| config(root, path).map(|text| text.trim().to_owned());
    let release_file = ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| config(root, path));
    let field = |name: &str| {
        let text = release_file.as_deref()?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
        Some(value.trim_matches(['"', '\'']).to_owned())
    };
    let tokens = [
        id("/etc/kernel/entry-token"),
        id("/etc/machine-id"),
        field("IMAGE_ID"),
        field("ID"),
        Some("Default".into()),
    ];
    let is_token = |token: &String| !token.is_empty() && !token.starts_with('.') && !token.contains('/');
    let mut found = Vec::new();
    for token in tokens.into_iter().flatten().filter(is_token) {
        for esp in uki::ESPS {
            let directory = format!("{esp}/{token}/{release}");
            let Some(outside) = root.find(&directory).filter(|path| path.is_dir()) else { continue };
            let names = fs::read_dir(outside).into_iter().flatten().flatten();
            let mut names: Vec<_> = names.filter_map(|entry| entry.file_name().into_string().ok()).collect();
            names.sort();
            let is_initramfs = |name: &String| name.starts_with("initrd") || name.starts_with("initramfs");
            found.extend(
                names.iter().filter(|name| is_initramfs(name)).map(|name| format!("{directory}/{name}")),
            );
        }
    }
    found
}

fn config(root: &Root, inside: &str) -> Option<String> {
    bounded_read::config(&root.find(Path::new(inside))?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(files: &[(&str, &str)], expect: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let found = of_kernel(&Root::new(dir.path()), "6.1");
        let found: Vec<_> = found.iter().map(|path| path.strip_prefix(dir.path()).unwrap()).collect();
        assert_eq!(found, expect.iter().map(Path::new).collect::<Vec<_>>());
    }

    #[test]
    fn an_initramfs_is_found_where_distributions_install_it() {
        check(&[], &[]);
        check(&[("boot/initrd.img-6.2", "")], &[]);
        for place in ["boot/initrd.img-6.1", "boot/initramfs-6.1.img", "boot/initrd-6.1"] {
            check(&[(place, "")], &[place]);
        }
        check(
            &[("boot/initrd.img-6.1", ""), ("etc/machine-id", "abc\n"), ("boot/abc/6.1/initrd", "")],
            &["boot/initrd.img-6.1", "boot/abc/6.1/initrd"],
        );
        check(
            &[
                ("etc/kernel/entry-token", "mine\n"),
                ("efi/mine/6.1/initrd-x", ""),
                ("efi/mine/6.1/linux", ""),
            ],
            &["efi/mine/6.1/initrd-x"],
        );
    }

    #[test]
    fn arch_names_them_after_the_kernels_package() {
        let files = [
            ("boot/initramfs-linux.img", ""),
            ("boot/initramfs-linux-fallback.img", ""),
            ("boot/initramfs-linux-lts.img", ""),
        ];
        let named = |name| [&files[..], &[("lib/modules/6.1/pkgbase", name)]].concat();
        check(&named("linux\n"), &["boot/initramfs-linux.img", "boot/initramfs-linux-fallback.img"]);
        check(&named("linux-lts\n"), &["boot/initramfs-linux-lts.img"]);
        check(&named("../boot/x\n"), &[]);
        check(&files, &[]);
    }
}
