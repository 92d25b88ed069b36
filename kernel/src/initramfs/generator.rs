//! What makes a kernel's initramfs anew.
//!
//! | generator | command |
//! |---|---|
//! | initramfs-tools(7), and Debian's dracut in its place | `update-initramfs -u -k R` |
//! | mkinitcpio(8) | `mkinitcpio -p NAME`, with the preset of the kernel's package, or `mkinitcpio -k R -g FILE` |
//! | booster(1) | `booster build --force --kernel-version R FILE` |
//! | kernel-install(8), for its own layout and unified kernel images | `kernel-install add R IMAGE` |
//! | dracut(8) | `dracut --force FILE R`; for unified kernel images `dracut --force --uefi --kver R` |

use std::path::Path;

use super::places::{name_of_package, of_kernel};
use crate::kernels;
use crate::rootfs::Root;
use crate::uki::{self, Uki};

/// The command that makes a kernel's initramfs anew, its program with its path inside of the root. `None` where there is no
/// initramfs yet, or where nobody is known to make it.
pub fn command(root: &Root, release: &str) -> Option<Vec<String>> {
    let files = of_kernel(root, release);
    let outside = files.first()?;
    let file = root.inside(outside)?.to_str()?.to_owned();
    let call = |program: String, words: &[&str]| {
        Some([vec![program], words.iter().map(|word| (*word).to_owned()).collect()].concat())
    };
    let is_uki = Uki::of_file(outside).is_ok_and(|uki| uki.is_some());
    let of_loader = is_uki
        || uki::ESPS.iter().any(|esp| {
            // ESP/TOKEN/R/FILE
            Path::new(&file).strip_prefix(esp).is_ok_and(|below| below.components().count() == 3)
        });
    if let Some(program) = find(root, "update-initramfs").filter(|_| !of_loader) {
        return call(program, &["-u", "-k", release]);
    }
    if file.starts_with("/boot/booster-")
        && let Some(program) = find(root, "booster")
    {
        return call(program, &["build", "--force", "--kernel-version", release, &file]);
    }
    if let Some(program) = find(root, "mkinitcpio") {
        let preset = name_of_package(root, release)
            .filter(|name| root.find(format!("/etc/mkinitcpio.d/{name}.preset")).is_some());
        match preset {
            Some(name) => return call(program, &["-p", &name]),
            None if !of_loader => return call(program, &["-k", release, "-g", &file]),
            None => {}
        }
    }
    if of_loader && let Some(program) = find(root, "kernel-install") {
        let image = kernels::images(release).into_iter().find(|image| root.find(image).is_some())?;
        return call(program, &["add", release, &image]);
    }
    let program = find(root, "dracut")?;
    if is_uki {
        call(program, &["--force", "--uefi", "--kver", release])
    } else {
        call(program, &["--force", &file, release])
    }
}

/// Path inside of the root of a program.
pub(super) fn find(root: &Root, name: &str) -> Option<String> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .into_iter()
        .map(|dir| format!("{dir}/{name}"))
        .find(|path| root.find(path).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    fn check(files: &[&str], expect: Option<&str>) {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, if file.ends_with("pkgbase") { "linux\n" } else { "" }).unwrap();
        }
        let found = command(&Root::new(dir.path()), "6.1").map(|words| words.join(" "));
        assert_eq!(found.as_deref(), expect, "{files:?}");
    }

    #[test]
    fn whoever_made_the_initramfs_makes_it_anew() {
        check(
            &["usr/sbin/update-initramfs", "boot/initrd.img-6.1"],
            Some("/usr/sbin/update-initramfs -u -k 6.1"),
        );
        check(
            &["usr/bin/dracut", "boot/initramfs-6.1.img"],
            Some("/usr/bin/dracut --force /boot/initramfs-6.1.img 6.1"),
        );
        let arch = ["lib/modules/6.1/pkgbase", "usr/bin/mkinitcpio", "boot/initramfs-linux.img"];
        check(&arch, Some("/usr/bin/mkinitcpio -k 6.1 -g /boot/initramfs-linux.img"));
        check(
            &[&arch[..], &["etc/mkinitcpio.d/linux.preset"]].concat(),
            Some("/usr/bin/mkinitcpio -p linux"),
        );
        check(
            &["lib/modules/6.1/pkgbase", "usr/bin/booster", "usr/bin/dracut", "boot/booster-linux.img"],
            Some("/usr/bin/booster build --force --kernel-version 6.1 /boot/booster-linux.img"),
        );
        check(
            &[
                "usr/bin/kernel-install",
                "usr/sbin/update-initramfs",
                "efi/Default/6.1/initrd",
                "boot/vmlinuz-6.1",
            ],
            Some("/usr/bin/kernel-install add 6.1 /boot/vmlinuz-6.1"),
        );
    }

    #[test]
    fn there_is_no_command_without_a_generator_or_an_initramfs() {
        check(&["usr/sbin/update-initramfs", "usr/bin/dracut"], None);
        check(&["usr/sbin/update-initramfs", "boot/initrd.img-6.2"], None);
        check(&["boot/initrd.img-6.1"], None);
    }
}
