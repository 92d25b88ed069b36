//! The messages of a run while it works.

use std::time::Duration;

use kcache_store::{Notice, Severity};

/// What is going on, as it happens. Called from several threads.
pub trait Progress: Send + Sync {
    /// Something a person should know now.
    fn say(&self, message: &str);
    /// Something that is not as it should be, and that the run goes on without.
    fn warn(&self, message: &str);
    /// What to do about the last warning.
    fn hint(&self, message: &str);
    /// Something that the store has noticed.
    fn notice(&self, notice: &Notice) {
        match notice.severity {
            Severity::Info => self.say(&notice.text),
            Severity::Warning => self.warn(&notice.text),
        }
    }
    /// Something that is only interesting when something is odd.
    fn detail(&self, _message: &str) {}
    /// A piece of work begins; `what` is a package and a kernel.
    fn begin(&self, _what: &str, _doing: &str) {}
    /// A line of its log.
    fn line(&self, _what: &str, _line: &str) {}
    /// Bytes of it have come in.
    fn heard(&self, _what: &str, _bytes: u64) {}
    /// It has ended.
    fn end(&self, _what: &str) {}
    /// A build is about to begin; this is what is left besides it.
    fn outlook(&self, _outlook: &Outlook) {}
}

/// What is still to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Builds that wait for others to end.
    pub waiting: usize,
    /// How long it may take until the last one has ended.
    pub left: Duration,
}

/// Bytes for people.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
