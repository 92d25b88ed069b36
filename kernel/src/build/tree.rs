//! An untrusted directory that a build writes: opened once, and accessed only through that descriptor.
//!
//! Nothing in it is opened by a path from outside. openat2(2) resolves below the opened directory, follows no links,
//! and does not cross into other file systems; swapping a directory for a link meanwhile causes an error and nothing
//! else. A walk uses two descriptors however deep the tree is, and fails above its limits.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, openat2, statat};
use rustix::io::Errno;

/// Limit in bytes on paths that are followed: the kernel opens none of 4096, and a tar has room for 255.
pub(super) const LONGEST_PATH: usize = 1024;

/// Limit on the files and directories of a walk.
pub(super) const MOST: usize = 1_000_000;

/// An opened directory.
#[derive(Debug)]
pub(super) struct Tree(OwnedFd);

/// A file or directory in a tree.
pub(super) struct Found {
    /// Path relative to the tree.
    pub(super) path: PathBuf,
    pub(super) kind: FileType,
}

/// Why a walk did not complete.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it has more than {0} files")]
    TooMuch(usize),
    #[error("it has directories whose paths have more than {LONGEST_PATH} bytes")]
    TooDeep,
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Error {
        Error::Io(errno.into())
    }
}

impl Tree {
    /// Opens a directory that only kcache's own user can have created.
    pub(super) fn open(path: &Path) -> io::Result<Tree> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let at = |errno: Errno| {
            let error = io::Error::from(errno);
            io::Error::new(error.kind(), format!("cannot open {}: {error}", path.display()))
        };
        Ok(Tree(rustix::fs::open(path, flags, Mode::empty()).map_err(at)?))
    }

    /// Opens a regular file; the inner error says why it is not usable. Links are followed if they stay in the tree.
    pub(super) fn file(&self, path: &Path) -> io::Result<Result<(std::fs::File, u64), String>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let name = path.display();
        let file: std::fs::File = match openat2(&self.0, path, flags, Mode::empty(), resolve) {
            Ok(fd) => fd.into(),
            // No file has a longer name.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => {
                return Ok(Err(format!("built no {name}")));
            }
            // A build without privileges may have removed its own permissions, and a socket cannot be opened.
            Err(Errno::ACCESS) => return Ok(Err(format!("{name} cannot be read"))),
            Err(Errno::NXIO | Errno::NODEV) => return Ok(Err(format!("{name} is not a regular file"))),
            Err(Errno::LOOP | Errno::XDEV) => return Ok(Err(format!("{name} is a link or below one"))),
            Err(e) => return Err(e.into()),
        };
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(Err(format!("{name} is not a regular file")));
        }
        if metadata.mode() & 0o6000 != 0 {
            return Ok(Err(format!("{name} is set-user-ID or set-group-ID")));
        }
        Ok(Ok((file, metadata.len())))
    }

    /// Whether there is a file of any type at this path.
    pub(super) fn has(&self, path: &Path) -> bool {
        statat(&self.0, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// The target of a link.
    pub(super) fn link(&self, path: &Path) -> io::Result<PathBuf> {
        let (flags, resolve) = (OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, ResolveFlags::BENEATH);
        let link = openat2(&self.0, path, flags, Mode::empty(), resolve)?;
        let target = rustix::fs::readlinkat(link, "", Vec::new())?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// Everything in the tree, directories before their contents, otherwise unordered. More than `most` is an error.
    pub(super) fn walk(
        &self,
        most: usize,
        each: &mut dyn FnMut(Found) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.descend(most, &mut |_, _, found| each(found))
    }

    /// Makes a user the owner of the tree and everything in it.
    pub(super) fn give(&self, uid: u32) -> Result<(), Error> {
        let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)));
        self.descend(MOST, &mut |directory, name, _| {
            Ok(chownat(directory, name, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW)?)
        })?;
        Ok(rustix::fs::fchown(&self.0, owner.0, owner.1)?)
    }

    fn descend(
        &self,
        most: usize,
        each: &mut dyn FnMut(&OwnedFd, &OsStr, Found) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let (mut seen, mut directories) = (0, vec![PathBuf::new()]);
        while let Some(directory) = directories.pop() {
            let fd = self.directory(&directory)?;
            for entry in Dir::read_from(&fd)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name == "." || name == ".." {
                    continue;
                }
                seen += 1;
                if seen > most {
                    return Err(Error::TooMuch(most));
                }
                let kind = match entry.file_type() {
                    FileType::Unknown => {
                        FileType::from_raw_mode(statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode)
                    }
                    kind => kind,
                };
                let path = directory.join(name);
                if kind == FileType::Directory {
                    if path.as_os_str().len() > LONGEST_PATH {
                        return Err(Error::TooDeep);
                    }
                    directories.push(path.clone());
                }
                each(&fd, name, Found { path, kind })?;
            }
        }
        Ok(())
    }

    fn directory(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&self.0, path, flags, Mode::empty(), resolve)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_err as fs;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn outputs_must_be_regular_files_of_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("tree/sub")).unwrap();
        fs::write(at("secret.ko"), "s").unwrap();
        fs::write(at("tree/sub/good.ko"), "g").unwrap();
        symlink("../secret.ko", at("tree/link.ko")).unwrap();
        symlink("..", at("tree/up")).unwrap();
        symlink("sub", at("tree/alias")).unwrap();
        fs::create_dir(at("tree/dir.ko")).unwrap();
        let tree = Tree::open(&at("tree")).unwrap();
        let check = |path: &str, expect: &str| {
            let what = tree.file(Path::new(path)).unwrap().map(|(_, size)| size.to_string());
            let what = what.unwrap_or_else(|reason| reason);
            assert!(what.contains(expect), "{path}: {what}");
        };
        check("sub/good.ko", "1");
        check("alias/good.ko", "1");
        check("link.ko", "is a link");
        check("up/secret.ko", "is a link");
        check("dir.ko", "not a regular file");
        check("none.ko", "built no none.ko");
        drop(std::os::unix::net::UnixListener::bind(at("tree/socket.ko")).unwrap());
        check("socket.ko", "not a regular file");
        check(&"x".repeat(300), "built no xxx");
    }

    #[test]
    fn trees_with_too_many_files_or_too_deep_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        (0..9).for_each(|at| fs::write(dir.path().join(at.to_string()), "").unwrap());
        let tree = Tree::open(dir.path()).unwrap();
        assert!(tree.walk(9, &mut |_| Ok(())).is_ok());
        assert!(matches!(tree.walk(8, &mut |_| Ok(())), Err(Error::TooMuch(8))));
        let mut at = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..30 {
            rustix::fs::mkdirat(&at, "d".repeat(200), 0o700.into()).unwrap();
            at = rustix::fs::openat(&at, "d".repeat(200), OFlags::PATH, Mode::empty()).unwrap();
        }
        assert!(matches!(tree.walk(MOST, &mut |_| Ok(())), Err(Error::TooDeep)));
    }

    /// Gives a tree away while its directories are swapped for links to other trees, as a build that is still running
    /// could.
    #[test]
    fn changing_owners_never_follows_swapped_links() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (tree, others) = (dir.path().join("tree"), dir.path().join("others"));
        for at in [&tree, &others] {
            fs::create_dir_all(at.join("d")).unwrap();
            (0..20).for_each(|file| fs::write(at.join(format!("d/{file}")), "").unwrap());
        }
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    fs::rename(tree.join("d"), tree.join("e")).unwrap();
                    symlink(others.join("d"), tree.join("d")).unwrap();
                    fs::remove_file(tree.join("d")).unwrap();
                    fs::rename(tree.join("e"), tree.join("d")).unwrap();
                }
            });
            let opened = Tree::open(&tree).unwrap();
            let given = (0..3000).filter(|_| opened.give(61184).is_ok()).count();
            over.store(true, Ordering::Relaxed);
            assert!(given > 0);
        });
        for file in 0..20 {
            assert_eq!(fs::metadata(others.join(format!("d/{file}"))).unwrap().uid(), 0);
        }
        Tree::open(&tree).unwrap().give(61185).unwrap();
        assert_eq!(fs::metadata(tree.join("d/7")).unwrap().uid(), 61185);
    }
}
