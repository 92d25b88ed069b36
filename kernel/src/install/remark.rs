//! Warnings about a transaction that succeeded.

use super::fault::Fault;

/// A one-line warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// A message of depmod about foreign modules; begins with `depmod: `.
    Depmod(String),
    /// A module that was installed before, and in whose way a foreign file is now.
    Shadowed(Fault),
    /// A file that did not get its SELinux label, and why.
    Unlabeled(String),
    /// What failed after the commit, and why.
    Undone(String),
}
