//! What a `dkms.conf` may do while it is read, and where builds write.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use fs_err as fs;

use super::{host, is_installed, k, put, with_conf};
use crate::host::{Run, is_root, run};
use crate::packages::{module_c, plain, script};

#[test]
fn what_a_recipe_leaves_behind_does_not_touch_its_evaluation() {
    let host = host();
    for (name, lines) in [
        ("ifs", "IFS=,"),
        ("ifs_empty", "IFS="),
        ("options", "set -euo pipefail; set -f -C -v -x"),
        ("posix", "set -o posix; export POSIXLY_CORRECT=1"),
        ("shopts", "shopt -s nullglob failglob extglob xpg_echo nocasematch"),
        ("traps", "trap 'echo ended' EXIT; trap 'echo again' DEBUG; trap 'exit 3' ERR"),
        ("functions", "echo() { :; }; declare() { :; }; unset() { :; }; builtin() { :; }; exit() { :; }"),
        ("aliases", "shopt -s expand_aliases\nalias echo='printf no' for=x set=y"),
        ("fixed", "readonly PACKAGE_NAME PACKAGE_VERSION BUILT_MODULE_NAME _name _array _i text conf"),
        ("variables", "directives=(X); _name=x; _i=7; text=y; conf=none; given=(a); module=foo; kernelver=9"),
        ("no_path", "PATH=/nonexistent"),
        ("no_output", "exec >/dev/null 2>&1"),
        ("background", "sleep 60 &"),
        ("elsewhere", "cd /tmp; umask 777"),
        ("returns", "false; return 1"),
        ("exits", "exit 0"),
    ] {
        with_conf(&host, name, lines);
        host.kcache(&["install", name, "-v"]).exits(0);
        assert!(is_installed(&host, k(), name), "{name}");
    }
}

#[test]
fn a_recipe_that_ends_itself_with_an_error_is_refused_with_its_words() {
    let host = host();
    with_conf(&host, "old", "echo 'this kernel is too old' >&2\nexit 3");
    host.kcache(&["build", "old"]).exits(4).says(&["this kernel is too old", "it ends itself with status 3"]);
    plain(&host, "other", "");
    put(&host, "etc/dkms/other.conf", "exit 1\n");
    host.kcache(&["build", "other"]).exits(4).says(&["/etc/dkms/other.conf: it ends itself with status 1"]);
}

#[test]
fn a_recipe_may_write_beside_itself_and_the_build_sees_that() {
    let host = host();
    let source = plain(&host, "beside", "");
    let conf = "PACKAGE_NAME=beside\nD=${BASH_SOURCE%/dkms.conf}\n[ -e $D/v.conf ] || echo PACKAGE_VERSION=1.0 >$D/v.conf\n\
                . $D/v.conf\necho '#define GENERATED 1' >$D/generated.h\nBUILT_MODULE_NAME[0]=beside\n\
                DEST_MODULE_LOCATION[0]=/extra\nAUTOINSTALL=yes\n";
    fs::write(source.join("dkms.conf"), conf).unwrap();
    fs::write(source.join("beside.c"), format!("#include \"generated.h\"\n{}", module_c(""))).unwrap();
    host.kcache(&["install"]).exits(0);
    let mut names: Vec<_> = fs::read_dir(source)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["Makefile", "beside.c", "dkms.conf"], "the source itself is untouched");
    host.kcache(&["check"]).exits(0);
}

#[test]
fn builds_may_write_in_their_own_source_and_modules_are_taken_from_the_build_directory() {
    let host = host();
    let source = with_conf(&host, "own", "MAKE=\"make -C $source_tree/own-1.0 K=$kernel_source_dir\"");
    let makefile =
        "obj-m := own.o\nall:\n\ttouch /usr/src/own-1.0/mark\n\t$(MAKE) -C $(K) M=$(PWD) modules\n";
    fs::write(source.join("Makefile"), makefile).unwrap();
    host.kcache(&["install", "own"]).exits(0);
    assert!(!source.join("mark").exists());
    with_conf(&host, "there", "MAKE=\"make -C $kernel_source_dir M=$source_tree/there-1.0\"");
    host.kcache(&["build", "there"])
        .exits(4)
        .says(&["built no there.ko, but /usr/src/there-1.0/there.ko, outside of its build directory"]);
}

#[test]
fn sources_and_overrides_that_only_root_can_read_are_built() {
    if !is_root() {
        return;
    }
    let host = host();
    let source = with_conf(&host, "private", "PRE_BUILD=sub/pre");
    fs::create_dir(source.join("sub")).unwrap();
    script(&source, "sub/pre", "cat /etc/dkms/private/list >list");
    put(&host, "etc/dkms/private.conf", "BUILT_MODULE_NAME[0]=private\n");
    put(&host, "etc/dkms/private/list", "x\n");
    for tree in [source, host.root().join("etc/dkms")] {
        run(Command::new("chmod").args(["-R", "go="]).arg(tree));
    }
    host.kcache(&["install"]).exits(0);
    host.kcache(&["check"]).exits(0);
    let (_, module) = host.modules(k()).into_iter().next().unwrap();
    assert_eq!(fs::metadata(module).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn headers_that_only_root_can_read_build_as_root() {
    if !is_root() {
        return;
    }
    let host = host();
    plain(&host, "hello", "");
    let headers = host.headers(k());
    let digests =
        |run: Run| run.exits(0).outcomes().into_iter().map(|it| (it.key, it.modules)).collect::<Vec<_>>();
    let build = || host.kcache(&["build", "--rebuild", "--json", "-k", k()]);
    let before = digests(build());
    // A file, a program, all; and the configuration that is shown in /boot. The key is the same, and so are the modules.
    for file in ["Module.symvers", "include/generated/autoconf.h", ".config", "scripts/mod/modpost", "."] {
        run(Command::new("chmod").args(["-R", "go="]).arg(headers.join(file)));
        assert_eq!(digests(build()), before, "{file}");
        run(Command::new("chmod").args(["-R", "go=rX"]).arg(headers.join(file)));
    }
    run(Command::new("chmod").args(["-R", "go="]).arg(&headers));
    let said = "headers of kernel";
    host.kcache(&["-v", "build", "--rebuild", "-k", k()]).exits(0).says(&[said, "they get copies"]);
    assert_eq!(fs::read_dir(host.store().join("tmp")).unwrap().count(), 0);
}
