//! Progress on a terminal: what is drawn, and what of it stays.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use fs_err as fs;

use crate::host::{FIXTURES, Host};
use crate::packages::{dkms_conf, module_c, plain};
use crate::pty::{self, COLUMNS};
use crate::snapshots::screen::wrapped;

fn k() -> &'static str {
    &FIXTURES.new
}

/// A package whose build takes some seconds, in a directory with a long name.
fn slow(host: &Host, name: &str, seconds: u32) {
    let dir = "a-directory-that-has-a-name-which-is-longer-than-the-terminal-is-wide";
    let make = format!(
        "MAKE=\"sh wait.sh; make -C ${{kernel_source_dir}} M=${{dkms_tree}}/{name}/1.0/build modules\"\n"
    );
    let files = [
        ("dkms.conf", dkms_conf(name, "1.0", &make)),
        ("Makefile", format!("obj-m := {name}.o\n")),
        ("wait.sh", format!("echo \"  CC [M]  $PWD/{dir}/the-file.o\"; sleep {seconds}\n")),
        (&format!("{name}.c"), module_c("text")),
    ];
    host.write_package(&format!("{name}-1.0"), &files);
}

fn build(host: &Host) -> Command {
    host.command(&["build", "-k", k(), "--jobs", "1"])
}

#[test]
fn a_bar_names_the_file_and_the_estimate_goes_down() {
    let host = Host::new(&[k()]);
    slow(&host, "first", 3);
    slow(&host, "second", 0);
    let (code, written) = pty::run(&host, &build(&host));
    assert_eq!(code, Some(0), "{written}");
    assert!(written.contains("CC [M]  the-file.o") && !written.contains("a-directory"), "{written:?}");
    let estimates: BTreeSet<&str> = written
        .split("1 more waiting, about ")
        .skip(1)
        .map(|rest| rest.split(" left").next().unwrap())
        .collect();
    assert!(estimates.len() > 1, "{estimates:?} in {written:?}");
}

#[test]
fn an_interrupted_run_leaves_no_bar_and_says_what_is_done() {
    let host = Host::new(&[k()]);
    plain(&host, "ready", "");
    host.kcache(&["build", "-k", k()]).exits(0);
    slow(&host, "slow", 60);
    for (command, says) in [
        (build(&host), "1 of 2 builds are in the store\n"),
        (host.command(&["install", "-k", k()]), "1 of 2 builds are in the store; nothing was installed\n"),
    ] {
        let (code, written) = pty::typing(&host, &command, |log, keyboard| {
            let end = Instant::now() + Duration::from_secs(60);
            let is_shown = || fs::read_to_string(log).is_ok_and(|text| text.contains("the-file.o"));
            while !is_shown() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(50));
            }
            keyboard.write_all(b"\x03").unwrap();
        });
        let shown = wrapped(&written, COLUMNS);
        assert_eq!(code, Some(130), "{shown}");
        assert!(shown.contains(says) && shown.contains("interrupted"), "{shown}");
        assert!(!shown.contains("building") && !shown.contains("^C"), "{shown}\n{written:?}");
    }
}

#[test]
fn nothing_is_drawn_where_a_log_is_kept() {
    let host = Host::new(&[k()]);
    for (name, variable, value) in [
        ("one", "DEBIAN_FRONTEND", "noninteractive"),
        ("two", "TERM", "dumb"),
        ("three", "DPKG_MAINTSCRIPT_PACKAGE", "x"),
    ] {
        plain(&host, name, "");
        let mut command = build(&host);
        command.env(variable, value);
        let (code, written) = pty::run(&host, &command);
        assert_eq!(code, Some(0), "{written}");
        assert!(
            !written.contains('\x1b') && written.contains(&format!("building {name}")),
            "{variable}: {written:?}"
        );
    }
}
