//! In which order packages are built, and what is said of those that wait.

use crate::host::{FIXTURES, Host, Run};
use crate::packages::{plain, with_makefile};
use fs_err as fs;

/// A package whose build takes so many seconds and comes to nothing.
fn slow(host: &Host, name: &str, seconds: u32, version_of_source: &str) {
    let makefile = format!("# {version_of_source}\nall:\n\tsleep {seconds}; false\n");
    with_makefile(host, name, "", &makefile, "MAKE=\"make all\"\n");
}

/// The packages in the order in which their builds began.
fn begun(run: &Run) -> Vec<String> {
    let shown = run.shown();
    let begun = shown.lines().filter_map(|line| line.strip_prefix("building "));
    begun.map(|line| line.split('/').next().unwrap().to_owned()).collect()
}

#[test]
fn what_takes_longest_is_built_first_and_the_rest_is_estimated() {
    let host = Host::new(&[&FIXTURES.new]);
    slow(&host, "at-once", 0, "first");
    slow(&host, "later", 3, "first");
    host.kcache(&["build", "-j", "1", "-k", &FIXTURES.new]).exits(4);
    slow(&host, "at-once", 0, "second");
    slow(&host, "later", 3, "second");
    // Not built yet, and of much source.
    let large = plain(&host, "large", "x");
    fs::write(large.join("unused.c"), "int x;\n".repeat(30_000)).unwrap();
    let run = host.kcache(&["build", "-j", "1", "-k", &FIXTURES.new]).exits(4);
    assert_eq!(begun(&run), ["large", "later", "at-once"]);
    run.says(&[" (2 more waiting, about ", " (1 more waiting, about "]);
}

#[test]
fn what_others_are_built_against_comes_before_them() {
    let host = Host::new(&[&FIXTURES.new]);
    let user = plain(&host, "a-user", "x");
    fs::write(user.join("unused.c"), "int x;\n".repeat(30_000)).unwrap();
    fs::write(user.join("kcache.toml"), "name = 'a-user'\nversion = '1.0'\ndepends = ['base']\n").unwrap();
    plain(&host, "base", "x");
    let run = host.kcache(&["build", "-j", "2", "-k", &FIXTURES.new]).exits(0);
    assert_eq!(begun(&run), ["base", "a-user"]);
    // Nobody has begun with the other one and waited.
    assert!(!run.shown().contains("waiting for another"), "{}", run.shown());
}
