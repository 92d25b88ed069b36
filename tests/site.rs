//! The site file: what a builder says that hosts want.

use std::path::Path;

use fs_err as fs;
use serde_json::Value;

use crate::builder::{Builder, url};
use crate::host::{FIXTURES, Host, Run};
use crate::packages::{hello, plain};

fn k() -> &'static str {
    &FIXTURES.new
}

/// A builder with two packages and a site file, which has pushed to a cache.
fn builder(name: &str, cache: &Path, site: &str) -> Builder {
    let builder = Builder::new(name, &[]);
    hello(&builder.host, "");
    plain(&builder.host, "second", "");
    write(&builder, site);
    builder.host.kcache(&["build", "-k", k()]).exits(0);
    push(&builder, cache).exits(0);
    builder
}

fn write(builder: &Builder, site: &str) {
    fs::write(builder.host.root().join("etc/kcache/site.toml"), site).unwrap();
}

fn push(builder: &Builder, cache: &Path) -> Run {
    builder.host.kcache(&["push", "--to", &at(cache), "-k", k()])
}

fn at(cache: &Path) -> String {
    format!("file://{}", cache.display())
}

/// A host that wants what the site wants.
fn host(cache: &Path, more: &str) -> Host {
    let host = Host::image_only();
    host.write_config(&format!("packages = '@site'\n{more}\n[[cache]]\n{}\n", url(&at(cache))));
    host
}

/// The states of the packages, as `check` has them.
fn check(host: &Host, code: i32) -> Vec<(String, String)> {
    let json = host.kcache(&["--json", "check", "-k", k()]).exits(code).json();
    let of = |package: &Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (text(&package["name"]), text(&package["kernels"][k()]["state"]))
    };
    json["packages"].as_array().unwrap().iter().map(of).collect()
}

fn states(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, state)| ((*name).to_owned(), (*state).to_owned())).collect()
}

#[test]
fn hosts_install_what_the_site_file_says_and_keep_the_last_good_one() {
    let cache = tempfile::tempdir().unwrap();
    let builder = builder("builder", cache.path(), "packages = ['hello']\nthreshold = 2\n");
    let host = host(cache.path(), "").trusting(&builder);
    let run = host.kcache(&["install", "-k", k()]).exits(0).prints(&["hello"]);
    let run = run.says(&["fetched hello", "hint: the site's builds have 2 signatures: set `threshold = 2`"]);
    assert!(!run.stdout.contains("second"));
    assert_eq!(check(&host, 0), states(&[("hello", "ready")]));

    // A newer one, by a builder that has nothing new to push.
    write(
        &builder,
        "packages = ['hello', 'second', 'third']\n[[policy]]\npackage = 'third'\nis = 'optional'\n",
    );
    push(&builder, cache.path()).exits(0).says(&["published the site file"]);
    let again = push(&builder, cache.path()).exits(0);
    assert!(!again.stderr.contains("site file"), "{}", again.shown());
    host.kcache(&["install", "-k", k()]).exits(0).says(&["fetched second", "third", "(optional)"]);
    assert_eq!(check(&host, 0), states(&[("hello", "ready"), ("second", "ready"), ("third", "missing")]));

    // The cache is gone, or serves garbage: what is known stays.
    let file = cache.path().join("site.json");
    let good = fs::read(&file).unwrap();
    for bytes in [None, Some(&b"{}"[..])] {
        bytes.map_or_else(|| fs::remove_file(&file).unwrap(), |bytes| fs::write(&file, bytes).unwrap());
        host.kcache(&["install", "-k", k()]).exits(0).says(&["third"]);
    }
    fs::write(&file, good).unwrap();
    // What a host says itself counts last.
    let config = host.root().join("etc/kcache/config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}[[policy]]\npackage = 'third'\nis = 'required'\n")).unwrap();
    assert_eq!(check(&host, 3).len(), 3);
}

#[test]
fn an_air_gapped_host_gets_the_site_file_with_an_export_of_everything() {
    let cache = tempfile::tempdir().unwrap();
    let builder = builder("builder", cache.path(), "packages = ['hello']\n");
    let file = cache.path().join("all.tar");
    let export =
        |words: &[&str]| builder.host.kcache(&[&["export", file.to_str().unwrap()], words].concat()).exits(0);
    let chosen = export(&["hello", "-k", k()]);
    assert!(!chosen.stderr.contains("site file"), "{}", chosen.shown());
    export(&[]).says(&["exported 2 entries, 4 objects and the site file"]);
    let host = Host::image_only().trusting(&builder);
    host.write_config("packages = '@site'\n");
    host.kcache(&["install", "-k", k()]).exits(3).says(&["fetched or imported yet"]);
    let import = || host.kcache(&["--json", "import", file.to_str().unwrap()]).exits(0);
    assert_eq!(import().says(&["pointers and the site file"]).json()["site"], true);
    assert_eq!(import().json()["site"], false);
    host.kcache(&["install", "-k", k()]).exits(0).prints(&["hello", "from the store"]);
    assert_eq!(check(&host, 0), states(&[("hello", "ready")]));
    // What no trusted key signed is not accepted.
    let stranger = Builder::new("stranger", &[]);
    let other = Host::image_only().trusting(&stranger);
    other.kcache(&["import", file.to_str().unwrap()]).exits(6).says(&["site.json"]);
}

#[test]
fn an_older_site_file_is_not_followed() {
    let cache = tempfile::tempdir().unwrap();
    let builder = builder("builder", cache.path(), "packages = ['hello']\n");
    let old = fs::read(cache.path().join("site.json")).unwrap();
    write(&builder, "packages = ['hello', 'second']\n");
    push(&builder, cache.path()).exits(0);
    let host = host(cache.path(), "").trusting(&builder);
    host.kcache(&["install", "-k", k()]).exits(0);
    fs::write(cache.path().join("site.json"), old).unwrap();
    host.kcache(&["install", "-k", k()]).exits(0).says(&["ignoring site.json", "possible rollback attack"]);
    assert_eq!(check(&host, 0).len(), 2);
    host.kcache(&["install", "--allow-rollback", "-k", k()]).exits(0);
    assert_eq!(
        check(&host, 0),
        states(&[("hello", "ready"), ("second", "ready")]),
        "what is installed stays"
    );
}

#[test]
fn without_a_trusted_site_file_no_kernel_is_ready_and_one_line_says_why() {
    let cache = tempfile::tempdir().unwrap();
    let empty = tempfile::tempdir().unwrap();
    let builder = builder("builder", cache.path(), "packages = ['hello']\n");
    let stranger = Builder::new("stranger", &[]);
    let install = |host: &Host, why: &str| {
        let run = host.kcache(&["install", "-k", k()]).exits(3).says(&["no site file is known: ", why]);
        assert_eq!(run.stderr.matches("@site").count(), 1, "{}", run.shown());
        host.kcache(&["check", "-k", k()]).exits(3).says(&["no site file is known"]);
        host.kcache(&["check", "-q", "-k", k()]).exits(3).prints(&["no site file is known"]);
        host.kcache(&["hooks", "run", "kernel-installed", k()]).exits(0).says(&["do not reboot"]);
    };
    install(&host(cache.path(), ""), "no key is trusted");
    let distrusting = host(cache.path(), "").trusting(&stranger);
    install(&distrusting, "not signed by a trusted key");
    install(&host(empty.path(), "").trusting(&builder), "no shared cache has one");
    // Named packages need none.
    distrusting.kcache(&["install", "hello", "-k", k()]).exits(5);
    // A key that is trusted later makes it known.
    let trusting = distrusting.trusting(&builder);
    trusting.kcache(&["hooks", "run", "retry"]).exits(0).says(&["fetched hello"]);
    assert_eq!(check(&trusting, 0), states(&[("hello", "ready")]));
    // One that is distrusted afterwards takes its word along.
    trusting.kcache(&["keys", "revoke", "builder"]).exits(0);
    trusting.kcache(&["check", "-k", k()]).exits(3).says(&["no site file is known"]);
}

#[test]
fn two_builders_sign_the_same_site_file_and_none_replaces_a_strangers() {
    let cache = tempfile::tempdir().unwrap();
    let one = builder("one", cache.path(), "packages = ['hello']\n");
    let two = builder("two", cache.path(), "packages = ['hello']\n");
    let host = host(cache.path(), "threshold = 2").trusting(&one).trusting(&two);
    host.kcache(&["install", "-k", k()]).exits(0).says(&["fetched hello"]);
    write(&two, "packages = []\n");
    let before = fs::read(cache.path().join("site.json")).unwrap();
    // Its own key is among those that signed it.
    push(&two, cache.path()).exits(0).says(&["published the site file"]);
    assert_ne!(before, fs::read(cache.path().join("site.json")).unwrap());
    write(&one, "packages = ['second']\n");
    push(&one, cache.path()).exits(0).says(&["a builder whose key is not trusted here"]);
}

#[test]
fn a_site_file_with_mistakes_is_not_published() {
    let cache = tempfile::tempdir().unwrap();
    let builder = builder("builder", cache.path(), "packages = ['hello']\n");
    for text in ["packages = ['a b']\n", "pakages = []\n", "[[policy]]\nis = 'nice'\n"] {
        write(&builder, text);
        push(&builder, cache.path()).exits(2).one_error().says(&["etc/kcache/site.toml"]);
    }
}
