//! What lies in a directory of shards, `entries/ab/...` or `objects/ab/...`, one file after the other.
//!
//! Nothing is collected, so a store of any size is gone through in the memory of one file. Files come in no order. What is
//! deleted meanwhile is not there, and what is added meanwhile may be.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::{Digest, Key, Result, Store, entry, object};

/// Tells of each file with this ending in the directories of `dir`: its name without the ending, its path, and what the
/// file system says of it. Links are not followed.
pub(crate) fn files(
    dir: &Path,
    ending: &str,
    each: &mut dyn FnMut(&str, &Path, &Metadata) -> Result<()>,
) -> Result<()> {
    for shard in fs_err::read_dir(dir)? {
        let shard = shard?;
        if !shard.file_type()?.is_dir() {
            continue;
        }
        let Some(files) = if_there(fs_err::read_dir(shard.path()))? else { continue };
        for file in files {
            let file = file?;
            let name = file.file_name();
            let Some(stem) = name.to_str().and_then(|name| name.strip_suffix(ending)) else { continue };
            if let Some(metadata) = if_there(file.metadata())? {
                each(stem, &file.path(), &metadata)?;
            }
        }
    }
    Ok(())
}

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

/// What was deleted meanwhile is none.
pub(crate) fn if_there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}
