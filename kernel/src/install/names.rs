//! Names of files in a kernel's tree.

use std::path::Path;

use crate::compress::Compression;

/// Prefix of a generation's directory under `updates/`.
pub(super) const DIR_PREFIX: &str = "kcache-";

pub(super) fn dir_name(generation: &str) -> String {
    format!("{DIR_PREFIX}{generation}")
}

/// Name in the kernel of the module in a file; `None` if it is no module file.
pub fn module_of(path: &Path) -> Option<String> {
    let (name, _) = Compression::of_file_name(path.file_name()?.to_str()?)?;
    Some(name.replace('-', "_"))
}
