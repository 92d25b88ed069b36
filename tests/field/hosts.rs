//! Stores, containers, and what DKMS left on a host.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use fs_err as fs;
use fs_err::os::unix::fs::symlink;

use super::{depmod, dkms, host, is_installed, k, put};
use crate::host::{Host, is_root, run};
use crate::packages::plain;

/// Runs kcache with a command before it, in a mount namespace of its own.
fn after(host: &Host, command: &str, arguments: &[&str]) -> crate::host::Run {
    let script = format!("{command} || exit 99; shift; exec \"$@\"");
    let store = host.store().display().to_string();
    host.kcache_under(
        &["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh", &store],
        arguments,
    )
}

#[test]
fn a_store_where_nothing_can_be_executed_is_named_before_anything_is_compiled() {
    if !is_root() {
        return;
    }
    let host = host();
    plain(&host, "hello", "");
    fs::create_dir(host.store()).unwrap();
    for _ in 0..2 {
        let ran = after(&host, "mount -t tmpfs -o noexec none $1", &["install"]).exits(1).one_error();
        let ran = ran.says(&["mounted noexec", "--store DIR"]);
        assert!(!ran.stderr.contains("building"), "{}", ran.shown());
    }
    host.kcache(&["install"]).exits(0);
}

#[test]
fn an_empty_store_that_others_could_write_is_closed() {
    let host = host();
    plain(&host, "hello", "");
    fs::create_dir(host.store()).unwrap();
    fs::set_permissions(host.store(), PermissionsExt::from_mode(0o1777)).unwrap();
    host.kcache(&["install"]).exits(0);
    assert_eq!(fs::metadata(host.store()).unwrap().permissions().mode() & 0o7777, 0o755);
    fs::set_permissions(host.store(), PermissionsExt::from_mode(0o1777)).unwrap();
    host.kcache(&["install"]).exits(6).says(&["writable by others"]);
}

#[test]
fn a_container_that_forbids_namespaces_gets_a_hint_what_to_allow() {
    if !is_root() {
        return;
    }
    let host = host();
    plain(&host, "hello", "");
    let drop = ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"];
    let ran = host.kcache_under(&drop, &["install"]).exits(1);
    ran.says(&["--privileged", "--cap-add SYS_ADMIN", "user namespaces"]);
    host.kcache(&["install"]).exits(0);
}

#[test]
fn the_key_that_dkms_signs_with_is_named_where_the_kernel_insists_on_signatures() {
    let host = host();
    plain(&host, "hello", "");
    for config in [host.headers(k()).join(".config"), host.root().join(format!("boot/config-{}", k()))] {
        let text = fs::read_to_string(&config).unwrap();
        let (without, with) = ("# CONFIG_MODULE_SIG_FORCE is not set", "CONFIG_MODULE_SIG_FORCE=y");
        fs::write(&config, text.replace(without, with)).unwrap();
    }
    let plainly = host.kcache(&["install"]).exits(6);
    assert!(!plainly.stderr.contains("mok.key"), "{}", plainly.shown());
    put(&host, "var/lib/dkms/mok.key", "");
    put(&host, "var/lib/dkms/mok.pub", "");
    host.kcache(&["install"]).exits(6).says(&["DKMS signs with /var/lib/dkms/mok.key"]);
    put(&host, "etc/dkms/framework.conf.d/own.conf", "mok_signing_key=/keys/$kernelver.key\n");
    put(&host, &format!("keys/{}.key", k()), "");
    host.kcache(&["install"]).exits(6).says(&[&format!("key = \"/keys/{}.key\"", k())]);
}

/// DKMS has installed `hd`, and moved the kernel's own module of this name away. Gives the kernel's place of it.
fn moved_away(host: &Host) -> PathBuf {
    plain(host, "hd", "");
    let (records, tree) = (host.root().join("var/lib/dkms/hd"), host.kernel(k()));
    let own = tree.join("kernel/drivers/media/mc/mc.ko");
    let kept = records.join(format!("original_module/{}/x86_64", k()));
    let built = records.join(format!("1.0/{}/x86_64/module", k()));
    for dir in [&kept, &built, &tree.join("updates/dkms")] {
        fs::create_dir_all(dir).unwrap();
    }
    for to in [kept, built, tree.join("updates/dkms")] {
        fs::copy(&own, to.join("hd.ko")).unwrap();
    }
    symlink(format!("1.0/{}/x86_64", k()), records.join(format!("kernel-{}-x86_64", k()))).unwrap();
    symlink("/usr/src/hd-1.0", records.join("1.0/source")).unwrap();
    let order = tree.join("modules.order");
    let text = fs::read_to_string(&order).unwrap();
    fs::write(order, format!("{text}kernel/drivers/hd/hd.ko\n")).unwrap();
    depmod(host, k());
    tree.join("kernel/drivers/hd/hd.ko")
}

fn resolved(host: &Host) -> String {
    let mut modprobe = Command::new("modprobe");
    modprobe.env("PATH", crate::host::PATH).arg("-d").arg(host.root());
    modprobe.args(["-S", k(), "--show-depends", "hd"]);
    String::from_utf8(run(&mut modprobe).stdout).unwrap()
}

#[test]
fn a_module_that_dkms_moved_away_comes_back_whoever_removes_the_package() {
    type Remove = fn(&Host);
    let ways: [(&str, Remove); 5] = [
        ("dkms remove", |host| drop(dkms(host, &["remove", "hd/1.0", "--all"]).exits(0))),
        ("dkms uninstall", |host| drop(dkms(host, &["uninstall", "hd/1.0", "-k", k()]).exits(0))),
        ("adopt, dkms remove", |host| {
            host.kcache(&["adopt", "-k", k()]).exits(0);
            assert!(is_installed(host, k(), "hd"));
            dkms(host, &["remove", "hd/1.0", "--all"]).exits(0);
        }),
        ("adopt, kcache remove", |host| {
            host.kcache(&["adopt", "-k", k()]).exits(0);
            host.kcache(&["remove", "hd"]).exits(0).says(&["restored kernel/drivers/hd/hd.ko"]);
        }),
        ("adopt, kcache remove --all", |host| {
            host.kcache(&["adopt", "-k", k()]).exits(0);
            host.kcache(&["remove", "--all"]).exits(0);
        }),
    ];
    for (way, remove) in ways {
        let host = host();
        let place = moved_away(&host);
        remove(&host);
        assert!(place.exists(), "{way}");
        assert!(resolved(&host).contains("kernel/drivers/hd/hd.ko"), "{way}: {}", resolved(&host));
        assert!(!host.root().join("var/lib/dkms/hd/original_module").join(k()).join("x86_64/hd.ko").exists());
    }
}
