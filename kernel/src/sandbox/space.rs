//! Limiting a build's disk usage: measured while it runs; the build is killed when it exceeds its limit.
//!
//! The kernel has no limit on what processes write to a directory together, except quotas, which few systems enable.
//! So a thread reads the file system's usage every [`TICK`] (statvfs(2)), which costs nothing. The growth since the
//! build's directories were last walked is the most that they can have grown, unless another process deleted something
//! meanwhile. When they could exceed their limit they are walked, and occasionally in any case. So builds that stay
//! far below their limits are hardly ever walked.
//!
//! ```text
//! bytes, files   found by the walk in directories that the build can write, and in deleted files that it holds open
//! room           must stay free on the file system, whoever uses it: part of what was free when the build began
//! memory         files in the sandbox's /tmp and /dev/shm, whose size in bytes the kernel limits
//! ```
//!
//! This is a measurement, not a hard limit: what a build writes within a tick, or during a walk, is written. A file
//! that exists only in transit through a socket is not found; then the room is the limit. A walk uses at most
//! [`DEEPEST`] descriptors and goes no deeper: for a deeper build, the growth of the file system counts.

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use std::{io, thread};

use fs_err as fs;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, fstatvfs, openat2, stat, statat};
use rustix::process::Pid;

use super::Limits;

/// Interval at which the file system's usage is read. A fast disk takes some 500 MiB in that time.
const TICK: Duration = Duration::from_millis(250);

/// Longest interval between walks, which is also at least so many times the duration of a walk.
const SELDOM: Duration = Duration::from_secs(10);
const PAUSE: u32 = 20;

/// Limit on nested directories in a walk. Kernels' sources have ten.
const DEEPEST: usize = 64;

/// Space that must stay free on a file system, or half of what was free at the beginning if that is less.
const ROOM: Used = Used { bytes: 1 << 30, files: 10_000 };

/// Directories in memory that a build can write.
const MEMORY: [&str; 2] = ["tmp", "dev/shm"];

/// The limit that a build exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// Bytes on disk ([`Limits::disk`]).
    Bytes,
    /// Files and directories, on disk or in memory ([`Limits::files`]).
    Files,
    /// The file system has less than this much free space.
    Room {
        /// Free bytes required.
        bytes: u64,
        /// Free files and directories required.
        files: u64,
    },
}

/// An amount used, or a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Used {
    bytes: u64,
    files: u64,
}

impl Used {
    fn plus(self, other: Used) -> Used {
        Used { bytes: self.bytes.saturating_add(other.bytes), files: self.files.saturating_add(other.files) }
    }

    /// Which of two limits it exceeds.
    fn over(self, limits: Used) -> Option<Excess> {
        let bytes = (self.bytes > limits.bytes).then_some(Excess::Bytes);
        bytes.or((self.files > limits.files).then_some(Excess::Files))
    }
}

/// Measures a sandbox until it is dropped.
pub(super) struct Meter {
    excess: Arc<OnceLock<Excess>>,
    over: Arc<AtomicBool>,
    _end: Sender<()>,
}

impl Meter {
    /// Measures what a sandbox writes to these directories. `first` is its first process.
    pub(super) fn start(places: Vec<PathBuf>, limits: &Limits, first: Pid) -> io::Result<Meter> {
        let system = places.first().map(|place| directory(place)).transpose()?;
        let memory = MEMORY.iter().filter_map(|place| {
            directory(&PathBuf::from(format!("/proc/{}/root/{place}", first.as_raw_pid()))).ok()
        });
        let (over, excess) = (Arc::new(AtomicBool::new(false)), Arc::new(OnceLock::new()));
        let mut gauge = Gauge {
            limits: Used { bytes: limits.disk, files: limits.files },
            places,
            first,
            memory: memory.collect(),
            over: over.clone(),
            found: Used::default(),
            grown: Used::default(),
            before: None,
            room: ROOM,
            walked: Instant::now(),
            pause: TICK,
        };
        let (end, ended) = channel::<()>();
        let found = excess.clone();
        let watch = move || {
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                // If a file system does not answer, the build itself will notice.
                if let Ok(Some(excess)) = gauge.look(system.as_ref()) {
                    let _ = found.set(excess);
                    return;
                }
            }
        };
        thread::Builder::new().name("space".to_owned()).spawn(watch)?;
        Ok(Meter { excess, over, _end: end })
    }

    /// The limit that was exceeded, if any.
    pub(super) fn excess(&self) -> Option<Excess> {
        self.excess.get().copied()
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

struct Gauge {
    limits: Used,
    places: Vec<PathBuf>,
    first: Pid,
    memory: Vec<OwnedFd>,
    /// Set when the measurement is to end.
    over: Arc<AtomicBool>,
    /// Result of the last walk.
    found: Used,
    /// Growth of the file system since then.
    grown: Used,
    /// Usage of the file system when it was last read.
    before: Option<Used>,
    room: Used,
    walked: Instant,
    pause: Duration,
}

impl Gauge {
    fn look(&mut self, system: Option<&OwnedFd>) -> io::Result<Option<Excess>> {
        for place in &self.memory {
            if state(place)?.0.files > self.limits.files {
                return Ok(Some(Excess::Files));
            }
        }
        let Some(system) = system else { return Ok(None) };
        let (used, free) = state(system)?;
        match self.before.replace(used) {
            None => {
                self.room.bytes = self.room.bytes.min(free.bytes / 2);
                self.room.files = self.room.files.min(free.files / 2);
            }
            Some(before) => {
                self.grown = self.grown.plus(Used {
                    bytes: used.bytes.saturating_sub(before.bytes),
                    files: used.files.saturating_sub(before.files),
                });
            }
        }
        let counts_files = used.files + free.files > 0; // btrfs has no fixed number
        if free.bytes < self.room.bytes || counts_files && free.files < self.room.files {
            return Ok(Some(Excess::Room { bytes: self.room.bytes, files: self.room.files }));
        }
        let may_be_over = self.found.plus(self.grown).over(self.limits);
        let since = self.walked.elapsed();
        if since < self.pause || may_be_over.is_none() && since < SELDOM {
            return Ok(None);
        }
        Ok(self.walk(may_be_over))
    }

    /// Walks the directories; `suspected` is the limit that they may exceed.
    fn walk(&mut self, suspected: Option<Excess>) -> Option<Excess> {
        let start = Instant::now();
        let mut walk = Walk {
            most: self.limits,
            over: &self.over,
            used: Used::default(),
            known: HashSet::new(),
            all: true,
        };
        self.places.iter().for_each(|place| walk.place(place));
        if suspected.is_some() {
            walk.deleted(self.first, &self.places);
        }
        let (used, all) = (walk.used, walk.all);
        let excess = used.over(self.limits).or(suspected.filter(|_| !all));
        (self.found, self.grown) = (used, Used::default());
        self.walked = Instant::now();
        self.pause = TICK.max(PAUSE * start.elapsed());
        excess
    }
}

/// Whether a directory that a build left contains more bytes or files than this, or cannot be walked completely.
pub fn holds_more(directory: &Path, bytes: u64, files: u64) -> bool {
    let (most, never) = (Used { bytes, files }, AtomicBool::new(false));
    let mut walk = Walk { most, over: &never, used: Used::default(), known: HashSet::new(), all: true };
    walk.place(directory);
    walk.used.over(most).is_some() || !walk.all
}

/// What is used of a file system, and what is free for unprivileged users.
fn state(of: impl AsFd) -> io::Result<(Used, Used)> {
    let state = fstatvfs(of)?;
    let bytes = |blocks: u64| blocks.saturating_mul(state.f_frsize);
    Ok((
        Used {
            bytes: bytes(state.f_blocks.saturating_sub(state.f_bfree)),
            files: state.f_files.saturating_sub(state.f_ffree),
        },
        Used { bytes: bytes(state.f_bavail), files: state.f_favail },
    ))
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

fn is_enough(over: &AtomicBool, used: Used, most: Used) -> bool {
    over.load(Ordering::Relaxed) || used.over(most).is_some()
}

/// A walk of all directories, which ends as soon as a limit is exceeded.
struct Walk<'a> {
    most: Used,
    over: &'a AtomicBool,
    used: Used,
    /// Files with several names, which count once.
    known: HashSet<(u64, u64)>,
    /// Whether nothing was skipped.
    all: bool,
}

impl Walk<'_> {
    fn add(&mut self, file: &rustix::fs::Stat) {
        if file.st_nlink < 2
            || FileType::from_raw_mode(file.st_mode) == FileType::Directory
            || self.known.insert((file.st_dev, file.st_ino))
        {
            self.used = self.used.plus(Used { bytes: (file.st_blocks as u64).saturating_mul(512), files: 1 });
        }
    }

    /// Walks a directory through open descriptors, without following links.
    fn place(&mut self, path: &Path) {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(path, flags, Mode::empty()).and_then(Dir::new);
        let mut open: Vec<Dir> = opened.into_iter().collect();
        while let Some(dir) = open.last_mut() {
            if is_enough(self.over, self.used, self.most) {
                return;
            }
            let Some(Ok(entry)) = dir.read() else {
                open.pop();
                continue;
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            // Files that disappeared meanwhile do not count.
            let Ok(file) = dir.fd().and_then(|fd| statat(fd, name, AtFlags::SYMLINK_NOFOLLOW)) else {
                continue;
            };
            self.add(&file);
            if FileType::from_raw_mode(file.st_mode) != FileType::Directory {
                continue;
            }
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let below =
                dir.fd().and_then(|fd| openat2(fd, name, flags, Mode::empty(), resolve)).and_then(Dir::new);
            let is_gone = matches!(&below, Err(e) if *e == rustix::io::Errno::NOENT);
            match below.ok().filter(|_| open.len() < DEEPEST) {
                Some(below) => open.push(below),
                None => self.all &= is_gone,
            }
        }
    }

    /// Counts deleted files that processes of the sandbox have open or mapped.
    fn deleted(&mut self, first: Pid, places: &[PathBuf]) {
        let devices: HashSet<u64> =
            places.iter().filter_map(|place| Some(stat(place).ok()?.st_dev)).collect();
        let namespace = |pid: &Path| fs::read_link(pid.join("ns/pid")).ok();
        let Some(own) = namespace(&PathBuf::from(format!("/proc/{}", first.as_raw_pid()))) else { return };
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let process = entry.path();
            let is_process = entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit);
            if !is_process || namespace(&process).as_ref() != Some(&own) {
                continue;
            }
            for files in ["fd", "map_files"] {
                for held in fs::read_dir(process.join(files)).into_iter().flatten().flatten() {
                    if is_enough(self.over, self.used, self.most) {
                        return;
                    }
                    let Ok(file) = stat(held.path()) else { continue };
                    let mut is_new = || self.known.insert((file.st_dev, file.st_ino));
                    if file.st_nlink == 0 && devices.contains(&file.st_dev) && is_new() {
                        self.add(&file);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    const PLENTY: Used = Used { bytes: u64::MAX, files: u64::MAX };

    fn walked(place: &Path, most: Used) -> (Used, bool) {
        let over = AtomicBool::new(false);
        let mut walk = Walk { most, over: &over, used: Used::default(), known: HashSet::new(), all: true };
        walk.place(place);
        (walk.used, walk.all)
    }

    fn file(path: &Path, bytes: usize) {
        fs::write(path, vec![1; bytes]).unwrap();
    }

    #[test]
    fn holes_and_hard_links_use_no_space_and_links_are_not_followed() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        file(&elsewhere.path().join("file"), 8 << 20);
        std::os::unix::fs::symlink(elsewhere.path(), dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        file(&dir.path().join("sub/a"), 1 << 20);
        fs::hard_link(dir.path().join("sub/a"), dir.path().join("b")).unwrap();
        let sparse = fs::File::create(dir.path().join("sparse")).unwrap();
        sparse.file().write_all_at(b"end", 1 << 30).unwrap();
        let (used, all) = walked(dir.path(), PLENTY);
        assert_eq!((used.files, all), (4, true));
        assert!((1 << 20..2 << 20).contains(&used.bytes), "{used:?}");
    }

    #[test]
    fn a_walk_ends_above_the_limit_and_reports_skipped_parts() {
        let dir = tempfile::tempdir().unwrap();
        (0..100).for_each(|n| file(&dir.path().join(n.to_string()), 1));
        assert_eq!(walked(dir.path(), Used { files: 20, ..PLENTY }).0.files, 21);
        let mut below = dir.path().to_owned();
        for depth in 0..DEEPEST {
            assert!(walked(dir.path(), PLENTY).1, "{depth}");
            below.push("d");
            fs::create_dir(&below).unwrap();
        }
        assert!(!walked(dir.path(), PLENTY).1);
        assert_eq!(walked(&dir.path().join("none"), PLENTY), (Used::default(), true));
        assert!(holds_more(dir.path(), u64::MAX, u64::MAX), "what is not seen is not known to be little");
        fs::remove_dir_all(dir.path().join("d")).unwrap();
        let limits = [(u64::MAX, 100), (u64::MAX, 99), (4096, u64::MAX)];
        assert_eq!(limits.map(|(bytes, files)| holds_more(dir.path(), bytes, files)), [false, true, true]);
    }

    fn gauge(dir: &Path, limits: Used) -> Gauge {
        Gauge {
            limits,
            places: vec![dir.to_owned()],
            first: rustix::process::getpid(),
            memory: Vec::new(),
            over: Arc::new(AtomicBool::new(false)),
            found: Used::default(),
            grown: Used::default(),
            before: None,
            room: ROOM,
            walked: Instant::now(),
            pause: Duration::ZERO,
        }
    }

    #[test]
    fn growth_of_the_file_system_causes_a_walk_that_decides() {
        let dir = tempfile::tempdir().unwrap();
        let system = directory(dir.path()).unwrap();
        let mut gauge = gauge(dir.path(), Used { bytes: 4 << 20, ..PLENTY });
        assert_eq!(gauge.look(Some(&system)).unwrap(), None);
        file(&dir.path().join("a"), 3 << 20);
        gauge.grown.bytes = 5 << 20; // partly by another process
        assert_eq!(gauge.look(Some(&system)).unwrap(), None);
        assert!((3 << 20..4 << 20).contains(&gauge.found.bytes), "{:?}", gauge.found);
        file(&dir.path().join("b"), 3 << 20);
        (gauge.grown.bytes, gauge.pause) = (3 << 20, Duration::ZERO);
        assert_eq!(gauge.look(Some(&system)).unwrap(), Some(Excess::Bytes));
    }

    #[test]
    fn free_space_is_reserved_whoever_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let system = directory(dir.path()).unwrap();
        let mut gauge = gauge(dir.path(), PLENTY);
        assert_eq!(gauge.look(Some(&system)).unwrap(), None);
        let free = state(&system).unwrap().1;
        assert!(gauge.room.bytes <= ROOM.bytes.min(free.bytes / 2 + (1 << 30)), "{:?}", gauge.room);
        gauge.room.bytes = u64::MAX;
        let files = gauge.room.files;
        assert_eq!(gauge.look(Some(&system)).unwrap(), Some(Excess::Room { bytes: u64::MAX, files }));
    }
}
