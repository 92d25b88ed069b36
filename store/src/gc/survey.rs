//! Surveying a store: objects first, then entries and their references, then dangling pointers, signatures and rows.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::plan_db::{File, Hold, PlanDb, Stamp};
use super::{GcRules, RACY, Useless, must_go_on, under};
use crate::disk::{files, if_there};
use crate::transport::Name;
use crate::{
    Digest, Entry, Error, Key, Manifest, Notice, Pointer, Result, SignerId, Store, entry, object, shards,
};

/// Age in seconds at which a draft is deleted. Writing one takes minutes, but the process may have been stopped, or
/// the machine suspended.
const DRAFT_AGE: u64 = 86400;
/// Prefix of drafts' names (`publish`).
const DRAFT: &str = "draft-";

/// Records every object and its time. This must happen before the first entry is read, see `lease`.
pub(super) fn objects(store: &Store, rules: &GcRules, plan_db: &PlanDb) -> Result<()> {
    shards::objects(store, &mut |digest, _, metadata| {
        must_go_on(rules.cancel)?;
        if !metadata.is_file() {
            return Ok(()); // not the store's
        }
        let stays = is_young(rules, metadata.mtime()) || rules.keep.objects.contains(&digest);
        plan_db.add_object(&digest, &Stamp::of(metadata), stays)
    })
}

/// Records every entry, its last use, and its references.
pub(super) fn entries(store: &Store, rules: &GcRules, plan_db: &PlanDb) -> Result<()> {
    shards::entries(store, &mut |key, path, metadata| {
        must_go_on(rules.cancel)?;
        if !metadata.is_file() {
            return Ok(()); // not the store's
        }
        match read(path, &key) {
            Ok(Some((stamp, modified, entry))) => {
                let used = store.with_index(|index| index.last_used(&key))?.flatten().unwrap_or(0);
                let used = used.max(u64::try_from(modified).unwrap_or(0)).min(rules.now);
                plan_db.add_entry(&key, &stamp, used, hold(rules, &key, modified))?;
                plan_db.name(named(entry.manifest()).iter())
            }
            Ok(None) => Ok(()),
            Err(error @ (Error::Damaged { .. } | Error::Entry { .. })) => {
                (rules.print)(&Notice::warning(format!(
                    "{error}; keeping it, but not what it may have referenced"
                )));
                Ok(())
            }
            Err(error) => Err(error),
        }
    })
}

fn hold(rules: &GcRules, key: &Key, modified: i64) -> Hold {
    match (rules.keep.keys.contains(key), is_young(rules, modified)) {
        (true, _) => Hold::Kept,
        (false, true) => Hold::Young,
        (false, false) => Hold::None,
    }
}

/// Reads an entry, with the state of exactly the file that was read.
pub(super) fn read(path: &Path, key: &Key) -> Result<Option<(Stamp, i64, Entry)>> {
    let Some((metadata, bytes)) = entry::read_with_metadata(path)? else { return Ok(None) };
    Ok(Some((Stamp::of(&metadata), metadata.mtime(), Entry::parse(path, key, &bytes)?)))
}

/// The objects that an entry references, each once.
pub(super) fn named(manifest: &Manifest) -> BTreeSet<Digest> {
    manifest.outputs.iter().map(|output| output.digest).collect()
}

/// Records what is dangling, or will be after the chosen entries are deleted.
pub(super) fn useless(store: &Store, rules: &GcRules, plan_db: &PlanDb) -> Result<()> {
    pointers(store, rules, plan_db)?;
    signatures(store, rules, plan_db)?;
    drafts(store, rules, plan_db)?;
    rows(store, rules, plan_db)
}

fn pointers(store: &Store, rules: &GcRules, plan_db: &PlanDb) -> Result<()> {
    let Some(releases) = if_there(fs_err::read_dir(under(store, "by-kernel")))? else { return Ok(()) };
    for dir in releases {
        let dir = dir?;
        let Ok(release) = dir.file_name().into_string() else { continue };
        if !dir.file_type()?.is_dir() || rules.keep.releases.contains(&release) {
            continue;
        }
        files(&dir.path(), ".json", &mut |package, path, metadata| {
            must_go_on(rules.cancel)?;
            let kernel = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
            let Some(kernel) = kernel.and_then(|name| name.parse().ok()) else { return Ok(()) };
            let Ok(name) = Pointer::name(&release, kernel, package) else { return Ok(()) };
            let Some(key) = target(store, &name)?.filter(|_| !is_young(rules, metadata.mtime())) else {
                return Ok(());
            };
            let leads_to = Name::Entry(key).path();
            if plan_db.goes(&key)? || !under(store, &leads_to).exists() {
                add(plan_db, Useless::Pointer, name.path(), &Stamp::of(metadata), Some(leads_to))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The entry that a pointer refers to; `None` if the pointer is corrupt, so that it is kept for repair.
fn target(store: &Store, name: &Name) -> Result<Option<Key>> {
    match store.pointer(name) {
        Ok(pointer) => Ok(pointer.map(|pointer| pointer.key())),
        Err(Error::Damaged { .. } | Error::Entry { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn signatures(store: &Store, rules: &GcRules, plan_db: &PlanDb) -> Result<()> {
    let dir = under(store, "signatures");
    if !dir.is_dir() {
        return Ok(());
    }
    files(&dir, ".p7s", &mut |stem, path, metadata| {
        must_go_on(rules.cancel)?;
        let by = path.parent().and_then(Path::file_name).and_then(|name| name.to_str());
        let by: Option<SignerId> = by.and_then(|name| name.parse().ok());
        let (Some(by), Ok(of)) = (by, stem.parse::<Digest>()) else { return Ok(()) };
        if is_young(rules, metadata.mtime()) || rules.keep.objects.contains(&of) {
            return Ok(());
        }
        if plan_db.loses(&of)? || !store.has_object(&of)? {
            let object = object::path(Path::new("objects"), &of).display().to_string();
            let name = Name::Signature { by, of };
            add(plan_db, Useless::Signature, name.path(), &Stamp::of(metadata), Some(object))?;
        }
        Ok(())
    })
}

/// Drafts of dead processes. Scratch directories are not handled here: creating the next one deletes them.
fn drafts(store: &Store, rules: &GcRules, plan_db: &PlanDb) -> Result<()> {
    for file in fs_err::read_dir(store.tmp())? {
        let file = file?;
        let Some(metadata) = if_there(file.metadata())? else { continue };
        let Ok(name) = file.file_name().into_string() else { continue };
        let old = u64::try_from(metadata.mtime()).is_ok_and(|at| at.saturating_add(DRAFT_AGE) <= rules.now);
        if name.starts_with(DRAFT) && metadata.is_file() && old {
            add(plan_db, Useless::Draft, format!("tmp/{name}"), &Stamp::of(&metadata), None)?;
        }
    }
    Ok(())
}

fn add(plan_db: &PlanDb, kind: Useless, path: String, stamp: &Stamp, leads_to: Option<String>) -> Result<()> {
    plan_db.add_useless(&File { path, kind, stamp: *stamp, leads_to })
}

/// Rows without an entry, which a crash leaves.
fn rows(store: &Store, rules: &GcRules, plan_db: &PlanDb) -> Result<()> {
    let mut last: Option<Key> = None;
    loop {
        must_go_on(rules.cancel)?;
        let keys = store.with_index(|index| index.keys_after(last.as_ref(), 1024))?.unwrap_or_default();
        let Some(key) = keys.last() else { return Ok(()) };
        last = Some(*key);
        for key in &keys {
            if !entry::path(&store.entries(), key).exists() {
                plan_db.add_row(key)?;
            }
        }
    }
}

/// Whether a file is within the grace period, or has a time in the future.
fn is_young(rules: &GcRules, modified: i64) -> bool {
    let grace = i64::try_from(rules.grace.max(RACY)).unwrap_or(i64::MAX);
    let now = i64::try_from(rules.now).unwrap_or(i64::MAX);
    modified.saturating_add(grace) > now
}
