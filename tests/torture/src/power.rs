//! Power cuts: what is on the disk at a call, and nothing of what was only in memory.
//!
//! Everything that runs change lies on a file system in an image, mounted through a loop device. At a call, with its process stopped,
//! the image is copied as it is, without unmounting or syncing; then all is killed. The copy has what the file system
//! had handed to its disk by then, and is mounted as after a power cut: its journal is replayed, and the checker looks at it. What
//! a disk does with writes that were handed to it and not flushed is not modelled: the copy has all of them, in order.
//!
//! A file system may have written more than it was asked to, so that a forgotten fsync does no harm by luck. Two variants
//! make the luck another one: before the copy, somebody else's file is synced (which commits the journal, with names whose
//! contents have not been written), or one of kcache's own files is (its data, without the others').

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::calls::{Call, Kind};
use crate::check::look;
use crate::room::{Room, clear, succeed, unmount};
use crate::scenario::Scenario;
use crate::sweep::{Pick, judge_state, retry};
use crate::tally::{Column, Tally, Wrong};
use crate::tracer::{Act, run};

/// A file system, how it is made, and in how small an image it can be (`mkfs` refuses less).
pub struct FileSystem {
    pub name: &'static str,
    pub column: Column,
    mkfs: &'static [&'static str],
    mebibytes: u64,
}

pub static FILE_SYSTEMS: [FileSystem; 3] = [
    FileSystem { name: "ext4", column: Column::Ext4, mkfs: &["mkfs.ext4", "-q", "-F"], mebibytes: 64 },
    FileSystem { name: "xfs", column: Column::Xfs, mkfs: &["mkfs.xfs", "-q", "-f"], mebibytes: 300 },
    FileSystem { name: "btrfs", column: Column::Btrfs, mkfs: &["mkfs.btrfs", "-q", "-f"], mebibytes: 128 },
];

/// What happens just before the cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    Nothing,
    /// Another file on the same file system is synced.
    UnrelatedFsync,
    /// The file that was written last gets its data synced.
    Fdatasync,
}

pub const VARIANTS: [Before; 3] = [Before::Nothing, Before::UnrelatedFsync, Before::Fdatasync];

/// Images of one file system.
pub struct Disk<'a> {
    room: &'a Room,
    dir: PathBuf,
}

impl<'a> Disk<'a> {
    /// Makes an empty one, and sees that a copy of a mounted image loses what was not synced, and nothing else.
    pub fn make(room: &'a Room, kind: &FileSystem) -> io::Result<Disk<'a>> {
        let disk = Disk { room, dir: room.dir().join(format!("disk-{}", kind.name)) };
        fs_err::create_dir_all(&disk.dir)?;
        let image = disk.image("empty");
        fs_err::File::create(&image)?.set_len(kind.mebibytes << 20)?;
        succeed(
            Command::new(kind.mkfs[0])
                .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
                .args(&kind.mkfs[1..])
                .arg(&image),
        )?;
        disk.test_itself()?;
        Ok(disk)
    }

    /// Cuts the power before each call of a run, and once after it has ended.
    pub fn cuts(&self, scenario: &Scenario, pick: Pick, before: Before, tally: &mut Tally) -> io::Result<()> {
        self.prepare(scenario)?;
        for number in pick.numbers() {
            let Some(call) = self.cut(scenario, number, before)? else {
                return self.judge(scenario, &format!("{before:?}, after exit 0"), true, tally);
            };
            self.judge(scenario, &format!("{before:?} at {number}, {call}"), false, tally)?;
        }
        Ok(())
    }

    /// Runs until the call and copies the image there; if the run ends before, after that.
    fn cut(&self, scenario: &Scenario, number: usize, before: Before) -> io::Result<Option<Call>> {
        self.copy("ready", "used")?;
        self.mount("used")?;
        scenario.write(self.room)?;
        let (mut hit, mut written, mut failed) = (None, None, None);
        run(&scenario.command(self.room, &scenario.words), &self.room.watched(), |n, call| {
            if n == number {
                failed = self.lose_power(before, written.as_deref()).err();
                hit = Some(call.clone());
                return Act::Kill;
            }
            if call.kind == Kind::Write {
                written = Some(call.path.clone());
            }
            Act::Go
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if hit.is_none() {
            self.copy("used", "cut")?;
        }
        self.unmount()?;
        Ok(hit)
    }

    fn lose_power(&self, before: Before, written: Option<&Path>) -> io::Result<()> {
        match before {
            Before::Nothing => {}
            Before::UnrelatedFsync => {
                let file = fs_err::File::create(self.room.live().join("unrelated"))?;
                file.sync_all()?;
            }
            // It may have been renamed or deleted since.
            Before::Fdatasync => {
                if let Some(Ok(file)) = written.map(fs_err::File::open) {
                    file.sync_data()?;
                }
            }
        }
        self.copy("used", "cut")
    }

    /// Looks at what a power cut has left.
    fn judge(&self, scenario: &Scenario, at: &str, ended: bool, tally: &mut Tally) -> io::Result<()> {
        tally.ran();
        if let Err(error) = self.mount("cut") {
            tally.wrong(Wrong::Inconsistent, at, &format!("cannot be mounted: {error}"));
            return Ok(());
        }
        let found = look(&self.room.places);
        judge_state(scenario, &found, at, tally);
        if ended && found.state != scenario.new {
            tally.wrong(Wrong::Untrue, at, &format!("{:?}", found.state));
        }
        retry(self.room, scenario, &found.state, at, tally)?;
        self.unmount()
    }

    /// An image with the scenario's state, all of it on the disk.
    fn prepare(&self, scenario: &Scenario) -> io::Result<()> {
        self.copy("empty", "ready")?;
        self.mount_alone("ready")?;
        self.room.fill(&scenario.before)?;
        unmount(&self.room.live())
    }

    fn test_itself(&self) -> io::Result<()> {
        self.copy("empty", "used")?;
        self.mount_alone("used")?;
        let [lost, kept] = ["lost", "kept"].map(|name| self.room.live().join(name));
        fs_err::write(&kept, "kept")?;
        fs_err::File::open(&kept)?.sync_all()?;
        fs_err::File::open(self.room.live())?.sync_all()?;
        fs_err::write(&lost, "lost")?;
        self.copy("used", "cut")?;
        unmount(&self.room.live())?;
        self.mount_alone("cut")?;
        let found = [kept, lost].map(|path| fs_err::read(path).unwrap_or_default());
        unmount(&self.room.live())?;
        if found != [b"kept".to_vec(), Vec::new()] {
            return Err(io::Error::other(format!("a copy of a mounted image has {found:?}")));
        }
        Ok(())
    }

    fn image(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.img"))
    }

    fn copy(&self, from: &str, to: &str) -> io::Result<()> {
        let mut cp = Command::new("cp");
        cp.args(["--sparse=always", "--reflink=auto"]).arg(self.image(from)).arg(self.image(to));
        succeed(&mut cp).map(drop)
    }

    fn mount(&self, name: &str) -> io::Result<()> {
        self.mount_alone(name)?;
        self.room.bind()
    }

    fn mount_alone(&self, name: &str) -> io::Result<()> {
        succeed(Command::new("mount").args(["-o", "loop"]).arg(self.image(name)).arg(self.room.live()))
            .map(drop)
    }

    fn unmount(&self) -> io::Result<()> {
        self.room.unbind()?;
        unmount(&self.room.live())
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        let _ = clear(&self.dir);
    }
}
