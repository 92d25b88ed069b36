//! What others wrote, on a terminal: it is shown, and steers nothing.

use crate::host::{FIXTURES, Host, run};
use crate::packages::{self, dkms_conf, module_c};
use crate::pty;
use fs_err as fs;
use std::path::Path;
use std::process::Command;

fn k() -> &'static str {
    &FIXTURES.new
}

/// Sets the title, colours, clears, writes over the line, and shows it backwards.
const HOSTILE: &str = "\x1b]0;OWNED\x07\x1b[31m\x1b[2J\u{9b}32m\rX\u{202e}Y";

/// The same for a recipe, which bash reads, and for C and printf.
const QUOTED: &str = "\\033]0;OWNED\\007\\033[31m\\033[2J\\302\\23332m\\rX\\342\\200\\256Y";

/// What kcache prints on a terminal.
fn printed(host: &Host, words: &[&str]) -> String {
    pty::run(host, &host.command(words)).1
}

/// Asserts that what was printed has nothing but what kcache and its bars send, and returns it.
#[track_caller]
fn harmless(host: &Host, words: &[&str]) -> String {
    let text = printed(host, words);
    let mut rest = text.as_str();
    while let Some((_, after)) = rest.split_once('\x1b') {
        let end = after.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(0);
        let sequence = &after[..=end];
        // Bold, red, green, yellow, cyan, dim, reset; and of bars: up, down, to the beginning, clear the line.
        let colour = ["[0m", "[1m", "[2m", "[31m", "[32m", "[33m", "[36m"].contains(&sequence);
        let bar = ["[2K", "[K", "[J", "[0J"].contains(&sequence) || sequence.ends_with(['A', 'B', 'G']);
        assert!(colour || bar, "{words:?}: ESC {sequence:?} in {text:?}");
        rest = after;
    }
    for c in ['\x07', '\u{9b}', '\u{202e}'] {
        assert!(!text.contains(c), "{words:?}: {c:?} in {text:?}");
    }
    assert!(!text.contains("\x1b[31mOWNED") && !text.contains("\x1b[31m\x1b[2J"), "{words:?}: {text:?}");
    text
}

#[test]
fn what_a_recipe_and_its_build_print_steers_no_terminal() {
    let host = Host::new(&[k()]);
    let write = |name: &str, lines: &str| {
        let files = [
            ("dkms.conf", dkms_conf(name, "1.0", lines)),
            ("Makefile", format!("obj-m := {name}.o\n")),
            ("go.sh", format!("printf '{QUOTED}\\n'; printf 'a.c:1:1: error: {QUOTED}\\n'; exit 9\n")),
            (&format!("{name}.c"), module_c("text")),
        ];
        host.write_package(&format!("{name}-1.0"), &files)
    };
    let conf = write("conf", &format!("printf '{QUOTED} boom\\n' >&2; exit 3\n"));
    let build = ["build", "conf", "-k", k()];
    for words in [
        &build[..],
        &["lint", conf.to_str().unwrap()],
        &["status"],
        &["check"],
        &["explain", "conf", "-k", k()],
    ] {
        harmless(&host, words);
    }
    fs::remove_dir_all(conf).unwrap();
    write("syntax", &format!("MAKE=\"{HOSTILE}\n"));
    write("version", &format!("PACKAGE_VERSION=$'1{QUOTED}'\n"));
    write(
        "excluded",
        &format!("BUILD_EXCLUSIVE_KERNEL=$'^x{QUOTED}'\nBUILD_EXCLUSIVE_CONFIG=$'CONFIG_{QUOTED}'\n"),
    );
    write("depends", &format!("BUILD_DEPENDS=$'a{QUOTED}'\n"));
    write("output", "MAKE=\"bash go.sh\"\n");
    for package in ["syntax", "version", "excluded", "depends", "output"] {
        harmless(&host, &["build", package, "-k", k()]);
    }
    for words in
        [&["-vv", "build", "--rebuild", "output", "-k", k()][..], &["log", "output", "-k", k()], &["status"]]
    {
        harmless(&host, words);
    }
    let shown = harmless(&host, &["log", "output", "-k", k()]);
    assert!(
        shown.contains("\\u{1b}]0;OWNED\\u{7}") && shown.contains("\\u{202e}Y"),
        "it is shown: {shown:?}"
    );
    // To a file the log is as it was, JSON says it, and neither has it raw.
    let json = host.kcache(&["--json", "log", "output", "-k", k()]).exits(0).stdout;
    assert!(json.contains("\\u001b]0;OWNED\\u0007") && json.contains("\\u202e"), "{json}");
    assert!(!json.contains(['\x1b', '\u{9b}', '\u{202e}']), "{json}");
    assert!(host.kcache(&["log", "output", "-k", k()]).exits(0).stdout.contains('\u{202e}'));
}

#[test]
fn names_of_files_kernels_and_modules_steer_no_terminal() {
    let host = Host::new(&[k()]);
    let source = packages::with_makefile(&host, "modinfo", "text", "obj-m := modinfo.o\n", "");
    let text = module_c("text")
        + &format!(
            "MODULE_VERSION(\"1{QUOTED}\");\nMODULE_SOFTDEP(\"pre: a{QUOTED}\");\nMODULE_DESCRIPTION(\"{QUOTED}\");\n"
        );
    fs::write(source.join("modinfo.c"), text).unwrap();
    for words in [&["install", "modinfo", "-k", k()][..], &["check"], &["status"], &["metrics"], &["verify"]]
    {
        harmless(&host, words);
    }
    let make = |path: &Path| run(Command::new("mkdir").arg("-p").arg(path));
    make(&host.root().join(format!("usr/src/dir{HOSTILE}-1.0")));
    fs::write(host.root().join(format!("usr/src/dir{HOSTILE}-1.0/dkms.conf")), "PACKAGE_NAME=a b\n").unwrap();
    make(&host.root().join(format!("lib/modules/6.1.0{HOSTILE}")));
    fs::write(host.root().join(format!("lib/modules/6.1.0{HOSTILE}/modules.order")), "").unwrap();
    let extra = host.kernel(k()).join(format!("extra/d{HOSTILE}"));
    make(&extra);
    fs::write(extra.join(format!("bad{HOSTILE}.ko")), "bad").unwrap();
    run(Command::new("mkfifo").arg(source.join(format!("fifo{HOSTILE}"))));
    for words in
        [&["status"][..], &["check"], &["verify"], &["build", "modinfo", "-k", k()], &["check", "--json"]]
    {
        harmless(&host, words);
    }
    host.write_config(&format!("jobz = 1 # {HOSTILE}\n'{QUOTED}' = 1\n"));
    harmless(&host, &["config"]);
}

#[test]
fn what_was_typed_wrong_steers_no_terminal() {
    let host = Host::without_kernels();
    let hostile = format!("--{}", HOSTILE.replace('\r', "\\r"));
    let words = [
        &["status", &hostile][..],
        &[&hostile],
        &["build", HOSTILE],
        &["status", "-k", HOSTILE],
        &["--color", HOSTILE, "status"],
    ];
    for words in words {
        let shown = harmless(&host, words);
        assert!(shown.contains("\\u{202e}Y"), "{shown:?}");
    }
}
