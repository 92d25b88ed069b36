//! SELinux labels. They need a file system with extended attributes and `CAP_SYS_ADMIN`, but no SELinux.

use std::io::Write;

use rustix::fs::{XattrFlags, lgetxattr, lsetxattr};

use super::*;

const LABEL: &str = "security.selinux";
const MODULES: &str = "system_u:object_r:modules_object_t:s0\0";
const INDEX: &str = "system_u:object_r:modules_dep_t:s0\0";

/// Labels the files of a kernel's package; false if that cannot be done here.
fn labelled(host: &Host) -> bool {
    let tree = host.tree();
    let set =
        |path: &str, label: &str| lsetxattr(tree.join(path), LABEL, label.as_bytes(), XattrFlags::empty());
    if let Err(error) = set("", MODULES) {
        let _ = writeln!(std::io::stderr(), "skipped: {error}");
        return false;
    }
    for path in ["kernel", "kernel/fs", "kernel/fs/intree.ko"] {
        set(path, MODULES).unwrap();
    }
    set("modules.order", INDEX).unwrap();
    true
}

fn label(path: &Path) -> Option<String> {
    let mut bytes = [0; 256];
    let length = lgetxattr(path, LABEL, &mut bytes[..]).ok()?;
    Some(String::from_utf8(bytes[..length].to_vec()).unwrap())
}

#[test]
fn what_is_installed_has_the_labels_of_the_kernels_own_files() {
    let host = Host::new();
    if !labelled(&host) {
        return;
    }
    for version in ["1", "2"] {
        let done = host.install(&[host.package("p", version, &["one"])]).unwrap();
        assert_eq!(done.remarks, []);
        let name = done.generation.unwrap();
        let of = |path: &str| label(&host.tree().join(path));
        let modules = Some(MODULES.to_owned());
        assert_eq!(of("updates"), modules);
        for path in ["", "/p", "/p/one.ko.xz", "/generation.json"] {
            assert_eq!(of(&format!("updates/kcache-{name}{path}")), modules, "{path}");
        }
        for name in ["modules.dep", DEP_BIN, "modules.alias"] {
            assert_eq!(of(name).as_deref(), Some(INDEX), "{name}");
        }
    }
}

#[test]
fn without_labels_none_are_made() {
    let host = Host::indexed();
    let done = host.install(&[host.package("p", "1", &["one"])]).unwrap();
    let generation = host.tree().join(format!("updates/kcache-{}", done.generation.unwrap()));
    assert_eq!([label(&generation), label(&host.tree().join(DEP_BIN))], [None, None]);
}
