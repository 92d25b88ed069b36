//! Property tests: what is written is read back equal, and a store behaves like a simple model, for operations in any
//! order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use kcache_store::transport::Name;
use kcache_store::{
    Believed, Contents, Digest, Entry, Error, Field, Inserted, Key, Manifest, Observed, Outcome, Output,
    Pointer, Role, SigningKey, Store, TreeRoot, Trust, Waiting, export, import, tree_digest,
};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

fn open(dir: &Path) -> Store {
    Store::open(&dir.join("store"), &Waiting { limit: Duration::from_secs(20), print: &|_| () }).unwrap()
}

fn key(n: u8) -> Key {
    Key::from_bytes([n; 32])
}

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

fn flat() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_+-][A-Za-z0-9._+-]{0,12}"
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let failed = (option::of(any::<i32>()), any::<String>(), any::<String>());
    let failed =
        failed.prop_map(|(status, command, first_error)| Outcome::Failed { status, command, first_error });
    prop_oneof![Just(Outcome::Built), failed]
}

fn outputs() -> impl Strategy<Value = Vec<Output>> {
    btree_map(flat(), (flat(), 0..1u64 << 20, digest()), 0..5).prop_map(|outputs| {
        let output = |(name, (role, size, digest)): (String, (String, u64, Digest))| Output {
            name,
            role: Role::from(role),
            size,
            digest,
        };
        outputs.into_iter().map(output).collect()
    })
}

prop_compose! {
    fn manifest()(
        key in any::<[u8; 32]>(),
        labels in btree_map(any::<String>(), any::<String>(), 0..4),
        fields in vec((any::<String>(), any::<String>(), option::of(any::<String>())), 0..4),
        outcome in outcome(),
        outputs in outputs(),
        observed in vec((any::<String>(), option::of(digest())), 0..4),
        facts in btree_map(any::<String>(), any::<String>(), 0..4),
        builder: String,
        created in 0..=i64::MAX as u64,
    ) -> Manifest {
        Manifest {
            format: kcache_store::FORMAT,
            key: Key::from_bytes(key),
            labels,
            fields: fields.into_iter().map(|(name, value, note)| Field { name, value, note }).collect(),
            outcome,
            outputs,
            observed: observed.into_iter().map(|(path, digest)| Observed { path, digest }).collect(),
            facts: facts.into_iter().map(|(name, text)| (name, text.into())).collect(),
            builder,
            created,
        }
    }
}

/// An operation on a store; small numbers stand for keys and objects.
#[derive(Debug, Clone)]
enum Act {
    Put(u8),
    Discard(u8),
    Insert(u8, u8),
    Replace(u8, u8),
    Forget(u8),
    Reindex,
    LoseIndex,
    Reopen,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..4u8).prop_map(Act::Put),
        1 => (0..4u8).prop_map(Act::Discard),
        4 => (0..4u8, 0..4u8).prop_map(|(key, object)| Act::Insert(key, object)),
        2 => (0..4u8, 0..4u8).prop_map(|(key, object)| Act::Replace(key, object)),
        2 => (0..4u8).prop_map(Act::Forget),
        1 => Just(Act::Reindex),
        1 => Just(Act::LoseIndex),
        1 => Just(Act::Reopen),
    ]
}

fn object(n: u8) -> Vec<u8> {
    vec![n; 10 + usize::from(n)]
}

/// The entry for a key whose result is this object.
fn entry(of: u8, object_number: u8) -> Entry {
    let bytes = object(object_number);
    let output =
        Output { name: "a".into(), role: Role::Module, size: bytes.len() as u64, digest: Digest::of(&bytes) };
    Entry::new(Manifest {
        format: kcache_store::FORMAT,
        key: key(of),
        labels: BTreeMap::from([("object".to_owned(), object_number.to_string())]),
        fields: vec![],
        outcome: Outcome::Built,
        outputs: vec![output],
        observed: vec![],
        facts: Default::default(),
        builder: "test".into(),
        created: 1,
    })
    .unwrap()
}

/// A simple model of a store.
#[derive(Debug, Default)]
struct Model {
    objects: BTreeSet<u8>,
    entries: BTreeMap<u8, u8>,
}

impl Model {
    /// Performs an operation on store and model, and compares the results.
    fn act(&mut self, store: &mut Store, dir: &Path, act: &Act) {
        match *act {
            Act::Put(n) => {
                let stored = store.put_object(&mut &object(n)[..]).unwrap();
                assert_eq!(stored.digest, Digest::of(&object(n)));
                self.objects.insert(n);
            }
            Act::Discard(n) => {
                store.discard_object(&Digest::of(&object(n))).unwrap();
                self.objects.remove(&n);
            }
            Act::Insert(k, n) => {
                let expect = match self.entries.get(&k) {
                    _ if !self.objects.contains(&n) => None,
                    None => Some(Inserted::New),
                    // An entry whose object is missing is replaced.
                    Some(found) if !self.objects.contains(found) => Some(Inserted::New),
                    Some(found) if *found == n => Some(Inserted::Present),
                    Some(_) => Some(Inserted::Conflict),
                };
                assert_eq!(store.insert(&entry(k, n), 5).ok(), expect);
                if expect == Some(Inserted::New) {
                    self.entries.insert(k, n);
                }
            }
            Act::Replace(k, n) => {
                let done = store.replace(&entry(k, n));
                assert_eq!(done.is_ok(), self.objects.contains(&n));
                if done.is_ok() {
                    self.entries.insert(k, n);
                }
            }
            Act::Forget(k) => {
                store.forget(&key(k)).unwrap();
                self.entries.remove(&k);
            }
            Act::Reindex => assert_eq!(store.reindex().unwrap(), self.entries.len() as u64),
            Act::LoseIndex => {
                for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
                    let _ = fs_err::remove_file(store.dir().join(name));
                }
                *store = open(dir);
            }
            Act::Reopen => *store = open(dir),
        }
    }

    fn compare(&self, store: &Store) {
        for n in 0..4 {
            let expect = self.entries.get(&n).map(|found| entry(n, *found));
            assert_eq!(store.lookup(&key(n)).unwrap(), expect);
            let bytes = object(n);
            let read = store.read_object(&Digest::of(&bytes), bytes.len() as u64).unwrap();
            assert_eq!(read, self.objects.contains(&n).then_some(bytes));
            let found: Vec<Key> =
                store.find(&[("object", &n.to_string())]).unwrap().iter().map(|row| row.key).collect();
            let expect = self.entries.iter().filter(|(_, object)| **object == n).map(|(k, _)| key(*k));
            assert_eq!(found, expect.collect::<Vec<_>>());
        }
        assert_eq!(store.find(&[]).unwrap().len(), self.entries.len());
        let usage = store.usage().unwrap();
        assert_eq!((usage.entries, usage.objects), (self.entries.len() as u64, self.objects.len() as u64));
    }
}

proptest! {
    #[test]
    fn an_entry_is_read_as_it_was_written(manifest in manifest(), sign: bool) {
        let mut entry = Entry::new(manifest.clone()).unwrap();
        if sign {
            entry.sign(&SigningKey::generate().unwrap());
        }
        let file = entry.encode().unwrap();
        let read = Entry::parse(Path::new("e.json"), &manifest.key, &file).unwrap();
        prop_assert_eq!(read.manifest(), &manifest);
        prop_assert_eq!(read, entry);
        let other = Key::from_bytes(manifest.key.as_bytes().map(|byte| !byte));
        let refused = matches!(Entry::parse(Path::new("e"), &other, &file), Err(Error::Damaged { .. }));
        prop_assert!(refused);
    }

    #[test]
    fn a_pointer_is_read_as_it_was_written(
        release in flat(), package in flat(), kernel in digest(), to in any::<[u8; 32]>(), epoch: u64,
    ) {
        let name = Pointer::name(&release, kernel, &package).unwrap();
        let pointer = Pointer::new(&name, Key::from_bytes(to), epoch, &SigningKey::generate().unwrap()).unwrap();
        let read = Pointer::parse(Path::new("p"), &name, &pointer.encode().unwrap()).unwrap();
        prop_assert_eq!(&read, &pointer);
        prop_assert_eq!((read.key(), read.epoch()), (Key::from_bytes(to), epoch));
        let other: Name = Pointer::name(&package, kernel, &release).unwrap();
        let taken = Pointer::parse(Path::new("p"), &other, &pointer.encode().unwrap()).is_ok();
        prop_assert_eq!(taken, release == package);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_store_behaves_like_a_simple_model(acts in vec(act(), 1..24)) {
        let dir = tempfile::tempdir().unwrap();
        let (mut store, mut model) = (open(dir.path()), Model::default());
        for act in &acts {
            model.act(&mut store, dir.path(), act);
            model.compare(&store);
        }
    }

    #[test]
    fn bundles_are_complete_and_reproducible(
        entries in btree_map(0..8u8, 0..4u8, 0..6),
    ) {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [from, to] = [open(dirs[0].path()), open(dirs[1].path())];
        let signer = SigningKey::generate().unwrap();
        for (k, n) in &entries {
            from.put_object(&mut &object(*n)[..]).unwrap();
            let mut entry = entry(*k, *n);
            entry.sign(&signer);
            from.insert(&entry, 1).unwrap();
        }
        let keys: Vec<Key> = entries.keys().map(|k| key(*k)).collect();
        let bundle = |store: &Store| {
            let mut bytes = Vec::new();
            export(store, Contents { keys: &keys, pointers: &[], site: None }, false, &mut bytes).unwrap();
            bytes
        };
        let bytes = bundle(&from);
        let trust = trust(dirs[0].path(), &signer);
        let believed = Believed { trust: &trust, fits: &|_| Ok(()), roll_back: false };
        let done = import(&to, Path::new("b.tar"), &mut &bytes[..], believed, 1, &|_| ()).unwrap();
        prop_assert_eq!(done.entries, entries.len() as u64);
        for k in &keys {
            prop_assert_eq!(to.lookup(k).unwrap(), from.lookup(k).unwrap());
        }
        prop_assert_eq!(bundle(&to), bytes);
    }

    #[test]
    fn the_tree_digest_depends_on_content_only(
        files in btree_map("[a-c]{1,3}", vec(0..3u8, 0..4), 1..6), order in any::<u64>(), times in any::<u32>(),
    ) {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let write = |dir: &Path, files: Vec<(&String, &Vec<u8>)>| {
            for (name, content) in files {
                fs_err::write(dir.join(name), content).unwrap();
            }
        };
        write(dirs[0].path(), files.iter().collect());
        let mut shuffled: Vec<_> = files.iter().collect();
        shuffled.sort_by_key(|(name, _)| order.rotate_left(name.len() as u32) ^ u64::from(name.as_bytes()[0]));
        write(dirs[1].path(), shuffled);
        let first = files.keys().next().unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(times.into());
        fs_err::OpenOptions::new().write(true).open(dirs[1].path().join(first)).unwrap()
            .set_modified(time).unwrap();
        let digest = |dir: &Path| {
            let root = TreeRoot { path: dir.to_owned(), label: "r".into(), skip: vec![], programs: false };
            tree_digest(None, &[root], 1).unwrap()
        };
        prop_assert_eq!(digest(dirs[0].path()), digest(dirs[1].path()));
        // The last letter of a name is moved into the file's content.
        let mut moved = files.clone();
        let content = moved.remove(first).unwrap();
        let (stem, last) = first.split_at(first.len() - 1);
        moved.insert(format!("x{stem}"), [last.as_bytes(), &content].concat());
        write(dirs[2].path(), moved.iter().collect());
        prop_assert_ne!(digest(dirs[0].path()), digest(dirs[2].path()));
    }

    #[test]
    fn names_of_objects_are_those_of_their_bytes(objects in btree_set(vec(any::<u8>(), 0..40), 1..6)) {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        for bytes in &objects {
            let stored = store.put_object(&mut &bytes[..]).unwrap();
            prop_assert_eq!((stored.digest, stored.size), (Digest::of(bytes), bytes.len() as u64));
        }
        for bytes in &objects {
            let read = store.read_object(&Digest::of(bytes), bytes.len() as u64).unwrap();
            prop_assert_eq!(read.as_ref(), Some(bytes));
        }
        prop_assert_eq!(store.usage().unwrap().objects, objects.len() as u64);
    }
}

/// Trust in one key.
fn trust(dir: &Path, key: &SigningKey) -> Trust {
    use std::os::unix::fs::PermissionsExt;
    let keys = dir.join("trusted");
    fs_err::create_dir(&keys).unwrap();
    fs_err::write(keys.join("key.pem"), key.public().to_pem()).unwrap();
    fs_err::set_permissions(keys.join("key.pem"), PermissionsExt::from_mode(0o644)).unwrap();
    Trust::read(&keys, &dir.join("revoked"), 1).unwrap()
}
