//! Modules that a build left and that must not reach a kernel: each is refused by file, expectation and finding, with
//! exit 6, and nothing is installed.

use crate::host::{FIXTURES, Host};
use crate::packages::{hello, prebuilt, with_makefile};
use fs_err as fs;

/// A module that was honestly built for a kernel.
fn honest(kernel: &str) -> Vec<u8> {
    let host = Host::new(&[kernel]);
    hello(&host, "honest");
    host.kcache(&["install", "-k", kernel]).exits(0);
    let (_, path) = host.modules(kernel).pop_first().unwrap();
    fs::read(path).unwrap()
}

#[track_caller]
fn refused(module: &[u8], words: &[&str]) {
    let host = Host::new(&[&FIXTURES.new]);
    prebuilt(&host, "wrong", module);
    refused_on(&host, words);
}

#[track_caller]
fn refused_on(host: &Host, words: &[&str]) {
    let before = host.tree();
    let run = host
        .kcache(&["install", "wrong", "-k", &FIXTURES.new, "--json"])
        .exits(6)
        .says(&["wrong.ko"])
        .says(words);
    assert_eq!(run.outcome().state, "refused");
    assert_eq!(before, host.tree());
}

#[test]
fn promise_4_an_honest_module_passes() {
    let host = Host::new(&[&FIXTURES.new]);
    prebuilt(&host, "wrong", &honest(&FIXTURES.new));
    host.kcache(&["install", "wrong", "-k", &FIXTURES.new]).exits(0);
}

#[test]
fn promise_4_an_empty_module_is_refused() {
    refused(b"", &[]);
}

#[test]
fn promise_4_a_module_for_another_kernel_is_refused() {
    refused(&honest(&FIXTURES.old), &[&FIXTURES.old, &FIXTURES.new]);
}

/// Release, flags, symbols and their versions are right, and the size of `struct module` is.
#[test]
fn promise_4_a_module_built_with_another_configuration_is_refused() {
    let host = Host::new(&[&FIXTURES.new]);
    let make = "make -C $kernel_source_dir M=$dkms_tree/wrong/1.0/build CFLAGS_MODULE='-include $dkms_tree/wrong/1.0/build/other.h'";
    let source = with_makefile(&host, "wrong", "", "obj-m := wrong.o\n", &format!("MAKE=\"{make}\"\n"));
    fs::write(source.join("other.h"), "#undef CONFIG_LIVEPATCH\n").unwrap();
    refused_on(&host, &["the field `exit` of its struct module", "built with another configuration"]);
    fs::write(source.join("other.h"), "").unwrap();
    host.kcache(&["install", "wrong", "-k", &FIXTURES.new]).exits(0);
}

#[test]
fn promise_4_a_module_for_another_machine_is_refused() {
    let mut module = honest(&FIXTURES.new);
    module[18] = 183; // e_machine: EM_AARCH64
    refused(&module, &[]);
}

#[test]
fn promise_4_a_module_with_a_wrong_crc_is_refused() {
    let mut module = honest(&FIXTURES.new);
    // An entry of __versions: eight bytes of CRC, then the symbol's name.
    let name = b"module_layout\0";
    let at = module.windows(name.len()).position(|window| window == name).expect("MODVERSIONS is on");
    module[at - 8] ^= 1;
    refused(&module, &["module_layout"]);
}

#[test]
fn promise_4_a_module_that_needs_an_unknown_symbol_is_refused() {
    let host = Host::new(&[&FIXTURES.new]);
    let make =
        "MAKE=\"make -C $kernel_source_dir M=$dkms_tree/wrong/1.0/build KBUILD_MODPOST_WARN=1 modules\"\n";
    let source = with_makefile(&host, "wrong", "", "obj-m := wrong.o\n", make);
    let text = "#include <linux/module.h>\nextern int nobody_exports_this(void);\n\
                static int __init start(void) { return nobody_exports_this(); }\n\
                module_init(start);\nMODULE_LICENSE(\"GPL\");\n";
    fs::write(source.join("wrong.c"), text).unwrap();
    refused_on(&host, &["nobody_exports_this"]);
}

#[test]
fn a_module_that_could_never_be_loaded_is_left_out_and_the_others_are_not() {
    let host = Host::new(&[&FIXTURES.new]);
    let make = "MAKE=\"make -C $kernel_source_dir M=$dkms_tree/some/1.0/build KBUILD_MODPOST_WARN=1 modules\"\n\
         BUILT_MODULE_NAME[1]=orphan\nDEST_MODULE_LOCATION[1]=/extra\n\
         BUILT_MODULE_NAME[2]=child\nDEST_MODULE_LOCATION[2]=/extra\n";
    let source = with_makefile(&host, "some", "", "obj-m := some.o orphan.o child.o\n", make);
    let needs = |symbol: &str, exports: &str| {
        format!(
            "#include <linux/module.h>\nextern int {symbol}(void);\nint {exports}(void) {{ return {symbol}(); }}\n\
             EXPORT_SYMBOL_GPL({exports});\nMODULE_LICENSE(\"GPL\");\n"
        )
    };
    fs::write(source.join("orphan.c"), needs("nobody_exports_this", "of_orphan")).unwrap();
    fs::write(source.join("child.c"), needs("of_orphan", "of_child")).unwrap();
    let run = host.kcache(&["install", "some", "-k", &FIXTURES.new]).exits(0);
    run.says(&[
        "skipping module: orphan.ko needs the symbol nobody_exports_this",
        "skipping module: child.ko needs the symbol of_orphan",
    ]);
    assert_eq!(host.modules(&FIXTURES.new).into_keys().collect::<Vec<_>>(), ["some/some.ko"]);
    host.kcache(&["build", "--check", "some", "-k", &FIXTURES.new]).exits(0);
    host.kcache(&["check", "-k", &FIXTURES.new]).exits(0);
}

#[test]
fn a_kernels_own_modules_are_read_once_for_what_others_are_compared_with() {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "");
    host.kcache(&["install", "-k", &FIXTURES.new]).exits(0);
    let module = host.kernel(&FIXTURES.new).join("kernel/drivers/media/mc/mc.ko");
    let bytes = fs::read(&module).unwrap();
    fs::remove_file(&module).unwrap();
    fs::write(&module, bytes).unwrap();
    std::thread::sleep(std::time::Duration::from_secs(4)); // files that changed just now are not remembered
    let read = || {
        let log = host.dir().join("opened");
        let log_text = log.to_str().unwrap();
        let strace = ["strace", "-f", "-qq", "-e", "trace=open,openat,openat2", "-o", log_text];
        host.kcache_under(&strace, &["check", "-k", &FIXTURES.new]).exits(0);
        let own = |line: &&str| line.contains("/kernel/") && line.contains(".ko");
        fs::read_to_string(log).unwrap().lines().filter(own).count()
    };
    assert_eq!([read(), read()], [1, 0]);
}
