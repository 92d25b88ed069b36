//! What differs between hosts and runs, replaced so that it does not.
//!
//! What always has the same width is replaced by as many characters, so columns stay aligned as they were printed.

use std::path::Path;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// Replaces in the texts of one host.
pub struct Redaction<'a> {
    /// The host's directory, laid out as in `tests/host.rs`.
    dir: &'a Path,
    /// The releases of its kernels, each with the letter that replaces the digits of its ABI number.
    releases: [(&'a str, &'a str); 2],
    /// Hashes so far; a letter stands for each.
    hashes: Vec<String>,
}

impl<'a> Redaction<'a> {
    pub fn new(dir: &'a Path, releases: [(&'a str, &'a str); 2]) -> Redaction<'a> {
        Redaction { dir, releases, hashes: Vec::new() }
    }

    /// Replaces paths, releases, hashes, times, durations, sizes, versions, process numbers, and what depends on the machine.
    pub fn apply(&mut self, text: &str) -> String {
        let dir = self.dir.display().to_string();
        let mut text = text
            .replace(&format!("{dir}/store"), "/var/cache/kcache")
            .replace(&format!("{dir}/root/"), "/")
            .replace(&format!("{dir}/root"), "/")
            .replace(&dir, "/host");
        for (release, letter) in self.releases {
            // `6.1.0-57` of `6.1.0-57-amd64`: the common headers have another suffix.
            let abi = release.strip_suffix("-amd64").unwrap_or(release);
            let (version, number) = abi.rsplit_once('-').unwrap();
            text = text.replace(abi, &format!("{version}-{}", letter.repeat(number.len())));
        }
        for (pattern, replacement) in RULES.iter() {
            text = pattern.replace_all(&text, *replacement).into_owned();
        }
        HASH.replace_all(&text, |found: &Captures| self.letter(&found[0]).repeat(found[0].len())).into_owned()
    }

    /// The letter of a hash, which it keeps where it is abbreviated.
    fn letter(&mut self, hash: &str) -> String {
        let same = |known: &String| known.starts_with(hash) || hash.starts_with(known.as_str());
        let at = self.hashes.iter().position(same).unwrap_or_else(|| {
            self.hashes.push(hash.to_owned());
            self.hashes.len() - 1
        });
        char::from(b'a' + u8::try_from(at % 26).unwrap()).to_string()
    }
}

/// A hash, or its beginning, or another long number.
static HASH: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"\b[0-9a-f]{10,128}\b").unwrap());

/// Applied in this order.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let rules = [
        // uname -v of a Debian kernel, and versions of Debian packages and of their programs.
        (r"Debian \d[\w.+~-]* \(\d{4}-\d\d-\d\d\)", "Debian VERSION (DATE)"),
        (r"\(Debian \d[\w.+~-]*\)( \d[\w.]*)?", "(Debian VERSION)"),
        (r"\(GNU Binutils for Debian\) \d[\w.]*", "(GNU Binutils for Debian) VERSION"),
        (r"(kcache |version=.)\d+\.\d+\.\d+", "${1}VERSION"),
        (r"\b20\d\d-\d\d-\d\d \d\d:\d\d UTC\b", "DATE"),
        (r"\b20\d\d-\d\d-\d\d\b", "DATE"),
        (r"built on \S+( \(this host\))?, DATE in [^;]+;", "built on BUILDER$1, DATE in DURATION;"),
        (r#"("builder": ")[^"]*""#, "${1}BUILDER\""),
        (r#"("created": )\d+"#, "${1}0"),
        (r"\b\d+\.\d s\b", "0.0 s"),
        (r"\babout \d+ (s|min|h) left", "about 0 s left"),
        (r"\b\d+(\.\d)? (B|kB|MB)\b", "SIZE"),
        (r#"("(?:\w*seconds|\w*bytes|size|used|time)": ?)[\d.e-]+"#, "${1}0"),
        (r"(?m)^(kcache_\w*_(?:seconds|bytes)(?:_total)?(?:\{.*\})?) [\d.]+$", "$1 0"),
        (r"\b(process|pid) \d+", "$1 PID"),
        // Files of the store and of debug information, by the first digits of a hash.
        (r"/(entries|objects|signatures|\.build-id)/[0-9a-f]{2}/", "/$1/xx/"),
        // Lines of the kernel's own Makefiles.
        (r"(/linux-headers-[^:\s]*/Makefile(?:\.build)?:)\d+", "${1}0"),
        // make 4.4 prints them only where they differ.
        (r"make(?:\[\d\])?: (?:Entering|Leaving) directory '[^']*'(?:\\n|\n)", ""),
        // Defaults that come from the number of CPUs and the memory, and whether there is KVM.
        (r"(?m)^(jobs|build-memory|build-processes) = \d+  # default", "$1 = 0  # default"),
        (
            r#"("name": "(?:jobs|build-memory|build-processes)",\s*"value": ")\d+(",\s*"origin": "default")"#,
            "${1}0$2",
        ),
        (r#""acceleration":"(kvm|tcg)""#, r#""acceleration":"tcg""#),
    ];
    rules.map(|(pattern, replacement)| (Regex::new(pattern).unwrap(), replacement)).into()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let releases = [("6.1.0-57-amd64", "N"), ("6.1.0-56-amd64", "O")];
        assert_eq!(Redaction::new(Path::new("/tmp/.tmpAb12Cd"), releases).apply(text), expect);
    }

    #[test]
    fn paths_are_those_of_a_host_of_its_own() {
        check("/tmp/.tmpAb12Cd/root/usr/src/a-1.0/a.c", "/usr/src/a-1.0/a.c");
        check("no kernel under /tmp/.tmpAb12Cd/root", "no kernel under /");
        check("/tmp/.tmpAb12Cd/store/objects", "/var/cache/kcache/objects");
        check("file:///tmp/.tmpAb12Cd/cache", "file:///host/cache");
        check("/var/cache/kcache/entries/70/a.json", "/var/cache/kcache/entries/xx/a.json");
    }

    #[test]
    fn what_depends_on_the_machine_is_gone_and_what_was_configured_is_not() {
        check("jobs = 2  # default", "jobs = 0  # default");
        check("jobs = 3  # /etc/kcache/config.toml", "jobs = 3  # /etc/kcache/config.toml");
        check(
            "{\"name\": \"jobs\",\n \"value\": \"2\",\n \"origin\": \"default\"}",
            "{\"name\": \"jobs\",\n \"value\": \"0\",\n \"origin\": \"default\"}",
        );
    }

    #[test]
    fn releases_keep_their_width_and_their_difference() {
        check("6.1.0-57-amd64  6.1.0-56-amd64", "6.1.0-NN-amd64  6.1.0-OO-amd64");
        check("linux-headers-6.1.0-57-common", "linux-headers-6.1.0-NN-common");
        check(
            "#1 SMP PREEMPT_DYNAMIC Debian 6.1.180-1 (2026-10-01)",
            "#1 SMP PREEMPT_DYNAMIC Debian VERSION (DATE)",
        );
        check("gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc-12 (Debian VERSION)");
    }

    #[test]
    fn hashes_keep_their_width_and_their_difference() {
        let (one, two) = ("0123456789abcdef".repeat(4), "fedcba9876543210".repeat(4));
        check(
            &format!("{one} {two} {}", &one[..12]),
            &format!("{} {} {}", "a".repeat(64), "b".repeat(64), "a".repeat(12)),
        );
        check("v4l2loopback deadbeef", "v4l2loopback deadbeef");
    }

    #[test]
    fn times_and_sizes_are_gone_and_counts_are_not() {
        check("installed generation 2 (1.3 s)", "installed generation 2 (0.0 s)");
        check("12.4 kB  last used 2026-11-30  3 entries", "SIZE  last used DATE  3 entries");
        check("(1 more waiting, about 12 s left)", "(1 more waiting, about 0 s left)");
        check(
            r#""seconds":0.0123,"stay_bytes":512,"entries":3"#,
            r#""seconds":0,"stay_bytes":0,"entries":3"#,
        );
        check(
            "kcache_build_seconds{kernel=\"a\"} 1.5\nkcache_store_entries 3",
            "kcache_build_seconds{kernel=\"a\"} 0\nkcache_store_entries 3",
        );
        check(
            "/usr/src/linux-headers-6.1.0-57-common/Makefile:2065",
            "/usr/src/linux-headers-6.1.0-NN-common/Makefile:0",
        );
        check("/usr/src/a-1.0/Makefile:3", "/usr/src/a-1.0/Makefile:3");
        check("held by process 4711", "held by process PID");
    }
}
