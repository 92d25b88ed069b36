//! Hostile and broken packages: whatever a recipe says and a build does, nothing leaves the sandbox, one clear error tells
//! what was wrong, and the exit code is that of a build that failed (4) or of modules that are refused (6).
//!
//! Each row is a package; [`withstands`] installs it and judges the host afterwards. Recipes that loop, sleep or print for
//! ever, and source trees with devices or links in them, are in `wrong_input`; modules for another kernel or machine, or with
//! symbols that it has not, in `wrong_modules`; hostile caches in `hostile`.

use crate::host::{FIXTURES, Host, Run, run};
use crate::packages::{dkms_conf, module_c};
use fs_err as fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

mod entering;
mod kernel;
mod space;
mod writable;

/// What no build may read, wherever it lies.
const SECRET: &str = "the secret of this host";

/// Where it lies.
const SECRETS: [&str; 5] =
    ["home/diary", "root/etc/shadow", "root/root/.ssh/id", "root/home/user/diary", "root/var/lib/secret"];

/// A package: its name, what it does, the exit code, and what the one error has to say.
type Attack<'a> = (&'a str, &'a str, i32, &'a [&'a str]);

/// A host with things worth reading, and so many seconds of patience with builds.
fn host(patience: &str) -> Host {
    let host = Host::new(&[&FIXTURES.new]);
    for path in SECRETS {
        let path = host.dir().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, SECRET).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o666)).unwrap();
    }
    host.write_config(&format!("build-timeout = {patience}\n"));
    host
}

/// Writes a package with these further lines in its recipe.
fn with_recipe(host: &Host, name: &str, lines: &str) {
    with_files(host, name, &dkms_conf(name, "1.0", lines), "");
}

/// Writes a package whose `make` is this script; in it `honest` builds the module.
fn with_script(host: &Host, name: &str, script: &str) {
    let conf = dkms_conf(name, "1.0", "MAKE=\"bash attack.sh $kernel_source_dir $kernelver\"\n");
    let script = format!(
        "K=$1 R=$2 NAME={name}\nhonest() {{ make -C $K M=$PWD modules; }}\n{}\n",
        script.replace("HOST", &host.dir().display().to_string())
    );
    with_files(host, name, &conf, &script);
}

fn with_files(host: &Host, name: &str, conf: &str, script: &str) {
    host.write_package(
        &format!("{name}-1.0"),
        &[
            ("dkms.conf", conf.to_owned()),
            ("Makefile", format!("obj-m := {name}.o\n")),
            (&format!("{name}.c"), module_c(name)),
            ("attack.sh", script.to_owned()),
        ],
    );
}

/// Installs each of the packages; the host is as it was before, whatever they tried.
fn withstand(write: fn(&Host, &str, &str), patience: &str, attacks: &[Attack]) {
    let host = host(patience);
    let mut broken = Vec::new();
    for (name, does, exit, says) in attacks {
        write(&host, name, does);
        let before = host.tree();
        let installed = host.kcache(&["install", name, "-k", &FIXTURES.new]);
        let log = host.kcache(&["log", name, "-k", &FIXTURES.new]);
        let mut wrong = harm(&host, &installed, &log);
        let errors = installed.stderr.lines().filter(|line| line.starts_with("error")).count();
        let told = says.iter().all(|words| installed.stderr.contains(words));
        if installed.code != Some(*exit) || errors != 1 || !told {
            wrong.push(format!("expected exit {exit}, one error, and {says:?}"));
        }
        if before != host.tree() {
            wrong.push("it changed the host".to_owned());
        }
        if !wrong.is_empty() {
            broken.push(format!("{name}: {does}\n{}\n{}", wrong.join("\n"), installed.shown()));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

/// What must not be, whatever a package did.
fn harm(host: &Host, installed: &Run, log: &Run) -> Vec<String> {
    let mut harm = Vec::new();
    if installed.shown().contains(SECRET) || log.shown().contains(SECRET) {
        harm.push("it read a secret".to_owned());
    }
    if installed.shown().contains('\x1b') {
        harm.push("it wrote to the terminal".to_owned());
    }
    for path in SECRETS {
        if fs::read_to_string(host.dir().join(path)).is_ok_and(|text| text == SECRET) {
            continue;
        }
        harm.push(format!("it changed {path}"));
    }
    let scratch = fs::read_dir(host.store().join("tmp")).into_iter().flatten();
    harm.extend(scratch.map(|left| format!("it left {left:?}")));
    harm.extend(survivors().iter().map(|process| format!("it is still running: {process:?}")));
    harm
}

/// Processes that attacks of this test have started: they call themselves so. Those of another may be running rightly.
fn survivors() -> Vec<PathBuf> {
    let is_one = |process: &PathBuf| {
        fs::read(process.join("cmdline")).is_ok_and(|line| line.starts_with(survivor().as_bytes()))
    };
    fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(is_one).collect()
}

fn survivor() -> String {
    let test = std::thread::current().name().unwrap_or_default().replace("::", "-");
    format!("kcache-survivor-{}-{test}", std::process::id())
}

#[test]
fn names_and_paths_in_recipes_lead_nowhere() {
    withstand(
        with_recipe,
        "60",
        &[
            ("a04", "PACKAGE_VERSION=", 4, &["dkms.conf", "PACKAGE_VERSION"]),
            ("a05", "BUILT_MODULE_NAME[0]=a05.ko", 4, &["dkms.conf", "a05.ko"]),
            ("a06", "BUILT_MODULE_LOCATION[0]=../../", 4, &["outside the source tree"]),
            ("a07", "BUILT_MODULE_LOCATION[0]=/etc/", 4, &["built no etc/a07.ko"]),
            ("a08", "DEST_MODULE_NAME[0]=../../../evil", 4, &["module name '../../../evil'"]),
            ("a09", "DEST_MODULE_LOCATION[0]=/updates/../../..", 4, &["DEST_MODULE_LOCATION"]),
            ("a10", "DEST_MODULE_LOCATION[0]=/etc", 4, &["DEST_MODULE_LOCATION"]),
            (
                "a11",
                "BUILT_MODULE_NAME[1]=b\nDEST_MODULE_NAME[1]=a11\nDEST_MODULE_LOCATION[1]=/extra",
                4,
                &["named twice"],
            ),
            ("a12", "unset BUILT_MODULE_NAME\nDEST_MODULE_LOCATION[1]=/extra", 4, &["BUILT_MODULE_NAME"]),
        ],
    );
}

#[test]
fn a_recipe_that_names_itself_a_path_or_exits_gets_the_name_of_its_directory() {
    let host = host("60");
    for (name, own) in [
        ("a01", "PACKAGE_NAME=\"../../etc\""),
        ("a02", "PACKAGE_NAME=$'two\\nlines'"),
        ("a03", "PACKAGE_VERSION=\"1/../../x\""),
        ("b12", "exit 0"),
        ("b14", "printf '\\0kcache\\0name\\0forged\\0'; exit 0"),
    ] {
        with_recipe(&host, name, own);
        let run = host.kcache(&["install", name, "-k", &FIXTURES.new]).exits(0);
        let log = host.kcache(&["log", name, "-k", &FIXTURES.new]);
        assert!(host.modules(&FIXTURES.new).contains_key(&format!("{name}/{name}.ko")), "{}", run.shown());
        assert_eq!(harm(&host, &run, &log), [""; 0]);
    }
}

#[test]
fn unsupported_directives_are_reported() {
    withstand(
        with_recipe,
        "60",
        &[
            ("b01", "PATCH[0]=absent.diff", 4, &["absent.diff"]),
            ("b02", "PATCH[0]=../../../../../etc/passwd", 4, &["passwd"]),
            ("b03", "PATCH[0]=../Makefile", 4, &["Makefile"]),
            ("b04", "MAKE=true", 4, &["built no b04.ko"]),
            ("b05", "BUILD_DEPENDS[0]=absent", 4, &["absent"]),
            ("b06", "BUILD_DEPENDS[0]=b06", 4, &["b06"]),
            ("b07", "BUILD_DEPENDS[0]=../../etc", 4, &["../../etc"]),
            ("b08", "MAKE='exit 3'", 4, &["status 3"]),
            ("b09", "MAKE='('", 4, &["syntax error"]),
            ("b10", "MAKE=/no/such/program", 4, &["/no/such/program"]),
            ("b11", "kill -9 $$", 4, &["dkms.conf"]),
            ("b15", "BUILT_MODULE_NAME[1]=$(head -c 2000000 /dev/zero | tr '\\0' x)", 4, &["dkms.conf"]),
            ("b17", "MAKE='exit 255'", 4, &["status 255"]),
            ("b18", "MAKE='exit 193'", 4, &["status 193"]),
            ("b19", "MAKE='exit 254'", 4, &["(build-processes)"]),
            ("b16", "unset -f take; PACKAGE_NAME='$(cat /etc/shadow)'", 4, &["dkms.conf"]),
        ],
    );
}

#[test]
fn outputs_are_regular_files_and_modules() {
    withstand(
        with_script,
        "60",
        &[
            ("c01", "ln -s /etc/passwd $NAME.ko", 4, &["c01.ko is a link"]),
            ("c02", "honest; mv $NAME.ko x; ln -s x $NAME.ko", 4, &["c02.ko is a link"]),
            ("c03", "mkfifo $NAME.ko", 4, &["c03.ko is not a regular file"]),
            ("c04", "mkdir $NAME.ko", 4, &["c04.ko is not a regular file"]),
            ("c05", "mknod $NAME.ko c 1 5", 4, &["Operation not permitted"]),
            ("c06", "ln /etc/os-release $NAME.ko", 4, &["ln: "]),
            ("c07", "ln /usr/src/$NAME-1.0/Makefile $NAME.ko", 4, &["ln: "]),
            ("c08", "honest; chmod 6755 $NAME.ko", 4, &["c08.ko", "set-user-ID"]),
            ("c09", "truncate -s 600M $NAME.ko", 4, &["c09.ko has 629145600 bytes"]),
            ("c10", ": >$NAME.ko", 6, &["c10.ko"]),
            ("c11", "echo text >$NAME.ko", 6, &["c11.ko"]),
            ("c12", "cp /bin/true $NAME.ko", 6, &["c12.ko"]),
            ("c13", "honest; objcopy --rename-section .modinfo=.other $NAME.ko", 6, &["c13.ko"]),
            ("c14", "honest; head -c 1000 $NAME.ko >x; mv x $NAME.ko", 6, &["c14.ko"]),
            ("c15", "honest; rm -rf \"$PWD\" * || :", 4, &["built no c15.ko"]),
            ("c16", "honest; chmod 0 $NAME.ko; chmod 0 .; echo stuck; false", 4, &["stuck"]),
            (
                "c18",
                "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => \"c18.ko\", Listen => 1) or die'",
                4,
                &["c18.ko is not a regular file"],
            ),
            ("c17", "exec 3<>$NAME.ko; printf '\\177ELF' >&3; kill -9 0", 4, &["killed by signal 9"]),
        ],
    );
}

#[test]
fn the_rest_of_the_host_is_out_of_reach() {
    withstand(
        with_script,
        "60",
        &[
            ("d01", "rm -rf --no-preserve-root / 2>/dev/null; rm -rf HOST; exit 1", 4, &["status 1"]),
            ("d02", "chmod u+w $K/Makefile; echo '#' >>$K/Makefile", 4, &["Permission denied"]),
            // Read-only, or not the build's to write: as the host has modules of its own or not.
            ("d03", "echo x >/lib/modules/$R/x.ko", 4, &["x.ko: "]),
            // A copy of the source is there, and no other package's.
            ("d04", "echo x >>/usr/src/$NAME-1.0/Makefile; echo x >/usr/src/y", 4, &["/usr/src/y: "]),
            ("d05", "mkdir -p /usr/local/bin && cp /bin/sh /usr/local/bin/sh", 4, &["Permission denied"]),
            ("d06", "cat /etc/shadow", 4, &["No such file or directory"]),
            ("d07", "cat HOST/home/diary", 4, &["No such file or directory"]),
            ("d08", "cat HOST/root/root/.ssh/id /root/.ssh/id", 4, &["No such file or directory"]),
            ("d09", "ls HOST/store /var/cache/kcache", 4, &["No such file or directory"]),
            ("d10", "cat /proc/1/root/etc/shadow /proc/[0-9]*/root/HOST/home/diary", 4, &["cat: "]),
            ("d11", "cat /proc/kcore >core", 4, &["cat: "]),
            ("d12", "echo '|/bin/sh' >/proc/sys/kernel/core_pattern", 4, &["core_pattern"]),
            ("d13", "head -c 1 /dev/mem /dev/sda /dev/vda", 4, &["No such file or directory"]),
            ("d14", "mount -t tmpfs none /usr", 4, &["mount: /usr: "]),
            ("d15", "mount -o remount,rw / && echo x >/x", 4, &["mount: /: "]),
            ("d16", "su -c id; setpriv --reuid 0 id", 4, &["setpriv: "]),
            ("d17", "printf '\\033[2J\\033]0;owned\\007'; cat /no\\x1bsuch", 4, &["cat: "]),
            (
                "d18",
                "cat /run/dbus/system_bus_socket /var/run/docker.sock",
                4,
                &["No such file or directory"],
            ),
        ],
    );
}

#[test]
fn what_would_take_everything_is_bounded() {
    let survive = format!("setsid bash -c 'exec -a {} sleep 1000' & disown; false", survivor());
    let daemon = format!(
        "(setsid bash -c 'trap \"\" HUP TERM; exec -a {} sleep 1000' &); sleep 1; exit 7",
        survivor()
    );
    // Files of the system, opened faster than anybody could note them.
    let opener = format!(
        "perl -e 'my @f = grep {{ -f }} glob \"/usr/include/*.h /usr/include/*/*.h\"; fork for 1..4; $0 = \"{}\"; while (1) {{ for (@f) {{ open my $f, \"<\", $_ }} }}'",
        survivor()
    );
    withstand(
        with_script,
        "6",
        &[
            ("e01", "while :; do :; done", 4, &["timed out after 6 s"]),
            ("e02", "kill -STOP $$", 4, &["timed out after 6 s"]),
            ("e03", "yes 'error: gigabytes of output'", 4, &["timed out after 6 s"]),
            ("e04", "f() { f | f & }; f; sleep 1000", 4, &["timed out after 6 s"]),
            ("e12", &opener, 4, &["timed out after 6 s"]),
            ("e15", LOCK_THE_PIPES, 4, &["timed out after 6 s"]),
        ],
    );
    withstand(
        with_script,
        "60",
        &[
            ("e05", "fallocate -l 5G big || head -c 5G /dev/zero >big", 4, &["more than 4096 MiB"]),
            ("e06", "head -c 3G /dev/zero >/tmp/big", 4, &["No space left on device"]),
            ("e07", &survive, 4, &["status 1"]),
            ("e08", &daemon, 4, &["status 7"]),
            ("e09", "for i in {1..600}; do mkdir d && cd d || exit; done; exit 9", 4, &["status 9"]),
            ("e10", "for i in {1..20000}; do : >f$i; done; exit 9", 4, &["status 9"]),
            ("e11", "kill -9 -1", 4, &["killed by signal 9"]),
            ("e13", FILL_THE_PIPE, 4, &["status 9"]),
            (
                "e14",
                "for i in {1..30}; do mkdir -p $(printf 'd/%.0s' {1..100}) && cd $(printf 'd/%.0s' {1..100}) || exit; done; exit 9",
                4,
                &["status 9"],
            ),
        ],
    );
}

/// Puts tokens of its own into make's jobserver until it has room for none, and leaves it so.
const FILL_THE_PIPE: &str = r#"perl -e 'use Fcntl; my ($w) = $ENV{MAKEFLAGS} =~ /--jobserver-auth=\d+,(\d+)/; open W, ">&=", $w or die;
fcntl W, F_SETFL, fcntl(W, F_GETFL, 0) | O_NONBLOCK; for my $size (4096, 1) { 1 while syswrite W, "+" x $size }'; exit 9"#;

/// Locks the pipes that kcache reads and writes: splice(2) into one holds its lock while there is nothing to be had of its source.
const LOCK_THE_PIPES: &str = r#"cat >lock.c <<'END'
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
static void lock(int pipe) { int s[2]; socketpair(AF_UNIX, SOCK_STREAM, 0, s); write(pipe, "+\n", 2); splice(s[0], 0, pipe, 0, 4096, 0); }
int main(int n, char **a) { if (!fork()) lock(atoi(a[1])); if (!fork()) lock(1); sleep(1000); }
END
gcc -o lock lock.c && [[ $MAKEFLAGS =~ --jobserver-auth=[0-9]+,([0-9]+) ]] && exec ./lock ${BASH_REMATCH[1]}"#;

/// A header of a failed test compile is shown in the log: whatever a build has put in its place, or says it is.
#[test]
fn what_a_build_calls_its_header_shows_no_file_of_the_host() {
    let says = "conftest; echo \"$P:7:2: error: #error f() conftest failed!\"; exit 2";
    let rows = [
        ("i01", "ln -s HOST/root/etc/shadow conftest; P=$PWD/"),
        ("i02", "mkfifo conftest; P=$PWD/"),
        ("i03", "mkdir conftest; P=$PWD/"),
        ("i04", "truncate -s 3G conftest; P=$PWD/"),
        (
            "i05",
            "ln -s HOST/root/etc etc; ln -s shadow etc/conftest 2>/dev/null; P=$PWD/etc/../etc/shadow; : ",
        ),
        ("i06", "P=HOST/root/etc/shadow; : "),
        ("i07", "P=$PWD/../../../../../../../../../HOST/root/etc/shadow; : "),
        ("i08", "ln -s /proc/self/root/HOST/root/etc/shadow conftest; P=$PWD/"),
        ("i09", "P=$PWD/$(printf 'x%.0s' {1..300}); : "),
        (
            "i10",
            "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => \"conftest\", Listen => 1)'; P=$PWD/",
        ),
        ("i11", "mkdir -m 0 locked; P=$PWD/locked/"),
    ];
    let scripts = rows.map(|(name, does)| (name, format!("{does}{says}")));
    let attacks: Vec<Attack> =
        scripts.iter().map(|(name, script)| (*name, script.as_str(), 4, &["conftest failed!"][..])).collect();
    withstand(with_script, "60", &attacks);
}

/// A listener of each kind that a build could talk to, which hears nothing.
#[test]
fn nobody_can_be_talked_to() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    tcp.set_nonblocking(true).unwrap();
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let socket = directory.path().join("socket");
    let unix = UnixListener::bind(&socket).unwrap();
    unix.set_nonblocking(true).unwrap();
    let port = tcp.local_addr().unwrap().port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    let ask = "getent hosts deb.debian.org";
    let perl = format!(
        "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Peer => \"{}\") or die \"refused: $!\"'",
        socket.display()
    );
    withstand(
        with_script,
        "60",
        &[
            ("f01", &connect, 4, &["attack.sh"]),
            ("f02", ask, 4, &["status 2"]),
            ("f03", &perl, 4, &["refused: No such file or directory"]),
        ],
    );
    assert!(tcp.accept().is_err() && unix.accept().is_err());
}

/// A build that takes each token that it sees has those that it was lent. Others need not wait for its end.
#[test]
fn a_build_that_keeps_all_jobs_for_itself_stops_no_other() {
    let host = host("45");
    let steal = "[[ $MAKEFLAGS =~ --jobserver-auth=([0-9]+), ]] && while :; do cat <&${BASH_REMATCH[1]} >/dev/null; sleep 0.02; done";
    with_script(&host, "greedy", steal);
    // The longest is begun first.
    let source = host.root().join("usr/src/greedy-1.0");
    fs::write(source.join("unused.c"), "int x;\n".repeat(300_000)).unwrap();
    for name in ["modest", "second"] {
        with_recipe(&host, name, "");
    }
    let all = ["--json", "--jobs", "2", "install", "greedy", "modest", "second", "-k", &FIXTURES.new];
    let outcomes = host.kcache(&all).exits(4).outcomes();
    let state = |name: &str| {
        let outcome = outcomes.iter().find(|outcome| outcome.package == name).unwrap();
        (outcome.state.as_str(), outcome.seconds < 45.0)
    };
    assert_eq!([state("modest"), state("second")], [("installed", true); 2], "{outcomes:?}");
    assert_eq!(state("greedy"), ("failed", false), "{outcomes:?}");
}

/// Modules of which one alone would be none to worry about.
#[test]
fn what_modules_weigh_together_is_not_in_memory_at_once() {
    let host = host("60");
    let more: String = (1..10)
        .map(|n| format!("BUILT_MODULE_NAME[{n}]=large{n}\nDEST_MODULE_LOCATION[{n}]=/extra\n"))
        .collect();
    let write = |script: &str| {
        let conf = dkms_conf("large", "1.0", &format!("{more}MAKE=\"bash attack.sh $kernel_source_dir\"\n"));
        let script = format!("K=$1\n{script}");
        with_files(&host, "large", &conf, &script);
        fs::write(
            host.root().join("usr/src/large-1.0/Makefile"),
            (0..10)
                .map(|n| format!("obj-m += large{}.o\n", if n == 0 { String::new() } else { n.to_string() }))
                .collect::<String>(),
        )
        .unwrap();
    };
    let install =
        || host.kcache_under(&["prlimit", "--data=450000000"], &["install", "large", "-k", &FIXTURES.new]);
    // Real ones, each made larger by what no linker would: 480 MB in all.
    write(
        "for i in {1..9}; do sed s/large/large$i/ large.c >large$i.c; done\nmake -C $K M=$PWD modules; for m in large*.ko; do truncate -s 48M $m; done",
    );
    install().exits(0);
    assert_eq!(host.modules(&FIXTURES.new).len(), 10);
    // Holes and nothing else, which cost the build nothing.
    write("for i in '' {1..9}; do truncate -s 100M large$i.ko; done");
    install().exits(6).says(&["large9.ko is not an ELF file"]).one_error();
    write("for i in '' {1..9}; do truncate -s 500M large$i.ko; done");
    install().exits(4).says(&["more than 1024 MiB together"]).one_error();
}

/// In a kernel's tree the record of what is installed lies beside the packages' directories, and a recipe's answer ends at a mark.
#[test]
fn a_package_that_is_called_as_something_of_kcaches_harms_no_other() {
    let host = host("60");
    for name in ["generation.json", "generation.json.copy", "modest", "kcache"] {
        with_recipe(&host, name, "");
    }
    let installed = host.kcache(&["install", "-k", &FIXTURES.new]);
    let installed = installed.says(&["generation.json-1.0/dkms.conf: cannot determine name and version"]);
    let modules = host.modules(&FIXTURES.new);
    assert_eq!(
        modules.keys().collect::<Vec<_>>(),
        ["kcache/kcache.ko", "modest/modest.ko"],
        "{}",
        installed.shown()
    );
}

/// A file in the place of a recipe that is none.
#[test]
fn recipes_that_are_not_text_are_reported() {
    type MakeWrong = fn(&Path);
    let wrong: [(&str, MakeWrong); 4] = [
        ("g01", |conf| fs::create_dir(conf).unwrap()),
        ("g02", |conf| drop(run(Command::new("mkfifo").arg(conf)))),
        ("g03", |conf| fs::write(conf, b"\x7fELF\0\0\xff\xfe").unwrap()),
        ("g04", |conf| {
            fs::write(conf, "PACKAGE_NAME=g04\nPACKAGE_VERSION=1.0\n#".to_owned() + &"x\n#".repeat(9_000_000))
                .unwrap()
        }),
    ];
    let host = host("60");
    for (name, make) in wrong {
        with_recipe(&host, name, "");
        let conf = host.root().join(format!("usr/src/{name}-1.0/dkms.conf"));
        fs::remove_file(&conf).unwrap();
        make(&conf);
        let path = format!("{}/usr/src/{name}-1.0", host.root().display());
        host.kcache(&["install", &path, "-k", &FIXTURES.new]).exits(4).one_error().says(&[name]);
        fs::remove_dir_all(host.root().join(format!("usr/src/{name}-1.0"))).unwrap();
    }
}
