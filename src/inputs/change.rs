//! A change of one input of a build.

use std::fmt;

use serde::{Serialize, Serializer};

/// An input: a field of the key, or a file beside the module that kcache keeps an eye on. Its words are published: the name of
/// the key's field, in `kcache explain`, `check --json` and reports. Add, never rename.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InputChange {
    /// The package's source.
    Source,
    /// What its recipe says to this kernel.
    Recipe,
    /// The administrator's patches and scripts for the package.
    Overrides,
    /// `uname -r`.
    Release,
    /// `uname -m`.
    Architecture,
    /// The `uname -v` text: another build of the kernel.
    KernelVersion,
    /// The kernel's configuration.
    Config,
    /// The kernel's headers.
    Headers,
    /// Where the kernel's `source` link leads.
    KernelSource,
    /// A program that shapes the bits, by its role.
    Tool(String),
    /// The packages that it is built against.
    Dependencies,
    /// The environment of builds.
    Environment,
    /// What the sandbox shows.
    Sandbox,
    /// The copy in the initramfs is of another build.
    Initramfs,
    /// A field that another version of kcache has.
    Other(String),
}

/// What a field that names a tool begins with.
const TOOL: &str = "toolchain.";

impl InputChange {
    /// Of a field of a key.
    pub fn of_field(name: &str) -> InputChange {
        let known = [
            InputChange::Source,
            InputChange::Recipe,
            InputChange::Overrides,
            InputChange::Release,
            InputChange::Architecture,
            InputChange::KernelVersion,
            InputChange::Config,
            InputChange::Headers,
            InputChange::KernelSource,
            InputChange::Dependencies,
            InputChange::Environment,
            InputChange::Sandbox,
        ];
        let tool = || Some(InputChange::Tool(name.strip_prefix(TOOL)?.to_owned()));
        let found = known.into_iter().find(|change| change.word() == name).or_else(tool);
        found.unwrap_or_else(|| InputChange::Other(name.to_owned()))
    }

    /// Whether only what builds is another, and not what is built (`key::is_tool`).
    pub fn is_tool(&self) -> bool {
        matches!(self, InputChange::Tool(_) | InputChange::Environment | InputChange::Sandbox)
    }

    fn word(&self) -> &str {
        match self {
            InputChange::Source => "source",
            InputChange::Recipe => "recipe",
            InputChange::Overrides => "overrides",
            InputChange::Release => "kernel.release",
            InputChange::Architecture => "kernel.arch",
            InputChange::KernelVersion => "kernel.version",
            InputChange::Config => "kernel.config",
            InputChange::Headers => "kernel.headers",
            InputChange::KernelSource => "kernel.source",
            InputChange::Dependencies => "dependencies",
            InputChange::Environment => "environment",
            InputChange::Sandbox => "sandbox",
            InputChange::Initramfs => "initramfs",
            InputChange::Tool(role) | InputChange::Other(role) => role,
        }
    }
}

impl fmt::Display for InputChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if matches!(self, InputChange::Tool(_)) { TOOL } else { "" };
        write!(f, "{prefix}{}", self.word())
    }
}

impl Serialize for InputChange {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// Several of them, for people.
pub fn listed(changes: &[InputChange]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_of_a_key_is_known_and_keeps_its_name() {
        for name in ["source", "recipe", "kernel.headers", "toolchain.cc", "sandbox", "kernel.source"] {
            let change = InputChange::of_field(name);
            assert!(!matches!(change, InputChange::Other(_)), "{name}");
            assert_eq!(change.to_string(), name);
        }
        assert_eq!(InputChange::of_field("of.tomorrow").to_string(), "of.tomorrow");
    }
}
