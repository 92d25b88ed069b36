//! The rules, in words. `docs/lint.md` has the same table.

/// A kind of mistake.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Its name. An interface: names are added, never changed.
    pub name: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What comes of it.
    pub why: &'static str,
    /// What to write.
    pub instead: &'static str,
}

/// How bad a mistake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The package does not build, or not as it says.
    Error,
    /// It builds, and differs from machine to machine, or stops building with some kernel.
    Warning,
    /// Worth knowing.
    Note,
}

impl Severity {
    /// As people and programs call it.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note => "note",
        }
    }
}

use Severity::{Error, Note, Warning};

const fn rule(name: &'static str, severity: Severity, why: &'static str, instead: &'static str) -> Rule {
    Rule { name, severity, why, instead }
}

/// Every rule, by name.
pub const RULES: &[Rule] = &[
    rule(
        "absent-patch",
        Error,
        "the build fails before it begins",
        "add the file below patches/, or take the line out",
    ),
    rule("bad-recipe", Error, "nothing can be built", "what the message says"),
    rule(
        "crlf",
        Error,
        "bash takes the carriage return for a part of the last word",
        "end lines with LF: dos2unix FILE",
    ),
    rule(
        "date-command",
        Warning,
        "two builds differ, so nobody can check one by the other",
        "the time from $SOURCE_DATE_EPOCH, or none",
    ),
    rule(
        "date-macro",
        Error,
        "kernels are compiled with -Werror=date-time: it does not compile",
        "a version that the source brings",
    ),
    rule("deprecated-directive", Note, "DKMS does nothing with it any more", "take it out"),
    rule("extra-cflags", Warning, "Kbuild ignores it from Linux 6.15 on", "ccflags-y, asflags-y, ldflags-y"),
    rule(
        "git-command",
        Warning,
        "packages come without .git, and builds do not see it: the answer is empty or another repository's",
        "a file that the release brings",
    ),
    rule(
        "hard-coded-path",
        Warning,
        "it is there on one machine, or for one kernel",
        "$kernel_source_dir in recipes; $(srctree), $(src) and $(KERNELRELEASE) in Kbuild files",
    ),
    rule(
        "hook-not-run",
        Note,
        "hooks at installation are not part of a build; kcache runs them for packages that `package-scripts` names only",
        "files of the package for udev, modprobe.d and services",
    ),
    rule(
        "jobs",
        Note,
        "a jobserver says how many compilers may run; a number of one's own overloads a machine that builds several packages",
        "no -j at all",
    ),
    rule(
        "matches-no-kernel",
        Warning,
        "it is built for none of the kernels that were looked at",
        "a wider range of kernels",
    ),
    rule(
        "missing-m",
        Error,
        "without M= the kernel's own modules are meant, and its headers would be written to",
        "make -C $(KDIR) M=$(CURDIR) modules",
    ),
    rule(
        "module-version",
        Note,
        "modinfo and the package tell different versions",
        "one version in both, or no MODULE_VERSION",
    ),
    rule("name-not-utf8", Error, "source trees with such names are refused", "a name in UTF-8"),
    rule("network", Error, "builds have no network", "files that the package brings"),
    rule(
        "no-license",
        Error,
        "modpost refuses a module without one",
        "MODULE_LICENSE(\"GPL\") in one of its sources",
    ),
    rule(
        "odd-destination",
        Warning,
        "DKMS installs below /kernel, /updates and /extra only",
        "/updates or /extra",
    ),
    rule(
        "outside-file",
        Warning,
        "it is not the target kernel's, or not there at all where builds run",
        "$kernel_source_dir/.config for the kernel's configuration; files of the package for the rest",
    ),
    rule(
        "outside-link",
        Warning,
        "in a build it leads to what the sandbox shows there, mostly nothing",
        "a copy of the file",
    ),
    rule("special-file", Error, "source trees with devices, fifos and sockets are refused", "plain files"),
    rule("subdirs", Error, "Kbuild ignores SUBDIRS since Linux 5.4", "M=$(CURDIR)"),
    rule(
        "touches-host",
        Error,
        "builds run as nobody, and may write in the source tree only",
        "building in one target, installing in another; what builds packages installs modules",
    ),
    rule(
        "uname-r",
        Warning,
        "it names the kernel that runs, not the one that is built for",
        "$(KERNELRELEASE) in Makefiles, $kernelver in recipes",
    ),
    rule("unbuilt-module", Warning, "where it is not built, the build fails", "the name that obj-m has"),
    rule(
        "unknown-license",
        Warning,
        "the kernel counts it as proprietary: it is tainted, and symbols for GPL modules are denied",
        "GPL, GPL v2, Dual BSD/GPL, Dual MIT/GPL, Dual MPL/GPL, or Proprietary, if it is meant",
    ),
    rule("unlisted-module", Warning, "it is built and not installed", "an entry of its own in the recipe"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_their_order_and_their_row_in_the_documentation() {
        assert!(RULES.windows(2).all(|pair| pair[0].name < pair[1].name));
        let document = include_str!("../../../docs/lint.md");
        for rule in RULES {
            let row = format!("| `{}` | {} |", rule.name, rule.severity.word());
            assert!(document.contains(&row), "docs/lint.md has no row {row}");
        }
    }
}
