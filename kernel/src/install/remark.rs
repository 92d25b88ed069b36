//! What is to be said of a transaction that succeeded.

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// What depmod said of modules of others; it begins with `depmod: `.
    Depmod(String),
    /// What was not done after the commit, and why.
    Undone(String),
}
