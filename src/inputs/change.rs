//! A change of one input of a build.

use std::fmt;

use serde::{Serialize, Serializer};

/// An input: a field of the key, or a file beside the module that `check` compares. The names are published in
/// `kcache explain`, `check --json` and reports. Add, never rename.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InputChange {
    /// The package's source.
    Source,
    /// The evaluated recipe.
    Recipe,
    /// The administrator's patches and scripts for the package.
    Overrides,
    /// The release, as `uname -r` prints it.
    Release,
    /// The architecture, as `uname -m` prints it.
    Architecture,
    /// The build of the kernel, as `uname -v` prints it.
    KernelVersion,
    /// The kernel's configuration.
    Config,
    /// The kernel's headers.
    Headers,
    /// The target of the kernel's link `source`.
    KernelSource,
    /// A program that affects the modules, by its role.
    Tool(String),
    /// The packages that it builds against.
    Dependencies,
    /// The CPU, for a package whose flags make compilers ask for it.
    Cpu,
    /// The environment of builds.
    Environment,
    /// The contents of the sandbox.
    Sandbox,
    /// The initramfs contains a copy of another build.
    Initramfs,
    /// A field of another version of kcache.
    Other(String),
}

/// Prefix of fields for tools.
const TOOL: &str = "toolchain.";

impl InputChange {
    /// The input of a field of the key.
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
            InputChange::Cpu,
            InputChange::Environment,
            InputChange::Sandbox,
        ];
        let tool = || Some(InputChange::Tool(name.strip_prefix(TOOL)?.to_owned()));
        let found = known.into_iter().find(|change| change.word() == name).or_else(tool);
        found.unwrap_or_else(|| InputChange::Other(name.to_owned()))
    }

    /// Whether only a build program changed, so that the kernel would see no difference.
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
            InputChange::Cpu => "cpu",
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

/// Formats several inputs for people.
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
