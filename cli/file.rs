//! Output files: they appear complete, under their final name, and on stable storage.
//!
//! Until then a draft `FILE.PID.part` is beside the file, locked by its writer. An interrupted run leaves the old file; a killed
//! one also leaves a draft that nobody has locked, which the next writer of the same file deletes. Of two concurrent runs, the
//! later one's file stays.

use std::fs::TryLockError;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use fs_err as fs;
use rustix::fs::OFlags;

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
    let (draft, file) = draft(path)?;
    clear_away(path, &draft);
    let mut file = BufWriter::new(file);
    let written = write(&mut file).map_err(Into::into).and_then(|done| {
        file.flush()?;
        file.get_ref().sync_all()?;
        fs::rename(&draft, path)?;
        Ok(done)
    });
    match &written {
        // Without this a power cut may take the name back.
        Ok(_) => fs::File::open(directory(path))?.sync_all()?,
        Err(_) => drop(fs::remove_file(&draft)), // the error that is told is the first one
    }
    written
}

/// An empty draft of this process, locked.
fn draft(path: &Path) -> io::Result<(PathBuf, fs::File)> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}.part", crate::confined::number()));
    let draft = PathBuf::from(draft);
    loop {
        let file = open(&draft, true)?;
        match file.file().try_lock() {
            // A process of this number in another namespace.
            Err(TryLockError::WouldBlock) => {
                let what = format!("another process is writing {}", draft.display());
                return Err(io::Error::new(io::ErrorKind::ResourceBusy, what));
            }
            // Some network file systems have no locks. Then nobody takes anything away.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        // What it held would be lost under its other name as well.
        let found = file.metadata()?;
        if !found.is_file() || found.nlink() > 1 {
            let what = format!("{} is in the way: not a file with this name alone", draft.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
        }
        // Taken away before it was locked: once more.
        if fs::symlink_metadata(&draft).is_ok_and(|named| is_same(&named, &file)) {
            file.set_len(0)?;
            return Ok((draft, file));
        }
    }
}

/// Takes away what others that were killed have left of the same file. What cannot be taken away stays.
fn clear_away(path: &Path, own: &Path) {
    for entry in fs::read_dir(directory(path)).into_iter().flatten().flatten() {
        let left = entry.path();
        if left != own && is_draft_of(path, &left) {
            let _ = clear_one(&left);
        }
    }
}

fn clear_one(left: &Path) -> io::Result<()> {
    let file = open(left, false)?;
    if file.metadata()?.is_file() && file.file().try_lock().is_ok() {
        fs::remove_file(left)?;
    }
    Ok(())
}

/// `FILE.PID.part`
fn is_draft_of(path: &Path, left: &Path) -> bool {
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let (Some(file), Some(left)) = (name(path), name(left)) else { return false };
    let middle = left.strip_prefix(&file).and_then(|rest| rest.strip_prefix('.')?.strip_suffix(".part"));
    middle.is_some_and(|pid| !pid.is_empty() && pid.bytes().all(|c| c.is_ascii_digit()))
}

/// A link in its place is not followed, and a pipe not waited for.
fn open(draft: &Path, create: bool) -> io::Result<fs::File> {
    let mut options = std::fs::OpenOptions::new();
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    options.write(true).create(create).truncate(false).custom_flags(flags.bits().cast_signed());
    fs::OpenOptions::from_options(options).open(draft)
}

fn is_same(named: &std::fs::Metadata, file: &fs::File) -> bool {
    file.metadata().is_ok_and(|file| (named.dev(), named.ino()) == (file.dev(), file.ino()))
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(path: &Path, text: &str) {
        write(path, |to| to.write_all(text.as_bytes()).map_err(Failure::from)).unwrap();
    }

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn what_a_killed_one_has_left_is_taken_away_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.tar");
        let others =
            ["set.tar.part", "set.tar.x1.part", "set.tar.gz.1.part", "other.1.part", "set.tar.1.parts"];
        for name in others.iter().chain(&["set.tar.1.part", "set.tar.4194304.part"]) {
            fs::write(dir.path().join(name), "half of it").unwrap();
        }
        written(&path, "all of it");
        let mut expected = others.map(str::to_owned).to_vec();
        expected.push("set.tar".to_owned());
        expected.sort();
        assert_eq!(names(dir.path()), expected);
        assert_eq!(fs::read_to_string(&path).unwrap(), "all of it");
    }

    #[test]
    fn a_draft_that_is_another_name_of_a_file_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let (path, precious) = (dir.path().join("set.tar"), dir.path().join("precious"));
        fs::write(&precious, "precious").unwrap();
        let draft = dir.path().join(format!("set.tar.{}.part", crate::confined::number()));
        fs::hard_link(&precious, &draft).unwrap();
        let refused = write(&path, |to| to.write_all(b"all of it").map_err(Failure::from)).unwrap_err();
        assert!(refused.message.contains("is in the way"), "{}", refused.message);
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
        assert!(!path.exists());
    }

    #[test]
    fn the_draft_of_one_that_is_still_writing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("set.tar");
        let living = dir.path().join("set.tar.1.part");
        let file = fs::File::create(&living).unwrap();
        file.file().try_lock().unwrap();
        written(&path, "all of it");
        assert_eq!(names(dir.path()), ["set.tar", "set.tar.1.part"]);
        drop(file);
        // A child of another test's has it open, too, until it runs its program.
        let is_cleared = |_| {
            written(&path, "again");
            let is_cleared = names(dir.path()) == ["set.tar"];
            std::thread::sleep(std::time::Duration::from_millis(if is_cleared { 0 } else { 10 }));
            is_cleared
        };
        assert!((0..1000).any(is_cleared));
    }
}
