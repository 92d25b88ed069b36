//! Names in a kernel's tree.

/// What a generation's directory begins with, under `updates/`.
pub(super) const DIR_PREFIX: &str = "kcache-";

pub(super) fn dir_name(generation: &str) -> String {
    format!("{DIR_PREFIX}{generation}")
}
