//! Builds: what a key is made of, what a build may do, what it gives.

use crate::host::{FIXTURES, Host, is_root};
use crate::packages::{self, hello, script, with_makefile};
use fs_err as fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Builds `hello`, changes one thing, builds again: was it the same build?
#[track_caller]
fn check(change: impl FnOnce(&Host), same: bool) {
    let host = Host::new(&[&FIXTURES.new]);
    hello(&host, "first");
    let build = ["build", "hello", "-k", &FIXTURES.new, "--json"];
    let first = host.kcache(&build).exits(0).outcome();
    assert_eq!(first.how.as_deref(), Some("built"));
    change(&host);
    let second = host.kcache(&build).exits(0).outcome();
    assert_eq!(second.key == first.key, same, "the key");
    assert_eq!(second.how.as_deref(), Some(if same { "store" } else { "built" }));
}

fn append(path: &Path, text: &str) {
    let old = fs::read_to_string(path).unwrap();
    fs::write(path, old + text).unwrap();
}

#[test]
fn promise_7_nothing_changed_is_a_hit() {
    check(|_| (), true);
}

#[test]
fn promise_7_times_and_git_are_no_part_of_the_source() {
    check(
        |host| {
            let source = hello(host, "first");
            fs::create_dir(source.join(".git")).unwrap();
            fs::write(source.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        },
        true,
    );
}

#[test]
fn promise_7_an_edited_source_without_a_version_bump_is_another_build() {
    check(|host| drop(hello(host, "second")), false);
}

#[test]
fn promise_7_an_edited_recipe_is_another_build() {
    check(|host| append(&host.root().join("usr/src/hello-1.0/dkms.conf"), "POST_BUILD=\"true\"\n"), false);
}

#[test]
fn promise_7_another_kernel_configuration_is_another_build() {
    check(|host| append(&host.headers(&FIXTURES.new).join(".config"), "CONFIG_KCACHE_TEST=y\n"), false);
}

#[test]
fn promise_7_an_edited_common_header_is_another_build() {
    let common = format!("usr/src/linux-headers-{}-common", FIXTURES.new.trim_end_matches("-amd64"));
    check(|host| append(&host.root().join(common).join("include/linux/module.h"), "/* edited */\n"), false);
}

#[test]
fn promise_7_an_upgraded_kbuild_is_another_build() {
    check(
        |host| append(&host.root().join("usr/lib/linux-kbuild-6.1/scripts/Makefile.build"), "# edited\n"),
        false,
    );
}

#[test]
fn promise_7_a_kernel_rebuilt_under_the_same_release_is_another_build() {
    check(
        |host| {
            let path = host.headers(&FIXTURES.new).join("include/generated/utsversion.h");
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, text.replace("#1 SMP", "#2 SMP")).unwrap();
        },
        false,
    );
}

#[test]
fn a_makefile_that_asks_uname_builds_for_the_kernel_asked_for() {
    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    packages::insists_on_uname(&host);
    host.kcache(&["install", "running", "-k", &FIXTURES.old, "-k", &FIXTURES.new]).exits(0);
    for kernel in [&FIXTURES.old, &FIXTURES.new] {
        let vermagic = host.modinfo(kernel, "running", "vermagic");
        assert!(vermagic.starts_with(&format!("{kernel} ")), "{vermagic}");
    }
}

/// What a package finds behind `/lib/modules/K/source` and the variables that lead there, as ZFS's and NVIDIA's look for it.
fn found_in_source(host: &Host) -> String {
    let conf = "PRE_BUILD=\"look.sh ${kernel_source_dir/%build/source}\"\n";
    let source = with_makefile(host, "hello", "x", "obj-m := hello.o\n", conf);
    script(
        &source,
        "look.sh",
        "echo found $(readlink -f $1) $(ls $1/include/linux/fs.h $1/include/generated/utsrelease.h)",
    );
    host.kcache(&["build", "hello", "-k", &FIXTURES.new]).exits(0);
    let log = host.kcache(&["log", "hello", "-k", &FIXTURES.new]).exits(0).stdout;
    log.lines().find_map(|line| line.strip_prefix("found ")).unwrap().to_owned()
}

#[test]
fn source_is_the_kernels_own_and_part_of_the_key() {
    let host = Host::new(&[&FIXTURES.new]);
    let link = host.kernel(&FIXTURES.new).join("source");
    let common = fs::read_link(&link).unwrap().display().to_string();
    assert_eq!(found_in_source(&host), format!("{common} {}/include/linux/fs.h", link_name()));

    // Another place with the same headers, which nothing else reaches.
    fs::create_dir_all(host.root().join("opt/linux/include/linux")).unwrap();
    fs::write(host.root().join("opt/linux/Makefile"), "").unwrap();
    fs::write(host.root().join("opt/linux/include/linux/fs.h"), "").unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("/opt/linux", &link).unwrap();
    assert!(found_in_source(&host).starts_with("/opt/linux "), "another source is another build");
    let comes_from = |expect: &str| {
        let run = host.kcache(&["build", "hello", "-k", &FIXTURES.new, "--json"]).exits(0);
        assert_eq!(run.outcome().how.as_deref(), Some(expect));
    };
    comes_from("store");
    fs::write(host.root().join("opt/linux/include/linux/fs.h"), "edited").unwrap();
    comes_from("built");

    // As on a machine that the kernel was not built on.
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("/nowhere", &link).unwrap();
    let headers = format!("/usr/src/linux-headers-{} ", FIXTURES.new);
    assert!(found_in_source(&host).starts_with(&headers), "without a source it is the build tree");
}

fn link_name() -> String {
    format!("/lib/modules/{}/source", FIXTURES.new)
}

#[test]
fn a_plain_kbuild_directory_needs_no_recipe() {
    let host = Host::new(&[&FIXTURES.new]);
    let source = hello(&host, "plain");
    fs::remove_file(source.join("dkms.conf")).unwrap();
    let plain = host.dir().join("plain");
    fs::rename(&source, &plain).unwrap();
    let run = host.kcache(&["install", plain.to_str().unwrap(), "-k", &FIXTURES.new, "--json"]).exits(0);
    assert_eq!(run.outcome().modules, ["hello.ko"]);
    assert_eq!(host.modinfo(&FIXTURES.new, "hello", "description"), "plain");
}

/// Prints what a build sees and tries what it may not.
const NOSY: &str = r#"
SHELL := /bin/bash
obj-m := nosy.o
all:
	@echo "uid is $$(id -u)"
	@echo "network: $$( (echo hello >/dev/tcp/127.0.0.1/PORT) 2>/dev/null && echo open || echo closed)"
	@echo "root's files: $$(ls -A /root 2>/dev/null | wc -l)"
	@echo "headers: $$(touch $(KDIR)/touched 2>/dev/null && echo writable || echo read-only)"
	@echo "kernels: $$(ls /lib/modules | xargs)"
	$(MAKE) -C $(KDIR) M=$(CURDIR) modules
"#;

#[test]
fn promise_6_a_build_is_not_root_has_no_network_and_sees_one_kernel() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port().to_string();

    let host = Host::new(&[&FIXTURES.old, &FIXTURES.new]);
    let make = "MAKE=\"make all KDIR=$kernel_source_dir\"\n";
    with_makefile(&host, "nosy", "", &NOSY.replace("PORT", &port), make);
    host.kcache(&["build", "nosy", "-k", &FIXTURES.new]).exits(0);

    let log = host.kcache(&["log", "nosy", "-k", &FIXTURES.new]).exits(0);
    let kernels = format!("kernels: {}\n", FIXTURES.new);
    let log = log.prints(&["uid is ", "network: closed", "root's files: 0", "headers: read-only", &kernels]);
    assert!(!log.stdout.contains("uid is 0\n"), "{}", log.shown());
    assert!(listener.accept().is_err(), "the build reached the network");
    assert!(!host.headers(&FIXTURES.new).join("touched").exists());
}

#[test]
fn promise_8_two_directories_and_two_users_give_the_same_bits() {
    let digests = |host: Host| {
        host.kcache(&["install", "v4l2loopback", "-k", &FIXTURES.new]).exits(0);
        Host::resolved(&host.root(), &FIXTURES.new, &["v4l2loopback"])
    };
    let host = || Host::new(&[&FIXTURES.new]).with_packages(&["v4l2loopback"]);
    let first = digests(host());
    assert!(first["v4l2loopback"].is_some());
    assert_eq!(first, digests(host().owned_by_a_user()));
}

#[test]
fn promise_8_a_build_that_is_not_reproducible_is_reported() {
    let host = Host::new(&[&FIXTURES.new]);
    let makefile =
        "obj-m := dice.o\nccflags-y := -DDICE=\\\"$(shell od -An -N8 -tx8 /dev/urandom | tr -d ' ')\\\"\n";
    let source = with_makefile(&host, "dice", "", makefile, "");
    append(&source.join("dice.c"), "MODULE_INFO(dice, DICE);\n");
    host.kcache(&["build", "dice", "-k", &FIXTURES.new, "--check"]).exits(7).says(&["dice.ko"]);
}

#[test]
fn a_build_that_fails_is_shown_remembered_and_does_not_stop_the_others() {
    let host = Host::new(&[&FIXTURES.new]);
    packages::broken(&host);
    hello(&host, "works");
    let install = ["install", "-k", &FIXTURES.new, "--json"];
    let first = host.kcache(&install).exits(4).says(&["broken.c:2", "no_such_name"]);
    let how = |outcomes: &[crate::host::Outcome], name: &str| {
        let outcome = outcomes.iter().find(|outcome| outcome.package == name).unwrap();
        format!("{} {}", outcome.state, outcome.how.as_deref().unwrap_or("-"))
    };
    assert_eq!(how(&first.outcomes(), "broken"), "failed built");
    assert_eq!(how(&first.outcomes(), "hello"), "installed built");
    assert_eq!(host.modinfo(&FIXTURES.new, "hello", "description"), "works");

    let second = host.kcache(&install).exits(4).says(&["no_such_name"]);
    assert_eq!(how(&second.outcomes(), "broken"), "failed failure-remembered");
    let third = host.kcache(&["install", "broken", "-k", &FIXTURES.new, "--json", "--rebuild"]).exits(4);
    assert_eq!(how(&third.outcomes(), "broken"), "failed built");
    host.kcache(&["log", "broken", "-k", &FIXTURES.new]).exits(0).prints(&["no_such_name"]);
}

#[test]
fn a_package_that_excludes_the_kernel_is_no_failure() {
    let host = Host::new(&[&FIXTURES.new]);
    with_makefile(&host, "picky", "", "obj-m := picky.o\n", "BUILD_EXCLUSIVE_KERNEL=\"^5\\.\"\n");
    let run = host.kcache(&["install", "picky", "-k", &FIXTURES.new, "--json"]).exits(0);
    assert_eq!(run.outcome().state, "excluded");
    assert!(host.modules(&FIXTURES.new).is_empty());
}

#[test]
fn ctrl_c_leaves_nothing_behind_and_no_memory_of_a_failure() {
    interrupted(|host, words| {
        let child = piped(&mut host.command(words));
        (rustix::process::Pid::from_child(&child), child)
    });
}

#[test]
fn ctrl_c_does_in_a_container_whose_process_group_is_outside_of_it() {
    if !is_root() {
        return; // a PID namespace needs root
    }
    interrupted(|host, words| {
        let kcache = host.command(words);
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child"]).arg(kcache.get_program());
        command.args(kcache.get_args()).env_clear();
        command.envs(kcache.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let child = piped(&mut command);
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let first = || fs::read_to_string(&children).unwrap_or_default().trim().parse().ok();
        wait_until("kcache runs", || first().is_some());
        (rustix::process::Pid::from_raw(first().unwrap()).unwrap(), child)
    });
}

fn piped(command: &mut Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Interrupts an installation, which `start` starts, while it builds.
fn interrupted(start: impl FnOnce(&Host, &[&str]) -> (rustix::process::Pid, Child)) {
    // A length that no other process on this machine sleeps for.
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let marker = format!("{}.0{}", 600 + RUNS.fetch_add(1, Ordering::Relaxed), std::process::id());
    let host = Host::new(&[&FIXTURES.new]);
    let makefile = format!("all:\n\tsleep {marker}\n");
    with_makefile(&host, "slow", "", &makefile, "MAKE=\"make all\"\n");
    let before = host.tree();

    let (pid, child) = start(&host, &["install", "slow", "-k", &FIXTURES.new]);
    wait_until("the build sleeps", || runs(&marker));
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    wait_until("the build is gone", || !runs(&marker));
    crate::host::Run::from(child.wait_with_output().unwrap()).exits(130);

    assert_eq!(before, host.tree());
    assert_eq!(names(&host.dir().join("tmp")), [""; 0]);
    assert_eq!(names(&host.store().join("tmp")), [""; 0]);

    with_makefile(&host, "slow", "quick now", "obj-m := slow.o\n", "");
    host.kcache(&["install", "slow", "-k", &FIXTURES.new]).exits(0);
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Whether a `sleep` of this length is running.
fn runs(length: &str) -> bool {
    let is_it = |pid: String| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line == format!("sleep\0{length}\0")
    };
    names(Path::new("/proc")).into_iter().any(is_it)
}

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
