use super::*;

fn noticed(log: &str) -> Logged {
    let mut logged = Logged::default();
    log.lines().for_each(|line| logged.notice(line));
    logged
}

fn first_error(log: &str) -> String {
    noticed(log).failure(Some(2), None, false).first_error
}

#[test]
fn the_first_compiler_error_is_what_failed() {
    let log = "kcache: $ make clean\nx.c:1: error: old\nkcache: $ make\nmake: *** [a] Error 1\n\
               a.c:3:1: error: first\na.c:4:1: error: second\n";
    let failure = noticed(log).failure(Some(2), None, false);
    assert_eq!(failure.first_error, "a.c:3:1: error: first");
    assert_eq!(failure.command, "make");
}

#[test]
fn without_a_compiler_error_makes_error_or_the_last_line_counts() {
    assert_eq!(
        first_error("a\nmake: *** No rule to make target 'x'.  Stop.\nb"),
        "make: *** No rule to make target 'x'.  Stop."
    );
    assert_eq!(first_error("a\nb\n \n"), "b");
    assert_eq!(
        noticed("kcache: $ ./x\n").failure(Some(3), None, false).first_error,
        "`./x` ended with status 3 and printed nothing"
    );
}

#[test]
fn the_text_above_an_empty_error_of_make_is_the_error() {
    let log = "/h/Makefile:149: =============== ERROR ==============\n\
               /h/Makefile:150: 'SUBDIRS' was removed in Linux 5.3\n\
               /h/Makefile:151: Use 'M=' or 'KBUILD_EXTMOD=' instead\n\
               /h/Makefile:152: ====================================\n/h/Makefile:153: *** ..  Stop.\n";
    assert_eq!(first_error(log), "'SUBDIRS' was removed in Linux 5.3; Use 'M=' or 'KBUILD_EXTMOD=' instead");
    let other = "Makefile:1: of another matter\n  CC x.o\nMakefile:3: *** .  Stop.\n";
    assert_eq!(first_error(other), "Makefile:3: *** .  Stop.");
    let full = "Makefile:1: a note\nMakefile:2: *** gpu source not found.  Stop.\n";
    assert_eq!(first_error(full), "Makefile:2: *** gpu source not found.  Stop.");
}

#[test]
fn where_make_only_names_a_target_its_commands_complaint_is_the_error() {
    let log = "cc -o tool tool.c\ngrep: x: No such file or directory\nmkdir: cannot create directory 'out': Read-only file system\n\
               make: *** [Makefile:4: tool] Error 1\nmake: cannot say more\n";
    assert_eq!(
        first_error(log),
        format!("mkdir: cannot create directory 'out': Read-only file system ({READ_ONLY})")
    );
    assert_eq!(first_error("checking for x... not found\nmake: *** [a] Error 1"), "make: *** [a] Error 1");
    assert_eq!(
        first_error("ld: cannot find x\nmake: *** No rule to make target 'y'.  Stop."),
        "make: *** No rule to make target 'y'.  Stop."
    );
}

#[test]
fn quoted_output_of_failed_attempts_is_no_error() {
    let log = "//   test.c:4:16: error: storage size\na.c:71:10: fatal error: asm/unaligned.h";
    assert_eq!(first_error(log), "a.c:71:10: fatal error: asm/unaligned.h");
}

#[test]
fn clangs_errors_about_options_are_compiler_errors() {
    let log = "error: unknown warning option '-Wx' [-Werror]\nmake: *** [a] Error 1";
    assert!(first_error(log).starts_with("error: unknown"));
}

#[test]
fn a_hidden_compiler_error_precedes_the_missing_module() {
    let failure = noticed("a.c:3:1: error: first").failure_in_spite_of_success("built no a.ko");
    assert_eq!(
        failure.first_error,
        "a.c:3:1: error: first (the build ended with status 0, but built no a.ko)"
    );
}

#[test]
fn the_message_of_a_failed_configure_is_the_error() {
    let zfs = "checking whether bops->submit_bio() exists... configure: error:\n\
               \t*** None of the expected \"bops\" interfaces were detected.\n\
               \t*** This may be because your kernel version is newer\n\t***\n\t*** Compatible Kernels: 3.10 - 6.2\n\n\
               a.c:1:1: error: later\n*** later\n";
    let said = "configure: error: None of the expected \"bops\" interfaces were detected. \
                This may be because your kernel version is newer Compatible Kernels: 3.10 - 6.2";
    assert_eq!(first_error(zfs), said);
    let plain =
        "x.c:1:1: error: of an attempt\nconfigure: error: *** A compiler is missing\nsee config.log\n";
    assert_eq!(first_error(plain), "configure: error: *** A compiler is missing");
    let long = format!("configure: error: a\n{}", "*** b\n".repeat(10_000));
    assert!(first_error(&long).len() <= MOST_REASON);
}

#[test]
fn failed_test_compiles_are_identified() {
    let line =
        "/var/lib/dkms/n/1/build/conftest/functions.h:7:2: error: #error dma_buf_export() conftest failed!";
    assert_eq!(noticed(line).conftest(), Some(Path::new("/var/lib/dkms/n/1/build/conftest/functions.h")));
    assert_eq!(first_error(line), format!("{line} ({CONFTEST})"));
    assert_eq!(noticed("a.h:7:2: error: #error not for this kernel").conftest(), None);
}

#[test]
fn a_failed_script_is_reported_with_its_purpose_and_its_want_of_the_network() {
    let step =
        |log: &str, downloads| noticed(log).failure(Some(1), Some("its PRE_BUILD"), downloads).first_error;
    assert_eq!(
        step("kcache: $ get.sh\ncurl: (6) Could not resolve host: git.kernel.org\n", false),
        "curl: (6) Could not resolve host: git.kernel.org (its PRE_BUILD, `get.sh`, failed; builds have no network)"
    );
    assert_eq!(
        step("kcache: $ get.sh\nkernel could not be downloaded\n", true),
        "kernel could not be downloaded (its PRE_BUILD, `get.sh`, failed; builds have no network)"
    );
    assert_eq!(step("kcache: $ get.sh\nno\n", false), "no (its PRE_BUILD, `get.sh`, failed)");
    assert_eq!(
        step("kcache: $ get.sh\n", false),
        "its PRE_BUILD, `get.sh`, ended with status 1 and printed nothing"
    );
}

#[test]
fn the_network_and_the_complaint_above_advice_are_the_cause() {
    let ssh = "Cloning into 'y'...\nssh: Could not resolve hostname github.com: Temporary failure\n\
               fatal: Could not read from remote repository.\n\nPlease make sure you have the correct access rights\n\
               and the repository exists.\n";
    assert!(first_error(ssh).starts_with("ssh: Could not resolve hostname"), "{}", first_error(ssh));
    let git = "fatal: not a git repository (or any parent up to mount point /)\n\
               Stopping at filesystem boundary (GIT_DISCOVERY_ACROSS_FILESYSTEM not set).";
    assert!(first_error(git).starts_with("fatal: not a git"));
    let piped = "curl: (6) Could not resolve host: x\ntar: Error is not recoverable: exiting now\nmake: *** [a] Error 2";
    assert!(first_error(piped).starts_with("curl: (6)"));
    let compiled = "wget: bad address 'x'\na.c:1:1: error: first\nmake: *** [a] Error 1";
    assert_eq!(first_error(compiled), format!("a.c:1:1: error: first ({NO_NETWORK})"));
}

#[test]
fn what_only_follows_from_an_error_is_no_cause() {
    let linked = "/usr/bin/ld: cannot find -lelf: No such file or directory\ncollect2: error: ld returned 1 exit status\nmake: *** [t] Error 1";
    assert!(first_error(linked).contains("cannot find -lelf"));
    let perl = "Can't locate A/B.pm in @INC (@INC contains: /etc/perl).\nBEGIN failed--compilation aborted.\nmake: *** [t] Error 2";
    assert!(first_error(perl).starts_with("Can't locate A/B.pm"));
}

#[test]
fn a_write_elsewhere_is_reported_with_where_builds_can_write() {
    assert!(first_error("touch: cannot touch '/var/log/x': No such file or directory").contains(READ_ONLY));
    assert!(first_error("pre: line 2: /root/x: No such file or directory").contains(READ_ONLY));
    assert!(first_error("sh: 2: cannot create /root/x: Directory nonexistent").contains(READ_ONLY));
    assert!(
        !first_error("cp: cannot create regular file 'a/b': No such file or directory").contains(READ_ONLY)
    );
    assert!(
        !first_error("mkdir: cannot create directory '/var/lib/dkms/a/1/build/x': File exists")
            .contains(READ_ONLY)
    );
}

#[test]
fn a_missing_program_is_why_a_build_failed_only_if_nothing_else_is() {
    let fault = |log: &str| noticed(log).machines_fault(2).cloned().unwrap_or_default();
    assert_eq!(
        fault("sh: 1: flex: command not found\nmake: *** [x] Error 127"),
        "it needs flex (Debian package: flex), which is not installed"
    );
    assert_eq!(
        fault("make: kc-gpp: No such file or directory\nmake: *** [Makefile:2: all] Error 127"),
        "it needs kc-gpp, which is not installed"
    );
    assert!(fault("make: *** [x] Error 127").contains("Error 127"));
    let linked = "/usr/src/linux-headers-1/tools/objtool/objtool: error while loading shared libraries: libelf.so.1: cannot open \
                  shared object file: No such file or directory\nmake[1]: *** [a.o] Error 127";
    assert_eq!(
        fault(linked),
        "objtool needs libelf.so.1 (Debian package: libelf1 or libelf1t64), which is not installed"
    );
    let survived = "sh: git: command not found\na.c:3:1: error: first\nmake: *** [a.o] Error 1";
    assert_eq!(fault(survived), "");
    assert_eq!(first_error(survived), "a.c:3:1: error: first");
    // What a later command does not find is another matter.
    let later = noticed("a.c:3:1: error: of a test\nsh: bison: command not found");
    assert!(later.machines_fault(127).is_some_and(|reason| reason.contains("bison")));
    let other =
        noticed("sh: git: command not found\na.c:3:1: error: of a test\nsh: bison: command not found");
    assert!(other.machines_fault(127).is_some_and(|reason| reason.contains("bison")), "git was not needed");
    assert!(fault("/bin/sh: 1: flex: not found\nmake: *** [x] Error 1").contains("flex"));
    assert_eq!(fault("/bin/sh: 1: lsb_release: not found\nMakefile:3: *** too old.  Stop."), "");
    assert_eq!(fault("/bin/sh: 1: lsb_release: not found\nthis kernel is not supported"), "");
}

#[test]
fn what_was_not_found_is_kept_with_the_failure() {
    let log = "tool.c:1:10: fatal error: libelf.h: No such file or directory\nmake: *** [tool] Error 1";
    let failure = noticed(log).failure(Some(2), None, false);
    assert_eq!(failure.sought, [Sought::Header("libelf.h".to_owned())]);
}

#[test]
fn of_several_attempts_the_first_compiler_error_is_what_failed() {
    let next = format!("{OWN}{NEXT_ATTEMPT}\n");
    let log = |attempts: &[&str]| {
        let of = |(at, text): (usize, &&str)| format!("kcache: $ clean\nkcache: $ {at}\n{text}\n");
        attempts.iter().enumerate().map(of).collect::<Vec<_>>().join(&next)
    };
    let failure = |attempts: &[&str]| {
        let failure = noticed(&log(attempts)).of_attempts().failure(Some(2), None, false);
        (failure.command, failure.first_error)
    };
    let error = |command: &str, error: &str| (command.to_owned(), error.to_owned());
    assert_eq!(
        failure(&["make: *** No rule", "a.c:1:1: error: first", "a.c:1:1: error: second"]),
        error("1", "a.c:1:1: error: first")
    );
    // What a Makefile refused to generate is missing in those that do not ask it.
    let lacks = "a.c:1:1: fatal error: generated.h: No such file or directory";
    let refused = "common.mk:3: *** the generator failed.  Stop.";
    assert_eq!(failure(&[refused, lacks]), error("0", refused));
    assert_eq!(failure(&["make: *** No rule to make target 'x'.  Stop.", lacks]), error("1", lacks));
    assert_eq!(failure(&[refused, "a.c:1:1: error: first"]), error("1", "a.c:1:1: error: first"));
    assert_eq!(failure(&["sh: flex: command not found", "make: *** b"]), error("1", "make: *** b"));
    assert_eq!(failure(&["make: *** a", "make: *** b"]), error("0", "make: *** a"));
    let missing =
        ["a.c:1:1: fatal error: libelf.h: No such file or directory", "sh: flex: command not found"];
    assert_eq!(noticed(&log(&missing)).of_attempts().sought.len(), 2);
    let full = noticed(&log(&["cc1: x.s: No space left on device", "a.c:1:1: error: first"]));
    assert!(full.failed_here().is_some() && full.of_attempts().machines_fault(1).is_some());
    assert!(noticed(&log(&["a.c:1:1: error: first", ""])).failed_here().is_none());
}

#[test]
fn a_full_disk_or_an_unreadable_header_is_not_the_packages_fault() {
    let fault = |log: &str| noticed(log).machines_fault(1).cloned().unwrap_or_default();
    assert!(fault("cc1: x.s: No space left on device").starts_with("the disk is full"));
    assert!(fault("cat: /usr/include/x.h: Permission denied").starts_with("a file of this host"));
    assert!(fault("a.c:1:10: fatal error: /usr/include/x.h: Permission denied").starts_with("a file of"));
    assert!(fault("Module.symvers: Permission denied").starts_with("a file of this host"));
    assert!(fault("make[1]: ./scripts/mod/modpost: Permission denied").starts_with("a file of this host"));
    assert_eq!(fault("sh: ./own: Permission denied"), "");
    assert_eq!(fault("/run/kcache/script: line 5: /lib/modules/x: Permission denied"), "");
    assert_eq!(fault("mkdir: cannot create directory '/usr/src/x': Permission denied"), "");
    assert_eq!(fault("a.c:1: error: no member named 'x'"), "");
}
