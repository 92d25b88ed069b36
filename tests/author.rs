//! For who writes packages: `init` and `lint`, on real packages and small ones.

use fs_err as fs;

use fs_err::os::unix::fs::symlink;
use std::process::Command;

use crate::host::{FIXTURES, Host, run};
use crate::packages::{hello, insists_on_uname, module_c, with_makefile};

/// What a package builds for the newest kernel: its modules' digests, by name.
fn built(host: &Host, package: &str) -> Vec<String> {
    host.kcache(&["install", package, "-k", &FIXTURES.new]).exits(0);
    let digest = |(name, path): (String, std::path::PathBuf)| {
        format!("{name} {}", blake3::hash(&fs::read(path).unwrap()))
    };
    host.modules(&FIXTURES.new).into_iter().map(digest).collect()
}

/// The recipe as it enters the key, without the words around its variables.
fn recipe(host: &Host, package: &str) -> serde_json::Value {
    let run = host.kcache(&["explain", package, "-k", &FIXTURES.new, "--json"]).exits(0).json();
    let fields = run["fields"].as_array().unwrap();
    let text =
        fields.iter().find(|field| field["name"] == "recipe").unwrap()["value"].as_str().unwrap().to_owned();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A command with its variables replaced, as bash would.
fn expanded(command: &str, name: &str, version: &str) -> String {
    let build = format!("/lib/modules/{}/build", FIXTURES.new);
    command
        .replace("$kernel_source_dir", &build)
        .replace("$kernelver", &FIXTURES.new)
        .replace("$dkms_tree", "/var/lib/dkms")
        .replace("$module_version", version)
        .replace("$module", name)
}

/// What a recipe does and promises: commands that make, and modules.
fn meaning(recipe: &serde_json::Value) -> (Vec<String>, serde_json::Value) {
    let (name, version) = (recipe["name"].as_str().unwrap(), recipe["version"].as_str().unwrap());
    let command = |step: &serde_json::Value| {
        let command = expanded(step["command"].as_str().unwrap(), name, version);
        let command = command.trim_end_matches(" || true").trim_end_matches(" modules").to_owned();
        command.replacen(&format!(" KERNELRELEASE={}", FIXTURES.new), "", 1)
    };
    let plain_clean =
        format!("make -C /lib/modules/{}/build M=/var/lib/dkms/{name}/{version}/build clean", FIXTURES.new);
    let steps =
        recipe["steps"].as_array().unwrap().iter().map(command).filter(|command| *command != plain_clean);
    (steps.collect(), recipe["modules"].clone())
}

#[test]
fn a_dkms_conf_becomes_a_kcache_toml_that_builds_the_same_bits() {
    for package in ["acpi-call", "bbswitch"] {
        let host = Host::new(&[&FIXTURES.new]).with_packages(&[package]);
        let source = fs::read_dir(host.root().join("usr/src"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.join("dkms.conf").exists())
            .unwrap();
        let before = built(&host, package);
        host.kcache(&["init", source.to_str().unwrap()]).exits(0).says(&["wrote", "kcache.toml"]);
        assert!(fs::read_to_string(source.join("kcache.toml")).unwrap().starts_with("name = "));
        assert_eq!(built(&host, package), before);
    }
}

#[test]
fn a_converted_kcache_toml_means_the_same_as_the_real_recipe() {
    let packages = ["acpi-call", "bbswitch", "v4l2loopback", "dm-writeboost", "jool", "xtables-addons"];
    let host = Host::new(&[&FIXTURES.new]).with_packages(&packages);
    let sources = fs::read_dir(host.root().join("usr/src")).unwrap().map(|entry| entry.unwrap().path());
    for source in sources.filter(|path| path.join("dkms.conf").exists()) {
        let source = source.to_str().unwrap();
        let before = meaning(&recipe(&host, source));
        host.kcache(&["init", source]).exits(0);
        assert_eq!(meaning(&recipe(&host, source)), before, "{source}");
    }
}

#[test]
fn a_source_tree_becomes_a_package_with_its_modules() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = host.write_package(
        "new",
        &[
            ("Kbuild", "obj-m := one.o sub/\n".to_owned()),
            ("one.c", format!("{}MODULE_VERSION(\"2.5\");\n", module_c("one"))),
            ("sub/Kbuild", "obj-m += two.o\ntwo-y := a.o b.o\n".to_owned()),
            ("sub/a.c", module_c("two")),
            ("sub/b.c", String::new()),
        ],
    );
    let source = source.to_str().unwrap();
    let run = host.kcache(&["init", source, "--dry-run"]).exits(0);
    let expect = "name = \"new\"\nversion = \"2.5\"\n\n[[module]]\nname = \"one\"\n\n[[module]]\nname = \"two\"\npath = \"sub\"\n";
    assert_eq!(run.stdout, expect);
    assert!(!host.root().join("usr/src/new/kcache.toml").exists());
    host.kcache(&["init", source]).exits(0);
    host.kcache(&["install", source, "-k", &FIXTURES.new]).exits(0);
    let modules: Vec<String> = host.modules(&FIXTURES.new).into_keys().collect();
    assert_eq!(modules.len(), 2, "{modules:?}");
}

#[test]
fn init_replaces_nothing_unasked_and_names_what_is_missing() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "x");
    let own = source.join("kcache.toml");
    fs::write(&own, "name = 'mine'\nversion = '1'\n").unwrap();
    let init = ["init", source.to_str().unwrap()];
    host.kcache(&init).exits(2).one_error();
    assert!(fs::read_to_string(&own).unwrap().contains("mine"));
    let run = host.kcache(&[&init[..], &["--force", "--json"]].concat()).exits(0).json();
    assert_eq!(
        (run["from"].as_str(), run["kernels"][0].as_str()),
        (Some("dkms.conf"), Some(FIXTURES.new.as_str()))
    );
    assert!(fs::read_to_string(&own).unwrap().contains("hello"));
    let empty = host.write_package("empty", &[("README", String::new())]);
    host.kcache(&["init", empty.to_str().unwrap()]).exits(2).one_error();
    let bare = Host::without_headers(&FIXTURES.new);
    let source = hello(&bare, "x");
    bare.kcache(&["init", source.to_str().unwrap()]).exits(5).one_error().says(&["headers"]);
}

/// A source of somebody else's, in which the recipe is a link to where only root can write.
#[test]
fn init_writes_to_its_directory_and_to_nothing_that_a_link_in_it_leads_to() {
    let host = Host::new(&[]);
    let source = host.dir().join("theirs");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("Makefile"), "obj-m := theirs.o\n").unwrap();
    fs::write(source.join("theirs.c"), "").unwrap();
    let device = host.dir().join("device");
    run(Command::new("mkfifo").arg(&device));
    // Somebody has to be at the other end, or nobody could be written to.
    let _reader = fs::OpenOptions::new().read(true).write(true).open(&device).unwrap();
    for target in [host.dir().join("nothing"), device.clone()] {
        let link = source.join("kcache.toml");
        symlink(&target, &link).unwrap();
        host.kcache(&["init", source.to_str().unwrap()]).exits(2).says(&["already exists"]);
        host.kcache(&["init", "--force", source.to_str().unwrap()]).exits(0);
        assert!(!link.is_symlink() && fs::read_to_string(&link).unwrap().contains("theirs"), "{target:?}");
        fs::remove_file(&link).unwrap();
    }
    assert!(!host.dir().join("nothing").exists());
}

#[test]
fn lint_ends_with_3_for_a_warning_where_it_is_strict_and_the_rule_is_not_allowed() {
    let host = Host::new(&[&FIXTURES.new]);
    let clean = hello(&host, "x");
    host.kcache(&["lint", clean.to_str().unwrap()]).exits(0);
    insists_on_uname(&host);
    host.kcache(&["lint", "running"]).exits(0);
    host.kcache(&["lint", "running", "--strict"]).exits(3);
    host.kcache(&["lint", "running", "--strict", "--allow", "uname-r"]).exits(0);
    host.kcache(&["lint", "running", "--allow", "uname"]).exits(2).one_error();
}

#[test]
fn lint_ends_with_3_for_an_error_and_its_json_has_every_word() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = with_makefile(&host, "hello", "x", "obj-m := hello.o\n", "");
    fs::write(source.join("hello.c"), "int x;\n").unwrap();
    let finding = host.kcache(&["lint", "hello", "--json"]).exits(3).json();
    let file = source.join("hello.c");
    let expect = serde_json::json!({
        "type": "finding", "package": "hello", "version": "1.0", "rule": "no-license", "severity": "error",
        "file": file.to_str().unwrap(), "line": null, "what": "no source of module hello has MODULE_LICENSE",
        "why": "modpost refuses a module without one", "instead": "MODULE_LICENSE(\"GPL\") in one of its sources",
    });
    assert_eq!(finding, expect);
}

#[test]
fn lint_without_headers_reports_what_it_did_not_check() {
    let host = Host::without_headers(&FIXTURES.new);
    insists_on_uname(&host);
    let run = host.kcache(&["lint", "running"]).exits(0).says(&["warning: no kernel with headers"]);
    assert_eq!(run.stdout, "");
}
