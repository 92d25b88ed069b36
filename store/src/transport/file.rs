//! `file://`: a directory, such as a mounted NFS export or a USB stick.
//!
//! ```text
//! DIR/                     must exist: an unmounted stick is not an empty cache
//!   entries/ objects/ by-kernel/ signatures/ keys/
//!   tmp/                   files being written
//! ```
//! Files are published as in the store: written to `tmp/`, synced, renamed, and the directory synced. A crash leaves a
//! draft in `tmp/` that nobody reads. Concurrent writers of one name do not mix.
//!
//! Every file call is made on another thread than the caller's and waited for within bounds, because a file system may
//! block for any time. Special files are refused and never opened in a way that blocks, as a named pipe would.

use std::io::{self, ErrorKind, Read};
use std::path::PathBuf;

use fs_err::os::unix::fs::OpenOptionsExt;
use fs_err::{File, OpenOptions};
use rustix::fs::OFlags;
use url::Url;

use super::runtime::{Deadline, Heartbeat};
use super::{BadLocation, IfTaken, Location, Name, Transport, TransportError, web};
use crate::publish::publish_bytes;

/// Bytes to read in one call, which is a sign of life.
const PIECE: u64 = 1 << 20;

/// A cache in a directory.
pub(super) struct Directory {
    top: PathBuf,
    deadline: Deadline,
}

impl Directory {
    pub(super) fn new(location: &Location, url: &Url) -> Result<Directory, BadLocation> {
        let top = url
            .to_file_path()
            .map_err(|()| location.bad("file URLs must not name a host: use file:///DIR"))?;
        Ok(Directory { top, deadline: Deadline::of(location) })
    }

    /// What a call needs, owned, so that it can outlive its caller.
    fn place(&self, name: &Name) -> Result<Place, TransportError> {
        let path = name.path();
        // A release or package called `..` would lead outside the tree.
        match path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            true => Err(TransportError::Odd(format!("`{path}` is not a name"))),
            false => Ok(Place { path: self.top.join(path), top: self.top.clone() }),
        }
    }
}

impl Transport for Directory {
    fn get(&self, name: &Name, limit: u64, heard: &dyn Fn(u64)) -> Result<Option<Vec<u8>>, TransportError> {
        let place = self.place(name)?;
        self.deadline.run(limit, async |heartbeat| {
            let Some((mut file, size)) = apart(heartbeat, move || place.open()).await? else {
                return Ok(None);
            };
            if size > limit {
                return Err(TransportError::TooLong(limit));
            }
            let mut bytes = Vec::new();
            loop {
                let piece;
                (file, piece) = apart(heartbeat, move || read_piece(file)).await?;
                if piece.is_empty() {
                    return Ok(Some(bytes));
                }
                web::append(&mut bytes, &piece, limit, heard)?;
            }
        })
    }

    fn has(&self, name: &Name) -> Result<bool, TransportError> {
        let place = self.place(name)?;
        self.deadline.run(0, async |heartbeat| apart(heartbeat, move || Ok(place.size()?.is_some())).await)
    }

    fn put(&self, name: &Name, bytes: &[u8], if_taken: IfTaken) -> Result<bool, TransportError> {
        let place = self.place(name)?;
        let bytes = bytes.to_vec();
        self.deadline.run(bytes.len() as u64, async |heartbeat| {
            // Syncing a slow stick gives no sign of life, and includes what others have written.
            heartbeat.holding();
            apart(heartbeat, move || place.put(&bytes, if_taken)).await
        })
    }
}

/// Path of a file in a tree.
struct Place {
    top: PathBuf,
    path: PathBuf,
}

impl Place {
    /// Size of the file in bytes; `None` if it does not exist.
    fn size(&self) -> Result<Option<u64>, TransportError> {
        match fs_err::metadata(&self.path) {
            Ok(found) if found.is_file() => Ok(Some(found.len())),
            Ok(_) => Err(TransportError::Odd(format!("not a regular file: {}", self.path.display()))),
            Err(e) if e.kind() == ErrorKind::NotFound => self.present().map(|()| None),
            Err(e) => Err(unreadable(e)),
        }
    }

    fn open(&self) -> Result<Option<(File, u64)>, TransportError> {
        let Some(size) = self.size()? else { return Ok(None) };
        // It may have been replaced by a special file meanwhile; opening that must not block.
        let flags = OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(&self.path);
        Ok(Some((file.map_err(unreadable)?, size)))
    }

    fn put(&self, bytes: &[u8], if_taken: IfTaken) -> Result<bool, TransportError> {
        self.present()?;
        let tmp = self.top.join("tmp");
        fs_err::create_dir_all(&tmp).map_err(|e| unwritable(&e))?;
        publish_bytes(&tmp, &self.path, bytes, if_taken).map_err(|e| unwritable(&e))
    }

    /// Checks that the top directory exists.
    fn present(&self) -> Result<(), TransportError> {
        match fs_err::metadata(&self.top) {
            Ok(found) if found.is_dir() => Ok(()),
            Ok(_) => Err(TransportError::Unreachable(format!("{} is not a directory", self.top.display()))),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(TransportError::Unreachable(format!(
                "{} does not exist; create or mount it",
                self.top.display()
            ))),
            Err(e) => Err(unreadable(e)),
        }
    }
}

/// Runs file calls on a thread that may block.
async fn apart<T: Send + 'static>(
    heartbeat: &Heartbeat,
    act: impl FnOnce() -> Result<T, TransportError> + Send + 'static,
) -> Result<T, TransportError> {
    let done = tokio::task::spawn_blocking(act).await;
    heartbeat.beat();
    done.map_err(|e| TransportError::Unreachable(e.to_string()))?
}

fn read_piece(file: File) -> Result<(File, Vec<u8>), TransportError> {
    let mut piece = Vec::new();
    (&file).take(PIECE).read_to_end(&mut piece).map_err(unreadable)?;
    Ok((file, piece))
}

fn unreadable(error: io::Error) -> TransportError {
    match error.kind() {
        ErrorKind::PermissionDenied => TransportError::Denied(error.to_string()),
        ErrorKind::NotADirectory | ErrorKind::WouldBlock => TransportError::Odd(error.to_string()),
        _ => TransportError::Unreachable(error.to_string()),
    }
}

/// The error for no permission, no space or a read-only file system: operation, then cause.
fn unwritable(error: &dyn std::error::Error) -> TransportError {
    TransportError::ReadOnly(match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;
    use crate::transport::{Bounds, open};
    use crate::{Digest, Key};

    fn location(top: &Path) -> Location {
        let bounds = Bounds { silence: std::time::Duration::from_secs(60), ..Bounds::default() };
        Location { url: top.to_str().unwrap().to_owned(), bounds, ..Location::default() }
    }

    fn directory(top: &Path) -> Arc<dyn Transport> {
        open(&location(top)).unwrap()
    }

    fn entry() -> Name {
        Name::Entry(Key::from_bytes([7; 32]))
    }

    fn get(top: &Path) -> Result<Option<Vec<u8>>, TransportError> {
        directory(top).get(&entry(), 1000, &|_| ())
    }

    #[test]
    fn files_are_read_back_and_others_are_missing() {
        let top = tempfile::tempdir().unwrap();
        assert_eq!(get(top.path()), Ok(None));
        assert_eq!(directory(top.path()).put(&entry(), b"one", IfTaken::Keep), Ok(true));
        assert_eq!(directory(top.path()).put(&entry(), b"two", IfTaken::Keep), Ok(false));
        assert_eq!(get(top.path()), Ok(Some(b"one".to_vec())));
        assert_eq!(directory(top.path()).put(&entry(), b"three", IfTaken::Replace), Ok(true));
        assert_eq!(get(top.path()), Ok(Some(b"three".to_vec())));
        assert_eq!(fs_err::read(top.path().join(entry().path())).unwrap(), b"three");
        assert_eq!(fs_err::read_dir(top.path().join("tmp")).unwrap().count(), 0);
    }

    #[test]
    fn large_files_are_read_in_pieces_up_to_the_limit() {
        let top = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3 * PIECE + 17).map(|n| n as u8).collect();
        directory(top.path()).put(&entry(), &bytes, IfTaken::Keep).unwrap();
        let size = bytes.len() as u64;
        let heard = std::cell::RefCell::new(Vec::new());
        let read = directory(top.path()).get(&entry(), size, &|n| heard.borrow_mut().push(n));
        assert_eq!(read, Ok(Some(bytes)));
        assert_eq!(heard.into_inner(), [PIECE, PIECE, PIECE, 17]);
        let read = directory(top.path()).get(&entry(), size - 1, &|_| ());
        assert_eq!(read, Err(TransportError::TooLong(size - 1)));
    }

    #[test]
    fn paths_may_contain_characters_that_urls_may_not() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().join("a b%20c é#?");
        fs_err::create_dir(&top).unwrap();
        assert_eq!(directory(&top).put(&entry(), b"one", IfTaken::Keep), Ok(true));
        assert_eq!(get(&top), Ok(Some(b"one".to_vec())));
        let url = Url::from_file_path(&top).unwrap().to_string();
        let directory = open(&Location { url, ..location(&top) }).unwrap();
        assert_eq!(directory.has(&entry()), Ok(true));
    }

    #[test]
    fn a_missing_directory_is_not_an_empty_one() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().join("stick");
        let missing = format!("{} does not exist; create or mount it", top.display());
        assert_eq!(get(&top), Err(TransportError::Unreachable(missing.clone())));
        assert_eq!(directory(&top).has(&entry()), Err(TransportError::Unreachable(missing.clone())));
        assert_eq!(
            directory(&top).put(&entry(), b"one", IfTaken::Keep),
            Err(TransportError::Unreachable(missing))
        );
        fs_err::write(&top, "a file").unwrap();
        assert!(matches!(
            directory(&top).put(&entry(), b"one", IfTaken::Keep),
            Err(TransportError::Unreachable(_))
        ));
    }

    #[test]
    fn special_files_are_refused_without_blocking() {
        let top = tempfile::tempdir().unwrap();
        let path = top.path().join(entry().path());
        let odd = |top: &Path| assert!(matches!(get(top), Err(TransportError::Odd(_))), "{:?}", get(top));
        fs_err::create_dir_all(&path).unwrap();
        odd(top.path());
        fs_err::remove_dir(&path).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        odd(top.path());
        fs_err::remove_file(&path).unwrap();
        fs_err::remove_dir_all(top.path().join("entries")).unwrap();
        fs_err::write(top.path().join("entries"), "a file").unwrap();
        odd(top.path());
    }

    #[test]
    fn names_cannot_lead_out_of_the_tree() {
        let top = tempfile::tempdir().unwrap();
        let lead = |release: &str, package: &str| {
            let kernel = Digest::of(b"kernel");
            let name = Name::Pointer { release: release.into(), kernel, package: package.into() };
            let directory = directory(top.path());
            assert!(matches!(directory.put(&name, b"one", IfTaken::Keep), Err(TransportError::Odd(_))));
            assert!(matches!(directory.get(&name, 9, &|_| ()), Err(TransportError::Odd(_))));
        };
        lead("..", "mc");
        lead("../../etc", "mc");
        lead("6.1", "../../../../mc");
        lead("", "mc");
    }

    #[test]
    fn a_read_only_directory_is_reported() {
        // Nobody can create files in /sys, not even root.
        let read_only = directory(Path::new("/sys")).put(&entry(), b"one", IfTaken::Keep);
        assert!(matches!(read_only, Err(TransportError::ReadOnly(_))), "{read_only:?}");
    }
}
