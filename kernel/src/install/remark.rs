//! Warnings about a transaction that succeeded.

/// A one-line warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// A message of depmod about foreign modules; begins with `depmod: `.
    Depmod(String),
    /// What failed after the commit, and why.
    Undone(String),
}
