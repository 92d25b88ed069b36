//! Modules are loaded into kernels that this machine does not run: real guests, emulated. What guests that do not behave come
//! to is tried with scripts in QEMU's place, in `kernel/src/boot_test/tests.rs`; real packages in `real_input.rs`.

use crate::builder::file;
use crate::host::{FIXTURES, Host, Run};
use fs_err as fs;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

fn k() -> &'static str {
    &FIXTURES.new
}

/// A line of `kcache boot-test --json`.
#[derive(Deserialize, Debug)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Line {
    Module(Module),
    Summary { exit: i32, acceleration: Option<String> },
}

#[derive(Deserialize, Debug)]
pub struct Module {
    pub package: String,
    pub version: String,
    pub kernel: String,
    pub module: Option<String>,
    pub state: String,
    pub error: Option<String>,
    pub log: Vec<String>,
    pub taints: String,
    pub unloaded: bool,
    pub seconds: f64,
}

impl Module {
    /// The kernel said so.
    #[track_caller]
    fn logs(&self, words: &str) {
        assert!(self.log.iter().any(|line| line.contains(words)), "{words:?} in {self:?}");
    }
}

/// What `--json` printed of each module; the run was to end with its summary.
#[track_caller]
pub fn modules(run: &Run) -> BTreeMap<String, Module> {
    let mut modules = BTreeMap::new();
    let lines: Vec<Line> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    let Some(Line::Summary { exit, acceleration }) = lines.last() else { panic!("{}", run.shown()) };
    assert_eq!(Some(*exit), run.code);
    assert!(matches!(acceleration.as_deref(), Some("tcg" | "kvm")), "{}", run.shown());
    for line in lines {
        if let Line::Module(module) = line {
            modules.insert(module.module.clone().unwrap(), module);
        }
    }
    modules
}

/// The modules of the package `lab`, and what is done in their `init`.
const LAB: [(&str, &str); 7] = [
    ("asks", "return request_module(\"mc\") ? -ENOENT : 0;"),
    ("crc", "return 0;"),
    ("good", "pr_info(\"answer %d\\n\", answer); return 0;"),
    ("magic", "return 0;"),
    ("nodevice", "return -ENODEV;"),
    ("warns", "WARN(1, \"this is the warning\"); return 0;"),
    // The last one: nothing can be tested after it in the same guest.
    ("zoops", "*(volatile int *)8 = answer; return 0;"),
];

fn lab(host: &Host) {
    let source = |init: &str| {
        format!(
            "#include <linux/module.h>\n#include <linux/kmod.h>\nstatic int answer = 7;\nmodule_param(answer, int, 0);\n\
             static int __init start(void) {{ {init} }}\nstatic void __exit stop(void) {{ }}\n\
             module_init(start);\nmodule_exit(stop);\nMODULE_LICENSE(\"GPL\");\n"
        )
    };
    let mut conf = "PACKAGE_NAME=lab\nPACKAGE_VERSION=1.0\nAUTOINSTALL=yes\n".to_owned();
    let mut makefile = String::new();
    let mut files = Vec::new();
    for (i, (name, init)) in LAB.iter().enumerate() {
        conf.push_str(&format!("BUILT_MODULE_NAME[{i}]={name}\nDEST_MODULE_LOCATION[{i}]=/extra\n"));
        makefile.push_str(&format!("obj-m += {name}.o\n"));
        files.push((format!("{name}.c"), source(init)));
    }
    files.push(("dkms.conf".to_owned(), conf));
    files.push(("Makefile".to_owned(), makefile));
    let files: Vec<(&str, String)> = files.iter().map(|(path, text)| (path.as_str(), text.clone())).collect();
    host.write_package("lab-1.0", &files);
}

/// Changes bytes of an installed module: those `ahead` of a text.
fn spoil(host: &Host, module: &str, text: &[u8], ahead: usize) {
    let path = file(&host.kernel(k()).join("updates"), &format!("/{module}.ko"));
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap();
    bytes[at - ahead] ^= 1;
    fs::write(&path, bytes).unwrap();
}

#[test]
fn each_module_has_its_verdict_in_the_kernels_own_words() {
    let host = Host::new(&[k()]);
    lab(&host);
    host.kcache(&["install", "-k", k()]).exits(0);
    spoil(&host, "crc", b"module_layout\0", 8);
    spoil(&host, "magic", b"mod_unload modversions", 0);

    let run = host.kcache(&["boot-test", "-k", k(), "--json", "--param", "good.answer=42"]).exits(3);
    let found = modules(&run);
    let states: Vec<&str> = found.values().map(|module| module.state.as_str()).collect();
    assert_eq!(found.keys().collect::<Vec<_>>(), LAB.map(|(name, _)| name).iter().collect::<Vec<_>>());
    assert_eq!(
        states,
        ["loads", "fails", "loads", "fails", "no-device", "warns", "fails"],
        "{}",
        run.shown()
    );

    let good = &found["good"];
    good.logs("answer 42");
    assert_eq!((good.package.as_str(), good.version.as_str(), good.kernel.as_str()), ("lab", "1.0", k()));
    assert!(good.unloaded && good.taints.contains('O') && good.seconds > 0.0, "{good:?}");
    found["crc"].logs("disagrees about version of symbol module_layout");
    found["magic"].logs("version magic");
    assert_eq!(found["magic"].error.as_deref(), Some("Exec format error"));
    assert_eq!(found["nodevice"].error.as_deref(), Some("No such device"));
    let warns = &found["warns"];
    assert!(warns.error.as_ref().unwrap().contains("WARNING:") && warns.taints.contains('W'), "{warns:?}");
    warns.logs("this is the warning");
    assert!(found["zoops"].taints.contains('D'), "{:?}", found["zoops"]);
    found["zoops"].logs("NULL pointer dereference");
}

#[test]
fn a_user_tests_a_build_that_is_not_installed_and_a_missing_signature_is_reported() {
    let host = Host::new(&[k()]);
    lab(&host);
    let host = host.owned_by_a_user();
    let before = host.tree();
    let run = host.kcache(&["boot-test", "lab", "-k", k(), "--json", "--sig-enforce"]).exits(3);
    for (name, module) in modules(&run) {
        assert_eq!(
            (module.state.as_str(), module.error.as_deref()),
            ("fails", Some("Key was rejected by service")),
            "{name}"
        );
        module.logs("Loading of unsigned module is rejected");
    }
    assert_eq!(before, host.tree());
}

/// A program in QEMU's place.
fn instead_of_qemu(host: &Host, script: &str) -> PathBuf {
    let path = host.dir().join("qemu");
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// A host on which one small module is installed.
fn host_with_hello() -> Host {
    let host = Host::new(&[k()]);
    crate::packages::hello(&host, "hello");
    host.kcache(&["install", "-k", k()]).exits(0);
    host
}

#[test]
fn missing_and_wrong_things_are_reported_with_a_hint() {
    let host = host_with_hello();
    let test = |more: &[&str]| host.kcache(&[&["boot-test", "-k", k()], more].concat());
    test(&["--qemu", "/nowhere/qemu"]).exits(1).one_error();
    test(&["--param", "nobody.x=1"])
        .exits(2)
        .one_error()
        .says(&["module nobody is not among the modules to load"]);
    test(&["--param", "x=1"]).exits(2).says(&["expected MODULE.NAME=VALUE"]);
    test(&["nobody"]).exits(2).says(&["package 'nobody' not found"]);
    let broken = instead_of_qemu(&host, "echo 'it is broken' >&2; exit 1");
    test(&["--qemu", broken.to_str().unwrap()])
        .exits(1)
        .one_error()
        .says(&["QEMU ended with status 1: it is broken"]);
    let dies = instead_of_qemu(&host, "echo 'Kernel panic - not syncing: no init'");
    test(&["--qemu", dies.to_str().unwrap()]).exits(3);

    fs::remove_file(host.root().join("boot").join(format!("vmlinuz-{}", k()))).unwrap();
    test(&[]).exits(1).one_error().says(&[
        "no image of kernel",
        "hint: install the kernel's image",
        "--image FILE",
    ]);
}

#[test]
fn a_dry_run_prints_the_order_of_loading() {
    let host = Host::new(&[k()]).with_packages(&["v4l2loopback"]);
    let dry = ["boot-test", "-n", "-k", k()];
    host.kcache(&dry).exits(0);
    assert!(!host.store().exists());
    host.kcache(&["build", "-k", k()]).exits(0);
    let run = host.kcache(&dry).exits(0).says(&["would boot", "vmlinuz"]);
    run.prints(&["v4l2loopback/0.12.7  v4l2loopback  would load after mc, videodev"]);
}

/// A boot test whose QEMU never ends.
fn never_ending(host: &Host) -> Command {
    let qemu = instead_of_qemu(host, "echo hello; exec sleep 600");
    let mut command = host.command(&["boot-test", "-k", k(), "--qemu", qemu.to_str().unwrap()]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The process id of its QEMU, as soon as that runs: kcache's child, or that of its second process.
fn qemu_of(kcache: &Child) -> String {
    let is_it =
        |pid: &String| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "sleep\n");
    loop {
        let children = children(&kcache.id().to_string());
        let grandchildren: Vec<String> = children.iter().flat_map(|pid| self::children(pid)).collect();
        if let Some(pid) = children.into_iter().chain(grandchildren).find(is_it) {
            return pid;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The process ids of a process's children.
fn children(pid: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    threads.flat_map(|thread| of(thread).split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn qemu_ends_with_kcache_whichever_way_that_ends() {
    use rustix::process::{Pid, Signal, kill_process};
    let host = host_with_hello();
    for (signal, code) in [(Signal::INT, Some(130)), (Signal::TERM, Some(130)), (Signal::KILL, None)] {
        let mut child = never_ending(&host).spawn().unwrap();
        let qemu = qemu_of(&child);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), code);
        // Of a kcache that is killed QEMU is an orphan for a moment, which somebody else waits for.
        while fs::read_to_string(format!("/proc/{qemu}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    // What the killed one left is cleared away by the next.
    host.kcache(&["boot-test", "-k", k(), "--qemu", "/nowhere/qemu"]).exits(1);
    assert_eq!(fs::read_dir(host.store().join("tmp")).unwrap().count(), 0);
}
