//! The parts, one by one: how long each takes, and whether that has changed since the last run on this machine (criterion).
//!
//! `cargo bench --bench parts`; figures against other tools are those of `cargo bench --bench kcache`.

#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fs_err as fs;
use kcache_store::tree::{self, TreeRoot};
use kcache_store::{
    Digest, Entry, FORMAT, Field, Key, Manifest, Outcome, Output, Role, SigningKey, Store, Trust, Waiting,
};

/// Files of the tree that is walked, as many as a kernel's headers have.
const FILES: u32 = 6000;
/// Bytes of a module.
const MODULE: usize = 200_000;

fn store(dir: &Path) -> Store {
    Store::open(&dir.join("store"), &Waiting { limit: Duration::from_secs(9), print: &|_| () })
        .expect("a store")
}

/// The fields of a build, and an entry with eight modules.
fn entry() -> Entry {
    let field = |n: usize| Field { name: format!("input-{n}"), value: "x".repeat(64), note: None };
    let output = |n: u8| Output {
        name: format!("module-{n}.ko"),
        role: Role::Module,
        size: MODULE as u64,
        digest: Digest::of(&[n]),
    };
    Entry::new(Manifest {
        format: FORMAT,
        key: Key::from_bytes([7; 32]),
        labels: BTreeMap::new(),
        fields: (0..30).map(field).collect(),
        outcome: Outcome::Built,
        outputs: (0..8).map(output).collect(),
        observed: Vec::new(),
        facts: Default::default(),
        builder: "bench".to_owned(),
        created: 1,
    })
    .expect("a valid entry")
}

fn keys(criterion: &mut Criterion) {
    let fields = entry().into_manifest().fields;
    criterion.bench_function("key of 30 fields", |bench| {
        bench.iter(|| kcache::inputs::key::key(black_box(&fields)))
    });
}

fn memo(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("tree");
    for n in 0..FILES {
        let file = path.join(format!("{}/{n}.h", n % 200));
        fs::create_dir_all(file.parent().expect("it has one")).expect("room");
        fs::write(&file, format!("#define N{n} {n}\n").repeat(20)).expect("room");
    }
    let store = store(dir.path());
    let roots = [TreeRoot { path, label: "headers".to_owned(), skip: Vec::new(), programs: false }];
    // What has changed within the last seconds is not remembered.
    let later = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs() + 60;
    let digest = || tree::tree_digest(Some(&store), &roots, later).expect("a digest");
    digest();
    let mut group = criterion.benchmark_group("tree");
    group.throughput(Throughput::Elements(FILES.into()));
    group.bench_function("remembered", |bench| bench.iter(digest));
    let unknown = || tree::tree_digest(None, &roots, later).expect("a digest");
    group.bench_function("hashed", |bench| bench.iter(unknown));
    group.finish();
}

fn objects(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let store = store(dir.path());
    // Half of it can be compressed, as machine code can.
    let module: Vec<u8> = (0..MODULE as u64)
        .map(|n| if n % 2 == 0 { 0 } else { (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 })
        .collect();
    let stored = store.put_object(&mut &module[..]).expect("room");
    let mut group = criterion.benchmark_group("object");
    group.throughput(Throughput::Bytes(MODULE as u64));
    group.bench_function("written", |bench| {
        bench.iter(|| {
            store.discard_object(&stored.digest).expect("it was there");
            store.put_object(&mut &module[..]).expect("room")
        });
    });
    group.bench_function("read", |bench| {
        bench.iter(|| store.read_object(&stored.digest, stored.size).expect("it is whole"))
    });
    group.finish();
}

fn envelopes(criterion: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let key = SigningKey::generate().expect("random numbers");
    let trusted = dir.path().join("trusted");
    fs::create_dir(&trusted).expect("room");
    let pem = trusted.join("key.pem");
    fs::write(&pem, key.public().to_pem()).expect("room");
    fs::set_permissions(&pem, PermissionsExt::from_mode(0o644)).expect("its owner");
    let trust = Trust::read(&trusted, &dir.path().join("revoked"), 1).expect("keys");
    let mut signed = entry();
    signed.sign(&key);
    let file = signed.encode().expect("text");
    criterion.bench_function("entry signed and written", |bench| {
        bench.iter(|| {
            let mut entry = entry();
            entry.sign(&key);
            entry.encode().expect("text")
        });
    });
    criterion.bench_function("entry read and verified", |bench| {
        bench.iter(|| {
            let read = Entry::parse(Path::new("entry"), &Key::from_bytes([7; 32]), black_box(&file))
                .expect("it is whole");
            trust.verify(read.envelope()).expect("it is signed");
        });
    });
}

criterion_group!(parts, keys, memo, objects, envelopes);
criterion_main!(parts);
