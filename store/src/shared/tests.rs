//! Tests of shared caches in memory: working, failing and malicious ones.

mod cosign;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::manifest::tests::{manifest, output};
use crate::pointer::tests::name as pointer_name;
use crate::transport::IfTaken;
use crate::trust::tests::{builder, trust};
use crate::{Digest, Distrust, Entry, Inserted, Key, Manifest, Pointer, SigningKey, Store, Waiting};

const NOW: u64 = 2_000_000;
const KEY: Key = Key::from_bytes([7; 32]);

/// A cache in memory that can be made to fail.
#[derive(Default)]
struct Memory {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    trouble: Mutex<Option<TransportError>>,
    asked: Mutex<Vec<String>>,
}

impl Transport for Memory {
    fn get(&self, name: &Name, limit: u64, heard: &dyn Fn(u64)) -> Result<Option<Vec<u8>>, TransportError> {
        self.asked.lock().unwrap().push(name.path());
        if let Some(trouble) = self.trouble.lock().unwrap().clone() {
            return Err(trouble);
        }
        let bytes = self.files.lock().unwrap().get(&name.path()).cloned();
        if bytes.as_ref().is_some_and(|bytes| bytes.len() as u64 > limit) {
            return Err(TransportError::TooLong(limit));
        }
        heard(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64));
        Ok(bytes)
    }

    fn has(&self, name: &Name) -> Result<bool, TransportError> {
        Ok(self.files.lock().unwrap().contains_key(&name.path()))
    }

    fn put(&self, name: &Name, bytes: &[u8], if_taken: IfTaken) -> Result<bool, TransportError> {
        let mut files = self.files.lock().unwrap();
        let new = if_taken == IfTaken::Replace || !files.contains_key(&name.path());
        if new {
            files.insert(name.path(), bytes.to_vec());
        }
        Ok(new)
    }
}

/// A host with a store, some caches, and all notices.
struct Host {
    store: Store,
    caches: SharedCaches,
    said: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

fn host(memories: &[&Arc<Memory>], trust: Trust) -> Host {
    let dir = tempfile::tempdir().unwrap();
    let waiting = Waiting { limit: Duration::from_secs(20), print: &|_| () };
    let store = Store::open(&dir.path().join("store"), &waiting).unwrap();
    let said: Arc<Mutex<Vec<String>>> = Arc::default();
    let print: Say = {
        let said = said.clone();
        Arc::new(move |notice| said.lock().unwrap().push(notice.to_string()))
    };
    let caches = memories
        .iter()
        .enumerate()
        .map(|(n, memory)| SharedCache::new(&format!("mem://{n}"), (*memory).clone(), true, print.clone()))
        .collect();
    Host { store, caches: SharedCaches::new(caches, trust), said, _dir: dir }
}

impl Host {
    /// Builds an entry whose output is `content`.
    fn build(&self, content: &str) -> Entry {
        let stored = self.store.put_object(&mut content.as_bytes()).unwrap();
        let outputs = vec![crate::Output { size: stored.size, ..output("a", stored.digest) }];
        static BUILDS: AtomicU64 = AtomicU64::new(NOW);
        let created = BUILDS.fetch_add(1, Ordering::Relaxed); // each build has another time
        let entry =
            Entry::new(Manifest { outputs, builder: content.to_owned(), created, ..manifest(KEY) }).unwrap();
        assert_ne!(self.store.insert(&entry, NOW).unwrap(), Inserted::Conflict);
        entry
    }

    fn push(&self, content: &str, sign: SignEntry) -> Result<Pushed> {
        let entry = self.build(content);
        let cache = self.caches.caches[0].clone();
        self.caches.push(&cache, &self.store, &entry, sign)
    }

    /// Fetches [`KEY`] and checks that it is complete; returns the cache's URL.
    fn fetch(&self) -> Option<String> {
        let fetched = self.caches.fetch(&self.store, &KEY, NOW, &|_| Ok(()), &|_| ()).unwrap()?;
        let entry = self.store.lookup(&KEY).unwrap().expect("what was fetched is in the store");
        for output in &entry.manifest().outputs {
            assert!(self.store.read_object(&output.digest, output.size).unwrap().is_some());
        }
        Some(fetched.from)
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }
}

/// Signed by a builder with its own key.
fn by(key: &SigningKey) -> SignEntry<'_> {
    SignEntry::With { key, adopt: false }
}

/// A cache to which builder `n` pushed a build with this content.
fn filled(n: u8, content: &str) -> Arc<Memory> {
    let memory = Arc::new(Memory::default());
    let pushed = host(&[&memory], trust(&[n], &[], 1)).push(content, by(&builder(n)));
    assert_eq!(pushed.unwrap(), Pushed::New);
    memory.asked.lock().unwrap().clear();
    memory
}

/// Like [`filled`], with the entry's JSON changed.
fn tampered(n: u8, change: impl FnOnce(&mut serde_json::Value)) -> Arc<Memory> {
    let memory = filled(n, "abc");
    let path = Name::Entry(KEY).path();
    let mut files = memory.files.lock().unwrap();
    let mut json: serde_json::Value = serde_json::from_slice(&files[&path]).unwrap();
    json.as_object_mut().unwrap().remove("checksum");
    change(&mut json);
    files.insert(path, json.to_string().into_bytes());
    drop(files);
    memory
}

#[test]
fn debug_outputs_are_fetched_on_demand() {
    let memory = Arc::new(Memory::default());
    let builder_host = host(&[&memory], trust(&[1], &[], 1));
    let mut outputs = Vec::new();
    for (name, role, content) in [("a", crate::Role::Module, "needed"), ("b", crate::Role::Debug, "later")] {
        let stored = builder_host.store.put_object(&mut content.as_bytes()).unwrap();
        outputs.push(crate::Output { role, size: stored.size, ..output(name, stored.digest) });
    }
    let entry = Entry::new(Manifest { outputs, ..manifest(KEY) }).unwrap();
    builder_host.store.insert(&entry, NOW).unwrap();
    let push = |from: &Host| {
        let cache = from.caches.caches[0].clone();
        from.caches.push(&cache, &from.store, &entry, by(&builder(1))).unwrap()
    };
    assert_eq!(push(&builder_host), Pushed::New);

    let other = host(&[&memory], trust(&[1], &[], 1));
    assert!(other.caches.fetch(&other.store, &KEY, NOW, &|_| Ok(()), &|_| ()).unwrap().is_some());
    let late = &entry.manifest().outputs[1];
    assert!(!other.store.has_object(&late.digest).unwrap());
    assert!(other.caches.fetch_output(&other.store, &KEY, late).unwrap());
    assert_eq!(other.store.read_object(&late.digest, late.size).unwrap().unwrap(), b"later");

    // A host that never fetched it pushes the rest.
    let empty = Arc::new(Memory::default());
    other.store.discard_object(&late.digest).unwrap();
    let other = Host { caches: host(&[&empty], trust(&[1], &[], 1)).caches, ..other };
    assert_eq!(push(&other), Pushed::New);
    assert!(!other.caches.fetch_output(&other.store, &KEY, late).unwrap());
}

#[test]
fn entries_are_fetched_from_the_first_cache_that_has_them() {
    let (empty, one, two) = (Arc::new(Memory::default()), filled(1, "abc"), filled(1, "abc"));
    let host = host(&[&empty, &two, &one], trust(&[1], &[], 1));
    assert_eq!(host.fetch().as_deref(), Some("mem://1"));
    assert_eq!(host.said(), "");
}

#[test]
fn an_entry_that_no_cache_has_is_a_miss() {
    let empty = Arc::new(Memory::default());
    let host = host(&[&empty, &empty, &empty], trust(&[1], &[], 1));
    assert_eq!(host.fetch(), None);
    assert_eq!(empty.asked.lock().unwrap().len(), 3);
}

#[test]
fn an_untrusted_entry_is_skipped_for_the_next_cache() {
    let check = |bad: Arc<Memory>, expect: &str| {
        let good = filled(1, "abc");
        let host = host(&[&bad, &good], trust(&[1], &[3], 1));
        assert_eq!(host.fetch().as_deref(), Some("mem://1"), "{}", host.said());
        assert!(host.said().contains(expect), "{}", host.said());
        let alone = super::tests::host(&[&bad], trust(&[1], &[3], 1));
        assert_eq!(alone.fetch(), None);
    };
    check(filled(2, "abc"), "an untrusted key");
    check(filled(3, "abc"), "a revoked key");
    check(tampered(1, |e| e["signatures"] = serde_json::json!([])), "unsigned");
    check(tampered(1, |e| e["signatures"][0]["sig"] = "AAAA".into()), "invalid signature");
    check(
        tampered(2, |e| e["signatures"][0]["keyid"] = builder(1).public().id().to_string().into()),
        "invalid signature",
    );
    check(tampered(1, |e| e["payload"] = "e30=".into()), "format");
    check(tampered(1, |e| e["payloadType"] = "text/plain".into()), "payload type");
    check(tampered(1, |e| *e = "<html>".into()), "ignoring");
    // Validly signed, but for another key.
    let memory = filled(1, "abc");
    let mut other = Entry::new(manifest(Key::from_bytes([8; 32]))).unwrap();
    other.sign(&builder(1));
    memory.files.lock().unwrap().insert(Name::Entry(KEY).path(), other.encode().unwrap());
    check(memory, "found key 0808");
}

#[test]
fn a_threshold_of_two_needs_two_builders_with_equal_outputs() {
    let memory = filled(1, "abc");
    let strict = || host(&[&memory], trust(&[1, 2], &[], 2));
    let host = strict();
    assert_eq!(host.fetch(), None);
    assert!(host.said().contains("1 of 2 required"), "{}", host.said());
    let second = strict();
    let pushed = second.push("abc", by(&builder(2))).unwrap();
    assert_eq!(pushed, Pushed::Cosigned("abc".to_owned()));
    assert_eq!(strict().fetch().as_deref(), Some("mem://0"));
}

#[test]
fn a_conflict_keeps_the_first_build_and_is_reported() {
    let memory = filled(1, "abc");
    let before = memory.files.lock().unwrap().clone();
    let second = host(&[&memory], trust(&[1, 2], &[], 1));
    let pushed = second.push("other", by(&builder(2))).unwrap();
    assert_eq!(pushed, Pushed::Conflict("abc".to_owned()));
    assert_eq!(*memory.files.lock().unwrap(), before);
}

#[test]
fn pushing_again_changes_nothing() {
    let memory = Arc::new(Memory::default());
    let host = host(&[&memory], trust(&[1], &[], 1));
    assert_eq!(host.push("abc", by(&builder(1))).unwrap(), Pushed::New);
    let before = memory.files.lock().unwrap().clone();
    assert_eq!(host.push("abc", by(&builder(1))).unwrap(), Pushed::Present);
    assert_eq!(*memory.files.lock().unwrap(), before);
}

#[test]
fn an_unusable_entry_in_a_cache_is_replaced_by_a_push() {
    for worthless in [filled(2, "other"), tampered(1, |entry| *entry = "<html>".into())] {
        let honest = host(&[&worthless], trust(&[1], &[], 1));
        assert_eq!(honest.push("abc", by(&builder(1))).unwrap(), Pushed::New);
        assert_eq!(host(&[&worthless], trust(&[1], &[], 1)).fetch().as_deref(), Some("mem://0"));
    }
}

#[test]
fn unsigned_entries_are_pushed_only_on_request() {
    let memory = Arc::new(Memory::default());
    let host = host(&[&memory], trust(&[1], &[], 1));
    assert!(matches!(host.push("abc", SignEntry::Signed), Err(Error::Unsigned { .. })));
    assert!(memory.files.lock().unwrap().is_empty());
    assert_eq!(host.push("abc", SignEntry::Unsigned).unwrap(), Pushed::New);
}

#[test]
fn missing_or_corrupt_objects_are_fetched_from_another_cache_or_it_is_a_miss() {
    let path = Name::Object { of: KEY, digest: Digest::of(b"abc") }.path();
    let with = |zstd: Option<Vec<u8>>| {
        let memory = filled(1, "abc");
        match zstd {
            Some(zstd) => memory.files.lock().unwrap().insert(path.clone(), zstd),
            None => memory.files.lock().unwrap().remove(&path),
        };
        memory
    };
    let packed = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
    let good = packed(b"abc");
    for bad in [
        with(None),
        with(Some(packed(b"abd"))),
        with(Some(packed(b"abcd"))),
        with(Some(packed(&vec![0; 1 << 30]))),
        with(Some(good[..good.len() - 1].to_vec())),
        with(Some(Vec::new())),
        with(Some(b"<html>".to_vec())),
        with(Some(vec![0; 100_000])),
    ] {
        let alone = host(&[&bad], trust(&[1], &[], 1));
        assert_eq!(alone.fetch(), None);
        assert!(!alone.store.has_object(&Digest::of(b"abc")).unwrap());
        assert!(alone.store.lookup(&KEY).unwrap().is_none());
        let good = filled(1, "abc");
        assert_eq!(host(&[&bad, &good], trust(&[1], &[], 1)).fetch().as_deref(), Some("mem://0"));
    }
}

#[test]
fn a_cache_that_does_not_answer_is_queried_and_reported_once() {
    let (dead, good) = (filled(1, "abc"), filled(1, "abc"));
    *dead.trouble.lock().unwrap() = Some(TransportError::Silent(Duration::from_secs(3)));
    let host = host(&[&dead, &good], trust(&[1], &[], 1));
    assert_eq!(host.fetch().as_deref(), Some("mem://1"));
    for n in 0..5 {
        assert!(
            host.caches
                .fetch(&host.store, &Key::from_bytes([n; 32]), NOW, &|_| Ok(()), &|_| ())
                .unwrap()
                .is_none()
        );
    }
    assert_eq!(dead.asked.lock().unwrap().len(), 1);
    assert_eq!(host.said.lock().unwrap().len(), 1, "{}", host.said());
    assert!(host.said().contains("did not answer within 3 s"), "{}", host.said());
}

#[test]
fn an_error_is_reported_if_there_was_a_notice_of_it() {
    let text = || "why".to_owned();
    let second = Duration::from_secs(1);
    for trouble in [
        TransportError::Unreachable(text()),
        TransportError::Silent(second),
        TransportError::Slow(second),
        TransportError::Denied(text()),
        TransportError::Odd(text()),
        TransportError::Busy(text()),
        TransportError::TooLong(1),
        TransportError::ReadOnly(text()),
        TransportError::Cancelled,
    ] {
        let memory = Arc::new(Memory::default());
        *memory.trouble.lock().unwrap() = Some(trouble.clone());
        let host = host(&[&memory], trust(&[1], &[], 1));
        for _ in 0..5 {
            let error = host.push("abc", by(&builder(1))).unwrap_err();
            assert_eq!(error.is_reported(), host.said().contains(&trouble.to_string()), "{error}");
        }
    }
}

#[test]
fn a_cache_that_serves_too_many_unusable_files_is_not_queried_again() {
    let memory = filled(2, "abc");
    let host = host(&[&memory], trust(&[1], &[], 1));
    (0..10).for_each(|_| assert_eq!(host.fetch(), None));
    assert_eq!(memory.asked.lock().unwrap().len(), LIES as usize);
    assert!(host.said().contains("not queried again"), "{}", host.said());
}

#[test]
fn pointers_are_not_followed_to_older_epochs() {
    let name = pointer_name("a");
    let to = |n: u8, epoch| Pointer::new(&name, Key::from_bytes([n; 32]), epoch, &builder(1)).unwrap();
    let memory = Arc::new(Memory::default());
    let put = |pointer: &Pointer| {
        memory.files.lock().unwrap().insert(name.path(), pointer.encode().unwrap());
    };
    let host = host(&[&memory], trust(&[1], &[], 1));
    let check = |roll_back, expect: Option<Pointer>| {
        assert_eq!(
            host.caches.pointer(&host.store, &name, roll_back, NOW).unwrap(),
            expect,
            "{}",
            host.said()
        );
    };
    check(false, None);
    put(&to(1, 5));
    check(false, Some(to(1, 5)));
    put(&to(2, 6));
    check(false, Some(to(2, 6)));
    for old in [to(1, 5), to(1, 6)] {
        put(&old);
        check(false, Some(to(2, 6)));
    }
    assert!(
        host.said().contains("not newer than the accepted pointer (epoch 5, accepted 6)"),
        "{}",
        host.said()
    );
    check(true, Some(to(1, 6)));
    memory.files.lock().unwrap().clear();
    check(false, Some(to(1, 6)));
    put(&Pointer::new(&name, KEY, 9, &builder(2)).unwrap());
    check(false, Some(to(1, 6)));
    put(&Pointer::new(&pointer_name("b"), KEY, 9, &builder(1)).unwrap());
    check(false, Some(to(1, 6)));
}

#[test]
fn of_several_caches_the_highest_epoch_counts() {
    let name = pointer_name("a");
    let with = |epoch| {
        let memory = Arc::new(Memory::default());
        let pointer = Pointer::new(&name, KEY, epoch, &builder(1)).unwrap();
        memory.files.lock().unwrap().insert(name.path(), pointer.encode().unwrap());
        memory
    };
    let (a, b, c) = (with(3), with(9), with(5));
    let host = host(&[&a, &b, &c], trust(&[1], &[], 1));
    assert_eq!(host.caches.pointer(&host.store, &name, false, NOW).unwrap().unwrap().epoch(), 9);
}

#[test]
fn a_builders_pointer_gets_a_higher_epoch_than_the_existing_one() {
    let name = pointer_name("a");
    let memory = Arc::new(Memory::default());
    let host = host(&[&memory], trust(&[1], &[], 1));
    let point = |n: u8| {
        let cache = host.caches.caches[0].clone();
        host.caches
            .point(&cache, &host.store, &name, Key::from_bytes([n; 32]), NOW, Some(&builder(1)))
            .unwrap();
        let bytes = memory.files.lock().unwrap()[&name.path()].clone();
        let there = Pointer::parse(std::path::Path::new("p"), &name, &bytes).unwrap();
        assert_eq!(there.key(), Key::from_bytes([n; 32]));
        assert_eq!(host.store.pointer(&name).unwrap(), Some(there.clone()));
        there.epoch()
    };
    assert_eq!([point(1), point(1), point(2), point(1)], [NOW, NOW, NOW + 1, NOW + 2]);
}

/// With a stolen key, an attacker signs an epoch that no later one exceeds.
#[test]
fn an_epoch_from_the_future_holds_up_nobody() {
    let name = pointer_name("a");
    let to = |n: u8| Key::from_bytes([n; 32]);
    for beyond in [NOW + 24 * 3600 + 1, u64::MAX] {
        let memory = Arc::new(Memory::default());
        let host = host(&[&memory], trust(&[1, 2], &[], 1));
        let put = |pointer: Pointer| {
            memory.files.lock().unwrap().insert(name.path(), pointer.encode().unwrap());
        };
        let follows =
            || host.caches.pointer(&host.store, &name, false, NOW).unwrap().map(|pointer| pointer.key());
        put(Pointer::new(&name, to(1), NOW - 9, &builder(1)).unwrap());
        assert_eq!(follows(), Some(to(1)));
        put(Pointer::new(&name, to(2), beyond, &builder(2)).unwrap());
        assert_eq!(follows(), Some(to(1)));
        assert!(host.said().contains("more than a day ahead"), "{}", host.said());
        // The honest builder does not use a later epoch than that, whether its key is the same or another one.
        for n in [2, 3] {
            put(Pointer::new(&name, to(2), beyond, &builder(2)).unwrap());
            let point = |n| {
                let cache = &host.caches.caches[0];
                host.caches.point(cache, &host.store, &name, to(n), NOW, Some(&builder(1))).unwrap();
            };
            point(n);
            let bytes = memory.files.lock().unwrap()[&name.path()].clone();
            let there = Pointer::parse(std::path::Path::new("p"), &name, &bytes).unwrap();
            assert!((NOW..NOW + 9).contains(&there.epoch()), "{}", there.epoch());
            assert_eq!(follows(), Some(to(n)));
        }
        // A host that had accepted one like it follows the next one.
        host.store.point(&name, &Pointer::new(&name, to(2), beyond, &builder(1)).unwrap()).unwrap();
        memory.files.lock().unwrap().clear();
        assert_eq!(follows(), Some(to(2)));
        put(Pointer::new(&name, to(4), NOW, &builder(1)).unwrap());
        assert_eq!(follows(), Some(to(4)));
    }
    // An epoch a day ahead is accepted, because clocks differ.
    let memory = Arc::new(Memory::default());
    let host = host(&[&memory], trust(&[1], &[], 1));
    let pointer = Pointer::new(&name, to(1), NOW + 24 * 3600, &builder(1)).unwrap();
    memory.files.lock().unwrap().insert(name.path(), pointer.encode().unwrap());
    assert_eq!(host.caches.pointer(&host.store, &name, false, NOW).unwrap(), Some(pointer));
}

#[test]
fn a_pointer_needs_as_many_signatures_as_an_entry() {
    let memory = Arc::new(Memory::default());
    let name = pointer_name("a");
    let host = |threshold| host(&[&memory], trust(&[1, 2], &[], threshold));
    let to = |n: u8| Key::from_bytes([n; 32]);
    let (one, two) = (host(1), host(2));
    let point = |to, by| {
        one.caches.point(&one.caches.caches[0], &one.store, &name, to, NOW, Some(&builder(by))).unwrap();
    };
    let follows = || {
        let pointer = two.caches.pointer(&two.store, &name, false, NOW).unwrap();
        pointer.map(|pointer| pointer.key())
    };
    point(to(1), 1);
    assert_eq!(follows(), None);
    assert!(two.said().contains("1 of 2 required"), "{}", two.said());
    point(to(1), 2);
    assert_eq!(follows(), Some(to(1)));
    // The next pointer of one builder waits for the other; until then the last one is followed.
    point(to(2), 2);
    assert_eq!(follows(), Some(to(1)));
    point(to(2), 1);
    assert_eq!(follows(), Some(to(2)));
    // A pointer that was followed with one signature is not followed with a threshold of two, and is not the minimum
    // either.
    let raised = host(2);
    let pointer = |to, epoch| Pointer::new(&name, to, epoch, &builder(1)).unwrap();
    raised.store.point(&name, &pointer(to(3), NOW + 50)).unwrap();
    assert_eq!(raised.caches.pointer(&raised.store, &name, false, NOW).unwrap(), None);
    assert!(raised.said().contains("not newer than the accepted pointer"), "{}", raised.said());
    let mut both = pointer(to(3), NOW + 50);
    both.sign(&builder(2));
    memory.files.lock().unwrap().insert(name.path(), both.encode().unwrap());
    assert_eq!(raised.caches.pointer(&raised.store, &name, false, NOW).unwrap(), Some(both));
}

#[test]
fn pointers_of_a_revoked_key_are_ignored() {
    let name = pointer_name("a");
    let empty = Arc::new(Memory::default());
    let host = host(&[&empty], trust(&[1], &[1], 1));
    host.store.point(&name, &Pointer::new(&name, KEY, 9, &builder(1)).unwrap()).unwrap();
    assert_eq!(host.caches.pointer(&host.store, &name, false, NOW).unwrap(), None);
    assert_eq!(trust(&[1], &[1], 1).verify_one(host.build("x").envelope()), Err(Distrust::Unsigned));
}

#[test]
fn fetched_entries_are_signed_only_on_request() {
    let memory = filled(1, "abc");
    let second = host(&[&memory], trust(&[1, 2], &[], 1));
    assert!(second.fetch().is_some());
    let entry = second.store.lookup(&KEY).unwrap().unwrap();
    let push = |adopt| {
        let sign = SignEntry::With { key: &builder(2), adopt };
        second.caches.push(&second.caches.caches[0], &second.store, &entry, sign).unwrap()
    };
    assert_eq!(push(false), Pushed::Present);
    assert_eq!(host(&[&memory], trust(&[1, 2], &[], 2)).fetch(), None);
    assert_eq!(push(true), Pushed::Cosigned("abc".to_owned()));
    assert!(host(&[&memory], trust(&[1, 2], &[], 2)).fetch().is_some());
}

#[test]
fn a_builders_new_key_replaces_signatures_of_its_revoked_one() {
    let memory = filled(1, "abc");
    let name = pointer_name("a");
    let before = host(&[&memory], trust(&[1], &[], 1));
    let point = |host: &Host, n: u8| {
        let cache = host.caches.caches[0].clone();
        host.caches.point(&cache, &host.store, &name, KEY, NOW, Some(&builder(n))).unwrap();
    };
    point(&before, 1);
    let builder_now = host(&[&memory], trust(&[2], &[1], 1));
    for _ in 0..5 {
        builder_now.push("abc", by(&builder(2))).unwrap();
        point(&builder_now, 2);
    }
    let client = host(&[&memory], trust(&[2], &[1], 1));
    assert_eq!(client.caches.pointer(&client.store, &name, false, NOW).unwrap().unwrap().key(), KEY);
    assert_eq!(client.fetch().as_deref(), Some("mem://0"), "{}", client.said());
}

#[test]
fn a_second_signature_on_a_pointer_does_not_make_it_older() {
    let memory = Arc::new(Memory::default());
    let name = pointer_name("a");
    let host = host(&[&memory], trust(&[1, 2], &[], 1));
    let point = |n: u8| {
        let cache = host.caches.caches[0].clone();
        host.caches.point(&cache, &host.store, &name, KEY, NOW, Some(&builder(n))).unwrap();
    };
    let client = super::tests::host(&[&memory], trust(&[1, 2], &[], 1));
    let followed = || client.caches.pointer(&client.store, &name, false, NOW).unwrap().unwrap();
    point(1);
    let first = followed();
    point(2);
    assert!(followed().agrees_with(&first));
    assert_eq!(followed().envelope().signatures().len(), 2);
    assert_eq!(client.said(), "");
}
