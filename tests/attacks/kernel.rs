//! What a build asks the kernel for: keys, sockets, namespaces, and the rest of what is denied.

use super::with_script;
use crate::host::{FIXTURES, Host, is_root};
use crate::packages::dkms_conf;
use fs_err as fs;

/// Perl that looks for the key of the test in the session keyring, reads it, and leaves another one there.
const TAKE: &str = r#"
my ($type, $name) = ("user", "kcache-test-passphrase");
my $key = syscall(250, 10, -3, $type, $name, 0);
my $text = "\0" x 64;
my $length = $key > 0 ? syscall(250, 11, $key, $text, 64) : 0;
print "READ ", substr($text, 0, $length), "\n" if $length > 0;
my ($left, $evil) = ("kcache-test-left", "evil");
print "ADDED\n" if syscall(248, $type, $left, $evil, 4, -3) > 0;
print "LISTED\n" if open(my $keys, "<", "/proc/keys") && grep { /kcache-test/ } <$keys>;
print "asked\n";
"#;

/// Perl that has a keyring with that key, runs kcache, and says whether it finds what a build has left.
const GIVE: &str = r#"
syscall(250, 1, 0) > 0 or die "no keyring: $!";
my ($type, $name, $secret) = ("user", "kcache-test-passphrase", "correct horse");
my $key = syscall(248, $type, $name, $secret, 13, -3);
$key > 0 && syscall(250, 5, $key, 0x3f3f3f3f) == 0 or die "no key: $!";
system(@ARGV);
my $left = "kcache-test-left";
print "FOUND\n" if syscall(250, 10, -3, $type, $left, 0) > 0;
print "over\n";
"#;

#[test]
fn the_callers_keyrings_are_out_of_reach_of_builds_and_recipes() {
    if !cfg!(target_arch = "x86_64") {
        return; // the numbers of system calls are those of x86_64
    }
    let host = Host::new(&[&FIXTURES.new]);
    let take = format!("perl -e '{TAKE}'");
    with_script(&host, "keys", &format!("{take}; exit 9"));
    let conf = dkms_conf("keys", "1.0", &format!("MAKE=\"echo $({take}); bash attack.sh x y\"\n"));
    fs::write(host.root().join("usr/src/keys-1.0/dkms.conf"), conf).unwrap();
    let run = host.kcache_under(&["perl", "-e", GIVE], &["build", "keys", "-k", &FIXTURES.new]);
    assert!(run.stdout.contains("over") && !run.stdout.contains("FOUND"), "{}", run.shown());
    let log = host.kcache(&["log", "keys", "-k", &FIXTURES.new]).stdout;
    assert_eq!(log.lines().filter(|line| *line == "asked").count(), 2, "{log}");
    for harm in ["READ", "ADDED", "LISTED"] {
        assert!(!log.contains(&format!("{harm} ")) && !log.contains(&format!("{harm}\n")), "{log}");
    }
}

/// Calls by number, x86_64's, with their arguments and the errno that they are to end with.
const CALLS: &[(&str, &str, i32)] = &[
    ("socket-alg", "41, 38, 5, 0", 97),
    ("socket-vsock", "41, 40, 1, 0", 97),
    ("socket-packet", "41, 17, 3, 0", 97),
    ("unshare-user", "272, 0x10000000", 1),
    ("clone-user", "56, 0x10000011, 0, 0, 0, 0", 1),
    ("clone3", "435, 0, 0", 38),
    ("setns", "308, 0, 0", 1),
    ("mount", "165, 0, 0, 0, 0, 0", 1),
    ("open_tree", "428, -100, 0, 0", 38),
    ("fsopen", "430, 0, 0", 38),
    ("bpf", "321, 0, 0, 0", 1),
    ("perf_event_open", "298, 0, 0, 0, 0, 0", 1),
    ("userfaultfd", "323, 1", 1),
    ("io_uring_setup", "425, 1, 0", 38),
    ("ptrace", "101, 0, 0, 0, 0", 1),
    ("pidfd_getfd", "438, 0, 0, 0", 38),
    ("keyctl", "250, 0, -3, 0", 1),
    ("tiocsti", "16, 0, 0x5412, 0", 1),
    ("personality", "135, 0x400000", 1),
    ("finit_module", "313, 0, 0, 0", 1),
    ("kexec_load", "246, 0, 0, 0, 0", 1),
    ("fanotify_init", "300, 0, 0", 1),
    ("x32-ptrace", "0x40000209, 0, 0, 0, 0", 38),
];

#[test]
fn what_builds_have_no_business_with_is_denied() {
    if !cfg!(target_arch = "x86_64") {
        return; // the numbers of system calls are those of x86_64
    }
    let new = || Host::new(&[&FIXTURES.new]);
    let hosts = if is_root() { vec![new(), new().owned_by_a_user()] } else { vec![new()] };
    for host in hosts {
        let line = |(name, words, _): &(&str, &str, i32)| {
            format!(
                "$! = 0; my $r = syscall({words}); print \"$$ {name} $r \" . ($! + 0) . \"\\n\" if $$ == $me; exit if $$ != $me;"
            )
        };
        let lines: String = CALLS.iter().map(line).map(|line| format!("{{ {line} }}\n")).collect();
        with_script(&host, "calls", &format!("perl -e 'my $me = $$; {lines}'; exit 9"));
        host.kcache(&["build", "calls", "-k", &FIXTURES.new]).exits(4);
        let log = host.kcache(&["log", "calls", "-k", &FIXTURES.new]).stdout;
        for (name, _, errno) in CALLS {
            assert!(
                log.contains(&format!(" {name} -1 {errno}\n")),
                "{name} does not end with {errno}:\n{log}"
            );
        }
    }
}

/// A call of another architecture's table ends the process, not the sandbox.
#[test]
fn programs_of_another_architecture_are_ended() {
    if !cfg!(target_arch = "x86_64") {
        return; // on x86_64 alone there are programs of two architectures to be had by one compiler
    }
    let host = Host::new(&[&FIXTURES.new]);
    // By int $0x80 any program makes calls of i386: 20 is getpid.
    let program = r#"int main(void) { int r; __asm__ volatile("int $0x80" : "=a"(r) : "a"(20)); return r > 0 ? 0 : 3; }"#;
    with_script(
        &host,
        "old",
        &format!("echo '{program}' >t.c; gcc -o t t.c && ./t; echo \"ended with $?\"; exit 9"),
    );
    host.kcache(&["build", "old", "-k", &FIXTURES.new]).exits(4);
    let log = host.kcache(&["log", "old", "-k", &FIXTURES.new]).stdout;
    assert!(log.contains("ended with 159"), "{log}"); // 128 + SIGSYS
}
