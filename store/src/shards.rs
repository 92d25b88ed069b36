//! Iterating over sharded directories, `entries/ab/...` and `objects/ab/...`, one file at a time.
//!
//! Nothing is collected, so memory use does not depend on the store's size. The order is arbitrary. Files that are
//! deleted meanwhile are skipped; files that are added meanwhile may be missed.

use std::fs::Metadata;
use std::path::Path;

use crate::disk::files;
use crate::{Digest, Key, Result, Store, entry, object};

/// Calls back for each object's file. Ignores files that are not where an object would be.
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

/// Calls back for each entry's file. Ignores files that are not where an entry would be.
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
