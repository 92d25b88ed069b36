//! Of `gc` and `verify`.

use serde::Serialize;

/// `gc`: one line for each entry that is deleted.
#[derive(Debug, Serialize)]
pub struct Collected {
    pub r#type: &'static str,
    pub key: String,
    pub package: String,
    pub version: String,
    pub kernel: String,
    /// Else it is a remembered failure.
    pub built: bool,
    /// Seconds since 1970.
    pub used: u64,
    /// Of its file, and of the objects that no other entry names.
    pub bytes: u64,
    /// max-age, max-size, min-free.
    pub reason: String,
}

/// The last line of `gc`: what was deleted, with `--dry-run` what would be. All zero if there is no store.
#[derive(Debug, Default, Serialize)]
pub struct Collection {
    pub r#type: &'static str,
    pub exit: u8,
    pub entries: u64,
    pub objects: u64,
    pub pointers: u64,
    pub signatures: u64,
    /// Of crashed processes.
    pub drafts: u64,
    pub bytes: u64,
    pub stay_entries: u64,
    pub stay_objects: u64,
    pub stay_bytes: u64,
    /// Installed or pinned.
    pub stay_kept: u64,
    /// Within the grace period.
    pub stay_young: u64,
    /// A limit that was not reached: max-size, min-free.
    pub exceeds: Option<String>,
}

/// `verify`: one line for each finding.
#[derive(Debug, Serialize)]
pub struct Damage {
    pub r#type: &'static str,
    /// object, entry, pointer, index, kernel.
    pub what: String,
    /// The file; of a kernel its release.
    pub path: String,
    /// The same as `description`, kept for one release.
    pub wrong: String,
    pub description: String,
    /// fetched, deleted, remade, installed; null: nothing was done.
    pub repaired: Option<&'static str>,
}

/// The last line of `verify`.
#[derive(Debug, Serialize)]
pub struct Verified {
    pub r#type: &'static str,
    pub exit: u8,
    pub objects: u64,
    pub bytes: u64,
    pub entries: u64,
    pub pointers: u64,
    pub kernels: u64,
    /// The same as `corrupt`, kept for one release.
    pub damaged: u64,
    pub corrupt: u64,
    pub repaired: u64,
}
