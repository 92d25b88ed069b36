//! What holds for every sequence of bytes, whoever made it: nothing here may panic.
//!
//! The fuzz targets call these functions with what the fuzzer thinks of, and store/tests/corpus.rs with the files of the
//! corpus. The corpus is signed by a key that was thrown away when the corpus was made, so whatever is believed is part of
//! the corpus.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use fs_err as fs;
use kcache_store::transport::Name;
use kcache_store::{Digest, Entry, Envelope, Key, Pointer, Site, Store, Trust, Waiting};

const ENTRY: &str = "application/vnd.kcache.entry.v1+json";
const POINTER: &str = "application/vnd.kcache.pointer.v1+json";
const SITE: &str = "application/vnd.kcache.site.v1+json";
/// The key of the entry in the corpus that the targets ask for.
pub const KEY: Key = Key::from_bytes([1; 32]);

/// Trust in the key that has signed the corpus.
static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("corpus.pem");
    fs::write(&file, include_str!("corpus.pem")).expect("a key");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("a key");
    Trust::read(dir.path(), &dir.path().join("revoked"), 1).expect("a key")
});

/// The pointer in the corpus that the targets ask for.
pub fn pointer_name() -> Name {
    Pointer::name("6.1.0-1-amd64", Digest::of(b"kernel"), "package").expect("a name")
}

/// An envelope with whatever is in it.
pub fn envelope(bytes: &[u8]) {
    for kind in [ENTRY, POINTER] {
        if let Ok(envelope) = Envelope::parse(bytes, kind) {
            let believed = TRUST.verify(&envelope).is_ok();
            assert!(!believed || TRUST.keys().any(|key| envelope.is_signed_by(&key.key)));
        }
    }
    entry(bytes);
    pointer_file(bytes);
}

/// The payload of an entry.
pub fn manifest(json: &[u8]) {
    entry(&unsigned(ENTRY, json));
}

/// The payload of a pointer.
pub fn pointer(json: &[u8]) {
    pointer_file(&unsigned(POINTER, json));
}

/// The payload of a site file.
pub fn site(json: &[u8]) {
    let site = match Site::parse(Path::new("site.json"), &unsigned(SITE, json)) {
        Ok(site) => site,
        Err(error) => return check_message(&error.to_string()),
    };
    assert!(site.contents().check().is_ok());
    if let Ok(file) = site.encode() {
        assert_eq!(Site::parse(Path::new("site.json"), &file).expect("what was written"), site);
    }
}

/// What is read can be written, and is read again as the same.
fn entry(file: &[u8]) {
    let entry = match Entry::parse(Path::new("entry"), &KEY, file) {
        Ok(entry) => entry,
        Err(error) => return check_message(&error.to_string()),
    };
    if let Ok(file) = entry.encode() {
        assert_eq!(Entry::parse(Path::new("entry"), &KEY, &file).expect("what was written"), entry);
    }
    let again = Entry::new(entry.manifest().clone()).expect("the reader's rules are the writer's");
    assert_eq!(again.manifest(), entry.manifest());
}

fn pointer_file(file: &[u8]) {
    let pointer = match Pointer::parse(Path::new("pointer"), &pointer_name(), file) {
        Ok(pointer) => pointer,
        Err(error) => return check_message(&error.to_string()),
    };
    if let Ok(file) = pointer.encode() {
        let again = Pointer::parse(Path::new("pointer"), &pointer_name(), &file).expect("what was written");
        assert_eq!(again, pointer);
    }
}

/// A message can be shown to a person: it commands no terminal, and it ends.
fn check_message(message: &str) {
    assert!(message.len() < 4096 && !message.contains(char::is_control), "{message:?}");
}

/// The payload in an envelope: a fuzzer does not see through base64.
fn unsigned(kind: &str, payload: &[u8]) -> Vec<u8> {
    let payload = BASE64.encode(payload);
    format!(r#"{{"payloadType":"{kind}","payload":"{payload}","signatures":[]}}"#).into_bytes()
}

/// A host with an empty store.
pub struct Host {
    store: Store,
    dir: tempfile::TempDir,
}

impl Host {
    /// Makes one.
    pub fn new() -> Host {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let waiting = Waiting { limit: Duration::from_secs(20), print: &|_| () };
        let store = Store::open(&dir.path().join("store"), &waiting).expect("a store");
        Host { store, dir }
    }

    /// Imports a bundle, looks at what is in the store then, and empties it. How many entries were taken.
    pub fn bundle(&self, bytes: &[u8]) -> u64 {
        let origin = Path::new("bundle.tar");
        let believed = kcache_store::Believed { trust: &TRUST, fits: &|_| Ok(()), roll_back: false };
        let done = kcache_store::import(&self.store, origin, &mut &bytes[..], believed, 1, &|notice| {
            check_message(&notice.text)
        });
        if let Err(error) = &done {
            check_message(&error.to_string());
        }
        self.check();
        self.empty();
        done.map_or(0, |done| done.entries)
    }

    /// Each entry is believed and whole, each pointer is believed, and nothing lies where nothing belongs.
    fn check(&self) {
        for row in self.store.find(&[]).expect("rows") {
            let entry = self.store.lookup(&row.key).expect("a valid entry").expect("an entry");
            assert_eq!(TRUST.verify(entry.envelope()), Ok(()));
            for output in &entry.manifest().outputs {
                let object = self.store.read_object(&output.digest, output.size);
                assert!(object.expect("a whole object").is_some());
            }
        }
        if let Some(pointer) = self.store.pointer(&pointer_name()).expect("a valid pointer") {
            assert_eq!(TRUST.verify_one(pointer.envelope()), Ok(()));
        }
        const OWN: [&str; 9] = [
            "CACHEDIR.TAG",
            "by-kernel",
            "entries",
            "format",
            "index.sqlite",
            "index.sqlite-shm",
            "index.sqlite-wal",
            "lock",
            "objects",
        ];
        let names = |dir: &Path| {
            fs::read_dir(dir).expect("a directory").map(|file| file.expect("a file").file_name())
        };
        assert!(names(self.dir.path()).all(|name| name == "store"));
        let strange =
            names(self.store.dir()).find(|name| name != "tmp" && !OWN.iter().any(|own| name == own));
        assert_eq!(strange, None);
        assert_eq!(names(&self.store.dir().join("tmp")).next(), None);
    }

    fn empty(&self) {
        let mut changed = false;
        for name in ["entries", "objects", "by-kernel"] {
            let dir = self.store.dir().join(name);
            for file in fs::read_dir(&dir).into_iter().flatten() {
                fs::remove_dir_all(file.expect("a directory").path()).expect("a directory that can go");
                changed = true;
            }
        }
        if changed {
            self.store.reindex().expect("an index");
        }
    }
}

/// The same tar with the checksums that its headers should have.
pub fn with_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut tar = bytes.to_vec();
    for block in tar.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:07o}\0").as_bytes());
    }
    tar
}
