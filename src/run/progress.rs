//! The messages of a run while it works.

use std::time::Duration;

use kcache_store::{Notice, Severity};

/// Receives messages and progress, from several threads.
pub trait Progress: Send + Sync {
    /// A message for the user.
    fn print(&self, message: &str);
    /// A warning: something failed, and the run continues without it.
    fn warn(&self, message: &str);
    /// The next step after the last warning.
    fn hint(&self, message: &str);
    /// A notice of the store.
    fn notice(&self, notice: &Notice) {
        match notice.severity {
            Severity::Info => self.print(&notice.text),
            Severity::Warning => self.warn(&notice.text),
        }
    }
    /// A detail, which matters only when analysing a problem.
    fn detail(&self, _message: &str) {}
    /// A task begins; `what` is a package and a kernel.
    fn begin(&self, _what: &str, _doing: &str) {}
    /// A line of the task's log.
    fn line(&self, _what: &str, _line: &str) {}
    /// Bytes were received for the task.
    fn heard(&self, _what: &str, _bytes: u64) {}
    /// The task has ended.
    fn end(&self, _what: &str) {}
    /// A build is about to begin; the outlook is without it. Called again while builds run, as the time passes.
    fn outlook(&self, _outlook: &Outlook) {}
}

/// The remaining builds of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Number of builds that wait for others to end.
    pub waiting: usize,
    /// Expected time until the last one has ended.
    pub left: Duration,
}

/// Formats a size for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
