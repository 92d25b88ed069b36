//! Importing the trusted part of a bundle.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Read;
use std::mem;
use std::path::{Path, PathBuf};

use super::Member;
use super::members::{Head, Members, Stop, broken};
use crate::envelope::MAX_FILE;
use crate::pointer::MAX_POINTER;
use crate::shared::{Accepted, accept, accept_site};
use crate::site::MAX_SITE;
use crate::transport::Name;
use crate::{
    Digest, Entry, Error, FORMAT, Inserted, Key, Manifest, Notice, Output, Pointer, Result, Site, Store,
    Trust, object,
};

/// Size limit in bytes of the member `format`: a number and a line feed.
const MAX_FORMAT: u64 = 16;

/// What [`import`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Number of entries added to the store.
    pub entries: u64,
    /// Number of entries that the store already had.
    pub present: u64,
    /// Number of entries, pointers and site files that were refused. There was a warning for each.
    pub refused: u64,
    /// Number of objects added to the store.
    pub objects: u64,
    /// Number of pointers that were added, or that replaced an older one.
    pub pointers: u64,
    /// Whether its site file was added, or replaced an older one.
    pub site: bool,
}

/// Which parts of a bundle are trusted.
#[derive(Clone, Copy)]
pub struct Believed<'a> {
    /// Trusted keys, and the threshold.
    pub trust: &'a Trust,
    /// The caller's own rules for entries, checked after the signatures; an error says which rule the manifest breaks.
    pub fits: &'a dyn Fn(&Manifest) -> Result<(), String>,
    /// Accept pointers that are older than those accepted before.
    pub roll_back: bool,
}

/// Adds the trusted entries of a bundle, their objects, and its pointers to the store. `origin` is the bundle's path,
/// for messages.
///
/// # Errors
///
/// [`Error::Damaged`] if the bundle is corrupt or truncated. Everything before that position stays in the store, and
/// the error says how much that was.
pub fn import(
    store: &Store,
    origin: &Path,
    from: &mut dyn Read,
    believed: Believed<'_>,
    now: u64,
    print: &dyn Fn(&Notice),
) -> Result<Imported> {
    let (done, objects, waiting) = (Imported::default(), BTreeMap::new(), Vec::new());
    let mut import = Import { store, origin, believed, now, print, done, objects, waiting };
    match import.run(&mut Members::new(origin, from)) {
        Ok(()) => Ok(import.done),
        Err(Stop::Failed(error)) => Err(error),
        Err(Stop::Broken { expected, found }) => {
            let Imported { entries, objects, .. } = import.done;
            let found = format!("{found} (imported so far: {entries} entries, {objects} objects)");
            Err(Error::Damaged { path: origin.to_owned(), expected, found })
        }
    }
}

/// An import in progress.
struct Import<'a> {
    store: &'a Store,
    origin: &'a Path,
    believed: Believed<'a>,
    now: u64,
    print: &'a dyn Fn(&Notice),
    done: Imported,
    /// Objects that trusted entries reference.
    objects: BTreeMap<Digest, Object>,
    waiting: Vec<Waiting>,
}

/// An object as the first trusted entry describes it.
struct Object {
    size: u64,
    came: bool,
}

/// A trusted entry, with those of its objects that the store lacks.
struct Waiting {
    entry: Entry,
    missing: BTreeSet<Digest>,
}

impl Import<'_> {
    fn run(&mut self, from: &mut Members) -> Result<(), Stop> {
        while let Some(next) = from.next()? {
            match &next.member {
                Member::Format => self.format(&next, &from.content(&next, MAX_FORMAT)?)?,
                Member::Entry(key) => self.entry(&next, key, &from.content(&next, MAX_FILE)?)?,
                Member::Object(digest) => self.object(&next, digest, from)?,
                Member::Pointer(name) => self.pointer(&next, name, &from.content(&next, MAX_POINTER)?)?,
                Member::Site => self.site(&next, &from.content(&next, MAX_SITE)?)?,
            }
        }
        for Waiting { entry, missing } in mem::take(&mut self.waiting) {
            let path = Name::Entry(entry.manifest().key).path();
            self.refuse(&path, &format!("{} of its objects are missing or corrupt", missing.len()));
        }
        Ok(())
    }

    fn format(&mut self, at: &Head, text: &[u8]) -> Result<(), Stop> {
        let found = str::from_utf8(text).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
        match found {
            Some(FORMAT) => Ok(()),
            Some(found) if found > FORMAT => Err(Error::Format { path: self.path(at), found }.into()),
            _ => broken(format!("format {FORMAT}"), format!("`{}`", text.escape_ascii())),
        }
    }

    fn entry(&mut self, at: &Head, key: &Key, file: &[u8]) -> Result<()> {
        let entry = match Entry::parse(&self.path(at), key, file) {
            Ok(entry) => entry,
            Err(error) => {
                self.refuse_corrupt(&error);
                return Ok(());
            }
        };
        if let Err(distrust) = self.believed.trust.verify(entry.envelope()) {
            self.refuse(&at.path, &distrust);
            return Ok(());
        }
        if let Err(reason) = (self.believed.fits)(entry.manifest()).and_then(|()| self.agrees(&entry)) {
            self.refuse(&at.path, &reason);
            return Ok(());
        }
        let mut missing = BTreeSet::new();
        for output in entry.manifest().needed() {
            self.objects.entry(output.digest).or_insert(Object { size: output.size, came: false });
            if !self.store.claim_object(&output.digest)? {
                missing.insert(output.digest);
            }
        }
        if missing.is_empty() {
            return self.insert(&entry);
        }
        self.waiting.push(Waiting { entry, missing });
        Ok(())
    }

    /// Checks that the entry gives each object the same size as the entries before it.
    fn agrees(&self, entry: &Entry) -> Result<(), String> {
        let other = |output: &&Output| {
            self.objects.get(&output.digest).is_some_and(|object| object.size != output.size)
        };
        match entry.manifest().needed().find(other) {
            Some(output) => Err(format!("another entry has another size for output `{}`", output.name)),
            None => Ok(()),
        }
    }

    fn object(&mut self, at: &Head, digest: &Digest, from: &mut Members) -> Result<(), Stop> {
        let Some(object) = self.objects.get_mut(digest) else { return from.skip(at) };
        if mem::replace(&mut object.came, true) {
            return broken("each object once", format!("{} again", at.path));
        }
        let size = object.size;
        if self.store.claim_object(digest)? {
            from.skip(at)?;
        } else {
            let zstd = from.content(at, object::compressed_limit(size))?;
            match self.store.put_compressed(&self.path(at), digest, size, &zstd) {
                Ok(()) => self.done.objects += 1,
                // Its entries are refused at the end, when it is certain that the object does not follow.
                Err(error @ Error::Damaged { .. }) => {
                    (self.print)(&Notice::warning(format!("{error}")));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
        let waits_no_more = |w: &mut Waiting| w.missing.remove(digest) && w.missing.is_empty();
        let whole: Vec<Waiting> = self.waiting.extract_if(.., waits_no_more).collect();
        Ok(whole.iter().try_for_each(|whole| self.insert(&whole.entry))?)
    }

    fn insert(&mut self, entry: &Entry) -> Result<()> {
        match self.store.insert(entry, self.now)? {
            Inserted::New => self.done.entries += 1,
            Inserted::Present => self.done.present += 1,
            Inserted::Conflict => {
                let path = Name::Entry(entry.manifest().key).path();
                self.refuse(&path, &"conflict: the store has a different entry for this key, which is kept");
            }
        }
        Ok(())
    }

    fn pointer(&mut self, at: &Head, name: &Name, file: &[u8]) -> Result<()> {
        let pointer = match Pointer::parse(&self.path(at), name, file) {
            Ok(pointer) => pointer,
            Err(error) => {
                self.refuse_corrupt(&error);
                return Ok(());
            }
        };
        if let Err(distrust) = self.believed.trust.verify(pointer.envelope()) {
            self.refuse(&at.path, &distrust);
            return Ok(());
        }
        match accept(self.store, self.believed.trust, name, &pointer, self.believed.roll_back, self.now)? {
            Accepted::Same => {}
            Accepted::Newer => self.done.pointers += 1,
            Accepted::Not { why } => self.refuse(&at.path, &why),
        }
        Ok(())
    }

    fn site(&mut self, at: &Head, file: &[u8]) -> Result<()> {
        let Believed { trust, roll_back, .. } = self.believed;
        let site = match Site::parse(&self.path(at), file) {
            Ok(site) => site,
            Err(error) => {
                self.refuse_corrupt(&error);
                return Ok(());
            }
        };
        if let Err(distrust) = trust.verify(site.envelope()) {
            self.refuse(&at.path, &distrust);
            return Ok(());
        }
        match accept_site(self.store, trust, &site, roll_back, self.now)? {
            Accepted::Same => {}
            Accepted::Newer => self.done.site = true,
            Accepted::Not { why } => self.refuse(&at.path, &why),
        }
        Ok(())
    }

    /// The path of a member inside the bundle, for messages.
    fn path(&self, at: &Head) -> PathBuf {
        self.origin.join(&at.path)
    }

    fn refuse(&mut self, path: &str, why: &dyn Display) {
        self.done.refused += 1;
        (self.print)(&Notice::warning(format!("ignoring {}/{path}: {why}", self.origin.display())));
    }

    /// Like [`Import::refuse`], for an error that contains the path itself.
    fn refuse_corrupt(&mut self, error: &Error) {
        self.done.refused += 1;
        (self.print)(&Notice::warning(format!("{error}; ignoring it")));
    }
}
