use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use fs_err as fs;

use super::*;
use crate::packages;
use crate::recipe::{Modules, RecipeModule, Step, StepKind};

const CONF: &str = "PACKAGE_NAME=a\nPACKAGE_VERSION=1\n";
const SOURCE: &str = "MODULE_LICENSE(\"GPL\");\n";
const KBUILD: &str = "make KERNELRELEASE=6.1 -C /lib/modules/6.1/build M=/var/lib/dkms/a/1/build";
/// A makefile without findings.
const GOOD: &str = "KDIR ?= /lib/modules/$(KERNELRELEASE)/build\nobj-m := a.o\nall:\n\t$(MAKE) -C $(KDIR) M=$(CURDIR) modules\n";

/// A package with one module, changed file by file. Its recipe calls make.
#[derive(Clone)]
struct Tree {
    files: BTreeMap<&'static str, String>,
    steps: Vec<(StepKind, &'static str)>,
    modules: Vec<&'static str>,
    excluded: Option<String>,
}

fn tree() -> Tree {
    let files = [("dkms.conf", CONF), ("Makefile", GOOD), ("a.c", SOURCE)];
    Tree {
        files: files.map(|(path, text)| (path, text.to_owned())).into(),
        steps: vec![(StepKind::Make, KBUILD)],
        modules: vec!["a"],
        excluded: None,
    }
}

impl Tree {
    fn with(mut self, path: &'static str, text: &str) -> Tree {
        self.files.insert(path, text.to_owned());
        self
    }

    fn conf(self, more: &str) -> Tree {
        self.with("dkms.conf", &format!("{CONF}{more}\n"))
    }

    /// The package built by the goal `all` of its own Makefile.
    fn makefile(self, text: &str) -> Tree {
        self.step(StepKind::Make, "make all").with("Makefile", text)
    }

    fn step(mut self, kind: StepKind, command: &'static str) -> Tree {
        self.steps = vec![(kind, command)];
        self
    }

    fn named(mut self, modules: &[&'static str]) -> Tree {
        self.modules = modules.to_vec();
        self
    }

    fn recipe(&self) -> Recipe {
        let module = |name: &&str| RecipeModule { built: (*name).into(), name: (*name).into(), strip: true };
        let step = |(kind, command): &(StepKind, &str)| Step { kind: *kind, command: (*command).into() };
        Recipe {
            name: "a".into(),
            version: "1".into(),
            excluded: self.excluded.clone(),
            steps: self.steps.iter().map(step).collect(),
            modules: Modules::Listed(self.modules.iter().map(module).collect()),
            depends: Vec::new(),
            automatic: true,
            notes: Vec::new(),
            writes: false,
            hooks: Vec::new(),
        }
    }

    fn plant(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in &self.files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn lint(&self, top: &Path) -> Vec<LintFinding> {
        let package = packages::at_path(top).unwrap();
        super::check(&package, &[Answer { release: "6.1", recipe: Ok(self.recipe()) }]).unwrap()
    }
}

fn shown(findings: &[LintFinding]) -> Vec<String> {
    findings.iter().map(|it| format!("{} {}:{}", it.rule.name, it.file.display(), it.line)).collect()
}

/// Checks that the first tree has exactly this finding, and the second none.
#[track_caller]
fn check(bad: Tree, expect: &str, good: Tree) {
    assert_eq!(shown(&bad.lint(bad.plant().path())), [expect]);
    assert_eq!(shown(&good.lint(good.plant().path())), [""; 0]);
}

#[test]
fn a_package_that_does_everything_right_is_clean() {
    check(tree().conf("POST_INSTALL=x"), "hook-not-run dkms.conf:3", tree());
    check(tree().makefile("all:\n\tdepmod\n"), "touches-host Makefile:2", tree().makefile(GOOD));
}

#[test]
fn uname_r_is_reported_only_where_it_is_used() {
    let asks =
        "KDIR = /lib/modules/$(shell uname -r)/build\nobj-m := a.o\nall:\n\t$(MAKE) -C $(KDIR) M=$(CURDIR)\n";
    check(tree().makefile(asks), "uname-r Makefile:1", tree().with("Makefile", asks));
    let told = tree().makefile(asks).step(StepKind::Make, "make all KDIR=/lib/modules/6.1/build").named(&[]);
    check(tree().conf("KVER=$(uname -r)"), "uname-r dkms.conf:3", told);
    let default = tree().conf("kernelver=${kernelver:-$(uname -r)}");
    check(tree().conf("kernelver=${KVER:-$(uname -r)}"), "uname-r dkms.conf:3", default);
    let guarded = "ifeq ($(KERNELRELEASE),)\nKERNELRELEASE := $(shell uname -r)\nendif\nall:\n\techo $(KERNELRELEASE)\n";
    let told = tree().makefile(guarded).step(StepKind::Make, "make KERNELRELEASE=6.1 all");
    check(tree().makefile(guarded), "uname-r Makefile:2", told);
}

#[test]
fn scripts_are_checked_unless_they_get_the_kernel() {
    let script = "#!/bin/sh\n# uname -r\nuname -r\n";
    let runs = |command| tree().with("pre.sh", script).step(StepKind::Hook, command);
    check(runs("pre.sh"), "uname-r pre.sh:3", runs("pre.sh 6.1"));
    let crlf = |text| tree().with("pre.sh", text).step(StepKind::Make, "sh ./pre.sh");
    check(crlf("#!/bin/sh\r\nx\r\n"), "crlf pre.sh:1", crlf("#!/bin/sh\nx\n"));
}

#[test]
fn a_guarded_answer_of_the_running_kernel_is_no_finding() {
    let script =
        "#!/bin/sh\nkernelver=${kernelver:-$(uname -r)}\nmake -C /lib/modules/$kernelver/build M=$PWD\n";
    let runs = |command| tree().with("build.sh", script).step(StepKind::Make, command).named(&[]);
    check(runs("./build.sh"), "uname-r build.sh:2", runs("kernelver=6.1 ./build.sh"));
    let asks = "[ -z \"$kernelver\" ] && kernelver=$(uname -r)";
    check(tree().conf("kernelver=$(uname -r)"), "uname-r dkms.conf:3", tree().conf(asks));
}

#[test]
fn flags_for_the_builders_cpu_are_reported() {
    let flags = |flag: &str| tree().with("Makefile", &format!("{GOOD}ccflags-y += {flag}\n"));
    check(flags("-march=native"), "native-cpu Makefile:5", flags("-march=x86-64-v2"));
    check(tree().conf("MAKE=\"make CFLAGS=-mtune=native\""), "native-cpu dkms.conf:3", tree());
}

#[test]
fn writes_outside_the_tree_and_scripts_of_makefiles_are_checked() {
    let all = |command: &str| tree().makefile(&format!("all:\n\t{command}\n"));
    check(all("cp a.h ../b.h"), "touches-host Makefile:2", all("cp ../b.h a.h"));
    check(all("echo x >$(HOME)/x"), "touches-host Makefile:2", all("echo x >sub/../x 2>/dev/null"));
    let sub = |command: &str| all("make -C sub").with("sub/Makefile", &format!("all:\n\t{command}\n"));
    check(sub("mkdir -p ../../x"), "touches-host sub/Makefile:2", sub("mkdir -p ../x"));
    let script = |line: &str| all("./get.sh").with("get.sh", &format!("#!/bin/sh\n{line}\n"));
    check(script("wget http://x/y"), "network get.sh:2", script("echo $(uname -r)"));
}

#[test]
fn a_module_is_where_the_recipe_says() {
    let files = tree()
        .with("Makefile", "obj-y := src/\n")
        .with("src/Makefile", "obj-m := a.o\n")
        .with("src/a.c", SOURCE);
    let moved = "all:\n\tmake -C /lib/modules/$(KERNELRELEASE)/build M=$(CURDIR) modules\n\tcp src/a.ko .\n";
    let moves =
        files.clone().step(StepKind::Make, "make").with("Kbuild", "obj-y := src/\n").with("Makefile", moved);
    let conf = |tree: Tree| tree.conf("BUILT_MODULE_NAME[0]=a");
    check(conf(files.clone()), "module-location dkms.conf:3", conf(moves));
    check(conf(files.clone()), "module-location dkms.conf:3", conf(files.named(&["src/a"])));
}

#[test]
fn of_commands_to_try_the_first_without_an_error_counts() {
    let check = |modules: &str, expect: &[&str]| {
        let all = format!("obj-m := a.o\nall: modules install\nmodules:\n\t{modules}\ninstall:\n\tdepmod\n");
        let plain = tree().with("Makefile", &all);
        let dir = plain.plant();
        fs::remove_file(dir.path().join("dkms.conf")).unwrap();
        let recipe = crate::recipe::kbuild::recipe(dir.path(), "a", "1", "6.1").unwrap().unwrap();
        let package = crate::packages::Package {
            name: "a".into(),
            version: "1".into(),
            source: dir.path().to_owned(),
            recipe: crate::packages::RecipeFile::Kbuild,
            declared: None,
        };
        let answers = [Answer { release: "6.1", recipe: Ok(recipe) }];
        assert_eq!(shown(&super::check(&package, &answers).unwrap()), expect);
    };
    check("make -C $(KDIR) M=$(CURDIR) modules", &[]);
    check("echo $(shell uname -r)", &["uname-r Makefile:4"]);
}

#[test]
fn excluded_kernels_are_not_checked() {
    let excluded = Tree {
        excluded: Some("it is for 2.6".into()),
        ..tree().step(StepKind::Patch, "patches/x.diff").conf("PATCH=x.diff")
    };
    let dir = excluded.plant();
    let package = packages::at_path(dir.path()).unwrap();
    let answers = [
        Answer { release: "6.1", recipe: Ok(excluded.recipe()) },
        Answer { release: "5.4", recipe: Ok(tree().recipe()) },
    ];
    assert_eq!(shown(&super::check(&package, &answers).unwrap()), [""; 0]);
}

#[test]
fn only_reached_targets_are_checked() {
    let install = |needs: &str| format!("all: {needs}\ninstall:\n\tcp a.ko /lib/modules/x\n");
    check(tree().makefile(&install("install")), "touches-host Makefile:3", tree().makefile(&install("")));
    check(
        tree().makefile("all:\n\tsudo x\n"),
        "touches-host Makefile:2",
        tree().makefile("all:\n\t-sudo x\n"),
    );
    check(tree().makefile("all:\n\tcurl x\n"), "network Makefile:2", tree().makefile("all:\n\techo curl\n"));
    check(
        tree().makefile("all:\n\tgit clone x\n"),
        "network Makefile:2",
        tree().makefile("all:\n\tgit --version\n"),
    );
    let sub = tree().with("lib/Makefile", "all:\n\tinsmod a.ko\n").makefile("all:\n\tmake -C lib\n");
    check(sub, "touches-host lib/Makefile:2", tree().makefile("all:\n\techo make -C lib\n"));
}

#[test]
fn git_and_the_clock_are_reported_if_their_output_is_used() {
    let define = |command: &str| format!("{GOOD}V := $(shell {command})\nccflags-y := -DV=$(V)\n");
    check(
        tree().with("Makefile", &define("git describe")),
        "git-command Makefile:5",
        tree().with("Makefile", &define("cat V")),
    );
    check(
        tree().with("Makefile", &define("date +%s")),
        "date-command Makefile:5",
        tree().with("Makefile", &format!("{GOOD}V = $(shell date)\n")),
    );
}

#[test]
fn calls_of_kbuild_must_name_a_module_directory() {
    let call = |words: &str| format!("all:\n\t$(MAKE) -C /lib/modules/$(KERNELRELEASE)/build {words}\n");
    check(tree().makefile(&call("modules")), "missing-m Makefile:2", tree().makefile(&call("kernelversion")));
    let subdirs = "SUBDIRS=$(PWD) modules";
    check(
        tree().makefile(&call(subdirs)),
        "subdirs Makefile:2",
        tree()
            .makefile(&call(&format!("M=$(PWD) {subdirs}")))
            .named(&[])
            .with("Makefile", &call("SUBDIRS=$(PWD) M=$(PWD)")),
    );
}

#[test]
fn old_flags_are_reported_unless_the_new_ones_include_them() {
    let flags = format!("{GOOD}EXTRA_CFLAGS += -DX\n");
    check(
        tree().with("Makefile", &flags),
        "extra-cflags Makefile:5",
        tree().with("Makefile", &format!("{flags}ccflags-y += $(EXTRA_CFLAGS)\n")),
    );
}

#[test]
fn hard_coded_paths_are_reported() {
    let include = |path: &str| format!("{GOOD}ccflags-y += -I{path}\n");
    for path in ["/usr/src/linux/include", "/lib/modules/6.1.0/build", "/home/me/x"] {
        check(
            tree().with("Makefile", &include(path)),
            "hard-coded-path Makefile:5",
            tree().with("Makefile", &include("$(src)/include")),
        );
    }
}

#[test]
fn sources_must_declare_a_known_licence() {
    check(
        tree().with("a.c", "int x;\n"),
        "no-license a.c:0",
        tree().with("a.c", "#include \"a.h\"\n").with("a.h", SOURCE),
    );
    check(
        tree().with("a.c", "MODULE_LICENSE(\"MIT\");"),
        "unknown-license a.c:1",
        tree().with("a.c", "MODULE_LICENSE(\"Dual MIT/GPL\");"),
    );
}

#[test]
fn a_licence_is_missed_only_where_all_sources_are_known() {
    let list = "obj-m := a.o\ndefine a-y\n\tmain.o\nendef\na-y := $(strip ${a-y})\na-y += extra.o\n";
    let computed = tree().makefile(list).step(StepKind::Make, KBUILD);
    let computed = computed.with("main.c", SOURCE).with("extra.c", "int x;\n");
    let plain = computed.clone().with("main.c", "").with("Makefile", "obj-m := a.o\na-y := main.o extra.o\n");
    check(plain, "no-license extra.c:0", computed);
}

#[test]
fn clock_macros_and_other_versions_are_reported() {
    let source = |more: &str| tree().with("a.c", &format!("{SOURCE}{more}"));
    check(
        source("char *x = __DATE__;"),
        "date-macro a.c:2",
        source("char *x = \"__DATE__\"; // __TIME__\nint MY__DATE__;"),
    );
    check(source("MODULE_VERSION(\"2\");"), "module-version a.c:2", source("MODULE_VERSION(\"v1\");"));
}

#[test]
fn directives_without_effect_are_reported() {
    check(tree().conf("REMAKE_INITRD=no"), "deprecated-directive dkms.conf:3", tree().conf("REMAKE_INITRD="));
    check(
        tree().conf("DEST_MODULE_LOCATION=/lib/x"),
        "odd-destination dkms.conf:3",
        tree().conf("DEST_MODULE_LOCATION[0]=/updates/dkms"),
    );
    check(
        tree().conf(". /etc/sysconfig/x"),
        "outside-file dkms.conf:3",
        tree().conf(". $kernel_source_dir/.config || . /boot/config-x"),
    );
    check(
        tree().conf("MAKE=\"make -j$(nproc)\""),
        "jobs dkms.conf:3",
        tree().conf("MAKE=\"make\" # -j$(nproc)").with("x", ""),
    );
    check(tree().conf("A=1\r"), "crlf dkms.conf:3", tree().conf("A=1"));
}

#[test]
fn recipe_and_kbuild_files_name_the_same_modules() {
    let two = format!("{GOOD}obj-m += b.o\n");
    let both = tree().with("Makefile", &two).with("b.c", SOURCE);
    check(both.clone(), "unlisted-module Makefile:5", both.named(&["a", "b"]));
    let conf = |tree: Tree| tree.conf("BUILT_MODULE_NAME[1]=c").named(&["a", "c"]);
    let computed = format!("{GOOD}obj-m += $(call f)\n");
    check(conf(tree()), "unbuilt-module dkms.conf:3", conf(tree()).with("Makefile", &computed));
}

#[test]
fn missing_patches_and_unsupported_kernels_are_reported() {
    let patched = tree().conf("PATCH=x.diff").step(StepKind::Patch, "patches/x.diff");
    check(patched.clone(), "absent-patch dkms.conf:3", patched.with("patches/x.diff", ""));
    let none = Tree { excluded: Some("it is for 2.6".into()), ..tree().conf("BUILD_EXCLUSIVE_KERNEL=x") };
    check(none, "matches-no-kernel dkms.conf:3", tree());
    let package_dir = tree().plant();
    let package = packages::at_path(package_dir.path()).unwrap();
    let answer = Answer { release: "6.1", recipe: Err("it assigns no PACKAGE_NAME".into()) };
    assert_eq!(shown(&super::check(&package, &[answer]).unwrap()), ["bad-recipe dkms.conf:0"]);
}

#[test]
fn trees_that_cannot_be_copied_are_reported() {
    let dir = tree().plant();
    let bad = |make: &dyn Fn(&Path), expect: &str| {
        let dir = tree().plant();
        make(dir.path());
        assert_eq!(shown(&tree().lint(dir.path())), [expect]);
    };
    bad(&|top| symlink("../x", top.join("out")).unwrap(), "outside-link out:0");
    bad(&|top| symlink("/etc/passwd", top.join("out")).unwrap(), "outside-link out:0");
    bad(&|top| fs::write(top.join(OsStr::from_bytes(b"\xe9")), "").unwrap(), "name-not-utf8 \u{fffd}:0");
    bad(
        &|top| rustix::fs::mkfifoat(rustix::fs::CWD, top.join("pipe"), rustix::fs::Mode::RUSR).unwrap(),
        "special-file pipe:0",
    );
    fs::create_dir(dir.path().join("sub")).unwrap();
    symlink("../a.c", dir.path().join("sub/in")).unwrap();
    assert_eq!(shown(&tree().lint(dir.path())), [""; 0]);
}

#[test]
fn without_answers_commands_are_not_checked() {
    let tree = tree().makefile("all:\n\tdepmod\n");
    let dir = tree.plant();
    let package = packages::at_path(dir.path()).unwrap();
    assert_eq!(shown(&super::check(&package, &[]).unwrap()), [""; 0]);
}
