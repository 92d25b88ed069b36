//! Files of a package's source, which may be anything: read, without being waited for and up to a bound.
//!
//! A FIFO would be waited for, a device never ends, a sparse file is larger than memory, and a link may lead to what is
//! none of the package's business. What is left out for that is `None`; that nothing is there is an error, as ever.

use std::io::{self, Read};
use std::path::Path;

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::OFlags;

/// Largest file that is read, in bytes; sources of modules have some hundred KiB.
pub const MOST: u64 = 8 << 20;

/// The text of a regular file of at most `most` bytes. What is not UTF-8 in it is replaced.
pub fn text(path: &Path, most: u64) -> io::Result<Option<String>> {
    let file =
        fs::OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= most).then(|| String::from_utf8_lossy(&bytes).into_owned()))
}

/// The same of a file, `path`, of the tree `top`: what a link leads to outside is left out.
pub fn text_in(top: &Path, path: &Path) -> io::Result<Option<String>> {
    let real = fs::canonicalize(top.join(path))?;
    if !real.starts_with(fs::canonicalize(top)?) {
        return Ok(None);
    }
    text(&real, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs::os::unix::fs::symlink;

    #[test]
    fn what_is_no_plain_file_of_the_tree_is_left_out() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a.c"), "a").unwrap();
        fs::write(elsewhere.path().join("b.c"), "b").unwrap();
        symlink("a.c", path("inside")).unwrap();
        symlink(elsewhere.path().join("b.c"), path("outside")).unwrap();
        symlink("/proc/kmsg", path("endless")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), 0o600.into()).unwrap();
        fs::File::create(path("huge")).unwrap().set_len(6 << 30).unwrap();
        let read = |name: &str| text_in(dir.path(), Path::new(name)).unwrap();
        assert_eq!((read("a.c"), read("inside")), (Some("a".into()), Some("a".into())));
        for name in ["outside", "endless", "pipe", "huge"] {
            assert_eq!(read(name), None, "{name}");
        }
        assert!(text_in(dir.path(), Path::new("none")).is_err());
    }
}
