use super::*;
use fs_err as fs;

/// Checks the commands that are tried, with `K` for the kernel's build tree and `B` for the source.
#[track_caller]
fn check(files: &[(&str, &str)], expect: &[&str]) {
    let dir = planted(files);
    let recipe = recipe(dir.path(), "a", "1", "6.1").unwrap().unwrap();
    let tried = recipe.steps.iter().filter(|step| step.kind != StepKind::Clean).map(|step| {
        step.command.replace("/lib/modules/6.1/build", "K").replace("/var/lib/dkms/a/1/build", "B")
    });
    assert_eq!(tried.collect::<Vec<_>>(), expect);
}

fn planted(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

const KBUILD: &str = "make -C K M=B modules";

#[test]
fn a_kbuild_file_alone_is_built_by_kbuild() {
    check(&[("Kbuild", "obj-m := a.o\n")], &[KBUILD]);
    check(&[("Makefile", "obj-$(CONFIG_A) += a.o\n")], &[KBUILD]);
    check(&[("Makefile", "override obj-${CONFIG_A} := \\\n a.o\n")], &[KBUILD]);
    check(&[("Kbuild", "obj-y += src/\n"), ("src/Makefile", "obj-m := a.o\n")], &[KBUILD]);
}

#[test]
fn the_default_target_is_tried_before_kbuild() {
    let build = "KERNEL_DIR ?= /lib/modules/$(shell uname -r)/build\nobj-m += a.o\nbuild: version.h\n\t$(MAKE) -C $(KERNEL_DIR) M=$(CURDIR) modules\nversion.h:\n\techo >$@\n";
    check(&[("Makefile", build)], &["make KERNEL_DIR=K", KBUILD]);
    let both = "ifneq ($(KERNELRELEASE),)\nobj-m := a.o\nelse\nKDIR ?= /lib/modules/$(KVER)/build\nKVER ?= $(shell uname -r)\nall: modules tools\nmodules:\n\t$(MAKE) -C $(KDIR) M=$(PWD) $@\ntools:\n\tcc x.c\nendif\n";
    check(&[("Makefile", both)], &["make KDIR=K KVER=6.1", "make KDIR=K KVER=6.1 modules", KBUILD]);
    let alias = "obj-m := a.o\nall: modules\nmodules:\n\tmake -C /lib/modules/$(shell uname -r)/build M=$(PWD) modules\n";
    check(&[("Makefile", alias)], &["make", KBUILD]);
    let top = "all:\n\tmake -C /lib/modules/$(shell uname -r)/build M=$(PWD) modules\n";
    check(&[("Kbuild", "obj-m := a.o\n"), ("Makefile", top)], &["make", KBUILD]);
    check(&[("Makefile", "obj-m := a.o\ninclude common.mk\n")], &["make", KBUILD]);
}

#[test]
fn a_makefile_that_looks_for_the_kernel_is_also_tried_alone() {
    let search = "PLACES := /lib/modules/$(shell uname -r)/source /lib/modules/$(shell uname -r)/build\nKSRC := $(firstword $(wildcard $(PLACES)))\nobj-m := a.o\nall:\n\t$(MAKE) -C $(KSRC) M=$(CURDIR)\n";
    check(&[("Makefile", search)], &["make KSRC=K", "make", KBUILD]);
    let plain = search.replace("$(firstword $(wildcard $(PLACES)))", "/usr/src/linux");
    check(&[("Makefile", &plain)], &["make KSRC=K", KBUILD]);
}

#[test]
fn the_kernel_part_may_be_below_the_top() {
    let part = "make -C K M=B/drv modules";
    let kbuild = ("drv/Kbuild", "obj-m := a.o\n");
    check(&[kbuild], &[part]);
    check(&[kbuild, ("tests/Makefile", "obj-m := t.o\n")], &[part]);
    check(&[kbuild, ("drv/more/Makefile", "obj-m := more.o\n")], &[part]);
    let own = "obj-m := a.o\nall:\n\tmake -C $(KSRC) M=$(CURDIR)\n";
    check(&[("drv/Makefile", own)], &["cd drv && make KSRC=K", part]);
    // From the top, if that leads there; else at last.
    let leads = [
        "all:\n\t$(MAKE) -C drv\n",
        "all: drv\ndrv:\n\tmake -C $@\n",
        "DIRS := lib drv\nall:\n\tfor d in $(DIRS); do make -C $$d; done\n",
    ];
    for makefile in leads {
        check(&[kbuild, ("Makefile", makefile)], &["make", part]);
    }
    check(&[kbuild, ("Makefile", "all:\n\tcc tool.c\n")], &[part, "make"]);
    check(&[("README", ""), ("a/b c/Kbuild", "obj-m := a.o\n")], &["make -C K M='B/a/b c' modules"]);
}

#[test]
fn a_makefile_that_only_makes_the_kbuild_file_is_enough() {
    let generates = "all:\n\techo 'obj-m := a.o' >Kbuild\n\tmake -C $(KERNEL_SRC) M=$(PWD) modules\n";
    check(&[("Makefile", generates)], &["make KERNEL_SRC=K"]);
    let several = [("a/Kbuild", "obj-m := a.o\n"), ("b/Kbuild", "obj-m := b.o\n")];
    check(&[&several[..], &[("Makefile", "all:\n\tmake -C a\n\tmake -C b\n")]].concat(), &["make"]);
}

#[test]
fn what_does_not_lead_to_kbuild_is_not_a_tree() {
    let lack = |files: &[(&str, &str)]| find(planted(files).path()).unwrap().unwrap_err();
    assert_eq!(lack(&[("Makefile", "all:\n\tcc a.c\n# obj-m := a.o\n")]), Lack::Nothing);
    assert_eq!(lack(&[("Makefile", "obj-y := a.o absent/\n")]), Lack::Nothing);
    assert_eq!(lack(&[("x/dkms.conf", ""), ("x/Kbuild", "obj-m := a.o\n")]), Lack::Recipe("x".into()));
    // Somebody's home, and another project.
    assert_eq!(lack(&[("src/a/Kbuild", "obj-m := a.o\n")]), Lack::Nothing);
    assert_eq!(lack(&[("a/Kbuild", "obj-m := a.o\n"), ("a/.git/config", "")]), Lack::Nothing);
    // A kernel.
    assert_eq!(
        lack(&[("Kbuild", "obj-y += init/\n"), ("init/a", ""), ("scripts/Makefile.build", "")]),
        Lack::Nothing
    );
    let several = Lack::Several(vec!["a".into(), "b".into()]);
    assert_eq!(lack(&[("a/Kbuild", "obj-m := a.o\n"), ("b/Kbuild", "obj-m := b.o\n")]), several);
}

#[test]
fn variables_that_select_the_kernel_are_set_whatever_their_name() {
    let set = |text: &str, expect: &str| {
        let makefile = format!("obj-m := a.o\n{text}\nall:\n\tmake -C $(X) M=$(CURDIR)\n");
        check(&[("Makefile", &makefile)], &[&format!("make{expect}"), KBUILD]);
    };
    for name in ["KDIR", "KERNELDIR", "KERNEL_SRC", "LINUX_DIR", "KBUILD_DIR", "MY_TREE"] {
        set(&format!("{name} := /lib/modules/$(shell uname -r)/build"), &format!(" {name}=K"));
    }
    set("X ?= /usr/src/linux", " X=K");
    set("X ?= /usr/src/linux-headers-$(shell uname -r)/\nINC := /usr/src/linux/include", " X=K");
    set("X = /lib/modules/$(V)/source\nV != uname -r", " V=6.1 X=/lib/modules/6.1/source");
    set(
        "BUILD_KERNEL ?= $(shell uname -r)\nKSRC := $(addsuffix /build,/lib/modules/$(BUILD_KERNEL))",
        " BUILD_KERNEL=6.1 KSRC=K",
    );
    // Not the kernel's: a part of the tree, a part of the release, an installation.
    set("KSRC := $(PWD)/kernel", "");
    set("LINUX_DIR := linux", "");
    set("KERNEL_VERSION := $(shell uname -r | cut -d. -f1)", "");
    set("DEST := /lib/modules/$(shell uname -r)/updates", "");
    // Kbuild would take these for its own.
    set("VERSION := $(shell uname -r)\nM := /lib/modules/x/build", "");
    set("KERNELRELEASE ?= $(shell uname -r)", " KERNELRELEASE=6.1");
    set("KERNELRELEASE ?= $(shell uname -r)\nifeq ($(KERNELRELEASE),)\nendif", "");
}

#[test]
fn variables_are_found_in_included_files_and_below() {
    let files = [
        ("Makefile", "include common.mk\nall:\n\tmake -C drv\n"),
        ("common.mk", "KVER ?= $(shell uname -r)\n"),
        ("drv/Makefile", "obj-m := a.o\nmodules:\n\tmake -C $(KDIR) M=$(CURDIR) $@\n"),
    ];
    let words = "make KDIR=K KVER=6.1";
    check(&files, &[words, &format!("cd drv && {words}"), "make -C K M=B/drv modules"]);
}
