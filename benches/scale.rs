//! A store of a million entries and three million objects, made here: how long things take in it, and how much memory.
//!
//! Needs some 20 GB of disk under $TMPDIR; `KCACHE_SCALE=N` takes N entries. Files are written as the store lays them out, without
//! its fsyncs, which would take hours.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use fs_err as fs;
use kcache_store::{Digest, Entry, FORMAT, Field, Key, Manifest, Outcome, Output, Store, Waiting};

use crate::measure::{median, peak, timed};

/// What a command takes in such a store.
pub struct Scaled {
    pub what: String,
    pub seconds: f64,
    /// KiB.
    pub memory: Option<u32>,
}

impl Scaled {
    pub fn line(&self) -> String {
        let memory = self.memory.map_or(String::new(), |kib| format!("{:.1} MiB", f64::from(kib) / 1024.0));
        let time = if self.seconds < 0.1 {
            format!("{:.3} ms", self.seconds * 1e3)
        } else {
            format!("{:.1} s", self.seconds)
        };
        format!("| {} | {time} | {memory} |", self.what)
    }
}

/// How many entries there are.
pub fn entries() -> u32 {
    std::env::var("KCACHE_SCALE").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000_000)
}

pub fn all() -> Vec<Scaled> {
    let dir = tempfile::tempdir().expect("a directory");
    let (store, count) = (dir.path().join("store"), entries());
    fill(&store, count);
    let mut all = Vec::new();
    let mut add = |what: &str, seconds: f64, memory: Option<u32>| {
        let scaled = Scaled { what: what.to_owned(), seconds, memory };
        println!("{}", scaled.line());
        all.push(scaled);
    };
    let mut command = |what: &str, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kcache"));
        command.arg("--root").arg(dir.path().join("root")).arg("--store").arg(&store).args(words);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let (start, memory) = (Instant::now(), peak(&mut command));
        add(what, start.elapsed().as_secs_f64(), Some(memory));
    };
    fs::create_dir_all(dir.path().join("root/lib/modules")).expect("room");
    command("the index made from the entries", &["gc", "--dry-run", "--max-age", "100000d"]);
    command("`gc --dry-run`, nothing goes", &["gc", "--dry-run", "--max-age", "100000d"]);
    command("`gc --dry-run --max-size 1G`", &["gc", "--dry-run", "--max-size", "1G", "-q"]);
    command("`status`", &["status"]);
    command("`verify`", &["verify"]);
    let open = Instant::now();
    let store =
        Store::open(&store, &Waiting { limit: Duration::from_secs(99), say: &|_| () }).expect("a store");
    let open = open.elapsed().as_secs_f64();
    add("opening it", open, None);
    let each = |act: &mut dyn FnMut(u32)| {
        let some = (0..1000).map(|n| n * (count / 1000).max(1));
        median(some.map(|n| timed(|| act(n)).as_secs_f64()).collect())
    };
    let look_up = each(&mut |n| assert!(store.lookup(&key(n)).expect("it can be read").is_some()));
    add("a look-up", look_up, None);
    let find = each(&mut |n| {
        let found = store.find(&[("package", &format!("package-{n}"))]).expect("the index can be read");
        assert_eq!(found.len(), 1);
    });
    add("a look-up by a label", find, None);
    let insert = each(&mut |n| {
        let entry = entry(count + n, &outputs(n));
        store.insert(&entry, 1).expect("room");
    });
    add("an entry inserted, synced", insert, None);
    all
}

fn key(n: u32) -> Key {
    Key::from_bytes(*Digest::of(format!("key {n}").as_bytes()).as_bytes())
}

/// Three objects that no other entry has.
fn outputs(n: u32) -> Vec<(Output, Vec<u8>)> {
    let output = |at: u32| {
        let bytes = format!("object {at} of {n}").into_bytes();
        let (size, digest) = (bytes.len() as u64, Digest::of(&bytes));
        (Output { name: format!("module-{at}.ko"), role: "module".to_owned(), size, digest }, bytes)
    };
    (0..3).map(output).collect()
}

fn entry(n: u32, outputs: &[(Output, Vec<u8>)]) -> Entry {
    let labels = [("package", format!("package-{n}")), ("kernel", format!("6.1.0-{}-amd64", n % 50))];
    let field = |at: u32| Field { name: format!("input-{at}"), value: "0".repeat(64), note: None };
    Entry::new(Manifest {
        format: FORMAT,
        key: key(n),
        labels: BTreeMap::from(labels.map(|(name, value)| (name.to_owned(), value))),
        fields: (0..20).map(field).collect(),
        outcome: Outcome::Built,
        outputs: outputs.iter().map(|(output, _)| output.clone()).collect(),
        observed: Vec::new(),
        facts: Default::default(),
        builder: "bench".to_owned(),
        created: u64::from(n),
    })
    .expect("a valid entry")
}

/// Makes a store, and writes its files without it.
fn fill(dir: &Path, count: u32) {
    drop(Store::open(dir, &Waiting { limit: Duration::from_secs(9), say: &|_| () }).expect("a store"));
    let write = |kind: &str, name: &str, end: &str, bytes: &[u8]| {
        let fan = dir.join(kind).join(&name[..2]);
        if fs::write(fan.join(format!("{name}{end}")), bytes).is_err() {
            fs::create_dir_all(&fan).expect("room");
            fs::write(fan.join(format!("{name}{end}")), bytes).expect("room");
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u32;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for n in (thread..count).step_by(threads as usize) {
                    let outputs = outputs(n);
                    for (output, bytes) in &outputs {
                        let zstd = zstd::bulk::compress(bytes, 1).expect("memory");
                        write("objects", &output.digest.to_string(), ".zst", &zstd);
                    }
                    write(
                        "entries",
                        &key(n).to_string(),
                        ".json",
                        &entry(n, &outputs).encode().expect("text"),
                    );
                }
            });
        }
    });
    for name in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
        drop(fs::remove_file(dir.join(name)));
    }
}
