//! Names in a kernel's tree.

use std::path::Path;

use crate::compress::Compression;

/// What a generation's directory begins with, under `updates/`.
pub(super) const DIR_PREFIX: &str = "kcache-";

pub(super) fn dir_name(generation: &str) -> String {
    format!("{DIR_PREFIX}{generation}")
}

/// The module that a file of this name is.
pub fn module_of(path: &Path) -> Option<String> {
    let (name, _) = Compression::of_file_name(path.file_name()?.to_str()?)?;
    Some(name.replace('-', "_"))
}
