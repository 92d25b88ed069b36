//! A package that builds against another one: what it sees of it, here and where the other was built elsewhere.

use crate::builder::{Builder, url};
use crate::host::{FIXTURES, Host};
use crate::packages::{dkms_conf, module_c, plain, script, with_makefile};
use fs_err as fs;

/// A package that exports a symbol, and leaves a header where DKMS has the results of its build.
fn provider(host: &Host, text: &str) {
    let conf = "POST_BUILD=\"after.sh $dkms_tree/provider/1.0/$kernelver/$arch\"\n";
    let source = with_makefile(host, "provider", "", "obj-m := provider.o\n", conf);
    let code = "int provided(void) { return 1; }\nEXPORT_SYMBOL_GPL(provided);\n";
    fs::write(
        source.join("provider.c"),
        module_c("provider").replace("static int __init", &format!("{code}static int __init")),
    )
    .unwrap();
    let header = format!("int provided(void);\n#define TEXT \"{text}\"\n");
    let commands = "mkdir $1/include && cp provided.h $1/include/ && ln -s ../include $1/module/headers && ln -s /etc $1/etc";
    script(&source, "after.sh", commands);
    fs::write(source.join("provided.h"), header).unwrap();
}

/// A package that uses the symbol, by the header and the `Module.symvers` that the other left.
fn user(host: &Host) {
    let makefile = "LEFT := /var/lib/dkms/provider/kernel-$(KERNELRELEASE)-x86_64\nobj-m := user.o\n\
                    ccflags-y := -I$(LEFT)/module/headers\nKBUILD_EXTRA_SYMBOLS := $(LEFT)/module/Module.symvers\n";
    let more = "BUILD_DEPENDS[0]=\"provider\"\nPRE_BUILD=\"look.sh\"\n";
    let source = with_makefile(host, "user", "", makefile, more);
    script(
        &source,
        "look.sh",
        "cd /var/lib/dkms/provider/1.0 && ls source/provider.c $PWD/6*/x86_64/module/provider.ko /usr/src/provider-1.0/dkms.conf && nm /lib/modules/6*/updates/dkms/provider.ko",
    );
    let call = "#include <provided.h>\nstatic int __init start(void) { return !provided();";
    let code =
        module_c("x").replace("\"x\"", "TEXT").replace("static int __init start(void) { return 0;", call);
    fs::write(source.join("user.c"), code).unwrap();
}

#[test]
fn a_build_sees_the_modules_symbols_headers_and_source_of_what_it_is_against() {
    let host = Host::new(&[&FIXTURES.new]);
    provider(&host, "one");
    user(&host);
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    assert_eq!(host.modinfo(&FIXTURES.new, "user/user", "description"), "one");
    assert_eq!(host.modinfo(&FIXTURES.new, "user/user", "depends"), "provider");
    let log = host.kcache(&["log", "user", "-k", &FIXTURES.new]).exits(0);
    log.prints(&[
        "source/provider.c",
        "x86_64/module/provider.ko",
        "/usr/src/provider-1.0/dkms.conf",
        " T provided",
    ]);
    let log = host.kcache(&["log", "provider", "-k", &FIXTURES.new]).exits(0);
    log.prints(&["not stored for other packages: etc: the link points outside"]);
    host.kcache(&["build", "user", "-k", &FIXTURES.new, "--check"]).exits(0);
    // Another header is another provider, so another user.
    provider(&host, "two");
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    assert_eq!(host.modinfo(&FIXTURES.new, "user/user", "description"), "two");
}

#[test]
fn a_build_sees_the_same_of_what_was_built_elsewhere() {
    let builder = Builder::new("builder", &[]);
    provider(&builder.host, "from afar");
    fs::create_dir(builder.cache()).unwrap();
    builder.host.kcache(&["build", "provider", "-k", &FIXTURES.new]).exits(0);
    builder.host.kcache(&["push", "--to", &builder.cache_url(), "provider", "-k", &FIXTURES.new]).exits(0);

    let host = Host::new(&[&FIXTURES.new]).trusting(&builder).with_caches(&[&url(&builder.cache_url())]);
    provider(&host, "from afar");
    user(&host);
    host.kcache(&["install", "user", "-k", &FIXTURES.new]).exits(0).says(&["fetched provider/1.0"]);
    assert_eq!(host.modinfo(&FIXTURES.new, "user/user", "description"), "from afar");
}

#[test]
fn what_a_kcache_toml_depends_on_is_shown_too() {
    let host = Host::new(&[&FIXTURES.new]);
    plain(&host, "base", "x");
    let source = plain(&host, "hello", "x");
    fs::write(
        source.join("kcache.toml"),
        "name = 'hello'\nversion = '1.0'\ndepends = ['base']\n\
         prepare = ['test -s /var/lib/dkms/base/1.0/$kernelver/$arch/module/base.ko -a -e /usr/src/base-1.0/base.c']\n",
    )
    .unwrap();
    host.kcache(&["install", "hello", "-k", &FIXTURES.new]).exits(0);
}

#[test]
fn packages_that_build_against_each_other_are_an_error() {
    let host = Host::new(&[&FIXTURES.new]);
    for (name, other) in [("one", "two"), ("two", "one")] {
        let source = plain(&host, name, "x");
        fs::write(source.join("dkms.conf"), dkms_conf(name, "1.0", &format!("BUILD_DEPENDS[0]={other}\n")))
            .unwrap();
    }
    host.kcache(&["build", "one", "-k", &FIXTURES.new]).exits(4).one_error().says(&["in turn"]);
}

#[test]
fn what_a_script_after_the_build_cleans_away_was_taken_before() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = with_makefile(&host, "tidy", "kept", "obj-m := tidy.o\n", "POST_BUILD=\"tidy.sh\"\n");
    script(&source, "tidy.sh", "rm -f *.ko *.o Module.symvers");
    host.kcache(&["install", "tidy", "-k", &FIXTURES.new]).exits(0);
    assert_eq!(host.modinfo(&FIXTURES.new, "tidy", "description"), "kept");
}

#[test]
fn more_than_an_interface_is_not_kept() {
    let host = Host::new(&[&FIXTURES.new]);
    let conf = "POST_BUILD=\"after.sh $dkms_tree/greedy/1.0/$kernelver/$arch\"\n";
    let source = with_makefile(&host, "greedy", "", "obj-m := greedy.o\n", conf);
    script(&source, "after.sh", "truncate -s 300M $1/everything");
    host.kcache(&["build", "greedy", "-k", &FIXTURES.new]).exits(4).one_error().says(&["256 MiB"]);
}
