//! Full disks: everything that runs change lies on a tmpfs that has room for so many more pages, or files.
//!
//! tmpfs counts in pages of 4 KiB, and its inodes, so each size is one place at which a run meets the end. The sweep begins
//! with a disk on which nothing fits any more and ends with the first on which the run succeeds a few times in a row.
//! depmod is what meets the end most often: it writes the largest files.

use std::io;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::check::look;
use crate::room::{Room, unmount};
use crate::scenario::Scenario;
use crate::sweep::{Pick, judge_ending, judge_state, retry};
use crate::tally::Tally;
use crate::tracer::{Act, run};

/// What there is too little of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    Pages,
    Inodes,
}

pub const LACKS: [Lack; 2] = [Lack::Pages, Lack::Inodes];

/// After so many sizes in a row at which a run succeeds, it always will.
const ENOUGH: usize = 3;
/// So many sizes are too small for most scenarios.
pub const USUAL: usize = 60;

/// Gives a command more and more room until it succeeds.
pub fn sweep(room: &Room, scenario: &Scenario, lack: Lack, pick: Pick, tally: &mut Tally) -> io::Result<()> {
    let mut succeeded = 0;
    for more in pick.numbers().map(|number| number - 1) {
        let at = format!("{more} {lack:?} left");
        tally.ran();
        mount_limited(room, None)?;
        room.fill(&scenario.before)?;
        scenario.write(room)?;
        mount_limited(room, Some((lack, more)))?;
        room.bind()?;
        let ended = run(&scenario.command(room, &scenario.words), &room.watched(), |_, _| Act::Go)?;
        let found = look(&room.places);
        judge_state(scenario, &found, &at, tally);
        judge_ending(scenario, &ended, &found.state, Errno::ENOSPC, &at, tally);
        mount_limited(room, None)?;
        retry(room, scenario, &found.state, &at, tally)?;
        room.unbind()?;
        unmount(&room.live())?;
        succeeded = if ended.code == Some(0) { succeeded + 1 } else { 0 };
        if succeeded == ENOUGH {
            break;
        }
    }
    Ok(())
}

/// Mounts a tmpfs without limits where there is none yet, or changes the limits of the one there is.
fn mount_limited(room: &Room, limit: Option<(Lack, usize)>) -> io::Result<()> {
    let live = room.live();
    let used = nix::sys::statvfs::statvfs(&live)?;
    let pages = used.blocks() - used.blocks_free();
    let inodes = used.files() - used.files_free();
    let options = match limit {
        None => "mode=755,size=1g,nr_inodes=100k".to_owned(),
        Some((Lack::Pages, more)) => format!("size={}", (pages + more as u64) * used.fragment_size()),
        Some((Lack::Inodes, more)) => format!("nr_inodes={}", inodes + more as u64),
    };
    let is_mounted = fs_err::read_to_string("/proc/self/mounts")?.contains(&format!(" {} ", live.display()));
    let flags = if is_mounted { MsFlags::MS_REMOUNT } else { MsFlags::empty() };
    Ok(mount(Some("tortured"), &live, Some("tmpfs"), flags, Some(options.as_str()))?)
}
