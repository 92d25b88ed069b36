//! `kcache explain`: who made a build, and what shared caches have.

use fs_err as fs;

use crate::builder::{Builder, url};
use crate::host::{FIXTURES, Host};
use crate::packages::hello;

fn k() -> &'static str {
    &FIXTURES.new
}

#[test]
fn builder_signer_time_and_cache_are_named_and_caches_asked_before_nothing_is_said_to_be_there() {
    let builder = Builder::new("builder1", &[]);
    hello(&builder.host, "");
    let cache = builder.cache_url();
    fs::create_dir(builder.cache()).unwrap();
    builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let built = format!("built on {}", name.trim());
    let here = builder.host.kcache(&["explain", "hello", "-k", k()]).exits(0);
    here.prints(&["in the store: built", &format!("{built} (this host), 2"), "; signed by builder1"]);
    builder.host.kcache(&["push", "--to", &cache, "hello", "-k", k()]).exits(0);

    let host = Host::new(&[k()]).trusting(&builder);
    host.write_config(&format!("[[cache]]\n{}\n", url(&cache)));
    let explain = |text: &str, words: &[&str]| {
        hello(&host, text);
        host.kcache(&[words, &["explain", "hello", "-k", k()]].concat()).exits(0)
    };
    let before = host.store().exists();
    explain("", &[]).prints(&[
        &format!("not in the store; {cache} has it: built"),
        &built,
        "signed by builder1",
    ]);
    // Another source: what differs from the nearest build there is.
    let run = explain("changed", &[]).prints(&[
        &format!("not in the store; nearest build, in {cache}: "),
        "source",
        &built,
        "signed by builder1",
    ]);
    assert!(!run.stdout.contains("no other build"), "{}", run.shown());
    assert_eq!(host.store().exists(), before, "it only looks");
    explain("changed", &["--offline"]).prints(&["the store has no other build of this package"]);
    let json = explain("", &["--json"]).json();
    let provenance = &json["provenance"];
    assert_eq!(
        (&provenance["cache"], &provenance["signers"][0]),
        (&cache.into(), &"builder1".into()),
        "{json}"
    );
    // Asked, and there is nothing.
    fs::remove_dir_all(builder.cache().join("entries")).unwrap();
    fs::remove_dir_all(builder.cache().join("by-kernel")).unwrap();
    explain("", &[]).prints(&["neither the store nor a shared cache has another build"]);
}
