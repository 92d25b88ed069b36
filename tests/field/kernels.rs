//! Directories of kernels, and their headers.

use std::path::Path;
use std::process::{Command, Stdio};

use fs_err as fs;
use fs_err::os::unix::fs::symlink;

use super::{append, dkms, host, is_installed, k, put, with_conf};
use crate::host::{FIXTURES, Host, Run, run};
use crate::packages::{plain, with_makefile};

const OLD: &str = "5.10.0-9-amd64";

#[test]
fn what_is_left_of_a_removed_kernel_does_not_count() {
    let host = host();
    plain(&host, "hello", "");
    put(&host, &format!("lib/modules/{OLD}/updates/dkms/old.ko"), "x");
    put(&host, "lib/modules/5.10.0-8-amd64/modules.dep", "");
    fs::create_dir(host.kernel("empty")).unwrap();
    fs::create_dir_all(host.kernel("hollow").join("kernel/drivers/net")).unwrap();
    fs::create_dir(host.kernel("dangling")).unwrap();
    symlink("/usr/src/gone", host.kernel("dangling").join("build")).unwrap();

    let counts = |ran: &Run| ran.stdout.contains(OLD) && !ran.stdout.contains("leftover");
    assert!(!counts(&host.kcache(&["install"]).exits(0)));
    let line = format!("{OLD}: leftover of a removed kernel, not counted");
    host.kcache(&["check"]).exits(0).says(&[
        &line,
        "empty: leftover",
        "dangling: leftover",
        "hollow: leftover",
    ]);
    assert!(!counts(&host.kcache(&["status"]).exits(0).says(&[&line])));
    for arguments in [&["metrics"][..], &["report", "--json"], &["hooks", "run", "boot"]] {
        assert!(!counts(&host.kcache(arguments)), "{arguments:?}");
    }
    for command in ["status", "check"] {
        let document = host.kcache(&[command, "--json"]).exits(0).json();
        assert_eq!(
            document["leftovers"],
            serde_json::json!(["dangling", "empty", "hollow", "5.10.0-8-amd64", OLD]),
            "{document}"
        );
        assert_eq!((document["kernels"].as_array().unwrap().len(), &document["ready"]), (1, &true.into()));
    }
    // Named, it is what it is.
    host.kcache(&["check", "-k", OLD]).exits(3);
}

#[test]
fn what_kcache_left_in_the_directory_of_a_removed_kernel_can_be_removed() {
    let host = Host::new(&[&FIXTURES.old, k()]);
    plain(&host, "hello", "");
    host.kcache(&["install"]).exits(0);
    let old = host.kernel(&FIXTURES.old);
    for gone in ["kernel", "build", "source", "modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        run(Command::new("rm").arg("-r").arg(old.join(gone)));
    }
    for image in ["vmlinuz", "config"] {
        fs::remove_file(host.root().join(format!("boot/{image}-{}", FIXTURES.old))).unwrap();
    }
    run(Command::new("rm").arg("-r").arg(host.headers(&FIXTURES.old)));
    let way = format!("`kcache remove -k {}` removes kcache's modules", FIXTURES.old);
    host.kcache(&["check"]).exits(0).says(&[&way]);
    host.kcache(&["remove", "-k", k()]).exits(2).says(&["which packages are to be removed"]);
    host.kcache(&["remove", "-k", &FIXTURES.old, "--dry-run"]).exits(0).says(&["would remove"]);
    assert!(old.join("updates").exists());
    host.kcache(&["remove", "-k", &FIXTURES.old]).exits(0).says(&["removed what kcache had left there"]);
    assert!(!old.exists());
    assert!(is_installed(&host, k(), "hello"));
}

#[test]
fn headers_without_symbol_versions_are_named_where_the_kernel_insists_on_them() {
    let host = host();
    plain(&host, "hello", "");
    fs::remove_file(host.headers(k()).join("Module.symvers")).unwrap();
    for config in [host.headers(k()).join(".config"), host.root().join(format!("boot/config-{}", k()))] {
        let text = fs::read_to_string(&config).unwrap();
        let without = "# CONFIG_MODULE_FORCE_LOAD is not set";
        fs::write(&config, text.replace("CONFIG_MODULE_FORCE_LOAD=y", without)).unwrap();
        assert!(fs::read_to_string(&config).unwrap().contains("CONFIG_MODVERSIONS=y"));
    }
    let ran = host.kcache(&["install"]);
    assert!(ran.code != Some(0) && ran.stderr.contains("Module.symvers"), "{}", ran.shown());
    assert!(!is_installed(&host, k(), "hello"));
}

/// Moves a directory of the host below /usr/moved and leaves an absolute link to it. The relative links of Debian's headers
/// lead from there to the same places.
fn linked(host: &Host, path: &str) {
    let name = Path::new(path).file_name().unwrap().to_str().unwrap();
    fs::create_dir_all(host.root().join("usr/moved")).unwrap();
    fs::rename(host.root().join(path), host.root().join("usr/moved").join(name)).unwrap();
    symlink(format!("/usr/moved/{name}"), host.root().join(path)).unwrap();
}

#[test]
fn links_in_the_way_of_packages_and_headers_are_followed_inside_the_root() {
    let host = host();
    for name in ["absolute", "relative", "chain", "within"] {
        plain(&host, name, "");
    }
    linked(&host, "usr/src/absolute-1.0");
    linked(&host, "usr/src/relative-1.0");
    linked(&host, "usr/src/chain-1.0");
    let source = |name: &str| host.root().join("usr/src").join(name);
    fs::remove_file(source("relative-1.0")).unwrap();
    symlink("../moved/relative-1.0", source("relative-1.0")).unwrap();
    symlink("/usr/moved/chain-1.0", host.root().join("usr/moved/one")).unwrap();
    fs::remove_file(source("chain-1.0")).unwrap();
    symlink("/usr/moved/one", source("chain-1.0")).unwrap();
    fs::rename(source("within-1.0/within.c"), source("within-1.0/real.c")).unwrap();
    symlink("/usr/src/within-1.0/real.c", source("within-1.0/within.c")).unwrap();
    symlink("/usr/src/nowhere", source("dangling-1.0")).unwrap();
    linked(&host, &format!("usr/src/linux-headers-{}", k()));
    host.kcache(&["install"]).exits(0);
    host.kcache(&["check"]).exits(0);
    dkms(&host, &["install", "chain/1.0", "-k", k(), "--force"]).exits(0);

    // The directory of all sources, too.
    fs::rename(host.root().join("usr/src"), host.root().join("usr/data")).unwrap();
    symlink("/usr/data", host.root().join("usr/src")).unwrap();
    host.kcache(&["install", "--rebuild"]).exits(0);
    host.kcache(&["check"]).exits(0);
}

#[test]
fn a_link_to_a_directory_of_packages_is_no_second_package() {
    let host = host();
    plain(&host, "hello", "");
    symlink("hello-1.0", host.root().join("usr/src/hello-latest")).unwrap();
    let ran = host.kcache(&["install", "--json"]).exits(0);
    assert_eq!(ran.outcomes().len(), 1, "{}", ran.shown());
}

#[test]
fn hard_links_made_during_a_build_change_nothing() {
    let host = host();
    let makefile = "obj-m := slow.o\nall:\n\ttouch started; sleep 3\n\t$(MAKE) -C $(K) M=$(CURDIR) modules\n";
    with_makefile(&host, "slow", "", makefile, "MAKE=\"make all K=$kernel_source_dir\"\n");
    let mut running = host.command(&["install"]).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    for (from, to) in [("linux-headers-", "headers-backup"), ("slow-1.0", "source-backup")] {
        let from = if from == "slow-1.0" { "slow-1.0".to_owned() } else { format!("{from}{}", k()) };
        let from = host.root().join("usr/src").join(from);
        run(Command::new("cp").arg("-al").arg(from).arg(host.dir().join(to)));
    }
    assert!(running.wait().unwrap().success());
    assert!(is_installed(&host, k(), "slow"));
    host.kcache(&["check"]).exits(0);
}

#[test]
fn a_changed_header_still_ends_a_build() {
    let host = host();
    let makefile = "obj-m := slow.o\nall:\n\tsleep 3\n\t$(MAKE) -C $(K) M=$(CURDIR) modules\n";
    with_makefile(&host, "slow", "", makefile, "MAKE=\"make all K=$kernel_source_dir\"\n");
    let mut running = host.command(&["install"]).stderr(Stdio::null()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    append(&host.headers(k()).join("include/generated/autoconf.h"), "\n");
    assert!(!running.wait().unwrap().success());
}

#[test]
fn a_recipe_may_be_a_link_within_its_source() {
    let host = host();
    let source = with_conf(&host, "linked", "");
    fs::create_dir(source.join("pkg")).unwrap();
    fs::rename(source.join("dkms.conf"), source.join("pkg/dkms.conf")).unwrap();
    symlink("pkg/dkms.conf", source.join("dkms.conf")).unwrap();
    host.kcache(&["install"]).exits(0);
}
