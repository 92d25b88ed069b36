//! Trees without a recipe: each is a small sibling of a kind that third-party modules come in, and builds as its README
//! would say.

use fs_err as fs;

use crate::host::{FIXTURES, Host, Run};
use crate::packages::module_c;

/// Makefile text that builds the modules in its own directory for the kernel in `KDIR`.
const KBUILD: &str = "$(MAKE) -C $(KDIR) M=$(CURDIR) modules";

/// A module that includes a header.
fn including(header: &str) -> String {
    format!("#include \"{header}\"\n{}", module_c("plain"))
}

fn plant(host: &Host, directory: &str, files: &[(&str, &str)]) -> String {
    let files: Vec<(&str, String)> = files.iter().map(|(path, text)| (*path, (*text).to_owned())).collect();
    host.write_package(directory, &files).to_str().unwrap().to_owned()
}

fn build(host: &Host, source: &str) -> Run {
    host.kcache(&["build", source, "-k", &FIXTURES.new])
}

/// Checks that a tree builds, by this command; and that `init` writes a recipe that builds the same.
#[track_caller]
fn builds(name: &str, files: &[(&str, &str)], command: &str) {
    let host = Host::new(&[&FIXTURES.new]);
    let source = plant(&host, &format!("{name}-1.0"), files);
    let built = build(&host, &source).exits(0);
    let modules = |run: Run| run.outcome().modules;
    let shown = built.stderr.replace(&format!("/lib/modules/{}/build", FIXTURES.new), "K");
    let shown = shown.replace(&FIXTURES.new, "V").replace(&format!("/var/lib/dkms/{name}/1.0/build"), "B");
    match command {
        "" => assert!(!built.stderr.contains("built by"), "{shown}"),
        command => assert!(shown.contains(&format!("has no recipe; built by `{command}` (")), "{shown}"),
    }
    let first = modules(host.kcache(&["build", &source, "-k", &FIXTURES.new, "--json"]).exits(0));
    host.kcache(&["init", &source]).exits(0);
    let recipe = fs::read_to_string(format!("{source}/kcache.toml")).unwrap();
    assert!(!recipe.contains("Not built yet"), "{recipe}");
    let second = modules(host.kcache(&["build", &source, "-k", &FIXTURES.new, "--json"]).exits(0));
    assert_eq!(first, second, "{recipe}");
}

#[test]
fn a_default_target_may_generate_a_header_first() {
    let makefile = format!(
        "KDIR ?= /lib/modules/$(shell uname -r)/build\nobj-m += a.o\nbuild: version.h\n\t{KBUILD}\nversion.h: Makefile\n\t@echo '#define VERSION 1' >$@\n"
    );
    builds("header", &[("Makefile", &makefile), ("a.c", &including("version.h"))], "make KDIR=K");
    // What the header says follows from the kernel's own.
    let makefile = String::from(
        "KERNEL_SRC = /usr/src/linux\nobj-m := a.o\nall: config.h\n\t$(MAKE) -C $(KERNEL_SRC) M=$(CURDIR)\nconfig.h:\n\tsh ./configure.sh $(KERNEL_SRC) >$@\n",
    );
    let configure = "grep -q register_chrdev $1/include/linux/fs.h || grep -rq register_chrdev $1/../*/include/linux/fs.h\necho '#define HAVE_CHRDEV 1'\n";
    let files = [("Makefile", &*makefile), ("configure.sh", configure), ("a.c", &including("config.h"))];
    builds("configured", &files, "make KERNEL_SRC=K");
}

#[test]
fn kbuild_may_be_led_to_directories_with_flags_for_all() {
    let files = [
        ("Kbuild", "subdir-ccflags-y += -I$(M)/include\nobj-y += src/\n"),
        ("Makefile", "all:\n\tmake -C /lib/modules/$(shell uname -r)/build M=$(PWD) modules\n"),
        ("include/answer.h", "#define ANSWER 42\n"),
        ("src/Makefile", "obj-m := a.o\n"),
        ("src/a.c", &including("answer.h")),
    ];
    builds("led", &files, "make");
}

#[test]
fn a_makefile_may_pass_the_configuration_to_kbuild() {
    let makefile = "ifneq ($(KERNELRELEASE),)\nobj-$(CONFIG_MINE) := a.o\nccflags-y += -DANSWER=$(ANSWER)\nelse\nLINUX_DIR ?= /lib/modules/$(shell uname -r)/build\ndefault:\n\t$(MAKE) -C $(LINUX_DIR) M=$(PWD) CONFIG_MINE=m ANSWER=42 modules\nendif\n";
    let source = format!("{}int answer = ANSWER;\n", module_c("configured"));
    builds("configuration", &[("Makefile", makefile), ("a.c", &source)], "make LINUX_DIR=K");
}

#[test]
fn variables_and_lists_may_be_in_included_files() {
    let makefile = "ifneq ($(KERNELRELEASE),)\nobj-m += nic.o\ndefine nic-y\n\ta.o\nendef\nnic-y := $(strip ${nic-y})\nnic-y += more.o\nelse\ninclude common.mk\ndefault:\n\t$(MAKE) -C $(KSRC) M=$(CURDIR) modules\nendif\n";
    let common = "ifeq (,${BUILD_KERNEL})\nBUILD_KERNEL := $(shell uname -r)\nendif\nPATHS := /lib/modules/${BUILD_KERNEL}/build /usr/src/linux\nKSRC := $(firstword $(wildcard $(PATHS)))\n";
    let files = [
        ("Makefile", makefile),
        ("common.mk", common),
        ("a.c", &module_c("nic")),
        ("more.c", "int more(void);\nint more(void) { return 1; }\n"),
    ];
    builds("nic", &files, "make BUILD_KERNEL=V KSRC=K");
}

/// Some look for the kernel's sources, and test headers with what they find: Debian's `build` has few, `source` has them.
#[test]
fn a_makefile_may_need_the_kernels_source_that_it_finds_itself() {
    let makefile = "PLACES := /lib/modules/$(shell uname -r)/source /lib/modules/$(shell uname -r)/build\nKSRC := $(firstword $(wildcard $(PLACES)))\nifeq (,$(wildcard $(KSRC)/include/linux/kernel.h))\n$(error no kernel sources in $(KSRC))\nendif\nobj-m := a.o\nall: found.h\n\t$(MAKE) -C /lib/modules/$(shell uname -r)/build M=$(CURDIR) modules\nfound.h:\n\techo >$@\n";
    let files = [("Makefile", makefile), ("a.c", &*including("found.h"))];
    builds("searching", &files, "make");
    // Where no command builds it, the Makefile's own reason is told.
    let host = Host::new(&[&FIXTURES.new]);
    let refusing = makefile.replace("include/linux/kernel.h", "include/linux/nosuch.h");
    let files = [("Makefile", &*refusing), ("a.c", &*including("found.h"))];
    let source = plant(&host, "refusing-1.0", &files);
    build(&host, &source).exits(4).says(&["*** no kernel sources in"]);
}

#[test]
fn tools_that_do_not_build_do_not_stop_the_modules() {
    let makefile = format!(
        "KERNELDIR := /lib/modules/$(shell uname -r)/build\nobj-m := a.o\nall: modules tool\nmodules:\n\t{}\ntool: tool.c\n\tcc -o $@ $<\n",
        KBUILD.replace("KDIR", "KERNELDIR")
    );
    let files =
        [("Makefile", &*makefile), ("a.c", &module_c("a")), ("tool.c", "#include <no/such/library.h>\n")];
    builds("tools", &files, "make KERNELDIR=K modules");
    let makefile = "KBUILD_DIR ?= /lib/modules/$(shell uname -r)/build\nobj-m := a.o\nall: modules install\nmodules:\n\t$(MAKE) -C $(KBUILD_DIR) M=$(CURDIR) $@\ninstall:\n\tcp a.ko /lib/modules/\n\tdepmod\n";
    builds("installs", &[("Makefile", makefile), ("a.c", &module_c("a"))], "make KBUILD_DIR=K modules");
}

#[test]
fn the_kernel_part_may_include_from_beside_it() {
    let part = "ccflags-y := -I$(src)/../include\nobj-m := a.o\nKDIR ?= /lib/modules/$(shell uname -r)/build\nall:\n\t$(MAKE) -C $(KDIR) M=$(PWD) modules\n";
    let source = including("api.h");
    let files = [
        ("Makefile", "all: usr\nusr:\n\tcc -o tool no-such-file.c\n"),
        ("kernel/Makefile", part),
        ("kernel/a.c", &source),
        ("include/api.h", "#define API 1\n"),
    ];
    builds("beside", &files, "cd kernel && make KDIR=K");
    let computed =
        part.replace("-I$(src)/../include", "-I$(TOP)/include\nTOP := $(shell cd $(src)/.. && pwd)");
    for part in [part, &computed] {
        let host = Host::new(&[&FIXTURES.new]);
        let mut files = files;
        files[1].1 = part;
        let top = plant(&host, "beside-1.0", &files);
        let given = format!("{top}/kernel");
        let missing = format!("{top}/include/api.h is outside of {given}");
        let hint = format!("hint: give the directory that contains both: {top}");
        build(&host, &given).exits(4).says(&["api.h: No such file or directory", &missing, &hint]);
        host.kcache(&["lint", &given, "-k", &FIXTURES.new]).exits(0).prints(&["outside-directory"]);
    }
}

#[test]
fn a_makefile_may_generate_the_kbuild_file() {
    let makefile = "KDIR ?= /lib/modules/$(shell uname -r)/build\nall:\n\techo 'obj-m := a.o' >Kbuild\n\t$(MAKE) -C $(KDIR) M=$(CURDIR) modules\n";
    builds("generated", &[("Makefile", makefile), ("a.c", &module_c("a"))], "make KDIR=K");
}

#[test]
fn the_top_may_lead_to_several_parts() {
    let part = |name: &str| format!("obj-m := {name}.o\n");
    let top = "KVER ?= $(shell uname -r)\nall:\n\tfor d in one two; do $(MAKE) -C /lib/modules/$(KVER)/build M=$(CURDIR)/$$d modules || exit; done\n";
    let files = [
        ("Makefile", top),
        ("one/Kbuild", &part("one")),
        ("one/one.c", &module_c("one")),
        ("two/Kbuild", &part("two")),
        ("two/two.c", &module_c("two")),
    ];
    builds("several", &files, "make KVER=V");
    let host = Host::new(&[&FIXTURES.new]);
    let source = plant(&host, "several-1.0", &files[1..]);
    build(&host, &source)
        .exits(2)
        .one_error()
        .says(&["several directories in it have modules: one, two", "hint: give one"]);
}

#[test]
fn each_attempt_begins_with_the_source_as_it_was() {
    // The default target leaves a header behind with which nothing compiles, and an old module is in the source.
    let makefile = "obj-m := a.o\nall:\n\techo '#error left behind' >config.h\n\trm a.c\n\tfalse\n";
    let source = format!("#if __has_include(\"config.h\")\n#include \"config.h\"\n#endif\n{}", module_c("a"));
    let files = [("Makefile", makefile), ("a.c", &source), ("old.ko", "not a module")];
    builds("fresh", &files, "make -C K M=B modules");
}

#[test]
fn what_only_kbuild_is_needed_for_has_one_command() {
    builds("only", &[("Kbuild", "obj-m := a.o\n"), ("a.c", &module_c("a"))], "");
}

#[test]
fn the_error_is_of_the_attempt_that_compiled() {
    let host = Host::new(&[&FIXTURES.new]);
    let makefile = "obj-m := a.o\nall: no-such-file\n\tmake -C $(KDIR) M=$(CURDIR)\n";
    let source = plant(&host, "wrong-1.0", &[("Makefile", makefile), ("a.c", "int a = no_such_name;\n")]);
    build(&host, &source).exits(4).says(&["a.c:1:9: error", "no_such_name"]);
    host.kcache(&["log", &source, "-k", &FIXTURES.new])
        .exits(0)
        .prints(&["No rule to make target", "trying another command"]);
}

#[test]
fn hosts_agree_on_the_key_before_anything_is_built() {
    let makefile = "KDIR ?= /lib/modules/$(shell uname -r)/build\nobj-m := a.o\nall: absent modules\nmodules:\n\t$(MAKE) -C $(KDIR) M=$(CURDIR) $@\n";
    let files = [("Makefile", makefile), ("a.c", &module_c("a"))];
    let key = |host: &Host, source: &str| {
        let explained = host.kcache(&["explain", source, "-k", &FIXTURES.new, "--json"]).exits(0).json();
        explained["key"].as_str().unwrap().to_owned()
    };
    let (one, other) = (Host::new(&[&FIXTURES.new]), Host::new(&[&FIXTURES.new]));
    let (here, there) = (plant(&one, "same-1.0", &files), plant(&other, "same-1.0", &files));
    let before = key(&one, &here);
    let built = one.kcache(&["build", &here, "-k", &FIXTURES.new, "--json"]).exits(0).outcome();
    assert_eq!(built.key.as_ref(), Some(&before));
    assert_eq!((key(&one, &here), key(&other, &there)), (before.clone(), before));
    one.kcache(&["build", &here, "-k", &FIXTURES.new]).exits(0).prints(&["from the store"]);
}

#[test]
fn a_build_for_the_builders_cpu_is_not_shared() {
    let host = Host::new(&[&FIXTURES.new]);
    let makefile = "obj-m := a.o\nccflags-y += -march=native\n";
    let source = plant(&host, "native-1.0", &[("Makefile", makefile), ("a.c", &module_c("a"))]);
    host.kcache(&["lint", &source]).exits(0).prints(&["Makefile:2: warning", "native-cpu"]);
    let has_cpu = |host: &Host| {
        let explained = host.kcache(&["explain", &source, "-k", &FIXTURES.new, "--json"]).exits(0).json();
        explained["fields"].as_array().unwrap().iter().any(|field| field["name"] == "cpu")
    };
    assert!(has_cpu(&host));
    build(&host, &source).exits(0);
    let cache = format!("file://{}", host.dir().join("cache").display());
    fs::create_dir(host.dir().join("cache")).unwrap();
    let push = ["push", &source, "-k", &FIXTURES.new, "--to", &cache, "--unsigned"];
    host.kcache(&push).exits(6).says(&["depend on this host's CPU"]);
    fs::write(format!("{source}/Makefile"), "obj-m := a.o\n# -march=native\n").unwrap();
    assert!(!has_cpu(&host));
}

#[test]
fn a_check_reports_that_it_built_twice_and_that_the_bits_are_equal() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = plant(&host, "twice-1.0", &[("Kbuild", "obj-m := a.o\n"), ("a.c", &module_c("a"))]);
    let check = ["build", "--check", &source, "-k", &FIXTURES.new];
    host.kcache(&check).exits(0).prints(&["built  twice in ", ": the same bits"]);
    host.kcache(&check).exits(0).prints(&["from the store, rebuilt: the same bits"]);
    host.kcache(&[&check[..], &["--json"]].concat()).exits(0).prints(&["\"again\":\"same\""]);
}
