//! The edited tree, and the edits.
//!
//! All files have the same size and mtime, so neither reveals an edit.

use std::fs::FileTimes;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime};

use fs_err as fs;
use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, renameat_with, utimensat};

const DIRS: usize = 4;
const FILES: usize = 6;
const SIZE: usize = 64;
/// The mtime of all files, in seconds since 1970.
const MTIME: u64 = 1_000_000_000;

/// Reproducible random numbers (splitmix64).
pub struct Dice(pub u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        n ^ (n >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.next() as u8).collect()
    }
}

/// Creates the tree: directories of files, each with a link.
pub fn plant(tree: &Path, dice: &mut Dice) {
    for dir in (0..DIRS).map(|n| tree.join(format!("d{n}"))) {
        fs::create_dir_all(&dir).unwrap();
        for file in (0..FILES).map(|n| dir.join(format!("f{n}"))) {
            fs::write(&file, dice.bytes(SIZE)).unwrap();
            set_mtime(&file, MTIME).unwrap();
        }
        std::os::unix::fs::symlink("f0", dir.join("link")).unwrap();
    }
}

/// A tree, and a path beside it for drafts.
pub struct Tree {
    pub dir: PathBuf,
    pub dice: Dice,
    draft: PathBuf,
    probe: PathBuf,
    mapper: Option<Mapper>,
}

impl Tree {
    /// Wraps DIR/tree, which must exist.
    pub fn new(dir: &Path, seed: u64) -> Tree {
        let dir = dir.join("tree");
        let (draft, probe) = (dir.join(".git-draft"), dir.join(".git"));
        fs::write(&probe, "").unwrap();
        Tree { dir, dice: Dice(seed), draft, probe, mapper: Mapper::start() }
    }

    /// Returns when the file system's clock has advanced. Files named .git are not part of the tree.
    pub fn wait_for_a_tick(&self) {
        let stamp = || {
            fs::write(&self.probe, "tick").unwrap();
            let metadata = fs::metadata(&self.probe).unwrap();
            (metadata.ctime(), metadata.ctime_nsec())
        };
        let start = stamp();
        while stamp() == start {}
    }

    fn some_dir(&mut self) -> PathBuf {
        self.dir.join(format!("d{}", self.dice.below(DIRS)))
    }

    fn some_file(&mut self) -> PathBuf {
        self.some_dir().join(format!("f{}", self.dice.below(FILES)))
    }

    /// Creates a file with the common size and mtime, to be renamed into the tree.
    fn draft(&mut self) -> io::Result<&Path> {
        fs::write(&self.draft, self.dice.bytes(SIZE))?;
        set_mtime(&self.draft, MTIME)?;
        Ok(&self.draft)
    }
}

/// A way to edit a tree.
pub struct Edit {
    pub name: &'static str,
    pub make: fn(&mut Tree) -> io::Result<()>,
}

pub const EDITS: [Edit; 11] = [
    Edit { name: "same size and mtime", make: same_size_and_mtime },
    Edit { name: "rename over", make: rename_over },
    Edit { name: "inode reuse", make: inode_reuse },
    Edit { name: "mtime in the future", make: future },
    Edit { name: "two files swapped", make: swap_files },
    Edit { name: "a hard link in the place of a file", make: swap_by_links },
    Edit { name: "two directories swapped", make: swap_dirs },
    Edit { name: "executable or not", make: chmod },
    Edit { name: "link led elsewhere", make: retarget },
    Edit { name: "through a mapping", make: map },
    Edit { name: "undone", make: undone },
];

pub fn same_size_and_mtime(tree: &mut Tree) -> io::Result<()> {
    let (file, bytes) = (tree.some_file(), tree.dice.bytes(SIZE));
    overwrite(&file, &bytes)
}

fn overwrite(file: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(file)?.file().write_all_at(bytes, 0)?;
    set_mtime(file, MTIME)
}

fn rename_over(tree: &mut Tree) -> io::Result<()> {
    let file = tree.some_file();
    fs::rename(tree.draft()?, file)
}

/// Deletes and creates files until an inode number is reused, up to a limit.
fn inode_reuse(tree: &mut Tree) -> io::Result<()> {
    let (file, bytes) = (tree.some_file(), tree.dice.bytes(SIZE));
    let inode = fs::metadata(&file)?.ino();
    for _ in 0..10 {
        fs::remove_file(&file)?;
        fs::write(&file, &bytes)?;
        if fs::metadata(&file)?.ino() == inode {
            break;
        }
    }
    set_mtime(&file, MTIME)
}

fn future(tree: &mut Tree) -> io::Result<()> {
    let (file, bytes) = (tree.some_file(), tree.dice.bytes(SIZE));
    overwrite(&file, &bytes)?;
    let later = tree.dice.below(1000) as u64 + 5;
    set_mtime(&file, SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs() + later)?;
    // Usually set back at once, otherwise the tree would be racy for the rest of the run.
    if tree.dice.below(10) > 0 { set_mtime(&file, MTIME) } else { Ok(()) }
}

fn swap_files(tree: &mut Tree) -> io::Result<()> {
    let (one, other) = (tree.some_file(), tree.some_file());
    exchange(&one, &other)
}

fn swap_by_links(tree: &mut Tree) -> io::Result<()> {
    let (from, to) = (tree.some_file(), tree.some_file());
    if from == to {
        return Ok(());
    }
    let spare = tree.dir.join(".git-draft");
    fs::hard_link(&from, &spare)?;
    // Two names of one file are left unchanged.
    fs::rename(&spare, &to)?;
    match fs::remove_file(spare) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => rename_over_this(tree, &from),
    }
}

/// The other name gets other bytes, so that the tree does not end as one file with many names.
fn rename_over_this(tree: &mut Tree, file: &Path) -> io::Result<()> {
    fs::rename(tree.draft()?, file)
}

fn swap_dirs(tree: &mut Tree) -> io::Result<()> {
    let (one, other) = (tree.some_dir(), tree.some_dir());
    exchange(&one, &other)
}

fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    if one == other {
        return Ok(());
    }
    Ok(renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE)?)
}

fn chmod(tree: &mut Tree) -> io::Result<()> {
    let file = tree.some_file();
    let mode = fs::metadata(&file)?.permissions().mode() ^ 0o100;
    fs::set_permissions(file, PermissionsExt::from_mode(mode))
}

fn retarget(tree: &mut Tree) -> io::Result<()> {
    let link = tree.some_dir().join("link");
    let target = format!("f{}", tree.dice.below(FILES));
    fs::remove_file(&link)?;
    std::os::unix::fs::symlink(target, &link)?;
    let time = Timespec { tv_sec: MTIME as i64, tv_nsec: 0 };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, &link, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

fn map(tree: &mut Tree) -> io::Result<()> {
    let (file, place, byte) = (tree.some_file(), tree.dice.below(SIZE), tree.dice.below(256));
    tree.mapper.as_mut().ok_or(io::ErrorKind::Unsupported)?.store(&file, place, byte as u8)?;
    set_mtime(&file, MTIME)
}

/// Makes a change and undoes it, without hashing in between: the digest is the same, and may be remembered or not.
fn undone(tree: &mut Tree) -> io::Result<()> {
    let file = tree.some_file();
    let before = fs::read(&file)?;
    same_size_and_mtime(tree)?;
    overwrite(&file, &before)
}

fn set_mtime(file: &Path, seconds: u64) -> io::Result<()> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let file = fs::OpenOptions::new().read(true).open(file)?;
    file.file().set_times(FileTimes::new().set_accessed(time).set_modified(time))
}

/// A Python program that stores single bytes through memory mappings, which safe Rust cannot do.
struct Mapper {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

const PROGRAM: &str = r#"
import mmap, os, sys
for line in sys.stdin:
    path, place, byte = line.rstrip("\n").split("\t")
    file = os.open(path, os.O_RDWR)
    with mmap.mmap(file, 0) as memory:
        os.close(file)
        memory[int(place):int(place) + 1] = bytes([int(byte)])
    print(flush=True)
"#;

impl Mapper {
    /// `None` if there is no Python.
    fn start() -> Option<Mapper> {
        let mut python = Command::new("python3");
        let python = python.args(["-c", PROGRAM]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = python.spawn().ok()?;
        let (to, from) = (child.stdin.take()?, child.stdout.take()?);
        Some(Mapper { child, to, from: BufReader::new(from) })
    }

    fn store(&mut self, file: &Path, place: usize, byte: u8) -> io::Result<()> {
        writeln!(self.to, "{}\t{place}\t{byte}", file.display())?;
        self.to.flush()?;
        match self.from.read_line(&mut String::new())? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
