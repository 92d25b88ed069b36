//! What real recipes do that is easily got wrong. One package for each, all of them built in one run.
//!
//! Each puts something that it found out into its module's description: `WHAT`.

use std::path::PathBuf;

use fs_err as fs;

use crate::host::{FIXTURES, Host};
use crate::packages::{dkms_conf, module_c, script};

/// The usual line, with `WHAT`.
const MAKE: &str = "make -C $kernel_source_dir M=$dkms_tree/$module/1.0/build WHAT=$what";

/// A package whose recipe sets `what`, or builds otherwise.
fn trap(host: &Host, name: &str, conf: &str) -> PathBuf {
    let make = if conf.contains("MAKE=") { String::new() } else { format!("MAKE=\"{MAKE}\"\n") };
    host.write_package(
        &format!("{name}-1.0"),
        &[
            ("dkms.conf", dkms_conf(name, "1.0", &format!("{conf}\n{make}"))),
            (
                "Makefile",
                format!(
                    "-include $(src)/what.mk\nobj-m := {name}.o\nccflags-y := -DWHAT='\"$(WHAT)\"' -DWHERE='\"$(PWD)\"'\n"
                ),
            ),
            ("outer.mk", "all:\n\t$(MAKE) -C $(KDIR) M=$(CURDIR) WHAT=[$(KERNELRELEASE)]\n".to_owned()),
            (&format!("{name}.c"), module_c("x").replace("\"x\"", "WHAT") + "MODULE_INFO(where, WHERE);\n"),
        ],
    )
}

/// Recipes, and what they must find out. `K` stands for the kernel.
const TRAPS: [(&str, &str, &str); 15] = [
    ("config", ". $kernel_source_dir/.config\nwhat=$CONFIG_X86_64", "y"),
    // Of the two configurations it is the headers', which has this line.
    ("boot", ". /boot/config-$kernelver\nwhat=$CONFIG_BUILD_SALT", "K"),
    (
        "presence",
        "common=$(sed -n 's/^include //p' $kernel_source_dir/Makefile)\n\
         for header in kobject.h nosuch.h module.h; do\n\
           [ -e ${common%/*}/include/linux/$header ] && what=${what:+$what,}${header%.h}\ndone",
        "kobject,module",
    ),
    ("dirname", "what=$(basename \"$(dirname \"$BASH_SOURCE\")\")", "dirname-1.0"),
    (
        "pushed",
        "pushd \"$(dirname $BASH_SOURCE)\" >/dev/null; what=$(ls outer.mk); popd >/dev/null",
        "outer.mk",
    ),
    ("sorted", "what=$(printf '%s\\n' 6.9 6.12 6.1 | sort -V | tail -n1)", "6.12"),
    ("cased", "case $kernelver in 5.*) what=five ;; 6.*) what=six ;; esac", "six"),
    ("sysconfig", ". /etc/sysconfig/nosuch 2>/dev/null\nwhat=${INITRD_MODULES:-absent}", "absent"),
    (
        "others",
        "what=none\nfor s in /usr/src/ofa_kernel/default $dkms_tree/mlnx-ofed-kernel; do\n\
         [ -e $s/Module.symvers ] && what=there\ndone",
        "none",
    ),
    (
        "configured",
        "MAKE=\"./configure $kernelver && make -C $kernel_source_dir M=$dkms_tree/configured/1.0/build\"",
        "gcc-12",
    ),
    (
        "prepared",
        "PRE_BUILD=\"configure\"\nMAKE=\"make -C $kernel_source_dir M=$dkms_tree/prepared/1.0/build\"",
        "gcc-12",
    ),
    ("piped", "MAKE=\"make -f outer.mk all KDIR=$kernel_source_dir | cat; true\"", "[K]"),
    // In quotes it is not DKMS's own make any more, and gets no KERNELRELEASE.
    ("quoted", "MAKE=\"'make' -f outer.mk all KDIR=$kernel_source_dir\"", "[]"),
    ("crlf", "if [ 1 = 1 ]; then\nwhat=lines\nfi", "lines"),
    ("patched", "PATCH[0]=\"crlf.patch\"", "after"),
];

#[test]
fn what_real_recipes_do_comes_out_as_with_dkms() {
    let host = Host::new(&[&FIXTURES.new]);
    for (name, conf, _) in TRAPS {
        let source = trap(&host, name, conf);
        match name {
            "configured" | "prepared" => script(&source, "configure", "echo WHAT=$CC >what.mk"),
            "crlf" => {
                let text = fs::read_to_string(source.join("dkms.conf")).unwrap();
                fs::write(source.join("dkms.conf"), text.replace('\n', "\r\n")).unwrap();
            }
            "patched" => {
                fs::write(source.join("what.mk"), "override WHAT := before\n").unwrap();
                fs::create_dir(source.join("patches")).unwrap();
                let patch = "--- a/what.mk\n+++ b/what.mk\n@@ -1 +1 @@\n-override WHAT := before\n+override WHAT := after\n";
                fs::write(source.join("patches/crlf.patch"), patch.replace('\n', "\r\n")).unwrap();
            }
            _ => {}
        }
    }
    let run = host.kcache(&["-v", "install", "-k", &FIXTURES.new]);
    let installed = host.modules(&FIXTURES.new);
    let found = |name: &str| {
        let module = format!("{name}/{name}.ko");
        installed.contains_key(&module).then(|| host.modinfo(&FIXTURES.new, &module, "description"))
    };
    // Below `make -C`, too, `$(PWD)` is where make was called.
    let place = host.modinfo(&FIXTURES.new, "sorted/sorted.ko", "where");
    assert_eq!(place, "/var/lib/dkms/sorted/1.0/build");
    let expected = TRAPS.map(|(name, _, what)| (name, Some(what.replace('K', &FIXTURES.new))));
    assert_eq!(TRAPS.map(|(name, _, _)| (name, found(name))), expected, "{}", run.shown());
    run.exits(0).says(&["crlf: dkms.conf has Windows line endings"]);
}

#[test]
fn a_version_may_be_odd() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = host.root().join("usr/src/odd-1.0~rc1+git2");
    fs::rename(trap(&host, "odd", "what=odd"), &source).unwrap();
    let make = MAKE.replace("1.0", "$module_version");
    let conf = dkms_conf("odd", "1.0~rc1+git2", &format!("what=$PACKAGE_VERSION\nMAKE=\"{make}\"\n"));
    fs::write(source.join("dkms.conf"), conf).unwrap();
    host.kcache(&["install", "odd", "-k", &FIXTURES.new]).exits(0);
    assert_eq!(host.modinfo(&FIXTURES.new, "odd", "description"), "1.0~rc1+git2");
}

#[test]
fn a_compiler_that_is_not_there_is_named_and_no_other_taken() {
    let host = Host::new(&[&FIXTURES.new]);
    trap(&host, "config", "what=x");
    let variables = host.headers(&FIXTURES.new).join(".kernelvariables");
    let text = fs::read_to_string(&variables).unwrap().replace("gcc-12", "gcc-99");
    fs::write(&variables, text).unwrap();
    let run = host.kcache(&["install", "config", "-k", &FIXTURES.new]).exits(4).one_error();
    run.says(&["gcc-99 is not installed", "hint: install gcc-99 (Debian package: gcc-99)"]);
    // A kernel that only says what built it gets what its build tree takes, and that is said.
    fs::remove_file(&variables).unwrap();
    let config = host.headers(&FIXTURES.new).join(".config");
    let text = fs::read_to_string(&config).unwrap().replace("\"gcc-12 (Debian 12", "\"gcc-98 (Debian 98");
    fs::write(&config, text).unwrap();
    host.kcache(&["explain", "config", "-k", &FIXTURES.new])
        .says(&["warning: kernel", "was built by gcc-98"]);
}

/// What this kernel was configured with because gcc can do it, and clang 14 cannot.
const OF_GCC: [&str; 8] = [
    "CONFIG_RETHUNK",
    "CONFIG_SLS",
    "CONFIG_FTRACE_MCOUNT_USE_CC",
    "CONFIG_FTRACE_MCOUNT_RECORD",
    "CONFIG_FUNCTION_TRACER",
    "CONFIG_INIT_STACK_ALL_ZERO",
    "CONFIG_GCC_VERSION",
    "CONFIG_CC_NO_ARRAY_BOUNDS",
];

/// A kernel's headers say that it was built by clang: so are its modules, or that clang is not there is said.
#[test]
fn the_modules_of_a_kernel_that_clang_built_are_built_by_clang() {
    let host = Host::new(&[&FIXTURES.new]);
    trap(&host, "config", "what=clang");
    let headers = host.headers(&FIXTURES.new);
    let config = fs::read_to_string(headers.join(".config")).unwrap();
    let config = config
        .replace("CONFIG_CC_IS_GCC=y", "CONFIG_CC_IS_CLANG=y\nCONFIG_LD_IS_LLD=y")
        .replace("CONFIG_LD_IS_BFD=y\n", "")
        .replace("\"gcc-12 (Debian ", "\"Debian clang version 14 (");
    fs::write(headers.join(".config"), config).unwrap();
    let variables = headers.join(".kernelvariables");
    let text = fs::read_to_string(&variables).unwrap();
    let text: String =
        text.lines().filter(|line| !line.starts_with("CC = ")).map(|line| format!("{line}\n")).collect();
    fs::write(&variables, text).unwrap();
    for made in ["include/config/auto.conf", "include/generated/autoconf.h"] {
        let text = fs::read_to_string(headers.join(made)).unwrap();
        let of_clang = |line: &&str| !OF_GCC.iter().any(|symbol| line.contains(symbol));
        let text: String = text.lines().filter(of_clang).map(|line| format!("{line}\n")).collect();
        let text =
            text.replace("CONFIG_CC_IS_GCC", "CONFIG_CC_IS_CLANG").replace("fallthrough=5", "fallthrough");
        fs::write(headers.join(made), text.replace("CONFIG_LD_IS_BFD", "CONFIG_LD_IS_LLD")).unwrap();
    }
    let run = host.kcache(&["install", "config", "-k", &FIXTURES.new]);
    if !["clang", "ld.lld", "llvm-strip"].iter().all(|name| PathBuf::from("/usr/bin").join(name).exists()) {
        run.exits(4).one_error().says(&["is not installed, but kernel", "hint: install "]);
        return;
    }
    run.exits(0);
    let explained = host.kcache(&["explain", "config", "-k", &FIXTURES.new]).exits(0);
    explained.prints(&["clang version", "LLD"]);
    let module = host.modules(&FIXTURES.new)["config/config.ko"].clone();
    let bytes = fs::read(module).unwrap();
    let holds = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    assert!(holds(b"clang version") && !holds(b"GCC: ("));
}
