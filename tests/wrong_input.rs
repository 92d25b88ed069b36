//! Wrong input: one clear error that names the thing, the documented exit code, and nothing changed.

use crate::host::{FIXTURES, Host, is_root, not_utf8};
use crate::packages::{hello, script, with_makefile};
use fs_err as fs;
use fs_err::os::unix::fs::symlink;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Runs kcache on what is wrong with this host.
#[track_caller]
fn check(host: &Host, arguments: &[&str], exit: i32, words: &[&str]) {
    let before = host.tree();
    host.kcache(arguments).exits(exit).one_error().says(words);
    assert_eq!(before, host.tree());
}

/// Installs `hello`, whose source was made wrong.
#[track_caller]
fn check_source(make_wrong: impl FnOnce(&Path), exit: i32, words: &[&str]) {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "");
    make_wrong(&source);
    check(&host, &["install", "hello", "-k", &FIXTURES.new], exit, words);
}

/// Installs `hello` with this recipe.
#[track_caller]
fn check_recipe(recipe: &str, exit: i32, words: &[&str]) {
    check_source(|source| fs::write(source.join("dkms.conf"), recipe).unwrap(), exit, words);
}

#[test]
fn a_package_that_does_not_exist_is_named_with_the_nearest() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    check(&host, &["install", "helo", "-k", &FIXTURES.new], 2, &["helo", "hello"]);
}

#[test]
fn a_source_directory_that_does_not_exist_is_named() {
    let host = Host::new(&[&FIXTURES.new]);
    check(&host, &["install", "/no/such/source", "-k", &FIXTURES.new], 2, &["/no/such/source"]);
}

#[test]
fn a_source_that_may_not_be_read_is_named() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "");
    let host = host.owned_by_a_user();
    fs::set_permissions(source.join("hello.c"), PermissionsExt::from_mode(0o000)).unwrap();
    check(&host, &["install", "hello", "-k", &FIXTURES.new], 1, &["hello.c", "ermission denied"]);
}

#[test]
fn a_kernel_that_does_not_exist_is_named_with_the_nearest() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let wrong = FIXTURES.new.replace("amd64", "amd46");
    check(&host, &["install", "-k", &wrong], 2, &[&wrong, &FIXTURES.new]);
}

#[test]
fn a_recipe_that_is_not_bash_is_reported_with_the_line() {
    check_recipe("PACKAGE_NAME=hello\nPACKAGE_VERSION=1.0\nif then fi (\n", 4, &["dkms.conf", "line 3"]);
}

#[test]
fn a_recipe_that_loops_for_ever_is_stopped() {
    check_recipe("PACKAGE_NAME=hello\nPACKAGE_VERSION=1.0\nwhile :; do :; done\n", 4, &["dkms.conf"]);
}

#[test]
fn a_recipe_that_sleeps_for_ever_is_stopped() {
    check_recipe("PACKAGE_NAME=hello\nPACKAGE_VERSION=1.0\nsleep infinity\n", 4, &["dkms.conf"]);
}

#[test]
fn a_recipe_that_prints_for_ever_is_stopped() {
    check_recipe("PACKAGE_NAME=hello\nPACKAGE_VERSION=1.0\nyes\n", 4, &["dkms.conf"]);
}

#[test]
fn a_recipe_without_a_name_is_reported() {
    check_recipe("PACKAGE_VERSION=1.0\nBUILT_MODULE_NAME=hello\n", 4, &["dkms.conf", "PACKAGE_NAME"]);
}

#[test]
fn a_recipe_that_names_a_module_it_does_not_build_has_failed() {
    let host = Host::new(&[&FIXTURES.new]);
    with_makefile(
        &host,
        "hello",
        "",
        "obj-m := hello.o\n",
        "BUILT_MODULE_NAME[1]=ghost\nDEST_MODULE_LOCATION[1]=/extra\n",
    );
    check(&host, &["install", "hello", "-k", &FIXTURES.new], 4, &["ghost.ko"]);
}

#[test]
fn a_fifo_in_a_source_tree_is_named() {
    let make = |source: &Path| {
        let fifo = source.join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .unwrap();
    };
    check_source(make, 4, &["hello-1.0/pipe"]);
}

#[test]
fn a_device_in_a_source_tree_is_named() {
    if !is_root() {
        return;
    }
    let make = |source: &Path| {
        let (null, kind) = (rustix::fs::makedev(1, 3), rustix::fs::FileType::CharacterDevice);
        rustix::fs::mknodat(rustix::fs::CWD, source.join("null"), kind, rustix::fs::Mode::RWXU, null)
            .unwrap();
    };
    check_source(make, 4, &["hello-1.0/null"]);
}

#[test]
fn a_link_out_of_a_source_tree_leads_to_what_the_sandbox_shows() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = with_makefile(&host, "hello", "", "obj-m := hello.o\n", "PRE_BUILD=\"look\"\n");
    fs::write(host.dir().join("secret"), "not for builds").unwrap();
    symlink("../../share/doc/hello/README.gz", source.join("README.gz")).unwrap();
    symlink(host.dir().join("secret"), source.join("secret")).unwrap();
    script(&source, "look", "cat secret || echo there is nothing");
    host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(0);
    let log = host.kcache(&["log", "hello", "-k", &FIXTURES.new]).exits(0).prints(&["there is nothing"]);
    assert!(!log.stdout.contains("not for builds"), "{}", log.shown());
}

#[test]
fn a_link_within_a_source_tree_is_fine() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "linked");
    fs::rename(source.join("hello.c"), source.join("hello-linux.c")).unwrap();
    symlink("hello-linux.c", source.join("hello.c")).unwrap();
    host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(0);
}

#[test]
fn a_name_that_is_not_utf8_is_reported() {
    check_source(|source| fs::write(source.join(not_utf8()), "").unwrap(), 4, &["latin-", "UTF-8"]);
}

#[test]
fn a_store_that_may_not_be_written_is_named() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    fs::create_dir(host.store()).unwrap();
    let host = host.owned_by_a_user();
    fs::set_permissions(host.store(), PermissionsExt::from_mode(0o555)).unwrap();
    let store = host.store().display().to_string();
    check(&host, &["install", "hello", "-k", &FIXTURES.new], 1, &[&store]);
}

#[test]
fn a_store_that_is_a_file_is_named() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    fs::write(host.store(), "").unwrap();
    let store = host.store().display().to_string();
    check(&host, &["install", "hello", "-k", &FIXTURES.new], 1, &[&store]);
}

#[test]
fn a_store_of_a_later_format_is_left_alone() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    host.kcache(&["build", "hello", "-k", &FIXTURES.new]).exits(0);
    fs::write(host.store().join("format"), "version 99\n").unwrap();
    check(&host, &["install", "hello", "-k", &FIXTURES.new], 1, &["99"]);
}

#[test]
fn a_store_with_a_corrupt_index_is_indexed_again() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    host.kcache(&["build", "hello", "-k", &FIXTURES.new]).exits(0);
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        fs::write(host.store().join(name), "rubbish").unwrap();
    }
    let run = host.kcache(&["install", "hello", "-k", &FIXTURES.new, "--json"]).exits(0);
    assert_eq!(run.outcome().how.as_deref(), Some("store"));
}

#[test]
fn a_store_that_is_full_is_named_and_nothing_is_installed() {
    if !is_root() {
        return;
    }
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let before = host.tree();
    fs::create_dir(host.store()).unwrap();
    let script = r#"mount -t tmpfs -o mode=755,size=$2 none "$1" && shift 2 && exec "$@""#;
    let store = host.store().display().to_string();
    for size in ["4k", "16k", "64k"] {
        let unshare = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", &store, size];
        let run = host.kcache_under(&unshare, &["install", "hello", "-k", &FIXTURES.new]);
        run.exits(1).one_error().says(&[&store]);
        assert_eq!(before, host.tree(), "{size}");
    }
}

#[test]
fn a_config_with_an_unknown_key_is_reported_with_the_nearest() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    let file = host.dir().join("wrong.toml");
    fs::write(&file, "jbos = 3\n").unwrap();
    check(
        &host,
        &["--config", file.to_str().unwrap(), "install", "hello", "-k", &FIXTURES.new],
        2,
        &["wrong.toml", "jbos", "jobs"],
    );
}

#[test]
fn a_config_that_was_asked_for_and_is_absent_is_named() {
    let host = Host::new(&[&FIXTURES.new]);
    check(&host, &["--config", "/no/such.toml", "status"], 2, &["/no/such.toml"]);
}
