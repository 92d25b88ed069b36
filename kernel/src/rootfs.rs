//! A root directory, and paths as they look from inside it.
//!
//! Under `--root DIR` everything of the target system is read through one [`Root`]: symbolic links are followed as they
//! would be after a `chroot`, so that an absolute link in an unpacked image never leads to a file of this machine.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Symbolic links followed before a path counts as a loop (`MAXSYMLINKS`, include/linux/namei.h).
const MAX_LINKS: usize = 40;

/// The directory that the target system calls `/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    dir: PathBuf,
}

impl Root {
    /// A root; `/` is this machine's own.
    pub fn new(dir: impl Into<PathBuf>) -> Root {
        Root { dir: dir.into() }
    }

    /// True for this machine's own root.
    pub fn is_host(&self) -> bool {
        self.dir == Path::new("/")
    }

    /// The directory itself, as this machine names it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where this machine finds the path `inside` of the target system. Follows no links: see [`Root::resolve`].
    pub fn outside(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        self.dir.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// `inside` with every symbolic link followed, as the target system would see it; an error where nothing is there.
    pub fn resolve(&self, inside: impl AsRef<Path>) -> io::Result<PathBuf> {
        let mut pending = reversed(inside.as_ref());
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let outside = self.outside(&next);
            if !fs::symlink_metadata(&outside)?.file_type().is_symlink() {
                at = next;
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::other(format!("too many symbolic links in {}", outside.display())));
            }
            let target = fs::read_link(&outside)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            pending.extend(reversed(&target));
        }
        Ok(at)
    }

    /// Where this machine finds what `inside` leads to, links followed; `None` where nothing is there.
    pub fn find(&self, inside: impl AsRef<Path>) -> Option<PathBuf> {
        self.resolve(inside).ok().map(|path| self.outside(path))
    }

    /// Opens the regular file that `inside` leads to, for reading. Of another root the kernel itself follows the links
    /// (`RESOLVE_IN_ROOT`, openat2(2)): whoever may write in there cannot lead it out while it looks. Nothing is waited for:
    /// a FIFO or device is an error.
    pub fn open(&self, inside: impl AsRef<Path>) -> io::Result<File> {
        let path = self.outside(inside.as_ref());
        let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot open {}: {e}", path.display()));
        let file = self.open_unnamed(inside.as_ref()).map_err(named)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(named(io::Error::other("not a regular file"))),
        }
    }

    fn open_unnamed(&self, inside: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        if self.is_host() {
            return Ok(rustix::fs::open(self.outside(inside), flags, Mode::empty())?.into());
        }
        let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&self.dir, way, Mode::empty())?;
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(&root, inside, flags, Mode::empty(), how) {
            // Linux 5.5 and older: looked at before it is opened.
            Err(rustix::io::Errno::NOSYS) => {
                let found = self.outside(self.resolve(inside)?);
                Ok(rustix::fs::open(found, flags | OFlags::NOFOLLOW, Mode::empty())?.into())
            }
            opened => Ok(opened?.into()),
        }
    }

    /// Where this machine finds `inside`, or would make it: links are followed as the target system would, so that nothing
    /// is made outside of the root; an error where one leads nowhere.
    pub fn place(&self, inside: impl AsRef<Path>) -> io::Result<PathBuf> {
        let inside = inside.as_ref();
        let (Some(parent), Some(name)) = (inside.parent(), inside.file_name()) else {
            return self.resolve(inside).map(|path| self.outside(path));
        };
        match self.find(inside) {
            Some(found) => Ok(found),
            None => {
                let place = self.place(parent)?.join(name);
                match place.is_symlink() {
                    true => Err(io::Error::other(format!("{}: dangling link", place.display()))),
                    false => Ok(place),
                }
            }
        }
    }

    /// The path that the target system gives to a file of this machine, if it lies under this root.
    pub fn inside(&self, outside: &Path) -> Option<PathBuf> {
        outside.strip_prefix(&self.dir).ok().map(|rest| Path::new("/").join(rest))
    }
}

/// Writes a small file in the place of whatever has its name. A link that has it is not followed: it may have been put
/// there to lead elsewhere.
pub fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::File::create_new(path)?.write_all(bytes)
}

/// The names of a path, last one first; `/` and `.` are left out.
fn reversed(path: &Path) -> Vec<OsString> {
    let name = |part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root_with(links: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/src/headers")).unwrap();
        for (from, to) in links {
            symlink(to, dir.path().join(from)).unwrap();
        }
        let root = Root::new(dir.path());
        (dir, root)
    }

    #[test]
    fn an_absolute_link_stays_inside() {
        let (_dir, root) = root_with(&[("lib", "/usr")]);
        assert_eq!(root.resolve("/lib/src/headers").unwrap(), Path::new("/usr/src/headers"));
    }

    #[test]
    fn dots_cannot_climb_out() {
        let (_dir, root) = root_with(&[("up", "../../../../../usr/src")]);
        assert_eq!(root.resolve("/up").unwrap(), Path::new("/usr/src"));
    }

    #[test]
    fn a_loop_is_an_error() {
        let (_dir, root) = root_with(&[("a", "b"), ("b", "a")]);
        assert!(root.resolve("/a").unwrap_err().to_string().contains("too many symbolic links"));
    }

    #[test]
    fn what_is_to_be_made_has_its_place_inside() {
        let (dir, root) = root_with(&[("etc", "/usr/src"), ("gone", "/nowhere")]);
        assert_eq!(root.place("/etc/new/file").unwrap(), dir.path().join("usr/src/new/file"));
        assert_eq!(root.place("/a/b").unwrap(), dir.path().join("a/b"));
        for path in ["/gone", "/gone/file", "/../gone"] {
            assert!(root.place(path).unwrap_err().to_string().contains("dangling link"), "{path}");
        }
    }

    #[test]
    fn what_is_opened_lies_inside_and_is_a_file() {
        use std::io::Read;
        let (dir, root) =
            root_with(&[("secret", "/etc/passwd"), ("up", "../../../../etc/passwd"), ("a", "/usr/b")]);
        fs::write(dir.path().join("usr/b"), "inside").unwrap();
        let mut text = String::new();
        root.open("/a").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "inside");
        for path in ["/secret", "/up", "/nowhere"] {
            assert_eq!(root.open(path).unwrap_err().kind(), io::ErrorKind::NotFound, "{path}");
        }
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        for path in ["/fifo", "/usr"] {
            assert!(root.open(path).unwrap_err().to_string().contains("not a regular file"), "{path}");
        }
        assert!(Root::new("/").open("/etc/passwd").is_ok());
    }

    #[test]
    fn what_is_put_takes_the_place_of_a_link() {
        let (dir, _root) = root_with(&[("link", "usr/src/victim")]);
        fs::write(dir.path().join("usr/src/victim"), "precious").unwrap();
        for text in ["one", "two"] {
            put(&dir.path().join("link"), text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("link")).unwrap(), text);
        }
        assert_eq!(fs::read_to_string(dir.path().join("usr/src/victim")).unwrap(), "precious");
    }

    #[test]
    fn a_missing_file_is_none() {
        let (_dir, root) = root_with(&[]);
        assert_eq!(root.find("/nowhere"), None);
    }
}
