//! Files that are written for others to read: they have their name when they are whole, and are on stable storage.
//!
//! A draft lies beside the file until then, as `FILE.PID.part`. What is interrupted leaves the old file, and sometimes a draft;
//! of two runs at once the later one's file stays.

use std::io::{BufWriter, Write};
use std::path::Path;

use fs_err as fs;

use crate::exit::Failure;

/// Writes a file.
pub fn write<T, E: Into<Failure>>(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> Result<T, E>,
) -> Result<T, Failure> {
    // A device or pipe is written to; replacing it would be the last thing anybody wants.
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        let mut device = BufWriter::new(fs::OpenOptions::new().write(true).open(path)?);
        let done = write(&mut device).map_err(Into::into)?;
        device.flush()?;
        return Ok(done);
    }
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.part", std::process::id()));
    let mut file = BufWriter::new(fs::File::create(&draft)?);
    let written = write(&mut file).map_err(Into::into).and_then(|done| {
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&draft, path)?;
        Ok(done)
    });
    if written.is_err() {
        drop(fs::remove_file(&draft)); // the error that is told is the first one
    }
    written
}
