//! Notices: messages about a run, besides its result.

use std::fmt;
use std::sync::Arc;

/// Whether a notice is information or a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Progress, or another fact worth knowing.
    Info,
    /// Something failed, and the run continues without it.
    Warning,
}

/// A one-line message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The printer chooses prefix and colour by this.
    pub severity: Severity,
    /// The message, without a prefix for its severity.
    pub text: String,
}

impl Notice {
    /// Makes an informational message.
    pub fn info(text: impl Into<String>) -> Notice {
        Notice { severity: Severity::Info, text: text.into() }
    }

    /// Makes a warning.
    pub fn warning(text: impl Into<String>) -> Notice {
        Notice { severity: Severity::Warning, text: text.into() }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Receives notices, from any thread.
pub type Say = Arc<dyn Fn(&Notice) + Send + Sync>;
