//! Looking at all of a store again, byte by byte, and putting right what can be.
//!
//! ```text
//! what              must be                                               is repaired by
//! object            bytes of the digest that it is named by               deleting it; then as one that is missing
//! entry             of the key that it is named by, whole by its own      fetching it again, else deleting it
//!                   checksum, obeying the format, with all its
//!                   objects, in the sizes that it says
//! pointer           of the name that it has, obeying the format           deleting it: the next fetch finds another
//! index             sound to SQLite, and what the entries say             making it again from the entries
//! ```
//! Objects come before entries, so that a damaged object which was deleted is missing when its entries are looked at; and
//! the index comes last. What cannot be had back is deleted, entries before anything that would need them, and the next
//! look-up is a miss: a build, never a wrong answer.
//!
//! Files that are not the store's are left alone, as are signatures of modules, of which only the holder of the certificate can
//! tell what they are worth, and drafts, which belong to `gc`.
//!
//! **Beside others.** What is gone when it is looked at again was deleted by somebody else, and is no finding. A damaged object
//! is deleted while nobody can add, after it was read once more. **Memory**: one file at a time, whatever the store holds.

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

/// Something that is not as it must be.
#[derive(Debug)]
pub struct Finding {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub what: What,
    /// What is wrong with it, in words.
    pub wrong: String,
}

/// What a file of a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// An object.
    Object(Digest),
    /// The entry of a key. Its file is damaged.
    Entry(Key),
    /// The same. Its file is whole, and an object that it needs is not there.
    Lacking(Key),
    /// The same. All is whole, and an object has another size than the entry says.
    Untrue(Key),
    /// A pointer.
    Pointer(Name),
    /// The index.
    Index,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::Object(_) => "object",
            What::Entry(_) | What::Lacking(_) | What::Untrue(_) => "entry",
            What::Pointer(_) => "pointer",
            What::Index => "index",
        })
    }
}

/// How much was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Objects.
    pub objects: u64,
    /// Their bytes, as they lie there.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Pointers.
    pub pointers: u64,
}

/// Looks at everything, and tells of what is wrong, each as it is found. `each` may repair it.
pub fn verify(
    store: &Store,
    cancel: &AtomicBool,
    each: &mut dyn FnMut(Finding) -> Result<()>,
) -> Result<Seen> {
    let mut seen = Seen::default();
    objects(store, cancel, &mut seen, each)?;
    entries(store, cancel, &mut seen, each)?;
    pointers(store, cancel, &mut seen, each)?;
    if let Some(wrong) = index::wrong(store, cancel)? {
        each(Finding { path: store.index_path(), what: What::Index, wrong })?;
    }
    Ok(seen)
}

type Each<'a> = dyn FnMut(Finding) -> Result<()> + 'a;

fn objects(store: &Store, cancel: &AtomicBool, seen: &mut Seen, each: &mut Each) -> Result<()> {
    shards::objects(store, &mut |digest, path, metadata| {
        must_go_on(cancel)?;
        (seen.objects, seen.bytes) = (seen.objects + 1, seen.bytes + metadata.len());
        match wrong(object::examine(path, &digest))? {
            Some(wrong) => each(Finding { path: path.to_owned(), what: What::Object(digest), wrong }),
            None => Ok(()),
        }
    })
}

fn entries(store: &Store, cancel: &AtomicBool, seen: &mut Seen, each: &mut Each) -> Result<()> {
    shards::entries(store, &mut |key, path, _| {
        must_go_on(cancel)?;
        seen.entries += 1;
        // Whoever collects takes entries first and then their objects: a second look sees the entry gone.
        if examine(store, &key)?.is_none() {
            return Ok(());
        }
        match examine(store, &key)? {
            Some((what, wrong)) => each(Finding { path: path.to_owned(), what, wrong }),
            None => Ok(()),
        }
    })
}

/// What is wrong with the entry of a key, if there is one.
fn examine(store: &Store, key: &Key) -> Result<Option<(What, String)>> {
    match store.lookup(key) {
        Ok(Some(entry)) => match lacks(store, &entry)? {
            Some(wrong) => Ok(Some((What::Lacking(*key), wrong))),
            None => Ok(lies(store, &entry).map(|wrong| (What::Untrue(*key), wrong))),
        },
        Ok(None) => Ok(None),
        Err(error) => Ok(wrong(Err(error))?.map(|wrong| (What::Entry(*key), wrong))),
    }
}

/// What an entry needs and is not there.
fn lacks(store: &Store, entry: &Entry) -> Result<Option<String>> {
    for output in entry.manifest().needed() {
        if !store.has_object(&output.digest)? {
            return Ok(Some(format!("the object of output `{}` is missing", output.name)));
        }
    }
    Ok(None)
}

/// What an entry says of an object that is another. Whether an object is damaged is told of itself.
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

fn pointers(store: &Store, cancel: &AtomicBool, seen: &mut Seen, each: &mut Each) -> Result<()> {
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
                Some(wrong) => each(Finding { path: path.to_owned(), what: What::Pointer(name), wrong }),
                None => Ok(()),
            }
        })?;
    }
    Ok(())
}

/// What an examination says is wrong with what it examined. One that cannot be read is as good as damaged. What a newer kcache has
/// written is not for this one to judge.
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
