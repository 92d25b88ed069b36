//! A tree under `--root` that is wholly somebody else's, and every command on it: links at all places that kcache knows, programs that
//! tell as whom they ran, settings that name places and secrets of this machine. Nothing of the bait beside the tree is changed, no
//! program of the tree runs outside of a sandbox, and no secret of the caller's is sent anywhere.
//!
//! One test has strace watch ([`trace`]), which sees what leaves no mark. The last one lets chance choose what is in the way;
//! `KCACHE_TORTURE=1` has it try two hundred trees in place of four.

mod scene;
mod trace;

use crate::host::{FIXTURES, PATH, is_root, run};
use fs_err as fs;
use scene::{CALLS, Scene, USE};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::panic::AssertUnwindSafe;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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
        ("etc/kcache/trusted-keys", USE),
        ("etc/kcache/config.d", USE),
        ("etc/kcache/config.d/50-cache.toml", USE),
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
    assert_eq!(scene.call(USE), 0);
    for place in [
        "boot/vmlinuz-{k}",
        "boot/initrd.img-{k}",
        "lib/modules/{k}/modules.order",
        "lib/modules/{k}/modules.builtin",
        "lib/modules/{k}/modules.alias",
        "lib/modules/{k}/updates/x.ko",
        "etc/depmod.d/x.conf",
        "etc/kcache/config.d/50-cache.toml",
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
            for words in
                ["check", "--depmod always install hello -k {k}", "remove --all", "hooks status", USE]
            {
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
