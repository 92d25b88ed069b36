//! "May I reboot?": each state there is, and for each way to break an installation the verdict that names the cause.

use crate::host::{FIXTURES, Host, PATH, Run, run};
use crate::initramfs;
use crate::packages::{self, broken, hello, plain, trio};
use fs_err as fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn k() -> &'static str {
    &FIXTURES.new
}

/// A host with one installed package.
struct Broken {
    host: Host,
}

impl Broken {
    fn new() -> Broken {
        let host = Host::new(&[k()]).with_packages(&["v4l2loopback"]);
        host.kcache(&["install", "-k", k()]).exits(0);
        ready(&host);
        Broken { host }
    }

    /// Breaks something; the verdict must be this state for these reasons. Whatever it was, `mend` and an install make
    /// it right again.
    #[track_caller]
    fn by(&self, breaking: impl FnOnce(&Path), mend: impl FnOnce(&Path), state: &str, reasons: &[&str]) {
        let tree = self.host.kernel(k());
        breaking(&tree);
        let verdict = check(&self.host).exits(3);
        let standing = &verdict.json()["packages"][0]["kernels"][k()];
        let reason = standing["reason"].as_str().unwrap_or_default();
        assert_eq!(standing["state"], state, "{}", verdict.shown());
        for words in reasons {
            assert!(reason.contains(words), "the reason does not say {words:?}\n{}", verdict.shown());
        }
        mend(&tree);
        self.host.kcache(&["install", "-k", k()]).exits(0);
        ready(&self.host);
    }

    /// The installed module file.
    fn module(&self) -> PathBuf {
        self.host.modules(k()).pop_first().unwrap().1
    }
}

fn check(host: &Host) -> Run {
    host.kcache(&["check", "--json", "-k", k()])
}

#[track_caller]
fn ready(host: &Host) {
    host.kcache(&["check", "-q", "-k", k()]).exits(0).prints(&[&format!("ready: {}", k())]);
}

fn nothing(_: &Path) {}

fn depmod(root: &Path, more: &[&str]) {
    run(Command::new("depmod").env("PATH", PATH).arg("-b").arg(root).args(more).arg(k()));
}

#[test]
fn corruption_on_disk_is_named_and_repaired_by_install() {
    let broken = Broken::new();
    let flip = |path: &Path| {
        let mut bytes = fs::read(path).unwrap();
        bytes[5000] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    broken.by(|_| flip(&broken.module()), nothing, "broken", &["v4l2loopback.ko", "digest", "expected"]);
    broken.by(
        |_| fs::remove_file(broken.module()).unwrap(),
        nothing,
        "broken",
        &["v4l2loopback.ko is missing"],
    );
    let cut = |tree: &Path| {
        let index = tree.join("modules.dep.bin");
        let bytes = fs::read(&index).unwrap();
        fs::write(index, &bytes[..bytes.len() / 2]).unwrap();
    };
    broken.by(cut, nothing, "broken", &["modules.dep.bin cannot be read", "cut short"]);
    // What it depends on has gone, and nobody has run depmod since.
    let (from, to) = (broken.host.kernel(k()).join("kernel/drivers/media"), broken.host.dir().join("media"));
    broken.by(
        |_| fs::rename(&from, &to).unwrap(),
        |_| fs::rename(&to, &from).unwrap(),
        "broken",
        &["depends on", "videodev.ko", "which is missing"],
    );
}

#[test]
fn what_others_did_to_the_kernel_is_named() {
    let broken = Broken::new();
    let root = broken.host.root();
    // A depmod of somebody whose configuration prefers another module of the name.
    let configuration = broken.host.dir().join("depmod.conf");
    fs::write(&configuration, "search extra updates built-in\n").unwrap();
    let other = |tree: &Path| {
        fs::create_dir(tree.join("extra")).unwrap();
        fs::copy(broken.module(), tree.join("extra/v4l2loopback.ko")).unwrap();
        depmod(&root, &["-C", configuration.to_str().unwrap()]);
    };
    let gone = |tree: &Path| fs::remove_dir_all(tree.join("extra")).unwrap();
    broken.by(other, gone, "broken", &["modprobe loads extra/v4l2loopback.ko", "not kcache's"]);
    // Another build of the kernel under the same name.
    let image = root.join(format!("boot/vmlinuz-{}", k()));
    let respun = |from: &'static [u8], to: &'static [u8]| {
        let image = image.clone();
        move |_: &Path| {
            let mut bytes = fs::read(&image).unwrap();
            let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
            bytes[at..at + to.len()].copy_from_slice(to);
            fs::write(&image, bytes).unwrap();
        }
    };
    let reasons = ["kernel.version", "image '#9 SMP", "built for '#1 SMP"];
    broken.by(respun(b"#1 SMP", b"#9 SMP"), respun(b"#9 SMP", b"#1 SMP"), "stale", &reasons);
    // Headers with another type of a symbol that it uses.
    let symvers = broken.host.headers(k()).join("Module.symvers");
    let text = fs::read_to_string(&symvers).unwrap();
    let line = text.lines().find(|line| line.contains("\tvideo_device_alloc\t")).unwrap();
    let changed = text.replace(line, &line.replacen(&line[..10], "0x00c0ffee", 1));
    let reasons = ["was built against video_device_alloc with the CRC", "expected 0x00c0ffee"];
    broken.by(
        |_| fs::write(&symvers, &changed).unwrap(),
        |_| fs::write(&symvers, &text).unwrap(),
        "broken",
        &reasons,
    );
    // A command line that wants signatures.
    let grub = root.join("boot/grub/grub.cfg");
    fs::create_dir(root.join("boot/grub")).unwrap();
    let menu = format!("menuentry 'Debian' {{\n linux /boot/vmlinuz-{} ro module.sig_enforce=1\n}}\n", k());
    broken.by(
        |_| fs::write(&grub, menu).unwrap(),
        |_| fs::remove_file(&grub).unwrap(),
        "broken",
        &["is unsigned", "module.sig_enforce=1 on its command line"],
    );
    // An initramfs with another build of the module; and one with this build, compressed.
    let name = format!("usr/lib/modules/{}/updates/dkms/v4l2loopback.ko", k());
    let module = fs::read(broken.module()).unwrap();
    broken.by(
        |_| initramfs::pack(&broken.host, &name, b"another build"),
        |_| initramfs::pack(&broken.host, &name, &module),
        "stale",
        &["contains a different build", &name, "update-initramfs -u -k"],
    );
}

#[test]
fn a_module_that_belongs_into_the_initramfs_and_is_not_in_it_is_stale() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    host.kcache(&["install", "-k", k()]).exits(0);
    initramfs::pack(&host, "etc/other", b"");
    let check = |code| host.kcache(&["check", "-k", k()]).exits(code);
    check(0);
    // As zfs-initramfs has it for a root file system on ZFS.
    for (path, text) in [
        ("usr/sbin/update-initramfs", ""),
        ("usr/share/initramfs-tools/hooks/hello", "manual_add_modules hello\n"),
    ] {
        let path = host.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    check(3).prints(&[
        "stale",
        "lacks hello, which /usr/share/initramfs-tools/hooks/hello includes",
        "update-initramfs -u",
    ]);
    let module = fs::read(&host.modules(k())["hello/hello.ko"]).unwrap();
    initramfs::pack(&host, &format!("usr/lib/modules/{}/updates/hello.ko", k()), &module);
    check(0);
}

#[test]
fn without_headers_what_is_installed_stays_ready_and_what_is_not_is_no_headers() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    let wanted = format!("linux-headers-{}", k());
    host.kcache(&["install", "-k", k()]).exits(0);
    fs::remove_file(host.kernel(k()).join("build")).unwrap();
    fs::rename(host.headers(k()), host.dir().join("headers")).unwrap();
    plain(&host, "late", "");
    let verdict = host.kcache(&["check", "-k", k()]).exits(3);
    verdict.prints(&["ready       inputs not compared: no headers", "no-headers", &wanted]);
}

#[test]
fn an_interrupted_installation_is_named_and_the_next_one_finishes_or_undoes_it() {
    let host = Host::new(&[k()]);
    trio(&host, "first");
    host.kcache(&["build", "-k", k()]).exits(0);
    // Killed with the journal open and the commit still to come: at the first rename after the journal's own.
    let journal = host.root().join(format!("lib/modules/.kcache-{}/journal.json", k()));
    let killed_at = |when: &usize| {
        let inject = format!("inject=rename,renameat,renameat2:signal=SIGKILL:when={when}");
        let strace =
            ["strace", "-f", "-o", "/dev/null", "-e", "trace=rename,renameat,renameat2", "-e", &inject];
        host.kcache_under(&strace, &["install", "-k", k()]);
        journal.exists()
    };
    assert!((1..20).any(|when| killed_at(&when)), "no such moment");
    let verdict = host.kcache(&["check", "-k", k()]).exits(3);
    verdict.prints(&["missing", "interrupted"]).says(&["an installation was interrupted"]);
    host.kcache(&["install", "-k", k()]).exits(0).says(&["undid an interrupted installation"]);
    ready(&host);
}

#[test]
fn a_policy_decides_what_blocks_and_build_reports_what_does_not_build() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    broken(&host);
    let rules = |text: &str| host.write_config(text);
    host.kcache(&["check", "-k", k()]).exits(3).prints(&["broken/1.0  missing", "hello/1.0   missing"]);
    let tried = host.kcache(&["check", "--build", "-k", k()]).exits(3);
    tried.prints(&["broken/1.0  fails    ", "no_such_name", "hello/1.0   missing  built, not installed"]);
    // Required: it is said by the exit code, and hinders no other.
    host.kcache(&["install", "-k", k()]).exits(4).one_error();
    host.kcache(&["check", "-q", "-k", k()])
        .exits(3)
        .prints(&[&format!("not ready: {} (broken fails)\n", k())]);
    // Optional: it is said, and blocks nothing.
    rules("[[policy]]\npackage = 'bro*'\nis = 'optional'\n");
    host.kcache(&["check", "-k", k()]).exits(0).prints(&["ready", "fails  (optional)"]);
    host.kcache(&["install", "-k", k()]).exits(0).says(&["warning: broken/1.0", "(optional)"]);
    host.kcache(&["install", "broken", "-k", k()]).exits(4);
    // Ignored: it is not even tried.
    rules("[[policy]]\npackage = 'broken'\nkernel = '6.*'\nis = 'ignore'\n");
    host.kcache(&["check", "-k", k()]).exits(0).prints(&["excluded  ignored by a policy"]);
    let run = host.kcache(&["install", "--rebuild", "-k", k()]).exits(0);
    assert!(!run.stdout.contains("broken"), "{}", run.shown());
    // For another kernel the rule says nothing.
    rules("[[policy]]\npackage = 'broken'\nkernel = '5.*'\nis = 'ignore'\n");
    host.kcache(&["check", "-k", k()]).exits(3);
    rules("[[policy]]\npackage = 'broken'\nis = 'ignored'\n");
    host.kcache(&["check", "-k", k()])
        .exits(2)
        .says(&["config.toml", "required, optional or ignore"])
        .one_error();
}

#[test]
fn other_peoples_modules_are_judged_and_count_where_that_is_asked_for() {
    let host = Host::new(&[k()]);
    hello(&host, "");
    host.kcache(&["install", "-k", k()]).exits(0);
    let foreign = host.kernel(k()).join("updates/dkms");
    fs::create_dir_all(&foreign).unwrap();
    let (_, module) = host.modules(k()).pop_first().unwrap();
    fs::copy(module, foreign.join("theirs.ko")).unwrap();
    fs::write(foreign.join("empty.ko.xz"), "").unwrap();
    let verdict = host.kcache(&["check", "-k", k()]).exits(0);
    verdict.prints(&["updates/dkms/theirs.ko", "loads ", "updates/dkms/empty.ko.xz is empty", "broken"]);
    let document = check(&host).exits(0).json();
    let found = document["kernels"][0]["foreign"].as_array().unwrap();
    let states: Vec<_> = found.iter().map(|foreign| foreign["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["broken", "loads"], "{document}");
    host.write_config("foreign = 'require'\n");
    host.kcache(&["check", "-q", "-k", k()]).exits(3).prints(&["a foreign module is broken"]);
    fs::remove_file(foreign.join("empty.ko.xz")).unwrap();
    host.kcache(&["check", "-q", "-k", k()]).exits(0);
}

#[test]
fn the_kernel_that_the_boot_loader_takes_can_be_asked_for_and_marked() {
    let host = Host::new(&[&FIXTURES.old, k()]);
    hello(&host, "");
    let mark = host.root().join("run/kcache/ready").join(k());
    host.kcache(&["check", "-k", "default"]).exits(2).says(&["boot loader", "default-kernel"]).one_error();
    let grub = host.root().join("boot/grub");
    fs::create_dir(&grub).unwrap();
    let entry = |release: &str| format!("menuentry '{release}' {{\n\tlinux /boot/vmlinuz-{release} ro\n}}\n");
    fs::write(grub.join("grub.cfg"), format!("set default=\"0\"\n{}{}", entry(k()), entry(&FIXTURES.old)))
        .unwrap();
    host.kcache(&["check", "-q", "--mark", "-k", "default"])
        .exits(3)
        .prints(&[&format!("not ready: {} (hello missing)", k())]);
    assert!(!mark.exists());
    host.kcache(&["install", "-k", "default"]).exits(0);
    host.kcache(&["check", "-q", "--mark", "-k", "default"]).exits(0).prints(&[k()]);
    assert!(mark.exists());
    // The other kernel has nothing, and none of its business is told.
    fs::write(grub.join("grubenv"), "next_entry=1\n").unwrap();
    host.kcache(&["check", "-q", "-k", "default"]).exits(3).prints(&[&FIXTURES.old]);
    // What changes the set takes the mark away.
    host.kcache(&["remove", "hello", "-k", k()]).exits(0);
    assert!(!mark.exists());
    let image = format!("default-kernel = '/boot/vmlinuz-{}'\n", k());
    host.write_config(&image);
    host.kcache(&["check", "-q", "-k", "default"]).exits(3).prints(&[k()]);
}

#[test]
fn a_package_without_its_source_is_still_verified_where_it_is_installed() {
    let host = Host::new(&[k()]);
    let source = packages::plain(&host, "gone", "");
    host.kcache(&["install", "-k", k()]).exits(0);
    fs::remove_dir_all(source).unwrap();
    let cache = host.dir().join("cache");
    fs::create_dir(&cache).unwrap();
    let unknown = ["check", "unknown", "-k", k(), "--cache", cache.to_str().unwrap()];
    host.kcache(&unknown).exits(3).prints(&["unknown  missing  no source on this machine"]);
    host.kcache(&["check", "-k", k()]).exits(0).prints(&["gone  ready  inputs not compared: no source"]);
    let (_, module) = host.modules(k()).pop_first().unwrap();
    fs::write(module, "").unwrap();
    host.kcache(&["check", "-k", k()]).exits(3).prints(&["gone  broken"]);
}

#[test]
fn status_says_each_reason_once_with_all_that_it_is_of() {
    let host = Host::new(&[&FIXTURES.new, &FIXTURES.old]);
    for name in ["one", "two"] {
        plain(&host, name, "");
    }
    broken(&host);
    host.kcache(&["build"]).exits(4);
    let releases = format!("{}, {}", FIXTURES.old, FIXTURES.new);
    let run = host.kcache(&["status"]).exits(0).says(&[
        &format!("one/1.0, two/1.0 for {releases}: missing: built, not installed\n"),
        &format!("broken/1.0 for {releases}: fails: "),
    ]);
    assert_eq!(run.stderr.lines().count(), 2, "{}", run.shown());
}
