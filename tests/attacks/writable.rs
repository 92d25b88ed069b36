//! What can be written in a sandbox: all of it is listed from inside, in a build and while a recipe is evaluated, as root's
//! and as a user's, and compared with what is meant.

use super::{with_files, with_script};
use crate::host::{FIXTURES, Host};
use crate::packages::dkms_conf;

/// Prints what can be written, a line each, its own processes' files by their names alone.
const LIST: &str = r#"list() { find "$@" -ignore_readdir_race ! -type l -writable -print 2>/dev/null; }
list /proc /sys \( -path '/proc/[0-9]*' -prune -o -true \) | grep -v '^/proc/[0-9]'
(cd /proc/self && list . -maxdepth 1 ! -name . | sed s,^./,own:,)
(cd /proc/1 && list . -maxdepth 1 ! -name . | sed s,^./,first:,)
list / \( \( -path /proc -o -path /sys -o -path /var/lib/dkms/p/1.0/build \) -prune -o -true \) | grep -Ev '^/(proc|sys)(/|$)'
"#;

/// What is meant to be: nothing of `/proc` and `/sys`.
const MEANT: [&str; 12] = [
    "/dev/full",
    "/dev/null",
    "/dev/pts", // in which nothing can be made
    "/dev/pts/ptmx",
    "/dev/random",
    "/dev/shm",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
    "/tmp",
    "/tmp/.kcache-directives", // what a recipe has assigned, while it is evaluated
    "first:mem",               // which is /dev/null in a user's
];

fn is_meant(line: &str) -> bool {
    let is_own = ["/var/lib/dkms/p/1.0/", "/usr/src/p-1.0"].iter().any(|own| line.starts_with(own));
    MEANT.contains(&line) || is_own || line == "/proc/config.gz" // /dev/null, too
}

/// Lists what a build, and the evaluation of its recipe, can write.
fn lists(host: &Host) {
    let recipe = "found=$(bash $source_tree/p-1.0/list.sh | tr '\\n' ' ')\nMAKE=\"bash attack.sh $found\"\n";
    let attack = "printf 'evaluated %s\\n' \"$@\"\nbash list.sh | sed 's/^/built /'\nexit 9";
    with_files(host, "p", &dkms_conf("p", "1.0", recipe), attack);
    fs_err::write(host.root().join("usr/src/p-1.0/list.sh"), LIST).unwrap();
    host.kcache(&["build", "p", "-k", &FIXTURES.new]).exits(4);
    let log = host.kcache(&["log", "p", "-k", &FIXTURES.new]).stdout;
    for place in ["evaluated ", "built "] {
        let listed: Vec<&str> = log.lines().filter_map(|line| line.strip_prefix(place)).collect();
        assert!(["/tmp", "/dev/shm", "/dev/null"].iter().all(|known| listed.contains(known)), "{log}");
        let others: Vec<&&str> = listed.iter().filter(|line| !is_meant(line)).collect();
        assert!(others.is_empty(), "{place}: {others:#?}");
    }
}

#[test]
fn in_roots_sandboxes_nothing_can_be_written_but_what_is_meant() {
    lists(&Host::new(&[&FIXTURES.new]));
}

#[test]
fn in_a_users_sandboxes_nothing_can_be_written_but_what_is_meant() {
    lists(&Host::new(&[&FIXTURES.new]).owned_by_a_user());
}

/// Builds that would rather have another process killed when memory is short.
#[test]
fn a_build_cannot_lower_its_score_below_what_it_was_given() {
    keeps_its_score(&Host::new(&[&FIXTURES.new]));
    keeps_its_score(&Host::new(&[&FIXTURES.new]).owned_by_a_user());
}

fn keeps_its_score(host: &Host) {
    let lower = "echo 0 >/proc/self/oom_score_adj; echo score $(cat /proc/self/oom_score_adj) $(cat /proc/1/oom_score_adj); exit 9";
    with_script(host, "score", lower);
    host.kcache(&["build", "score", "-k", &FIXTURES.new]).exits(4);
    host.kcache(&["log", "score", "-k", &FIXTURES.new]).prints(&["score 500 500"]);
}
