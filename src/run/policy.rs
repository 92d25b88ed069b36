//! The administrator's policy: which packages are required for which kernels, which are optional, and which are ignored.

use kcache_kernel::release;

/// The need of a package for a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Need {
    /// Without it the kernel is not ready.
    #[default]
    Required,
    /// It is built and installed if possible; failure is reported and blocks nothing.
    Optional,
    /// It is ignored, unless it is named.
    Ignored,
}

impl Need {
    /// Its name in configuration and JSON.
    pub fn word(self) -> &'static str {
        match self {
            Need::Required => "required",
            Need::Optional => "optional",
            Need::Ignored => "ignore",
        }
    }

    /// Parses the name in the configuration.
    pub fn of_word(word: &str) -> Option<Need> {
        [Need::Required, Need::Optional, Need::Ignored].into_iter().find(|need| need.word() == word)
    }
}

/// How far a build may be used that was made by other tools than this host's (`inputs/kin.rs`): the setting `other-tools`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OtherTools {
    /// Not at all.
    Never,
    /// If only the programs of the kernel's build tree differ.
    #[default]
    Kbuild,
    /// Also if the compiler is another patch level of the same major version.
    SameCompiler,
}

/// One `[[policy]]` of the configuration.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Shell pattern for packages' names.
    pub package: String,
    /// Shell pattern for kernels' releases.
    pub kernel: String,
    /// The need of matching packages for matching kernels.
    pub need: Need,
}

/// All rules, in the order of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Of several rules that match, the last one counts, as with other settings.
    pub rules: Vec<Rule>,
    /// Whether a kernel is ready only if foreign modules in its tree will load as well.
    pub needs_foreign: bool,
}

impl Policy {
    /// The need of a package for a kernel.
    pub fn need(&self, package: &str, kernel: &str) -> Need {
        let matches =
            |rule: &&Rule| release::matches(&rule.package, package) && release::matches(&rule.kernel, kernel);
        self.rules.iter().rfind(matches).map_or(Need::default(), |rule| rule.need)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_matching_rule_counts_and_required_is_the_default() {
        let rule =
            |package: &str, kernel: &str, need| Rule { package: package.into(), kernel: kernel.into(), need };
        let rules = vec![
            rule("*", "*-rescue", Need::Ignored),
            rule("nvidia*", "*", Need::Optional),
            rule("nvidia-core", "6.12.*", Need::Required),
        ];
        let policy = Policy { rules, needs_foreign: false };
        let check =
            |package, kernel, need| assert_eq!(policy.need(package, kernel), need, "{package} {kernel}");
        check("zfs", "6.1.0", Need::Required);
        check("zfs", "6.1.0-rescue", Need::Ignored);
        check("nvidia-core", "6.1.0", Need::Optional);
        check("nvidia-core", "6.12.1", Need::Required);
        assert_eq!(Need::of_word("ignore"), Some(Need::Ignored));
        assert_eq!(Need::of_word("ignored"), None);
    }
}
