//! Recipes, as far as only a real bash, a real make and a real kernel can tell: what `dkms.conf` and `kcache.toml` come to.

use fs_err as fs;

use crate::host::{FIXTURES, Host};
use crate::packages::{dkms_conf, hello, module_c, plain, script, with_makefile};

fn install(host: &Host, package: &str) {
    host.kcache(&["install", package, "-k", &FIXTURES.new]).exits(0);
}

fn description(host: &Host, module: &str) -> String {
    host.modinfo(&FIXTURES.new, module, "description")
}

#[test]
fn a_kcache_toml_names_its_module_its_patch_and_the_kernels_it_is_for() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "before");
    fs::remove_file(source.join("dkms.conf")).unwrap();
    fs::write(
        source.join("kcache.toml"),
        "name = 'hello'\nversion = '2.0'\nprepare = ['cp hello.c src/']\nmake = ['make -C /lib/modules/$(uname -r)/build M=$PWD/src']\n\
         [[module]]\nname = 'hello'\npath = 'src'\ninstall-as = 'welcome'\n[[patch]]\nfile = 'fix.patch'\n\
         [[patch]]\nfile = 'absent.patch'\nkernels = { max = '2.6' }\n",
    )
    .unwrap();
    fs::create_dir(source.join("src")).unwrap();
    fs::rename(source.join("Makefile"), source.join("src/Makefile")).unwrap();
    let patch = module_c("before").lines().position(|line| line.contains("before")).unwrap() + 1;
    let line = "MODULE_DESCRIPTION(\"before\");";
    let patched = line.replace("before", "after");
    fs::write(
        source.join("fix.patch"),
        format!("--- a/hello.c\n+++ b/hello.c\n@@ -{patch},1 +{patch},1 @@\n-{line}\n+{patched}\n"),
    )
    .unwrap();
    host.kcache(&["install", source.to_str().unwrap(), "-k", &FIXTURES.new]).exits(0);
    assert_eq!(description(&host, "welcome"), "after");
}

#[test]
fn a_kernel_that_a_kcache_toml_leaves_out_is_excluded_and_no_failure() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "old");
    fs::remove_file(source.join("dkms.conf")).unwrap();
    fs::write(source.join("kcache.toml"), "name = 'hello'\nversion = '1'\n[kernels]\nmax = '5.10'\n")
        .unwrap();
    let run = host.kcache(&["install", source.to_str().unwrap(), "-k", &FIXTURES.new, "--json"]).exits(0);
    assert_eq!(run.outcome().state, "excluded");
}

#[test]
fn the_administrators_overrides_come_after_the_packages_recipe() {
    let host = Host::new(&[&FIXTURES.new]);
    with_makefile(&host, "hello", "x", "obj-m := hello.o\nccflags-y += $(EXTRA)\n", "");
    fs::create_dir_all(host.root().join("etc/dkms")).unwrap();
    let conf = host.root().join("etc/dkms/hello.conf");
    fs::write(&conf, "DEST_MODULE_NAME[0]=\"renamed\"\n").unwrap();
    install(&host, "hello");
    assert_eq!(description(&host, "renamed"), "x");
    fs::write(&conf, "MAKE[0]=\"false\"\n").unwrap();
    host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(4);
}

#[test]
fn a_recipe_reads_its_settings_file_as_zfs_does_and_another_setting_is_another_build() {
    let host = Host::new(&[&FIXTURES.new]);
    let conf = "PACKAGE_CONFIG=/etc/dkms/hello.conf\nPRE_BUILD=\"pre.sh\n  $(\n    [[ -r ${PACKAGE_CONFIG} ]] \\\n    \
                && source ${PACKAGE_CONFIG} \\\n    && shopt -q -s extglob \\\n    && \\\n    {\n      \
                if [[ ${HELLO_ENABLE_DEBUG,,} == @(y|yes) ]]\n      then\n        echo --enable-debug\n      fi\n    }\n  )\n\"\n";
    let source = with_makefile(&host, "hello", "x", "obj-m := hello.o\n", conf);
    let describe =
        "sed -i \"s/MODULE_DESCRIPTION(.*)/MODULE_DESCRIPTION(\\\"arguments: ${*:-none}\\\")/\" hello.c";
    script(&source, "pre.sh", describe);
    fs::create_dir_all(host.root().join("etc/dkms")).unwrap();
    let settings = host.root().join("etc/dkms/hello.conf");
    for (setting, arguments) in [("yes", "--enable-debug"), ("no", "none"), ("Y", "--enable-debug")] {
        fs::write(&settings, format!("HELLO_ENABLE_DEBUG={setting}\n")).unwrap();
        install(&host, "hello");
        assert_eq!(description(&host, "hello"), format!("arguments: {arguments}"));
    }
    fs::remove_file(&settings).unwrap();
    install(&host, "hello");
    assert_eq!(description(&host, "hello"), "arguments: none");
}

#[test]
fn hooks_patches_and_the_last_make_that_matches_do_their_part() {
    let host = Host::new(&[&FIXTURES.new]);
    let conf = "MAKE[0]=\"false\"\nMAKE[1]=\"false\"\nMAKE_MATCH[1]=\"^6\\.\"\n\
                MAKE[2]=\"make -j$((parallel_jobs + 1)) -C $kernel_source_dir M=$dkms_tree/hello/1.0/build modules\"\n\
                MAKE_MATCH[2]=\"amd64$\"\nPRE_BUILD=\"pre.sh $kernelver\"\n";
    let source = with_makefile(&host, "hello", "x", "obj-m := hello.o\n", conf);
    fs::write(source.join("pre.sh"), "#!/bin/sh\nsed -i \"s/(\\\"x\\\")/(\\\"for $1\\\")/\" hello.c\n")
        .unwrap();
    std::process::Command::new("chmod").arg("+x").arg(source.join("pre.sh")).status().unwrap();
    install(&host, "hello");
    assert_eq!(description(&host, "hello"), format!("for {}", FIXTURES.new));
}

/// The first error of a package whose PRE_BUILD and Makefile are these.
fn fails(before: &str, makefile: &str) -> String {
    let host = Host::new(&[&FIXTURES.new]);
    let source = with_makefile(&host, "hello", "x", makefile, "PRE_BUILD=before.sh\nMAKE=\"make\"\n");
    script(&source, "before.sh", before);
    let run = host.kcache(&["build", "hello", "-k", &FIXTURES.new, "--json"]).exits(4);
    run.outcome().error.unwrap()
}

#[test]
fn a_configure_that_fails_is_the_error_and_nothing_after_it_is_run() {
    let gives_up = "echo 'x.c:1:1: error: of an attempt' >&2; printf 'checking x... configure: error:\\n\\t*** too new\\n'; exit 1";
    let error = fails(gives_up, "all:\n\t@echo 'a.c:1:1: error: made all the same'; false\n");
    assert_eq!(error.lines().next(), Some("configure: error: too new (its PRE_BUILD, `before.sh`, failed)"));
    let error = fails("echo this kernel is not supported; exit 3", "all:\n\t@echo ran on; false\n");
    let told = "this kernel is not supported (its PRE_BUILD, `before.sh`, failed)";
    assert_eq!(error.lines().next(), Some(told));
}

#[test]
fn what_a_packages_own_tests_have_found_is_shown_where_they_fail() {
    let host = Host::new(&[&FIXTURES.new]);
    let makefile = "obj-m := hello.o\nall:\n\tmkdir -p conftest\n\
                    \tprintf '#define A\\n#error b() conftest failed!\\n' >conftest/functions.h\n\
                    \techo '#include \"conftest/functions.h\"' >>hello.c\n\
                    \t$(MAKE) -C /lib/modules/$(KERNELRELEASE)/build M=$(CURDIR)\n";
    with_makefile(&host, "hello", "x", makefile, "MAKE=\"make all\"\n");
    let run = host.kcache(&["build", "hello", "-k", &FIXTURES.new, "--json"]).exits(4);
    let error = run.outcome().error.unwrap();
    assert!(
        error.contains("#error b() conftest failed! (a test compile of the package itself failed"),
        "{error}"
    );
    let log = host.kcache(&["log", "hello", "-k", &FIXTURES.new]).exits(0);
    log.prints(&["kcache: conftest/functions.h:\n#define A\n#error b() conftest failed!\n"]);
}

#[test]
fn what_git_knows_of_a_source_is_not_seen_by_its_recipe_or_build() {
    let host = Host::new(&[&FIXTURES.new]);
    let makefile = "obj-m := hello.o\nccflags-y := -DHEAD=\\\"$(shell cat /var/lib/dkms/hello/1.0/source/.git/HEAD 2>/dev/null)\\\"\n";
    let source = with_makefile(&host, "hello", "x", makefile, "");
    fs::write(source.join("hello.c"), module_c("x").replace("\"x\"", "\"head:\" HEAD")).unwrap();
    fs::create_dir(source.join(".git")).unwrap();
    fs::write(source.join(".git/HEAD"), "one").unwrap();
    install(&host, "hello");
    assert_eq!(description(&host, "hello"), "head:");
}

#[test]
fn a_package_that_builds_against_another_has_the_others_key_in_its_own() {
    let host = Host::new(&[&FIXTURES.new]);
    let base = plain(&host, "base", "one");
    with_makefile(&host, "hello", "x", "obj-m := hello.o\n", "BUILD_DEPENDS[0]=\"base\"\n");
    let key = || {
        let run = host.kcache(&["build", "hello", "-k", &FIXTURES.new, "--json"]).exits(0);
        run.outcome().key.clone().unwrap()
    };
    let before = key();
    fs::write(base.join("base.c"), module_c("two")).unwrap();
    assert_ne!(key(), before);
    fs::remove_dir_all(&base).unwrap();
    host.kcache(&["build", "hello", "-k", &FIXTURES.new]).exits(4).one_error().says(&["base"]);
}

#[test]
fn a_package_that_is_not_for_this_kernel_needs_nothing_else() {
    let host = Host::new(&[&FIXTURES.new]);
    let conf = "BUILD_DEPENDS[0]=\"absent\"\nBUILD_EXCLUSIVE_KERNEL=\"^2\\.6\"\n";
    with_makefile(&host, "hello", "x", "obj-m := hello.o\n", conf);
    let run = host.kcache(&["install", "hello", "-k", &FIXTURES.new, "--json"]).exits(0);
    assert_eq!(run.outcome().state, "excluded");
}

#[test]
fn a_package_that_is_not_installed_automatically_waits_to_be_named() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "x");
    fs::write(source.join("dkms.conf"), dkms_conf("hello", "1.0", "AUTOINSTALL=\n")).unwrap();
    let run = host.kcache(&["install", "-k", &FIXTURES.new, "--json"]).exits(0);
    assert!(run.outcomes().is_empty());
    host.kcache(&["check", "-k", &FIXTURES.new]).exits(0);
    install(&host, "hello");
    assert_eq!(description(&host, "hello"), "x");
}

#[test]
fn a_kernel_build_tree_can_be_given_by_its_path() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "x");
    let tree = host.root().join("usr/src").join(format!("linux-headers-{}", FIXTURES.new));
    let run = host.kcache(&["install", "hello", "-k", tree.to_str().unwrap(), "--json"]).exits(0);
    assert_eq!(run.outcome().kernel, FIXTURES.new);
    host.kcache(&["install", "hello", "-k", host.root().to_str().unwrap()])
        .exits(2)
        .one_error()
        .says(&["build tree"]);
}

#[test]
fn the_administrators_patches_and_scripts_take_the_place_of_the_packages() {
    let host = Host::new(&[&FIXTURES.new]);
    let conf = "PATCH[0]=\"fix.patch\"\nPRE_BUILD=\"pre.sh\"\n";
    let source = with_makefile(&host, "hello", "x", "obj-m := hello.o\n", conf);
    let line = module_c("x").lines().position(|line| line.contains("\"x\"")).unwrap() + 1;
    let patch = |text: &str| {
        let change = format!("-MODULE_DESCRIPTION(\"x\");\n+MODULE_DESCRIPTION(\"{text}\");\n");
        format!("--- a/hello.c\n+++ b/hello.c\n@@ -{line},1 +{line},1 @@\n{change}")
    };
    script(&source, "pre.sh", "echo the script of the package");
    fs::create_dir(source.join("patches")).unwrap();
    fs::write(source.join("patches/fix.patch"), patch("of the package")).unwrap();
    let own = host.root().join("etc/dkms/hello");
    fs::create_dir_all(own.join("patches")).unwrap();
    install(&host, "hello");
    assert_eq!(description(&host, "hello"), "of the package");
    // What stands there is part of the key.
    fs::write(own.join("patches/fix.patch"), patch("of the administrator")).unwrap();
    script(&own, "pre.sh", "echo the script of $PWD");
    install(&host, "hello");
    assert_eq!(description(&host, "hello"), "of the administrator");
    host.kcache(&["log", "hello", "-k", &FIXTURES.new]).prints(&["the script of /etc/dkms/hello"]);
    fs::remove_file(own.join("patches/fix.patch")).unwrap();
    fs::remove_file(source.join("patches/fix.patch")).unwrap();
    let run = host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(4).one_error();
    run.says(&["patches/fix.patch: no such patch"]);
}

#[test]
fn overrides_for_one_kernel_need_no_version() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "x");
    fs::create_dir_all(host.root().join("etc/dkms")).unwrap();
    let conf = host.root().join(format!("etc/dkms/hello--{}.conf", FIXTURES.new));
    fs::write(conf, "DEST_MODULE_NAME[0]=\"renamed\"\r\n").unwrap();
    install(&host, "hello");
    assert_eq!(description(&host, "renamed"), "x");
}

#[test]
fn directives_on_the_command_line_come_last() {
    let host = Host::new(&[&FIXTURES.new]);
    with_makefile(&host, "hello", "x", "obj-m := hello.o\n", "DEST_MODULE_NAME=first\n");
    let install = |given: &str| host.kcache(&["install", "hello", "-k", &FIXTURES.new, "--directive", given]);
    install("DEST_MODULE_NAME[0]=last").exits(0);
    assert_eq!(description(&host, "last"), "x");
    install("MAKE=make 'it not").exits(4);
    install("MAEK=true").exits(4).one_error().says(&["unknown directive MAEK"]);
    install("MAKE").exits(2).says(&["NAME=VALUE"]);
}

/// A package of three modules; more of its recipe.
fn three(host: &Host, conf: &str) {
    crate::packages::trio(host, "x");
    let path = host.root().join("usr/src/trio-1.0/dkms.conf");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(path, text + conf).unwrap();
}

#[test]
fn arrays_have_holes_and_modules_have_limits_of_their_own() {
    let host = Host::new(&[&FIXTURES.new]);
    three(
        &host,
        "DEST_MODULE_NAME[2]=third\nBUILD_EXCLUSIVE_KERNEL[1]=^5\nBUILD_EXCLUSIVE_CONFIG[2]=CONFIG_X86_64\n\
         NO_WEAK_MODULES=yes\nREMAKE_INITRD=yes\nMAKE[0]=\nMAKE[9]=false\nMAKE_MATCH[9]=.\n",
    );
    let run = host.kcache(&["-v", "install", "trio", "-k", &FIXTURES.new]).exits(0);
    run.says(&["NO_WEAK_MODULES has no effect", "REMAKE_INITRD is deprecated", "MAKE[9] is never used"]);
    let names: Vec<String> = host.modules(&FIXTURES.new).into_keys().collect();
    let names: Vec<&str> = names.iter().map(|name| name.split('.').next().unwrap()).collect();
    assert_eq!(names, ["trio/third", "trio/trio_a"]);
}

#[test]
fn a_recipe_that_dkms_refuses_is_refused() {
    let host = Host::new(&[&FIXTURES.new]);
    for (conf, expect) in [
        ("DEST_MODULE_LOCATION[1]=/updates/../..", "outside the kernel's modules directory"),
        ("DEST_MODULE_LOCATION[1]=/lib", "must begin with /kernel, /updates or /extra"),
        ("unset DEST_MODULE_LOCATION[1]", "DEST_MODULE_LOCATION[1] is not assigned"),
        ("unset BUILT_MODULE_NAME[1]", "BUILT_MODULE_NAME[1] is not assigned"),
        ("PATCH=../../etc/passwd", "contains '..'"),
    ] {
        three(&host, conf);
        host.kcache(&["build", "trio", "-k", &FIXTURES.new]).exits(4).one_error().says(&[expect]);
    }
    for (conf, reason) in [
        ("OBSOLETE_BY=6.1", "OBSOLETE_BY is 6.1"),
        ("BUILD_EXCLUSIVE_KERNEL_MIN=7", "BUILD_EXCLUSIVE_KERNEL_MIN"),
    ] {
        three(&host, conf);
        let run = host.kcache(&["build", "trio", "-k", &FIXTURES.new, "--json"]).exits(0);
        assert_eq!(run.outcome().state, "excluded");
        assert!(run.outcome().error.unwrap().contains(reason));
    }
}
