//! Tests of the memo of tree digests with edits that are hard to detect.
//!
//! A tree is edited in every way that keeps size and mtime, or that gives names and inodes to other bytes. After each
//! edit, the digest from the memo must equal the one from reading everything. All signatures of a run stay in one
//! store, so each state is compared with all earlier ones. The tests run on tmpfs, on a disk, and on overlayfs, where
//! a file gets another inode when it is first written.
//!
//! The clock is passed in: some seconds after the edit, and now and then an hour, a year or ten years before or after.
//! Edits within one tick of the file system's own clock have tests of their own.
//!
//! `KCACHE_TORTURE=1` makes 100,000 edits instead of some thousands; `KCACHE_SEED=N` repeats a run. The seed is
//! printed with `--nocapture`, and on failure.

mod edits;

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use edits::{Dice, EDITS, Edit, Tree, plant};
use fs_err as fs;
use kcache_store::{Digest, Error, Store, TreeRoot, Waiting, tree_digest, walk};
use tempfile::TempDir;

/// The kind of memo of tree digests.
const KIND: &str = "tree 2";
const YEAR: i64 = 365 * 86400;

fn is_torture() -> bool {
    std::env::var_os("KCACHE_TORTURE").is_some()
}

fn seed() -> u64 {
    match std::env::var("KCACHE_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    }
}

#[expect(clippy::print_stderr, reason = "figures and what was left out, for who runs this with --nocapture")]
fn say(text: &str) {
    eprintln!("{text}");
}

fn clock() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// In memory if possible, because each remembered digest is a transaction.
fn store() -> (TempDir, Store) {
    let memory = Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let waiting = Waiting { limit: Duration::from_secs(60), print: &|_| () };
    let store = Store::open(dir.path(), &waiting).unwrap();
    (dir, store)
}

fn roots(tree: &Path) -> [TreeRoot; 1] {
    [TreeRoot {
        path: tree.to_owned(),
        label: "/usr/src/tree".to_owned(),
        skip: vec![".git".to_owned()],
        programs: false,
    }]
}

fn fresh(tree: &Path) -> Digest {
    tree_digest(None, &roots(tree), 0).unwrap()
}

fn is_remembered(store: &Store, tree: &Path) -> bool {
    store.memo(KIND, &walk(&roots(tree)).unwrap().signature()).unwrap().is_some()
}

/// Usually a few seconds from now, when nothing is racy any more; sometimes a clock that was changed.
fn some_time(dice: &mut Dice) -> u64 {
    let by = match dice.below(1000) {
        0 => 10 * YEAR,
        1..20 => YEAR,
        20..60 => 3600,
        60..80 => -3600,
        80..100 => -YEAR,
        100..120 => return 0,
        _ => 10,
    };
    clock().saturating_add_signed(by)
}

/// Counts of a run.
#[derive(Default)]
struct Figures {
    edits: usize,
    changed: usize,
    remembered: usize,
    stale: Vec<String>,
    impossible: usize,
}

impl Figures {
    fn say(&self, what: &str, seed: u64) {
        say(&format!(
            "{what}: {} edits, {} of which changed the digest; {} states remembered, {} stale, {} edits impossible here; KCACHE_SEED={seed}",
            self.edits,
            self.changed,
            self.remembered,
            self.stale.len(),
            self.impossible
        ));
    }

    #[track_caller]
    fn judge(&self, what: &str, seed: u64) {
        self.say(what, seed);
        assert!(self.stale.is_empty(), "{what}, KCACHE_SEED={seed}: stale after {}", self.stale.join(", "));
        assert!(self.changed * 2 > self.edits, "{what}: too few edits changed anything");
        assert!(self.remembered * 2 > self.edits, "{what}: too little was remembered to go stale");
    }
}

/// Makes `count` edits, and compares digests after each.
fn torment(store: &Store, tree: &mut Tree, count: usize, figures: &mut Figures) {
    let mut last = fresh(&tree.dir);
    for _ in 0..count {
        tree.wait_for_a_tick();
        let edit: &Edit = &EDITS[tree.dice.below(EDITS.len())];
        match (edit.make)(tree) {
            Ok(()) => figures.edits += 1,
            Err(_) => figures.impossible += 1,
        }
        let now = some_time(&mut tree.dice);
        let told = tree_digest(Some(store), &roots(&tree.dir), now).unwrap();
        let is = fresh(&tree.dir);
        if told != is {
            figures.stale.push(edit.name.to_owned());
        }
        figures.changed += usize::from(is != last);
        figures.remembered += usize::from(is_remembered(store, &tree.dir));
        last = is;
    }
}

fn torment_in(place: &str) {
    if !Path::new(place).is_dir() {
        return say(&format!("left out: there is no {place}"));
    }
    let dir = tempfile::tempdir_in(place).unwrap();
    let (_kept, store) = store();
    let seed = seed();
    plant(&dir.path().join("tree"), &mut Dice(seed));
    let mut tree = Tree::new(dir.path(), seed);
    let mut figures = Figures::default();
    torment(&store, &mut tree, if is_torture() { 50_000 } else { 1500 }, &mut figures);
    figures.judge(place, seed);
}

#[test]
fn every_edit_is_detected_in_memory() {
    torment_in("/dev/shm");
}

#[test]
fn every_edit_is_detected_on_disk() {
    torment_in("/var/tmp");
}

const IN_NAMESPACE: &str = "KCACHE_TEST_OVERLAY";

#[test]
fn every_edit_is_detected_on_overlayfs() {
    if !rustix::process::geteuid().is_root() {
        return say("left out: only root may mount overlayfs");
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let mut again = Command::new("unshare");
    again.args(["-m", "--propagation", "private"]).arg(std::env::current_exe().unwrap());
    again.args(["--exact", "in_a_namespace_of_its_own", "--nocapture"]).env(IN_NAMESPACE, dir.path());
    let output = again.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stdout));
    say(told.trim_end());
}

/// The part of the test above that mounts. Run by itself, it does nothing.
#[test]
fn in_a_namespace_of_its_own() {
    let Some(dir) = std::env::var_os(IN_NAMESPACE).map(PathBuf::from) else { return };
    let (_kept, store) = store();
    let (seed, mut figures) = (seed(), Figures::default());
    for round in 0..if is_torture() { 400 } else { 12 } {
        let place = dir.join(round.to_string());
        for name in ["lower", "upper", "work", "tree"] {
            fs::create_dir_all(place.join(name)).unwrap();
        }
        plant(&place.join("lower"), &mut Dice(seed + round));
        if !mount_overlay(&place) {
            return say("left out: overlayfs cannot be mounted here");
        }
        let mut tree = Tree::new(&place, seed + round);
        torment(&store, &mut tree, 50, &mut figures);
        drop(tree);
        assert!(Command::new("umount").arg(place.join("tree")).status().unwrap().success());
        fs::remove_dir_all(&place).unwrap();
    }
    figures.judge("overlayfs", seed);
}

/// Mounts an overlay of DIR/lower and the other directories on DIR/tree.
fn mount_overlay(place: &Path) -> bool {
    let dir = |name: &str| place.join(name).display().to_string();
    let options = format!("lowerdir={},upperdir={},workdir={}", dir("lower"), dir("upper"), dir("work"));
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "overlay", "-o", &options]).arg(place.join("tree"));
    mount.status().is_ok_and(|status| status.success())
}

/// With the real clock, and without waiting for the file system's clock between hashing and the next edit.
#[test]
fn edits_within_one_tick_are_hashed_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let (_kept, store) = store();
    let seed = seed();
    let mut dice = Dice(seed);
    let file = dir.path().join("tree/file");
    fs::create_dir(dir.path().join("tree")).unwrap();
    let stat =
        || fs::metadata(&file).map(|m| (m.ino(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec()));
    let (mut unseen, mut before) = (0, None);
    let rounds = if is_torture() { 20_000 } else { 1000 };
    for round in 0..rounds {
        fs::write(&file, dice.bytes(64)).unwrap();
        let after = stat().unwrap();
        unseen += usize::from(before == Some(after));
        before = Some(after);
        let told = tree_digest(Some(&store), &roots(&dir.path().join("tree")), clock()).unwrap();
        assert_eq!(told, fresh(&dir.path().join("tree")), "round {round}, KCACHE_SEED={seed}");
        assert!(!is_remembered(&store, &dir.path().join("tree")), "remembered too early");
    }
    say(&format!("{rounds} edits at once, {unseen} of which stat did not show; KCACHE_SEED={seed}"));
}

#[test]
fn an_edit_after_remembering_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let (_kept, store) = store();
    let mut tree = planted(dir.path());
    for _ in 0..if is_torture() { 10 } else { 1 } {
        while !is_remembered(&store, &tree.dir) {
            std::thread::sleep(Duration::from_millis(100));
            tree_digest(Some(&store), &roots(&tree.dir), clock()).unwrap();
        }
        let before = fresh(&tree.dir);
        edits::same_size_and_mtime(&mut tree).unwrap();
        assert_ne!(tree_digest(Some(&store), &roots(&tree.dir), clock()).unwrap(), before);
    }
}

fn planted(dir: &Path) -> Tree {
    let seed = seed();
    plant(&dir.join("tree"), &mut Dice(seed));
    Tree::new(dir, seed)
}

/// In a large file, the first byte of each page is overwritten, one after the other, with one letter and then with
/// another. A digest of a state that never existed is of pages that were read at different times.
#[test]
fn concurrent_edits_are_an_error_or_give_a_state_that_existed() {
    const PAGE: usize = 4096;
    const PAGES: usize = 64;
    let dir = tempfile::tempdir().unwrap();
    let (_kept, store) = store();
    let tree = planted(dir.path());
    let big = tree.dir.join("big");
    let state = |letters: [u8; 2], first: usize| {
        let mut text = vec![0; PAGES * PAGE];
        (0..PAGES).for_each(|page| text[page * PAGE] = letters[usize::from(page >= first)]);
        fs::write(&big, text).unwrap();
        fresh(&tree.dir)
    };
    let states: BTreeSet<String> = [*b"ab", *b"ba"]
        .iter()
        .flat_map(|letters| (0..=PAGES).map(|first| state(*letters, first).to_string()))
        .collect();
    let write_over = |letter: u8| {
        let file = fs::OpenOptions::new().write(true).open(&big).unwrap();
        (0..PAGES).for_each(|page| file.file().write_all_at(&[letter], (page * PAGE) as u64).unwrap());
    };
    let (done, mut told) = (AtomicBool::new(false), Vec::new());
    std::thread::scope(|threads| {
        threads.spawn(|| {
            b"ba"
                .iter()
                .cycle()
                .take_while(|_| !done.load(Ordering::Relaxed))
                .for_each(|letter| write_over(*letter));
        });
        for _ in 0..if is_torture() { 5000 } else { 300 } {
            told.push(tree_digest(Some(&store), &roots(&tree.dir), clock()));
        }
        done.store(true, Ordering::Relaxed);
    });
    let (mut whole, mut changed) = (0, 0);
    for told in told {
        match told {
            Ok(digest) => {
                assert!(states.contains(&digest.to_string()), "a digest of what never was");
                whole += 1;
            }
            Err(Error::Changed { path }) => {
                assert_eq!(path, big);
                changed += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    say(&format!("{whole} states that were, {changed} times said to have changed"));
    assert!(changed > 0, "nothing was raced");
    tree.wait_for_a_tick();
    assert_eq!(tree_digest(Some(&store), &roots(&tree.dir), clock() + 10).unwrap(), fresh(&tree.dir));
}
