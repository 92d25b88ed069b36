use std::fs::{File, FileTimes};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::manifest::tests::{manifest, output};
use crate::pointer::tests::name as pointer_name;
use crate::trust::tests::builder;
use crate::{Entry, Inserted, Manifest, Output, Pointer, Role, Row, SignerId, Waiting, entry, object};

/// A time in 2001. Files that keep the time of their creation are then in the future, so they count as young.
const NOW: u64 = 1_000_000_000;
const DAY: u64 = 86400;
const PATIENT: Waiting = Waiting { limit: Duration::from_secs(60), print: &|_| () };
static GO_ON: AtomicBool = AtomicBool::new(false);
const ALL: Caps = Caps { max_size: Some(0), max_age: None, min_free: None };

fn key(n: u8) -> Key {
    Key::from_bytes([n; 32])
}

fn new() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store"), &PATIENT).unwrap();
    (dir, store)
}

fn set_time(path: &Path, seconds: u64) {
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    if let Ok(file) = File::open(path) {
        file.set_times(FileTimes::new().set_modified(time)).unwrap();
    }
}

/// An object that was stored `days` ago.
fn object(store: &Store, content: &str, days: u64) -> Digest {
    let digest = store.put_object(&mut content.as_bytes()).unwrap().digest;
    set_time(&object::path(&store.objects(), &digest), NOW - days * DAY);
    digest
}

/// The entry of key `n` with these outputs.
fn entry_of(n: u8, contents: &[&str]) -> Entry {
    let outputs = contents.iter().enumerate().map(|(at, content)| Output {
        size: content.len() as u64,
        ..output(&format!("{at:03}"), Digest::of(content.as_bytes()))
    });
    Entry::new(Manifest { outputs: outputs.collect(), created: 0, ..manifest(key(n)) }).unwrap()
}

/// Stores the entry of key `n` with these outputs, last used `days` ago; all files have that age.
fn put(store: &Store, n: u8, contents: &[&str], days: u64) {
    for content in contents {
        store.put_object(&mut content.as_bytes()).unwrap();
    }
    store.insert(&entry_of(n, contents), NOW - days * DAY).unwrap();
    for content in contents {
        object(store, content, days);
    }
    set_time(&entry::path(&store.entries(), &key(n)), NOW - days * DAY);
}

fn planned(store: &Store, caps: Caps, keep: &Keep) -> Result<GcPlan> {
    let rules = GcRules { caps, keep, now: NOW, grace: 3600, cancel: &GO_ON, print: &|_| () };
    plan(store, &rules, store.scratch().unwrap())
}

/// Collects, and checks that what was deleted is what was planned.
fn collect(store: &Store, caps: Caps, keep: &Keep) -> Vec<Going> {
    let plan = planned(store, caps, keep).unwrap();
    let (mut planned, mut went) = (Vec::new(), Vec::new());
    plan.entries(&mut |going| planned.push(going.clone())).unwrap();
    let gone = plan.apply(store, &PATIENT, &GO_ON, &mut |going| went.push(going.clone())).unwrap();
    assert_eq!((&went, gone), (&planned, *plan.goes()));
    went
}

fn collected(store: &Store, caps: Caps) -> Vec<u8> {
    collect(store, caps, &Keep::default()).iter().map(|going| going.key.as_bytes()[0]).collect()
}

/// Checks that every entry has all its objects and a row if there is an index; returns the entries.
#[track_caller]
fn sound(store: &Store) -> Vec<u8> {
    let mut keys = entry::keys(&store.entries()).unwrap();
    keys.sort();
    for key in &keys {
        if let Ok(Some(entry)) = store.lookup(key) {
            for output in entry.manifest().needed() {
                let is_whole = store.read_object(&output.digest, output.size).unwrap().is_some();
                assert!(is_whole, "entry {key} has lost {}", output.name);
            }
        }
    }
    keys.iter().map(|key| key.as_bytes()[0]).collect()
}

fn has(store: &Store, content: &str) -> bool {
    store.has_object(&Digest::of(content.as_bytes())).unwrap()
}

#[test]
fn without_a_limit_only_unreferenced_data_is_deleted() {
    let (_dir, store) = new();
    put(&store, 1, &["named"], 900);
    object(&store, "unnamed", 1);
    store.put_object(&mut &b"young"[..]).unwrap();
    assert!(collected(&store, Caps::default()).is_empty());
    assert_eq!(["named", "unnamed", "young"].map(|content| has(&store, content)), [true, false, true]);
    assert_eq!(sound(&store), [1]);
}

#[test]
fn least_recently_used_entries_are_deleted_to_meet_the_size_limit() {
    let (_dir, store) = new();
    put(&store, 1, &["one", "shared"], 30);
    put(&store, 2, &["two"], 40);
    put(&store, 3, &["three", "shared"], 20);
    let all = store.usage().unwrap().bytes;
    let max_size = |max_size| Caps { max_size: Some(max_size), ..Caps::default() };
    assert!(collected(&store, max_size(all)).is_empty());
    let went = collect(&store, max_size(all - 1), &Keep::default());
    assert_eq!((went[0].key, went[0].reason, went[0].used), (key(2), GcReason::Size, NOW - 40 * DAY));
    assert_eq!(all - store.usage().unwrap().bytes, went[0].bytes);
    assert_eq!(collected(&store, max_size(store.usage().unwrap().bytes - 1)), [1]);
    assert_eq!(
        ["one", "two", "three", "shared"].map(|content| has(&store, content)),
        [false, false, true, true]
    );
    assert_eq!(sound(&store), [3]);
    assert_eq!(store.find(&[]).unwrap().len(), 1, "rows go with their entries");
}

#[test]
fn old_entries_are_deleted_and_free_space_is_ensured() {
    let (_dir, store) = new();
    (1..4).for_each(|n| put(&store, n, &[&n.to_string()], u64::from(n) * 10));
    let aged = Caps { max_age: Some(20 * DAY), ..Caps::default() };
    assert_eq!(collected(&store, aged), [3], "exactly as old as allowed is not too old");
    let full = Caps { min_free: Some(u64::MAX), ..Caps::default() };
    assert_eq!(collected(&store, full), [2, 1]);
    assert_eq!(planned(&store, full, &Keep::default()).unwrap().stays().exceeds, Some(GcReason::Free));
}

#[test]
fn roots_are_kept_with_everything_they_reference() {
    let (_dir, store) = new();
    put(&store, 1, &["installed", "debug"], 900);
    put(&store, 2, &["other"], 900);
    object(&store, "of an entry that is lost", 900);
    let objects = [Digest::of(b"of an entry that is lost")].into();
    let keep = Keep { keys: [key(1)].into(), objects, ..Keep::default() };
    let went = collect(&store, ALL, &keep);
    assert_eq!(went.iter().map(|going| going.key).collect::<Vec<_>>(), [key(2)]);
    let there =
        ["installed", "debug", "other", "of an entry that is lost"].map(|content| has(&store, content));
    assert_eq!(there, [true, true, false, true]);
    let stays = *planned(&store, ALL, &keep).unwrap().stays();
    assert_eq!((stays.kept, stays.young, stays.exceeds), (1, 0, Some(GcReason::Size)));
}

#[test]
fn debug_information_is_deleted_with_its_entry() {
    let (_dir, store) = new();
    let digest = object(&store, "debug", 9);
    let debug = Output { role: Role::Debug, size: 5, ..output("a", digest) };
    let entry = Entry::new(Manifest { outputs: vec![debug], ..manifest(key(1)) }).unwrap();
    store.insert(&entry, 0).unwrap();
    set_time(&entry::path(&store.entries(), &key(1)), NOW - DAY);
    object(&store, "debug", 9);
    collected(&store, Caps::default());
    assert!(has(&store, "debug"));
    collected(&store, ALL);
    assert!(!has(&store, "debug"));
}

#[test]
fn gc_does_not_rely_on_the_index() {
    let (_dir, store) = new();
    put(&store, 1, &["one"], 30);
    put(&store, 2, &["two"], 30);
    store.update(|index| index.remove(&[key(1)])).unwrap();
    let lost = Row { key: key(9), ..store.find(&[]).unwrap().remove(0) };
    store.update(|index| index.put(&lost)).unwrap();
    assert!(collected(&store, Caps::default()).is_empty());
    assert_eq!(sound(&store), [1, 2]);
    let rows: Vec<Key> = store.find(&[]).unwrap().iter().map(|row| row.key).collect();
    assert_eq!(rows, [key(2)], "a row without an entry goes");
}

#[test]
fn a_use_recorded_in_either_row_or_file_counts() {
    let (_dir, store) = new();
    (1..4).for_each(|n| put(&store, n, &[&n.to_string()], 30));
    store.update(|index| index.used(&key(1), NOW)).unwrap();
    set_time(&entry::path(&store.entries(), &key(2)), NOW - DAY);
    let aged = Caps { max_age: Some(20 * DAY), ..Caps::default() };
    assert_eq!(collected(&store, aged), [3]);
}

#[test]
fn dangling_pointers_and_signatures_are_deleted() {
    let (_dir, store) = new();
    (1..3).for_each(|n| put(&store, n, &[&n.to_string()], 10));
    let by = SignerId::from_bytes([1; 32]);
    for (n, package) in [(1, "goes"), (2, "stays"), (9, "lost")] {
        let name = pointer_name(package);
        store.point(&name, &Pointer::new(&name, key(n), 1, &builder(1)).unwrap()).unwrap();
        set_time(&under(&store, &name.path()), NOW - DAY);
        let of = Digest::of(n.to_string().as_bytes());
        store.keep_signature(&by, &of, b"signature").unwrap();
        set_time(&under(&store, &crate::transport::Name::Signature { by, of }.path()), NOW - DAY);
    }
    let keep =
        Keep { keys: [key(2)].into(), releases: ["6.1.0-1-amd64".to_owned()].into(), ..Keep::default() };
    let signed = |n: u8| store.signature(&by, &Digest::of(n.to_string().as_bytes())).unwrap().is_some();
    let pointed = |package: &str| store.pointer(&pointer_name(package)).unwrap().is_some();
    collect(&store, ALL, &keep);
    assert_eq!([1, 2, 9].map(signed), [false, true, false]);
    assert_eq!(["goes", "stays", "lost"].map(pointed), [true; 3], "the memory of an installed release stays");
    collect(&store, ALL, &Keep { releases: BTreeSet::new(), ..keep });
    assert_eq!(["goes", "stays", "lost"].map(pointed), [false, true, false]);
}

#[test]
fn drafts_are_deleted_after_a_day_and_unknown_files_never() {
    let (_dir, store) = new();
    put(&store, 1, &["one"], 10);
    let plant = |path: &str, age: u64| {
        let path = under(&store, path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(&path, "x").unwrap();
        set_time(&path, NOW - age);
        path
    };
    let stray = format!("objects/zz/{}.zst", Digest::of(b"one"));
    let others = ["objects/ab/README.zst", "entries/note.json", &stray, "tmp/notes", "by-kernel/a/b/c.json"];
    let others = others.map(|path| plant(path, 900 * DAY));
    let (old, new) = (plant("tmp/draft-old", DAY), plant("tmp/draft-new", DAY - 1));
    collected(&store, ALL);
    assert!(others.iter().all(|path| path.exists()) && new.exists() && !old.exists());
}

#[test]
fn a_corrupt_entry_is_reported_kept_and_references_nothing() {
    let (_dir, store) = new();
    put(&store, 1, &["one", "shared"], 10);
    put(&store, 2, &["two", "shared"], 10);
    let path = entry::path(&store.entries(), &key(1));
    fs_err::write(&path, "{}").unwrap();
    let said = std::cell::RefCell::new(String::new());
    let print = |notice: &crate::Notice| said.borrow_mut().push_str(&notice.text);
    let keep = Keep::default();
    let rules =
        GcRules { caps: Caps::default(), keep: &keep, now: NOW, grace: 0, cancel: &GO_ON, print: &print };
    let plan = plan(&store, &rules, store.scratch().unwrap()).unwrap();
    plan.apply(&store, &PATIENT, &GO_ON, &mut |_| ()).unwrap();
    assert!(said.borrow().contains(&path.display().to_string()));
    assert!(path.exists() && !has(&store, "one") && has(&store, "two") && has(&store, "shared"));
}

#[test]
fn nothing_is_deleted_if_references_are_unknown() {
    let (_dir, store) = new();
    put(&store, 1, &["one"], 10);
    object(&store, "unnamed", 10);
    let path = entry::path(&store.entries(), &key(1));
    let file = fs_err::read_to_string(&path).unwrap();
    let mut envelope: serde_json::Value = serde_json::from_str(&file).unwrap();
    envelope["payload"] = "eyJmb3JtYXQiOjJ9".into(); // {"format":2}
    envelope.as_object_mut().unwrap().remove("checksum");
    fs_err::write(&path, envelope.to_string()).unwrap();
    assert!(matches!(planned(&store, ALL, &Keep::default()), Err(Error::Format { found: 2, .. })));
    fs_err::remove_dir_all(store.entries()).unwrap();
    assert!(planned(&store, ALL, &Keep::default()).is_err());
    assert!(has(&store, "one") && has(&store, "unnamed"));
}

/// Plans to delete entry 1, with it object `one`, and object `unnamed`; calls `act`; then executes the plan.
fn check_stays(act: impl FnOnce(&Store), entries: &[u8], objects: [bool; 2]) {
    let (_dir, store) = new();
    put(&store, 1, &["one"], 10);
    object(&store, "unnamed", 10);
    let plan = planned(&store, ALL, &Keep::default()).unwrap();
    assert_eq!((plan.goes().entries.files, plan.goes().objects.files), (1, 2));
    act(&store);
    plan.apply(&store, &PATIENT, &GO_ON, &mut |_| ()).unwrap();
    assert_eq!(sound(&store), entries);
    assert_eq!(["one", "unnamed"].map(|content| has(&store, content)), objects);
}

#[test]
fn data_used_since_the_plan_is_kept() {
    check_stays(|_| (), &[], [false, false]);
    check_stays(|store| assert!(store.used(&key(1), NOW).unwrap()), &[1], [true, false]);
    check_stays(
        |store| assert_eq!(store.put_object(&mut &b"unnamed"[..]).unwrap().size, 7),
        &[],
        [false, true],
    );
    check_stays(|store| assert!(store.claim_object(&Digest::of(b"unnamed")).unwrap()), &[], [false, true]);
    let insert = |store: &Store, content| {
        assert_eq!(store.insert(&entry_of(2, &[content]), NOW).unwrap(), Inserted::New);
    };
    check_stays(|store| insert(store, "one"), &[2], [true, false]);
    check_stays(|store| insert(store, "unnamed"), &[2], [false, true]);
    check_stays(|store| store.replace(&entry_of(1, &["unnamed"])).unwrap(), &[1], [false, true]);
    let again =
        |store: &Store| assert_eq!(store.insert(&entry_of(1, &["one"]), NOW).unwrap(), Inserted::Present);
    check_stays(again, &[1], [true, false]);
    check_stays(|store| store.forget(&key(1)).unwrap(), &[], [false, false]);
}

#[test]
fn storing_an_object_again_updates_its_time() {
    let (_dir, store) = new();
    let zstd = zstd::encode_all(&b"one"[..], 3).unwrap();
    let digest = object(&store, "one", 10);
    let plan = planned(&store, ALL, &Keep::default()).unwrap();
    store.put_compressed(Path::new("elsewhere"), &digest, 3, &zstd).unwrap();
    assert_eq!(plan.apply(&store, &PATIENT, &GO_ON, &mut |_| ()).unwrap().objects.files, 0);
}

#[test]
fn an_entry_without_its_objects_is_replaced_by_an_intact_one() {
    let (_dir, store) = new();
    put(&store, 1, &["one"], 1);
    store.discard_object(&Digest::of(b"one")).unwrap();
    store.put_object(&mut &b"two"[..]).unwrap();
    assert_eq!(store.insert(&entry_of(1, &["two"]), NOW).unwrap(), Inserted::New);
    assert_eq!(sound(&store), [1]);
}

#[test]
fn using_a_deleted_entry_returns_false() {
    let (_dir, store) = new();
    put(&store, 1, &["one"], 10);
    assert!(store.used(&key(1), NOW).unwrap());
    store.forget(&key(1)).unwrap();
    assert!(!store.used(&key(1), NOW).unwrap());
}

/// A store from which much will be deleted.
fn littered() -> (TempDir, Store) {
    let (dir, store) = new();
    (1..5).for_each(|n| put(&store, n, &[&n.to_string(), "shared"], u64::from(n)));
    object(&store, "unnamed", 3);
    let name = pointer_name("a");
    store.point(&name, &Pointer::new(&name, key(4), 1, &builder(1)).unwrap()).unwrap();
    set_time(&under(&store, &name.path()), NOW - DAY);
    (dir, store)
}

#[test]
fn a_crash_at_any_step_leaves_a_consistent_store() {
    let caps = Caps { max_age: Some(2 * DAY), ..Caps::default() };
    let mut stops: u32 = 0;
    loop {
        let (_dir, store) = littered();
        let left = std::cell::Cell::new(stops);
        let step = |_: &str| {
            let n = left.get();
            left.set(n.saturating_sub(1));
            if n == 0 { Err(Error::Interrupted) } else { Ok(()) }
        };
        let plan = planned(&store, caps, &Keep::default()).unwrap();
        let done = plan.apply_at(&store, &PATIENT, &GO_ON, &mut |_| (), &step);
        drop(plan);
        sound(&store);
        let was_stopped = done.is_err();
        collected(&store, caps);
        assert_eq!(sound(&store), [1, 2]);
        assert_eq!(
            ["1", "2", "3", "4", "shared", "unnamed"].map(|c| has(&store, c)),
            [true, true, false, false, true, false]
        );
        assert_eq!(store.find(&[]).unwrap().len(), 2);
        assert_eq!(*planned(&store, caps, &Keep::default()).unwrap().goes(), Totals::default());
        if !was_stopped {
            break;
        }
        stops += 1;
    }
    assert!(stops >= 8, "only {stops} steps");
}

#[test]
fn adding_and_deleting_exclude_each_other() {
    let (_dir, store) = littered();
    let at_once = Waiting { limit: Duration::ZERO, print: &|_| () };
    let impatient = Store::open(store.dir(), &at_once).unwrap();
    let tried = std::cell::Cell::new(0);
    let step = |at: &str| {
        if at.ends_with(" goes") {
            assert!(
                matches!(impatient.insert(&entry_of(9, &["shared"]), NOW), Err(Error::Busy { .. })),
                "{at}"
            );
            assert!(matches!(impatient.put_object(&mut &b"1"[..]), Err(Error::Busy { .. })), "{at}");
            assert!(matches!(impatient.claim_object(&Digest::of(b"1")), Err(Error::Busy { .. })), "{at}");
            tried.set(tried.get() + 1);
        }
        Ok(())
    };
    let plan = planned(&store, ALL, &Keep::default()).unwrap();
    plan.apply_at(&store, &PATIENT, &GO_ON, &mut |_| (), &step).unwrap();
    assert_eq!(tried.get(), 4 + 6 + 1);
    let adding = (store.adding().unwrap(), store.adding().unwrap());
    assert!(matches!(store.collecting(&at_once), Err(Error::Busy { .. })));
    drop(adding);
    store.collecting(&at_once).unwrap();
}

#[test]
fn cancelling_leaves_the_store_unchanged() {
    let (_dir, store) = littered();
    let plan = planned(&store, ALL, &Keep::default()).unwrap();
    let ended = AtomicBool::new(true);
    assert!(matches!(plan.apply(&store, &PATIENT, &ended, &mut |_| ()), Err(Error::Interrupted)));
    assert_eq!(sound(&store), [1, 2, 3, 4]);
}

/// Ages all files, as time would. Not while a plan is made or executed, for which that is a change like any other.
fn age(store: &Store, seconds: u64) {
    for dir in [store.entries(), store.objects()] {
        for shard in fs_err::read_dir(dir).unwrap() {
            for file in fs_err::read_dir(shard.unwrap().path()).unwrap() {
                set_time(&file.unwrap().path(), seconds);
            }
        }
    }
}

#[test]
fn no_entry_lacks_an_object_during_concurrent_use() {
    let (_dir, store) = new();
    let contents: Vec<String> = (0..12).map(|n| format!("object {n}")).collect();
    let adders_left = std::sync::atomic::AtomicU32::new(3);
    // The thread that adds continues until the others have had their turn.
    let (collected, was_read) = (&AtomicBool::new(false), &AtomicBool::new(false));
    let add = |thread: u8| {
        for round in 0.. {
            if round >= 60 && (collected.load(Ordering::SeqCst) && was_read.load(Ordering::SeqCst)) {
                break;
            }
            let at = round + usize::from(thread) * 5;
            let named = [at % 12, (at * 7 + 1) % 12, (at * 5 + 2) % 12].map(|at| contents[at].as_str());
            let entry = entry_of(thread * 60 + u8::try_from(round % 20).unwrap(), &named);
            while {
                for content in named {
                    store.put_object(&mut content.as_bytes()).unwrap();
                }
                // Without a grace period, what was stored may be deleted again.
                matches!(store.insert(&entry, NOW), Err(Error::Entry { .. }))
            } {}
            std::thread::yield_now();
        }
        adders_left.fetch_sub(1, Ordering::SeqCst);
    };
    let read = || {
        let mut seen = 0;
        while adders_left.load(Ordering::SeqCst) > 0 {
            for key in entry::keys(&store.entries()).unwrap() {
                // The same entry may be collected and added again meanwhile, as another file.
                let file = || {
                    fs_err::metadata(entry::path(&store.entries(), &key))
                        .ok()
                        .map(|m| (m.ino(), m.ctime_nsec()))
                };
                let before = file();
                let Some(entry) = store.lookup(&key).unwrap() else { continue };
                seen += 1;
                was_read.store(true, Ordering::SeqCst);
                let lacks = |output: &Output| !store.has_object(&output.digest).unwrap();
                if before.is_some() && entry.manifest().needed().any(lacks) {
                    assert_ne!(file(), before, "objects went before their entry");
                }
            }
        }
        seen
    };
    let collect = || {
        let (keep, mut gone) = (Keep::default(), Totals::default());
        let mut round = 1_000_000;
        while adders_left.load(Ordering::SeqCst) > 0 {
            round += 1;
            age(&store, round);
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
            let rules = GcRules { caps: ALL, keep: &keep, now, grace: 0, cancel: &GO_ON, print: &|_| () };
            let plan = plan(&store, &rules, store.scratch().unwrap()).unwrap();
            let now_gone = plan.apply(&store, &PATIENT, &GO_ON, &mut |_| ()).unwrap();
            gone.entries.files += now_gone.entries.files;
            gone.objects.files += now_gone.objects.files;
            collected.store(gone.entries.files > 0 && gone.objects.files > 0, Ordering::SeqCst);
        }
        gone
    };
    let (seen, gone) = std::thread::scope(|threads| {
        (0..3).for_each(|thread| drop(threads.spawn(move || add(thread))));
        let reader = threads.spawn(read);
        let gone = threads.spawn(collect).join().unwrap();
        (reader.join().unwrap(), gone)
    });
    sound(&store);
    assert!(seen > 0 && gone.entries.files > 0 && gone.objects.files > 0, "{seen} {gone:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Entries are sets of objects; some are roots, some young, and the limits are arbitrary.
    #[test]
    fn exactly_the_reachable_data_is_kept(
        entries in prop::collection::vec((prop::collection::btree_set(0..9_u8, 0..5), 0..60_u64, any::<bool>()), 0..9),
        unnamed in prop::collection::btree_set(0..12_u8, 0..6),
        size in prop::option::of(0..6000_u64),
        age in prop::option::of(0..60_u64),
    ) {
        let (_dir, store) = new();
        let content = |n: &u8| format!("object {n}");
        for n in &unnamed {
            object(&store, &content(n), 5);
        }
        let mut keep = Keep::default();
        for (n, (names, days, kept)) in entries.iter().enumerate() {
            let names: Vec<String> = names.iter().map(content).collect();
            put(&store, n as u8, &names.iter().map(String::as_str).collect::<Vec<_>>(), *days);
            if *kept {
                keep.keys.insert(key(n as u8));
            }
        }
        let caps = Caps { max_size: size, max_age: age.map(|days| days * DAY), min_free: None };
        collect(&store, caps, &keep);
        let left = sound(&store);
        for (n, (_, days, kept)) in entries.iter().enumerate() {
            let n = n as u8;
            let too_old = age.is_some_and(|age| *days > age) && *days > 0 && !kept;
            let free_to_stay = size.is_none() && !too_old;
            prop_assert!(!(kept | (*days == 0) | free_to_stay) || left.contains(&n), "entry {n} is gone");
            prop_assert!(!too_old || !left.contains(&n), "entry {n} is still there");
        }
        let named: BTreeSet<u8> = left.iter().flat_map(|n| entries[usize::from(*n)].0.clone()).collect();
        for n in 0..12 {
            let young = entries.iter().any(|(names, days, _)| *days == 0 && names.contains(&n));
            prop_assert!(!has(&store, &content(&n)) || named.contains(&n) || young, "object {n} is still there");
        }
        prop_assert_eq!(*planned(&store, caps, &keep).unwrap().goes(), Totals::default());
    }
}
