//! Packages whose builds want all of the disk: each is stopped, by one error that names the setting, leaves nothing, and is not
//! remembered as a failure. What they write is bounded by themselves, to a GiB.

use super::{Attack, harm, host, with_script};
use crate::host::{FIXTURES, Host};

/// Holds 20 deleted files of 50 MiB open.
const DELETED: &str = r#"perl -e 'for (1..20) { open my $f, ">", "f$_" or die; unlink "f$_"; print $f "x" x (1 << 20) for 1..50; push @f, $f } sleep 20'; exit 9"#;

/// Has 20 deleted files of 50 MiB mapped, and no descriptor of them.
const MAPPED: &str = r#"cat >map.c <<'END'
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
int main(void) { char *b = calloc(1, 1 << 20); for (int n = 0; n < 20; n++) { int f = open("f", O_RDWR | O_CREAT, 0600); unlink("f");
for (int i = 0; i < 50; i++) write(f, b, 1 << 20); mmap(0, 4096, PROT_READ, MAP_SHARED, f, 0); close(f); } sleep(20); }
END
gcc -w -o map map.c && ./map; exit 9"#;

/// As it would be written by somebody who ignores the signal.
const IGNORES_THE_SIGNAL: &str = r#"perl -e '$SIG{XFSZ} = "IGNORE"; open F, ">", "f" or die; truncate F, 5 << 30 or die "truncate: $!\n"'"#;

const ATTACKS: [Attack; 12] = [
    (
        "h01",
        "for i in {1..20}; do head -c 50M /dev/zero >f$i; done; sleep 20; exit 9",
        4,
        &["more than 64 MiB of disk (build-disk)"],
    ),
    (
        "h02",
        "for i in {1..9999}; do : >f$i; done; sleep 20; exit 9",
        4,
        &["more than 3000 files (build-files)"],
    ),
    ("h03", DELETED, 4, &["more than 64 MiB of disk (build-disk)"]),
    (
        "h04",
        "for i in {1..99}; do mkdir d && cd d; done; for i in {1..20}; do head -c 50M /dev/zero >f$i; done; sleep 20; exit 9",
        4,
        &["more than 64 MiB of disk (build-disk)"],
    ),
    (
        "h05",
        "cd /var/lib/dkms/$NAME/1.0/$R/*; for i in {1..20}; do head -c 50M /dev/zero >f$i; done; sleep 20; exit 9",
        4,
        &["more than 64 MiB of disk (build-disk)"],
    ),
    (
        "h06",
        "cd /tmp; for i in {1..9999}; do : >f$i; done; sleep 20; exit 9",
        4,
        &["more than 3000 files (build-files)"],
    ),
    (
        "h07",
        "cd /dev/shm; for i in {1..9999}; do mkdir f$i; done; sleep 20; exit 9",
        4,
        &["more than 3000 files (build-files)"],
    ),
    ("h08", "truncate -s 1T f; exit 9", 4, &["more than 64 MiB (build-disk)"]),
    ("h09", "printf 'f:\\n\\ttruncate -s 1T f\\n' >m; make -f m", 4, &["more than 64 MiB (build-disk)"]),
    ("h10", IGNORES_THE_SIGNAL, 4, &["more than 64 MiB (build-disk)"]),
    ("h12", MAPPED, 4, &["more than 64 MiB of disk (build-disk)"]),
    // Holes are no bytes of a disk.
    ("h11", "for i in {1..100}; do truncate -s 60M f$i; done; sleep 1; exit 9", 4, &["status 9"]),
];

const LIMITS: &str = "build-timeout = 60\nbuild-disk = 64\nbuild-files = 3000\n";

#[test]
fn a_build_that_fills_the_disk_is_stopped_and_leaves_nothing() {
    are_stopped(&host("60"), &ATTACKS);
}

/// As a user, who sees less of a sandbox than root does.
#[test]
fn a_users_build_that_fills_the_disk_is_stopped_and_leaves_nothing() {
    let some: Vec<Attack> =
        ATTACKS.into_iter().filter(|(name, ..)| ["h01", "h02", "h03", "h06", "h08"].contains(name)).collect();
    are_stopped(&host("60").owned_by_a_user(), &some);
}

fn are_stopped(host: &Host, attacks: &[Attack]) {
    host.write_config(LIMITS);
    let mut broken = Vec::new();
    for (name, does, exit, says) in attacks {
        with_script(host, name, does);
        let installed = host.kcache(&["install", name, "-k", &FIXTURES.new]);
        let log = host.kcache(&["log", name, "-k", &FIXTURES.new]);
        let mut wrong = harm(host, &installed, &log);
        let errors = installed.stderr.lines().filter(|line| line.starts_with("error")).count();
        let told = says.iter().all(|words| installed.stderr.contains(words));
        if installed.code != Some(*exit) || errors != 1 || !told {
            wrong.push(format!("expected exit {exit}, one error, and {says:?}"));
        }
        if (log.code == Some(0)) != (*name == "h11") {
            wrong.push(format!("what is remembered: {}", log.shown()));
        }
        if !wrong.is_empty() {
            broken.push(format!("{name}: {does}\n{}\n{}", wrong.join("\n"), installed.shown()));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

/// With more to use the same build is made. It holds on to its files for longer than the ten seconds after which directories are walked
/// in any case: other tests free as much on the same file system meanwhile.
#[test]
fn what_was_stopped_for_its_size_is_built_where_it_may_have_more() {
    let host = host("60");
    host.write_config(LIMITS);
    with_script(
        &host,
        "large",
        "for i in {1..4}; do head -c 50M /dev/zero >f$i; done; sleep 12; rm f?; honest",
    );
    let install = ["install", "large", "-k", &FIXTURES.new];
    host.kcache(&install).exits(4).says(&["(build-disk)"]).one_error();
    let mut command = host.command(&install);
    command.env("KCACHE_BUILD_DISK", "4096");
    crate::host::Run::of(command).exits(0);
}
