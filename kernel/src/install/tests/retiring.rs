//! Tests of removing a kernel.

use super::*;

/// Removes a kernel as a package manager does: deletes its files, and directories that are empty then.
fn uninstall_kernel(host: &Host) {
    fs_err::remove_dir_all(host.tree().join("kernel")).unwrap();
    for name in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        fs_err::remove_file(host.tree().join(name)).unwrap();
    }
    let _ = fs_err::remove_dir(host.tree());
}

fn retire_at(host: &Host, step: &Step<'_>) -> Result<bool, Error> {
    host.site_does(|site| retire::retire_at(site, step))
}

fn left(host: &Host) -> Vec<String> {
    let modules = host.dir.path().join("lib/modules");
    let picture = host.picture();
    picture
        .keys()
        .filter_map(|path| Some(path.strip_prefix(&modules).ok()?.to_str()?.to_owned()))
        .skip(1)
        .collect()
}

#[test]
fn nothing_of_a_removed_kernel_is_left() {
    let host = Host::indexed();
    host.install(&[host.package("p", "1", &["one"])]).unwrap();
    uninstall_kernel(&host);
    assert!(is_orphaned(&(&*host.tree()).into()).unwrap());
    assert!(retire_at(&host, &|_| Ok(())).unwrap());
    assert_eq!(left(&host), [""; 0]);
    assert!(!retire_at(&host, &|_| Ok(())).unwrap(), "a second time there is nothing");
    assert_eq!(left(&host), [""; 0]);
}

#[test]
fn an_interrupted_removal_of_a_kernel_is_completed() {
    for n in 0.. {
        let host = Host::indexed();
        host.install(&[host.package("p", "1", &["one"])]).unwrap();
        uninstall_kernel(&host);
        let passed = Cell::new(0);
        let step = |_: &str| {
            passed.set(passed.get() + 1);
            assert!(passed.get() <= n, "crash");
            Ok(())
        };
        let died = catch_unwind(AssertUnwindSafe(|| retire_at(&host, &step))).is_err();
        retire_at(&host, &|_| Ok(())).unwrap();
        assert_eq!(left(&host), [""; 0], "after {n} steps");
        if !died {
            assert_eq!(n, 2);
            return;
        }
    }
}

#[test]
fn foreign_files_of_a_removed_kernel_are_kept() {
    let host = Host::indexed();
    host.install(&[host.package("p", "1", &["one"])]).unwrap();
    let dkms = host.tree().join("updates/dkms");
    fs_err::create_dir(&dkms).unwrap();
    fs_err::write(dkms.join("theirs.ko"), "").unwrap();
    uninstall_kernel(&host);
    assert!(retire_at(&host, &|_| Ok(())).unwrap());
    let left = left(&host);
    let expected = format!("{RELEASE}/updates/dkms/theirs.ko");
    assert!(left.contains(&expected) && left.contains(&format!("{RELEASE}/modules.dep")), "{left:?}");
    assert!(!left.iter().any(|path| path.contains("kcache")), "{left:?}");
}

#[test]
fn a_kernel_that_still_exists_stays_bootable() {
    let host = Host::indexed();
    let before = host.picture();
    host.install(&[host.package("p", "1", &["one"])]).unwrap();
    assert!(retire_at(&host, &|_| Ok(())).unwrap());
    assert_eq!(before, host.picture());
    assert!(host.found("intree").is_some());
}

#[test]
fn a_transaction_on_a_removed_kernel_is_discarded() {
    let host = Host::indexed();
    host.install(&[host.package("p", "1", &["one"])]).unwrap();
    host.crash_at(&[host.package("p", "2", &["one"])], 4).unwrap();
    assert!(interrupted(&host.tree()).unwrap());
    fs_err::remove_dir_all(host.tree()).unwrap();
    assert!(retire_at(&host, &|_| Ok(())).unwrap());
    assert_eq!(left(&host), [""; 0]);
}
