//! Writing a bundle.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Write};

use super::{BLOCK, FORMAT_PATH, SITE_PATH, head, padding};
use crate::transport::Name;
use crate::{Entry, Error, FORMAT, Key, Output, Result, Site, Store, object};

/// What [`export`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exported {
    /// Number of entries.
    pub entries: u64,
    /// Number of objects; one that several entries share counts once.
    pub objects: u64,
    /// Size of the bundle in bytes.
    pub bytes: u64,
}

/// What a bundle contains.
#[derive(Clone, Copy)]
pub struct Contents<'a> {
    /// Entries, with their objects.
    pub keys: &'a [Key],
    /// Pointers.
    pub pointers: &'a [Name],
    /// The site file.
    pub site: Option<&'a Site>,
}

/// Writes a bundle: the entries of `contents`, their objects, pointers and site file. Unsigned entries are written only if
/// `unsigned` is set.
///
/// After an error `to` contains part of a bundle, so write to a temporary file and rename it.
///
/// # Errors
///
/// [`Error::Unsigned`] for an unsigned entry without `unsigned`; [`Error::Entry`] if the store lacks one of its objects.
pub fn export(store: &Store, contents: Contents, unsigned: bool, to: &mut dyn Write) -> Result<Exported> {
    let Contents { keys, pointers, site } = contents;
    let keys: BTreeSet<&Key> = keys.iter().collect();
    let entries: Vec<Entry> =
        keys.into_iter().map(|key| read(store, key, unsigned)).collect::<Result<_>>()?;
    let mut bundle = Bundle { to, bytes: 0 };
    bundle.add(FORMAT_PATH, format!("{FORMAT}\n").as_bytes())?;
    for entry in &entries {
        bundle.add(&Name::Entry(entry.manifest().key).path(), &entry.encode()?)?;
    }
    let mut written = BTreeSet::new();
    for entry in &entries {
        let mut outputs: Vec<&Output> = entry.manifest().needed().collect();
        outputs.sort_by_key(|output| output.digest);
        for output in outputs {
            if written.insert(output.digest) {
                let name = Name::Object { of: entry.manifest().key, digest: output.digest };
                bundle.add(&name.path(), &compressed(store, entry, output)?)?;
            }
        }
    }
    let mut pointers: Vec<(String, &Name)> = pointers.iter().map(|name| (name.path(), name)).collect();
    pointers.sort();
    pointers.dedup();
    for (path, name) in pointers {
        let pointer = store.pointer(name)?.ok_or_else(|| nothing_at(store, name))?;
        bundle.add(&path, &pointer.encode()?)?;
    }
    if let Some(site) = site {
        bundle.add(SITE_PATH, &site.encode()?)?;
    }
    bundle.end()?;
    Ok(Exported { entries: entries.len() as u64, objects: written.len() as u64, bytes: bundle.bytes })
}

fn read(store: &Store, key: &Key, unsigned: bool) -> Result<Entry> {
    let entry = store.lookup(key)?.ok_or_else(|| nothing_at(store, &Name::Entry(*key)))?;
    if entry.envelope().signatures().is_empty() && !unsigned {
        return Err(Error::Unsigned { key: *key });
    }
    Ok(entry)
}

/// The object's bytes, verified, and compressed by this zstd. The stored bytes are not used, because a host with
/// another version of zstd may have compressed them, and then equal sets would give different bundles.
fn compressed(store: &Store, entry: &Entry, output: &Output) -> Result<Vec<u8>> {
    let mut zstd = zstd::Encoder::new(Vec::new(), object::LEVEL)?;
    if !store.copy_object(&output.digest, output.size, &mut zstd)? {
        let path = store.dir().join(Name::Entry(entry.manifest().key).path());
        let reason = format!("the object of output `{}` is missing", output.name);
        return Err(Error::Entry { path, reason });
    }
    Ok(zstd.finish()?)
}

fn nothing_at(store: &Store, name: &Name) -> Error {
    Error::At { act: "read", path: store.dir().join(name.path()), source: ErrorKind::NotFound.into() }
}

/// Writes members to a bundle.
struct Bundle<'a> {
    to: &'a mut dyn Write,
    bytes: u64,
}

impl Bundle<'_> {
    fn add(&mut self, path: &str, content: &[u8]) -> Result<()> {
        let size = content.len() as u64;
        self.write(&head(path, size)?)?;
        self.write(content)?;
        self.write(&[0; BLOCK][..padding(size)])
    }

    /// Writes the two blocks of zeros that end a tar.
    fn end(&mut self) -> Result<()> {
        self.write(&[0; 2 * BLOCK])?;
        Ok(self.to.flush()?)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.to.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(())
    }
}
