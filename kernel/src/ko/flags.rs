//! The parts of a kernel's configuration that vermagic contains.

use crate::kconfig::Kconfig;

/// The parts of a kernel's configuration that appear in its modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    /// `CONFIG_SMP`
    pub smp: bool,
    /// The kernel's preemption model.
    pub preempt: Preempt,
    /// `CONFIG_MODULE_UNLOAD`
    pub mod_unload: bool,
    /// `CONFIG_MODVERSIONS`
    pub modversions: bool,
    /// `CONFIG_MODULE_FORCE_LOAD`: modules without any version are loaded all the same, and taint the kernel.
    pub force_load: bool,
    /// `CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS`: the kernel only warns about a missing namespace.
    pub missing_imports_allowed: bool,
    /// The kernel refuses modules with types that do not fit its own (`CONFIG_DEBUG_INFO_BTF_MODULES` without
    /// `CONFIG_MODULE_ALLOW_BTF_MISMATCH`).
    pub types_must_fit: bool,
}

/// The preemption model as in vermagic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preempt {
    /// Not mentioned in vermagic.
    #[default]
    Off,
    /// `preempt`
    On,
    /// `preempt_rt`
    Rt,
}

impl Flags {
    /// Reads the flags from a configuration as `include/linux/vermagic.h` does.
    pub fn of_config(config: &Kconfig) -> Self {
        // CONFIG_PREEMPT_BUILD counts since 5.16, CONFIG_PREEMPT before.
        let preempt = if config.yes("CONFIG_PREEMPT_BUILD") || config.yes("CONFIG_PREEMPT") {
            Preempt::On
        } else if config.yes("CONFIG_PREEMPT_RT") {
            Preempt::Rt
        } else {
            Preempt::Off
        };
        Self {
            smp: config.yes("CONFIG_SMP"),
            preempt,
            mod_unload: config.yes("CONFIG_MODULE_UNLOAD"),
            modversions: config.yes("CONFIG_MODVERSIONS"),
            force_load: config.yes("CONFIG_MODULE_FORCE_LOAD"),
            missing_imports_allowed: config.yes("CONFIG_MODULE_ALLOW_MISSING_NAMESPACE_IMPORTS"),
            types_must_fit: config.yes("CONFIG_DEBUG_INFO_BTF_MODULES")
                && !config.yes("CONFIG_MODULE_ALLOW_BTF_MISMATCH"),
        }
    }

    /// The words of vermagic after the release.
    pub(super) fn words(self) -> impl Iterator<Item = &'static str> {
        let preempt = match self.preempt {
            Preempt::Off => "",
            Preempt::On => "preempt",
            Preempt::Rt => "preempt_rt",
        };
        let modversions = if self.modversions { "modversions" } else { "" };
        let mod_unload = if self.mod_unload { "mod_unload" } else { "" };
        [if self.smp { "SMP" } else { "" }, preempt, mod_unload, modversions]
            .into_iter()
            .filter(|w| !w.is_empty())
    }
}

/// All words of [`Flags::words`]. Other words of a vermagic belong to the architecture (`aarch64`, `ARMv7 p2v8`) or to
/// structure randomization, and are not checked.
pub(super) const WORDS: [&str; 5] = ["SMP", "preempt", "preempt_rt", "mod_unload", "modversions"];
