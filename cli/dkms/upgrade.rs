//! `--rpm_safe_upgrade`: if a package is upgraded to another release of the same version, its new `%post` adds the module
//! before its old `%preun` removes it. That removal must do nothing.
//!
//! `add` records its caller beside the DKMS record, and `remove` checks whether it has the same one, the same run of rpm: the
//! parent of the scriptlet's shell, by process id and start time. A note of another run is ignored, and is deleted with the
//! record.

use std::sync::OnceLock;

use fs_err as fs;
use kcache::kernel::bounded_read;
use kcache::kernel::dkms::Version;
use kcache::kernel::rootfs::put;

use super::DkmsError;
use super::place::Place;
use crate::confined;

const NOTE: &str = "rpm_safe_upgrade";
/// Two numbers.
const MOST_NOTE: u64 = 100;
/// Fields of /proc/PID/stat after the program's name (proc(5)): the parent, and the time of start.
const PARENT: usize = 1;
const START: usize = 19;

/// Notes that this run has added a version.
pub fn note(place: &Place, what: &Version) -> Result<(), DkmsError> {
    let note = place.records.place(what).join(NOTE);
    Ok(put(&note, see_caller().unwrap_or_default().as_bytes())?)
}

/// Whether this run has added a version. It is told once.
pub fn is_upgrade(place: &Place, what: &Version) -> bool {
    let note = place.records.place(what).join(NOTE);
    let noted = bounded_read::bytes(&note, MOST_NOTE).ok();
    let same = noted.is_some_and(|noted| see_caller().is_some_and(|caller| caller.as_bytes() == noted));
    same && fs::remove_file(note).is_ok()
}

/// Finds out who has called us, while `/proc` is still this machine's: later it may be a namespace's of its own.
pub fn see_caller() -> Option<&'static str> {
    static CALLER: OnceLock<Option<String>> = OnceLock::new();
    CALLER.get_or_init(|| caller(&confined::number().to_string())).as_deref()
}

/// The process above the one that has started this one.
fn caller(process: &str) -> Option<String> {
    let shell = field(process, PARENT)?;
    let rpm = field(&shell, PARENT)?;
    Some(format!("{rpm} {}\n", field(&rpm, START)?))
}

fn field(process: &str, at: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name is in parentheses and may hold spaces.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(at).map(str::to_owned)
}
