//! A tree under `--root` that is wholly somebody else's, and every command on it: links at all places that kcache knows, programs that
//! tell as whom they ran, settings that name places and secrets of this machine. Nothing of the bait beside the tree is changed, no
//! program of the tree runs outside of a sandbox, and no secret of the caller's is sent anywhere.
//!
//! One test has strace watch ([`trace`]), which sees what leaves no mark. The last one lets chance choose what is in the way;
//! `KCACHE_TORTURE=1` has it try two hundred trees in place of four.

mod trace;

use crate::host::{FIXTURES, Host, PATH, is_root, run};
use crate::packages;
use fs_err as fs;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SECRET: &str = "a-secret-of-the-callers";

/// Each command, and how it is called. `{k}` is the kernel, `{out}` a directory of the caller's, `{src}` the package.
const CALLS: &[(&str, &[&str])] = &[
    ("install", &["install", "install hello -k {k}", "--dry-run install hello -k {k}"]),
    ("build", &["build hello -k {k}"]),
    ("check", &["check", "check -k default"]),
    ("status", &["status"]),
    ("boot-test", &["boot-test -k {k} --timeout 5"]),
    ("report", &["report --html {out}/page.html"]),
    ("metrics", &["metrics"]),
    ("explain", &["explain hello -k {k}"]),
    ("log", &["log hello -k {k}"]),
    ("adopt", &["adopt"]),
    ("rollback", &["rollback -k {k}"]),
    ("push", &["push --all"]),
    ("pull", &["pull hello -k {k}"]),
    ("export", &["export {out}/builds.tar"]),
    ("import", &["import {out}/builds.tar"]),
    ("gc", &["gc", "gc --max-size 1"]),
    ("verify", &["verify --repair"]),
    ("keys", &["keys list", "keys generate --name x", "keys mok", "keys revoke x"]),
    ("signatures", &["signatures export {out}/signatures"]),
    ("debuginfo", &["debuginfo"]),
    (
        "hooks",
        &[
            "hooks install",
            "hooks status",
            "hooks run kernel-installed {k}",
            "hooks run boot {k}",
            "hooks remove",
        ],
    ),
    ("init", &["init {src}"]),
    ("lint", &["lint {src}"]),
    ("config", &["config"]),
    ("remove", &["remove --all", "hooks run kernel-removed {k}"]),
];

/// Places of a system that kcache knows of.
const PLACES: [&str; 27] = [
    "etc/kcache",
    "etc/kcache/config.toml",
    "etc/kcache/config.d",
    "etc/kcache/trusted-keys",
    "etc/kcache/revoked-keys",
    "etc/kcache/signing-key.pem",
    "etc/kcache/packages.d",
    "etc/dkms",
    "etc/kernel/postinst.d",
    "etc/ld.so.preload",
    "etc/os-release",
    "usr/lib/systemd/system",
    "usr/lib/debug",
    "usr/src/hello-1.0/dkms.conf",
    "usr/src/hello-1.0/linked.c",
    "usr/src/other-1.0",
    "var/cache/kcache",
    "var/lib/kcache",
    "var/lib/dkms",
    "var/tmp",
    "run",
    "tmp",
    "boot/grub/grub.cfg",
    "lib/modules/{k}/updates",
    "lib/modules/{k}/modules.dep.bin",
    "lib/modules/{k}/source",
    "lib/modules/.kcache-{k}",
];

/// Programs that kcache or its builds call.
const PROGRAMS: [&str; 22] = [
    "bash",
    "sh",
    "make",
    "gcc-12",
    "gcc",
    "cc",
    "ld",
    "as",
    "strip",
    "objcopy",
    "pahole",
    "setpriv",
    "depmod",
    "modprobe",
    "kmod",
    "update-initramfs",
    "dracut",
    "mokutil",
    "uname",
    "chroot",
    "qemu-system-x86_64",
    "bwrap",
];

/// A tree, what lies beside it, and who listens.
struct Scene {
    host: Host,
    heard: Arc<Mutex<Vec<u8>>>,
    before: BTreeMap<PathBuf, String>,
}

impl Scene {
    fn new() -> Scene {
        let host = Host::new(&[&FIXTURES.new]);
        packages::hello(&host, "text");
        for dir in ["bait/dir", "out", "markers", "beside"] {
            fs::create_dir_all(host.dir().join(dir)).unwrap();
        }
        fs::set_permissions(host.dir().join("markers"), PermissionsExt::from_mode(0o1777)).unwrap();
        for (file, mode) in [("bait/file", 0o644), ("bait/dir/file", 0o600)] {
            fs::write(host.dir().join(file), "bait").unwrap();
            fs::set_permissions(host.dir().join(file), PermissionsExt::from_mode(mode)).unwrap();
        }
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut scene = Scene { host, heard, before: BTreeMap::new() };
        scene.before = scene.bait();
        scene
    }

    /// Listens, for as long as this process lives, and says where.
    fn listen(&self) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, heard) = (listener.local_addr().unwrap().port(), self.heard.clone());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
                let mut bytes = [0; 4096];
                let n = stream.read(&mut bytes).unwrap_or(0);
                heard.lock().unwrap().extend_from_slice(&bytes[..n]);
                let _ = stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        });
        port
    }

    /// All that a command could have changed of the bait.
    fn bait(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut pending = vec![self.host.dir().join("bait")];
        while let Some(path) = pending.pop() {
            let metadata = fs::symlink_metadata(&path).unwrap();
            let (mode, owner) = (metadata.mode(), (metadata.uid(), metadata.gid()));
            let mut text = format!("{mode:o} {owner:?} {:?}", metadata.modified().unwrap());
            if metadata.is_dir() {
                pending.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            } else if metadata.is_symlink() {
                text += &fs::read_link(&path).unwrap().display().to_string();
            } else {
                text += &String::from_utf8_lossy(&fs::read(&path).unwrap());
            }
            found.insert(path, text);
        }
        found
    }

    fn place(&self, place: &str) -> PathBuf {
        self.host.root().join(place.replace("{k}", &FIXTURES.new))
    }

    /// Has a link, or whatever `make` makes, in the place of what was there.
    fn put(&self, place: &str, make: impl FnOnce(&Path)) {
        let path = self.place(place);
        let parent = path.parent().unwrap();
        if fs::create_dir_all(parent).is_err()
            || !fs::canonicalize(parent).unwrap().starts_with(self.host.root())
        {
            return; // something hostile is above it already
        }
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir());
        let _ = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        make(&path);
    }

    fn link(&self, place: &str, to: &str) {
        self.put(place, |path| symlink(self.host.dir().join(to), path).unwrap());
    }

    /// A program that leaves a note where nothing in a sandbox can leave one.
    fn program(&self, name: &str) {
        let marker = self.host.dir().join("markers").join(name);
        let text =
            format!("#!/bin/sh\n(id -u; grep CapEff /proc/self/status) >{} 2>&1\nexit 1\n", marker.display());
        for dir in ["usr/bin", "usr/sbin", "bin", "sbin"] {
            let path = self.host.root().join(dir).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &text).unwrap();
            fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
        }
    }

    /// Kernels and packages whose names are options, commands, ways out or nothing that can be shown.
    fn odd_names(&self) {
        for name in ["-rf", "$(touch x)", "a b", "..-..", "\u{1b}[2J", "a\nb", "\u{202e}", "%s%n", ";id"] {
            self.put(&format!("lib/modules/{name}/updates"), |path| fs::create_dir(path).unwrap());
            self.put(&format!("usr/src/{name}-1.0/dkms.conf"), |path| {
                fs::write(path, format!("PACKAGE_NAME='{name}'\nBUILT_MODULE_NAME[0]='{name}'\n")).unwrap();
            });
        }
    }

    /// Settings that name places, secrets and commands of this machine, and a listener.
    fn settings(&self, port: u16) {
        let bait = self.host.dir().join("bait").display().to_string();
        let marker = self.host.dir().join("markers/settings").display().to_string();
        let config = format!(
            "store = '{bait}/dir/store'\nsigning-key = '{bait}/file'\ndefault-kernel = '{bait}/file'\npackage-scripts = ['*']\n\
             packages = ['hello']\ncompiler-launcher = 'ccache'\nbuild-timeout = 1\n\
             [signing]\nkey = 'pkcs11:token=x?module-path={module}'\ncertificate = '{bait}/file'\n\
             passphrase-command = ['touch', '{marker}']\n\
             [[cache]]\nurl = 'file://{bait}/dir'\nwrite = true\n\
             [[cache]]\nurl = 'http://127.0.0.1:{port}/c'\ncredentials-env = 'HOST'\nwrite = true\nca = '{bait}/file'\n\
             [[cache]]\nurl = 's3://b/x'\noptions = {{ aws_endpoint = 'http://127.0.0.1:{port}', aws_allow_http = 'true' }}\n",
            module = self.place("usr/lib/token.so").display(),
        );
        self.put("etc/kcache/config.toml", |path| fs::write(path, config).unwrap());
    }

    /// Runs a command as a caller does who has secrets, and looks at what must not have happened. Its exit code.
    fn call(&self, words: &str) -> i32 {
        self.call_under(&[], words)
    }

    /// The same, watched by strace. How many processes it saw outside of sandboxes and inside.
    fn call_traced(&self, words: &str) -> (usize, usize) {
        let (dir, scene) = (tempfile::tempdir().unwrap(), self.host.dir());
        let file = dir.path().join("t");
        self.call_under(&[&trace::STRACE[..], &[file.to_str().unwrap()]].concat(), words);
        let bounds = trace::Bounds {
            tree: self.host.root(),
            writable: ["root", "store", "tmp", "out"].map(|name| scene.join(name)).into(),
            cwd: scene.join("out"),
        };
        let seen = trace::read(dir.path(), &bounds);
        assert!(seen.wrong.is_empty(), "{words}:\n{}", seen.wrong.join("\n"));
        (seen.outside, seen.inside)
    }

    fn call_under(&self, wrapper: &[&str], words: &str) -> i32 {
        let dir = |name: &str| self.host.dir().join(name);
        let source = self.host.root().join("usr/src/hello-1.0");
        let words = words
            .replace("{k}", &FIXTURES.new)
            .replace("{out}", dir("out").to_str().unwrap())
            .replace("{src}", source.to_str().unwrap());
        let wrapped = [wrapper, &["timeout", "-s", "KILL", "60"]].concat();
        let mut command = Command::new(wrapped[0]);
        command.args(&wrapped[1..]).arg(dir("kcache")).arg("--root").arg(self.host.root());
        command.args(words.split(' ')).env_clear().env("PATH", PATH).current_dir(dir("out"));
        for name in [
            "HOST_TOKEN",
            "HOST_PASSWORD",
            "KCACHE_TOKEN",
            "GITHUB_TOKEN",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "GOOGLE_SERVICE_ACCOUNT_KEY",
        ] {
            command.env(name, SECRET);
        }
        command.env("AWS_ACCESS_KEY_ID", "id").env("HOME", dir("home")).env("TMPDIR", dir("tmp"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code();
        assert!(code.is_some_and(|code| code <= 8), "{words}: {code:?}: {said}");
        assert!(!said.contains("Usage:"), "{words} is no call: {said}");
        assert_eq!(self.bait(), self.before, "{words} has changed what lies outside of the tree: {said}");
        let ran: Vec<PathBuf> =
            fs::read_dir(dir("markers")).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(ran.is_empty(), "{words} ran programs of the tree on this machine: {ran:?}");
        let heard = String::from_utf8_lossy(&self.heard.lock().unwrap()).into_owned();
        assert!(!heard.contains(SECRET), "{words} has sent a secret: {heard}");
        code.unwrap()
    }

    fn call_all(&self) {
        CALLS.iter().flat_map(|(_, calls)| *calls).for_each(|words| {
            self.call(words);
        });
    }
}

#[test]
fn every_command_is_tried_on_hostile_images() {
    let help = Command::new(env!("CARGO_BIN_EXE_kcache")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.lines().take_while(|line| *line != "Options:").filter(|line| line.starts_with("  "));
    let named: Vec<&str> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(CALLS.iter().any(|(known, _)| *known == name), "{name} is not tried on a hostile image");
    }
}

#[test]
fn links_settings_and_programs_of_an_image_reach_nothing_outside() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let port = scene.listen();
    let marker = scene.host.dir().join("markers/settings").display().to_string();
    scene.settings(port);
    scene.put("usr/src/hello-1.0/before.sh", |path| {
        fs::write(path, format!("#!/bin/sh\ntouch {marker}\n")).unwrap();
        fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    });
    let conf = scene.place("usr/src/hello-1.0/dkms.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text + "PRE_INSTALL=before.sh\nPOST_INSTALL=before.sh\nPOST_REMOVE=before.sh\n")
        .unwrap();
    assert_eq!(scene.call("install hello -k {k}"), 0, "the hostile part is passed over");
    scene.call_all();

    // With programs of its own it is its own that builds run, in a sandbox or not at all.
    PROGRAMS.iter().for_each(|name| scene.program(name));
    scene.call_all();

    for place in PLACES {
        let to = if place.rsplit('/').next().unwrap().contains('.') { "bait/file" } else { "bait/dir" };
        scene.link(place, to);
        for words in
            ["install hello -k {k}", "status", "keys generate --name y", "hooks install", "remove --all"]
        {
            scene.call(words);
        }
    }
    scene.call_all();
}

#[test]
fn what_leaves_no_mark_is_seen_by_strace() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    scene.settings(scene.listen());
    let mut library = Command::new("gcc");
    library.args(["-shared", "-o"]).arg(scene.place("usr/lib/token.so"));
    assert!(library.args(["-x", "c", "/dev/null"]).status().unwrap().success());
    scene.put("etc/ld.so.preload", |path| fs::write(path, "/usr/lib/token.so\n").unwrap());
    let (outside, inside) = scene.call_traced("install hello -k {k}");
    assert!(outside > 2 && inside > 20, "{outside} and {inside} processes are not those of a build");
    scene.odd_names();
    let calls = || CALLS.iter().flat_map(|(_, calls)| *calls);
    calls().for_each(|words| {
        scene.call_traced(words);
    });

    // Links to a directory at which nobody but strace looks.
    let places = [
        "etc/kcache/trusted-keys",
        "etc/kcache/revoked-keys",
        "etc/kernel/postinst.d",
        "etc/dkms",
        "usr/lib/debug",
        "usr/lib/systemd/system",
        "var/lib/kcache",
        "var/lib/dkms",
        "run",
        "tmp",
        "lib/modules/.kcache-{k}",
    ];
    places.iter().for_each(|place| scene.link(place, "beside"));
    calls().for_each(|words| {
        scene.call_traced(words);
    });
    PROGRAMS.iter().for_each(|name| scene.program(name));
    calls().for_each(|words| {
        scene.call_traced(words);
    });
}

/// What writes where, in a tree that stands in nobody's way but by one link: who takes it for a directory writes beside the tree.
#[test]
fn a_link_where_something_is_made_leads_out_of_no_command() {
    if !is_root() {
        return;
    }
    for (place, words) in [
        ("etc/kcache/trusted-keys", "keys generate --name y"),
        ("etc/kcache/revoked-keys", "keys revoke y"),
        ("etc/kcache/mok", "keys mok"),
        ("etc/kernel/postinst.d", "hooks install debian"),
        ("usr/lib/systemd/system", "hooks install boot"),
        ("etc/systemd/system", "hooks install boot"),
        ("usr/lib/debug", "debuginfo"),
        ("run/kcache", "hooks run booted"),
        ("var/lib/dkms", "remove --all"),
        ("lib/modules/{k}/updates", "install hello -k {k}"),
        ("lib/modules/.kcache-{k}", "install hello -k {k}"),
    ] {
        let scene = Scene::new();
        if words.starts_with("keys revoke") {
            assert_eq!(scene.call("keys generate --name y"), 0);
        }
        assert_eq!(scene.call("install hello -k {k}"), 0);
        scene.link(place, "beside");
        scene.call_traced(words);
        let beside = fs::read_dir(scene.host.dir().join("beside")).unwrap().count();
        assert_eq!(beside, 0, "{words} has made something where {place} leads");
    }
}

/// What is opened by path is waited for, or read to its end, unless it was looked at.
#[test]
fn nobody_waits_for_a_fifo_or_reads_a_file_without_end() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    assert_eq!(scene.call("install hello -k {k}"), 0);
    for place in [
        "boot/vmlinuz-{k}",
        "boot/initrd.img-{k}",
        "lib/modules/{k}/modules.order",
        "lib/modules/{k}/modules.builtin",
        "lib/modules/{k}/modules.alias",
        "lib/modules/{k}/updates/x.ko",
        "etc/depmod.d/x.conf",
        "etc/kernel/postinst.d/dkms",
        "etc/kernel/postinst.d/kcache",
        "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    ] {
        let path = scene.place(place);
        let before = fs::read(&path).ok();
        for kind in ["fifo", "sparse"] {
            scene.put(place, |path| match kind {
                "fifo" => rustix::fs::mkfifoat(rustix::fs::CWD, path, 0o644.into()).unwrap(),
                _ => fs::File::create(path).unwrap().set_len(1 << 40).unwrap(),
            });
            for words in ["check", "--depmod always install hello -k {k}", "remove --all", "hooks status"] {
                scene.call(words);
            }
        }
        fs::remove_file(&path).unwrap();
        before.map_or(Ok(()), |bytes| fs::write(&path, bytes)).unwrap();
    }
}

/// Somebody at work in the tree while root is: a directory and a link to one of this machine's change places all the time.
#[test]
fn directories_swapped_for_links_while_root_works_change_nothing_outside() {
    if !is_root() {
        return;
    }
    for place in ["lib/modules/{k}", "lib/modules", "lib/modules/{k}/updates"] {
        let mut scene = Scene::new();
        assert_eq!(scene.call("install hello -k {k}"), 0);
        // It looks like what it stands for, so that nobody stops at the first difference.
        let victim = scene.host.dir().join("bait/victim");
        let mut copy = Command::new("cp");
        run(copy.args(["-a", "--no-preserve=timestamps"]).arg(scene.place(place)).arg(&victim));
        scene.before = scene.bait();
        let (there, link) = (scene.place(place), scene.host.root().join("link"));
        symlink(&victim, &link).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut chance = Chance(0x9e37_79b9);
                while !stop.load(Ordering::Relaxed) {
                    let exchange = rustix::fs::RenameFlags::EXCHANGE;
                    let cwd = rustix::fs::CWD;
                    let _ = rustix::fs::renameat_with(cwd, &there, cwd, &link, exchange); // gone for a while after a removal
                    std::thread::sleep(Duration::from_micros(chance.below(3000) as u64));
                }
            });
            let looked = std::panic::catch_unwind(AssertUnwindSafe(|| {
                for _ in 0..4 {
                    for words in ["install hello -k {k}", "check", "rollback -k {k}", "remove --all", "gc"] {
                        scene.call(words);
                    }
                }
            }));
            stop.store(true, Ordering::Relaxed);
            looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }
}

/// The program that makes indexes works on the tree too, and outside of every sandbox.
#[test]
fn a_program_that_works_on_the_tree_sees_the_rest_of_the_machine_read_only() {
    if !is_root() {
        return;
    }
    for (name, words) in [
        ("kcache", ["install", "hello", "-k", &FIXTURES.new]),
        ("dkms", ["install", "hello/1.0", "-k", &FIXTURES.new]),
    ] {
        let scene = Scene::new();
        let dir = |name: &str| scene.host.dir().join(name).display().to_string();
        fs::create_dir(dir("programs")).unwrap();
        // It passes over what it is not let do, and says so in the tree.
        let script = format!(
            "#!/bin/bash\nexec 2>>{told}\nfor bait in {bait}/file /proc/1/root{bait}/file /proc/{test}/root{bait}/file\ndo\n\
             echo changed >$bait; touch $bait; chmod 777 $bait; chown 7:7 $bait; rm $bait; mv {root}/link $bait; touch ${{bait}}2\n\
             done\nmount -o remount,bind,rw {bait}; touch {root}/inside {store}/stored && echo well >&2\n\
             exec /sbin/depmod \"$@\"\n",
            told = dir("root/told"),
            bait = dir("bait"),
            root = dir("root"),
            store = dir("store"),
            test = std::process::id(),
        );
        fs::write(dir("programs/depmod"), script).unwrap();
        fs::set_permissions(dir("programs/depmod"), PermissionsExt::from_mode(0o755)).unwrap();
        fs::write(dir("root/link"), "").unwrap();
        fs::create_dir_all(dir("root/etc/kcache")).unwrap();
        fs::write(dir("root/etc/kcache/config.toml"), "depmod = \"always\"\n").unwrap();
        let mut command = match name {
            "dkms" => scene.host.called(name, &words),
            _ => scene.host.image(&words),
        };
        let output = run(command.env("PATH", format!("{}:{PATH}", dir("programs"))));
        let told = fs::read_to_string(dir("root/told")).unwrap();
        assert_eq!(scene.bait(), scene.before, "{name}: {told}{output:?}");
        assert!(
            told.ends_with("well\n") && told.contains("Read-only file system"),
            "{name}: {told}{output:?}"
        );
    }
}

/// The numbers of xorshift64: the same from the same seed, anywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % most as u64) as usize
    }
}

#[test]
fn whatever_is_in_the_way_in_an_image_reaches_nothing_outside() {
    if !is_root() {
        return;
    }
    let cases = if std::env::var_os("KCACHE_TORTURE").is_some() { 200 } else { 4 };
    let calls: Vec<&str> = CALLS
        .iter()
        .flat_map(|(_, calls)| calls.iter().copied())
        .filter(|words| !words.starts_with("boot-test"))
        .collect();
    for seed in 1..=cases {
        let (scene, mut chance) = (Scene::new(), Chance(0x9e37_79b9 * seed));
        assert_eq!(scene.call("install hello -k {k}"), 0);
        for _ in 0..6 {
            let place = PLACES[chance.below(PLACES.len())];
            match chance.below(8) {
                0 => scene.link(place, "bait/file"),
                1 => scene.link(place, "bait/dir"),
                2 => scene.put(place, |path| symlink("../../../../../../../../../etc", path).unwrap()),
                3 => scene.put(place, |path| {
                    rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::from_raw_mode(0o644))
                        .unwrap()
                }),
                4 => scene.put(place, |path| fs::File::create(path).unwrap().set_len(1 << 40).unwrap()),
                5 => scene.put(place, |path| fs::create_dir(path).unwrap()),
                6 => scene.odd_names(),
                _ => scene.put(place, |path| {
                    fs::write(path, "text").unwrap();
                    let modes = [0o000, 0o222, 0o666, 0o4777, 0o7777];
                    fs::set_permissions(path, PermissionsExt::from_mode(modes[chance.below(5)])).unwrap();
                }),
            }
            for _ in 0..3 {
                scene.call(calls[chance.below(calls.len())]);
            }
        }
    }
}
