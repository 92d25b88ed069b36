//! kcache under the name `dkms`, and hosts that DKMS itself has installed modules on.
//!
//! What DKMS leaves behind is laid out here as its script does: links and copies under `/var/lib/dkms`, the modules in
//! `updates/dkms`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err as fs;
use fs_err::os::unix::fs::symlink;

use crate::host::{FIXTURES, Host, PATH, Run, run};
use crate::packages::{hello, plain};

/// `dkms ...` on this host: the binary through a link, and the root by the environment.
fn dkms(host: &Host, arguments: &[&str]) -> Run {
    called(host, "dkms", arguments)
}

fn called(host: &Host, name: &str, arguments: &[&str]) -> Run {
    Run::from(host.called(name, arguments).output().unwrap())
}

fn record(host: &Host, path: &str) -> PathBuf {
    host.root().join("var/lib/dkms").join(path)
}

/// DKMS has built `hello` for a kernel and installed it.
pub fn installed_by_dkms(host: &Host, kernel: &str) -> Vec<u8> {
    host.kcache(&["build", "hello", "-k", kernel, "--json"]).exits(0);
    host.kcache(&["install", "hello", "-k", kernel]).exits(0);
    let (_, path) = host.modules(kernel).into_iter().next().unwrap();
    let mut bytes = fs::read(path).unwrap();
    bytes.extend_from_slice(b"built by dkms"); // behind the sections: nobody reads it
    host.kcache(&["remove", "hello", "-k", kernel]).exits(0);
    let own = record(host, &format!("hello/1.0/{kernel}/x86_64/module"));
    let place = host.kernel(kernel).join("updates/dkms");
    for (dir, text) in [(&own, &bytes), (&place, &bytes)] {
        fs::create_dir_all(dir).unwrap();
        fs::write(dir.join("hello.ko"), text).unwrap();
    }
    symlink("/usr/src/hello-1.0", record(host, "hello/1.0/source")).unwrap();
    symlink(format!("1.0/{kernel}/x86_64"), record(host, &format!("hello/kernel-{kernel}-x86_64"))).unwrap();
    depmod(host, kernel);
    bytes
}

fn depmod(host: &Host, kernel: &str) {
    run(Command::new("depmod").env("PATH", PATH).arg("-b").arg(host.root()).arg(kernel));
}

fn found(host: &Host, kernel: &str) -> String {
    let mut modprobe = Command::new("modprobe");
    modprobe.env("PATH", PATH).arg("-d").arg(host.root()).args(["-S", kernel, "--show-depends", "hello"]);
    String::from_utf8(modprobe.output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn a_module_passes_through_the_states_of_dkms_and_back() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let k = FIXTURES.new.as_str();
    let status = |state: &str| format!("hello/1.0, {k}, x86_64: {state}\n");

    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, "");
    dkms(&host, &["add", "-m", "hello", "-v", "1.0"]).exits(0);
    assert_eq!(fs::read_link(record(&host, "hello/1.0/source")).unwrap(), Path::new("/usr/src/hello-1.0"));
    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, "hello/1.0: added\n");
    dkms(&host, &["add", "hello/1.0"]).exits(3);

    dkms(&host, &["build", "hello/1.0", "-k", k]).exits(0);
    assert_eq!(dkms(&host, &["status", "-m", "hello", "-v", "1.0"]).exits(0).stdout, status("built"));
    dkms(&host, &["build", "hello/1.0", "-k", k]).exits(0);
    assert!(host.modules(k).is_empty());

    dkms(&host, &["install", "--no-depmod", "-k", &format!("{k}/x86_64"), "hello/1.0"]).exits(0);
    assert_eq!(dkms(&host, &["status", "-k", k]).exits(0).stdout, status("installed"));
    assert!(found(&host, k).contains("updates/kcache-"));
    dkms(&host, &["install", "hello/1.0", "-k", k]).exits(0);

    let archive = host.dir().join("hello.dkms.tar.gz");
    let archive = archive.to_str().unwrap();
    dkms(&host, &["mktarball", "hello/1.0", "-k", k, "--archive", archive]).exits(0);
    let listed = run(Command::new("tar").args(["-taf", archive]));
    let listed = String::from_utf8(listed.stdout).unwrap();
    for name in ["./dkms_source_tree/dkms.conf", &format!("./dkms_main_tree/{k}/x86_64/module/hello.ko")] {
        assert!(listed.contains(name), "{listed}");
    }

    dkms(&host, &["uninstall", "hello/1.0", "-k", k]).exits(0);
    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, status("built"));
    dkms(&host, &["unbuild", "hello/1.0", "-k", k]).exits(0);
    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, "hello/1.0: added\n");
    dkms(&host, &["remove", "hello/1.0", "--all"]).exits(0);
    assert!(!record(&host, "hello").exists());
    dkms(&host, &["remove", "hello/1.0", "--all"]).exits(3);

    fs::remove_dir_all(host.root().join("usr/src/hello-1.0")).unwrap();
    dkms(&host, &["add", "hello/1.0"]).exits(2);
    dkms(&host, &["ldtarball", archive]).exits(0).says(&["the modules in the tarball are unsigned"]);
    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, "hello/1.0: added\n");
    dkms(&host, &["autoinstall", "-k", k]).exits(0);
    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, status("installed"));
}

#[test]
fn what_fails_ends_with_dkms_s_exit_codes() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "");
    let k = FIXTURES.new.as_str();
    dkms(&host, &["frobnicate"]).exits(2);
    // Without a package there is nothing to lack headers for.
    let empty = Host::new(&[k]);
    dkms(&empty, &["autoinstall", "-k", "9.9.9"]).exits(0);
    dkms(&empty, &["kernel_postinst", "-k", "9.9.9"]).exits(0);
    dkms(&host, &["add", "/no/such"]).exits(1).says(&["/no/such must contain a dkms.conf file!"]);
    dkms(&host, &["install", "hello/1.0", "-k", "9.9.9"]).exits(21);
    dkms(&host, &["autoinstall", "-k", "9.9.9"]).exits(21).says(&["headers for kernel 9.9.9"]);
    dkms(&host, &["kernel_postinst", "-k", "9.9.9"]).exits(21);
    dkms(&host, &["autoinstall", "--all"]).exits(5);
    dkms(&host, &["autoinstall", "-k", k, "-k", "9.9.9"]).exits(4);
    for action in ["kernel_postinst", "kernel_prerm"] {
        dkms(&host, &[action]).exits(4).says(&[action, "requires exactly one kernel version parameter"]);
    }
    dkms(&host, &["match", "-k", k]).exits(1);
    dkms(&host, &["match", "-k", k, "--templatekernel", k]).exits(2);
    dkms(&host, &["ldtarball", "--archive", "/no/such"]).exits(2).says(&["/no/such does not exist."]);
    dkms(&host, &["build", "hello/1.0", "-k", k, "-a", "m68k"]).exits(1).says(&["m68k"]);
    let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
    fs::write(source.join("dkms.conf"), format!("{conf}\nBUILD_EXCLUSIVE_KERNEL=^5\n")).unwrap();
    dkms(&host, &["build", "hello/1.0", "-k", k]).exits(77);
    fs::write(source.join("dkms.conf"), conf).unwrap();
    fs::write(source.join("hello.c"), "no C\n").unwrap();
    dkms(&host, &["install", "hello/1.0", "-k", k]).exits(10);
    dkms(&host, &["autoinstall", "-k", k]).exits(11);
    called(&host, "common.postinst", &["hello", "1.0", "/usr/share/hello-dkms"]).exits(10);
}

#[test]
fn the_postinst_of_a_package_installs_for_every_kernel() {
    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    hello(&host, "");
    called(&host, "common.postinst", &["hello"]).exits(1).prints(&["Need NAME, and VERSION defined"]);
    let run = called(&host, "common.postinst", &["hello", "1.0", "/usr/share/hello-dkms", "", ""]).exits(0);
    run.prints(&["Loading new hello/1.0 DKMS files..."]);
    for kernel in [&FIXTURES.old, &FIXTURES.new] {
        assert!(found(&host, kernel).contains("updates/kcache-"));
    }
    // Again, as `dpkg-reconfigure` does; and then as prerm takes it out.
    called(&host, "common.postinst", &["hello", "1.0", "/usr/share/hello-dkms", "", "1.0-1"]).exits(0);
    dkms(&host, &["remove", "-m", "hello", "-v", "1.0", "--all"]).exits(0);
    assert_eq!(dkms(&host, &["status"]).stdout, "");
    assert!(host.modules(&FIXTURES.new).is_empty() && host.modules(&FIXTURES.old).is_empty());
}

#[test]
fn modules_installed_by_dkms_are_reported_and_removed() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let k = FIXTURES.new.as_str();
    installed_by_dkms(&host, k);
    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, format!("hello/1.0, {k}, x86_64: installed\n"));
    dkms(&host, &["remove", "hello/1.0", "--all"]).exits(0);
    assert_eq!(found(&host, k), "");
    assert!(!record(&host, "hello").exists() && !host.kernel(k).join("updates").exists());
}

#[test]
fn directives_of_the_command_line_make_another_build() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let k = FIXTURES.new.as_str();
    dkms(&host, &["install", "hello/1.0", "-k", k, "--directive", "DEST_MODULE_NAME[0]=renamed"]).exits(0);
    let names = || host.modules(k).into_keys().collect::<Vec<_>>();
    assert!(names().iter().all(|name| name.starts_with("hello/renamed.ko")), "{:?}", names());
    dkms(&host, &["install", "hello/1.0", "-k", k, "--force"]).exits(0);
    assert!(names().iter().all(|name| name.starts_with("hello/hello.ko")), "{:?}", names());
    dkms(&host, &["install", "hello/1.0", "-k", k, "--force", "--directive=MAEK=true"])
        .exits(8)
        .says(&["unknown directive MAEK"]);
}

/// A scriptlet of rpm's, which this process stands for, or another run of rpm.
fn scriptlet(host: &Host, runs: usize, line: &str) -> Run {
    let mut words = vec!["-c".to_owned(), format!("{line}; exit $?")];
    for _ in 0..runs {
        words = ["-c", "\"$0\" \"$@\"; exit $?", "sh"].map(str::to_owned).into_iter().chain(words).collect();
    }
    dkms(host, &["--version"]); // makes the link
    let mut shell = Command::new("sh");
    shell.args(words).env_clear().env("PATH", PATH).current_dir(host.dir());
    shell.env("KCACHE_ROOT", host.root()).env("KCACHE_STORE", host.store());
    Run::from(shell.output().unwrap())
}

#[test]
fn an_upgrade_by_rpm_does_not_remove_what_it_has_just_added() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let added = record(&host, "hello/1.0/source");
    let post = "./dkms add -m hello -v 1.0 --rpm_safe_upgrade";
    let preun = "./dkms remove -m hello -v 1.0 --all --rpm_safe_upgrade";

    scriptlet(&host, 0, post).exits(0);
    scriptlet(&host, 1, preun).exits(0); // another run, later: it is meant
    assert!(!added.is_symlink());

    scriptlet(&host, 0, post).exits(0);
    scriptlet(&host, 0, post).exits(3).says(&["DKMS tree already contains: hello/1.0"]);
    scriptlet(&host, 0, preun).exits(0).says(&["Remove cancelled because --rpm_safe_upgrade"]);
    assert!(added.is_symlink());
    scriptlet(&host, 0, preun).exits(0); // it was told once
    assert!(!added.is_symlink());
}

#[test]
fn one_kernel_is_matched_with_another_and_removed() {
    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    hello(&host, "");
    plain(&host, "other", "");
    let (old, new) = (FIXTURES.old.as_str(), FIXTURES.new.as_str());
    for name in ["hello/1.0", "other/1.0"] {
        dkms(&host, &["install", name, "-k", old]).exits(0);
    }
    let matched =
        |module: &[&str]| dkms(&host, &[&["match", "--templatekernel", old, "-k", new], module].concat());
    matched(&["nothing"]).exits(3).says(&["The module: nothing is not located in the DKMS tree."]);
    matched(&["hello"]).exits(0).prints(&["Module:  hello\nVersion: 1.0"]);
    assert!(found(&host, new).contains("updates/kcache-"));
    assert_eq!(dkms(&host, &["status", "other"]).stdout, format!("other/1.0, {old}, x86_64: installed\n"));
    matched(&[]).exits(0);
    dkms(&host, &["match", "--templatekernel", "9.9", "-k", new]).exits(0).prints(&["nothing to be done"]);

    dkms(&host, &["kernel_prerm", "-k", old, "-k", new]).exits(4);
    dkms(&host, &["kernel_prerm", "-k", new]).exits(0);
    assert!(host.modules(new).is_empty() && found(&host, old).contains("updates/kcache-"));
    dkms(&host, &["kernel_prerm", "-k", new]).exits(0);
}

#[test]
fn sources_and_records_may_be_elsewhere_and_recipes_not() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "of /usr/src");
    let k = FIXTURES.new.as_str();
    let other = host.root().join("srv/src/hello-1.0");
    run(Command::new("mkdir").arg("-p").arg(other.parent().unwrap()));
    run(Command::new("cp").arg("-r").arg(&source).arg(&other));
    let code = fs::read_to_string(other.join("hello.c")).unwrap().replace("of /usr/src", "of /srv/src");
    fs::write(other.join("hello.c"), code).unwrap();

    let own = ["--dkmstree", "/srv/dkms", "--sourcetree=/srv/src"];
    dkms(&host, &[&["add", "hello/1.0"], &own[..]].concat()).exits(0);
    assert!(!record(&host, "hello").exists() && host.root().join("srv/dkms/hello/1.0/source").is_symlink());
    // The record tells where the source is.
    let headers = host.root().join("usr/src").join(format!("linux-headers-{k}"));
    let headers = headers.to_str().unwrap();
    dkms(&host, &["install", "hello/1.0", "-k", k, "--dkmstree=/srv/dkms", "--kernelsourcedir", headers])
        .exits(0);
    assert_eq!(host.modinfo(k, "hello", "description"), "of /srv/src");
    dkms(&host, &["build", "hello/1.0", "-k", "9.9", "--kernelsourcedir", headers])
        .exits(1)
        .says(&["--kernelsourcedir leads to kernel", "not 9.9"]);

    let conf = |path: &str| dkms(&host, &["build", "hello/1.0", "-k", k, "--force", "-c", path]);
    conf("/usr/src/hello-1.0/dkms.conf").exits(0);
    conf("/srv/src/hello-1.0/dkms.conf").exits(2).says(&["The option -c is not taken"]);
}

#[test]
fn status_reports_modules_that_were_changed_since() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let k = FIXTURES.new.as_str();
    let changed =
        format!("hello/1.0, {k}, x86_64: installed (Differences between built and installed modules)\n");
    installed_by_dkms(&host, k);
    let theirs = host.kernel(k).join("updates/dkms/hello.ko");
    fs::write(&theirs, "another one").unwrap();
    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, changed);
    fs::remove_file(&theirs).unwrap();
    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, changed);
    dkms(&host, &["install", "hello/1.0", "-k", k, "--force"]).exits(0);
    assert!(!dkms(&host, &["status"]).exits(0).stdout.contains("WARNING"));
    let (_, ours) = host.modules(k).into_iter().next().unwrap();
    fs::write(ours, "another one").unwrap();
    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, changed);
}

#[test]
fn hostile_tarballs_are_refused() {
    let host = Host::new(&[]);
    let dir = host.dir().join("hostile");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("dkms.conf"), "PACKAGE_NAME=evil\nPACKAGE_VERSION=1\n").unwrap();
    symlink("/etc", dir.join("out")).unwrap();
    run(Command::new("mkfifo").arg(dir.join("fifo")));
    let archive = |name: &str, arguments: &[&str]| {
        let path = host.dir().join(name);
        run(Command::new("tar").arg("-C").arg(&dir).arg("-caPf").arg(&path).args(arguments));
        path.to_str().unwrap().to_owned()
    };
    for (name, arguments) in [
        ("up.tar", vec!["--transform=s,dkms.conf,../../dkms.conf,", "dkms.conf"]),
        ("absolute.tar", vec!["--transform=s,dkms.conf,/tmp/dkms.conf,", "dkms.conf"]),
        ("link.tar", vec!["dkms.conf", "out"]),
        ("fifo.tar", vec!["dkms.conf", "fifo"]),
    ] {
        let path = archive(name, &arguments);
        dkms(&host, &["ldtarball", "--archive", &path]).exits(7).says(&["refusing"]);
        assert!(!host.root().join("usr/src/evil-1").exists(), "{name}");
    }
}

/// Another system's records, in which directories and files are links to this machine's.
#[test]
fn links_in_an_images_records_lead_nowhere() {
    let host = Host::new(&[&FIXTURES.new]);
    plain(&host, "hello", "1.0");
    let theirs = host.dir().join("theirs");
    for made in ["1.0/source", "1.0/6.1/x86_64/module", "empty"] {
        fs::create_dir_all(theirs.join(made)).unwrap();
    }
    fs::write(theirs.join("precious"), "precious").unwrap();
    fs::create_dir_all(record(&host, "")).unwrap();
    let untouched = || {
        let listed = run(Command::new("find").arg(&theirs).args(["-printf", "%P %y %s\n"]));
        String::from_utf8(listed.stdout).unwrap()
    };
    let before = untouched();

    symlink(&theirs, record(&host, "hello")).unwrap();
    assert_eq!(dkms(&host, &["status"]).exits(0).stdout, "");
    dkms(&host, &["remove", "hello/1.0", "--all"]).exits(3);
    dkms(&host, &["unbuild", "hello/1.0", "-k", "6.1"]).exits(3);
    dkms(&host, &["add", "hello/1.0"]).exits(1).says(&["hello is no directory: nothing is recorded there"]);
    fs::remove_file(record(&host, "hello")).unwrap();

    fs::create_dir(record(&host, "hello")).unwrap();
    symlink(theirs.join("empty"), record(&host, "hello/1.0")).unwrap();
    dkms(&host, &["add", "hello/1.0"]).exits(1).says(&["1.0 is no directory"]);
    fs::remove_file(record(&host, "hello/1.0")).unwrap();

    dkms(&host, &["add", "hello/1.0"]).exits(0);
    symlink(theirs.join("empty"), record(&host, "hello/1.0/tarball")).unwrap();
    let pack = ["mktarball", "hello/1.0", "--source-only"];
    dkms(&host, &pack).exits(1).says(&["tarball is no directory"]);
    fs::remove_file(record(&host, "hello/1.0/tarball")).unwrap();
    fs::create_dir(record(&host, "hello/1.0/tarball")).unwrap();
    let archive = record(&host, "hello/1.0/tarball/hello-1.0-source-only.dkms.tar.gz");
    symlink(theirs.join("precious"), &archive).unwrap();
    dkms(&host, &pack).exits(0);
    assert!(!archive.is_symlink() && fs::metadata(&archive).unwrap().len() > 100);
    assert_eq!(untouched(), before);
}

/// A source that root copies, of a user who has put into it what would be of use when it is root's.
#[test]
fn sources_of_others_are_copied_without_links_on_the_way_and_set_user_id_bits() {
    let host = Host::new(&[]);
    let theirs = host.dir().join("theirs");
    fs::create_dir_all(theirs.join("sub")).unwrap();
    fs::write(theirs.join("dkms.conf"), "PACKAGE_NAME=evil\nPACKAGE_VERSION=1\n").unwrap();
    for (name, mode) in [("shell", 0o6755), ("sub/open", 0o666)] {
        fs::write(theirs.join(name), "theirs").unwrap();
        fs::set_permissions(theirs.join(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    // What is there already leads elsewhere.
    let (elsewhere, place) = (host.dir().join("elsewhere"), host.root().join("usr/src/evil-1"));
    fs::create_dir_all(&elsewhere).unwrap();
    fs::create_dir_all(&place).unwrap();
    fs::write(elsewhere.join("open"), "precious").unwrap();
    symlink(&elsewhere, place.join("sub")).unwrap();
    symlink(elsewhere.join("open"), place.join("shell")).unwrap();
    let add = ["add", theirs.to_str().unwrap()];
    dkms(&host, &add).exits(1);
    assert_eq!(fs::read_to_string(elsewhere.join("open")).unwrap(), "precious");
    fs::remove_dir_all(&place).unwrap();
    dkms(&host, &add).exits(0);
    let archive = host.dir().join("evil.tar");
    run(Command::new("tar").arg("-C").arg(&theirs).arg("-cf").arg(&archive).arg("."));
    let modes = || {
        ["shell", "sub/open"]
            .map(|name| fs::metadata(place.join(name)).unwrap().permissions().mode() & 0o7777)
    };
    assert_eq!(modes(), [0o755, 0o644]);
    fs::remove_dir_all(&place).unwrap();
    dkms(&host, &["ldtarball", archive.to_str().unwrap(), "--force"]).exits(0);
    assert_eq!(modes(), [0o755, 0o644]);
}

/// Names that would be paths, or options of the programs that are called with them.
#[test]
fn names_that_are_none_are_refused_by_every_action() {
    let host = Host::new(&[&FIXTURES.new]);
    plain(&host, "hello", "1.0");
    dkms(&host, &["add", "hello/1.0"]).exits(0);
    let before = host.tree();
    for (name, version) in [
        ("..", "src"),
        ("hello", "../hello/1.0"),
        ("--help", "1.0"),
        ("hello", "-rf"),
        ("he\nllo", "1.0"),
        ("he\x1b[2Jllo", "1"),
    ] {
        for action in ["add", "build", "install", "uninstall", "unbuild", "remove", "mktarball"] {
            let ran = dkms(&host, &[action, "-m", name, "-v", version, "-k", &FIXTURES.new]).exits(1);
            let told = ran.says(&["is no name and version of a module"]);
            assert!(!told.stderr.contains('\x1b') && told.stderr.lines().count() == 2, "{}", told.shown());
        }
    }
    for release in ["..", "../../usr", "-k", "6.1\n", "$(id)"] {
        dkms(&host, &["install", "hello/1.0", "-k", release]).exits(1);
    }
    assert_eq!(before, host.tree());
}

/// What root would change, somebody else can change meanwhile.
#[test]
fn records_that_others_can_write_are_not_used() {
    if !crate::host::is_root() {
        return;
    }
    let host = Host::new(&[]);
    let records = host.dir().join("records");
    fs::create_dir_all(records.join("kcache-no-such-module/1.0/source")).unwrap();
    let remove = || {
        let arguments =
            ["remove", "kcache-no-such-module/1.0", "--all", "--dkmstree", records.to_str().unwrap()];
        let mut command = host.called("dkms", &arguments);
        command.env_remove("KCACHE_ROOT");
        Run::from(command.output().unwrap())
    };
    fs::set_permissions(&records, PermissionsExt::from_mode(0o777)).unwrap();
    remove().exits(1).says(&["Cannot use the DKMS tree", "writable by others"]);
    assert!(records.join("kcache-no-such-module/1.0/source").is_dir());
    fs::set_permissions(&records, PermissionsExt::from_mode(0o755)).unwrap();
    remove().exits(0);
    assert!(!records.join("kcache-no-such-module").exists());
}

/// What `sudo -E` and `su` keep: a `PATH` that begins where somebody types, and variables that programs obey.
#[test]
fn neither_path_nor_variables_of_the_caller_choose_what_copies_and_unpacks() {
    let host = Host::new(&[&FIXTURES.new]);
    plain(&host, "hello", "1.0");
    let ran = host.dir().join("ran");
    for name in ["cp", "tar"] {
        let path = host.dir().join(name);
        fs::write(&path, format!("#!/bin/sh\necho {name} >>{}\nexec /bin/{name} \"$@\"\n", ran.display()))
            .unwrap();
        fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let archive = host.dir().join("hello.tar");
    let archive = archive.to_str().unwrap();
    let options = format!("--checkpoint=1 --checkpoint-action=exec='echo options >>{}'", ran.display());
    let called = |arguments: &[&str]| {
        let mut command = host.called("dkms", arguments);
        command.env("PATH", format!(".:{PATH}")).env("TAR_OPTIONS", &options);
        Run::from(command.output().unwrap()).exits(0)
    };
    called(&["add", "hello/1.0"]);
    called(&["mktarball", "hello/1.0", "--source-only", "--archive", archive]);
    called(&["ldtarball", archive, "--force"]);
    assert_eq!(fs::read_to_string(&ran).unwrap_or_default(), "");
}

/// libpam-tmpdir gives each user a directory, whose name `su` keeps.
#[test]
fn root_makes_no_temporary_files_where_another_user_can_change_them() {
    if !crate::host::is_root() {
        return;
    }
    let host = Host::new(&[&FIXTURES.new]);
    plain(&host, "hello", "1.0");
    let users = host.dir().join("users");
    fs::create_dir(&users).unwrap();
    let inside = users.join("inside");
    fs::create_dir(&inside).unwrap();
    symlink(&inside, host.dir().join("link")).unwrap();
    let archive = host.dir().join("hello.tar");
    dkms(&host, &["add", "hello/1.0"]).exits(0);
    let check = |temporary: &Path, refused: bool| {
        let words = ["mktarball", "hello/1.0", "--source-only", "--archive", archive.to_str().unwrap()];
        let mut command = host.called("dkms", &words);
        let run = Run::from(command.env("TMPDIR", temporary).output().unwrap()).exits(0);
        assert_eq!(run.stderr.contains("for temporary files"), refused, "{}", run.shown());
    };
    check(&inside, false);
    std::os::unix::fs::chown(&users, Some(65534), Some(65534)).unwrap();
    check(&users, true);
    check(&inside, true);
    check(&host.dir().join("link"), true);
    std::os::unix::fs::chown(&users, Some(0), Some(0)).unwrap();
    fs::set_permissions(&users, std::fs::Permissions::from_mode(0o777)).unwrap();
    check(&inside, true);
    fs::set_permissions(&users, std::fs::Permissions::from_mode(0o1777)).unwrap();
    check(&inside, false);
}

#[test]
fn dkms_s_modules_are_taken_over_and_given_back() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let k = FIXTURES.new.as_str();
    let bytes = installed_by_dkms(&host, k);
    let before = host.tree();
    host.kcache(&["adopt", "-k", k, "--dry-run"]).exits(0);
    assert_eq!(host.tree(), before);

    host.kcache(&["adopt", "-k", k]).exits(0);
    assert!(found(&host, k).contains("updates/kcache-"));
    assert!(!host.kernel(k).join("updates/dkms").exists());
    assert_eq!(dkms(&host, &["status"]).stdout, format!("hello/1.0, {k}, x86_64: installed\n"));
    host.kcache(&["adopt", "-k", k]).exits(0);

    host.kcache(&["adopt", "-k", k, "--undo"]).exits(0);
    assert!(found(&host, k).contains("updates/dkms/hello.ko"));
    assert_eq!(fs::read(host.kernel(k).join("updates/dkms/hello.ko")).unwrap(), bytes);
    depmod(&host, k);
    assert_eq!(host.tree(), before);
    host.kcache(&["adopt", "--undo"]).exits(0);
}

#[test]
fn a_package_that_does_not_build_is_left_to_dkms() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "");
    let k = FIXTURES.new.as_str();
    installed_by_dkms(&host, k);
    let before = host.tree();
    fs::write(source.join("hello.c"), "no C\n").unwrap();
    host.kcache(&["adopt", "-k", k]).exits(4).says(&["hello/1.0 stays with DKMS"]);
    assert_eq!(host.tree(), before);
    fs::remove_dir_all(source).unwrap();
    host.kcache(&["adopt", "-k", k]).exits(3);
    assert_eq!(host.tree(), before);
}

#[test]
fn a_package_of_which_dkms_has_another_module_is_left_to_dkms() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let k = FIXTURES.new.as_str();
    let bytes = installed_by_dkms(&host, k);
    let own = record(&host, &format!("hello/1.0/{k}/x86_64/module"));
    for dir in [own, host.kernel(k).join("updates/dkms")] {
        fs::write(dir.join("extra.ko"), &bytes).unwrap();
    }
    depmod(&host, k);
    let before = host.tree();
    host.kcache(&["adopt", "-k", k]).says(&["kcache's build lacks updates/dkms/extra.ko"]);
    assert_eq!(host.tree(), before);
}
