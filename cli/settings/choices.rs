//! Settings that are one of a few words, the default first.

use clap::ValueEnum;
use kcache::run::policy;

/// Among `packages`: those of the site file.
pub const SITE: &str = "@site";

/// Whether other people's modules count for whether a kernel is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Foreign {
    /// They are shown.
    Report,
    Require,
}

/// When depmod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Depmod {
    // When the indexes cannot be updated without it. A help text here would make all of `--help` twice as long.
    Auto,
    Always,
}

/// The program that launches the compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CompilerLauncher {
    None,
    Ccache,
}

/// How far builds are used that were made by other tools than this host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OtherTools {
    Kbuild,
    SameCompiler,
    Never,
}

impl From<OtherTools> for policy::OtherTools {
    fn from(choice: OtherTools) -> policy::OtherTools {
        match choice {
            OtherTools::Kbuild => policy::OtherTools::Kbuild,
            OtherTools::SameCompiler => policy::OtherTools::SameCompiler,
            OtherTools::Never => policy::OtherTools::Never,
        }
    }
}

/// How a hook ends if a kernel is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnFailure {
    /// Says so; the package manager goes on.
    Warn,
    /// Fails, and the package manager's transaction with it.
    Block,
}

/// Whether a retry also replaces installed builds by newer ones in shared caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Refresh {
    False,
    True,
}

/// The word for a choice.
pub fn word(choice: &impl ValueEnum) -> String {
    choice.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
