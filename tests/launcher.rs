//! ccache before the compiler: a build after a small change compiles only what has changed, and comes to the same bits.

use crate::host::{FIXTURES, Host, Run};
use crate::packages::{dkms_conf, module_c};
use kcache::store::{Key, Output, Store, Waiting};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

/// A package of three files, of which one bears a text.
fn parts(host: &Host, text: &str) {
    let part = |name: &str| {
        format!("#include <linux/kernel.h>\nint {name}(int a);\nint {name}(int a) {{ return a + 1; }}\n")
    };
    host.write_package(
        "parts-1.0",
        &[
            ("dkms.conf", dkms_conf("parts", "1.0", "")),
            ("Makefile", "obj-m := parts.o\nparts-y := one.o two.o main.o\nccflags-y := -g\n".to_owned()),
            ("one.c", part("one")),
            ("two.c", part("two")),
            ("main.c", module_c(text)),
        ],
    );
}

/// What a build has left, its log aside.
fn outputs(host: &Host, run: &Run) -> (String, Vec<Output>) {
    let key = run.outcome().key.unwrap();
    let store =
        Store::open(&host.store(), &Waiting { limit: Duration::from_secs(9), print: &|_| () }).unwrap();
    let entry = store.lookup(&key.parse::<Key>().unwrap()).unwrap().unwrap();
    let outputs = entry.into_manifest().outputs;
    (key, outputs.into_iter().filter(|output| output.name != "log").collect())
}

/// How often ccache had an object.
fn hits(host: &Host) -> u64 {
    let dirs = std::fs::read_dir(host.store().join("ccache")).unwrap();
    let of_dir = |dir: std::fs::DirEntry| {
        let said =
            Command::new("ccache").arg("--print-stats").env("CCACHE_DIR", dir.path()).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let is_hit = |line: &&str| {
            ["direct_cache_hit", "preprocessed_cache_hit"].iter().any(|word| line.starts_with(word))
        };
        let number = |line: &str| line.split_whitespace().last().unwrap().parse::<u64>().unwrap();
        said.lines().filter(is_hit).map(number).sum::<u64>()
    };
    dirs.map(|dir| of_dir(dir.unwrap())).sum()
}

#[test]
fn after_a_small_change_ccache_has_the_rest_and_every_bit_is_the_same() {
    let (with, without) = (Host::new(&[&FIXTURES.new]), Host::new(&[&FIXTURES.new]));
    let build = |host: &Host, launcher: &str, more: &[&str]| {
        let mut command = host.command(&["--json", "build", "parts", "-k", &FIXTURES.new]);
        command.args(more).env("KCACHE_COMPILER_LAUNCHER", launcher);
        Run::from(command.output().unwrap()).exits(0)
    };
    for text in ["first", "second"] {
        parts(&with, text);
        parts(&without, text);
        let ours = build(&with, "ccache", &[]);
        assert_eq!(outputs(&with, &ours), outputs(&without, &build(&without, "none", &[])));
    }
    // Of the second build: one.c and two.c.
    assert!(hits(&with) >= 2, "{}", hits(&with));
    let before = hits(&with);
    // These are to find out what the compiler says now.
    build(&with, "ccache", &["--rebuild"]);
    build(&with, "ccache", &["--check"]);
    assert_eq!(hits(&with), before);
    assert!(!without.store().join("ccache").exists());
    // What is in it belongs to a uid that others may get.
    let mode = std::fs::metadata(with.store().join("ccache")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// What one of them may swap for a link while the other is given the directory.
#[test]
fn two_builds_of_a_package_beside_each_other_share_no_directory() {
    let host = Host::new(&[&FIXTURES.new, &FIXTURES.old]);
    let script = "set -e\ncd /run/kcache/ccache\ntouch mark-$2\nsleep 6\n\
        found=$(ls | grep -c ^mark-)\ncd - >/dev/null\n[ $found = 1 ] && make -C $1 M=$PWD modules\n";
    host.write_package(
        "marks-1.0",
        &[
            ("dkms.conf", dkms_conf("marks", "1.0", "MAKE=\"bash mark.sh $kernel_source_dir $kernelver\"\n")),
            ("Makefile", "obj-m := marks.o\n".to_owned()),
            ("marks.c", module_c("x")),
            ("mark.sh", script.to_owned()),
        ],
    );
    let mut command = host.command(&["-j", "2", "build", "marks", "-k", &FIXTURES.new, "-k", &FIXTURES.old]);
    Run::from(command.env("KCACHE_COMPILER_LAUNCHER", "ccache").output().unwrap()).exits(0);
    // Each has put its own back.
    assert_eq!(std::fs::read_dir(host.store().join("ccache")).unwrap().count(), 2);
}
