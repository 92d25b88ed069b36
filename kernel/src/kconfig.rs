//! A kernel's configuration: the `.config` of its build tree (Documentation/kbuild/kconfig.rst).

use memchr::memmem;

/// The text of a `.config`, queried by symbol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kconfig {
    text: String,
}

impl Kconfig {
    /// Wraps the text of a `.config`: lines `CONFIG_X=value` and comments.
    pub fn new(text: String) -> Kconfig {
        Kconfig { text }
    }

    /// The value of a symbol, given with `CONFIG_`, without quotes; `None` if it is not set.
    pub fn value(&self, symbol: &str) -> Option<&str> {
        let found = memmem::find_iter(self.text.as_bytes(), symbol).find_map(|at| {
            let begins_line = at == 0 || self.text.as_bytes()[at - 1] == b'\n';
            let value = self.text.get(at + symbol.len()..)?.strip_prefix('=').filter(|_| begins_line)?;
            value.lines().next().or(Some(value))
        });
        found.map(|value| value.trim_matches('"'))
    }

    /// Whether a symbol is `=y`.
    pub fn yes(&self, symbol: &str) -> bool {
        self.value(symbol) == Some("y")
    }

    /// Version of the kernel's source, from the heading (scripts/kconfig/confdata.c): `# Linux/x86 6.12.1 Kernel Configuration`.
    pub fn version(&self) -> Option<(u32, u32)> {
        let heading = self.text.lines().take(8).find_map(|line| line.strip_prefix("# Linux/"))?;
        let mut numbers = heading.split(' ').nth(1)?.split(['.', '-']);
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }

    /// Whether clang compiled the kernel; then it must compile modules, too.
    pub fn is_clang(&self) -> bool {
        self.yes("CONFIG_CC_IS_CLANG")
    }

    /// Whether the symbol occurs, even as `# CONFIG_X is not set`.
    pub fn mentions(&self, symbol: &str) -> bool {
        self.value(symbol).is_some() || self.text.contains(&format!("# {symbol} is not set"))
    }

    /// Whether a symbol is `=y` or `=m`.
    pub fn yes_or_module(&self, symbol: &str) -> bool {
        matches!(self.value(symbol), Some("y" | "m"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_found_by_their_complete_name() {
        let config =
            Kconfig::new("CONFIG_SMP_X=m\n# CONFIG_SMP is not set\nCONFIG_CC=\"gcc-12 (D) 12\"\n".into());
        assert_eq!(config.value("CONFIG_SMP"), None);
        assert_eq!(config.value("CONFIG_CC"), Some("gcc-12 (D) 12"));
        assert!(config.yes_or_module("CONFIG_SMP_X") && !config.yes("CONFIG_SMP_X"));
        let config = Kconfig::new("CONFIG_NO_A=n\r\nCONFIG_A=y\r\nCONFIG_É=\nCONFIG_END=".into());
        assert_eq!((config.value("CONFIG_A"), config.value("CONFIG_NO_A")), (Some("y"), Some("n")));
        assert_eq!((config.value("CONFIG_É"), config.value("CONFIG_END")), (Some(""), Some("")));
        assert_eq!((config.value(""), config.value("A")), (None, None));
    }

    #[test]
    fn the_heading_has_the_version() {
        let check =
            |text: &str, expect| assert_eq!(Kconfig::new(text.to_owned()).version(), expect, "{text}");
        check("#\n# Automatically generated\n# Linux/x86 6.12.1 Kernel Configuration\n#\n", Some((6, 12)));
        check("# Linux/arm64 7.0-rc1 Kernel Configuration\n", Some((7, 0)));
        check("# Linux/x86\n", None);
        check("CONFIG_A=y\n", None);
    }
}
