//! Tests of bundles: intact, corrupt and malicious ones.

mod tar_files;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::manifest::tests::{manifest, output};
use crate::pointer::tests::name as pointer_name;
use crate::trust::tests::{builder, trust};
use crate::{
    Entry, Error, Inserted, Manifest, Output, Result, Site, SiteContent, Store, Trust, Waiting, object,
};

const NOW: u64 = 2_000_000;
const A: Key = Key::from_bytes([1; 32]);
const B: Key = Key::from_bytes([2; 32]);

/// A file of a bundle: path and content.
type File = (String, Vec<u8>);

/// A host with a store.
struct Host {
    store: Store,
    said: RefCell<String>,
    dir: tempfile::TempDir,
}

fn host() -> Host {
    let dir = tempfile::tempdir().unwrap();
    let waiting = Waiting { limit: Duration::from_secs(20), print: &|_| () };
    let store = Store::open(&dir.path().join("store"), &waiting).unwrap();
    Host { store, said: RefCell::default(), dir }
}

/// A host that has built two entries which share an object, with a pointer to one of them.
fn full() -> Host {
    let host = host();
    host.build(A, &["one", "shared"], &[1]);
    host.build(B, &["two", "shared"], &[1]);
    host.point("a", A, 5);
    host
}

fn of<'a>(keys: &'a [Key], pointers: &'a [Name]) -> Contents<'a> {
    Contents { keys, pointers, site: None }
}

impl Host {
    /// Builds: an entry with one output for each content.
    fn build(&self, key: Key, contents: &[&str], signers: &[u8]) -> Entry {
        let mut outputs: Vec<Output> = Vec::new();
        for (n, content) in contents.iter().enumerate() {
            let stored = self.store.put_object(&mut content.as_bytes()).unwrap();
            outputs.push(Output { size: stored.size, ..output(&n.to_string(), stored.digest) });
        }
        let mut entry = Entry::new(Manifest { outputs, ..manifest(key) }).unwrap();
        signers.iter().for_each(|n| assert!(entry.sign(&builder(*n))));
        assert_eq!(self.store.insert(&entry, NOW).unwrap(), Inserted::New);
        entry
    }

    fn point(&self, package: &str, to: Key, epoch: u64) -> Pointer {
        let pointer = Pointer::new(&pointer_name(package), to, epoch, &builder(1)).unwrap();
        self.store.point(&pointer_name(package), &pointer).unwrap();
        pointer
    }

    fn export(&self, keys: &[Key], packages: &[&str]) -> Vec<u8> {
        let pointers: Vec<Name> = packages.iter().map(|package| pointer_name(package)).collect();
        let mut bytes = Vec::new();
        let told = export(&self.store, of(keys, &pointers), false, &mut bytes).unwrap();
        assert_eq!(told.bytes, bytes.len() as u64);
        bytes
    }

    fn import_with(&self, bundle: &[u8], trust: &Trust, roll_back: bool) -> Result<Imported> {
        let print =
            |notice: &crate::Notice| *self.said.borrow_mut() += &format!("{:?} {notice}\n", notice.severity);
        let fits = |manifest: &Manifest| match manifest.builder.as_str() {
            "liar" => Err("a liar made it".to_owned()),
            _ => Ok(()),
        };
        let believed = Believed { trust, fits: &fits, roll_back };
        let done = import(&self.store, Path::new("/b.tar"), &mut &bundle[..], believed, NOW, &print);
        self.check_whole(trust);
        done
    }

    fn import(&self, bundle: &[u8]) -> Result<Imported> {
        self.import_with(bundle, &trust(&[1], &[], 1), false)
    }

    /// Checks that everything the store contains is trusted and complete, whatever happened before.
    fn check_whole(&self, trust: &Trust) {
        for row in self.store.find(&[]).unwrap() {
            let entry = self.store.lookup(&row.key).unwrap().unwrap();
            assert_eq!(trust.verify(entry.envelope()), Ok(()));
            for output in &entry.manifest().outputs {
                assert!(self.store.read_object(&output.digest, output.size).unwrap().is_some());
            }
        }
    }

    /// Everything that a reader can find, by path.
    fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let mut content = BTreeMap::new();
        for row in self.store.find(&[]).unwrap() {
            let entry = self.store.lookup(&row.key).unwrap().unwrap();
            content.insert(Name::Entry(row.key).path(), entry.encode().unwrap());
            for output in &entry.manifest().outputs {
                let bytes = self.store.read_object(&output.digest, output.size).unwrap().unwrap();
                content.insert(output.digest.to_string(), bytes);
            }
        }
        let pointer = self.store.pointer(&pointer_name("a")).unwrap();
        content.extend(pointer.map(|pointer| ("a".to_owned(), pointer.encode().unwrap())));
        content
    }

    fn said(&self) -> String {
        self.said.take()
    }
}

/// The files of a bundle, in order.
fn files(mut bundle: &[u8]) -> Vec<File> {
    let mut members = members::Members::new(Path::new("b"), &mut bundle);
    let mut files = Vec::new();
    while let Some(next) = members.next().unwrap() {
        let content = members.content(&next, u64::MAX).unwrap();
        files.push((next.path, content));
    }
    files
}

/// A tar of these files, with the header that `export` writes for each.
fn tar(files: &[File]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (path, content) in files {
        tar.extend(head(path, content.len() as u64).unwrap());
        tar.extend(content);
        tar.resize(tar.len() + padding(content.len() as u64), 0);
    }
    tar.resize(tar.len() + 2 * BLOCK, 0);
    tar
}

/// The bundle of a full host after a change to its members: format, entries A and B, three objects, a pointer.
fn changed(change: impl FnOnce(&mut Vec<File>)) -> Vec<u8> {
    let mut files = files(&full().export(&[A, B], &["a"]));
    assert_eq!(files.len(), 7);
    change(&mut files);
    tar(&files)
}

fn check_error(bundle: &[u8], expect: &str) {
    let told = host().import(bundle).unwrap_err().to_string();
    assert!(told.contains(expect), "{told}");
}

#[test]
fn another_host_imports_an_export() {
    let (one, other) = (full(), host());
    let bundle = one.export(&[B, A, B], &["a", "a"]);
    let done = other.import(&bundle).unwrap();
    assert_eq!(done, Imported { entries: 2, present: 0, refused: 0, objects: 3, pointers: 1, site: false });
    assert_eq!(other.content(), one.content());
    assert_eq!(other.export(&[A, B], &["a"]), bundle);
    assert_eq!(other.said(), "");
}

#[test]
fn a_second_import_unpacks_nothing() {
    let bundle = full().export(&[A, B], &["a"]);
    let host = host();
    host.import(&bundle).unwrap();
    let garbled = files(&bundle).into_iter().map(|(path, content)| {
        let garbage = b"not even zstd".to_vec();
        if path.starts_with("objects/") { (path, garbage) } else { (path, content) }
    });
    for again in [bundle.clone(), tar(&garbled.collect::<Vec<_>>())] {
        assert_eq!(host.import(&again).unwrap(), Imported { present: 2, ..Imported::default() });
    }
    assert_eq!(host.said(), "");
}

#[test]
fn equal_sets_give_equal_bytes_whatever_their_compression() {
    let check = |compress: &dyn Fn(&[u8]) -> Vec<u8>| {
        let (one, other) = (host(), host());
        let content = "some content that another zstd packs otherwise ".repeat(10_000);
        let entry = one.build(A, &[&content], &[1, 2]);
        let output = &entry.manifest().outputs[0];
        let zstd = compress(content.as_bytes());
        let own = one.store.compressed_object(&output.digest, output.size).unwrap().unwrap();
        assert_ne!(zstd, own);
        other.store.put_compressed(Path::new("x"), &output.digest, output.size, &zstd).unwrap();
        other.store.insert(&entry, NOW).unwrap();
        assert_eq!(other.export(&[A], &[]), one.export(&[A], &[]));
    };
    check(&|bytes| zstd::encode_all(bytes, 19).unwrap());
    let frames =
        |bytes: &[u8]| bytes.chunks(777).flat_map(|part| zstd::encode_all(part, 1).unwrap()).collect();
    check(&frames);
}

#[test]
fn an_empty_set_is_a_bundle() {
    let bundle = host().export(&[], &[]);
    assert_eq!(host().import(&bundle).unwrap(), Imported::default());
}

#[test]
fn missing_corrupt_or_unsigned_entries_are_not_exported() {
    let host = full();
    let check = |key: Key, expect: &str| {
        let told = export(&host.store, of(&[A, key], &[]), false, &mut Vec::new()).unwrap_err().to_string();
        assert!(told.contains(expect), "{told}");
    };
    let unsigned = Key::from_bytes([3; 32]);
    host.build(unsigned, &["three"], &[]);
    check(unsigned, "is unsigned");
    assert!(export(&host.store, of(&[unsigned], &[]), true, &mut Vec::new()).is_ok());
    check(Key::from_bytes([4; 32]), "cannot read");
    let pointer = export(&host.store, of(&[], &[pointer_name("b")]), false, &mut Vec::new());
    assert!(pointer.unwrap_err().to_string().contains("cannot read"));
    let two = Digest::of(b"two");
    let path = object::path(&host.store.dir().join("objects"), &two);
    fs_err::write(&path, zstd::encode_all(&b"tow"[..], 3).unwrap()).unwrap();
    check(B, "is corrupt");
    host.store.discard_object(&two).unwrap();
    check(B, "the object of output `0` is missing");
}

#[test]
fn a_full_disk_is_an_error() {
    let mut small = [0; 2000];
    let error = export(&full().store, of(&[A], &[]), false, &mut &mut small[..]).unwrap_err();
    assert!(matches!(error, Error::Io(_)), "{error:?}");
}

#[test]
fn untrusted_entries_are_refused_with_their_objects() {
    let one = full();
    one.build(Key::from_bytes([3; 32]), &["three", "shared"], &[2]);
    one.build(Key::from_bytes([0; 32]), &["zero", "shared"], &[2]);
    let all = [0, 1, 2, 3].map(|n| Key::from_bytes([n; 32]));
    let bundle = one.export(&all, &["a"]);
    let check = |trust: &Trust, expect: Imported, words: &str| {
        let host = host();
        assert_eq!(host.import_with(&bundle, trust, false).unwrap(), expect);
        assert_eq!(host.store.has_object(&Digest::of(b"three")).unwrap(), expect.objects > 3);
        let said = host.said();
        assert_eq!(said.lines().count() as u64, expect.refused, "{said}");
        assert!(said.contains(words), "{said}");
    };
    let of = |entries, refused, objects, pointers| Imported {
        entries,
        present: 0,
        refused,
        objects,
        pointers,
        site: false,
    };
    check(&trust(&[1], &[], 1), of(2, 2, 3, 1), "an untrusted key");
    check(&trust(&[1, 2], &[], 1), of(4, 0, 5, 1), "");
    check(&trust(&[1], &[2], 1), of(2, 2, 3, 1), "a revoked key");
    check(&trust(&[1, 2], &[], 2), of(0, 5, 0, 0), "1 of 2 required");
    check(&trust(&[], &[], 0), of(0, 5, 0, 0), "an untrusted key");
}

#[test]
fn an_existing_entry_gets_signatures_and_is_kept_on_conflict() {
    let bundle = full().export(&[A], &[]);
    let host = host();
    host.build(A, &["one", "shared"], &[2]);
    let both = trust(&[1, 2], &[], 2);
    let done = host.import_with(&bundle, &trust(&[1, 2], &[], 1), false).unwrap();
    assert_eq!(done, Imported { present: 1, ..Imported::default() });
    host.check_whole(&both);
    let other = self::host();
    other.build(A, &["different"], &[1]);
    let before = other.store.lookup(&A).unwrap();
    let done = other.import(&bundle).unwrap();
    assert_eq!(done, Imported { refused: 1, objects: 2, ..Imported::default() });
    assert!(other.said().contains("conflict: the store has a different entry"));
    assert_eq!(other.store.lookup(&A).unwrap(), before);
}

#[test]
fn older_pointers_are_imported_only_on_request() {
    let (one, other) = (full(), host());
    let mine = other.point("a", B, 6);
    let old = one.export(&[], &["a"]);
    assert_eq!(other.import(&old).unwrap(), Imported { refused: 1, ..Imported::default() });
    assert!(other.said().contains("not newer than the accepted pointer (epoch 5, accepted 6)"));
    assert_eq!(other.store.pointer(&pointer_name("a")).unwrap(), Some(mine));
    let trust = trust(&[1], &[], 1);
    assert_eq!(other.import_with(&old, &trust, true).unwrap().pointers, 1);
    let newer = one.point("a", B, 7);
    assert_eq!(other.import(&one.export(&[], &["a"])).unwrap().pointers, 1);
    assert_eq!(other.store.pointer(&pointer_name("a")).unwrap(), Some(newer));
}

#[test]
fn every_truncation_is_an_error_and_leaves_intact_entries() {
    let bundle = full().export(&[A, B], &["a"]);
    let lengths = (0..bundle.len()).step_by(BLOCK).flat_map(|n| [n, n + 1, n + BLOCK - 1]);
    let mut seen = Vec::new();
    for length in lengths {
        let host = host();
        let told = host.import(&bundle[..length]).unwrap_err().to_string();
        assert!(told.contains("found the end of the file"), "{length}: {told}");
        seen.push(host.store.find(&[]).unwrap().len());
        assert!(told.contains(&format!("{} entries, ", seen.last().unwrap())), "{length}: {told}");
        if length % BLOCK == 0 {
            let rest = host.import(&bundle).unwrap();
            assert_eq!(rest.entries as usize + seen.last().unwrap(), 2);
            assert_eq!(host.content(), full().content());
        }
    }
    assert!(seen.is_sorted() && seen.contains(&1) && seen.contains(&2));
}

#[test]
fn no_flipped_bit_imports_wrong_data() {
    let one = host();
    one.build(A, &["one"], &[1]);
    one.point("a", A, 5);
    let (bundle, good) = (one.export(&[A], &["a"]), one.content());
    let host = host();
    for at in (0..bundle.len()).step_by(7) {
        let mut bad = bundle.clone();
        bad[at] ^= 1 << (at % 8);
        let done = host.import(&bad);
        let content = host.content();
        for (path, bytes) in &content {
            assert_eq!(Some(bytes), good.get(path), "byte {at}: {path}");
        }
        let told = done.as_ref().map_or(true, |done| done.refused > 0);
        assert!(told || content == good, "byte {at}: {done:?}");
        host.store.forget(&A).unwrap();
        host.store.discard_object(&Digest::of(b"one")).unwrap();
        let _ = fs_err::remove_file(host.store.dir().join(pointer_name("a").path()));
    }
}

#[test]
fn an_entry_with_missing_or_corrupt_objects_is_refused_alone() {
    let object = object::path(Path::new("objects"), &Digest::of(b"two"));
    let object = object.to_str().unwrap();
    let check = |bundle: Vec<u8>, words: &str| {
        let host = host();
        let done = host.import(&bundle).unwrap();
        assert_eq!(
            done,
            Imported { entries: 1, present: 0, refused: 1, objects: 2, pointers: 1, site: false }
        );
        let said = host.said();
        assert!(said.contains(words) && said.contains("1 of its objects are missing or corrupt"), "{said}");
    };
    check(changed(|files| files.retain(|(path, _)| path != object)), "");
    for bad in [&b"tow"[..], b"two!", &[0; 4000]] {
        let replace = |(path, content): &mut File| {
            if path == object {
                *content = zstd::encode_all(bad, 3).unwrap();
            }
        };
        check(changed(|files| files.iter_mut().for_each(replace)), "is corrupt");
    }
}

#[test]
fn objects_of_untrusted_entries_are_skipped_unread() {
    let stray = |content: Vec<u8>| {
        let path = Name::Object { of: A, digest: Digest::of(b"stray") }.path();
        let bundle = changed(|files| files.insert(4, (path, content)));
        let host = host();
        assert_eq!(host.import(&bundle).unwrap().objects, 3);
        assert!(!host.store.has_object(&Digest::of(b"stray")).unwrap());
    };
    stray(zstd::encode_all(&b"stray"[..], 3).unwrap());
    stray(b"garbage".to_vec());
    stray(vec![0; 1 << 20]);
}

#[test]
fn an_invalid_entry_or_pointer_is_refused_alone() {
    let check = |at: usize, content: &[u8], words: &str, entries: u64, pointers: u64| {
        let host = host();
        let done = host.import(&changed(|files| files[at].1 = content.to_vec())).unwrap();
        assert_eq!((done.entries, done.refused, done.pointers), (entries, 1, pointers));
        let said = host.said();
        assert!(said.starts_with("Warning ") && said.contains("/b.tar/") && said.contains(words), "{said}");
    };
    let files = files(&full().export(&[A, B], &["a"]));
    check(1, b"<html>", "is not a valid entry", 1, 1);
    check(1, b"", "is not a valid entry", 1, 1);
    check(1, &files[2].1, "expected key 0101", 1, 1);
    check(1, &files[6].1, "payload type", 1, 1);
    check(6, b"{}", "is not a valid entry", 2, 0);
    check(6, &files[1].1, "payload type", 2, 0);
    let other = Pointer::new(&pointer_name("b"), A, 9, &builder(1)).unwrap();
    check(6, &other.encode().unwrap(), "expected by-kernel", 2, 0);
    let stranger = Pointer::new(&pointer_name("a"), A, 9, &builder(2)).unwrap();
    check(6, &stranger.encode().unwrap(), "an untrusted key", 2, 0);
}

#[test]
fn an_entry_that_the_caller_or_an_earlier_entry_contradicts_is_refused() {
    let check = |change: &dyn Fn(Manifest) -> Manifest, words: &str| {
        let files = files(&full().export(&[A, B], &[]));
        let entry = Entry::parse(Path::new("b"), &B, &files[2].1).unwrap();
        let mut entry = Entry::new(change(entry.into_manifest())).unwrap();
        assert!(entry.sign(&builder(1)));
        let host = host();
        let bundle = changed(|files| files[2].1 = entry.encode().unwrap());
        let done = host.import(&bundle).unwrap();
        assert_eq!((done.entries, done.refused), (1, 1), "{words}");
        assert!(host.said().contains(words), "{}", host.said());
        assert!(host.store.lookup(&A).unwrap().is_some() && host.store.lookup(&B).unwrap().is_none());
    };
    check(&|manifest| Manifest { builder: "liar".to_owned(), ..manifest }, "a liar made it");
    let larger = |output: Output| Output { size: output.size + 1, ..output };
    let all = |manifest: Manifest| {
        let outputs = manifest.outputs.clone().into_iter().map(larger).collect();
        Manifest { outputs, ..manifest }
    };
    check(&all, "another entry has another size for output");
}

#[test]
fn members_must_be_in_order_and_unique() {
    let check = |change: &dyn Fn(&mut Vec<File>), expect: &str| {
        check_error(&changed(|files| change(files)), expect);
    };
    for at in [0, 1, 2, 6] {
        check(&|files| files.insert(at, files[at].clone()), "in their order, each once");
    }
    check(&|files| files.insert(5, files[4].clone()), "expected each object once");
    check(&|files| files.swap(1, 2), "in their order");
    check(&|files| files.swap(2, 3), "in their order");
    check(&|files| files.swap(5, 6), "in their order");
    check(&|files| files.rotate_left(1), "in their order");
    check(&|files| drop(files.remove(0)), "in their order");
    check(&|files| files.clear(), "expected a bundle");
}

#[test]
fn another_format_is_refused() {
    let format = |text: &str| changed(|files| files[0].1 = text.as_bytes().to_vec());
    assert!(matches!(host().import(&format("2\n")), Err(Error::Format { found: 2, .. })));
    for bad in ["", "1", "0\n", "1\n\n", "one\n", "-1\n", "\u{1b}[2J\n"] {
        check_error(&format(bad), "expected format 1, found `");
    }
    check_error(&format(&"1".repeat(17)), "expected at most 16 bytes of format, found 17");
}

#[test]
fn sizes_that_are_too_large_are_refused_before_they_are_read() {
    let path = Name::Entry(Key::from_bytes([9; 32])).path();
    let huge = |path: &str, size: u64| {
        let start = [head(FORMAT_PATH, 2).unwrap(), b"1\n".to_vec(), vec![0; padding(2)]].concat();
        [start, head(path, size).unwrap()].concat()
    };
    check_error(&huge(&path, (4 << 20) + 1), "expected at most 4194304 bytes of entries/09");
    check_error(&huge(&path, u64::MAX), "expected at most 4194304 bytes of entries/09");
    check_error(&huge(&pointer_name("a").path(), (64 << 10) + 1), "expected at most 65536 bytes");
    let object = Name::Object { of: A, digest: Digest::of(b"one") }.path();
    check_error(&huge(&object, u64::MAX), "found the end of the file after 0");
    let files = files(&full().export(&[A], &[]));
    let mut bundle = tar(&files[..2]);
    bundle.truncate(bundle.len() - 2 * BLOCK);
    bundle.extend(head(&object, 1 << 40).unwrap());
    check_error(&bundle, "expected at most 4099 bytes of objects/");
}

#[test]
fn a_site_file_is_the_last_member_and_imported_as_it_is_fetched() {
    let one = full();
    let site = |epoch, by: u8| {
        let contents = SiteContent { packages: vec!["a".to_owned()], ..SiteContent::default() };
        Site::new(contents, epoch, &builder(by)).unwrap()
    };
    let bundle = |site: &Site| {
        let mut bytes = Vec::new();
        let contents = Contents { site: Some(site), ..of(&[A], &[]) };
        export(&one.store, contents, false, &mut bytes).unwrap();
        bytes
    };
    let other = host();
    let first = bundle(&site(NOW, 1));
    assert_eq!(files(&first).last().unwrap().0, "site.json");
    assert!(other.import(&first).unwrap().site);
    assert_eq!(other.store.site().unwrap(), Some(site(NOW, 1)));
    assert!(!other.import(&first).unwrap().site, "the same again");
    // An older one, one of a stranger, and one that is no site file.
    let refused = Imported { present: 1, refused: 1, ..Imported::default() };
    for bad in [site(NOW - 1, 1), site(NOW + 1, 9)] {
        assert_eq!(other.import(&bundle(&bad)).unwrap(), refused, "{}", other.said.borrow());
    }
    assert_eq!(other.store.site().unwrap(), Some(site(NOW, 1)));
}
