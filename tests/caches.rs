//! One suite that every kind of shared cache passes, on real servers.
//!
//! `gs://` and `az://` are not here: no engine of theirs can be run in a test.

use crate::servers::{DockerRegistry, Garage, Nginx, PASSWORD, S3Key, USER, skopeo};
use fs_err as fs;
use kcache::store::transport::{Bounds, IfTaken, Location, Name, Transport, TransportError, open};
use kcache::store::{Digest, Key};
use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// More than any of this takes on any machine.
const PATIENT: Bounds =
    Bounds { silence: Duration::from_secs(60), base: Duration::from_secs(60), rate: 1 << 20 };

/// The names that belong to one key.
struct Names(Key);

impl Names {
    fn of(label: &str) -> Names {
        Names(Key::from_bytes(*Digest::of(label.as_bytes()).as_bytes()))
    }

    fn entry(&self) -> Name {
        Name::Entry(self.0)
    }

    fn object(&self, number: u8) -> Name {
        Name::Object { of: self.0, digest: Digest::of(&[&self.0.as_bytes()[..], &[number]].concat()) }
    }
}

fn pointer(release: &str, package: &str) -> Name {
    Name::Pointer { release: release.into(), kernel: Digest::of(release.as_bytes()), package: package.into() }
}

fn get(cache: &dyn Transport, name: &Name) -> Option<Vec<u8>> {
    cache.get(name, 8 << 20, &|_| ()).unwrap_or_else(|e| panic!("{name:?}: {e}"))
}

fn put(cache: &dyn Transport, name: &Name, bytes: &[u8], if_taken: IfTaken) -> bool {
    cache.put(name, bytes, if_taken).unwrap_or_else(|e| panic!("{name:?}: {e}"))
}

/// What every shared cache does. `open` is another host each time.
fn conforms(open: &dyn Fn() -> Arc<dyn Transport>) {
    let (here, there) = (open(), open());
    what_is_absent_is_none(&*here);
    what_one_host_puts_another_gets(&*here, &*there);
    of_two_the_first_stays(&*here, &*there);
    what_is_replaced_is_new(&*here, &*there, &*open());
    no_more_than_the_limit_is_read(&*here);
    names_may_be_awkward(&*here, &*there);
    eight_threads_do_not_mix(&*here, &*there);
}

fn what_is_absent_is_none(here: &dyn Transport) {
    let names = Names::of("absent");
    for name in [names.entry(), names.object(0), pointer("6.1.0", "absent"), Name::Builders, Name::Site] {
        assert_eq!(get(here, &name), None, "{name:?}");
        assert_eq!(here.has(&name), Ok(false), "{name:?}");
    }
}

fn what_one_host_puts_another_gets(here: &dyn Transport, there: &dyn Transport) {
    let names = Names::of("shared");
    let large: Vec<u8> = (0..5 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let bytes: [&[u8]; 3] = [b"", b"\0\r\n\xff", &large];
    for (number, bytes) in bytes.iter().enumerate() {
        assert!(put(here, &names.object(number as u8), bytes, IfTaken::Keep));
    }
    assert!(put(here, &names.entry(), b"entry", IfTaken::Keep));
    for host in [here, there] {
        assert_eq!(get(host, &names.entry()).unwrap(), b"entry");
        assert_eq!(host.has(&names.entry()), Ok(true));
        for (number, bytes) in bytes.iter().enumerate() {
            assert!(get(host, &names.object(number as u8)).unwrap() == *bytes, "object {number}");
            assert_eq!(host.has(&names.object(number as u8)), Ok(true));
        }
        assert_eq!(get(host, &names.object(3)), None, "another object of the same key");
    }
    assert!(put(here, &Names::of("empty").entry(), b"", IfTaken::Keep));
    assert_eq!(get(there, &Names::of("empty").entry()).unwrap(), b"");
}

fn of_two_the_first_stays(here: &dyn Transport, there: &dyn Transport) {
    let names = Names::of("kept");
    for name in [names.object(0), names.entry(), pointer("6.1.0", "kept"), Name::Builders, Name::Site] {
        assert!(put(here, &name, b"first", IfTaken::Keep));
    }
    for name in [names.object(0), names.entry(), pointer("6.1.0", "kept"), Name::Builders, Name::Site] {
        assert!(!put(there, &name, b"second", IfTaken::Keep), "{name:?}");
        assert_eq!(get(here, &name).unwrap(), b"first", "{name:?}");
        assert_eq!(get(there, &name).unwrap(), b"first", "{name:?}");
    }
}

fn what_is_replaced_is_new(here: &dyn Transport, there: &dyn Transport, third: &dyn Transport) {
    let names = Names::of("replaced");
    for name in [names.object(0), names.object(1), names.entry(), pointer("6.1.0", "replaced")] {
        assert!(put(here, &name, b"old", IfTaken::Keep));
    }
    for name in [names.object(1), names.entry(), pointer("6.1.0", "replaced"), Name::Builders, Name::Site] {
        assert!(put(there, &name, b"new", IfTaken::Replace), "{name:?}");
    }
    for name in [names.entry(), pointer("6.1.0", "replaced"), Name::Builders, Name::Site] {
        assert_eq!(get(here, &name).unwrap(), b"new", "{name:?}");
    }
    // An entry that is signed once more takes the place of the other, and its objects stay.
    assert!(put(third, &names.entry(), b"newest", IfTaken::Replace));
    assert_eq!(get(there, &names.entry()).unwrap(), b"newest");
    assert_eq!(get(there, &names.object(0)).unwrap(), b"old");
    assert_eq!(get(there, &names.object(1)).unwrap(), b"new");
}

fn no_more_than_the_limit_is_read(here: &dyn Transport) {
    let names = Names::of("limited");
    put(here, &names.object(0), &[7; 100_000], IfTaken::Keep);
    put(here, &names.entry(), &[7; 1000], IfTaken::Keep);
    for (name, size) in [(names.entry(), 1000), (names.object(0), 100_000)] {
        assert_eq!(here.get(&name, size - 1, &|_| ()), Err(TransportError::TooLong(size - 1)));
        let heard = Cell::new(0);
        let bytes = here.get(&name, size, &|n| heard.set(heard.get() + n)).unwrap().unwrap();
        assert_eq!((bytes.len() as u64, heard.get()), (size, size));
    }
}

fn names_may_be_awkward(here: &dyn Transport, there: &dyn Transport) {
    for (release, package) in [
        ("6.1.0-56-rt-amd64+x", "v4l2loopback"),
        ("6.1.0-56-rt-amd64_x", "a"),
        ("6.12.117+deb12-amd64", "a+b_c.d-e"),
        ("6.12.117_deb12-amd64", "+._-"),
        ("_", "a..b"),
    ] {
        let name = pointer(release, package);
        assert!(put(here, &name, name.path().as_bytes(), IfTaken::Keep), "{name:?}");
        assert_eq!(get(there, &name).unwrap(), name.path().as_bytes());
    }
}

fn eight_threads_do_not_mix(here: &dyn Transport, there: &dyn Transport) {
    std::thread::scope(|scope| {
        for thread in 0..8_u8 {
            scope.spawn(move || {
                for round in 0..3 {
                    let names = Names::of(&format!("thread {thread} {round}"));
                    let bytes = vec![thread; 30_000];
                    put(here, &names.object(0), &bytes, IfTaken::Keep);
                    // Some of one key at the same time.
                    put(here, &Names::of("threads").object(thread), &bytes, IfTaken::Keep);
                    put(here, &names.entry(), &[thread], IfTaken::Keep);
                    assert_eq!(get(there, &names.entry()).unwrap(), [thread]);
                    assert_eq!(get(there, &names.object(0)).unwrap(), bytes);
                }
            });
        }
    });
    let names = Names::of("threads");
    put(here, &names.entry(), b"entry", IfTaken::Keep);
    for thread in 0..8 {
        assert_eq!(get(there, &names.object(thread)).unwrap(), vec![thread; 30_000]);
    }
}

/// Nobody is let in.
fn denies(cache: &dyn Transport) {
    let name = Names::of("denied").entry();
    let denied = |trouble| assert!(matches!(trouble, TransportError::Denied(_)), "{trouble:?}");
    denied(cache.get(&name, 100, &|_| ()).unwrap_err());
    denied(cache.has(&name).unwrap_err());
    denied(cache.put(&name, b"bytes", IfTaken::Replace).unwrap_err());
}

/// Nobody is there.
fn is_unreachable(cache: &dyn Transport) {
    let names = Names::of("unreachable");
    let unreachable = |trouble| assert!(matches!(trouble, TransportError::Unreachable(_)), "{trouble:?}");
    for name in [names.entry(), names.object(0), pointer("6.1.0", "unreachable"), Name::Builders, Name::Site]
    {
        unreachable(cache.get(&name, 100, &|_| ()).unwrap_err());
        unreachable(cache.has(&name).unwrap_err());
        unreachable(cache.put(&name, b"bytes", IfTaken::Keep).unwrap_err());
    }
}

/// It can be read only.
fn is_read_only(cache: &dyn Transport) {
    let names = Names::of("read-only");
    assert_eq!(get(cache, &names.entry()), None);
    for name in [names.entry(), names.object(0), pointer("6.1.0", "read-only"), Name::Builders, Name::Site] {
        for if_taken in [IfTaken::Keep, IfTaken::Replace] {
            let trouble = cache.put(&name, b"bytes", if_taken).unwrap_err();
            assert!(matches!(trouble, TransportError::ReadOnly(_)), "{trouble:?}");
        }
    }
}

fn at(url: &str) -> Location {
    Location { url: url.to_owned(), bounds: PATIENT, ..Location::default() }
}

fn with_password(location: Location, password: &str) -> Location {
    Location { username: Some(USER.into()), password: Some(password.into()), ..location }
}

#[test]
fn file() {
    let dir = tempfile::tempdir().unwrap();
    let location = at(dir.path().to_str().unwrap());
    conforms(&|| open(&location).unwrap());
    is_unreachable(&*open(&at(dir.path().join("unmounted").to_str().unwrap())).unwrap());
}

#[test]
fn http_with_webdav() {
    let nginx = Nginx::writable();
    let cache = at(&format!("{}/team/cache/", nginx.url()));
    conforms(&|| open(&cache).unwrap());
    // What lies there is a store's tree.
    let entry = Names::of("shared").entry().path();
    assert_eq!(fs::read(nginx.files().join("team/cache").join(entry)).unwrap(), b"entry");
    drop(nginx);
    is_unreachable(&*open(&cache).unwrap());
}

#[test]
fn http_with_webdav_that_wants_collections_made() {
    let nginx = Nginx::with_collections();
    conforms(&|| open(&at(&nginx.url())).unwrap());
}

#[test]
fn http_without_webdav() {
    let nginx = Nginx::read_only();
    is_read_only(&*open(&at(&nginx.url())).unwrap());
    let name = pointer("6.1.0-56-rt-amd64+x", "mc");
    let file = nginx.files().join(name.path());
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "a store's file").unwrap();
    assert_eq!(get(&*open(&at(&nginx.url())).unwrap(), &name).unwrap(), b"a store's file");
}

#[test]
fn https_with_its_own_authority_and_a_password() {
    let nginx = Nginx::secure();
    let strange = with_password(at(&nginx.url()), PASSWORD);
    let stranger = Location { ca: Some(nginx.ca()), ..at(&nginx.url()) };
    let known = with_password(stranger.clone(), PASSWORD);
    conforms(&|| open(&known).unwrap());
    denies(&*open(&stranger).unwrap());
    denies(&*open(&with_password(stranger.clone(), "guess")).unwrap());
    is_unreachable(&*open(&strange).unwrap());

    // A server may not lead from TLS to where everybody can listen.
    let plain = Location { url: format!("{}/plain", nginx.url()), ..known };
    let answer = open(&plain).unwrap().get(&Names::of("plain").entry(), 100, &|_| ());
    assert_eq!(answer, Err(TransportError::Odd("a redirect from https to http".into())));
}

fn bucket(garage: &Garage, key: Option<&S3Key>) -> Location {
    let mut location = at(&format!("s3://{}/team/cache", Garage::BUCKET));
    let mut option = |name: &str, value: &str| drop(location.options.insert(name.into(), value.into()));
    option("aws_endpoint", &garage.endpoint());
    option("aws_region", "garage");
    if let Some(key) = key {
        option("aws_access_key_id", &key.id);
        option("aws_secret_access_key", &key.secret);
    }
    location
}

#[test]
fn s3_on_garage() {
    let Some(garage) = Garage::cluster() else { return };
    let key = garage.key("builder", &["--read", "--write"]);
    let cache = bucket(&garage, Some(&key));
    conforms(&|| open(&cache).unwrap());

    denies(&*open(&bucket(&garage, None)).unwrap());
    let guess = S3Key { secret: "0".repeat(64), ..key.clone() };
    denies(&*open(&bucket(&garage, Some(&guess))).unwrap());

    let reader = open(&bucket(&garage, Some(&garage.key("host", &["--read"])))).unwrap();
    let names = Names::of("shared");
    assert_eq!(get(&*reader, &names.entry()).unwrap(), b"entry");
    let refused = reader.put(&names.entry(), b"bytes", IfTaken::Replace);
    assert_eq!(refused, Err(TransportError::Denied("HTTP 403 Forbidden (AccessDenied)".into())));

    drop(garage);
    is_unreachable(&*open(&cache).unwrap());
}

#[test]
fn a_node_of_garage_may_die_in_the_middle() {
    let Some(mut garage) = Garage::cluster() else { return };
    let key = garage.key("builder", &["--read", "--write"]);
    let location = bucket(&garage, Some(&key));
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (location, done) = (&location, &done);
            scope.spawn(move || {
                let cache = open(location).unwrap();
                for round in 0..10 {
                    let name = Names::of(&format!("{thread} {round}")).entry();
                    let bytes = vec![thread; 50_000];
                    put(&*cache, &name, &bytes, IfTaken::Keep);
                    assert_eq!(get(&*cache, &name).unwrap(), bytes);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        while done.load(Ordering::Relaxed) < 10 {
            std::thread::sleep(Duration::from_millis(5));
        }
        garage.kill(2);
    });
    assert_eq!(done.into_inner(), 40);
}

fn repository(registry: &DockerRegistry) -> Location {
    at(&format!("oci://{}/team/kcache", registry.address()))
}

#[test]
fn oci_on_docker_registry() {
    let registry = DockerRegistry::writable();
    let cache = repository(&registry);
    conforms(&|| open(&cache).unwrap());
    drop(registry);
    is_unreachable(&*open(&cache).unwrap());
    let registry = DockerRegistry::read_only();
    is_read_only(&*open(&repository(&registry)).unwrap());
}

#[test]
fn oci_on_docker_registry_with_a_password() {
    let registry = DockerRegistry::locked();
    let known = with_password(repository(&registry), PASSWORD);
    conforms(&|| open(&known).unwrap());
    denies(&*open(&repository(&registry)).unwrap());
    denies(&*open(&with_password(repository(&registry), "guess")).unwrap());
}

#[test]
fn other_clients_understand_our_artifacts() {
    let registry = DockerRegistry::writable();
    let cache = open(&repository(&registry)).unwrap();
    let names = Names::of("entry");
    put(&*cache, &names.object(0), b"object", IfTaken::Keep);
    put(&*cache, &names.entry(), b"entry", IfTaken::Keep);
    put(&*cache, &pointer("6.1.0", "mc"), b"pointer", IfTaken::Replace);

    let dir = tempfile::tempdir().unwrap();
    let skopeo = |args: &[&str]| skopeo(dir.path(), args);
    let image = format!("docker://{}/team/kcache", registry.address());
    let tags = skopeo(&["list-tags", "--tls-verify=false", &image]);
    assert!(tags.contains(&names.0.to_string()) && tags.contains("pointer-"), "{tags}");

    let image = format!("{image}:{}", names.0);
    let manifest = skopeo(&["inspect", "--raw", "--tls-verify=false", &image]);
    assert!(manifest.contains(r#""artifactType":"application/vnd.kcache.entry.v1+json""#), "{manifest}");

    let copy = dir.path().join("copy");
    skopeo(&["copy", "--src-tls-verify=false", &image, &format!("dir:{}", copy.display())]);
    let blobs: Vec<Vec<u8>> = contents(&copy);
    for bytes in [&b"entry"[..], b"object"] {
        assert!(blobs.iter().any(|blob| blob == bytes), "{bytes:?}");
    }
}

fn contents(dir: &Path) -> Vec<Vec<u8>> {
    fs::read_dir(dir).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}
