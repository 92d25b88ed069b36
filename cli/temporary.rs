//! Where temporary files are created.

use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache::store::Exposed;

use crate::exit::Failure;
use crate::out::Out;

/// Where the environment says, unless root would make them where somebody else can put other
/// things in their place. A variable of a user's survives `su`, and Debian's libpam-tmpdir gives each a directory of their own.
pub fn temporary(wanted: &Path, out: &Out) -> Result<PathBuf, Failure> {
    if !rustix::process::geteuid().is_root() {
        return Ok(wanted.to_owned());
    }
    let mut first = None;
    for dir in [wanted, Path::new("/tmp"), Path::new("/var/tmp")] {
        let real = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
        let exposed = match Exposed::above(&dir.join("file"))? {
            None => Exposed::above(&real.join("file"))?,
            exposed => exposed,
        };
        match (exposed, &first) {
            (None, None) => return Ok(dir.to_owned()),
            (None, Some(reason)) => {
                out.warn(&format!("using {} for temporary files: {reason}", dir.display()));
                return Ok(dir.to_owned());
            }
            (Some(exposed), _) => first = first.or(Some(exposed.to_string())),
        }
    }
    Err(Failure::usage(format!("no directory for temporary files: {}", first.unwrap_or_default()), None))
}
