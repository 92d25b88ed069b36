//! A root directory, and paths as seen from inside it.
//!
//! With `--root DIR`, everything of the target system is accessed through one [`Root`]: symbolic links are followed as
//! after a `chroot`, so an absolute link in an unpacked image never leads to a file of this machine.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use rustix::fs::{Mode, OFlags, ResolveFlags};

/// Limit on followed symbolic links (`MAXSYMLINKS`, include/linux/namei.h).
const MAX_LINKS: usize = 40;

/// The directory that is `/` in the target system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    dir: PathBuf,
}

impl Root {
    /// Makes a root; `/` is this machine's own.
    pub fn new(dir: impl Into<PathBuf>) -> Root {
        Root { dir: dir.into() }
    }

    /// Whether this is this machine's own root.
    pub fn is_host(&self) -> bool {
        self.dir == Path::new("/")
    }

    /// The directory's path on this machine.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Path on this machine of `inside` in the target system. Follows no links, see [`Root::resolve`].
    pub fn outside(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        self.dir.join(inside.strip_prefix("/").unwrap_or(inside))
    }

    /// Follows all symbolic links in `inside` as the target system would; an error if there is no such file.
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

    /// Path on this machine of the file that `inside` refers to, links followed; `None` if there is none.
    pub fn find(&self, inside: impl AsRef<Path>) -> Option<PathBuf> {
        self.resolve(inside).ok().map(|path| self.outside(path))
    }

    /// Opens the regular file that `inside` refers to. In another root the kernel follows the links (openat2(2),
    /// `RESOLVE_IN_ROOT`), so concurrent changes cannot lead out of it. FIFOs and devices are errors, and opening them
    /// does not block.
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
            // Linux 5.5 and older: resolved first and opened then.
            Err(rustix::io::Errno::NOSYS) => {
                let found = self.outside(self.resolve(inside)?);
                Ok(rustix::fs::open(found, flags | OFlags::NOFOLLOW, Mode::empty())?.into())
            }
            opened => Ok(opened?.into()),
        }
    }

    /// Path on this machine at which `inside` is, or would be created: links are followed as in the target system, so
    /// nothing is created outside of the root; an error for a dangling link.
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

    /// Path in the target system of a file of this machine; `None` if it is outside this root.
    pub fn inside(&self, outside: &Path) -> Option<PathBuf> {
        outside.strip_prefix(&self.dir).ok().map(|rest| Path::new("/").join(rest))
    }
}

/// Writes a small file, replacing whatever has its name. An existing link is not followed, because it could lead
/// elsewhere.
pub fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::File::create_new(path)?.write_all(bytes)
}

/// The components of a path in reverse order, without `/` and `.`.
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
    fn absolute_links_stay_inside() {
        let (_dir, root) = root_with(&[("lib", "/usr")]);
        assert_eq!(root.resolve("/lib/src/headers").unwrap(), Path::new("/usr/src/headers"));
    }

    #[test]
    fn parent_components_stay_inside() {
        let (_dir, root) = root_with(&[("up", "../../../../../usr/src")]);
        assert_eq!(root.resolve("/up").unwrap(), Path::new("/usr/src"));
    }

    #[test]
    fn cyclic_links_are_an_error() {
        let (_dir, root) = root_with(&[("a", "b"), ("b", "a")]);
        assert!(root.resolve("/a").unwrap_err().to_string().contains("too many symbolic links"));
    }

    #[test]
    fn new_files_are_created_inside() {
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
    fn writing_replaces_a_link() {
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
