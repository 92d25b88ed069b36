//! Names of files in a kernel's tree.

/// Prefix of a generation's directory under `updates/`.
pub(super) const DIR_PREFIX: &str = "kcache-";

pub(super) fn dir_name(generation: &str) -> String {
    format!("{DIR_PREFIX}{generation}")
}
