//! Builders that push the same entry.

use super::*;
use crate::Site;

/// The signatures of a cache's entry.
fn signers(memory: &Memory) -> usize {
    let bytes = memory.files.lock().unwrap()[&Name::Entry(KEY).path()].clone();
    Entry::parse("x".as_ref(), &KEY, &bytes).unwrap().envelope().signatures().len()
}

#[test]
fn builders_that_do_not_know_each_other_sign_what_they_agree_on() {
    let memory = filled(1, "abc");
    let name = pointer_name("a");
    let point = |n: u8| {
        let host = host(&[&memory], trust(&[n], &[], 1));
        let cache = host.caches.caches[0].clone();
        host.caches.point(&cache, &host.store, &name, KEY, NOW, Some(&builder(n))).unwrap();
    };
    point(1);
    let second = host(&[&memory], trust(&[2], &[], 1));
    assert_eq!(second.push("abc", by(&builder(2))).unwrap(), Pushed::Cosigned("abc".to_owned()));
    point(2);
    assert_eq!(signers(&memory), 2);
    for n in [1, 2] {
        let client = host(&[&memory], trust(&[n], &[], 1));
        assert_eq!(client.fetch().as_deref(), Some("mem://0"), "{}", client.said());
        assert_eq!(client.caches.pointer(&client.store, &name, false, NOW).unwrap().unwrap().key(), KEY);
        assert_eq!(client.said(), "");
    }
}

#[test]
fn a_differing_build_of_an_untrusted_builder_is_not_cosigned() {
    let memory = filled(1, "abc");
    let second = host(&[&memory], trust(&[2], &[], 1));
    let own = second.build("abc");
    let mut labels = own.manifest().labels.clone();
    labels.insert("package".to_owned(), "other".to_owned());
    let other = Entry::new(Manifest { labels, ..own.manifest().clone() }).unwrap();
    second.store.replace(&other).unwrap();
    let cache = second.caches.caches[0].clone();
    let pushed = second.caches.push(&cache, &second.store, &other, by(&builder(2))).unwrap();
    assert_eq!((pushed, signers(&memory)), (Pushed::New, 1));
}

#[test]
fn of_builders_that_push_at_once_no_signature_is_lost() {
    let memory = Arc::new(Memory::default());
    std::thread::scope(|scope| {
        for n in 1..=4 {
            let memory = &memory;
            scope.spawn(move || {
                let host = host(&[memory], trust(&[n], &[], 1));
                host.push("abc", by(&builder(n))).unwrap();
                host.caches.confirm(&host.store, NOW, &builder(n)).unwrap();
            });
        }
    });
    assert_eq!(signers(&memory), 4);
}

fn wanted(package: &str) -> SiteContent {
    SiteContent { packages: vec![package.to_owned()], policy: Vec::new(), threshold: None }
}

#[test]
fn what_another_builder_overwrote_is_signed_again_and_what_it_replaced_is_not() {
    let name = pointer_name("a");
    let pushed_by = |n: u8, content: &str| {
        let memory = Arc::new(Memory::default());
        let host = host(&[&memory], trust(&[n], &[], 1));
        host.push(content, by(&builder(n))).unwrap();
        let cache = host.caches.caches[0].clone();
        host.caches.point(&cache, &host.store, &name, KEY, NOW + u64::from(n), Some(&builder(n))).unwrap();
        host.caches
            .publish_site(&cache, &host.store, &wanted(content), NOW + u64::from(n), &builder(n))
            .unwrap();
        (memory, host)
    };
    let site = |memory: &Memory| {
        let bytes = memory.files.lock().unwrap()[&Name::Site.path()].clone();
        Site::parse("x".as_ref(), &bytes).unwrap()
    };
    let pointer = |memory: &Memory| {
        let bytes = memory.files.lock().unwrap()[&name.path()].clone();
        Pointer::parse("x".as_ref(), &name, &bytes).unwrap()
    };
    let (first, host) = pushed_by(1, "abc");
    let (second, _) = pushed_by(2, "abc");
    let theirs = second.files.lock().unwrap().clone();
    first.files.lock().unwrap().extend(theirs);
    let count = |memory: &Memory| {
        let [pointer, site] = [pointer(memory).envelope().clone(), site(memory).envelope().clone()];
        (signers(memory), pointer.signatures().len(), site.signatures().len())
    };
    assert_eq!(count(&first), (1, 1, 1));
    host.caches.confirm(&host.store, NOW, &builder(1)).unwrap();
    assert_eq!(count(&first), (2, 2, 2));
    // Once is enough.
    first.asked.lock().unwrap().clear();
    host.caches.confirm(&host.store, NOW, &builder(1)).unwrap();
    assert!(first.asked.lock().unwrap().is_empty());

    // A build by another builder, a pointer to something newer, and a site file with other packages.
    let (first, host) = pushed_by(1, "abc");
    let newer = Pointer::new(&name, Key::from_bytes([8; 32]), NOW + 9, &builder(2)).unwrap();
    let (other, _) = pushed_by(2, "xyz");
    let mut theirs = other.files.lock().unwrap().clone();
    theirs.insert(name.path(), newer.encode().unwrap());
    first.files.lock().unwrap().extend(theirs.clone());
    host.caches.confirm(&host.store, NOW, &builder(1)).unwrap();
    assert!(theirs.iter().all(|(path, bytes)| first.files.lock().unwrap()[path] == *bytes));
}
