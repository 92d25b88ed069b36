//! Makes the corpus anew, with a key that nobody has afterwards: `cargo run --example corpus` in this directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err as fs;
use kcache_store::transport::Name;
use kcache_store::{Digest, Entry, Key, Pointer, SigningKey, Store, Waiting, export};
use serde_json::{Value, json};

#[path = "../checks.rs"]
#[allow(dead_code, reason = "only names are needed")]
mod checks;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (corpus, key, other) = (here.join("corpus"), SigningKey::generate()?, SigningKey::generate()?);
    fs::write(here.join("corpus.pem"), key.public().to_pem())?;
    let dir = tempfile::tempdir()?;
    let waiting = Waiting { limit: Duration::from_secs(20), print: &|_| () };
    let store = Store::open(&dir.path().join("store"), &waiting)?;

    let manifests = manifests(&store)?;
    for (name, json) in &manifests {
        let mut asked_for = json.clone();
        asked_for["key"] = json!(checks::KEY);
        write(&corpus, "manifest", name, asked_for.to_string().as_bytes())?;
        let mut entry = Entry::new(serde_json::from_value(json.clone())?)?;
        write(&corpus, "envelope", &format!("unsigned-{name}"), &entry.encode()?)?;
        entry.sign(&key);
        write(&corpus, "envelope", name, &entry.encode()?)?;
        store.insert(&entry, 1)?;
        entry.sign(&other);
        write(&corpus, "envelope", &format!("cosigned-{name}"), &entry.encode()?)?;
    }

    let name = checks::pointer_name();
    let long = Pointer::name(&"r".repeat(128), Digest::of(b"kernel"), &"p".repeat(128))?;
    for (name, file) in [(&name, "pointer"), (&long, "long")] {
        let pointer = Pointer::new(name, checks::KEY, 5, &key)?;
        store.point(name, &pointer)?;
        write(&corpus, "envelope", file, &pointer.encode()?)?;
        write(&corpus, "pointer", file, pointer.envelope().payload())?;
    }

    let bundle = |file: &str, keys: &[Key], pointers: &[Name]| -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        export(&store, kcache_store::Contents { keys, pointers, site: None }, false, &mut bytes)?;
        write(&corpus, "bundle", file, &bytes)?;
        Ok(bytes)
    };
    let all: Vec<Key> = (1..=manifests.len() as u8).map(|n| Key::from_bytes([n; 32])).collect();
    bundle("empty", &[], &[])?;
    bundle("pointers", &[], &[name.clone(), long])?;
    let one = bundle("one", &all[..1], &[name])?;
    bundle("all", &all, &[])?;
    write(&corpus, "bundle", "cut", &one[..one.len() - 1500])?;
    write(&corpus, "bundle", "twice", &one.repeat(2))
}

/// Manifests of all kinds, whose objects are in the store. Two share one.
fn manifests(store: &Store) -> Result<Vec<(&'static str, Value)>, Failure> {
    let output = |name: &str, role: &str, content: &str| -> Result<Value, Failure> {
        let stored = store.put_object(&mut content.as_bytes())?;
        Ok(json!({"name": name, "role": role, "size": stored.size, "digest": stored.digest}))
    };
    let base = |n: u8, outcome: Value, outputs: Vec<Value>| {
        json!({"format": 1, "key": Key::from_bytes([n; 32]), "labels": {}, "fields": [], "outcome": outcome,
               "outputs": outputs, "observed": [], "facts": {}, "builder": "b", "created": 1})
    };
    let built = json!({"result": "built"});
    let log = output("log", "log", "a log\n")?;
    let mut full = base(1, built.clone(), vec![output("a.ko", "module", "a module")?, log.clone()]);
    full["labels"] = json!({"package": "a", "release": "6.1.0-1-amd64"});
    full["fields"] =
        json!([{"name": "source", "value": "1", "note": "a note"}, {"name": "recipe", "value": ""}]);
    full["observed"] =
        json!([{"path": "/etc/x", "digest": null}, {"path": "/etc/y", "digest": Digest::of(b"y")}]);
    full["facts"] = json!({"text": "\u{e9}\n", "number": -1.5e3, "list": [true, null, {"deep": []}]});
    let failed = json!({"result": "failed", "status": 2, "command": "make", "first_error": "a.c:1: error"});
    let empty = base(3, built, vec![output("nothing", "data", "")?]);
    Ok(vec![("full", full), ("failed", base(2, failed, vec![log])), ("small", empty)])
}

fn write(corpus: &Path, target: &str, file: &str, bytes: &[u8]) -> Result<(), Failure> {
    let dir: PathBuf = corpus.join(target);
    fs::create_dir_all(&dir)?;
    Ok(fs::write(dir.join(file), bytes)?)
}
