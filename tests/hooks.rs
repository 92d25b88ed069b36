//! Hooks: their files, what they hand on to kcache, and what comes of it when kernels come and go and the machine boots.
//!
//! The hooks themselves are run, by sh and by this machine's kernel-install, with a kcache that works on the test's root.
//! With a package manager of their own they are run by `make test-apt`.

use crate::host::{FIXTURES, Host, PATH, Run, run};
use crate::packages::{TRIO, broken, hello, plain, trio};
use fs_err as fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const ALL: [&str; 4] = ["debian", "kernel-install", "pacman", "boot"];
const POSTINST: &str = "etc/kernel/postinst.d/do-kcache";
const POSTRM: &str = "etc/kernel/postrm.d/do-kcache";
const HEADERS: &str = "etc/kernel/header_postinst.d/do-kcache";
const PLUGIN: &str = "etc/kernel/install.d/50-depmod.kcache.install";

fn hooks(host: &Host, arguments: &[&str]) -> Run {
    host.kcache(&[&["hooks"], arguments].concat())
}

/// A host whose hooks are installed and call the script `program`.
fn with_hooks(host: &Host, script: &str) -> PathBuf {
    let program = host.dir().join("program");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    hooks(host, &[&["install", "--program", program.to_str().unwrap()], &ALL[..]].concat()).exits(0);
    program
}

/// The same with a program that notes its arguments; gives the file that it notes them in.
fn noting(host: &Host) -> PathBuf {
    let notes = host.dir().join("notes");
    with_hooks(host, &format!("echo \"$*\" >>{}", notes.display()));
    notes
}

/// The same with kcache itself, on this host.
fn calling(host: &Host) {
    let (dir, root, store) = (host.dir().display(), host.root(), host.store());
    let (root, store) = (root.display(), store.display());
    with_hooks(host, &format!("exec {dir}/kcache --root {root} --store {store} \"$@\""));
}

/// Runs a hook as a package manager does.
fn call(host: &Host, hook: &str, parameters: Option<&str>, arguments: &[&str]) -> Run {
    let mut command = Command::new(host.root().join(hook));
    command.args(arguments).env_clear().env("PATH", PATH).current_dir("/");
    if let Some(parameters) = parameters {
        command.env("DEB_MAINT_PARAMS", parameters);
    }
    Run::from(command.output().unwrap())
}

fn states(host: &Host) -> Vec<String> {
    let rows = hooks(host, &["status", "--json"]).exits(0).json();
    rows.as_array().unwrap().iter().map(|row| row["state"].as_str().unwrap().to_owned()).collect()
}

/// Deletes what the kernel's package brought, as its removal does before its postrm runs.
fn uninstall_kernel(host: &Host, kernel: &str) {
    let tree = host.kernel(kernel);
    for part in ["kernel", "modules.builtin", "modules.builtin.modinfo", "modules.order", "build", "source"] {
        let path = tree.join(part);
        let _ = if path.is_symlink() || path.is_file() {
            fs::remove_file(path)
        } else {
            fs::remove_dir_all(path)
        };
    }
}

fn is_installed(host: &Host, kernel: &str, module: &str) -> bool {
    Host::resolved(&host.root(), kernel, &[module])[module].is_some()
}

#[test]
fn hooks_come_and_go_and_leave_the_root_as_it_was() {
    let host = Host::without_kernels();
    fs::create_dir_all(host.root().join("etc/kernel/postinst.d")).unwrap();
    fs::write(host.root().join("etc/kernel/postinst.d/initramfs-tools"), "").unwrap();
    let before = host.tree();
    hooks(&host, &[&["install", "--dry-run"], &ALL[..]].concat()).exits(0);
    assert_eq!(before, host.tree());
    hooks(&host, &[&["install"], &ALL[..]].concat()).exits(0);
    assert_eq!(states(&host), ["installed"; 13]);
    let installed = host.tree();
    let again = hooks(&host, &[&["install"], &ALL[..]].concat()).exits(0);
    assert_eq!((installed, again.stdout.as_str()), (host.tree(), ""));
    hooks(&host, &["remove"]).exits(0);
    assert_eq!(before, host.tree());
    assert_eq!(states(&host), ["absent"; 13]);
}

#[test]
fn hooks_are_installed_for_those_who_would_call_them() {
    let host = Host::without_kernels();
    hooks(&host, &["install"]).exits(2);
    fs::create_dir_all(host.root().join("etc/kernel/postinst.d")).unwrap();
    hooks(&host, &["install"]).exits(0);
    assert_eq!(states(&host).iter().filter(|state| *state == "installed").count(), 3);
}

#[test]
fn packages_have_their_hooks_under_usr_and_those_count_as_installed() {
    let host = Host::without_kernels();
    hooks(&host, &["install", "--vendor", "boot", "kernel-install"]).exits(0);
    assert!(host.root().join("usr/lib/systemd/system/sysinit.target.wants/kcache-boot.service").is_symlink());
    assert!(!host.root().join("etc").exists());
    let again = hooks(&host, &["install", "boot", "kernel-install"]).exits(0);
    assert_eq!(again.stdout, "");
}

#[test]
fn what_was_changed_or_is_somebody_elses_stays() {
    let host = Host::without_kernels();
    hooks(&host, &[&["install"], &ALL[..]].concat()).exits(0);
    let (changed, foreign, masked) = (
        host.root().join(POSTINST),
        host.root().join(POSTRM),
        host.root().join("etc/systemd/system/kcache-boot.service"),
    );
    fs::write(&changed, fs::read_to_string(&changed).unwrap().replace("exec ", "exec nice ")).unwrap();
    fs::write(&foreign, "#!/bin/sh\n").unwrap();
    fs::remove_file(&masked).unwrap();
    symlink("/dev/null", &masked).unwrap();
    fs::set_permissions(host.root().join(HEADERS), PermissionsExt::from_mode(0o644)).unwrap();
    let before = host.tree();
    assert_eq!(states(&host)[..3], ["changed", "foreign", "changed"]);
    hooks(&host, &[&["install"], &ALL[..]].concat()).exits(6);
    assert_eq!(before, host.tree());
    hooks(&host, &["remove"]).exits(6);
    assert!(changed.exists() && foreign.exists() && masked.is_symlink());
    hooks(&host, &["install", "debian", "boot", "--force"]).exits(0);
    assert_eq!(states(&host)[..3], ["installed"; 3]);
}

#[test]
fn a_hook_that_an_older_kcache_wrote_is_replaced() {
    let host = Host::without_kernels();
    let body = "#!/bin/sh\nexec /usr/bin/kcache hook\n";
    let digest = &blake3::hash(body.as_bytes()).to_hex()[..16];
    let path = host.root().join(POSTINST);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("{body}# kcache-hook /usr/bin/kcache {digest}\n")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(states(&host)[0], "outdated");
    hooks(&host, &["install", "debian"]).exits(0);
    assert_eq!(states(&host)[0], "installed");
}

#[test]
fn nothing_is_written_outside_the_root() {
    let host = Host::without_kernels();
    let outside = host.dir().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::create_dir_all(host.root().join("etc")).unwrap();
    symlink(&outside, host.root().join("etc/kernel")).unwrap();
    hooks(&host, &["install", "debian"]).exits(1).says(&["dangling link"]);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn debian_hooks_report_only_relevant_events_to_kcache() {
    let host = Host::without_kernels();
    let notes = noting(&host);
    for (hook, parameters, expect) in [
        (POSTINST, Some("configure"), Some("hooks run kernel-installed K")),
        (POSTINST, Some("'configure' '6.1'"), Some("hooks run kernel-installed K")),
        (POSTINST, None, Some("hooks run kernel-installed K")),
        (POSTINST, Some("abort-upgrade 6.1"), None),
        (HEADERS, None, Some("hooks run headers-installed K")),
        (POSTRM, Some("remove"), Some("hooks run kernel-removed K")),
        (POSTRM, Some("purge"), Some("hooks run kernel-removed K")),
        (POSTRM, None, Some("hooks run kernel-removed K")),
        (POSTRM, Some("upgrade 6.1"), None),
        (POSTRM, Some("abort-install"), None),
    ] {
        let _ = fs::remove_file(&notes);
        let run = call(&host, hook, parameters, &["K", "/boot/vmlinuz-K"]).exits(0);
        assert_eq!(run.stdout, "", "{hook}");
        let noted = fs::read_to_string(&notes).ok();
        assert_eq!(noted.as_deref().map(str::trim_end), expect, "{hook} {parameters:?}");
    }
}

#[test]
fn pacman_hooks_take_the_releases_from_the_paths_that_were_touched() {
    let host = Host::without_kernels();
    let notes = noting(&host);
    for (hook, event) in [("install", "kernel-installed"), ("remove", "kernel-removed")] {
        let _ = fs::remove_file(&notes);
        let text = fs::read_to_string(host.root().join(format!("etc/pacman.d/hooks/71-kcache-{hook}.hook")))
            .unwrap();
        let exec = text.lines().find_map(|line| line.strip_prefix("Exec = ")).unwrap();
        let targets = "usr/lib/modules/6.6-arch/vmlinuz\nusr/lib/modules/6.6-arch/build/include/\nusr/lib/modules/6.7-lts/vmlinuz\n";
        let script = format!("printf '%s' '{targets}' | {exec}");
        run(Command::new("/bin/sh").args(["-c", &script]).env("PATH", PATH));
        let expect = format!("hooks run {event} 6.6-arch\nhooks run {event} 6.7-lts\n");
        assert_eq!(fs::read_to_string(&notes).unwrap(), expect);
    }
}

#[test]
fn hooks_that_outlive_kcache_do_nothing() {
    let host = Host::without_kernels();
    let program = with_hooks(&host, "echo called");
    fs::remove_file(program).unwrap();
    for hook in [POSTINST, POSTRM, HEADERS] {
        let run = call(&host, hook, None, &["K"]).exits(0);
        assert_eq!((run.stdout, run.stderr), (String::new(), String::new()), "{hook}");
    }
    call(&host, PLUGIN, None, &["add", "K", "/boot/entry", "/boot/vmlinuz"]).exits(0);
}

#[test]
fn the_units_are_confined() {
    let host = Host::without_kernels();
    with_hooks(&host, "");
    let all = [
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=CAP_SYS_ADMIN ",
        "ProtectSystem=full",
        "ProtectHome=read-only",
        "PrivateDevices=yes",
        "ProtectClock=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=~@clock ",
        "KeyringMode=private",
        "UMask=0022",
        "RestrictAddressFamilies=AF_UNIX AF_NETLINK",
    ];
    for (unit, own) in [
        (
            "kcache-boot.service",
            &["PrivateNetwork=yes", "LockPersonality=yes", "MemoryDenyWriteExecute=yes"][..],
        ),
        ("kcache-ready.service", &["PrivateTmp=yes", "LockPersonality=yes", "MemoryDenyWriteExecute=yes"]),
        // Compilers run in it.
        ("kcache-retry.service", &["PrivateTmp=yes", "After=network-online.target"]),
    ] {
        let text = fs::read_to_string(host.root().join("etc/systemd/system").join(unit)).unwrap();
        for line in all.iter().chain(own) {
            assert!(text.lines().any(|found| found.starts_with(line)), "{unit}: {line}");
        }
        // Either would keep the service from what it is for: the one hides /lib/modules, the other a sandbox's own /proc.
        assert!(
            !text.contains("\nProtectKernelModules=") && !text.contains("\nProtectKernelTunables="),
            "{unit}"
        );
    }
}

#[test]
fn systemd_finds_no_fault_with_the_units() {
    if !Path::new("/usr/bin/systemd-analyze").exists() {
        return;
    }
    let host = Host::without_kernels();
    with_hooks(&host, "");
    for unit in ["kcache-boot.service", "kcache-ready.service", "kcache-retry.service", "kcache-retry.timer"]
    {
        let mut verify = Command::new("/usr/bin/systemd-analyze");
        verify.args(["verify", "--man=no", "--recursive-errors=no"]);
        let output = run(verify.arg(host.root().join("etc/systemd/system").join(unit)));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{unit}");
    }
}

#[test]
fn an_installed_kernel_gets_its_modules_and_a_removed_one_loses_them() {
    let (host, kernel) = (Host::new(&[&FIXTURES.new]), FIXTURES.new.as_str());
    hello(&host, "hooked");
    calling(&host);
    let run =
        call(&host, POSTINST, Some("configure"), &[kernel]).exits(0).says(&[&format!("{kernel}: ready")]);
    assert_eq!(run.stdout, "", "debconf may be listening");
    assert!(is_installed(&host, kernel, "hello"));
    let installed = host.tree();
    call(&host, POSTINST, Some("configure 1"), &[kernel]).exits(0);
    call(&host, POSTRM, Some("upgrade 2"), &[kernel]).exits(0);
    assert_eq!(installed, host.tree());

    let dkms = host.kernel(kernel).join("updates/dkms");
    fs::create_dir(&dkms).unwrap();
    fs::write(dkms.join("theirs.ko"), "theirs").unwrap();
    uninstall_kernel(&host, kernel);
    call(&host, POSTRM, Some("remove"), &[kernel]).exits(0);
    assert!(
        host.tree().keys().all(|path| !path.starts_with("lib") || !path.to_string_lossy().contains("kcache"))
    );
    assert_eq!(fs::read(dkms.join("theirs.ko")).unwrap(), b"theirs");
    fs::remove_dir_all(dkms).unwrap();
    call(&host, POSTRM, Some("purge"), &[kernel]).exits(0);
    assert!(
        host.kernel(kernel).join("modules.dep").exists(),
        "indexes that are not kcache's are left to purge"
    );
}

#[test]
fn of_a_kernel_with_nothing_foreign_nothing_is_left() {
    let (host, kernel) = (Host::new(&[&FIXTURES.new]), FIXTURES.new.as_str());
    hello(&host, "");
    hooks(&host, &["run", "kernel-installed", kernel]).exits(0);
    uninstall_kernel(&host, kernel);
    hooks(&host, &["run", "kernel-removed", kernel])
        .exits(0)
        .says(&["removed kcache's modules together with the kernel"]);
    assert_eq!(fs::read_dir(host.root().join("lib/modules")).unwrap().count(), 0);
    hooks(&host, &["run", "kernel-removed", kernel]).exits(0);
    assert_eq!(fs::read_dir(host.root().join("lib/modules")).unwrap().count(), 0);
}

#[test]
fn a_failure_is_reported_and_tolerated_unless_the_administrator_decides_otherwise() {
    let (host, kernel) = (Host::new(&[&FIXTURES.new]), FIXTURES.new.as_str());
    hello(&host, "");
    broken(&host);
    let warning = format!("warning: do not reboot into {kernel} (not ready: broken)");
    let run = hooks(&host, &["run", "kernel-installed", kernel]).exits(0).says(&[&warning, "kcache log"]);
    assert_eq!(run.stderr.matches("do not reboot").count(), 1, "{}", run.shown());
    assert!(is_installed(&host, kernel, "hello"));
    host.write_config("on-failure = \"block\"\n");
    hooks(&host, &["run", "kernel-installed", kernel]).exits(4).says(&[&warning]);
    host.write_config("on-failure = \"stop\"\n");
    hooks(&host, &["run", "kernel-installed", kernel]).exits(0).says(&["must be warn or block"]);
}

#[test]
fn headers_that_come_after_the_image_are_waited_for() {
    let (host, kernel) = (Host::new(&[&FIXTURES.new]), FIXTURES.new.as_str());
    hello(&host, "");
    host.write_config("on-failure = \"block\"\n");
    let (headers, aside) = (host.headers(kernel), host.dir().join("aside"));
    fs::rename(&headers, &aside).unwrap();
    let run = hooks(&host, &["run", "kernel-installed", kernel])
        .exits(0)
        .says(&["modules will be installed with the headers"]);
    assert_eq!(run.stderr.lines().count(), 2, "{}", run.shown());
    fs::rename(&aside, &headers).unwrap();
    hooks(&host, &["run", "headers-installed", kernel]).exits(0).prints(&[&format!("{kernel}: ready")]);
    assert!(is_installed(&host, kernel, "hello"));
}

#[test]
fn headers_that_come_before_the_image_are_built_with_and_nothing_is_installed_yet() {
    let (host, kernel) = (Host::new(&[&FIXTURES.new]), FIXTURES.new.as_str());
    hello(&host, "");
    let (tree, aside) = (host.kernel(kernel), host.dir().join("aside"));
    fs::rename(&tree, &aside).unwrap();
    fs::create_dir(&tree).unwrap();
    for link in ["build", "source"] {
        symlink(fs::read_link(aside.join(link)).unwrap(), tree.join(link)).unwrap();
    }
    hooks(&host, &["run", "headers-installed", kernel]).exits(0).says(&["not installed yet"]);
    assert_eq!(fs::read_dir(&tree).unwrap().count(), 2, "only what the headers brought");
    fs::remove_dir_all(&tree).unwrap();
    fs::rename(&aside, &tree).unwrap();
    let hit = hooks(&host, &["run", "kernel-installed", kernel]).exits(0);
    assert!(hit.stdout.contains("from the store") && is_installed(&host, kernel, "hello"), "{}", hit.shown());
}

#[test]
fn kernels_that_are_there_before_kcache_get_their_modules_when_it_is_configured() {
    let (host, kernels) =
        (Host::new(&[&FIXTURES.new, &FIXTURES.old]), [FIXTURES.new.as_str(), FIXTURES.old.as_str()]);
    let configured = || hooks(&host, &["run", "configured"]);
    let nothing = configured().exits(0);
    assert_eq!((nothing.stdout.as_str(), nothing.stderr.as_str()), ("", ""), "no package is wanted");
    hello(&host, "");
    // One without its package's indexes: it is being installed, and has a hook of its own.
    let (indexes, aside) = (host.kernel(kernels[1]).join("modules.dep.bin"), host.dir().join("aside"));
    fs::rename(&indexes, &aside).unwrap();
    fs::create_dir_all(host.root().join("usr/sbin")).unwrap();
    for path in ["usr/sbin/update-initramfs".to_owned(), format!("boot/initrd.img-{}", kernels[0])] {
        fs::write(host.root().join(path), "").unwrap();
    }
    configured().exits(0).prints(&[&format!("{}: ready", kernels[0])]).says(&[
        &format!("run `/usr/sbin/update-initramfs -u -k {}`", kernels[0]),
        &format!("{}: kernel is not installed yet; building", kernels[1]),
    ]);
    assert!(is_installed(&host, kernels[0], "hello") && host.modules(kernels[1]).is_empty());
    fs::rename(&aside, &indexes).unwrap();
    broken(&host);
    configured().exits(0).says(&["do not reboot"]);
    assert!(is_installed(&host, kernels[1], "hello"));
    host.write_config("on-failure = \"block\"\n");
    configured().exits(4);
}

#[test]
fn the_package_does_the_work_of_hooks_when_it_is_first_configured() {
    let host = Host::without_kernels();
    let notes = host.dir().join("notes");
    for name in ["kcache", "systemctl"] {
        let program = host.dir().join("tmp").join(name);
        let end = if name == "kcache" { "exit $(cat /dev/stdin)3" } else { "" };
        fs::write(&program, format!("#!/bin/sh\necho \"{name} $*\" >>{}\n{end}\n", notes.display())).unwrap();
        fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    }
    let postinst = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian/postinst");
    let path = format!("{}:{PATH}", host.dir().join("tmp").display());
    let call = |words: &[&str]| {
        let _ = fs::remove_file(&notes);
        let run =
            Run::from(Command::new("sh").arg(&postinst).args(words).env("PATH", &path).output().unwrap());
        let noted = fs::read_to_string(&notes).unwrap_or_default();
        (run.code, noted.lines().filter(|line| line.starts_with("kcache")).collect::<Vec<_>>().join("\n"))
    };
    // With `on-failure = "block"` the exit code is dpkg's to see.
    assert_eq!(call(&["configure", ""]), (Some(3), "kcache hooks run configured".to_owned()));
    assert_eq!(call(&["configure", "0.1.0"]), (Some(0), String::new()), "an upgrade");
    assert_eq!(call(&["abort-upgrade", "0.1.0"]), (Some(0), String::new()));
}

#[test]
fn what_a_hook_cannot_make_sense_of_breaks_nothing() {
    let host = Host::without_kernels();
    for arguments in [
        &["boil-coffee", "K"][..],
        &["kernel-installed"],
        &["kernel-removed", "../../etc"],
        &["kernel-removed", "."],
    ] {
        hooks(&host, &[&["run"], arguments].concat()).exits(0).says(&["warning: unknown event"]);
    }
    hooks(&host, &["run", "kernel-installed", "all"]).exits(0).says(&["nothing to do"]);
    hooks(&host, &["run", "kernel-removed", "never-installed"]).exits(0);
    hooks(&host, &["run", "boot"]).exits(0);
    hooks(&host, &["run", "booted"]).exits(0);
    assert_eq!(fs::read_dir(host.root().join("lib/modules")).unwrap().count(), 0);
}

#[test]
fn promise_9_an_interrupted_install_is_finished_or_undone_at_the_next_boot() {
    let (host, kernel) = (Host::new(&[&FIXTURES.new]), FIXTURES.new.as_str());
    trio(&host, "first");
    host.kcache(&["install", "-k", kernel]).exits(0);
    trio(&host, "second");
    host.kcache(&["build", "-k", kernel]).exits(0);
    let (journal, trace) =
        (host.root().join(format!("lib/modules/.kcache-{kernel}/journal.json")), host.dir().join("trace"));
    let cut_off = (1..100).any(|when| {
        let inject = format!("inject=rename,renameat,renameat2:signal=SIGKILL:when={when}");
        let strace = ["strace", "-f", "-o", trace.to_str().unwrap(), "-e", &inject];
        host.kcache_under(&strace, &["install", "-k", kernel]);
        journal.exists()
    });
    assert!(cut_off, "no install was cut off with an open journal");
    hooks(&host, &["run", "boot", kernel]).exits(0).says(&["an interrupted installation"]);
    assert!(!journal.parent().unwrap().exists());
    assert_eq!(host.modules(kernel).len(), TRIO.len(), "one generation");
    assert!(TRIO.iter().all(|module| is_installed(&host, kernel, module)));
    let settled = host.tree();
    hooks(&host, &["run", "boot", kernel]).exits(0);
    assert_eq!(settled, host.tree());
}

#[test]
fn at_boot_the_running_kernel_gets_what_the_store_has_and_nothing_is_built() {
    let (host, kernel) = (Host::new(&[&FIXTURES.new]), FIXTURES.new.as_str());
    hello(&host, "from the store");
    let spoilt = plain(&host, "aspoilt", "");
    host.kcache(&["build", "-k", kernel]).exits(0);
    plain(&host, "unbuilt", "");
    // A recipe that is no bash any more keeps no other package from being installed.
    fs::write(spoilt.join("dkms.conf"), "PACKAGE_NAME=aspoilt\nPACKAGE_VERSION=1.0\nif\n").unwrap();
    hooks(&host, &["run", "boot", kernel]).exits(0).says(&["warning: aspoilt/1.0"]);
    assert!(is_installed(&host, kernel, "hello") && !is_installed(&host, kernel, "unbuilt"));
    let (_, module) = host.modules(kernel).pop_first().unwrap();
    fs::write(&module, "damaged").unwrap();
    hooks(&host, &["run", "boot", kernel]).exits(0);
    assert_eq!(host.modinfo(kernel, "hello", "description"), "from the store");
    fs::remove_dir_all(spoilt).unwrap();
    hooks(&host, &["run", "booted"]).exits(0).prints(&[&format!("{kernel}: not ready"), "unbuilt"]);
}

#[test]
fn kernel_install_has_the_modules_in_place_before_the_initramfs_is_made() {
    if !Path::new("/usr/bin/kernel-install").exists() {
        return;
    }
    let (host, kernel) = (Host::new(&[&FIXTURES.new]), FIXTURES.new.as_str());
    let before = host.tree();
    hello(&host, "");
    calling(&host);
    // Stands for an initramfs generator: notes what there is when its turn comes.
    let (plugin, generator, notes) =
        (host.root().join(PLUGIN), host.dir().join("90-initrd.install"), host.dir().join("notes"));
    let tree = host.kernel(kernel);
    fs::write(
        &generator,
        format!(
            "#!/bin/sh\nfind {}/updates -name '*.ko*' >{} 2>/dev/null\nexit 0\n",
            tree.display(),
            notes.display()
        ),
    )
    .unwrap();
    fs::set_permissions(&generator, PermissionsExt::from_mode(0o755)).unwrap();
    let image = host.root().join(format!("boot/vmlinuz-{kernel}"));
    let kernel_install = |arguments: &[&str]| {
        let mut command = Command::new("/usr/bin/kernel-install");
        command.args(arguments).env_clear().env("PATH", PATH).env("TMPDIR", host.dir().join("tmp"));
        command.env("KERNEL_INSTALL_PLUGINS", format!("{} {}", plugin.display(), generator.display()));
        command.env("KERNEL_INSTALL_CONF_ROOT", host.dir()).env("BOOT_ROOT", host.root().join("boot"));
        command.env("MACHINE_ID", "0123456789abcdef0123456789abcdef");
        Run::from(command.output().unwrap())
    };
    kernel_install(&["inspect"]);
    assert!(host.modules(kernel).is_empty(), "looking changes nothing");
    kernel_install(&["add", kernel, image.to_str().unwrap()]).exits(0).says(&[&format!("{kernel}: ready")]);
    assert!(fs::read_to_string(&notes).unwrap().contains("hello.ko"));
    kernel_install(&["remove", kernel]).exits(0);
    assert_eq!(fs::read_to_string(&notes).unwrap(), "");
    let modules = |mut tree: std::collections::BTreeMap<PathBuf, String>| {
        tree.retain(|path, _| path.starts_with("lib"));
        tree
    };
    assert_eq!(modules(before), modules(host.tree()), "the kernel's own files stay as they were");
}
