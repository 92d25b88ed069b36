//! Directories of `/usr/src` that are called otherwise than their dkms.conf says.

use fs_err as fs;

use super::{bearing, dkms, host, is_installed, k};
use crate::packages::module_c;

#[test]
fn dkms_knows_a_package_by_its_directory_and_kcache_by_either_name() {
    for (directory, name, version, own, own_version) in [
        ("m-0.3", "m", "0.2", "m", "0.3"),
        ("8812AU-5.6.4.2", "realtek-rtl88xxau", "5.6.4.2~20230501", "8812AU", "5.6.4.2"),
        ("msi_ec-0.11", "msi-ec", "0.11", "msi_ec", "0.11"),
        ("drv-1.0-2-g1234567", "drv", "1.0-2-g1234567", "drv", "1.0-2-g1234567"),
        ("xone-a1b2c3d", "xone", "git", "xone", "a1b2c3d"),
    ] {
        let host = host();
        let source = bearing(&host, name, version, "mod_x");
        fs::rename(source, host.root().join("usr/src").join(directory)).unwrap();
        let what = format!("{own}/{own_version}");
        dkms(&host, &["add", &what]).exits(0);
        dkms(&host, &["build", "-m", own, "-v", own_version, "-k", k()]).exits(0);
        dkms(&host, &["install", &what, "-k", k()]).exits(0);
        assert!(is_installed(&host, k(), "mod_x"), "{directory}");
        let line = format!("{what}, {}, x86_64: installed", k());
        dkms(&host, &["status"]).exits(0).prints(&[&line]);
        dkms(&host, &["status", own]).exits(0).prints(&[&line]);
        dkms(&host, &["remove", &what, "--all"]).exits(0);
        assert_eq!(dkms(&host, &["status"]).exits(0).stdout, "", "{directory}");

        for word in [name, own] {
            host.kcache(&["install", word]).exits(0);
            host.kcache(&["check", word]).exits(0).prints(&[&what]);
            host.kcache(&["remove", word]).exits(0);
            assert!(!is_installed(&host, k(), "mod_x"), "{directory} as {word}");
        }
    }
}

#[test]
fn the_directorys_name_stands_for_a_placeholder_and_elsewhere_that_is_named() {
    let host = host();
    let source = bearing(&host, "rtl8821ce", "v5.5.2", "rtl");
    let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
    fs::write(source.join("dkms.conf"), conf.replace("\"v5.5.2\"", "\"#MODULE_VERSION#\"")).unwrap();
    host.kcache(&["install"]).exits(0);
    dkms(&host, &["status"]).exits(0).prints(&["rtl8821ce/v5.5.2"]);

    for (value, script, told) in [
        ("#MODULE_VERSION#", "dkms-install.sh", "./dkms-install.sh replaces it"),
        ("@PKGVER@", "README", "sed -i 's/@PKGVER@/VERSION/' dkms.conf"),
        ("%VERSION%", "README", "still the placeholder '%VERSION%'"),
        ("{{version}}", "README", "still the placeholder '{{version}}'"),
        ("__VERSION__", "README", "still the placeholder '__VERSION__'"),
    ] {
        let checkout = host.dir().join("checkout");
        let _ = fs::remove_dir_all(&checkout);
        fs::create_dir(&checkout).unwrap();
        let conf = format!("PACKAGE_NAME=bb\nPACKAGE_VERSION=\"{value}\"\nDEST_MODULE_LOCATION[0]=/extra\n");
        for (file, text) in
            [("dkms.conf", &*conf), (script, ""), ("bb.c", &module_c("")), ("Makefile", "obj-m := bb.o\n")]
        {
            fs::write(checkout.join(file), text).unwrap();
        }
        let place = "dkms.conf:2: PACKAGE_VERSION is still the placeholder";
        host.kcache(&["build", checkout.to_str().unwrap(), "-k", k()]).exits(4).says(&[place, told]);
    }
}
