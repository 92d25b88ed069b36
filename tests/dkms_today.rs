//! kcache under the name `dkms`, where DKMS 3.2 is exact: records, broken packages, exit codes, versions, its own settings, its keys.

use std::path::PathBuf;
use std::process::Command;

use fs_err as fs;

use crate::chrooted;
use crate::host::{FIXTURES, Host, PATH, Run, is_root, run};
use crate::packages::{dkms_conf, hello, module_c, plain, script, with_makefile};

fn k() -> &'static str {
    &FIXTURES.new
}

fn dkms(host: &Host, arguments: &[&str]) -> Run {
    Run::from(host.called("dkms", arguments).output().unwrap())
}

/// The same on the host itself, in a chroot; for root only.
fn dkms_inside(host: &Host, arguments: &[&str]) -> Run {
    chrooted::enter(
        host,
        "ln -sf kcache /dkms; export KCACHE_STORE=/store; exec /dkms \"$0\" \"$@\"",
        arguments,
    )
}

fn record(host: &Host, path: &str) -> PathBuf {
    host.root().join("var/lib/dkms").join(path)
}

fn status(host: &Host) -> String {
    dkms(host, &["status"]).exits(0).stdout
}

#[test]
fn records_are_where_others_look_for_them() {
    let host = Host::new(&[k()]);
    let source = hello(&host, "");
    let directory = format!("hello/1.0/{}/x86_64", k());
    let module = format!("{directory}/module/hello.ko");
    dkms(&host, &["build", "hello/1.0", "-k", k()]).exits(0);
    assert!(
        record(&host, &module).is_file() && !record(&host, &format!("hello/kernel-{}-x86_64", k())).exists()
    );
    let log = fs::read_to_string(record(&host, &format!("{directory}/log/make.log"))).unwrap();
    assert!(log.contains("make KERNELRELEASE="), "{log}");

    dkms(&host, &["install", "hello/1.0", "-k", k()]).exits(0);
    let active = record(&host, &format!("hello/kernel-{}-x86_64/module/hello.ko", k()));
    let (_, installed) = host.modules(k()).pop_first().unwrap();
    assert_eq!(fs::read(&active).unwrap(), fs::read(installed).unwrap());
    assert_eq!(status(&host), format!("hello/1.0, {}, x86_64: installed\n", k()));
    // Taken over is what DKMS has installed, and this is not.
    host.kcache(&["adopt"]).exits(0);
    assert!(active.is_file());

    // Whoever removes it: it is built still, and no longer installed.
    host.kcache(&["remove", "hello", "-k", k()]).exits(0);
    assert_eq!(status(&host), format!("hello/1.0, {}, x86_64: built\n", k()));
    dkms(&host, &["install", "hello/1.0", "-k", k()]).exits(0);
    fs::remove_file(record(&host, &module)).unwrap();
    assert!(
        status(&host).ends_with(": installed (Built modules are missing in the kernel modules folder)\n")
    );
    dkms(&host, &["uninstall", "hello/1.0", "-k", k()]).exits(0);
    assert!(!active.exists() && !record(&host, &format!("hello/kernel-{}-x86_64", k())).is_symlink());

    // A build in the store is not one of this package that somebody added.
    dkms(&host, &["remove", "hello/1.0", "--all"]).exits(0).prints(&["Deleting module hello/1.0 completely"]);
    dkms(&host, &["add", "hello/1.0"]).exits(0);
    assert_eq!(status(&host), "hello/1.0: added\n");
    dkms(&host, &["autoinstall", "-k", k()]).exits(0);
    assert!(active.is_file());
    dkms(&host, &["kernel_prerm", "-k", k()]).exits(0);
    assert_eq!(status(&host), "hello/1.0: added\n");

    fs::write(source.join("hello.c"), "no C\n").unwrap();
    dkms(&host, &["build", "hello/1.0", "-k", k()]).exits(10).says(&["hello/1.0/build/make.log"]);
    let log = fs::read_to_string(record(&host, "hello/1.0/build/make.log")).unwrap();
    assert!(log.contains("error:"), "{log}");
}

#[test]
fn a_package_that_lost_its_source_is_broken_and_left_to_a_person() {
    let host = Host::new(&[k()]);
    let source = hello(&host, "");
    dkms(&host, &["install", "hello/1.0", "-k", k()]).exits(0);
    fs::rename(&source, host.dir().join("away")).unwrap();
    dkms(&host, &["status"])
        .exits(0)
        .prints(&["hello/1.0: broken"])
        .says(&["Manual intervention is required!"]);
    for action in ["build", "install", "uninstall", "unbuild", "remove"] {
        dkms(&host, &[action, "hello/1.0", "-k", k()]).exits(4).says(&["hello/1.0 is broken!"]);
    }
    // Without the link, `add` mends it.
    fs::rename(host.dir().join("away"), &source).unwrap();
    fs::remove_file(record(&host, "hello/1.0/source")).unwrap();
    assert_eq!(status(&host), "hello/1.0: broken\n");
    dkms(&host, &["add", "hello/1.0"]).exits(0);
    assert_eq!(status(&host), format!("hello/1.0, {}, x86_64: installed\n", k()));
}

#[test]
fn a_recipe_that_dkms_refuses_is_refused_by_add() {
    let host = Host::new(&[k()]);
    let check = |name: &str, conf: String, code: i32| {
        let files = [("dkms.conf", conf), ("Makefile", String::new()), ("patches/none", String::new())];
        host.write_package(&format!("{name}-1.0"), &files);
        let run = dkms(&host, &["add", &format!("{name}/1.0")]).exits(code);
        assert_eq!(record(&host, name).exists(), code == 0, "{name}");
        run
    };
    let twice = "DEST_MODULE_NAME[0]=a\nBUILT_MODULE_NAME[1]=twice\nDEST_MODULE_NAME[1]=b\nDEST_MODULE_LOCATION[1]=/extra\n";
    check("twice", dkms_conf("twice", "1.0", twice), 8).says(&["Bad conf file."]);
    check("sparse", dkms_conf("sparse", "1.0", "DEST_MODULE_LOCATION[2]=/extra\n"), 8);
    check("suffix", dkms_conf("suffix", "1.0", "DEST_MODULE_NAME[0]=a.ko\n"), 8);
    check("syntax", "if\n".to_owned(), 8);
    check("lost", dkms_conf("lost", "1.0", "PATCH[0]=no.patch\n"), 0);
    dkms(&host, &["build", "lost/1.0", "-k", k()]).exits(5);
    check("climbs", dkms_conf("climbs", "1.0", "PATCH[0]=../../no.patch\n"), 0);
    dkms(&host, &["build", "climbs/1.0", "-k", k()]).exits(5);
    check("other", dkms_conf("other", "1.0", "PATCH[0]=none\n"), 0);
    fs::write(host.root().join("usr/src/other-1.0/patches/none"), "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n")
        .unwrap();
    dkms(&host, &["build", "other/1.0", "-k", k()]).exits(6);
    check("middle", dkms_conf("middle", "1.0", "PATCH[0]=a/../none\n"), 0);
    dkms(&host, &["build", "middle/1.0", "-k", k()]).exits(5);
    fs::create_dir(host.dir().join("empty")).unwrap();
    fs::write(host.dir().join("empty/dkms.conf"), "").unwrap();
    dkms(&host, &["add", host.dir().join("empty").to_str().unwrap()]).exits(8);
    let empty = host.write_package("stub-1.0", &[("dkms.conf", dkms_conf("stub", "1.0", ""))]);
    assert_eq!(fs::read_dir(empty).unwrap().count(), 1);
    dkms(&host, &["build", "stub/1.0", "-k", k()]).exits(8).says(&["does not appear to have module source"]);
    with_makefile(&host, "nothing", "", "all:\n\ttrue\n", "MAKE=\"make all\"\n");
    dkms(&host, &["build", "nothing/1.0", "-k", k()]).exits(7);
}

#[test]
fn a_package_without_modules_passes_through_the_states() {
    let host = Host::new(&[k()]);
    let conf = "PACKAGE_NAME=zero\nPACKAGE_VERSION=1.0\nAUTOINSTALL=yes\n".to_owned();
    host.write_package("zero-1.0", &[("dkms.conf", conf), ("README", String::new())]);
    dkms(&host, &["add", "zero/1.0"]).exits(0).says(&["zero modules"]);
    dkms(&host, &["build", "zero/1.0", "-k", k()]).exits(0);
    assert_eq!(status(&host), format!("zero/1.0, {}, x86_64: built\n", k()));
    dkms(&host, &["install", "zero/1.0", "-k", k()]).exits(0);
    assert_eq!(status(&host), format!("zero/1.0, {}, x86_64: installed\n", k()));
    dkms(&host, &["autoinstall", "-k", k()]).exits(0);
    host.kcache(&["check", "-k", k()]).exits(0);
    dkms(&host, &["remove", "zero/1.0", "--all"]).exits(0);
    assert!(!record(&host, "zero").exists() && host.modules(k()).is_empty());
}

#[test]
fn a_missing_build_dependency_is_13_and_force_builds_all_the_same() {
    let host = Host::new(&[k()]);
    let makefile = "obj-m := needy.o\n";
    with_makefile(&host, "needy", "", makefile, "BUILD_DEPENDS[0]=other\nBUILD_DEPENDS[1]=needy\n");
    for action in ["build", "install"] {
        dkms(&host, &[action, "needy/1.0", "-k", k()]).exits(13).says(&["other, which is not installed"]);
    }
    dkms(&host, &["autoinstall", "-k", k()]).exits(11);
    dkms(&host, &["build", "needy/1.0", "-k", k(), "--force"]).exits(0);
    // What was built by force is installed as it is, as long as its source is the same.
    dkms(&host, &["install", "needy/1.0", "-k", k()]).exits(0);
    assert_eq!(status(&host), format!("needy/1.0, {}, x86_64: installed\n", k()));
    dkms(&host, &["uninstall", "needy/1.0", "-k", k()]).exits(0);
    fs::write(host.root().join("usr/src/needy-1.0/needy.c"), module_c("edited")).unwrap();
    dkms(&host, &["install", "needy/1.0", "-k", k()]).exits(13);
    // Against itself.
    plain(&host, "other", "");
    dkms(&host, &["install", "needy/1.0", "-k", k()]).exits(13).says(&["circular"]);
}

#[test]
fn an_older_version_replaces_a_newer_one_only_by_force() {
    let host = Host::new(&[k()]);
    for version in ["1.0", "2.0"] {
        let text = format!("{}MODULE_VERSION(\"{version}\");\n", module_c("v"));
        let files = [
            ("dkms.conf", dkms_conf("hello", version, "")),
            ("Makefile", "obj-m := hello.o\n".to_owned()),
            ("hello.c", text),
        ];
        host.write_package(&format!("hello-{version}"), &files);
    }
    let install = |version: &str, more: &[&str]| {
        let what = format!("hello/{version}");
        dkms(&host, &[&["install", &what, "-k", k()][..], more].concat())
    };
    let version = || host.modinfo(k(), "hello", "version");
    install("1.0", &[]).exits(0);
    install("2.0", &[]).exits(0);
    install("1.0", &[]).exits(6).says(&["Installation aborted.", "is not newer than what is already found"]);
    assert_eq!(version(), "2.0");
    assert_eq!(
        status(&host),
        format!("hello/1.0, {0}, x86_64: built\nhello/2.0, {0}, x86_64: installed\n", k())
    );
    install("1.0", &["--force-version-override"]).exits(0);
    assert_eq!(version(), "1.0");
    install("2.0", &[]).exits(0);
    let forced = host.root().join("usr/share/dkms/modules_to_force_install");
    fs::create_dir_all(&forced).unwrap();
    fs::write(forced.join("ours"), "some other\nhello_version-override\n").unwrap();
    install("1.0", &[]).exits(0);
    assert_eq!(version(), "1.0");
}

#[test]
fn a_package_that_is_not_installed_automatically_is_added_by_its_postinst_and_no_more() {
    let host = Host::new(&[k()]);
    let source = hello(&host, "");
    let conf = dkms_conf("hello", "1.0", "").replace("AUTOINSTALL=\"yes\"", "AUTOINSTALL=no");
    fs::write(source.join("dkms.conf"), conf).unwrap();
    let postinst = || Run::from(host.called("common.postinst", &["hello", "1.0"]).output().unwrap());
    postinst().exits(0).prints(&["does not have AUTOINSTALL enabled"]);
    assert_eq!(status(&host), "hello/1.0: added\n");
    fs::write(source.join("dkms.conf"), dkms_conf("hello", "1.0", "")).unwrap();
    postinst().exits(0);
    assert_eq!(status(&host), format!("hello/1.0, {}, x86_64: installed\n", k()));
}

#[test]
fn autoinstall_does_nothing_where_the_administrator_says_so() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    fs::create_dir_all(host.root().join("etc/dkms")).unwrap();
    fs::write(host.root().join("etc/dkms/no-autoinstall"), "").unwrap();
    for action in ["autoinstall", "kernel_postinst"] {
        dkms(&host, &[action, "-k", k()]).exits(0).prints(&["has been disabled"]);
    }
    assert!(host.modules(k()).is_empty());
}

/// The package dkms has hooks of its own, which call whoever is `dkms`.
#[test]
fn hooks_of_the_package_dkms_do_not_stop_a_kernel_from_being_configured() {
    let host = Host::new(&[k()]);
    let source = hello(&host, "");
    fs::write(source.join("hello.c"), "no C\n").unwrap();
    for (name, value) in [
        ("DEB_MAINT_PARAMS", "'configure' ''"),
        ("DPKG_MAINTSCRIPT_PACKAGE", "linux-headers-6.1.0-56-amd64"),
        ("KERNEL_INSTALL_MACHINE_ID", "0123"),
    ] {
        let called = |action: &str| Run::of(host_command(&host, action, name, value));
        for action in ["autoinstall", "kernel_postinst"] {
            called(action).exits(0).says(&["One or more modules failed", "do not reboot into"]);
            let mut command = host_command(&host, action, name, value);
            command.env("KCACHE_ON_FAILURE", "block");
            Run::of(command).exits(11);
        }
    }
    // A package's own script is told, as is whoever types it.
    Run::of(host_command(&host, "autoinstall", "DPKG_MAINTSCRIPT_PACKAGE", "hello-dkms")).exits(11);
    dkms(&host, &["autoinstall", "-k", k()]).exits(11);
}

fn host_command(host: &Host, action: &str, name: &str, value: &str) -> Command {
    let mut command = host.called("dkms", &[action, "-k", k()]);
    command.env(name, value);
    command
}

#[test]
fn commands_of_dkms_s_configuration_run_on_this_machine_only() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let dir = host.root().join("etc/dkms/framework.conf.d");
    fs::create_dir_all(&dir).unwrap();
    fs::write(
        dir.join("a.conf"),
        "post_transaction=\"echo ran for $kernelver; touch /ran\"\nparallel_jobs=$(nproc)\n",
    )
    .unwrap();
    dkms(&host, &["install", "hello/1.0", "-k", k()]).exits(0);
    assert!(!host.root().join("ran").exists() && !record(&host, "post_transaction.log").exists());
    if !is_root() {
        return; // entering another root needs root
    }
    dkms_inside(&host, &["uninstall", "hello/1.0", "-k", k()]).exits(0).prints(&["post-transaction command"]);
    assert!(host.root().join("ran").exists());
    let log = fs::read_to_string(record(&host, "post_transaction.log")).unwrap();
    assert!(log.contains(&format!("ran for {}", k())), "{log}");
}

/// Makes a key where DKMS has it, and `dkms_hello` to be signed.
fn host_with_key(at: &str) -> Host {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let key = host.root().join(at.trim_start_matches('/'));
    fs::create_dir_all(key.parent().unwrap()).unwrap();
    let line = format!(
        "umask 077; openssl req -new -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=enrolled \
         -keyout {at}.key -outform DER -out {at}.pub",
        at = key.display()
    );
    run(Command::new("sh").args(["-c", &line]).env("PATH", PATH));
    host
}

fn signer(host: &Host) -> String {
    host.modinfo(k(), "hello", "signer")
}

const CARRIED: &str = "etc/kcache/config.d/10-dkms-signing.toml";

#[test]
fn the_key_that_dkms_signs_with_is_carried_over() {
    if !is_root() {
        return; // entering another root needs root
    }
    let host = host_with_key("/var/lib/dkms/mok");
    let run = dkms_inside(&host, &["install", "hello/1.0", "-k", k()]).exits(0);
    run.says(&["signing modules with the key of DKMS, /var/lib/dkms/mok.key"]);
    assert_eq!(signer(&host), "enrolled");
    let text = fs::read_to_string(host.root().join(CARRIED)).unwrap();
    assert!(text.contains("certificate = \"/var/lib/dkms/mok.pub\""), "{text}");
    // From now on kcache signs with it, whatever it is called by, and says nothing of it.
    let run = chrooted::kcache(&host, &["install", "-k", k()]).exits(0);
    assert!(!run.stderr.contains("key of DKMS"), "{}", run.stderr);
    assert_eq!(signer(&host), "enrolled");

    // The administrator's answer stays.
    fs::write(host.root().join(CARRIED), "[signing]\nkey = '/k'\nwhen = 'never'\n").unwrap();
    dkms_inside(&host, &["install", "hello/1.0", "-k", k(), "--force"]).exits(0);
    assert_eq!(signer(&host), "");
}

#[test]
fn keys_of_each_kernel_keep_their_variable_and_adopt_and_hooks_carry_them_over_too() {
    if !is_root() {
        return; // entering another root needs root
    }
    for called in [&["adopt"][..], &["hooks", "run", "kernel-installed", k()]] {
        let host = host_with_key(&format!("/keys/{}", k()));
        fs::create_dir_all(host.root().join("etc/dkms")).unwrap();
        let conf = "mok_signing_key=\"/keys/$kernelver.key\"\nmok_certificate='/keys/${kernelver}.pub'\nsign_file=/opt/sign\n";
        fs::write(host.root().join("etc/dkms/framework.conf"), conf).unwrap();
        // Without being asked to change settings, kcache says that it does not sign.
        let run = chrooted::kcache(&host, &["install", "-k", k()]).exits(0);
        run.says(&["DKMS signs", "kcache adopt"]);
        assert!(!host.root().join(CARRIED).exists() && signer(&host).is_empty());
        chrooted::kcache(&host, called)
            .exits(0)
            .says(&["/opt/sign; kcache signs itself", "/keys/$kernelver.key"]);
        chrooted::kcache(&host, &["install", "-k", k()]).exits(0);
        assert_eq!(signer(&host), "enrolled", "{called:?}");
        chrooted::kcache(&host, &["check", "-k", k()]).exits(0);
    }
}

#[test]
fn a_system_under_root_chooses_no_key_and_is_told_so() {
    let host = host_with_key("/var/lib/dkms/mok");
    dkms(&host, &["install", "hello/1.0", "-k", k()])
        .exits(0)
        .says(&["DKMS signs modules with /var/lib/dkms/mok.key"]);
    assert!(!host.root().join(CARRIED).exists());
    assert_eq!(signer(&host), "");
}

#[test]
fn a_script_that_fails_leaves_the_package_unbuilt() {
    let host = Host::new(&[k()]);
    let source =
        with_makefile(&host, "hello", "", "obj-m := hello.o\n", "PRE_BUILD=pre.sh\nPOST_BUILD=post.sh\n");
    for failing in ["pre.sh", "post.sh"] {
        for name in ["pre.sh", "post.sh"] {
            script(&source, name, if name == failing { "exit 3" } else { "true" });
        }
        dkms(&host, &["build", "hello/1.0", "-k", k()]).exits(10).says(&[failing]);
        assert_eq!(status(&host), "hello/1.0: added\n");
    }
}
