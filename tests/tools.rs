//! Other tools than those a module was built with: what an update of the kernel's own build programs or of the compiler does to what is
//! installed, and which builds of other hosts are used.

use std::io::Write;
use std::path::PathBuf;

use fs_err as fs;
use kcache::store::Role;
use serde_json::Value;

use crate::builder::{Builder, url};
use crate::host::{FIXTURES, Host, Run};
use crate::packages::{dkms_conf, hello, module_c, with_makefile};

fn k() -> &'static str {
    &FIXTURES.new
}

/// A program of kbuild's, as the kernel's build tree leads to it.
fn modpost(host: &Host) -> PathBuf {
    let link = fs::read_link(host.headers(k()).join("scripts")).unwrap();
    let scripts = match link.is_absolute() {
        true => host.root().join(link.strip_prefix("/").unwrap()),
        false => host.headers(k()).join(link),
    };
    scripts.join("mod/modpost")
}

/// What an update of kbuild does that changes what a program is, and not what it makes: ELF ends with its tables.
pub fn update_kbuild(host: &Host) {
    fs::OpenOptions::new().append(true).open(modpost(host)).unwrap().write_all(b"other").unwrap();
}

/// One more header, which no package includes.
fn add_header(host: &Host) {
    fs::write(host.headers(k()).join("include/unrelated.h"), "").unwrap();
}

fn with_hello() -> Host {
    let host = Host::new(&[k()]);
    hello(&host, "");
    host
}

fn json(host: &Host, words: &[&str]) -> Value {
    serde_json::from_str(&host.kcache(&[&["--json"], words].concat()).stdout).unwrap()
}

fn generation(host: &Host) -> Value {
    json(host, &["status", "-k", k()])["kernels"][0]["generation"].clone()
}

/// How the package stands for the kernel, for programs.
fn standing(host: &Host) -> Value {
    json(host, &["check", "-k", k()])["packages"][0]["kernels"][k()].clone()
}

fn how(host: &Host, words: &[&str]) -> String {
    host.kcache(&[&["--json"], words, &["hello", "-k", k()]].concat())
        .exits(0)
        .outcome()
        .how
        .unwrap_or_default()
}

#[test]
fn an_update_of_kbuild_leaves_what_is_installed_ready_and_alone() {
    let host = with_hello();
    host.kcache(&["install", "hello", "-k", k()]).exits(0);
    let before = (generation(&host), host.tree());
    update_kbuild(&host);
    host.kcache(&["check", "-k", k()]).exits(0).prints(&["ready"]);
    host.kcache(&["check", "-v", "-k", k()]).exits(0).says(&["was built with other tools: toolchain.kbuild"]);
    let found = standing(&host);
    assert_eq!((&found["state"], &found["changed"]), (&"ready".into(), &Value::Array(vec![])));
    assert_eq!(found["tools_changed"], Value::from(vec!["toolchain.kbuild"]));
    host.kcache(&["explain", "hello", "-k", k()]).exits(0).prints(&[
        "M ",
        "scripts/mod/modpost",
        "--refresh-tools",
    ]);
    let run = host.kcache(&["install", "-k", k()]).exits(0).says(&["nothing to change"]);
    assert!(!run.stderr.contains("building"), "{}", run.shown());
    assert_eq!((generation(&host), host.tree()), before);
}

#[test]
fn what_is_installed_is_left_alone_whatever_the_setting_says() {
    let host = with_hello();
    host.write_config("other-tools = \"never\"\n");
    host.kcache(&["install", "hello", "-k", k()]).exits(0);
    let before = (generation(&host), host.tree());
    update_kbuild(&host);
    assert_eq!(standing(&host)["state"], "ready");
    let run = host.kcache(&["install", "-k", k()]).exits(0).says(&["nothing to change"]);
    assert!(!run.stderr.contains("building"), "{}", run.shown());
    assert_eq!((generation(&host), host.tree()), before);
}

#[test]
fn a_build_by_exactly_this_hosts_tools_goes_before_one_by_others_and_explain_says_which() {
    let host = with_hello();
    let explain = || host.kcache(&["explain", "hello", "-k", k()]).exits(0);
    host.kcache(&["build", "hello", "-k", k()]).exits(0);
    explain().prints(&["in the store: built"]);
    update_kbuild(&host);
    explain().prints(&["it differs in its tools only, as far as `other-tools` allows"]);
    let nearest = json(&host, &["explain", "hello", "-k", k()])["nearest"].clone();
    assert_eq!(nearest["stands_in"], "other-tools");
    let run = host.kcache(&["build", "hello", "-k", k()]).exits(0);
    assert!(
        !run.says(&["hello/1.0 for", "using a build by other tools: kbuild"]).stderr.contains("building")
    );
    let exact =
        host.kcache(&["--json", "build", "--refresh-tools", "hello", "-k", k()]).exits(0).outcome().key;
    assert!(exact != nearest["key"].as_str().map(str::to_owned));
    let run = host.kcache(&["--json", "install", "hello", "-k", k()]).exits(0);
    assert_eq!(run.outcome().key, exact, "{}", run.shown());
    explain().prints(&["in the store: built"]);
}

#[test]
fn of_a_tree_that_differs_in_many_files_twenty_are_named_and_the_rest_is_counted() {
    let host = with_hello();
    host.kcache(&["build", "hello", "-k", k()]).exits(0);
    for number in 0..25 {
        fs::write(host.root().join(format!("usr/src/hello-1.0/more{number:02}.h")), "").unwrap();
    }
    let run = host.kcache(&["explain", "hello", "-k", k()]).exits(0).prints(&["and 5 more files"]);
    let named: Vec<&str> = run.stdout.lines().filter_map(|line| line.trim().strip_prefix("A ")).collect();
    let expect: Vec<String> = (0..20).map(|number| format!("more{number:02}.h")).collect();
    assert_eq!(named, expect);
    let nearest = json(&host, &["explain", "hello", "-k", k()])["nearest"].clone();
    let source = &nearest["differences"][0];
    assert_eq!(
        (source["files"].as_array().unwrap().len(), &source["files_total"]),
        (20, &25.into()),
        "{source}"
    );
}

#[test]
fn a_change_of_tools_and_of_something_else_names_what_matters() {
    let host = with_hello();
    host.kcache(&["install", "hello", "-k", k()]).exits(0);
    update_kbuild(&host);
    fs::write(host.root().join("usr/src/hello-1.0/README"), "more").unwrap();
    let found = standing(&host);
    assert_eq!(found["state"], "stale");
    assert_eq!(found["changed"], Value::from(vec!["source"]));
    assert_eq!(found["tools_changed"], Value::from(vec!["toolchain.kbuild"]));
}

#[test]
fn refreshed_tools_that_make_the_same_bits_change_nothing_installed() {
    let host = with_hello();
    host.kcache(&["install", "hello", "-k", k()]).exits(0);
    update_kbuild(&host);
    let before = (generation(&host), host.tree());
    let run = host.kcache(&["install", "--refresh-tools", "hello", "-k", k()]).exits(0);
    run.says(&["building hello", "has the modules that are installed", "nothing to change"]);
    assert_eq!((generation(&host), host.tree()), before);
    assert_eq!(how(&host, &["install", "--refresh-tools"]), "store");
}

#[test]
fn a_change_that_comes_to_the_same_bits_installs_nothing_and_is_ready() {
    let host = with_hello();
    host.kcache(&["install", "hello", "-k", k()]).exits(0);
    let before = (generation(&host), host.tree());
    add_header(&host);
    assert_eq!(standing(&host)["state"], "stale");
    host.kcache(&["explain", "hello", "-k", k()]).exits(0).prints(&["A ", "include/unrelated.h"]);
    host.kcache(&["install", "-k", k()])
        .exits(0)
        .says(&["building hello", "has the modules that are installed"]);
    assert_eq!((generation(&host), host.tree()), before);
    assert_eq!(standing(&host)["state"], "ready");
    // And it stays so, whatever is collected.
    host.kcache(&["gc", "--max-size", "1", "--grace", "0s"]).exits(0);
    assert_eq!(standing(&host)["state"], "ready");
    let run = host.kcache(&["install", "-k", k()]).exits(0);
    assert!(!run.stderr.contains("building"), "{}", run.shown());
}

#[test]
fn a_build_by_another_kbuild_is_fetched_as_setting_and_trust_allow() {
    let builder = Builder::new("kin", &[]);
    let cache = builder.cache_url();
    fs::create_dir(builder.cache()).unwrap();
    hello(&builder.host, "");
    builder.host.write_config(&format!("[[cache]]\n{}\nwrite = true\n", url(&cache)));
    builder.host.kcache(&["build", "hello", "-k", k()]).exits(0).says(&["pushed hello/"]);
    let host = |setting: &str| {
        let host = with_hello().trusting(&builder);
        host.write_config(&format!("other-tools = \"{setting}\"\n[[cache]]\n{}\n", url(&cache)));
        update_kbuild(&host);
        host
    };
    for setting in ["kbuild", "same-compiler"] {
        let fetching = host(setting);
        let run = fetching.kcache(&["--json", "install", "--verify", "hello", "-k", k()]).exits(0);
        assert_eq!(run.outcome().how.as_deref(), Some("shared-cache"), "{setting}");
        run.says(&["using a build by other tools: kbuild", "building hello"]);
        fetching.kcache(&["check", "-k", k()]).exits(0);
        // Others are let have only what this host would have made itself.
        assert_eq!(how(&fetching, &["install", "--refresh-tools"]), "built");
    }
    assert_eq!(how(&host("never"), &["install"]), "built");
    // Nor is one that a stranger signed.
    let untrusting = with_hello();
    untrusting.write_config(&format!("[[cache]]\n{}\n", url(&cache)));
    update_kbuild(&untrusting);
    assert_eq!(how(&untrusting, &["install"]), "built");
    // Another source is no kin.
    let edited = host("same-compiler");
    fs::write(edited.root().join("usr/src/hello-1.0/README"), "more").unwrap();
    assert_eq!(how(&edited, &["install"]), "built");
}

#[test]
fn a_builders_own_store_leads_hosts_with_another_kbuild_to_its_builds() {
    let builder = Builder::new("kin", &[]);
    hello(&builder.host, "");
    builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
    let client = with_hello().trusting(&builder);
    client.write_config(&format!("[[cache]]\nurl = \"file://{}\"\n", builder.host.store().display()));
    update_kbuild(&client);
    assert_eq!(how(&client, &["install"]), "shared-cache");
}

#[test]
fn a_fetched_build_by_other_tools_that_the_kernel_should_not_get_is_refused() {
    let builder = Builder::new("kin", &[]);
    fs::create_dir(builder.cache()).unwrap();
    hello(&builder.host, "");
    builder.host.kcache(&["build", "hello", "-k", k()]).exits(0);
    builder.forge(|manifest| {
        let mut other = manifest.outputs.iter().find(|output| output.role == Role::Module).unwrap().clone();
        other.name = "ext4.ko".to_owned();
        manifest.outputs.push(other);
    });
    builder.host.kcache(&["push", "--to", &builder.cache_url(), "--all"]).exits(0);
    let client = with_hello().trusting(&builder);
    client.write_config(&format!("[[cache]]\n{}\n", url(&builder.cache_url())));
    update_kbuild(&client);
    let run = client.kcache(&["--json", "install", "hello", "-k", k()]).exits(0);
    assert_eq!(run.outcome().how.as_deref(), Some("built"), "{}", run.shown());
    run.says(&["refusing the build from", "ext4.ko is not named by its recipe"]);
    assert_eq!(client.modules(k()).into_keys().collect::<Vec<_>>(), ["hello/hello.ko"]);
}

#[test]
fn what_is_found_is_built_again_and_compared_where_that_is_asked_for() {
    let host = with_hello();
    host.kcache(&["build", "hello", "-k", k()]).exits(0);
    host.kcache(&["build", "--verify", "hello", "-k", k()]).exits(0).says(&["building hello"]);
    let mut command = host.command(&["install", "hello", "-k", k()]);
    let run = Run::from(command.env("KCACHE_VERIFY", "1").output().unwrap()).exits(0);
    run.says(&["building hello"]);
    // One whose bits are others each time.
    let makefile = "obj-m := chance.o\nall:\n\tod -An -N8 -tx1 /dev/urandom | sed 's/.*/MODULE_INFO(chance, \"&\");/' >>chance.c\n\t$(MAKE) -C $(K) M=$(CURDIR) modules\n";
    with_makefile(&host, "chance", "", makefile, "MAKE=\"make all K=$kernel_source_dir\"\n");
    host.kcache(&["build", "chance", "-k", k()]).exits(0);
    let run = host
        .kcache(&["install", "--verify", "chance", "-k", k()])
        .exits(7)
        .says(&["not reproducible: chance.ko"]);
    assert!(!host.modules(k()).contains_key("chance/chance.ko"), "{}", run.shown());
}

/// A version of `multi` that is for kernels of one release alone.
fn version_for(host: &Host, version: &str, kernel: &str) {
    let conf =
        format!("BUILD_EXCLUSIVE_KERNEL=\"^{}$\"\n", kernel.replace('.', "\\\\.").replace('+', "\\\\+"));
    let files = [
        ("dkms.conf", dkms_conf("multi", version, &conf)),
        ("Makefile", "obj-m := multi.o\n".to_owned()),
        ("multi.c", module_c(version)),
    ];
    host.write_package(&format!("multi-{version}"), &files);
}

#[test]
fn each_kernel_gets_the_newest_version_that_is_meant_for_it() {
    let (older, newer) = (FIXTURES.old.as_str(), k());
    let host = Host::new(&[older, newer]);
    version_for(&host, "1.9", older);
    version_for(&host, "1.10", newer);
    host.kcache(&["install", "-k", "all"])
        .exits(0)
        .prints(&["multi/1.9  installed", "multi/1.10  installed"]);
    assert_eq!(host.modinfo(older, "multi", "description"), "1.9");
    assert_eq!(host.modinfo(newer, "multi", "description"), "1.10");
    host.kcache(&["check", "-k", "all"]).exits(0).prints(&["multi/1.9", "multi/1.10"]);
    host.kcache(&["status"]).exits(0).prints(&["ready 1.9", "ready 1.10"]);
    host.kcache(&["install", "-k", "all"]).exits(0).says(&["nothing to change"]);
    // Who names a version means that one.
    host.kcache(&["install", "multi/1.10", "-k", older]).exits(0).prints(&["excluded"]);
    assert_eq!(host.modinfo(older, "multi", "description"), "1.9");
    // Where none is meant, each says why.
    fs::remove_dir_all(host.root().join("usr/src/multi-1.9")).unwrap();
    version_for(&host, "1.8", "5.10.0");
    host.kcache(&["remove", "multi", "-k", older]).exits(0);
    let run = host.kcache(&["check", "-v", "-k", older]).exits(0);
    run.prints(&["excluded", "1.10: ", "1.8: "]);
}

#[test]
fn an_older_version_replaces_a_newer_one_whose_source_was_removed() {
    let host = Host::new(&[k()]);
    let source = |version: &str| host.root().join(format!("usr/src/multi-{version}"));
    version_for(&host, "1.9", k());
    version_for(&host, "1.10", k());
    host.kcache(&["install", "-k", k()]).exits(0).prints(&["multi/1.10  installed"]);
    fs::remove_dir_all(source("1.10")).unwrap();
    // Nothing is said to be right that is not, and nothing changes before somebody installs.
    host.kcache(&["check", "-k", k()]).exits(3).prints(&["multi/1.9  stale", "source"]);
    assert_eq!(host.modinfo(k(), "multi", "description"), "1.10");
    host.kcache(&["install", "-k", k()]).exits(0).prints(&["multi/1.9  installed"]);
    assert_eq!(host.modinfo(k(), "multi", "description"), "1.9");
    assert_eq!(host.modules(k()).into_keys().collect::<Vec<_>>(), ["multi/multi.ko"]);
    // Without any source it stays, also where others are installed, until somebody removes it.
    fs::remove_dir_all(source("1.9")).unwrap();
    hello(&host, "");
    host.kcache(&["install", "-k", k()]).exits(0);
    assert_eq!(host.modules(k()).into_keys().collect::<Vec<_>>(), ["hello/hello.ko", "multi/multi.ko"]);
    host.kcache(&["check", "-k", k()]).exits(0).prints(&["multi", "inputs not compared: no source"]);
    host.kcache(&["remove", "multi", "-k", k()]).exits(0);
    assert_eq!(host.modules(k()).into_keys().collect::<Vec<_>>(), ["hello/hello.ko"]);
}

#[test]
fn what_is_installed_of_a_version_that_is_gone_is_named_where_no_other_is_meant() {
    let host = Host::new(&[k()]);
    version_for(&host, "1.9", k());
    host.kcache(&["install", "-k", k()]).exits(0);
    fs::remove_dir_all(host.root().join("usr/src/multi-1.9")).unwrap();
    version_for(&host, "1.10", "5.10.0");
    host.kcache(&["check", "-k", k()]).exits(0).prints(&["excluded", "1.9 is still installed"]);
    let again = host.kcache(&["install", "-k", k()]).exits(0);
    again.says(&["warning", "multi/1.9 is still installed", &format!("kcache remove multi -k {}", k())]);
    assert_eq!(host.modinfo(k(), "multi", "description"), "1.9");
    host.kcache(&["remove", "multi", "-k", k()]).exits(0);
    let run = host.kcache(&["check", "-k", k()]).exits(0).prints(&["excluded"]);
    assert!(!run.stdout.contains("still installed"), "{}", run.shown());
}

#[test]
fn a_failure_for_want_of_something_counts_until_that_is_there() {
    let host = Host::new(&[k()]);
    // The log says that a header is missing; one of them is on every host with a C library.
    for (name, header) in [("lacking", "of-no-package.h"), ("served", "stdio.h")] {
        let makefile =
            format!("all:\n\t@echo 'tool.c:1:10: fatal error: {header}: No such file or directory'; false\n");
        with_makefile(&host, name, "", &makefile, "MAKE=\"make all\"\n");
    }
    let how = |name: &str| {
        let run = host.kcache(&["--json", "build", name, "-k", k()]).exits(4);
        (run.outcome().how.unwrap_or_default(), run.stderr.contains("header stdio.h, which is there now"))
    };
    assert_eq!(how("lacking"), ("built".to_owned(), false));
    assert_eq!(how("lacking"), ("failure-remembered".to_owned(), false));
    assert_eq!(how("served"), ("built".to_owned(), false));
    host.kcache(&["check", "served", "-k", k()]).exits(3).prints(&["missing", "is there now"]);
    assert_eq!(how("served"), ("built".to_owned(), true));
}
