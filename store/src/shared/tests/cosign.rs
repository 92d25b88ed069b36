//! Builders that push the same entry.

use super::*;

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
    let memory = filled(1, "abc");
    std::thread::scope(|scope| {
        for n in 2..=4 {
            let memory = &memory;
            scope.spawn(move || {
                let pushed = host(&[memory], trust(&[n], &[], 1)).push("abc", by(&builder(n))).unwrap();
                assert_eq!(pushed, Pushed::Cosigned("abc".to_owned()));
            });
        }
    });
    assert_eq!(signers(&memory), 4);
}
