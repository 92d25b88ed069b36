//! Asking again: what a host gets by its timer that no cache had when its kernel was installed.

use crate::builder::{BUILDER, Builder, PACKAGE, url};
use crate::host::{FIXTURES, Host, Run, run};
use crate::packages::{broken, hello};
use crate::servers::Nginx;
use fs_err as fs;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

fn k() -> &'static str {
    &FIXTURES.new
}

fn event(host: &Host, words: &[&str]) -> Run {
    host.kcache(&[&["hooks", "run"], words].concat())
}

fn retry(host: &Host) -> Run {
    event(host, &["retry"]).exits(0)
}

/// The record of attempts in the store.
fn record(host: &Host) -> Option<Value> {
    let text = fs::read(host.store().join("retry.json")).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}

/// As if the last attempt had been so many seconds earlier.
fn later(host: &Host, seconds: u64) {
    let mut kept = record(host).unwrap();
    kept["last"] = (kept["last"].as_u64().unwrap() - seconds).into();
    fs::write(host.store().join("retry.json"), kept.to_string()).unwrap();
}

fn is_marked(host: &Host) -> bool {
    host.root().join("run/kcache/ready").join(k()).exists()
}

/// A host that could compile nothing and trusts the builder; its cache is a directory that is still empty.
fn early() -> (Host, PathBuf) {
    let host = Host::image_only().trusting(&BUILDER);
    let cache = host.dir().join("cache");
    fs::create_dir(&cache).unwrap();
    (host.with_caches(&[&url(&format!("file://{}", cache.display()))]), cache)
}

/// The builder pushes.
fn fill(cache: &std::path::Path) {
    run(Command::new("cp").arg("-r").arg(BUILDER.cache().join(".")).arg(cache));
}

#[test]
fn what_a_builder_pushes_after_the_kernel_was_installed_is_installed_by_the_timer() {
    let (host, cache) = early();
    let hook = event(&host, &["kernel-installed", k()]).exits(0).says(&["do not reboot into"]);
    assert!(hook.stderr.ends_with(&format!("run `kcache install -k {}` once a builder has built it\n", k())));
    host.kcache(&["hooks", "install", "boot"]).exits(0);
    let hook = event(&host, &["kernel-installed", k()]).exits(0);
    assert!(hook.stderr.lines().last().unwrap().contains("kcache-retry.timer asks"), "{}", hook.shown());

    retry(&host).says(&["asking again for v4l2loopback", "do not reboot into"]);
    assert_eq!(record(&host).unwrap()["attempts"], 1);
    fill(&cache);
    // Its turn comes in an hour.
    let early = retry(&host);
    assert_eq!((early.stdout.as_str(), early.stderr.as_str()), ("", ""), "{}", early.shown());
    later(&host, 3600);
    retry(&host).prints(&["fetched", &format!("{}: ready", k())]);
    assert!(!host.modules(k()).is_empty() && is_marked(&host) && record(&host).is_none());
}

#[test]
fn if_all_is_ready_nothing_is_printed_and_no_cache_is_asked() {
    let nginx = Nginx::read_only();
    fill(&nginx.files());
    let host = Host::image_only().trusting(&BUILDER).with_caches(&[&url(&nginx.url())]);
    host.kcache(&["install", "-k", k()]).exits(0);
    let textfile = host.root().join("metrics.prom");
    let config = host.root().join("etc/kcache/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("metrics-textfile = \"/metrics.prom\"\n{text}")).unwrap();
    let requests = nginx.requests();
    let quiet = retry(&host);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    assert_eq!(nginx.requests(), requests, "a request to a cache");
    assert!(is_marked(&host) && record(&host).is_none());
    let metrics = fs::read_to_string(textfile).unwrap();
    assert!(metrics.contains(&format!("kcache_ready{{kernel=\"{}\"}} 1", k())), "{metrics}");
}

#[test]
fn a_server_that_comes_back_is_asked_again_and_waits_grow_until_something_changes() {
    let nginx = Nginx::read_only();
    fill(&nginx.files());
    let host = Host::image_only().trusting(&BUILDER).with_caches(&[&url("http://127.0.0.1:9/")]);
    for wait in [1, 2, 4, 8, 16, 24, 24] {
        retry(&host).says(&["cannot be reached"]);
        let kept = record(&host).unwrap();
        assert_eq!(kept["wait"], wait * 3600, "{kept}");
        later(&host, wait * 3600);
    }
    retry(&host);
    // Another kernel, or another cache, is another situation.
    let tables = url(&nginx.url());
    let host = host.with_caches(&[&tables]);
    retry(&host).prints(&[&format!("{}: ready", k())]);
    assert!(record(&host).is_none());
}

#[test]
fn sources_that_nobody_has_tried_are_built_and_failures_are_not_tried_again() {
    let host = Host::new(&[k()]);
    hello(&host, "late");
    broken(&host);
    host.kcache(&["install", "broken", "-k", k()]).exits(4);
    let first = retry(&host).prints(&["hello", "installed"]);
    assert!(!host.modules(k()).is_empty(), "{}", first.shown());
    // Only the failure is left, which nothing but a change of its inputs will mend.
    let second = retry(&host);
    assert_eq!((second.stdout.as_str(), second.stderr.as_str()), ("", ""), "{}", second.shown());
}

#[test]
fn the_initramfs_is_regenerated_where_a_changed_module_belongs_in_it() {
    let (host, cache) = early();
    fill(&cache);
    let root = host.root();
    fs::create_dir_all(root.join("usr/sbin")).unwrap();
    fs::write(root.join("usr/sbin/update-initramfs"), "").unwrap();
    fs::write(root.join(format!("boot/initrd.img-{}", k())), "").unwrap();
    let run = retry(&host).prints(&[&format!("{}: ready", k())]);
    assert!(!run.stderr.contains("update-initramfs"), "{}", run.shown());

    host.kcache(&["remove", "--all"]).exits(0);
    fs::create_dir_all(root.join("etc/initramfs-tools")).unwrap();
    fs::write(root.join("etc/initramfs-tools/modules"), format!("{PACKAGE}\n")).unwrap();
    // Under another root nothing is run.
    retry(&host).says(&[&format!("run `/usr/sbin/update-initramfs -u -k {}`", k())]);
}

#[test]
fn leftovers_of_removed_kernels_and_packages_without_a_cache_are_left_alone() {
    let host = Host::image_only();
    host.write_config(&format!("packages = [{PACKAGE:?}]\n"));
    let run = retry(&host);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "{}", run.shown());
    let host = Host::without_kernels();
    fs::create_dir_all(host.kernel("6.1-gone").join("updates")).unwrap();
    hello(&host, "");
    let run = retry(&host);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "{}", run.shown());
}

/// A builder that has pushed `hello`, and a host without headers that has it installed from there.
fn fetched(cache: &std::path::Path) -> (Builder, Host) {
    let builder = Builder::new("fixer", &[]);
    push(&builder, "1.0", "broken", cache);
    let host = Host::image_only().trusting(&builder);
    host.write_config(&format!("packages = ['hello']\n[[cache]]\n{}\n", url(&at(cache))));
    host.kcache(&["install", "-k", k()]).exits(0);
    (builder, host)
}

fn at(cache: &std::path::Path) -> String {
    format!("file://{}", cache.display())
}

/// Builds and pushes a version of `hello`, in place of the one before.
fn push(builder: &Builder, version: &str, text: &str, cache: &std::path::Path) {
    let source = hello(&builder.host, text);
    let conf = fs::read_to_string(source.join("dkms.conf")).unwrap();
    fs::write(source.join("dkms.conf"), conf.replace("1.0", version)).unwrap();
    fs::rename(&source, source.with_file_name(format!("hello-{version}"))).unwrap();
    builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
    builder.host.kcache(&["push", "--to", &at(cache), "hello", "-k", k()]).exits(0);
}

#[test]
fn a_fixed_package_is_seen_where_caches_are_asked_and_installed_where_that_is_wished() {
    let dir = tempfile::tempdir().unwrap();
    let (builder, host) = fetched(dir.path());
    let state = |words: &[&str]| {
        let json = host.kcache(&[&["--json"], words].concat()).exits(0).json();
        assert_eq!(json["ready"], true);
        json["packages"][0]["kernels"][k()].clone()
    };
    assert_eq!(state(&["check", "--remote"])["state"], "ready", "the newest is installed");
    push(&builder, "1.1", "fixed", dir.path());
    // Nothing here has changed.
    assert_eq!(state(&["check"])["state"], "ready");
    let outdated = state(&["check", "--remote"]);
    assert_eq!(outdated["state"], "outdated");
    let reason =
        format!("a shared cache has 1.1, and 1.0 is installed; `kcache install -k {}` installs it", k());
    assert_eq!(outdated["reason"], reason);
    assert_eq!(state(&["status", "--remote"]), outdated);
    host.kcache(&["status", "--remote"]).exits(0).prints(&["outdated"]).says(&[&reason]);
    host.kcache(&["check", "--remote", "-q"]).exits(0).prints(&["ready: "]);
    for (words, says) in
        [(["check", "--offline"], "no shared cache to ask"), (["status", "-n"], "no dry run")]
    {
        host.kcache(&[&words[..], &["--remote"]].concat()).exits(2).says(&[says]);
    }

    let quiet = retry(&host);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    assert_eq!(host.modinfo(k(), "hello", "description"), "broken");
    let config = host.root().join("etc/kcache/config.toml");
    fs::write(&config, format!("refresh = true\n{}", fs::read_to_string(&config).unwrap())).unwrap();
    retry(&host).says(&["asking again for hello", "fetched hello"]).prints(&[&format!("{}: ready", k())]);
    assert_eq!(host.modinfo(k(), "hello", "description"), "fixed");
    let again = retry(&host);
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("", ""), "{}", again.shown());
    // A cache that is gone changes no verdict.
    fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(state(&["check", "--remote"])["state"], "ready");
}
