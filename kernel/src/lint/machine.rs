//! Rules about what a build takes from the machine: its CPU, and files beside the source tree.

use std::io;
use std::path::Path;

use super::{LintFinding, finding};
use crate::{native, outside};

/// Findings about a source tree's makefiles and scripts.
pub fn check(top: &Path) -> io::Result<Vec<LintFinding>> {
    let native = native::uses(top)?.into_iter().filter_map(|it| {
        finding("native-cpu", &it.file, it.line, format!("{} optimizes for the CPU of the builder", it.flag))
    });
    let outside = outside::references(top)?.into_iter().filter_map(|it| {
        let what = format!("refers to {}, which is outside of the source tree", it.directory.display());
        finding("outside-directory", &it.file, it.line, what)
    });
    Ok(native.chain(outside).collect())
}
