//! `dkms mktarball` and `ldtarball`: DKMS's own format, a tar archive of
//!
//! ```text
//! dkms_source_tree/                            the source
//! dkms_main_tree/KERNEL/ARCH/module/*.ko       its modules, and
//! dkms_main_tree/KERNEL/ARCH/log/make.log      the log
//! ```
//!
//! Only the source is taken from an archive. Its modules are not trusted, so they are built, or fetched from a cache with
//! signatures. An archive may be hostile: paths that lead out of it, and anything but files, directories and links inside it,
//! are refused before anything is copied; an archive that is larger than any source is refused before it is unpacked.

use std::io::{self, BufRead, BufReader, Read};
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;

use fs_err as fs;
use kcache::error::Error;
use kcache::kernel::dkms::Version;
use kcache::store::{Role, Scratch, Store};

use super::DkmsError;
use super::place::Place;
use super::print::warn;
use super::source::{add_version, copy_source};
use crate::cmd::context;
use crate::exit::Failure;
use crate::file;

/// Longer names of archives only say that there are many kernels in it (DKMS's number).
const LONGEST_LIST: usize = 200;

/// Most that an archive may hold: bytes, as for any source (`store/src/tree/snapshot.rs`), files, and bytes of their list.
const MOST_BYTES: u64 = 8 << 30;
const MOST_FILES: u64 = 200_000;
const MOST_LISTED: u64 = 64 << 20;

pub fn make(place: &Place) -> Result<u8, DkmsError> {
    let what = place.version("mktarball")?;
    if !place.records.is_added(&what) {
        let line = format!(
            "The module/version combo: {}/{} is not located in the DKMS tree.",
            what.name, what.version
        );
        return Err(DkmsError::new(3, &[&line]));
    }
    let scratch = Scratch::new(&place.context.temporary).map_err(Error::from)?;
    let mut kernels = Vec::new();
    if place.typed.source_only {
        kernels.push("source-only".to_owned());
    } else {
        for kernel in releases(place, &what)? {
            place.print(&format!("Marking modules for {kernel} ({}) for archiving...", place.arch()));
            put_modules(place, &what, &kernel, scratch.path())?;
            kernels.push(format!("kernel{kernel}-{}", place.arch()));
        }
    }
    put_source(place, &what, scratch.path())?;
    let mut list = kernels.join("-");
    if list.len() > LONGEST_LIST {
        list = "manykernels".to_owned();
    }
    let to = destination(place, &what, &list)?;
    place.print(&format!("\nTarball location: {}", to.display()));
    // tar would write to where a link of that name leads.
    let aside = Scratch::new(&place.context.temporary).map_err(Error::from)?;
    let packed = aside.path().join(to.file_name().unwrap_or_default());
    tar(
        &["-C", &scratch.path().display().to_string(), "-caf", &packed.display().to_string(), "."],
        6,
        "Failed to make tarball.",
    )?;
    file::write(&to, |out| io::copy(&mut fs::File::open(&packed)?, out).map_err(Failure::from))?;
    Ok(0)
}

fn releases(place: &Place, what: &Version) -> Result<Vec<String>, DkmsError> {
    if place.typed.all {
        return Ok(place.standings(what)?.into_iter().map(|standing| standing.kernel).collect());
    }
    Ok(place.releases())
}

fn destination(place: &Place, what: &Version, list: &str) -> Result<PathBuf, DkmsError> {
    let name = match &place.typed.archive {
        Some(path) if path.parent().is_some_and(|dir| dir != Path::new("")) => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            return Ok(path.clone());
        }
        Some(name) => name.clone(),
        None => format!("{}-{}-{list}.dkms.tar.gz", what.name, what.version).into(),
    };
    // Who wrote the records may not be who writes now.
    let to = place.records.directory_for(what, "tarball")?.join(name);
    if to.is_symlink() {
        fs::remove_file(&to)?;
    }
    Ok(to)
}

fn put_source(place: &Place, what: &Version, scratch: &Path) -> Result<(), DkmsError> {
    let (package, _) = place.package(what)?;
    if place.typed.binaries_only {
        let own = scratch.join("dkms_binaries_only");
        fs::create_dir(&own)?;
        fs::write(own.join("PACKAGE_NAME"), format!("{}\n", what.name))?;
        fs::write(own.join("PACKAGE_VERSION"), format!("{}\n", what.version))?;
        fs::write(own.join("dkms.conf"), package.dkms_conf()?)?;
        return Ok(());
    }
    place.print(&format!("\nMarking {} for archiving...", package.source.display()));
    let own = scratch.join("dkms_source_tree");
    fs::create_dir(&own)?;
    let copied = context::command("cp").args(["-r", "--"]).arg(package.source.join(".")).arg(own).status()?;
    if copied.success() { Ok(()) } else { Err(DkmsError::new(6, &["Failed to make tarball."])) }
}

/// The modules that kcache has built for a kernel, out of its store.
fn put_modules(place: &Place, what: &Version, kernel: &str, scratch: &Path) -> Result<(), DkmsError> {
    let none = || {
        let line = format!("No modules built for {kernel} ({}).", place.arch());
        DkmsError::new(6, &[&line, "Modules must already be in the built state before using mktarball."])
    };
    let store = place.context.open_existing_store().map_err(Error::from)?.ok_or_else(none)?;
    let labels = [("package", what.name.as_str()), ("version", what.version.as_str()), ("kernel", kernel)];
    let rows = store.find(&labels).map_err(Error::from)?;
    let row = rows.iter().find(|row| row.built).ok_or_else(none)?;
    let manifest = store.lookup(&row.key).map_err(Error::from)?.ok_or_else(none)?.into_manifest();
    let own = scratch.join("dkms_main_tree").join(kernel).join(place.arch());
    fs::create_dir_all(own.join("module"))?;
    fs::create_dir_all(own.join("log"))?;
    for output in manifest.outputs.iter().filter(|output| output.role != Role::Debug) {
        let to = if output.role == Role::Log {
            own.join("log/make.log")
        } else {
            own.join("module").join(&output.name)
        };
        fs::write(to, object(&store, output)?.ok_or_else(none)?)?;
    }
    Ok(())
}

fn object(store: &Store, output: &kcache::store::Output) -> Result<Option<Vec<u8>>, DkmsError> {
    Ok(store.read_object(&output.digest, output.size).map_err(Error::from)?)
}

/// Unpacks an archive's source to where sources are, and adds it.
pub fn load(place: &Place) -> Result<Version, DkmsError> {
    let what = unpack(place)?;
    if !place.records.is_added(&what) {
        add_version(place, &what)?;
    }
    Ok(what)
}

/// The same without adding it.
pub fn unpack(place: &Place) -> Result<Version, DkmsError> {
    let Some(archive) = &place.typed.archive else {
        return Err(DkmsError::new(2, &[" does not exist."]));
    };
    unpack_archive(place, archive)
}

pub fn unpack_archive(place: &Place, archive: &Path) -> Result<Version, DkmsError> {
    if !archive.exists() {
        return Err(DkmsError::new(2, &[&format!("{} does not exist.", archive.display())]));
    }
    if archive.extension().is_some_and(|extension| extension == "rpm") {
        return Err(DkmsError::new(9, &["kcache installs no .rpm files: use rpm."]));
    }
    let scratch = Scratch::new(&place.context.temporary).map_err(Error::from)?;
    let source = source_of(archive, scratch.path())?;
    if scratch.path().join("dkms_main_tree").is_dir() {
        warn("the modules in the tarball are unsigned; building from its source instead.");
    }
    let package = kcache::kernel::packages::at_path(&source).map_err(Error::from)?;
    let what = Version { name: package.name, version: package.version };
    if place.records.is_added(&what) && !place.typed.force {
        let line = format!("{}/{} is already added!", what.name, what.version);
        return Err(DkmsError::new(8, &[&line, "Aborting."]));
    }
    place.print(&format!("\nLoading tarball for {}/{}", what.name, what.version));
    copy_source(place, &source)
}

/// Unpacks an archive into an empty directory; where the source in it lies, which is all that will be copied: no link in it
/// leads to the rest.
fn source_of(archive: &Path, to: &Path) -> Result<PathBuf, DkmsError> {
    let wrong = "Tarball does not appear to be a correctly formed DKMS archive.";
    let from = archive.display().to_string();
    let flags = ["--no-same-owner", "--no-same-permissions", "--no-overwrite-dir"];
    if is_too_large(&from)? {
        let most =
            format!("{from} is refused: it holds more than {MOST_FILES} files or {} GiB.", MOST_BYTES >> 30);
        return Err(DkmsError::new(7, &[&most]));
    }
    let names = tar(&["-taf", &from], 3, wrong)?;
    if let Some(name) = names.lines().find(|name| !is_inside(Path::new(name))) {
        return Err(hostile(archive, name));
    }
    tar(&[&["-xaf", &from, "-C", &to.display().to_string()][..], &flags[..]].concat(), 3, wrong)?;
    // What the whole is searched for must not lead out of the whole either.
    check(archive, to, to)?;
    let source = source_in(to).ok_or_else(|| {
        DkmsError::new(
            7,
            &["No valid dkms.conf in dkms_source_tree.", &format!("{from} is not a valid DKMS tarball.")],
        )
    })?;
    check(archive, &source, &source)?;
    Ok(source)
}

/// Whether an archive says that it holds more than a source can have. Whether it is one is found out by the next who reads it.
fn is_too_large(archive: &str) -> io::Result<bool> {
    let mut tar = context::command("tar");
    tar.args(["--force-local", "--numeric-owner", "-tvaf", archive])
        .stderr(Stdio::null())
        .stdout(Stdio::piped());
    let mut tar = tar.spawn()?;
    let Some(listed) = tar.stdout.take() else { return Ok(false) };
    let (mut files, mut bytes, mut rest) = (0, 0u64, BufReader::new(listed.take(MOST_LISTED)));
    let mut line = Vec::new();
    while files <= MOST_FILES && bytes <= MOST_BYTES && rest.read_until(b'\n', &mut line)? > 0 {
        files += 1;
        bytes = bytes.saturating_add(size_of_member(&line));
        line.clear();
    }
    let is_too_large = files > MOST_FILES || bytes > MOST_BYTES || rest.get_ref().limit() == 0;
    let _ = tar.kill(); // it may have ended
    tar.wait()?;
    Ok(is_too_large)
}

/// The size in a line of tar's: `-rw-r--r-- 0/0   1234 2026-11-30 07:50 NAME`. Devices have none.
fn size_of_member(line: &[u8]) -> u64 {
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let size = words.nth(2).and_then(|size| std::str::from_utf8(size).ok()?.parse().ok());
    size.unwrap_or(0)
}

/// Where the source lies in an unpacked archive: DKMS's place, or wherever the recipe is.
fn source_in(dir: &Path) -> Option<PathBuf> {
    let mut waiting = vec![dir.join("dkms_source_tree"), dir.to_owned()];
    while let Some(dir) = (!waiting.is_empty()).then(|| waiting.remove(0)) {
        if dir.join("dkms.conf").is_file() {
            return Some(dir);
        }
        let entries = fs::read_dir(&dir).into_iter().flatten().flatten();
        waiting.extend(entries.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
    None
}

fn is_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Refuses what is neither file nor directory nor a link that stays inside.
fn check(archive: &Path, top: &Path, dir: &Path) -> Result<(), DkmsError> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.strip_prefix(top).unwrap_or(&path).display().to_string();
        let kind = fs::symlink_metadata(&path)?.file_type();
        if kind.is_dir() {
            check(archive, top, &path)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&path)?;
            let leads = fs::canonicalize(&path)
                .is_ok_and(|leads| fs::canonicalize(top).is_ok_and(|top| leads.starts_with(top)));
            if target.is_absolute() || !leads {
                return Err(hostile(archive, &name));
            }
        } else if !kind.is_file() {
            return Err(hostile(archive, &name));
        }
    }
    Ok(())
}

fn hostile(archive: &Path, name: &str) -> DkmsError {
    DkmsError::new(
        7,
        &[&format!("refusing {}: {name} is outside of it, or not a regular file.", archive.display())],
    )
}

/// Runs tar; what it printed. A colon in an archive's name does not make it another host's.
fn tar(arguments: &[&str], code: u8, wrong: &str) -> Result<String, DkmsError> {
    let output = context::command("tar").arg("--force-local").args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(DkmsError::new(code, &[wrong, String::from_utf8_lossy(&output.stderr).trim_end()]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs::os::unix::fs::symlink;

    /// What becomes of an archive of a source with this link in it, beside which another directory lies.
    fn source_with(link: &str) -> Result<PathBuf, DkmsError> {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = from.path().join("dkms_source_tree");
        fs::create_dir_all(source.join("src")).unwrap();
        fs::create_dir(from.path().join("other")).unwrap();
        fs::write(source.join("dkms.conf"), "").unwrap();
        symlink(link, source.join("src/link")).unwrap();
        let archive = from.path().join("a-1:2.tar");
        let [own, all] = [from.path(), &archive].map(|path| path.display().to_string());
        tar(&["-C", &own, "-cf", &all, "dkms_source_tree", "other"], 1, "")?;
        source_of(&archive, to.path())
    }

    #[test]
    fn links_stay_inside_what_is_copied() {
        assert!(source_with("../dkms.conf").is_ok_and(|source| source.ends_with("dkms_source_tree")));
        for link in ["../../other", "../..", "/etc", "../../../etc"] {
            let trouble = source_with(link).unwrap_err();
            assert!(trouble.lines[0].contains("src/link is outside of it"), "{link}: {:?}", trouble.lines);
        }
    }

    #[test]
    fn a_colon_in_a_name_is_no_host() {
        let trouble = tar(&["-taf", "host:no-such.tar"], 3, "").unwrap_err();
        assert!(trouble.lines[1].contains("No such file or directory"), "{:?}", trouble.lines);
    }

    #[test]
    fn what_an_archive_would_unpack_to_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().display().to_string();
        let archive = |name: &str, file: &str, flag: &str| {
            let path = dir.path().join(name).display().to_string();
            tar(&["-C", &own, flag, "-caf", &path, file], 1, "").unwrap();
            is_too_large(&path).unwrap()
        };
        fs::write(dir.path().join("small"), "x").unwrap();
        assert!(!archive("small.tar.gz", "small", "-v"));
        fs::File::create(dir.path().join("hole")).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert!(archive("sparse.tar", "hole", "-S"));
        assert_eq!(size_of_member(b"-rw-r--r-- 0/0         1234 2026-11-30 07:50 a 99"), 1234);
        assert_eq!(size_of_member(b"crw-r--r-- 0/0         1,3 2026-11-30 07:50 null"), 0);
    }
}
