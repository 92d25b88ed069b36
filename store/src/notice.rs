//! What a person should know of a run, beside its result.

use std::fmt;
use std::sync::Arc;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It tells what goes on.
    Info,
    /// Something is not as it should be, and the run goes on without it.
    Warning,
}

/// One thing to know, in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// How much it matters.
    pub severity: Severity,
    /// What it is; without a word for the severity, which is for whoever prints it.
    pub text: String,
}

impl Notice {
    /// What goes on.
    pub fn info(text: impl Into<String>) -> Notice {
        Notice { severity: Severity::Info, text: text.into() }
    }

    /// What is not as it should be.
    pub fn warning(text: impl Into<String>) -> Notice {
        Notice { severity: Severity::Warning, text: text.into() }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Hears notices, from any thread.
pub type Say = Arc<dyn Fn(&Notice) + Send + Sync>;
