//! DKMS's records of modules that are added, built and installed.
//!
//! ```text
//! /var/lib/dkms/NAME/
//!   VERSION/source -> /usr/src/NAME-VERSION        added
//!   VERSION/KERNEL/ARCH/module/*.ko[.xz...]        built: DKMS's own copies
//!   kernel-KERNEL-ARCH -> VERSION/KERNEL/ARCH      installed
//! ```
//!
//! There is no index, so a record exists or not, and a crash leaves at most an empty directory, which is ignored. DKMS
//! understands the records that kcache writes (`copies`), and vice versa, so a host can return to DKMS. Files in a kernel's tree
//! are identified as DKMS's by comparison with its copies, because they contain no mark.
//!
//! Under `--root` the records are untrusted. DKMS creates directories, so anything else is not a record: a link in the
//! place of a directory could redirect writes, deletions and comparisons to any path on this machine.

pub mod copies;
pub mod framework;
pub mod originals;

use std::io;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::symlink;

use crate::bounded_read::{self, MOST_DATA};
use crate::install::ForeignFile;
use crate::module_name::ModuleName;
use crate::modules;
use crate::recipe::{is_flat_name, is_version};
use crate::release;
use crate::rootfs::Root;

/// DKMS's directory for records.
pub const TREE: &str = "/var/lib/dkms";
/// Directory in a kernel's tree into which DKMS installs on Debian and Arch.
const OWN_DIR: &str = "updates/dkms";

/// DKMS's records on one system.
#[derive(Clone, Debug)]
pub struct Records {
    dir: PathBuf,
}

/// A version of a DKMS module, which is a package in kcache's terms.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// PACKAGE_NAME in `dkms.conf`.
    pub name: String,
    /// PACKAGE_VERSION in `dkms.conf`.
    pub version: String,
}

/// A version that DKMS has built for a kernel.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DkmsBuild {
    /// The package's version.
    pub what: Version,
    /// Release of the kernel.
    pub kernel: String,
    /// The architecture as DKMS names it: `uname -m`.
    pub arch: String,
    /// Whether DKMS has also installed it.
    pub installed: bool,
    /// The key of the build, if the record is kcache's. Then the kernel's generation says whether it is installed.
    pub key: Option<String>,
}

impl Records {
    /// The records of a system; empty if DKMS was never used.
    pub fn of(root: &Root) -> io::Result<Records> {
        Ok(Records { dir: root.place(TREE)? })
    }

    /// The records in a directory.
    pub fn at(dir: impl Into<PathBuf>) -> Records {
        Records { dir: dir.into() }
    }

    /// The directory of all records.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory for records of a version.
    pub fn place(&self, what: &Version) -> PathBuf {
        self.dir.join(&what.name).join(&what.version)
    }

    /// Whether there are records of a version.
    pub fn has(&self, what: &Version) -> bool {
        self.directory(&[&what.name, &what.version]).is_some()
    }

    /// Whether a version has been added.
    pub fn is_added(&self, what: &Version) -> bool {
        let place = self.directory(&[&what.name, &what.version]);
        place.is_some_and(|place| place.join("source").is_symlink() || place.join("source").is_dir())
    }

    /// A directory of the records, if all of its parents are directories and not links.
    fn directory(&self, names: &[&str]) -> Option<PathBuf> {
        let mut place = self.dir.clone();
        for name in names {
            place = below(&place, name)?;
            if !fs::symlink_metadata(&place).is_ok_and(|metadata| metadata.is_dir()) {
                return None;
            }
        }
        Some(place)
    }

    /// All added versions, sorted by name and version.
    pub fn added(&self) -> io::Result<Vec<Version>> {
        let mut found = self.versions()?;
        found.retain(|what| self.is_added(what));
        Ok(found)
    }

    /// Every version that has a directory, sorted by name and version, whether or not its source is known.
    pub fn versions(&self) -> io::Result<Vec<Version>> {
        let mut found = Vec::new();
        for name in names(&self.dir)?.into_iter().filter(|name| is_flat_name(name)) {
            let Some(place) = self.directory(&[&name]) else { continue };
            for version in names(&place)?.into_iter().filter(|version| is_version(version)) {
                if version != originals::DIRECTORY && self.directory(&[&name, &version]).is_some() {
                    found.push(Version { name: name.clone(), version });
                }
            }
        }
        found.sort();
        Ok(found)
    }

    /// Adds a version with this source directory, given as a path inside the system.
    pub fn add(&self, what: &Version, source: &Path) -> io::Result<()> {
        fs::create_dir_all(&self.dir)?;
        let place = make_directory(&make_directory(&self.dir, &what.name)?, &what.version)?;
        symlink(source, place.join("source"))
    }

    /// Creates a subdirectory in the records of an added version, if missing.
    pub fn directory_for(&self, what: &Version, name: &str) -> io::Result<PathBuf> {
        make_directory(&make_directory(&make_directory(&self.dir, &what.name)?, &what.version)?, name)
    }

    /// The builds of a version, oldest kernel first.
    pub fn built(&self, what: &Version) -> io::Result<Vec<DkmsBuild>> {
        let mut found = Vec::new();
        let Some(place) = self.directory(&[&what.name, &what.version]) else { return Ok(found) };
        for kernel in names(&place)?.into_iter().filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
        {
            let Some(of_kernel) = self.directory(&[&what.name, &what.version, &kernel]) else { continue };
            for arch in names(&of_kernel)? {
                let own = of_kernel.join(&arch);
                if self.directory(&[&what.name, &what.version, &kernel, &arch, "module"]).is_some() {
                    let key = Records::key_in(&own);
                    let is_active = self.active(what, &kernel, &arch) == fs::canonicalize(&own).ok();
                    // A package without modules is in no generation.
                    let installed = is_active && key.as_deref().is_none_or(|key| key == copies::NO_MODULES);
                    found.push(DkmsBuild {
                        what: what.clone(),
                        kernel: kernel.clone(),
                        arch,
                        installed,
                        key,
                    });
                }
            }
        }
        found.sort_by(|a, b| release::compare(&a.kernel, &b.kernel));
        Ok(found)
    }

    /// All builds that DKMS has installed for a kernel.
    pub fn installed(&self, kernel: &str) -> io::Result<Vec<DkmsBuild>> {
        let mut found = Vec::new();
        for what in self.added()? {
            found.extend(
                self.built(&what)?.into_iter().filter(|built| built.installed && built.kernel == kernel),
            );
        }
        Ok(found)
    }

    /// The files in a kernel's tree that belong to an installed build: in DKMS's own directory by name, elsewhere only
    /// if their bytes equal DKMS's copies.
    pub fn files(&self, built: &DkmsBuild, tree: &Path) -> io::Result<Vec<ForeignFile>> {
        let copies = self.copies(built)?;
        let mut found = Vec::new();
        for path in modules::foreign(tree)? {
            for copy in copies.iter().filter(|copy| ModuleName::of_file(copy) == ModuleName::of_file(&path)) {
                if path.starts_with(OWN_DIR) || is_copy(&tree.join(&path), copy)? {
                    found.push(ForeignFile { package: built.what.name.clone(), path: path.clone() });
                }
            }
        }
        found.dedup();
        Ok(found)
    }

    /// Whether all modules of a build are in the kernel's tree with the same bytes.
    pub fn is_intact(&self, built: &DkmsBuild, tree: &Path) -> io::Result<bool> {
        let foreign = modules::foreign(tree)?;
        for copy in self.copies(built)? {
            let mut alike =
                foreign.iter().filter(|path| ModuleName::of_file(path) == ModuleName::of_file(&copy));
            if !alike.any(|path| is_copy(&tree.join(path), &copy).unwrap_or(false)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether the copies of a build's modules were deleted. A record of a package without modules has never had any.
    pub fn is_without_modules(&self, built: &DkmsBuild) -> bool {
        built.key.as_deref() != Some(copies::NO_MODULES)
            && self.copies(built).is_ok_and(|found| found.is_empty())
    }

    /// Paths of DKMS's copies of a build's modules.
    fn copies(&self, built: &DkmsBuild) -> io::Result<Vec<PathBuf>> {
        let Version { name, version } = &built.what;
        let Some(dir) = self.directory(&[name, version, &built.kernel, &built.arch, "module"]) else {
            return Ok(Vec::new());
        };
        let mut copies: Vec<PathBuf> = names(&dir)?.into_iter().map(|name| dir.join(name)).collect();
        copies.retain(|copy| ModuleName::of_file(copy).is_some());
        Ok(copies)
    }

    /// Deletes the record of a build for a kernel.
    pub fn forget_build(&self, built: &DkmsBuild) -> io::Result<()> {
        let Version { name, version } = &built.what;
        let Some(kernel) = self.directory(&[name, version, &built.kernel]) else { return Ok(()) };
        self.deactivate(&built.what, &built.kernel, &built.arch)?;
        fs::remove_dir_all(kernel.join(&built.arch))?;
        remove_if_empty(&kernel)
    }

    /// Deletes all records of a version.
    pub fn forget(&self, what: &Version) -> io::Result<()> {
        if let Some(place) = self.directory(&[&what.name, &what.version]) {
            fs::remove_dir_all(&place)?;
        }
        remove_if_empty(&self.dir.join(&what.name))
    }

    fn link(&self, what: &Version, kernel: &str, arch: &str) -> PathBuf {
        self.dir.join(&what.name).join(format!("kernel-{kernel}-{arch}"))
    }

    fn active(&self, what: &Version, kernel: &str, arch: &str) -> Option<PathBuf> {
        fs::canonicalize(self.link(what, kernel, arch)).ok()
    }
}

/// The tree of another kernel whose `weak-updates` link to one of these files, if any: without the file, that kernel
/// would lose its module.
pub fn weakly_used(root: &Root, tree: &Path, files: &[ForeignFile]) -> io::Result<Option<PathBuf>> {
    for modules in crate::kernels::modules_dirs(root) {
        for other in names(&modules)?.into_iter().map(|name| modules.join(name)).filter(|other| other != tree)
        {
            for link in
                names(&other.join("weak-updates"))?.into_iter().map(|n| other.join("weak-updates").join(n))
            {
                let Ok(target) = fs::read_link(&link) else { continue };
                if files.iter().any(|file| target.ends_with(&file.path)) {
                    return Ok(Some(other));
                }
            }
        }
    }
    Ok(None)
}

/// Whether two files have equal bytes. False for anything that cannot be a module: a link, a FIFO, a file above the
/// limit.
fn is_copy(file: &Path, copy: &Path) -> io::Result<bool> {
    if file.is_symlink() || copy.is_symlink() {
        return Ok(false);
    }
    match (bounded_read::bytes(file, MOST_DATA), bounded_read::bytes(copy, MOST_DATA)) {
        (Err(e), _) | (_, Err(e)) if e.kind() != io::ErrorKind::InvalidData => Err(e),
        (Ok(file), Ok(copy)) => Ok(file == copy),
        _ => Ok(false),
    }
}

/// Path of a name in a directory; `None` if the name would lead elsewhere.
fn below(dir: &Path, name: &str) -> Option<PathBuf> {
    let mut parts = Path::new(name).components();
    let is_one =
        matches!(parts.next(), Some(Component::Normal(part)) if part == name) && parts.next().is_none();
    is_one.then(|| dir.join(name))
}

/// Creates a directory, or returns the existing one.
fn make_directory(dir: &Path, name: &str) -> io::Result<PathBuf> {
    let place =
        below(dir, name).ok_or_else(|| io::Error::other(format!("{name:?} is no name of a record")))?;
    match fs::create_dir(&place) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    match fs::symlink_metadata(&place)?.is_dir() {
        true => Ok(place),
        false => {
            Err(io::Error::other(format!("{} is no directory: nothing is recorded there", place.display())))
        }
    }
}

fn remove_if_empty(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound) => Ok(()),
        other => other,
    }
}

/// The names in a directory, sorted; empty if it does not exist.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for entry in entries {
        found.extend(entry?.file_name().into_string());
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, Records, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("dkms/a/1.0/6.1/x86_64/module");
        let tree = dir.path().join("6.1");
        for made in [&own, &tree.join("updates/dkms"), &tree.join("extra")] {
            fs::create_dir_all(made).unwrap();
        }
        fs::write(own.join("a.ko"), "bytes").unwrap();
        symlink("/usr/src/a-1.0", dir.path().join("dkms/a/1.0/source")).unwrap();
        let records = Records::at(dir.path().join("dkms"));
        (dir, records, tree)
    }

    fn a() -> Version {
        Version { name: "a".into(), version: "1.0".into() }
    }

    #[test]
    fn states_are_read_from_links_and_directories() {
        let (dir, records, _) = host();
        assert_eq!(records.added().unwrap(), [a()]);
        assert!(!records.built(&a()).unwrap()[0].installed);
        symlink("1.0/6.1/x86_64", dir.path().join("dkms/a/kernel-6.1-x86_64")).unwrap();
        let installed = records.installed("6.1").unwrap();
        assert_eq!((installed.len(), installed[0].arch.as_str()), (1, "x86_64"));
        records.forget_build(&installed[0]).unwrap();
        assert!(records.built(&a()).unwrap().is_empty() && records.is_added(&a()));
        records.forget(&a()).unwrap();
        assert_eq!(names(&dir.path().join("dkms")).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_file_elsewhere_belongs_to_dkms_only_if_equal() {
        let (_dir, records, tree) = host();
        fs::write(tree.join("updates/dkms/a.ko.xz"), "signed since").unwrap();
        fs::write(tree.join("extra/a.ko"), "somebody else's").unwrap();
        let built = records.built(&a()).unwrap().remove(0);
        let paths = |records: &Records| -> Vec<PathBuf> {
            records.files(&built, &tree).unwrap().into_iter().map(|file| file.path).collect()
        };
        assert_eq!(paths(&records), [PathBuf::from("updates/dkms/a.ko.xz")]);
        assert!(!records.is_intact(&built, &tree).unwrap());
        fs::write(tree.join("extra/a.ko"), "bytes").unwrap();
        assert_eq!(paths(&records), ["extra/a.ko", "updates/dkms/a.ko.xz"].map(PathBuf::from));
        assert!(records.is_intact(&built, &tree).unwrap());
    }

    /// Replaces each directory of a record in turn by a link to another directory.
    #[test]
    fn links_in_place_of_directories_are_not_records() {
        for depth in ["a", "a/1.0", "a/1.0/6.1", "a/1.0/6.1/x86_64", "a/1.0/6.1/x86_64/module"] {
            let (dir, records, tree) = host();
            symlink("1.0/6.1/x86_64", dir.path().join("dkms/a/kernel-6.1-x86_64")).unwrap();
            let (here, theirs) = (dir.path().join("dkms").join(depth), dir.path().join("theirs"));
            fs::rename(&here, &theirs).unwrap();
            symlink(&theirs, &here).unwrap();
            let before = listing(&theirs);
            assert_eq!(records.built(&a()).unwrap(), [], "{depth}");
            assert_eq!(records.is_added(&a()), depth.len() > "a/1.0".len(), "{depth}");
            let built = DkmsBuild {
                what: a(),
                kernel: "6.1".into(),
                arch: "x86_64".into(),
                installed: false,
                key: None,
            };
            assert_eq!(records.files(&built, &tree).unwrap(), [], "{depth}");
            let _ = records.forget_build(&built); // an error is fine
            let _ = records.forget(&a());
            let _ = records.add(&a(), Path::new("/usr/src/a-1.0"));
            let _ = records.directory_for(&a(), "tarball");
            assert_eq!(listing(&theirs), before, "{depth}");
        }
    }

    fn listing(dir: &Path) -> Vec<PathBuf> {
        let mut found = vec![dir.to_owned()];
        for name in names(dir).unwrap() {
            let path = dir.join(name);
            match path.is_dir() && !path.is_symlink() {
                true => found.extend(listing(&path)),
                false => found.push(path),
            }
        }
        found
    }

    #[test]
    fn names_that_lead_elsewhere_are_not_records() {
        let (dir, records, _) = host();
        fs::create_dir_all(dir.path().join("b/source")).unwrap();
        for (name, version) in
            [("..", "b"), ("a", "../../b"), ("../b", "."), ("", "a/1.0"), ("a", ""), ("a/", "1.0")]
        {
            let what = Version { name: name.into(), version: version.into() };
            assert!(!records.is_added(&what), "{what:?}");
            records.forget(&what).ok();
            assert!(records.add(&what, Path::new("/usr/src/x")).is_err(), "{what:?}");
        }
        assert!(dir.path().join("b/source").is_dir() && records.is_added(&a()));
    }

    #[test]
    fn special_files_are_not_compared_and_do_not_block() {
        let (dir, records, tree) = host();
        let copy = dir.path().join("dkms/a/1.0/6.1/x86_64/module/a.ko");
        let built = records.built(&a()).unwrap().remove(0);
        fs::write(tree.join("extra/a.ko"), "bytes").unwrap();
        let extra = [ForeignFile { package: "a".into(), path: "extra/a.ko".into() }];
        assert_eq!(records.files(&built, &tree).unwrap(), extra);
        let replace = |make: &dyn Fn(&Path)| {
            fs::remove_file(&copy).unwrap();
            make(&copy);
            assert!(!records.is_intact(&built, &tree).unwrap());
            assert_eq!(records.files(&built, &tree).unwrap(), []);
        };
        replace(&|at| rustix::fs::mkfifoat(rustix::fs::CWD, at, 0o600.into()).unwrap());
        replace(&|at| symlink("/dev/zero", at).unwrap());
        replace(&|at| fs::File::create(at).unwrap().set_len(1 << 40).unwrap());
    }
}
