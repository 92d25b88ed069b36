//! The first cause of a failure, and what is remembered of one.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use fs_err as fs;

use super::{host, k, with_conf};
use crate::host::{Host, Run, is_root};
use crate::packages::{script, with_makefile};

/// A package whose Makefile runs a command before it builds.
fn running(host: &Host, name: &str, command: &str) {
    let makefile = format!("obj-m := {name}.o\nall:\n\t{command}\n\t$(MAKE) -C $(K) M=$(CURDIR) modules\n");
    with_makefile(host, name, "", &makefile, "MAKE=\"make all K=$kernel_source_dir\"\n");
}

/// A package with this script as its PRE_BUILD.
fn preparing(host: &Host, name: &str, text: &str) {
    let source = with_conf(host, name, "PRE_BUILD=\"pre 1\"");
    script(&source, "pre", text);
}

fn build(host: &Host, name: &str) -> Run {
    host.kcache(&["build", name]).exits(4).one_error()
}

/// Whether a command begins with a program that not every Debian system has.
fn is_missing(command: &str) -> bool {
    let program = command.split(' ').next().unwrap();
    let is_optional = ["curl", "git", "pkg-config", "python3", "wget"].contains(&program);
    is_optional && !Path::new("/usr/bin").join(program).exists()
}

#[test]
fn the_first_cause_is_reported_and_not_the_last_line() {
    let host = host();
    for (name, command, told) in [
        ("linker", "gcc -o t -lkcelf -x c /dev/null", "cannot find -lkcelf"),
        ("compiler", "sh -c 'kc-lsb -is'; gcc -c -o t.o nothere.c", "nothere.c: No such file or directory"),
        ("perl", "perl -MXML::KcParser -e 1", "error: perl/1.0 for {}: Can't locate XML/KcParser.pm"),
        (
            "mkdir",
            "mkdir /var/x && echo made; false",
            "mkdir: cannot create directory '/var/x': Read-only file system",
        ),
        ("stop", "$(error wanted: a newer kernel)", "wanted: a newer kernel.  Stop."),
        ("asks", "which kc-dtc || { echo please install kc-dtc; exit 1; }", "please install kc-dtc"),
        (
            "piped",
            "curl -sS https://kc.invalid/x | tar xz",
            "curl: (6) Could not resolve host: kc.invalid (builds have no network)",
        ),
    ] {
        running(&host, name, command);
        build(&host, name).says(&[&told.replace("{}", k())]);
    }
}

#[test]
fn a_failed_pre_build_is_reported_as_such_with_what_builds_cannot_do() {
    let host = host();
    let network = "builds have no network";
    let writable = "builds can write only below their build directory";
    for (name, text, told) in [
        ("silent", "exit 3", "its PRE_BUILD, `pre 1`, ended with status 3 and printed nothing"),
        ("curl", "curl -sS https://kc.invalid/x", network),
        ("wget", "wget -q https://kc.invalid/x", network),
        ("git", "git clone -q https://kc.invalid/x", network),
        ("python", "python3 -c 'import urllib.request as r; r.urlopen(\"https://kc.invalid\")'", network),
        ("socket", "exec 3<>/dev/tcp/192.0.2.1/80", network),
        (
            "advice",
            "echo 'fatal: no access'; echo; echo 'Please make sure.'; echo 'and that.'; exit 1",
            "fatal: no access",
        ),
        ("var", "mkdir /var/lib/x", writable),
        ("log", "touch /var/log/x", writable),
        ("home", "echo x >/root/x || exit 1", writable),
    ] {
        if is_missing(text) {
            continue;
        }
        preparing(&host, name, text);
        build(&host, name).says(&[told, "its PRE_BUILD, `pre 1`,"]);
    }
}

#[test]
fn programs_that_are_not_installed_are_named_and_not_remembered() {
    let host = host();
    for (name, command) in [
        ("make", "kc-gcc-13 -c x.c"),
        ("shell", "sh -c 'kc-gcc-13 x' && true"),
        ("env", "env kc-gcc-13"),
        ("xargs", "echo a | xargs kc-gcc-13"),
        ("timeout", "timeout 5 kc-gcc-13"),
    ] {
        running(&host, name, command);
        for _ in 0..2 {
            build(&host, name).prints(&["failed"]).says(&["it needs kc-gcc-13, which is not installed"]);
        }
    }
    preparing(&host, "step", "kc-gcc-13");
    build(&host, "step").says(&["it needs kc-gcc-13, which is not installed"]);
}

#[test]
fn a_program_that_is_not_found_is_no_failure_where_the_build_goes_on() {
    let host = host();
    running(&host, "goes-on", "-kc-git describe; kc-git log || true");
    host.kcache(&["build", "goes-on"]).exits(0);
    // Nor is it the cause of one for which the package is to blame.
    running(&host, "fails", "kc-git describe; echo 'a.c:3:1: error: first'; false");
    build(&host, "fails").says(&["a.c:3:1: error: first"]);
    build(&host, "fails").prints(&["as before"]);
}

#[test]
fn a_full_disk_is_named_and_not_remembered() {
    let host = host();
    running(&host, "full", "echo 'Fatal error: cannot write /tmp/cc1.s: No space left on device'; false");
    for _ in 0..2 {
        let run = build(&host, "full").says(&["the disk is full", "building full"]);
        assert!(!run.stdout.contains("as before"), "{}", run.shown());
    }
}

#[test]
fn a_script_without_its_interpreter_is_named_with_that() {
    let host = host();
    let source = with_conf(&host, "nosh", "PRE_BUILD=pre");
    script(&source, "pre", "");
    fs::write(source.join("pre"), "#!/usr/bin/kc-sh -e\ntrue\n").unwrap();
    build(&host, "nosh").says(&["it needs /usr/bin/kc-sh, which the first line of", "pre names"]);
    fs::write(source.join("pre"), "#!/bin/sh\r\ntrue\r\n").unwrap();
    build(&host, "nosh").says(&["its first line ends in CR LF (Windows line endings)"]);
}

/// Runs kcache where one more file is below `/usr` of this machine, whose tools build.
fn with_file(host: &Host, below: &str, file: &str, text: &str, arguments: &[&str]) -> Run {
    let (upper, work) = (host.dir().join("upper"), host.dir().join("work"));
    for dir in [&upper, &work] {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir(dir).unwrap();
        fs::set_permissions(dir, PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs::create_dir_all(upper.join(file).parent().unwrap()).unwrap();
    fs::write(upper.join(file), text).unwrap();
    fs::set_permissions(upper.join(file), PermissionsExt::from_mode(0o755)).unwrap();
    let mount = "mount -t overlay overlay -o \"lowerdir=$1,upperdir=$2,workdir=$3\" \"$1\" || exit 99; shift 3; exec \"$@\"";
    let words = [below, upper.to_str().unwrap(), work.to_str().unwrap()];
    let unshare = ["unshare", "-m", "--propagation", "private", "sh", "-c", mount, "sh"];
    host.kcache_under(&[&unshare[..], &words].concat(), arguments)
}

#[test]
fn a_failure_is_not_remembered_once_what_was_missing_is_there() {
    if !is_root() {
        return;
    }
    let host = host();
    for (name, command, below, file, text) in [
        ("header", "echo '#include <kcelf.h>' | gcc -c -o t.o -x c -", "/usr/include", "kcelf.h", ""),
        ("perl", "perl -MXML::KcParser -e 1", "/usr/share/perl5", "XML/KcParser.pm", "1;\n"),
        ("python", "python3 -c 'import kcyaml'", "/usr/lib/python3/dist-packages", "kcyaml.py", ""),
        (
            "pkg",
            "pkg-config --cflags kcfoo",
            "/usr/share",
            "pkgconfig/kcfoo.pc",
            "Name: k\nDescription: k\nVersion: 1\n",
        ),
        (
            "asked",
            "kc-dtc 2>&- || { echo please install kc-dtc; exit 1; }",
            "/usr/bin",
            "kc-dtc",
            "#!/bin/sh\n",
        ),
    ] {
        if is_missing(command) {
            continue;
        }
        running(&host, name, command);
        build(&host, name);
        build(&host, name).prints(&["as before"]);
        with_file(&host, below, file, text, &["build", name]).exits(0);
        // The second build's result has replaced the failure.
        let again = with_file(&host, below, file, text, &["build", name]).exits(0);
        assert!(!again.stderr.contains("building"), "{}", again.shown());
    }
    running(&host, "python2", "echo 'ImportError: No module named kcyaml'; false");
    build(&host, "python2");
    let again = with_file(&host, "/usr/lib", "python2.7/dist-packages/kcyaml.py", "", &["build", "python2"]);
    assert!(!again.exits(4).stdout.contains("as before"));
}

#[test]
fn a_module_elsewhere_or_of_another_name_is_reported() {
    let host = host();
    let source = with_conf(&host, "cs", "BUILT_MODULE_LOCATION[0]=build/hda");
    fs::create_dir_all(source.join("build/hda/codecs")).unwrap();
    fs::rename(source.join("cs.c"), source.join("build/hda/codecs/cs.c")).unwrap();
    fs::write(source.join("Makefile"), "obj-m := build/hda/codecs/cs.o\n").unwrap();
    build(&host, "cs").says(&["but build/hda/codecs/cs.ko, which is not where the recipe has it"]);
    with_conf(&host, "named", "BUILT_MODULE_NAME[0]=other");
    build(&host, "named").says(&["built no other.ko, but named.ko"]);
}
