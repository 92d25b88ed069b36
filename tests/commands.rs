//! The commands that tell: status, explain, log, config, and what `--json` promises to scripts.

use crate::host::{FIXTURES, Host, Record};
use crate::packages::{self, hello, plain};
use fs_err as fs;

/// The state that `status --json` gives to a package on a kernel.
#[track_caller]
fn state(host: &Host, package: &str, kernel: &str) -> String {
    let document = host.kcache(&["status", "-k", kernel, "--json"]).exits(0).json();
    let packages = document["packages"].as_array().unwrap();
    let found = packages.iter().find(|entry| entry["name"] == package);
    let state = found.and_then(|entry| entry["kernels"][kernel]["state"].as_str());
    state.unwrap_or_else(|| panic!("no {package} on {kernel} in {document}")).to_owned()
}

#[test]
fn status_follows_a_package_from_missing_to_stale() {
    let host = Host::new(&[&FIXTURES.new]);
    let new = FIXTURES.new.as_str();
    hello(&host, "first");
    packages::broken(&host);
    assert_eq!(state(&host, "hello", new), "missing");
    host.kcache(&["build", "hello", "-k", new]).exits(0);
    assert_eq!(state(&host, "hello", new), "missing");
    host.kcache(&["install", "-k", new]).exits(4);
    assert_eq!(state(&host, "hello", new), "ready");
    assert_eq!(state(&host, "broken", new), "fails");
    hello(&host, "second");
    assert_eq!(state(&host, "hello", new), "stale");
}

#[test]
fn check_is_the_verdict_may_i_reboot() {
    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    hello(&host, "");
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    host.kcache(&["check", "-k", &FIXTURES.new]).exits(0);
    host.kcache(&["check", "-k", &FIXTURES.old]).exits(3);
}

#[test]
fn status_reports_a_corrupt_installed_module() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "whole");
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    let (_, module) = host.modules(&FIXTURES.new).pop_first().unwrap();
    fs::write(&module, "").unwrap();
    assert_eq!(state(&host, "hello", &FIXTURES.new), "broken");
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    assert_eq!(host.modinfo(&FIXTURES.new, "hello", "description"), "whole");
}

#[test]
fn a_kernel_without_headers_is_reported_with_the_package_to_install() {
    let host = Host::without_headers(&FIXTURES.new);
    hello(&host, "");
    let before = host.tree();
    host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(5).one_error();
    assert_eq!(state(&host, "hello", &FIXTURES.new), "no-headers");
    host.kcache(&["check", "-k", &FIXTURES.new]).exits(3).prints(&["no-headers"]);
    assert_eq!(before, host.tree());
}

#[test]
fn json_lines_are_one_result_per_package_and_kernel_then_generations_then_the_summary() {
    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    hello(&host, "");
    plain(&host, "second", "");
    let records = host.kcache(&["install", "-k", "all", "--json"]).exits(0).records();
    let results = records.iter().filter(|record| matches!(record, Record::Result(_))).count();
    assert_eq!(results, 4, "{records:?}");
    for kernel in [&FIXTURES.old, &FIXTURES.new] {
        let of_kernel =
            |record: &&Record| matches!(record, Record::Generation { kernel: of, .. } if of == kernel);
        let found: Vec<_> = records.iter().filter(of_kernel).collect();
        assert!(
            matches!(found[..], [Record::Generation { changed: true, generation: Some(_), .. }]),
            "{records:?}"
        );
    }
    assert_eq!(records.last(), Some(&Record::Summary { exit: 0 }));
}

#[test]
fn kernels_are_chosen_by_release_glob_all_and_newest() {
    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    hello(&host, "");
    let check = |chosen: &str, expect: &[&String]| {
        let outcomes = host.kcache(&["build", "hello", "-k", chosen, "--json"]).exits(0).outcomes();
        let mut kernels: Vec<_> = outcomes.iter().map(|outcome| &outcome.kernel).collect();
        kernels.sort();
        assert_eq!(kernels, expect, "-k {chosen}");
    };
    check("newest", &[&FIXTURES.new]);
    check(&FIXTURES.old, &[&FIXTURES.old]);
    check("all", &[&FIXTURES.old, &FIXTURES.new]);
    check("6.1.0-*", &[&FIXTURES.old, &FIXTURES.new]);
}

#[test]
fn output_into_a_closed_pipe_is_no_complaint() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let mut command = host.command(&["status"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let run = crate::host::Run::from(command.stdout(writer).output().unwrap());
    assert_eq!(run.stderr, "", "{}", run.shown());
}
