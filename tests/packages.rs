//! Small packages, made for the tests and named for what is peculiar about them.

use crate::host::Host;
use fs_err as fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A `dkms.conf` for one module in the top directory; `more` is added to it.
pub fn dkms_conf(name: &str, version: &str, more: &str) -> String {
    format!(
        "PACKAGE_NAME=\"{name}\"\nPACKAGE_VERSION=\"{version}\"\nBUILT_MODULE_NAME[0]=\"{name}\"\n\
         DEST_MODULE_LOCATION[0]=\"/extra\"\nAUTOINSTALL=\"yes\"\n{more}"
    )
}

/// A module that does nothing and bears `text` as its description.
pub fn module_c(text: &str) -> String {
    format!(
        "#include <linux/module.h>\nstatic int __init start(void) {{ return 0; }}\nstatic void __exit stop(void) {{ }}\n\
         module_init(start);\nmodule_exit(stop);\nMODULE_DESCRIPTION(\"{text}\");\nMODULE_LICENSE(\"GPL\");\n"
    )
}

/// A package of one module, built by the plain Kbuild line.
pub fn hello(host: &Host, text: &str) -> PathBuf {
    plain(host, "hello", text)
}

pub fn plain(host: &Host, name: &str, text: &str) -> PathBuf {
    with_makefile(host, name, text, &format!("obj-m := {name}.o\n"), "")
}

/// A package of one module whose Makefile and further `dkms.conf` lines are given.
pub fn with_makefile(host: &Host, name: &str, text: &str, makefile: &str, conf: &str) -> PathBuf {
    host.write_package(
        &format!("{name}-1.0"),
        &[
            ("dkms.conf", dkms_conf(name, "1.0", conf)),
            ("Makefile", makefile.to_owned()),
            (&format!("{name}.c"), module_c(text)),
        ],
    )
}

/// A script of a package's, executable.
pub fn script(source: &Path, name: &str, text: &str) {
    let path = source.join(name);
    fs::write(&path, format!("#!/bin/bash\n{text}\n")).unwrap();
    fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// A package whose Makefile insists on the running kernel.
pub fn insists_on_uname(host: &Host) -> PathBuf {
    let makefile = "KDIR = /lib/modules/$(shell uname -r)/build\nobj-m := running.o\nall:\n\t$(MAKE) -C $(KDIR) M=$(CURDIR) modules\n";
    with_makefile(host, "running", "built for whoever runs", makefile, "MAKE=\"make all\"\n")
}

/// A package that does not compile.
pub fn broken(host: &Host) -> PathBuf {
    let source = plain(host, "broken", "");
    fs::write(
        source.join("broken.c"),
        "#include <linux/module.h>\nint start(void) { return no_such_name; }\n",
    )
    .unwrap();
    source
}

/// A package that "builds" by copying a module it brings along.
pub fn prebuilt(host: &Host, name: &str, module: &[u8]) {
    let makefile = format!("all:\n\tcp prebuilt.bin {name}.ko\n");
    let source = with_makefile(host, name, "", &makefile, "MAKE=\"make all\"\n");
    fs::write(source.join("prebuilt.bin"), module).unwrap();
}

/// The modules of the package `trio`.
pub const TRIO: [&str; 3] = ["trio_a", "trio_b", "trio_c"];

/// A package of three modules, each of which bears `text`.
pub fn trio(host: &Host, text: &str) {
    let names = (0..3)
        .map(|i| format!("BUILT_MODULE_NAME[{i}]=\"{0}\"\nDEST_MODULE_LOCATION[{i}]=\"/extra\"\n", TRIO[i]));
    let conf =
        format!("PACKAGE_NAME=trio\nPACKAGE_VERSION=1.0\nAUTOINSTALL=yes\n{}", names.collect::<String>());
    let makefile = TRIO.map(|name| format!("obj-m += {name}.o\n")).concat();
    let mut files = vec![("dkms.conf", conf), ("Makefile", makefile)];
    let sources = TRIO.map(|name| format!("{name}.c"));
    files.extend(sources.iter().map(|path| (path.as_str(), module_c(text))));
    host.write_package("trio-1.0", &files);
}
