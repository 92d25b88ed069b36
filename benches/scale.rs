//! What is large, made here: a store of a million entries and three million objects, a source tree of 100,000 files, 50 kernels. How
//! long things take, and how much memory.
//!
//! The store needs some 20 GB of disk under $TMPDIR; `KCACHE_SCALE=N` takes N entries. Its files are written as the store lays them
//! out, without its fsyncs, which would take hours.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use fs_err as fs;
use kcache::store::Role;
use kcache_store::tree::{self, TreeRoot};
use kcache_store::{Digest, Entry, FORMAT, Field, Key, Manifest, Outcome, Output, Store, Waiting};

use crate::commands::Bench;
use crate::measure::{Table, median, peak, timed};

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
fn entries() -> u32 {
    std::env::var("KCACHE_SCALE").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000_000)
}

/// Files of the large source tree.
const FILES: u32 = 100_000;
const KERNELS: u32 = 50;

pub fn all(bench: &Bench, table: &mut Table) {
    large_store(bench, table);
    large_tree(table);
    many_kernels(bench, table);
}

/// Runs a command; how long it takes, and with how much memory.
fn of_command(table: &mut Table, what: &str, command: &mut Command) {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let start = Instant::now();
    let memory = Some(peak(command));
    table.scale(Scaled { what: what.to_owned(), seconds: start.elapsed().as_secs_f64(), memory });
}

fn large_store(bench: &Bench, table: &mut Table) {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, count) = (dir.path().join("store"), entries());
    fill(&path, count);
    let mut command = |what: &str, words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kcache"));
        command.arg("--root").arg(bench.root()).arg("--store").arg(&path).args(words);
        of_command(table, what, &mut command);
    };
    command(
        &format!("the index made from the files of {count} entries, `gc --dry-run`"),
        &["gc", "--dry-run", "--max-age", "100000d"],
    );
    command("`gc --dry-run` of them, nothing goes", &["gc", "--dry-run", "--max-age", "100000d"]);
    command("`gc --dry-run --max-size 1G`", &["gc", "--dry-run", "--max-size", "1G", "-q"]);
    command("`status` of a kernel and six packages", &["status"]);
    command("`verify`: every entry and object read", &["verify"]);
    let mut add = |what: &str, seconds: f64| {
        table.scale(Scaled { what: what.to_owned(), seconds, memory: None });
    };
    let open = Instant::now();
    let store =
        Store::open(&path, &Waiting { limit: Duration::from_secs(99), print: &|_| () }).expect("a store");
    add("the store opened", open.elapsed().as_secs_f64());
    let each = |act: &mut dyn FnMut(u32)| {
        let some = (0..1000).map(|n| n * (count / 1000).max(1));
        median(some.map(|n| timed(|| act(n)).as_secs_f64()).collect())
    };
    add(
        "an entry looked up",
        each(&mut |n| assert!(store.lookup(&key(n)).expect("it can be read").is_some())),
    );
    let find = each(&mut |n| {
        let found = store.find(&[("package", &format!("package-{n}"))]).expect("the index can be read");
        assert_eq!(found.len(), 1);
    });
    add("an entry found by a label", find);
    let insert = each(&mut |n| {
        let entry = entry(count + n, &outputs(n));
        store.insert(&entry, 1).expect("room");
    });
    add("an entry inserted, synced", insert);
}

/// The digest of a tree, remembered in a store: what a helper process does.
pub fn digest(store: &Path, tree: &Path) {
    let store =
        Store::open(store, &Waiting { limit: Duration::from_secs(9), print: &|_| () }).expect("a store");
    let root = TreeRoot { path: tree.to_owned(), label: String::new(), skip: Vec::new(), programs: false };
    let now = SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    tree::tree_digest(Some(&store), &[root], now).expect("a digest");
}

fn large_tree(table: &mut Table) {
    let dir = tempfile::tempdir().expect("a directory");
    let tree = dir.path().join("tree");
    for n in 0..FILES {
        let file = tree.join(format!("{}/{n}.c", n % 1000));
        fs::create_dir_all(file.parent().expect("it has one")).expect("room");
        fs::write(&file, format!("int f{n}(void) {{ return {n}; }}\n").repeat(20)).expect("room");
    }
    std::thread::sleep(Duration::from_secs(3)); // what has just changed is not remembered
    for what in ["first digest of a source tree of 100,000 files", "the same, remembered"] {
        let mut helper = Command::new(std::env::current_exe().expect("this program"));
        of_command(table, what, helper.arg("digest").arg(dir.path().join("store")).arg(&tree));
    }
}

fn many_kernels(bench: &Bench, table: &mut Table) {
    bench.add_kernels(KERNELS - 1);
    let install = ["install", "-q", "v4l2loopback"];
    of_command(table, "v4l2loopback built for 50 kernels and installed", &mut bench.kcache(&install));
    of_command(table, "the same again: nothing to do", &mut bench.kcache(&install));
    of_command(
        table,
        "`check` of the 50, the other packages' recipes never seen",
        &mut bench.kcache(&["check", "-q"]),
    );
    of_command(table, "the same again", &mut bench.kcache(&["check", "-q"]));
}

fn key(n: u32) -> Key {
    Key::from_bytes(*Digest::of(format!("key {n}").as_bytes()).as_bytes())
}

/// Three objects that no other entry has.
fn outputs(n: u32) -> Vec<(Output, Vec<u8>)> {
    let output = |at: u32| {
        let bytes = format!("object {at} of {n}").into_bytes();
        let (size, digest) = (bytes.len() as u64, Digest::of(&bytes));
        (Output { name: format!("module-{at}.ko"), role: Role::Module, size, digest }, bytes)
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
    drop(Store::open(dir, &Waiting { limit: Duration::from_secs(9), print: &|_| () }).expect("a store"));
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
