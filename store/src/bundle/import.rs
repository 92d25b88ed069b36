//! Taking from a bundle what can be believed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::Read;
use std::mem;
use std::path::{Path, PathBuf};

use super::Member;
use super::members::{Head, Members, Stop, broken};
use crate::envelope::MAX_FILE;
use crate::pointer::MAX_POINTER;
use crate::shared::{Accepted, accept};
use crate::transport::Name;
use crate::{
    Digest, Entry, Error, FORMAT, Inserted, Key, Manifest, Notice, Output, Pointer, Result, Store, Trust,
    object,
};

/// A number and a line feed.
const MAX_FORMAT: u64 = 16;

/// What an import came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Imported {
    /// Entries that are new here.
    pub entries: u64,
    /// Entries that were here.
    pub present: u64,
    /// Entries and pointers that were not taken. Each was said.
    pub refused: u64,
    /// Objects that are new here.
    pub objects: u64,
    /// Pointers that are new here, or lead further than before.
    pub pointers: u64,
}

/// What of a bundle is believed.
#[derive(Clone, Copy)]
pub struct Believed<'a> {
    /// Whose signatures count.
    pub trust: &'a Trust,
    /// The caller's own rules for what is signed; an error says which one a manifest breaks.
    pub fits: &'a dyn Fn(&Manifest) -> Result<(), String>,
    /// Whether pointers may be older than those that were accepted before.
    pub roll_back: bool,
}

/// Takes the entries of a bundle that are believed, their objects, and its pointers. `origin` is the bundle's file. Where the
/// bundle is damaged what came before the damage is kept, and the error says how much that was.
pub fn import(
    store: &Store,
    origin: &Path,
    from: &mut dyn Read,
    believed: Believed<'_>,
    now: u64,
    say: &dyn Fn(&Notice),
) -> Result<Imported> {
    let (done, objects, waiting) = (Imported::default(), BTreeMap::new(), Vec::new());
    let mut import = Import { store, origin, believed, now, say, done, objects, waiting };
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

/// An import that is under way.
struct Import<'a> {
    store: &'a Store,
    origin: &'a Path,
    believed: Believed<'a>,
    now: u64,
    say: &'a dyn Fn(&Notice),
    done: Imported,
    /// What believed entries speak of.
    objects: BTreeMap<Digest, Object>,
    waiting: Vec<Waiting>,
}

/// An object as the first believed entry describes it.
struct Object {
    size: u64,
    came: bool,
}

/// A believed entry, and those of its objects that the store lacks.
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
                self.refuse_damaged(&error);
                return Ok(());
            }
        };
        if let Err(distrust) = self.believed.trust.vouch(entry.envelope()) {
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

    /// Whether an entry gives each object the size that the entries before it have given it.
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
                // Its entries are refused at the end, when it is known that it does not come.
                Err(error @ Error::Damaged { .. }) => {
                    (self.say)(&Notice::warning(format!("{error}")));
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
                self.refuse_damaged(&error);
                return Ok(());
            }
        };
        if let Err(distrust) = self.believed.trust.vouch(pointer.envelope()) {
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

    /// Where a file of the bundle lies, for messages.
    fn path(&self, at: &Head) -> PathBuf {
        self.origin.join(&at.path)
    }

    fn refuse(&mut self, path: &str, why: &dyn Display) {
        self.done.refused += 1;
        (self.say)(&Notice::warning(format!("ignoring {}/{path}: {why}", self.origin.display())));
    }

    /// The same for an error that names the path itself.
    fn refuse_damaged(&mut self, error: &Error) {
        self.done.refused += 1;
        (self.say)(&Notice::warning(format!("{error}; ignoring it")));
    }
}
