//! The initramfs of a kernel after its modules were changed by hand: regenerated where a changed module belongs in it.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fs_err as fs;
use serde_json::Value;

use crate::builder::{BUILDER, PACKAGE, url};
use crate::chrooted;
use crate::host::{FIXTURES, Host, PATH, Run, is_root, run};
use crate::packages::{hello, plain};

fn k() -> &'static str {
    &FIXTURES.new
}

/// Packs an initramfs with one file, as the kernel packages' tools write it.
pub fn pack(host: &Host, name: &str, contents: &[u8]) {
    let staging = host.dir().join("initramfs");
    let file = staging.join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, contents).unwrap();
    let image = host.root().join(format!("boot/initrd.img-{}", k()));
    let pack = format!("find . | cpio --quiet -o -H newc | zstd -q > {}", image.display());
    run(Command::new("sh").env("PATH", PATH).args(["-c", &pack]).current_dir(&staging));
}

fn put(host: &Host, path: &str, text: &str) {
    let path = host.root().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// The records about an initramfs.
fn records(host: &Host, words: &[&str]) -> Vec<Value> {
    let run = host.kcache(&[&["--json"], words].concat()).exits(0);
    let all = run.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    all.filter(|record| record["type"] == "initramfs").collect()
}

#[test]
fn under_another_root_the_command_is_printed_where_a_changed_module_belongs_in_the_initramfs() {
    let host = Host::new(&[k()]);
    hello(&host, "first");
    let marker = host.dir().join("called");
    put(&host, "usr/sbin/update-initramfs", &format!("#!/bin/sh\ntouch {}\n", marker.display()));
    pack(&host, "etc/other", b"");
    let (command, says) = (format!("/usr/sbin/update-initramfs -u -k {}", k()), "in that system");
    let line = format!("run `{command}` {says}");

    // A module that the initramfs does not concern.
    let run = host.kcache(&["install", "-k", k()]).exits(0);
    assert!(!run.stderr.contains("initramfs"), "{}", run.shown());
    // Its configuration names one: said until it is done, also if nothing else is left to do.
    put(&host, "etc/initramfs-tools/modules", "hello\n");
    host.kcache(&["install", "-k", k()]).exits(0).says(&["nothing to change", &line]);
    let module = fs::read(&host.modules(k())["hello/hello.ko"]).unwrap();
    pack(&host, "usr/lib/modules/hello.ko", &module);
    let run = host.kcache(&["install", "-k", k()]).exits(0);
    assert!(!run.stderr.contains("initramfs"), "{}", run.shown());

    // A copy is inside, whatever the configuration says.
    fs::remove_file(host.root().join("etc/initramfs-tools/modules")).unwrap();
    hello(&host, "second");
    let found = records(&host, &["install", "-k", k()]);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0]["action"], &found[0]["command"]),
        (&"regeneration_required".into(), &command.into())
    );
    // A rollback gives the module back that is inside; a removal leaves one inside that is installed no more.
    assert_eq!(records(&host, &["rollback", "-k", k()]), Vec::<Value>::new());
    host.kcache(&["remove", "hello", "-k", k()]).exits(0).says(&[&line]);
    assert!(!marker.exists(), "a program of the image was run");
}

#[test]
fn under_the_name_dkms_an_install_takes_care_of_the_initramfs_too() {
    let host = Host::new(&[k()]);
    hello(&host, "first");
    put(&host, "usr/sbin/update-initramfs", "");
    pack(&host, "etc/other", b"");
    let line = format!("run `/usr/sbin/update-initramfs -u -k {}` in that system", k());
    let dkms = |words: &[&str]| {
        let run = Run::from(host.called("dkms", &[words, &["-k", k()]].concat()).output().unwrap()).exits(0);
        assert!(!run.stdout.contains("initramfs"), "{}", run.shown());
        run.stderr.matches(&line).count()
    };
    assert_eq!(dkms(&["install", "hello/1.0"]), 0, "a module that the initramfs does not concern");
    put(&host, "etc/initramfs-tools/modules", "hello\n");
    assert_eq!(dkms(&["install", "hello/1.0", "--force", "--no-initrd"]), 0);
    assert_eq!(dkms(&["install", "hello/1.0", "--force"]), 1);
    assert_eq!(dkms(&["autoinstall"]), 1);
    // The kernel's own hooks generate it afterwards.
    assert_eq!(dkms(&["kernel_postinst"]), 0);
    let module = fs::read(&host.modules(k())["hello/hello.ko"]).unwrap();
    pack(&host, "usr/lib/modules/hello.ko", &module);
    assert_eq!(dkms(&["autoinstall"]), 0);
    // The script of -dkms packages, which removes the old version first.
    hello(&host, "second");
    let script = Run::from(host.called("common.postinst", &["hello", "1.0"]).output().unwrap()).exits(0);
    assert_eq!(script.stderr.matches(&line).count(), 1, "{}", script.shown());
}

#[test]
fn an_initramfs_that_cannot_be_read_is_regenerated_whenever_modules_change() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    put(&host, "usr/sbin/update-initramfs", "");
    put(&host, &format!("boot/initrd.img-{}", k()), "LZ4 or whatever");
    let line = format!("run `/usr/sbin/update-initramfs -u -k {}`", k());
    host.kcache(&["install", "-k", k()]).exits(0).says(&[&line]);
    let run = host.kcache(&["install", "-k", k()]).exits(0).says(&["nothing to change"]);
    assert!(!run.stderr.contains("initramfs"), "{}", run.shown());
    host.kcache(&["remove", "--all", "-k", k()]).exits(0).says(&[&line]);
}

#[test]
fn an_initramfs_of_an_unknown_generator_is_named() {
    let host = Host::new(&[k()]);
    plain(&host, "hello", "");
    pack(&host, "usr/lib/modules/hello.ko", b"another build");
    host.kcache(&["install", "-k", k()])
        .exits(0)
        .says(&["initramfs is older than the modules", "regenerate it with the program that made it"]);
}

#[test]
fn on_the_host_itself_the_initramfs_is_regenerated() {
    if !is_root() {
        return; // entering another root needs root
    }
    let host = Host::image_only().trusting(&BUILDER);
    let cache = BUILDER.copy_of_cache(&host.root());
    assert!(cache.starts_with(host.root()));
    host.write_config(&format!("packages = [{PACKAGE:?}]\n[[cache]]\n{}\n", url("file:///cache")));
    put(&host, "etc/initramfs-tools/modules", &format!("{PACKAGE}\n"));
    pack(&host, "etc/other", b"");
    let generator = |end: &str| {
        let script = format!("#!/bin/sh\necho \"called: $*\"\n{end}\n");
        put(&host, "usr/sbin/update-initramfs", &script);
    };
    let called = format!("called: -u -k {}", k());
    // What fails is said with the command, and the kernel is not ready.
    generator("exit 1");
    chrooted::kcache(&host, &["install", "-k", k()]).exits(3).prints(&["installed"]).says(&[
        &called,
        "cannot regenerate the initramfs (exit status: 1)",
        "hint: run `/usr/sbin/update-initramfs -u",
    ]);
    // The next run comes to it although it changes no module.
    generator("");
    let run = chrooted::kcache(&host, &["--json", "install", "-k", k()]).exits(0).says(&[&called]);
    assert!(run.stdout.contains("\"action\":\"regenerate\""), "{}", run.shown());
}
