//! Modules of one name.

use fs_err as fs;

use super::{append, bearing, depmod, dkms, host, is_installed, k, put, put_foreign};
use crate::host::{FIXTURES, Host};
use crate::packages::plain;

#[test]
fn of_two_packages_with_one_module_neither_is_installed_and_a_third_is() {
    let kernels = [&*FIXTURES.old, &FIXTURES.new, &FIXTURES.six12];
    let host = Host::new(&kernels);
    for (name, module) in [("nva", "nv"), ("nvb", "nv"), ("third", "third")] {
        bearing(&host, name, "1.0", module);
    }
    let installed = host.kcache(&["install"]).exits(6).says(&[
        "module nv is also built by nvb; only one of them can be installed",
        "module nv is also built by nva; only one of them can be installed",
        "run `kcache install nva` to install that one, and say in a [[policy]] that nvb is ignored",
    ]);
    assert_eq!(installed.stderr.matches("error: nva/1.0").count(), 3, "{}", installed.shown());
    // `check` says the same, of builds and of recipes alone.
    for store in [host.store(), host.dir().join("moved")] {
        host.kcache(&["check", "-k", k()]).exits(3).prints(&[
            "module nv is also built by nva; only one of them can be installed",
            "module nv is also built by nvb; only one of them can be installed",
        ]);
        fs::rename(host.store(), store).unwrap();
    }
    for kernel in kernels {
        let found: Vec<String> = host.modules(kernel).into_keys().collect();
        assert!(found.len() == 1 && found[0].starts_with("third/third.ko"), "{kernel}: {found:?}");
    }
    host.kcache(&["install", "nva", "-k", k()]).exits(0);
    append(&host.root().join("etc/kcache/config.toml"), "[[policy]]\npackage = \"nvb\"\nis = \"ignore\"\n");
    host.kcache(&["install", "-k", k()]).exits(0);
    host.kcache(&["check", "-k", k()]).exits(0);
}

#[test]
fn a_package_that_is_installed_stays_and_those_with_its_module_are_left_out() {
    let host = host();
    bearing(&host, "nva", "1.0", "snd-x");
    host.kcache(&["install"]).exits(0);
    bearing(&host, "nvb", "1.0", "snd_x");
    bearing(&host, "nvc", "1.0", "snd_x");
    plain(&host, "other", "");
    host.kcache(&["install"]).exits(6).says(&[
        "nvb/1.0 for",
        "nvc/1.0 for",
        "module snd_x is also built by nva, which is installed",
        "run `kcache remove nva` first to install nvb",
    ]);
    assert!(is_installed(&host, k(), "snd-x") && is_installed(&host, k(), "other"));
    host.kcache(&["check"]).exits(3).prints(&["module snd_x is also built by nva, which is installed"]);
    host.kcache(&["remove", "nva"]).exits(0);
    host.kcache(&["install", "nvc"]).exits(0);
    dkms(&host, &["install", "nvb/1.0", "-k", k()]).exits(6).says(&["snd_x is also built by nvc"]);
}

#[test]
fn a_foreign_file_in_the_way_costs_its_own_package_alone() {
    for (place, conf) in [
        ("extra/hello.ko", "search extra updates built-in"),
        ("extra/hello.ko.xz", "search extra updates built-in"),
        ("weak-updates/x/hello.ko", "override hello * weak-updates/x"),
        ("updates/dkms/hello.ko", ""),
        ("updates/hello.ko", ""),
    ] {
        let host = host();
        put(&host, "etc/depmod.d/own.conf", &format!("{conf}\n"));
        put_foreign(&host, k(), place);
        for name in ["hello", "third", "f1", "f2"] {
            plain(&host, name, "");
        }
        let ran = host.kcache(&["install"]).exits(6).one_error();
        let ran = ran.says(&["hello/1.0 for", place, "remove the other module of this name first"]);
        let found: Vec<String> = host.modules(k()).into_keys().collect();
        assert_eq!(found, ["f1/f1.ko", "f2/f2.ko", "third/third.ko"], "{place}: {}", ran.shown());
        fs::remove_file(host.kernel(k()).join(place)).unwrap();
        depmod(&host, k());
        host.kcache(&["install"]).exits(0);
        host.kcache(&["check"]).exits(0);
    }
}

#[test]
fn an_installed_module_that_is_shadowed_later_is_named_and_keeps_no_other_out() {
    let host = host();
    plain(&host, "hello", "");
    host.kcache(&["install"]).exits(0);
    put(&host, "etc/depmod.d/own.conf", "override hello * extra\n");
    put_foreign(&host, k(), "extra/hello.ko");
    plain(&host, "third", "");
    host.kcache(&["install"]).exits(6).says(&["hello/1.0 for", "extra/hello.ko"]);
    assert!(is_installed(&host, k(), "third") && is_installed(&host, k(), "hello"));
    host.kcache(&["check"]).exits(3).prints(&["hello/1.0", "extra/hello.ko"]);
    host.kcache(&["remove", "hello"]).exits(0);
    assert!(!is_installed(&host, k(), "hello"));
}

#[test]
fn a_renamed_package_takes_the_place_of_the_old_one() {
    let host = host();
    let old = bearing(&host, "hid-x", "1.0", "hidx");
    host.kcache(&["install"]).exits(0);
    bearing(&host, "hid-x-dkms", "2.0", "hidx");
    host.kcache(&["install"]).exits(6).says(&["module hidx is also built by hid-x, which is installed"]);
    fs::remove_dir_all(old).unwrap();
    host.kcache(&["install"]).exits(0).says(&["hid-x-dkms/2.0 replaces hid-x"]);
    assert_eq!(host.modules(k()).into_keys().collect::<Vec<_>>(), ["hid-x-dkms/hidx.ko"]);
    host.kcache(&["check"]).exits(0);
    host.kcache(&["remove", "hid-x"]).exits(2).says(&["'hid-x' is not installed", "hid-x-dkms"]);

    fs::remove_dir_all(host.root().join("usr/src/hid-x-dkms-2.0")).unwrap();
    bearing(&host, "hid-z", "3.0", "hidx");
    dkms(&host, &["install", "hid-z/3.0", "-k", k()]).exits(0);
    dkms(&host, &["status"]).exits(0).prints(&[&format!("hid-z/3.0, {}, x86_64: installed", k())]);
    fs::remove_dir_all(host.root().join("usr/src/hid-z-3.0")).unwrap();
    host.kcache(&["remove", "hid-z"]).exits(0);
    assert!(host.modules(k()).is_empty());
}

#[test]
fn a_module_that_the_kernel_has_built_in_is_never_ready() {
    let host = host();
    plain(&host, "it-9", "");
    plain(&host, "other", "");
    append(&host.kernel(k()).join("modules.builtin"), "kernel/drivers/hwmon/it_9.ko\n");
    let why = "it_9 is built into this kernel, which therefore never loads the module";
    host.kcache(&["install"]).says(&["warning", "it-9/1.0", why]);
    assert!(is_installed(&host, k(), "other"));
    host.kcache(&["check"]).exits(3).prints(&["broken", why]);
    host.kcache(&["status"]).exits(0).prints(&["other/1.0  ready"]).says(&[why]);
}
