//! Shared caches against plain tools: what fetching costs, what a dead cache costs, and what a miss costs.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;
use kcache::store::Role;
use kcache_store::transport::{Location, open};
use kcache_store::{
    Entry, FORMAT, Key, Manifest, Outcome, Output, Say, SharedCache, SharedCaches, SignEntry, SigningKey,
    Store, Trust, Waiting,
};

use crate::commands::Bench;
use crate::measure::{Row, Table, copy_synced, modules_of, run, timed};
use crate::servers::Nginx;

/// Bytes of modules that are fetched.
const MODULES: u64 = 50_000_000;
/// How long the caches of the look-up that misses take to say so.
const ROUND_TRIP: Duration = Duration::from_millis(100);

pub fn all(modules: &Path, table: &mut Table) {
    table.add(fetch(modules));
    table.add(dead());
    table.add(misses());
    ["K61_NEW", "K612"].into_iter().filter_map(image_only).for_each(|row| table.add(row));
}

/// A builder's key and whom to trust accordingly.
fn signer(dir: &Path) -> (SigningKey, Trust) {
    let key = SigningKey::generate().expect("random numbers");
    let trusted = dir.join("trusted");
    fs::create_dir(&trusted).expect("a directory");
    fs::write(trusted.join("bench.pem"), key.public().to_pem()).expect("a key's file");
    (key, Trust::read(&trusted, &dir.join("revoked"), 1).expect("keys"))
}

fn store(dir: &Path) -> Store {
    Store::open(dir, &Waiting { limit: Duration::from_secs(9), print: &|_| () }).expect("a store")
}

fn caches(urls: &[String], writable: bool, trust: &Trust) -> SharedCaches {
    let print: Say = Arc::new(|_| ());
    let cache = |url: &String| {
        let location = Location { url: url.clone(), ..Location::default() };
        SharedCache::new(url, open(&location).expect("a location"), writable, print.clone())
    };
    SharedCaches::new(urls.iter().map(cache).collect(), trust.clone())
}

/// An entry of real modules, some 50 MB of them.
fn entry(store: &Store, modules: &Path, key: Key) -> Entry {
    let mut files = modules_of(modules);
    files.sort();
    let mut outputs = Vec::new();
    let mut size = 0;
    for file in files {
        let bytes = fs::read(&file).expect("a module");
        let stored = store.put_object(&mut &bytes[..]).expect("room");
        let name = format!("{}.ko", stored.digest.short());
        outputs.push(Output { name, role: Role::Module, size: stored.size, digest: stored.digest });
        size += stored.size;
        if size > MODULES {
            break;
        }
    }
    outputs.sort_by(|a, b| a.name.cmp(&b.name));
    outputs.dedup_by(|a, b| a.name == b.name);
    let manifest = Manifest {
        format: FORMAT,
        key,
        labels: Default::default(),
        fields: Vec::new(),
        outcome: Outcome::Built,
        outputs,
        observed: Vec::new(),
        facts: Default::default(),
        builder: "bench".to_owned(),
        created: 1,
    };
    Entry::new(manifest).expect("a valid entry")
}

fn fetch(modules: &Path) -> Row {
    let dir = tempfile::tempdir().expect("a directory");
    let nginx = Nginx::writable();
    let (signer, trust) = signer(dir.path());
    let from = store(&dir.path().join("from"));
    let key = Key::from_bytes([1; 32]);
    let entry = entry(&from, modules, key);
    from.insert(&entry, 1).expect("room");
    let there = caches(&[nginx.url()], true, &trust);
    for cache in there.writable() {
        there.push(cache, &from, &entry, SignEntry::With { key: &signer, adopt: false }).expect("a push");
    }
    let paths: Vec<PathBuf> = files(&nginx.files());
    let ours = || {
        let to = tempfile::tempdir_in(dir.path()).expect("a directory");
        let store = store(&to.path().join("store"));
        let caches = caches(&[nginx.url()], false, &trust);
        timed(|| {
            let fetched = caches.fetch(&store, &key, 1, &|_| Ok(()), &|_| ()).expect("a fetch");
            assert!(fetched.is_some());
        })
    };
    let plain = || {
        let to = tempfile::tempdir_in(dir.path()).expect("a directory");
        let mut list = String::new();
        for path in &paths {
            let relative = path.strip_prefix(nginx.files()).expect("a file of the server's").display();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            list += &format!("url = {}/{relative}\noutput = {name}\n", nginx.url());
        }
        fs::write(to.path().join("list"), list).expect("a list");
        let script =
            "curl -sS -K list && zstd -d -q *.zst && b3sum $(ls | grep -v -e zst -e json -e list) > sums";
        run(Command::new("sh").args(["-c", script]).current_dir(to.path()).stdout(Stdio::null()))
    };
    let outputs = &entry.manifest().outputs;
    let megabytes = outputs.iter().map(|output| output.size).sum::<u64>() / 1_000_000;
    Row::compare(
        &format!("fetch, verify and store {megabytes} MB in {} modules over HTTP", outputs.len()),
        "curl, one process; then zstd -d, b3sum",
        7,
        Some(1.43),
        ours,
        plain,
    )
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// Eight packages are looked up where one cache accepts connections and says nothing, against one pause of 3 s.
fn dead() -> Row {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, trust) = signer(dir.path());
    let store = store(&dir.path().join("store"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    let ours = || {
        let caches = caches(std::slice::from_ref(&url), false, &trust);
        timed(|| {
            std::thread::scope(|scope| {
                for n in 0..8 {
                    let (caches, store) = (&caches, &store);
                    scope.spawn(move || look_up(caches, store, n));
                }
            });
        })
    };
    let plain = || run(Command::new("sleep").arg("3"));
    Row::compare("8 look-ups, a cache that does not answer", "sleep 3", 1, Some(1.1), ours, plain)
}

fn look_up(caches: &SharedCaches, store: &Store, n: u8) {
    let fetched = caches.fetch(store, &Key::from_bytes([n; 32]), 1, &|_| Ok(()), &|_| ()).expect("a look-up");
    assert!(fetched.is_none());
}

/// One look-up in three caches that have nothing and are far away, against asking one of them.
fn misses() -> Row {
    let dir = tempfile::tempdir().expect("a directory");
    let (_, trust) = signer(dir.path());
    let store = store(&dir.path().join("store"));
    let urls: Vec<String> = (0..3).map(|_| far_away()).collect();
    let ours = || {
        let caches = caches(&urls, false, &trust);
        timed(|| look_up(&caches, &store, 1))
    };
    let plain = || run(Command::new("curl").args(["-s", "-o", "/dev/null", &urls[0]]));
    Row::compare(
        "a look-up that misses in 3 caches, 100 ms away",
        "curl, one of them",
        9,
        Some(1.3),
        ours,
        plain,
    )
}

/// A server without anything, whose answers take a while.
fn far_away() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("its address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                std::thread::sleep(ROUND_TRIP);
                let _ = stream
                    .write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            });
        }
    });
    url
}

/// Packages that a host without headers fetches.
const FETCHED: usize = 5;

/// Packages fetched and installed on a host that has a kernel's image only, against downloading the same files, unpacking the modules
/// and syncing them.
fn image_only(which: &str) -> Option<Row> {
    let builder = Bench::with_kernel_of(which)?;
    let (nginx, kernel) = (Nginx::writable(), builder.kernel().to_owned());
    run(&mut builder.kcache(&["keys", "generate"]));
    // Some do not build for every kernel.
    drop(builder.kcache(&["build", "-q", "-k", &kernel]).status());
    drop(builder.kcache(&["push", "--to", &nginx.url(), "-k", &kernel]).status());
    let sources: Vec<String> = fs::read_dir(builder.root().join("usr/src"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    let pointers = files(&nginx.files().join("by-kernel"));
    let mut names: Vec<String> = pointers
        .iter()
        .filter_map(|path| path.file_stem()?.to_str().map(str::to_owned))
        .filter(|name| sources.iter().any(|dir| dir.starts_with(&format!("{name}-"))))
        .collect();
    names.sort();
    names.dedup(); // each is also named by its kin
    names.truncate(FETCHED);

    let host = Bench::with_image_of(which)?;
    let keys = Path::new("etc/kcache/trusted-keys");
    fs::create_dir_all(host.root().join(keys)).expect("room");
    for key in files(&builder.root().join(keys)) {
        let name = key.file_name().unwrap_or_default();
        fs::copy(&key, host.root().join(keys).join(name)).expect("room");
    }
    let log = host.store().with_file_name("log");
    let ours = || {
        run(&mut host.kcache(&["remove", "--all"]));
        drop(fs::remove_dir_all(host.store()));
        let url = nginx.url();
        let words = ["--cache", &url, "install", "-v", "-k", &kernel];
        let log = fs::File::create(&log).expect("room").into_parts().0;
        run(host.kcache(&words).args(&names).stderr(log))
    };
    ours();
    let said = fs::read_to_string(&log).expect("what it printed");
    assert!(said.contains("indexes updated without depmod"), "{said}");
    let fetched: Vec<PathBuf> =
        ["entries", "objects", "by-kernel"].iter().flat_map(|part| files(&host.store().join(part))).collect();
    let updates = host.root().join("lib/modules").join(&kernel).join("plain");
    let plain = || {
        drop(fs::remove_dir_all(&updates));
        fs::create_dir_all(&updates).expect("room");
        let to = tempfile::tempdir_in(host.root()).expect("a directory");
        let mut list = String::new();
        for path in &fetched {
            let relative = path.strip_prefix(host.store()).expect("a file of the store").display();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            list += &format!("url = {}/{relative}\noutput = {name}\n", nginx.url());
        }
        fs::write(to.path().join("list"), list).expect("a list");
        timed(|| {
            let script = "curl -sSf -K list && zstd -d -q *.zst";
            run(Command::new("sh").args(["-c", script]).current_dir(to.path()).stdout(Stdio::null()));
            let unpacked = files(to.path()).into_iter().filter(|file| file.extension().is_none());
            unpacked.filter(|file| !file.ends_with("list")).for_each(|file| copy_synced(&file, &updates));
        })
    };
    let what = format!("{} packages fetched and installed on {kernel} without headers", names.len());
    Some(Row::compare(&what, "curl, one process; zstd -d, copy + fsync", 7, Some(1.5), ours, plain))
}
