//! The common part of `install`, `build` and `pull`.

use crate::args::Selection;
use crate::exit::Exit;

/// What was asked for.
pub struct Task<'a> {
    pub which: &'a Selection,
    pub rebuild: bool,
    pub fetch_only: bool,
    pub check: bool,
    pub install: bool,
}

/// What came of a run.
pub struct Ran {
    pub exit: Exit,
    /// Packages that are not there now, by name.
    pub failed: Vec<String>,
    /// Whether any kernel has other modules now.
    pub changed: bool,
}
