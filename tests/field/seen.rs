//! What a build sees of the system.

use std::os::unix::fs::PermissionsExt;

use fs_err as fs;
use fs_err::os::unix::fs::symlink;

use super::{append, host, is_installed, k, put, with_conf};
use crate::host::Host;
use crate::packages::{module_c, plain, script, with_makefile};

/// The states of packages by name, for the one kernel.
fn states(host: &Host) -> Vec<(String, String)> {
    let document = host.kcache(&["status", "--json"]).exits(0).json();
    let state = |package: &serde_json::Value| {
        let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        (word(&package["name"]), word(&package["kernels"][k()]["state"]))
    };
    document["packages"].as_array().unwrap().iter().map(state).collect()
}

fn stale(host: &Host) -> Vec<String> {
    let found = states(host).into_iter().filter(|(_, state)| state != "ready");
    found.map(|(name, state)| format!("{name} {state}")).collect()
}

#[test]
fn release_files_are_the_targets_and_part_of_the_key_of_packages_that_mention_them() {
    let host = host();
    put(&host, "etc/redhat-release", "Rocky Linux release 9.5\n");
    put(&host, "etc/os-release", "ID=rocky\n");
    put(&host, "etc/debian_version", "12.1\n");
    symlink("redhat-release", host.root().join("etc/system-release")).unwrap();
    let test = |name: &str, condition: &str| {
        let makefile = format!("ifeq ({condition},)\n$(error not here)\nendif\nobj-m := {name}.o\n");
        with_makefile(&host, name, "", &makefile, "");
    };
    test("wildcard", "$(wildcard /etc/redhat-release)");
    test("globs", "$(shell cat /etc/*elease | grep rocky)");
    test("grep", "$(shell grep rocky /etc/os-release)");
    test("link", "$(shell grep Rocky /etc/system-release)");
    test("version", "$(shell cat /etc/debian_version)");
    plain(&host, "plain", "");
    with_conf(&host, "conf", "[ -e /etc/redhat-release ] || exit 1");
    host.kcache(&["install"]).exits(0);
    host.kcache(&["explain", "grep", "-k", k()]).exits(0).prints(&["system.release"]);
    host.kcache(&["check"]).exits(0);

    put(&host, "etc/os-release", "ID=rocky\nVERSION_ID=9.6\n");
    host.kcache(&["check"]).exits(3).prints(&["changed: system.release"]);
    let expect = ["conf", "globs", "grep", "link", "version", "wildcard"].map(|name| format!("{name} stale"));
    assert_eq!(stale(&host), expect);
    host.kcache(&["install"]).exits(0);
    assert_eq!(stale(&host), Vec::<String>::new());
}

#[test]
fn a_build_sees_the_system_map_where_it_mentions_it() {
    let host = host();
    let map = format!("boot/System.map-{}", k());
    put(&host, &map, "ffffffff81000000 T wanted_symbol\n");
    let source = with_conf(
        &host,
        "snap",
        "MAKE=\"./gen $kernelver && make -C $kernel_source_dir M=$dkms_tree/snap/1.0/build\"",
    );
    script(&source, "gen", "grep -q wanted_symbol /boot/System.map-$1");
    plain(&host, "plain", "");
    host.kcache(&["install"]).exits(0);
    append(&host.root().join(map), "ffffffff81000008 T other\n");
    host.kcache(&["check"]).exits(3).prints(&["changed: system.map"]);
    assert_eq!(stale(&host), ["snap stale"]);
}

/// A package whose build calls the program `kc-make` of /opt/tools.
fn with_tool(host: &Host) {
    put(host, "opt/tools/bin/kc-make", "#!/bin/sh\nexec make \"$@\"\n");
    let tool = host.root().join("opt/tools/bin/kc-make");
    fs::set_permissions(tool, PermissionsExt::from_mode(0o755)).unwrap();
    with_conf(host, "tool", "MAKE=\"kc-make -C $kernel_source_dir M=$dkms_tree/tool/1.0/build\"");
    with_conf(
        host,
        "path",
        "MAKE=\"/opt/tools/bin/kc-make -C $kernel_source_dir M=$dkms_tree/path/1.0/build\"",
    );
}

#[test]
fn programs_elsewhere_are_seen_once_their_directory_is_a_tool_path() {
    let host = host();
    with_tool(&host);
    for _ in 0..2 {
        // Not remembered.
        host.kcache(&["install"]).exits(4).says(&[
            "it needs kc-make, which is not installed",
            "kc-make is in /opt/tools/bin, which is not on the PATH of builds",
            "/opt/tools/bin/kc-make is on this host, but outside of what builds see",
            "`tool-paths`",
        ]);
    }
    put(&host, "etc/kcache/config.toml", "tool-paths = [\"/opt/tools\"]\n");
    host.kcache(&["config"]).exits(0).prints(&["tool-paths = /opt/tools"]);
    host.kcache(&["install"]).exits(0);
    let key = |host: &Host| {
        let ran = host.kcache(&["explain", "tool", "-k", k(), "--json"]).exits(0).json();
        ran["key"].as_str().unwrap().to_owned()
    };
    host.kcache(&["explain", "tool", "-k", k()]).prints(&["toolchain.path./opt/tools"]);
    let before = key(&host);
    append(&host.root().join("opt/tools/share/data"), "x");
    assert_ne!(before, key(&host));
}

#[test]
fn tool_paths_that_cannot_be_shown_are_settings_errors() {
    let host = host();
    with_tool(&host);
    for (path, why) in [
        ("/opt/none", "the directory /opt/none of the setting tool-paths does not exist"),
        ("/opt/tools/bin/kc-make", "does not exist"),
        ("/etc", "cannot be shown to builds"),
        ("/var/lib/dkms", "cannot be shown to builds"),
        ("opt/tools", "must be an absolute path"),
        ("/opt/../opt", "must be an absolute path"),
        ("/", "must be an absolute path"),
    ] {
        put(&host, "etc/kcache/config.toml", &format!("tool-paths = [\"{path}\"]\n"));
        host.kcache(&["install", "tool"]).exits(2).says(&[why]);
    }
}

#[test]
fn what_a_build_looks_for_in_another_package_is_named_with_the_line_to_add() {
    let host = host();
    let gpu = plain(&host, "gpu", "");
    fs::write(gpu.join("p2p.h"), "#define P2P 1\n").unwrap();
    let rdma = plain(&host, "rdma", "");
    let text = format!("#include \"/usr/src/gpu-1.0/p2p.h\"\n{}", module_c(""));
    fs::write(rdma.join("rdma.c"), text).unwrap();
    let record = plain(&host, "record", "");
    append(
        &record.join("Makefile"),
        "X := $(shell ls /var/lib/dkms/gpu/1.0/build || echo no)\nifeq ($(X),no)\n$(error no gpu)\nendif\n",
    );
    let advice =
        |name: &str| format!("add BUILD_DEPENDS[0]=\"gpu\" to dkms.conf, or to /etc/dkms/{name}.conf");
    host.kcache(&["install"]).exits(4).says(&[&advice("rdma"), &advice("record")]);
    assert!(is_installed(&host, k(), "gpu"));
    put(&host, "etc/dkms/rdma.conf", "BUILD_DEPENDS[0]=gpu\n");
    host.kcache(&["install", "rdma"]).exits(0);
}

#[test]
fn files_of_etc_and_links_out_of_the_source_are_named() {
    let host = host();
    put(&host, "etc/gpu/settings", "A=1\n");
    let source = with_conf(&host, "etc", "PRE_BUILD=pre");
    script(&source, "pre", ". /etc/gpu/settings || exit 1");
    host.kcache(&["build", "etc"]).exits(4).says(&["/etc/gpu/settings is on this host", "/etc/dkms/etc/"]);
    let source = plain(&host, "out", "");
    put(&host, "opt/out.c", &module_c(""));
    fs::remove_file(source.join("out.c")).unwrap();
    symlink("/opt/out.c", source.join("out.c")).unwrap();
    host.kcache(&["build", "out"]).exits(4).says(&["out.c of its source is a link to /opt/out.c"]);
}
