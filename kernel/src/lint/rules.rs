//! The rules with their texts. `docs/lint.md` has the same table.

/// A kind of mistake.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LintRule {
    /// Name of the rule. An interface: add names, never change them.
    pub name: &'static str,
    /// How bad the mistake is.
    pub severity: LintSeverity,
    /// Its consequence, as text.
    pub why: &'static str,
    /// What to write instead, as text.
    pub instead: &'static str,
}

/// How bad a mistake is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LintSeverity {
    /// The package does not build, or not as it says.
    Error,
    /// It builds, but results differ between machines, or some kernels are not supported.
    Warning,
    /// Worth knowing.
    Note,
}

impl LintSeverity {
    /// Its name in output and JSON.
    pub fn word(self) -> &'static str {
        match self {
            LintSeverity::Error => "error",
            LintSeverity::Warning => "warning",
            LintSeverity::Note => "note",
        }
    }
}

use LintSeverity::{Error, Note, Warning};

const fn rule(
    name: &'static str,
    severity: LintSeverity,
    why: &'static str,
    instead: &'static str,
) -> LintRule {
    LintRule { name, severity, why, instead }
}

/// Every rule, sorted by name.
pub const RULES: &[LintRule] = &[
    rule(
        "absent-patch",
        Error,
        "the build fails before it starts",
        "add the file to patches/, or remove the directive",
    ),
    rule("bad-recipe", Error, "nothing can be built", "see the message"),
    rule(
        "crlf",
        Error,
        "bash treats the carriage return as part of the last word",
        "end lines with LF: dos2unix FILE",
    ),
    rule(
        "date-command",
        Warning,
        "builds differ, so builders cannot confirm each other's results",
        "the time from $SOURCE_DATE_EPOCH, or none",
    ),
    rule(
        "date-macro",
        Error,
        "kernels are compiled with -Werror=date-time, so it does not compile",
        "a version from the source",
    ),
    rule("deprecated-directive", Note, "DKMS ignores it", "remove it"),
    rule("extra-cflags", Warning, "Kbuild ignores it from Linux 6.15 on", "ccflags-y, asflags-y, ldflags-y"),
    rule(
        "git-command",
        Warning,
        "packages have no .git, and builds do not see it: the output is empty or another repository's",
        "a file in the release",
    ),
    rule(
        "hard-coded-path",
        Warning,
        "it exists on one machine, or for one kernel",
        "$kernel_source_dir in recipes; $(srctree), $(src) and $(KERNELRELEASE) in Kbuild files",
    ),
    rule(
        "hook-not-run",
        Note,
        "install scripts are not part of a build; kcache runs them only for packages in `package-scripts`",
        "udev rules, modprobe.d and service files in the package",
    ),
    rule(
        "jobs",
        Note,
        "a jobserver controls the number of compilers; a fixed number overloads a machine that builds several packages",
        "no -j",
    ),
    rule(
        "matches-no-kernel",
        Warning,
        "it is built for none of the evaluated kernels",
        "a wider range of kernels",
    ),
    rule(
        "missing-m",
        Error,
        "without M=, make builds the kernel's own modules and writes to its headers",
        "make -C $(KDIR) M=$(CURDIR) modules",
    ),
    rule(
        "module-location",
        Warning,
        "the build fails, because the module is not where the recipe says",
        "the directory in BUILT_MODULE_LOCATION, or as path in a kcache.toml",
    ),
    rule(
        "module-version",
        Note,
        "modinfo and the package report different versions",
        "one version in both, or no MODULE_VERSION",
    ),
    rule("name-not-utf8", Error, "source trees with such names are refused", "a name in UTF-8"),
    rule(
        "native-cpu",
        Warning,
        "the modules may not run on another CPU, so kcache does not share such builds",
        "no such flag, or a fixed one as in -march=x86-64-v2",
    ),
    rule("network", Error, "builds have no network", "files in the package"),
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
        "outside-directory",
        Warning,
        "a build sees only the directory that it was given",
        "the package as the directory that contains both",
    ),
    rule(
        "outside-file",
        Warning,
        "it is not the target kernel's, or does not exist in the sandbox",
        "$kernel_source_dir/.config for the kernel's configuration; files of the package for the rest",
    ),
    rule("outside-link", Warning, "in a build it is usually dangling", "a copy of the file"),
    rule("special-file", Error, "source trees with devices, fifos and sockets are refused", "plain files"),
    rule("subdirs", Error, "Kbuild ignores SUBDIRS since Linux 5.4", "M=$(CURDIR)"),
    rule(
        "touches-host",
        Error,
        "builds run unprivileged, and can write only to the source tree",
        "separate targets for building and installing; kcache installs the modules",
    ),
    rule(
        "uname-r",
        Warning,
        "it is the running kernel, not the target kernel",
        "$(KERNELRELEASE) in Makefiles, $kernelver in recipes",
    ),
    rule("unbuilt-module", Warning, "the build fails if the module is not built", "the name in obj-m"),
    rule(
        "unknown-license",
        Warning,
        "the kernel treats it as proprietary: it is tainted, and GPL symbols are unavailable",
        "GPL, GPL v2, Dual BSD/GPL, Dual MIT/GPL, Dual MPL/GPL, or Proprietary if intended",
    ),
    rule("unlisted-module", Warning, "it is built but not installed", "an entry in the recipe"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_sorted_and_documented() {
        assert!(RULES.windows(2).all(|pair| pair[0].name < pair[1].name));
        let document = include_str!("../../../docs/lint.md");
        for rule in RULES {
            let row = format!("| `{}` | {} |", rule.name, rule.severity.word());
            assert!(document.contains(&row), "docs/lint.md has no row {row}");
        }
    }
}
