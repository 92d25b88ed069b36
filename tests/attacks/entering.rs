//! What comes first in a sandbox: who runs what of the tree that is shown, and what was given up before.

use super::{with_recipe, with_script};
use crate::host::{FIXTURES, Host, is_root, run};
use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Programs of an image that kcache or what it runs might take for its own.
const PROGRAMS: [&str; 14] = [
    "setpriv", "bash", "sh", "env", "make", "gcc", "gcc-12", "ld", "as", "objcopy", "strip", "pahole",
    "uname", "kcache",
];

/// Libraries that programs of this machine ask for, kcache and setpriv among them.
const LIBRARIES: [&str; 9] = [
    "libc.so.6",
    "libgcc_s.so.1",
    "libm.so.6",
    "libcap-ng.so.0",
    "libpthread.so.0",
    "libdl.so.2",
    "libtinfo.so.6",
    "libnss_files.so.2",
    "libselinux.so.1",
];

/// A host whose root is wholly somebody else's: `report.c` in every place from which something could be run.
fn hostile() -> Host {
    let host = Host::new(&[&FIXTURES.new]);
    let (root, built) = (host.root(), host.dir().join("report"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/attacks/report.c");
    let mut gcc = Command::new("gcc");
    gcc.args([
        "-O1",
        "-shared",
        "-fPIC",
        "-nostdlib",
        "-fvisibility=hidden",
        "-fno-stack-protector",
        "-Wl,-e,_start",
        "-Wl,-init,report",
    ]);
    run(gcc.arg("-o").arg(&built).arg(source));
    fs::set_permissions(&built, PermissionsExt::from_mode(0o755)).unwrap();
    let put = |path: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(&built, path).unwrap();
    };
    for name in PROGRAMS {
        put(&format!("usr/bin/{name}"));
        put(&format!("usr/sbin/{name}"));
    }
    for link in ["bin", "sbin"] {
        fs::os::unix::fs::symlink(format!("usr/{link}"), root.join(link)).unwrap();
    }
    for name in LIBRARIES {
        for directory in ["lib", "usr/lib", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"] {
            put(&format!("{directory}/{name}"));
        }
    }
    put("lib64/ld-linux-x86-64.so.2");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/ld.so.preload"), "/usr/lib/libm.so.6\n").unwrap();
    fs::write(root.join("etc/ld.so.cache"), "no cache").unwrap();
    fs::write(root.join("etc/nsswitch.conf"), "passwd: files\n").unwrap();
    let fifo = root.join("usr/share/report");
    fs::create_dir_all(fifo.parent().unwrap()).unwrap();
    run(Command::new("mkfifo").args(["-m", "666"]).arg(&fifo));
    host
}

/// What runs in a sandbox is nobody, and can become nobody else.
fn is_nobody(status: &str) -> bool {
    let field = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap_or_else(|| panic!("no {name} in {status}")).split_whitespace().collect::<Vec<_>>()
    };
    let nobody = |ids: &[&str]| ids.iter().all(|id| id.parse().is_ok_and(|id: u32| id >= 61184));
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    nobody(&field("Uid"))
        && nobody(&field("Gid"))
        && field("Groups").is_empty()
        && sets.iter().all(|set| field(set) == ["0000000000000000"])
        && field("NoNewPrivs") == ["1"]
        && field("Seccomp") == ["2"]
}

/// Runs commands on a hostile root; whatever of it has run was nobody.
fn runs_as_nobody(host: &Host) {
    with_recipe(host, "p", "");
    let fifo = host.root().join("usr/share/report");
    let mut fifo = fs::OpenOptions::new().read(true).write(true).custom_flags(0o4000).open(fifo).unwrap();
    let commands: [&[&str]; 5] = [
        &["build", "p", "-k", &FIXTURES.new],
        &["status"],
        &["check", "-k", &FIXTURES.new],
        &["install", "-n", "-k", &FIXTURES.new],
        &["explain", "p", "-k", &FIXTURES.new],
    ];
    let mut reports = Vec::new();
    for command in commands {
        let shown = host.kcache(command).shown();
        let mut piece = [0; 65536];
        while let Ok(length) = fifo.read(&mut piece) {
            let text = String::from_utf8_lossy(&piece[..length]).into_owned();
            reports.extend(text.split("Name:").skip(1).map(|of| (command[0], of.to_owned(), shown.clone())));
        }
    }
    assert!(
        reports.iter().any(|(command, ..)| *command == "build"),
        "nothing of the image has run: {reports:?}"
    );
    for (command, status, shown) in reports {
        assert!(is_nobody(&status), "{command}: {status}\n{shown}");
    }
}

#[test]
fn no_file_of_an_image_runs_with_a_privilege() {
    if !is_root() || !cfg!(target_arch = "x86_64") {
        return; // it takes root, and x86_64 for the program of the image
    }
    let host = hostile();
    runs_as_nobody(&host);
    // The same with programs that are what they should be, run by a loader that is not.
    for name in ["setpriv", "bash", "env"] {
        fs::copy(Path::new("/usr/bin").join(name), host.root().join("usr/bin").join(name)).unwrap();
    }
    runs_as_nobody(&host);
}

/// What a package's Makefile and recipe find out; the log of its build.
fn log_of(host: &Host, name: &str, script: &str) -> String {
    with_script(host, name, &format!("{{ {script}\n}} 2>&1; exit 9"));
    host.kcache(&["build", name, "-k", &FIXTURES.new]).exits(4);
    host.kcache(&["log", name, "-k", &FIXTURES.new]).stdout
}

/// A run of root's, where this is one, and a user's.
fn both_kinds() -> Vec<Host> {
    let new = || Host::new(&[&FIXTURES.new]);
    if is_root() { vec![new(), new().owned_by_a_user()] } else { vec![new()] }
}

#[test]
fn memory_that_can_be_written_is_bounded_and_the_rest_is_read_only() {
    for host in both_kinds() {
        let log = log_of(
            &host,
            "shm",
            "echo x >/dev/shm/a && rm /dev/shm/a && echo usable\n\
             head -c 300M /dev/zero 2>/dev/null >/dev/shm/b; wc -c </dev/shm/b\n\
             for place in / /dev /etc /run /run/kcache /usr/src /usr/local /lib/modules /var/lib/dkms; do\n\
             echo x >$place/x && echo \"wrote $place\"; done",
        );
        assert!(log.contains("usable") && log.contains("\n268435456\n"), "{log}");
        assert!(!log.contains("wrote"), "{log}");
    }
}

#[test]
fn the_first_process_reveals_nothing_of_the_host_and_cannot_be_controlled() {
    for host in both_kinds() {
        let log = log_of(
            &host,
            "first",
            "tr '\\0' ' ' </proc/1/cmdline; echo; tr '\\0' ' ' </proc/1/environ; echo\n\
             perl -e 'for (@ARGV) { print open(my $m, \"+<\", $_) && !-c $m ? \"opened $_\\n\" : \"closed $_\\n\" }' \
             /proc/1/mem /proc/1/task/1/mem\n\
             perl -e 'printf \"attach %d %d\\n\", syscall(101, 16, 1, 0, 0), $!; printf \"write %d %d\\n\", syscall(311, 1, 0, 0, 0, 0, 0), $!'",
        );
        assert!(log.contains("bwrap"), "{log}");
        for line in log.lines().filter(|line| line.contains("bwrap") || line.contains('=')) {
            assert!(!line.contains(&host.dir().display().to_string()), "{line}");
        }
        assert!(log.contains("closed /proc/1/mem\n") && log.contains("closed /proc/1/task/1/mem\n"), "{log}");
        if cfg!(target_arch = "x86_64") {
            assert!(log.contains("attach -1 1\n") && log.contains("write -1 1\n"), "{log}");
        }
    }
}

#[test]
fn each_build_has_a_uid_and_bounds_of_its_own() {
    if !is_root() {
        return; // a user's builds run as that user
    }
    let host = Host::new(&[&FIXTURES.new]);
    let names = ["one", "two"];
    for name in names {
        with_script(
            &host,
            name,
            "sleep 2; echo \"uid $UID limits $(ulimit -u) $(ulimit -c)\" $(</proc/self/oom_score_adj); exit 9",
        );
    }
    host.kcache(&["--jobs", "2", "build", "one", "two", "-k", &FIXTURES.new]).exits(4);
    let said = names.map(|name| {
        let log = host.kcache(&["log", name, "-k", &FIXTURES.new]).stdout;
        log.lines().find(|line| line.starts_with("uid ")).expect(&log).to_owned()
    });
    assert_ne!(said[0], said[1]);
    for line in &said {
        let (uid, rest) = line.strip_prefix("uid ").unwrap().split_once(' ').unwrap();
        assert!((61184..65519).contains(&uid.parse().unwrap()), "{line}");
        assert_eq!(rest, "limits 544 0 500", "{line}");
    }
}

/// What one build takes of a limit that counts by uid, another one does not miss.
#[test]
fn a_build_that_takes_all_processes_stops_no_other() {
    let host = Host::new(&[&FIXTURES.new]);
    host.write_config("build-timeout = 30\n");
    with_script(&host, "bomb", "for i in {1..560}; do sleep 12 & done 2>/dev/null; sleep 12; exit 9");
    with_script(&host, "modest", "sleep 1; honest");
    let run = host.kcache(&["--jobs", "2", "build", "bomb", "modest", "-k", &FIXTURES.new]).exits(4);
    if is_root() {
        assert!(
            run.stdout.lines().any(|line| line.contains("modest") && line.contains("built")),
            "{}",
            run.shown()
        );
    }
}

/// Evaluating a recipe takes no more than building it may, whatever it believes of the number of CPUs.
#[test]
fn recipes_are_evaluated_within_the_bounds_of_builds() {
    for host in both_kinds() {
        with_recipe(
            &host,
            "r",
            "MAKE=\"echo evaluated $(ulimit -u) $(grep Seccomp: /proc/self/status); exit 9\"\n",
        );
        host.kcache(&["--jobs", "2", "build", "r", "-k", &FIXTURES.new]).exits(4);
        let log = host.kcache(&["log", "r", "-k", &FIXTURES.new]).stdout;
        assert!(
            log.contains("evaluated 544 Seccomp:\t2") || log.contains("evaluated 544 Seccomp: 2"),
            "{log}"
        );
    }
}

/// A recipe that is a link to a file of the host is not read, by whichever command, whatever its lines end with.
#[test]
fn a_recipe_that_is_a_link_out_of_its_package_is_no_recipe() {
    let host = Host::new(&[&FIXTURES.new]);
    let secret = host.dir().join("secret");
    for (name, recipe) in [("linked", "dkms.conf"), ("tabled", "kcache.toml"), ("made", "Makefile")] {
        with_recipe(&host, name, "");
        fs::write(&secret, "obj-m := PASSWORD=hunter2\r\nhunter2 once more\r\n").unwrap();
        let source = host.root().join(format!("usr/src/{name}-1.0"));
        if name == "made" {
            fs::remove_file(source.join("dkms.conf")).unwrap();
        }
        let _ = fs::remove_file(source.join(recipe));
        fs::os::unix::fs::symlink(&secret, source.join(recipe)).unwrap();
        let path = source.display().to_string();
        for command in
            [&["build", &path, "-k", &FIXTURES.new][..], &["lint", &path], &["init", &path], &["status"]]
        {
            let run = host.kcache(command);
            assert!(!run.shown().contains("hunter2"), "{recipe}: {command:?}: {}", run.shown());
            if command[0] == "build" {
                assert!(matches!(run.code, Some(2 | 4)), "{recipe}: {}", run.shown());
            }
        }
        fs::remove_dir_all(&source).unwrap();
    }
}

#[test]
fn a_recipe_that_is_a_link_to_another_file_of_its_package_is_one() {
    let host = Host::new(&[&FIXTURES.new]);
    with_recipe(&host, "linked", "");
    let source = host.root().join("usr/src/linked-1.0");
    fs::create_dir(source.join("debian")).unwrap();
    fs::rename(source.join("dkms.conf"), source.join("debian/linked.dkms")).unwrap();
    fs::os::unix::fs::symlink("debian/linked.dkms", source.join("dkms.conf")).unwrap();
    host.kcache(&["build", "linked", "-k", &FIXTURES.new]).exits(0);
}

/// What kcache was started with: package managers and scripts leave descriptors open, perhaps of a directory of the host, from
/// which there is a way to all of it. 255 is the one that bash keeps for itself.
#[test]
fn a_build_inherits_no_descriptor_of_the_callers() {
    let host = Host::new(&[&FIXTURES.new]);
    fs::write(host.dir().join("secret"), "").unwrap();
    let script = "for fd in /proc/self/fd/*; do\n\
        [[ ! -e $fd/secret ]] || { echo \"error: $fd leads out\"; exit 1; }\ndone\nhonest";
    with_script(&host, "p", script);
    let caller = format!("exec 9<{0} 255<{0} && exec \"$@\"", host.dir().display());
    host.kcache_under(&["bash", "-c", &caller, "bash"], &["build", "p", "-k", &FIXTURES.new]).exits(0);
}

/// An upgrade replaces the program and its libraries while it runs.
#[test]
fn a_kcache_whose_file_is_gone_still_finds_its_way_into_a_sandbox() {
    let host = Host::new(&[&FIXTURES.new]);
    with_recipe(&host, "p", "");
    fs::copy(host.dir().join("kcache"), host.dir().join("gone")).unwrap();
    let run = format!(
        "cd {} && exec 9<gone && rm gone && shift && exec /proc/self/fd/9 \"$@\"",
        host.dir().display()
    );
    host.kcache_under(&["bash", "-c", &run, "bash"], &["build", "p", "-k", &FIXTURES.new]).exits(0);
}
