//! Verifying a whole store, byte by byte, and repairing what is possible.
//!
//! ```text
//! what              requirement                                           repair
//! object            bytes match the digest in its name                    deleted; then treated as missing
//! entry             belongs to the key in its name, matches its own       fetched again, else deleted
//!                   checksum, obeys the format; all its objects exist
//!                   in the recorded sizes
//! pointer           belongs to its name, obeys the format                 deleted; the next fetch finds another
//! index             sound for SQLite, and equal to the entries            rebuilt from the entries
//! ```
//! Objects are verified before entries, so that a corrupt object which was deleted is missing when its entries are
//! verified; the index comes last. What cannot be restored is deleted, and the next look-up is a miss: a build, never
//! a wrong answer.
//!
//! Unknown files are left alone, and so are detached signatures, which only the holder of the certificate can verify,
//! and drafts, which `gc` deletes.
//!
//! **Concurrent processes.** A file that is gone at a second look was deleted by another process and is no finding. A
//! corrupt object is read a second time, and deleted while nobody can add. **Memory**: one file at a time, whatever
//! the store contains.

mod index;
mod repair;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::{files, if_there};
use crate::transport::Name;
use crate::{Digest, Entry, Error, Key, Output, Pointer, Result, Store, object, shards};

pub use repair::{Repair, Repaired};

/// A corrupt or missing part of a store.
#[derive(Debug)]
pub struct Finding {
    /// Path of the file.
    pub path: PathBuf,
    /// The kind of file.
    pub what: Corrupt,
    /// What is wrong with it, as text.
    pub wrong: String,
}

/// A part of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Corrupt {
    /// An object whose bytes do not match.
    Object(Digest),
    /// A key's entry whose file is corrupt.
    Entry(Key),
    /// A key's entry that needs a missing object. Its file is intact.
    Lacking(Key),
    /// A key's entry with the wrong size of an object. File and object are intact.
    Untrue(Key),
    /// A pointer whose file is corrupt.
    Pointer(Name),
    /// The store's index.
    Index,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Corrupt::Object(_) => "object",
            Corrupt::Entry(_) | Corrupt::Lacking(_) | Corrupt::Untrue(_) => "entry",
            Corrupt::Pointer(_) => "pointer",
            Corrupt::Index => "index",
        })
    }
}

/// Counts of what was verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Number of objects.
    pub objects: u64,
    /// Size in bytes of the objects, compressed as stored.
    pub bytes: u64,
    /// Number of entries.
    pub entries: u64,
    /// Number of pointers.
    pub pointers: u64,
}

/// Verifies everything, and calls `each` for each finding as it is found. `each` may repair it.
///
/// # Errors
///
/// [`Error::Interrupted`] after `cancel`, and errors of `each`. Corruption is a finding, not an error.
pub fn verify(
    store: &Store,
    cancel: &AtomicBool,
    each: &mut dyn FnMut(Finding) -> Result<()>,
) -> Result<Verified> {
    let mut seen = Verified::default();
    objects(store, cancel, &mut seen, each)?;
    entries(store, cancel, &mut seen, each)?;
    pointers(store, cancel, &mut seen, each)?;
    if let Some(wrong) = index::wrong(store, cancel)? {
        each(Finding { path: store.index_path(), what: Corrupt::Index, wrong })?;
    }
    Ok(seen)
}

type Each<'a> = dyn FnMut(Finding) -> Result<()> + 'a;

fn objects(store: &Store, cancel: &AtomicBool, seen: &mut Verified, each: &mut Each) -> Result<()> {
    shards::objects(store, &mut |digest, path, metadata| {
        must_go_on(cancel)?;
        (seen.objects, seen.bytes) = (seen.objects + 1, seen.bytes + metadata.len());
        match wrong(object::examine(path, &digest))? {
            Some(wrong) => each(Finding { path: path.to_owned(), what: Corrupt::Object(digest), wrong }),
            None => Ok(()),
        }
    })
}

fn entries(store: &Store, cancel: &AtomicBool, seen: &mut Verified, each: &mut Each) -> Result<()> {
    shards::entries(store, &mut |key, path, _| {
        must_go_on(cancel)?;
        seen.entries += 1;
        // Garbage collection deletes entries before their objects, so a second look shows that the entry is gone.
        if examine(store, &key)?.is_none() {
            return Ok(());
        }
        match examine(store, &key)? {
            Some((what, wrong)) => each(Finding { path: path.to_owned(), what, wrong }),
            None => Ok(()),
        }
    })
}

/// The finding about a key's entry, if any.
fn examine(store: &Store, key: &Key) -> Result<Option<(Corrupt, String)>> {
    match store.lookup(key) {
        Ok(Some(entry)) => match lacks(store, &entry)? {
            Some(wrong) => Ok(Some((Corrupt::Lacking(*key), wrong))),
            None => Ok(lies(store, &entry).map(|wrong| (Corrupt::Untrue(*key), wrong))),
        },
        Ok(None) => Ok(None),
        Err(error) => Ok(wrong(Err(error))?.map(|wrong| (Corrupt::Entry(*key), wrong))),
    }
}

/// A needed object that is missing, as text.
fn lacks(store: &Store, entry: &Entry) -> Result<Option<String>> {
    for output in entry.manifest().needed() {
        if !store.has_object(&output.digest)? {
            return Ok(Some(format!("the object of output `{}` is missing", output.name)));
        }
    }
    Ok(None)
}

/// A wrong size of an object in an entry, as text. Corrupt objects have a finding of their own.
fn lies(store: &Store, entry: &Entry) -> Option<String> {
    let size_of =
        |output: &Output| object::size(&object::path(&store.objects(), &output.digest), output.size);
    entry.manifest().outputs.iter().find_map(|output| match size_of(output) {
        Ok(Some(size)) if size != output.size => {
            let (name, said) = (&output.name, output.size);
            let more = if size > said { "more" } else { "fewer" };
            Some(format!("output `{name}` should have {said} bytes, but its object has {more}"))
        }
        _ => None,
    })
}

fn pointers(store: &Store, cancel: &AtomicBool, seen: &mut Verified, each: &mut Each) -> Result<()> {
    let Some(releases) = if_there(fs_err::read_dir(store.dir().join("by-kernel")))? else { return Ok(()) };
    for release in releases {
        let release = release?;
        let Ok(name) = release.file_name().into_string() else { continue };
        if !release.file_type()?.is_dir() {
            continue;
        }
        files(&release.path(), ".json", &mut |package, path, _| {
            must_go_on(cancel)?;
            let kernel = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
            let Some(kernel) = kernel.and_then(|kernel| kernel.parse().ok()) else { return Ok(()) };
            let Ok(name) = Pointer::name(&name, kernel, package) else { return Ok(()) };
            seen.pointers += 1;
            match wrong(store.pointer(&name).map(drop))? {
                Some(wrong) => each(Finding { path: path.to_owned(), what: Corrupt::Pointer(name), wrong }),
                None => Ok(()),
            }
        })?;
    }
    Ok(())
}

/// Turns the error of an examination into text for a finding. An unreadable file counts as corrupt. Files of a newer
/// kcache are not judged.
fn wrong(examined: Result<()>) -> Result<Option<String>> {
    match examined {
        Ok(()) => Ok(None),
        Err(Error::Damaged { expected, found, .. }) => Ok(Some(format!("{found}, expected {expected}"))),
        Err(Error::Entry { reason, .. }) => Ok(Some(reason)),
        Err(Error::At { source, .. } | Error::Io(source)) => Ok(Some(source.to_string())),
        Err(error) => Err(error),
    }
}

fn must_go_on(cancel: &AtomicBool) -> Result<()> {
    if cancel.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
}
