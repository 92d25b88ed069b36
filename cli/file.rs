//! Files that are written for others to read: they have their name when they are whole, and are on stable storage.
//!
//! A draft lies beside the file until then, as `FILE.PID.part`, and is locked by who writes it. What is interrupted leaves the
//! old file, and sometimes a draft that nobody has locked: who writes the same file next deletes it. Of two runs at once the later
//! one's file stays.

use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

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
    drop(sweep(path)); // old drafts are no reason not to write
    let (draft, file) = begin(path)?;
    let mut file = BufWriter::new(file);
    let written = write(&mut file).map_err(Into::into).and_then(|done| {
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&draft, path)?;
        // Without this the name may be lost with the power.
        fs::File::open(dir_of(path))?.sync_all()?;
        Ok(done)
    });
    if written.is_err() {
        drop(fs::remove_file(&draft)); // the error that is told is the first one
    }
    written
}

/// An empty draft with its lock.
fn begin(path: &Path) -> io::Result<(PathBuf, fs::File)> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.part", std::process::id()));
    let draft = PathBuf::from(draft);
    loop {
        let file = fs::File::create(&draft)?;
        file.file().lock()?;
        // Another may have taken it for an old one before it was locked.
        if draft.metadata().is_ok_and(|there| file.metadata().is_ok_and(|own| own.ino() == there.ino())) {
            return Ok((draft, file));
        }
    }
}

/// Deletes drafts of a file that nobody writes any more.
fn sweep(path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for entry in fs::read_dir(dir_of(path))? {
        let entry = entry?;
        let found = entry.file_name().to_string_lossy().into_owned();
        let pid = found.strip_prefix(&name).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".part"));
        let is_draft =
            pid.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit()));
        if is_draft && entry.file_type()?.is_file() && fs::File::open(entry.path())?.file().try_lock().is_ok()
        {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn dir_of(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drafts_that_nobody_writes_any_more_go_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.tar");
        for name in ["set.tar.12.part", "set.tar.13.part", "set.tar.x.part", "other.tar.12.part"] {
            fs::write(dir.path().join(name), "a part").unwrap();
        }
        let living = fs::File::open(dir.path().join("set.tar.13.part")).unwrap();
        living.file().lock().unwrap();
        write(&path, |to| to.write_all(b"whole")).unwrap();
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["other.tar.12.part", "set.tar", "set.tar.13.part", "set.tar.x.part"]);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
    }
}
