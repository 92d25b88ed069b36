//! A clock that is wrong, or set. What lies in the store and in a kernel's tree then bears times that are still to come, or
//! long gone; nothing may depend on their order.

use super::{check_litter, check_store, installed, say};
use crate::host::{FIXTURES, Host, Run};
use crate::packages::plain;
use fs_err as fs;
use std::path::PathBuf;
use std::process::Command;

/// libfaketime, unpacked from the distribution's package into the host's own directory; `None` where that is not to be had.
fn library(host: &Host) -> Option<PathBuf> {
    let script =
        "apt-get -qq -o APT::Sandbox::User=root download libfaketime && dpkg-deb -x libfaketime_*.deb .";
    let dir = host.dir().join("faketime");
    fs::create_dir(&dir).unwrap();
    let output = Command::new("sh").args(["-c", script]).current_dir(&dir).output().unwrap();
    let mut libraries = vec![dir];
    while let Some(path) = libraries.pop() {
        if path.file_name()? == "libfaketime.so.1" && output.status.success() {
            return Some(path);
        }
        if path.is_dir() {
            libraries.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    say(&format!("left out: no libfaketime here: {}", String::from_utf8_lossy(&output.stderr)));
    None
}

#[test]
fn a_clock_that_was_set_makes_nothing_stale_and_nothing_fail() {
    let k = FIXTURES.new.as_str();
    let host = Host::new(&[k]);
    let Some(library) = library(&host) else { return };
    let at = |time: &str, arguments: &[&str]| {
        let mut command = host.command(arguments);
        // Waiting is measured by the clock that nobody sets.
        command
            .env("LD_PRELOAD", &library)
            .env("FAKETIME", time)
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
        Run::from(command.output().unwrap())
    };
    let built = at("@2001-01-01 00:00:00", &["keys", "generate"]);
    built.exits(0);
    for (n, time) in ["-0", "-1h", "+10y", "-1y", "@1970-01-02 00:00:00", "+1h", "-0"].into_iter().enumerate()
    {
        plain(&host, "timely", &format!("text {n}"));
        at(time, &["install", "-k", k, "--json"]).exits(0);
        assert_eq!(host.modinfo(k, "timely", "description"), format!("text {n}"), "at {time}");
        at(time, &["check", "-k", k]).exits(0);
        if n > 0 {
            at(time, &["rollback", "-k", k]).exits(0);
            assert_eq!(host.modinfo(k, "timely", "description"), format!("text {}", n - 1), "at {time}");
        }
        // With the right clock again, from the store.
        let run = host.kcache(&["install", "-k", k, "--json"]).exits(0);
        assert_eq!(run.outcome().how.as_deref(), Some("store"), "at {time}");
        assert_eq!(host.modinfo(k, "timely", "description"), format!("text {n}"), "after {time}");
    }
    assert_eq!(installed(&host, k).len(), 1);
    check_store(&host);
    check_litter(&host);
}
