//! What lies in a directory of shards, `entries/ab/...` or `objects/ab/...`, one file after the other.
//!
//! Nothing is collected, so a store of any size is gone through in the memory of one file. Files come in no order. What is
//! deleted meanwhile is not there, and what is added meanwhile may be.

use std::fs::Metadata;
use std::path::Path;

use crate::disk::files;
use crate::{Digest, Key, Result, Store, entry, object};

/// Tells of each object's file. What lies elsewhere than an object would is somebody else's.
pub(crate) fn objects(
    store: &Store,
    each: &mut dyn FnMut(Digest, &Path, &Metadata) -> Result<()>,
) -> Result<()> {
    let dir = store.objects();
    files(&dir, ".zst", &mut |stem, path, metadata| match stem.parse::<Digest>() {
        Ok(digest) if object::path(&dir, &digest) == path => each(digest, path, metadata),
        _ => Ok(()),
    })
}

/// The same of entries.
pub(crate) fn entries(
    store: &Store,
    each: &mut dyn FnMut(Key, &Path, &Metadata) -> Result<()>,
) -> Result<()> {
    let dir = store.entries();
    files(&dir, ".json", &mut |stem, path, metadata| match stem.parse::<Key>() {
        Ok(key) if entry::path(&dir, &key) == path => each(key, path, metadata),
        _ => Ok(()),
    })
}
