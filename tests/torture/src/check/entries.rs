//! A store or a shared cache: its entries, the objects they promise, and its index.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rusqlite::Connection;
use serde_json::Value;

use super::name;

/// The role of an output that an entry can do without.
const ON_DEMAND: &str = "debug";
/// What lies at the top of a store or a shared cache.
const LAYOUT: &[&str] =
    &["CACHEDIR.TAG", "format", "entries", "objects", "by-kernel", "signatures", "keys", "tmp", "lock"];

/// The keys of all entries, each of which has to be whole, with its objects.
pub fn look(dir: &Path, faults: &mut Vec<String>) -> BTreeSet<String> {
    let files = under(&dir.join("entries"), 2);
    let files = files.into_iter().filter(|path| name(path).ends_with(".json"));
    let mut keys = BTreeSet::new();
    for path in files {
        match entry(dir, &path) {
            Ok(key) => drop(keys.insert(key)),
            Err(fault) => faults.push(format!("{}: {fault}", path.display())),
        }
    }
    for path in under(&dir.join("by-kernel"), 3) {
        let text = fs_err::read(&path).unwrap_or_default();
        if name(&path).ends_with(".json") && serde_json::from_slice::<Value>(&text).is_err() {
            faults.push(format!("{} is not whole", path.display()));
        }
    }
    keys
}

fn entry(dir: &Path, path: &Path) -> Result<String, String> {
    let manifest = manifest(path)?;
    let key = manifest["key"].as_str().unwrap_or_default();
    if format!("{key}.json") != name(path) {
        return Err(format!("it is the entry of {key}"));
    }
    for output in manifest["outputs"].as_array().into_iter().flatten() {
        let digest = output["digest"].as_str().unwrap_or_default();
        if let Err(fault) = object(dir, digest)
            && output["role"] != ON_DEMAND
        {
            return Err(format!("object {digest}: {fault}"));
        }
    }
    Ok(key.to_owned())
}

/// What is in the envelope.
fn manifest(path: &Path) -> Result<Value, String> {
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).map_err(|error| error.to_string());
    let envelope = json(&fs_err::read(path).map_err(|error| error.to_string())?)?;
    let payload = envelope["payload"].as_str().unwrap_or_default();
    json(&BASE64.decode(payload).map_err(|error| error.to_string())?)
}

fn object(dir: &Path, digest: &str) -> Result<(), String> {
    let path = dir.join("objects").join(digest.get(..2).unwrap_or_default()).join(format!("{digest}.zst"));
    let packed = fs_err::read(path).map_err(|error| error.to_string())?;
    let bytes = zstd::decode_all(&packed[..]).map_err(|error| error.to_string())?;
    let found = blake3::hash(&bytes).to_string();
    if found == digest { Ok(()) } else { Err(format!("its bytes have the digest {found}")) }
}

/// The index may lack rows. A row without a file promises nothing either, and is no fault: see `schema.sql`.
pub fn look_at_index(dir: &Path, faults: &mut Vec<String>) {
    let path = dir.join("index.sqlite");
    if !path.exists() {
        return;
    }
    if let Err(error) = sound(&path).map_err(|error| error.to_string()).and_then(|said| match said.as_str() {
        "ok" => Ok(()),
        said => Err(said.to_owned()),
    }) {
        faults.push(format!("{}: {error}", path.display()));
    }
}

/// On a copy: who opens the database itself recovers it, and that is for kcache to do.
fn sound(path: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let copy = tempfile::tempdir()?;
    for suffix in ["", "-wal"] {
        let from = PathBuf::from(format!("{}{suffix}", path.display()));
        if from.exists() {
            fs_err::copy(&from, copy.path().join(format!("index.sqlite{suffix}")))?;
        }
    }
    let db = Connection::open(copy.path().join("index.sqlite"))?;
    Ok(db.query_row("PRAGMA integrity_check", [], |row| row.get(0))?)
}

/// Files that belong into no store: drafts beside what they were to become.
pub fn strangers(dir: &Path) -> Vec<PathBuf> {
    let is_known =
        |path: &PathBuf| LAYOUT.contains(&name(path).as_str()) || name(path).starts_with("index.sqlite");
    let mut found: Vec<PathBuf> = under(dir, 1).into_iter().filter(|path| !is_known(path)).collect();
    for (part, ending) in [("entries", ".json"), ("objects", ".zst")] {
        let files = under(&dir.join(part), 2).into_iter().filter(|path| path.is_file());
        found.extend(files.filter(|path| !name(path).ends_with(ending) || name(path).starts_with('.')));
    }
    found
}

/// Everything below a directory, so many levels of it, in order.
pub fn under(dir: &Path, levels: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs_err::read_dir(dir) else { return found };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        found.push(path.clone());
        if levels > 1 && path.is_dir() {
            found.extend(under(&path, levels - 1));
        }
    }
    found
}
