//! Whether a kernel will refuse unsigned modules, and why.
//!
//! A kernel does so (`kernel/module/signing.c`, `security/lockdown/`) because of its configuration, its command line,
//! or Secure Boot, if the distribution's kernel locks itself down then. The command line is that of the boot loader's
//! entry for the kernel, because the running one says nothing about the next boot, plus the built-in one
//! (`CONFIG_CMDLINE`).

use std::fmt;

use crate::bootloader;
use crate::bounded_read;
use crate::kconfig::Kconfig;
use crate::rootfs::Root;

/// Why a kernel refuses unsigned modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enforcement {
    /// A configuration symbol, such as `CONFIG_MODULE_SIG_FORCE`.
    Config(&'static str),
    /// A word of the kernel's command line.
    CommandLine(String),
    /// Secure Boot is enabled, and this kernel locks itself down then.
    SecureBoot,
}

impl fmt::Display for Enforcement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(symbol) => f.write_str(symbol),
            Self::CommandLine(word) => write!(f, "{word} on its command line"),
            Self::SecureBoot => f.write_str("Secure Boot"),
        }
    }
}

/// The firmware's variable `SecureBoot` in efivarfs: four bytes of attributes, then one byte of value (UEFI
/// specification, section 3.3).
const SECURE_BOOT: &str = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Why this kernel refuses unsigned modules, as far as the system under `root` tells; `None` if it accepts them. A
/// kernel whose configuration is missing is assumed to lock itself down under Secure Boot.
pub fn of(root: &Root, release: &str, config: Option<&Kconfig>) -> Option<Enforcement> {
    let secure_boot = root
        .find(SECURE_BOOT)
        .and_then(|path| bounded_read::bytes(path, bounded_read::MOST_CONFIG).ok())
        .is_some_and(is_on);
    let command_line = bootloader::command_line(root, release);
    decide(config, command_line.as_deref().unwrap_or_default(), secure_boot)
}

fn is_on(variable: Vec<u8>) -> bool {
    variable.get(4) == Some(&1)
}

fn decide(config: Option<&Kconfig>, command_line: &str, secure_boot: bool) -> Option<Enforcement> {
    let says = |symbol: &str| config.is_some_and(|config| config.yes(symbol));
    let forced = [
        "CONFIG_MODULE_SIG_FORCE",
        "CONFIG_LOCK_DOWN_KERNEL_FORCE_INTEGRITY",
        "CONFIG_LOCK_DOWN_KERNEL_FORCE_CONFIDENTIALITY",
    ];
    if let Some(symbol) = forced.into_iter().find(|symbol| says(symbol)) {
        return Some(Enforcement::Config(symbol));
    }
    // Which of the two applies if a kernel has both depends on the architecture; here either counts.
    let built_in = config.and_then(|config| config.value("CONFIG_CMDLINE")).unwrap_or_default();
    let mut words = built_in.split_ascii_whitespace().chain(command_line.split_ascii_whitespace());
    if let Some(word) = words.find(|word| enforces(word)) {
        return Some(Enforcement::CommandLine(word.to_owned()));
    }
    // Not upstream: a patch that Debian, Ubuntu, Fedora and SUSE share.
    let locks_down = config.is_none() || says("CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT");
    (secure_boot && locks_down).then_some(Enforcement::SecureBoot)
}

/// Whether a word enables enforcement. A boolean parameter without a value is true, `-` and `_` are equal, and quotes
/// do not count (Documentation/admin-guide/kernel-parameters.rst).
fn enforces(word: &str) -> bool {
    let word = word.replace('"', "");
    let (name, value) = word.split_once('=').unwrap_or((&word, "1"));
    match name.replace('-', "_").as_str() {
        "module.sig_enforce" => is_true(value),
        "lockdown" => matches!(value, "integrity" | "confidentiality"),
        _ => false,
    }
}

/// Whether the kernel takes a value as true: the first one or two characters decide (kstrtobool, lib/kstrtox.c).
fn is_true(value: &str) -> bool {
    let mut first = value.chars().map(|c| c.to_ascii_lowercase());
    match first.next() {
        Some('1' | 'y' | 't') => true,
        Some('o') => first.next() == Some('n'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(config: &str, command_line: &str, secure_boot: bool, expect: Option<&str>) {
        let found = decide(Some(&Kconfig::new(config.to_owned())), command_line, secure_boot);
        assert_eq!(found.map(|found| found.to_string()).as_deref(), expect);
    }

    #[test]
    fn configuration_command_line_and_firmware_each_suffice() {
        check("", "quiet", false, None);
        check("CONFIG_MODULE_SIG_FORCE=y\n", "", false, Some("CONFIG_MODULE_SIG_FORCE"));
        check("", "ro module.sig_enforce=1", false, Some("module.sig_enforce=1 on its command line"));
        check("", "module.sig-enforce", false, Some("module.sig-enforce on its command line"));
        check("", "lockdown=integrity", false, Some("lockdown=integrity on its command line"));
        check("CONFIG_LOCK_DOWN_IN_EFI_SECURE_BOOT=y\n", "", true, Some("Secure Boot"));
    }

    #[test]
    fn every_true_value_of_the_kernel_counts() {
        for value in ["1", "y", "Yes", "true", "T", "on", "On", "\"1\""] {
            assert!(enforces(&format!("module.sig_enforce={value}")), "{value}");
        }
        for value in ["", "0", "no", "false", "off", "o", "2"] {
            assert!(!enforces(&format!("module.sig_enforce={value}")), "{value}");
        }
    }

    #[test]
    fn the_built_in_command_line_counts() {
        let config = "CONFIG_CMDLINE=\"quiet module.sig_enforce=1\"\n";
        check(config, "", false, Some("module.sig_enforce=1 on its command line"));
    }

    #[test]
    fn other_parameters_are_not_enforcement() {
        check("# CONFIG_MODULE_SIG_FORCE is not set\n", "module.sig_enforce=0 lockdown=none", true, None);
    }

    #[test]
    fn an_unknown_configuration_enforces_under_secure_boot() {
        assert_eq!(decide(None, "", true), Some(Enforcement::SecureBoot));
        assert_eq!(decide(None, "quiet", false), None);
        assert!(decide(None, "lockdown=integrity", false).is_some());
    }

    #[test]
    fn a_variable_without_its_value_is_off() {
        assert!(is_on(vec![6, 0, 0, 0, 1]));
        assert!(!is_on(vec![6, 0, 0, 0, 0]) && !is_on(vec![6]));
    }
}
