//! What a build reads of the system around it decides whether it is an answer elsewhere. Needs root: fanotify does.

use crate::builder::{Builder, url};
use crate::host::{FIXTURES, Host, is_root};
use crate::packages::{dkms_conf, module_c};
use crate::tools::update_kbuild;
use fs_err as fs;
use std::path::{Path, PathBuf};

/// Its `./configure` looks at a system header and at /etc/os-release, and makes of both what is compiled.
fn write_curious(host: &Host) {
    let configure = "#!/bin/sh\n\
        { echo '#define SAW \\'; sed 's/.*/\"&\"/' /usr/include/asm-generic/probe.h; } >saw.h\n\
        . /etc/os-release\n\
        [ -n \"$ID\" ]\n";
    let source =
        module_c("x").replace("(\"x\")", "(SAW)").replacen("#include", "#include \"saw.h\"\n#include", 1);
    host.write_package(
        "curious-1.0",
        &[
            (
                "dkms.conf",
                dkms_conf(
                    "curious",
                    "1.0",
                    "MAKE=\"sh ./configure && make -C $kernel_source_dir M=$dkms_tree/curious/1.0/build\"\n",
                ),
            ),
            ("Makefile", "obj-m := curious.o\n".to_owned()),
            ("configure", configure.to_owned()),
            ("curious.c", source),
        ],
    );
}

/// A directory that stands in for a part of this machine's /usr/include.
fn includes(host: &Host, probe: &str) -> PathBuf {
    let include = host.dir().join("include");
    fs::create_dir_all(&include).unwrap();
    fs::write(include.join("probe.h"), format!("{probe}\n")).unwrap();
    include
}

/// Builds and installs where `include` is mounted; says how it came by the modules, and what the module saw.
fn install(host: &Host, include: &Path) -> (String, String) {
    let k = FIXTURES.new.as_str();
    let mount = format!("mount --bind {} /usr/include/asm-generic && exec \"$@\"", include.display());
    let run = host.kcache_under(
        &["unshare", "--mount", "sh", "-c", &mount, "sh"],
        &["--json", "install", "curious", "-k", k],
    );
    let outcome = run.exits(0).outcome();
    (outcome.how.unwrap_or_default(), host.modinfo(k, "curious", "description"))
}

fn is(found: (String, String), how: &str, saw: &str) {
    assert_eq!((found.0.as_str(), found.1.as_str()), (how, saw));
}

#[test]
fn a_file_that_configure_read_is_compared_before_a_build_is_used_again() {
    if !is_root() {
        return;
    }
    let host = Host::new(&[&FIXTURES.new]);
    write_curious(&host);
    is(install(&host, &includes(&host, "one")), "built", "one");
    is(install(&host, &includes(&host, "one")), "store", "one");
    is(install(&host, &includes(&host, "two")), "built", "two");
    is(install(&host, &includes(&host, "two")), "store", "two");
    // Nor is what is installed left alone because only tools are others besides.
    update_kbuild(&host);
    is(install(&host, &includes(&host, "two")), "store", "two");
    is(install(&host, &includes(&host, "three")), "built", "three");
    // Here, where nothing is mounted, the header is absent.
    host.kcache(&["explain", "curious", "-k", &FIXTURES.new]).exits(0).prints(&[
        "in the store: built\n",
        "not used, because",
        "undeclared input /usr/include/asm-generic/probe.h: different here",
        "system.release",
    ]);
}

#[test]
fn a_build_that_opened_more_than_can_be_watched_is_used_once_and_shared_with_nobody() {
    if !is_root() {
        return;
    }
    let builder = Builder::new("busy", &[]);
    fs::create_dir_all(builder.cache()).unwrap();
    let host = &builder.host;
    host.write_config(&format!("[[cache]]\n{}\nwrite = true\n", url(&builder.cache_url())));
    let make = "MAKE=\"cat /usr/include/asm-generic/* >all && make -C $kernel_source_dir M=$dkms_tree/busy/1.0/build\"\n";
    host.write_package(
        "busy-1.0",
        &[
            ("dkms.conf", dkms_conf("busy", "1.0", make)),
            ("Makefile", "obj-m := busy.o\n".to_owned()),
            ("busy.c", module_c("x")),
        ],
    );
    let include = includes(host, "one");
    (0..9000).for_each(|at| fs::write(include.join(format!("{at}.h")), "").unwrap());
    let mount = format!("mount --bind {} /usr/include/asm-generic && exec \"$@\"", include.display());
    for _ in 0..2 {
        let install = ["--json", "install", "busy", "-k", &FIXTURES.new];
        let run = host.kcache_under(&["unshare", "--mount", "sh", "-c", &mount, "sh"], &install);
        let run = run.exits(0).says(&["opened more files than can be recorded"]);
        assert_eq!(run.outcome().how.as_deref(), Some("built"), "{}", run.shown());
    }
    host.kcache(&["push", "--all"]).exits(3);
    assert_eq!(fs::read_dir(builder.cache()).unwrap().count(), 0);
}

#[test]
fn a_build_of_a_host_with_another_file_is_not_fetched() {
    if !is_root() {
        return;
    }
    let builder = Builder::new("curious", &[]);
    write_curious(&builder.host);
    fs::create_dir_all(builder.cache()).unwrap();
    builder.host.write_config(&format!("[[cache]]\n{}\nwrite = true\n", url(&builder.cache_url())));
    is(install(&builder.host, &includes(&builder.host, "one")), "built", "one");
    let client = || {
        let host = Host::new(&[&FIXTURES.new]).trusting(&builder);
        write_curious(&host);
        host.with_caches(&[&url(&builder.cache_url())])
    };
    let (alike, unlike) = (client(), client());
    is(install(&alike, &includes(&alike, "one")), "shared-cache", "one");
    is(install(&unlike, &includes(&unlike, "two")), "built", "two");
}
