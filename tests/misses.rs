//! What a host that cannot build says about a miss, and what it does all the same.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fs_err as fs;
use serde_json::Value;

use crate::builder::{BUILDER, Builder, MODULE, PACKAGE, url};
use crate::host::{FIXTURES, Host, PATH, Run, run};
use crate::packages::{plain, with_makefile};

fn k() -> &'static str {
    &FIXTURES.new
}

/// The record of a type, of a run with `--json`.
#[track_caller]
fn record(run: &Run, kind: &str) -> Value {
    let records = run.stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    records.into_iter().find(|record| record["type"] == kind).unwrap_or_else(|| panic!("{}", run.shown()))
}

/// The reason why there is no build, and what became of the cache.
#[track_caller]
fn reason(host: &Host, package: &str) -> (String, String) {
    let run = host.kcache(&["--json", "pull", package, "-k", k()]).exits(5);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&record(&run, "result")["reason"]), text(&record(&run, "cache")["state"]))
}

#[test]
fn without_a_network_by_request_the_hint_is_to_ask_again_with_one() {
    let host = Host::image_only().trusting(&BUILDER).with_caches(&[&url(&BUILDER.cache_url())]);
    let run = host.kcache(&["--offline", "install", "-k", k()]).exits(5);
    run.says(&["shared caches are not used (--offline)", "hint: run it again without --offline"]);
}

#[test]
fn programs_can_distinguish_what_to_wait_for_from_what_a_person_must_fix() {
    let cache = url(&BUILDER.cache_url());
    let same = |found: (String, String), expect: (&str, &str)| {
        assert_eq!((found.0.as_str(), found.1.as_str()), expect);
    };
    same(reason(&Host::image_only().with_caches(&[&cache]), PACKAGE), ("no-trusted-key", "not-asked"));
    let stranger = Builder::new("stranger", &[]);
    same(
        reason(&Host::image_only().trusting(&stranger).with_caches(&[&cache]), PACKAGE),
        ("untrusted", "answered"),
    );
    let trusting = || Host::image_only().trusting(&BUILDER);
    let empty = tempfile::tempdir().unwrap();
    let nothing = url(&format!("file://{}", empty.path().display()));
    same(reason(&trusting().with_caches(&[&nothing]), PACKAGE), ("not-built-yet", "answered"));
    same(reason(&trusting().with_caches(&[&cache]), "v4l2loopbac"), ("unknown-package", "answered"));
    let away = url("http://127.0.0.1:9");
    same(reason(&trusting().with_caches(&[&away]), PACKAGE), ("cache-unreachable", "unreachable"));
    let unknown = trusting().with_caches(&[&cache]);
    fs::remove_file(unknown.root().join(format!("boot/vmlinuz-{}", k()))).unwrap();
    same(reason(&unknown, PACKAGE), ("not-asked", "not-asked"));
    let none = trusting().with_caches(&[]);
    let run = none.kcache(&["--json", "pull", PACKAGE, "-k", k()]).exits(5);
    assert_eq!(record(&run, "result")["reason"], "no-cache");
}

#[test]
fn a_host_without_source_hears_that_a_package_fails_and_with_which_error() {
    let builder = Builder::new("builder", &[]);
    fs::create_dir(builder.cache()).unwrap();
    let source = plain(&builder.host, "broken", "x");
    let code = fs::read_to_string(source.join("broken.c")).unwrap();
    fs::write(source.join("broken.c"), format!("{code}int f(void) {{ return no_such_name; }}\n")).unwrap();
    builder.host.kcache(&["build", "broken", "-k", k()]).exits(4);
    builder.host.kcache(&["push", "--to", &builder.cache_url(), "broken", "-k", k()]).exits(0);
    let client = Host::image_only().trusting(&builder).with_caches(&[&url(&builder.cache_url())]);
    let run = client.kcache(&["--json", "install", "broken", "-k", k()]).exits(4);
    let result = record(&run, "result");
    assert_eq!((&result["state"], &result["how"]), (&Value::from("failed"), &Value::from("shared-cache")));
    assert!(result["error"].as_str().unwrap().contains("no_such_name"), "{result}");
    // Once it builds, the failure is history.
    fs::write(source.join("broken.c"), code).unwrap();
    builder.host.kcache(&["build", "broken", "-k", k()]).exits(0);
    builder.host.kcache(&["push", "--to", &builder.cache_url(), "broken", "-k", k()]).exits(0);
    client.kcache(&["install", "broken", "-k", k()]).exits(0);
}

/// A `bwrap` that makes no sandbox, as in a container without privileges.
fn without_sandbox(host: &Host) -> String {
    let bin = host.dir().join("bin");
    fs::create_dir_all(&bin).unwrap();
    let bwrap =
        "#!/bin/sh\necho 'bwrap: Creating new namespace failed: Operation not permitted' >&2\nexit 1\n";
    fs::write(bin.join("bwrap"), bwrap).unwrap();
    fs::set_permissions(bin.join("bwrap"), PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:{PATH}", bin.display())
}

#[test]
fn a_host_without_a_sandbox_fetches_installs_and_judges() {
    let host = Host::new(&[k()]).with_packages(&[PACKAGE]).trusting(&BUILDER);
    let host = host.with_caches(&[&url(&BUILDER.cache_url())]);
    plain(&host, "own", "x");
    let path = without_sandbox(&host);
    let run = |words: &[&str]| {
        let mut command = host.command(words);
        command.env("PATH", &path);
        Run::of(command)
    };
    run(&["install", PACKAGE, "-k", k()]).exits(0);
    assert!(host.modules(k()).contains_key(MODULE));
    run(&["check", PACKAGE, "-k", k()]).exits(0).prints(&["ready"]);
    // What nobody has built is said to need a sandbox, with what a container lacks.
    let alone = run(&["install", "own", "-k", k()]).exits(1).one_error();
    alone.says(&["cannot create the sandbox", "--cap-add SYS_ADMIN", "fetching from a cache needs neither"]);
    run(&["check", "own", "-k", k()]).exits(3).prints(&["nothing can be built here"]);
}

#[test]
fn headers_without_the_makefile_that_they_include_are_named_once_and_nothing_is_remembered() {
    let builder = Builder::new("builder", &[]);
    plain(&builder.host, "hello", "x");
    let common = fs::read_to_string(builder.host.headers(k()).join("Makefile")).unwrap();
    let included = common.lines().find_map(|line| line.strip_prefix("include ")).unwrap().trim().to_owned();
    let at = builder.host.root().join(included.trim_start_matches('/'));
    fs::remove_dir_all(at.parent().unwrap()).unwrap();
    for _ in 0..2 {
        let run = builder.host.kcache(&["build", "hello", "-k", k()]).exits(5);
        run.says(&[&format!("the headers are incomplete: {included} is missing")]);
    }
    assert!(!builder.host.kcache(&["log", "hello", "-k", k()]).stdout.contains("kcache: $"));
    // A build tree that is named by its path, here and elsewhere.
    let named = builder.host.headers(k());
    let elsewhere = builder.host.dir().join("tree");
    run(Command::new("cp").arg("-r").arg(&named).arg(&elsewhere));
    fs::write(elsewhere.join("Makefile"), "include /nowhere/common/Makefile\n").unwrap();
    for (tree, missing) in [(named, included.as_str()), (elsewhere, "/nowhere/common/Makefile")] {
        let says = format!("the headers are incomplete: {missing} is missing");
        for command in ["build", "explain"] {
            builder.host.kcache(&[command, "hello", "-k", tree.to_str().unwrap()]).exits(5).says(&[&says]);
        }
    }
}

#[test]
fn headers_of_another_build_than_the_image_are_passed_over() {
    let builder = Builder::new("builder", &[]);
    fs::create_dir(builder.cache()).unwrap();
    plain(&builder.host, "hello", "x");
    builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
    builder.host.kcache(&["push", "--to", &builder.cache_url(), "hello", "-k", k()]).exits(0);
    let host = Host::new(&[k()]).trusting(&builder);
    plain(&host, "hello", "x");
    let compile = host.headers(k()).join("include/generated/utsversion.h");
    let file = if compile.exists() { compile } else { host.headers(k()).join("include/generated/compile.h") };
    let text = fs::read_to_string(&file).unwrap();
    fs::remove_file(&file).unwrap();
    fs::write(&file, text.replace("Debian", "Other")).unwrap();
    let refused = host.kcache(&["install", "hello", "-k", k()]).exits(5).one_error();
    refused.says(&["the headers are of another build of this kernel than its image", "Other", "Debian"]);
    let host = host.with_caches(&[&url(&builder.cache_url())]);
    host.kcache(&["install", "hello", "-k", k()]).exits(0).says(&["fetched hello/1.0"]);
    host.kcache(&["check", "hello", "-k", k()]).exits(0).prints(&["ready"]);
}

#[test]
fn a_host_with_neither_source_nor_cache_is_not_told_to_wait_for_headers() {
    let host = Host::image_only();
    host.write_config(&format!("packages = [{PACKAGE:?}]\n"));
    let run = host.kcache(&["hooks", "run", "kernel-installed", k()]).exits(0);
    let run = run.says(&["no shared cache is configured", "do not reboot"]);
    assert!(
        !run.stderr.contains("with the headers") && !run.stderr.contains("linux-headers"),
        "{}",
        run.shown()
    );
    host.write_config(&format!("packages = [{PACKAGE:?}]\non-failure = 'block'\n"));
    host.kcache(&["hooks", "run", "kernel-installed", k()]).exits(5);
}

#[test]
fn on_failure_block_blocks_where_headers_would_not_help() {
    let empty = tempfile::tempdir().unwrap();
    let cache = url(&format!("file://{}", empty.path().display()));
    let host = Host::image_only().trusting(&BUILDER).with_caches(&[&cache]);
    let config = host.root().join("etc/kcache/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let hook = ["hooks", "run", "kernel-installed", k()];
    host.kcache(&hook).exits(0).says(&["do not reboot into", "once a builder has built it"]);
    fs::write(&config, format!("on-failure = \"block\"\n{text}")).unwrap();
    host.kcache(&hook).exits(5);
    // Of a package whose source is here headers may still come.
    let with_source = Host::without_headers(k());
    with_makefile(&with_source, "hello", "x", "obj-m := hello.o\n", "");
    fs::create_dir_all(with_source.root().join("etc/kcache")).unwrap();
    fs::write(with_source.root().join("etc/kcache/config.toml"), "on-failure = \"block\"\n").unwrap();
    with_source.kcache(&hook).exits(0);
}
