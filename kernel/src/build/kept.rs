//! A build's results for packages that build against it.
//!
//! DKMS has a directory for each build, and packages use it: zfs copies headers there, others read the
//! `Module.symvers` of their dependencies:
//!
//! ```text
//! /var/lib/dkms/NAME/VERSION/KERNEL/ARCH/
//!   module/NAME.ko, module/Module.symvers      from DKMS, after the modules are built
//!   ...                                        whatever the package's own scripts copy there
//! ```
//!
//! Everything in it except the modules, which are outputs anyway, becomes one tar, so that builds on other hosts have
//! the same files. Equal files give equal bytes: paths are sorted, owners and times are zero, modes are 0644 or 0755.
//!
//! Neither side trusts its input. Packing includes regular files, directories, and links that stay within, and reports
//! the others; too much is an error. Unpacking creates files only in directories that it has just created itself, so
//! no link can lead it elsewhere, and refuses everything that packing does not produce.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use rustix::fs::FileType;
use tar::{Archive, Builder, EntryType, Header};

use super::tree::{self, Found, Tree};

/// Limits on size in bytes and number of files. zfs keeps 4 MB; a whole source tree with its objects is not an
/// interface.
const MOST_BYTES: u64 = 256 << 20;
const MOST_FILES: usize = 20_000;

/// Result of [`pack`].
#[derive(Debug, Default)]
pub(super) struct Packed {
    /// The tar; `None` if there is nothing to keep.
    pub(super) tar: Option<Vec<u8>>,
    /// A warning for each file that cannot be kept.
    pub(super) left_out: Vec<String>,
}

/// Why packing or unpacking failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There are too many files, or they are too large.
    #[error("build results for other packages exceed {MOST_FILES} files or {} MiB", MOST_BYTES >> 20)]
    TooMuch,
    /// Paths are too long to be walked.
    #[error(
        "build results for other packages have directories with paths longer than {} bytes",
        tree::LONGEST_PATH
    )]
    TooDeep,
    /// The tar is not one that [`super::build()`] packs.
    #[error("refusing to unpack build results for other packages: {0}")]
    Hostile(String),
}

/// What is left of the limits.
#[derive(Default)]
struct Room {
    files: usize,
    bytes: u64,
}

impl Room {
    fn take(&mut self, bytes: u64) -> Result<(), Error> {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        if self.files > MOST_FILES || self.bytes > MOST_BYTES { Err(Error::TooMuch) } else { Ok(()) }
    }
}

/// Packs a directory that no process of the build uses any more, without the files `outputs`.
pub(super) fn pack(dir: &Tree, outputs: &BTreeSet<PathBuf>) -> Result<Packed, Error> {
    let mut packed = Packed::default();
    let mut tar = Builder::new(Vec::new());
    let mut room = Room::default();
    let mut holds_something = false;
    let mut lost = PathBuf::from("/"); // a directory that was left out, with its contents
    for Found { path, kind } in sorted(dir)?.into_iter().filter(|found| !outputs.contains(&found.path)) {
        if path.starts_with(&lost) {
            continue;
        }
        match member(dir, &path, kind, &mut room)? {
            Ok((header, content)) => {
                tar.append(&header, &content[..])?;
                holds_something |= kind != FileType::Directory;
            }
            Err(reason) => {
                packed.left_out.push(format!("{}: {reason}", path.display()));
                lost = path;
            }
        }
    }
    packed.tar = if holds_something { Some(tar.into_inner()?) } else { None };
    Ok(packed)
}

/// The tar member for a file, or why it cannot be included.
fn member(
    dir: &Tree,
    path: &Path,
    kind: FileType,
    room: &mut Room,
) -> Result<io::Result<(Header, Vec<u8>)>, Error> {
    let file = match kind {
        FileType::RegularFile => Some(dir.file(path)?),
        _ => None,
    };
    room.take(file.as_ref().map_or(0, |file| file.as_ref().map_or(0, |(_, size)| *size)))?;
    Ok(header_and_content(dir, path, kind, file))
}

fn header_and_content(
    dir: &Tree,
    path: &Path,
    kind: FileType,
    file: Option<Result<(std::fs::File, u64), String>>,
) -> io::Result<(Header, Vec<u8>)> {
    let mut header = Header::new_ustar();
    header.set_path(path)?;
    header.set_mode(0o755);
    let mut content = Vec::new();
    match (kind, file) {
        (FileType::Directory, _) => header.set_entry_type(EntryType::Directory),
        (FileType::Symlink, _) => {
            header.set_entry_type(EntryType::Symlink);
            header.set_link_name(link_target(dir, path)?)?;
        }
        (_, Some(file)) => {
            let (file, size) = file.map_err(io::Error::other)?;
            header.set_entry_type(EntryType::Regular);
            header.set_mode(if file.metadata()?.permissions().mode() & 0o100 != 0 { 0o755 } else { 0o644 });
            file.take(size).read_to_end(&mut content)?;
        }
        _ => return Err(odd("neither a file nor a directory nor a link")),
    }
    header.set_size(content.len() as u64);
    header.set_cksum();
    Ok((header, content))
}

fn odd(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// Everything in a directory, by relative path, with directories before their contents.
fn sorted(dir: &Tree) -> Result<Vec<Found>, Error> {
    let mut found = Vec::new();
    let walked = dir.walk(2 * MOST_FILES, &mut |file| {
        found.push(file);
        Ok(())
    });
    walked.map_err(|error| match error {
        tree::Error::Io(error) => Error::Io(error),
        tree::Error::TooMuch(_) => Error::TooMuch,
        tree::Error::TooDeep => Error::TooDeep,
    })?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The target of a link, if it stays inside.
fn link_target(dir: &Tree, path: &Path) -> io::Result<PathBuf> {
    let target = dir.link(path)?;
    if stays_inside(path, &target) { Ok(target) } else { Err(odd("the link points outside")) }
}

/// Whether a link at `path` leads to a place in the tree. It may climb as far as there are directories.
fn stays_inside(path: &Path, target: &Path) -> bool {
    let depth = path.components().count().saturating_sub(1);
    let climbed = target.components().take_while(|part| *part == Component::ParentDir).count();
    climbed <= depth && target.components().skip(climbed).all(|part| matches!(part, Component::Normal(_)))
}

/// Unpacks what [`super::build()`] packed, here or elsewhere, into an empty private directory.
///
/// # Errors
///
/// [`Error::Hostile`] if the tar was not packed by kcache.
pub fn unpack(tar: &[u8], to: &Path) -> Result<(), Error> {
    let mut directories = BTreeSet::from([PathBuf::new()]);
    let mut room = Room::default();
    for member in Archive::new(tar).entries().map_err(hostile)?.raw(true) {
        let mut member = member.map_err(hostile)?;
        let path = Path::new(OsStr::from_bytes(&member.path_bytes())).to_owned();
        let is_plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_plain || !path.parent().is_some_and(|parent| directories.contains(parent)) {
            return Err(hostile(format!("a member is named '{}'", path.display())));
        }
        room.take(member.size())?;
        make(&mut member, &path, to)?;
        if member.header().entry_type().is_dir() {
            directories.insert(path);
        }
    }
    Ok(())
}

/// Creates one member, in a directory that this function created.
fn make(member: &mut tar::Entry<&[u8]>, path: &Path, to: &Path) -> Result<(), Error> {
    let at = to.join(path);
    let mode = member.header().mode().map_err(hostile)?;
    match member.header().entry_type() {
        EntryType::Directory => fs::create_dir(&at)?,
        EntryType::Regular => {
            io::copy(member, &mut fs::OpenOptions::new().write(true).create_new(true).open(&at)?)?;
        }
        EntryType::Symlink => {
            let target = member.link_name().map_err(hostile)?.unwrap_or_default();
            if !stays_inside(path, &target) {
                return Err(hostile(format!("the link {} points outside", path.display())));
            }
            return Ok(fs::os::unix::fs::symlink(target, &at)?);
        }
        other => return Err(hostile(format!("{} is a {other:?}", path.display()))),
    }
    // Explicitly, whatever the umask: another user must be able to read it.
    let executable = at.is_dir() || mode & 0o100 != 0;
    let mode = if executable { 0o755 } else { 0o644 };
    Ok(fs::set_permissions(&at, Permissions::from_mode(mode))?)
}

fn hostile(reason: impl std::fmt::Display) -> Error {
    Error::Hostile(reason.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};
    use std::os::unix::fs::symlink;

    fn plant(dir: &Path) {
        fs::create_dir_all(dir.join("include/sys")).unwrap();
        fs::create_dir(dir.join("module")).unwrap();
        fs::write(dir.join("include/sys/a.h"), "a").unwrap();
        fs::write(dir.join("module/Module.symvers"), "0x1\tf\ta\tEXPORT_SYMBOL\t\n").unwrap();
        fs::write(dir.join("module/a.ko"), "module").unwrap();
        symlink("../include/sys/a.h", dir.join("module/a.h")).unwrap();
        fs::write(dir.join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(dir.join("run"), PermissionsExt::from_mode(0o700)).unwrap();
    }

    fn packed(dir: &Path) -> Packed {
        pack(&Tree::open(dir).unwrap(), &BTreeSet::from([PathBuf::from("module/a.ko")])).unwrap()
    }

    #[test]
    fn kept_files_are_unpacked_and_modules_excluded() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        plant(from.path());
        let packed = packed(from.path());
        assert!(packed.left_out.is_empty(), "{:?}", packed.left_out);
        unpack(&packed.tar.unwrap(), to.path()).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("module/a.h")).unwrap(), "a");
        assert!(to.path().join("module/Module.symvers").exists() && !to.path().join("module/a.ko").exists());
        let mode = fs::metadata(to.path().join("run")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn equal_files_give_equal_bytes() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        plant(one.path());
        plant(two.path());
        fs::set_permissions(two.path().join("include/sys/a.h"), PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(packed(one.path()).tar, packed(two.path()).tar);
    }

    #[test]
    fn empty_directories_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("module")).unwrap();
        fs::write(dir.path().join("module/a.ko"), "module").unwrap();
        assert!(packed(dir.path()).tar.is_none());
    }

    #[test]
    fn outward_links_and_special_files_are_reported_and_left_out() {
        let dir = tempfile::tempdir().unwrap();
        plant(dir.path());
        symlink("/etc/shadow", dir.path().join("secret")).unwrap();
        symlink("../../up", dir.path().join("module/up")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.path().join("pipe"), 0o600.into()).unwrap();
        let long = dir.path().join("x".repeat(120));
        fs::create_dir(&long).unwrap();
        fs::write(long.join("a"), "").unwrap();
        let packed = packed(dir.path());
        let said = packed.left_out.join("\n");
        for name in ["secret: the link points outside", "module/up: the link", "pipe: neither a file", "xxx"]
        {
            assert!(said.contains(name), "{said}");
        }
        let to = tempfile::tempdir().unwrap();
        unpack(&packed.tar.unwrap(), to.path()).unwrap();
        assert!(!to.path().join("secret").exists());
    }

    #[test]
    fn kept_files_are_limited() {
        let dir = tempfile::tempdir().unwrap();
        fs::File::create(dir.path().join("huge")).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(matches!(pack(&Tree::open(dir.path()).unwrap(), &BTreeSet::new()), Err(Error::TooMuch)));
    }

    #[test]
    fn a_tree_that_is_too_deep_is_reported_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let name = "d".repeat(200);
        let mut at = std::fs::File::open(dir.path()).unwrap();
        for _ in 0..30 {
            rustix::fs::mkdirat(&at, &name, 0o700.into()).unwrap();
            at = rustix::fs::openat(&at, &name, OFlags::RDONLY, Mode::empty()).unwrap().into();
        }
        assert!(matches!(pack(&Tree::open(dir.path()).unwrap(), &BTreeSet::new()), Err(Error::TooDeep)));
    }

    /// A tar of one member that packing would not produce.
    fn tar_of(path: &str, kind: EntryType, link: &str) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.as_ustar_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_ustar_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_size(0);
        header.set_cksum();
        let mut tar = Builder::new(Vec::new());
        tar.append(&header, &[][..]).unwrap();
        tar.into_inner().unwrap()
    }

    #[test]
    fn hostile_tars_are_refused() {
        let check = |tar: &[u8]| {
            let dir = tempfile::tempdir().unwrap();
            let to = dir.path().join("to");
            fs::create_dir(&to).unwrap();
            let error = unpack(tar, &to).unwrap_err();
            assert!(matches!(error, Error::Hostile(_)), "{error}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        };
        check(&tar_of("../out", EntryType::Regular, ""));
        check(&tar_of("/tmp/out", EntryType::Regular, ""));
        check(&tar_of("a/../b", EntryType::Regular, ""));
        check(&tar_of("nowhere/a", EntryType::Regular, ""));
        check(&tar_of("", EntryType::Regular, ""));
        check(&tar_of("..", EntryType::Symlink, "a"));
        check(&tar_of("a", EntryType::Symlink, "/etc"));
        check(&tar_of("a", EntryType::Symlink, "../x"));
        check(&tar_of("a", EntryType::Link, "b"));
        for kind in
            [EntryType::Char, EntryType::Block, EntryType::Fifo, EntryType::GNULongName, EntryType::XHeader]
        {
            check(&tar_of("a", kind, ""));
        }
        check(b"not a tar at all, and longer than nothing");
        // A link into which the next member would be written.
        let mut through = tar_of("a", EntryType::Symlink, "b");
        through.truncate(512);
        through.extend(tar_of("a/b", EntryType::Regular, ""));
        check(&through);
    }
}
