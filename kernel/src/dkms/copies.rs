//! kcache's own records of what `dkms build` and `dkms install` did, in DKMS's places, for whoever looks there.
//!
//! ```text
//! /var/lib/dkms/NAME/
//!   VERSION/KERNEL/ARCH/module/*.ko[.xz...]        built: copies of the modules, and Module.symvers
//!                       log/make.log               the build's log
//!                       .kcache                    whose record it is: the key of the build
//!   VERSION/build/make.log                         the log of a build that failed
//!   kernel-KERNEL-ARCH -> VERSION/KERNEL/ARCH      installed
//! ```
//!
//! A record is filled beside its place and renamed there, as DKMS does, so it is complete or absent. Nothing that kcache installs
//! is read from it: it says which versions were built by hand, and its files are for others. The kernel's generation says what
//! is installed, so a link that outlives an interrupted run does no harm.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::symlink;

use super::{DkmsBuild, Records, Version, make_directory};
use crate::bounded_read;
use crate::rootfs::put;

/// The file that marks a record as kcache's.
const MARK: &str = ".kcache";
/// In place of a key: the package has no modules, so there is no build.
pub const NO_MODULES: &str = "none";
/// Limit in bytes on its content, a key.
const MOST_MARK: u64 = 200;

impl Records {
    /// The key of a build, if the record in this directory is kcache's.
    pub(super) fn key_in(directory: &Path) -> Option<String> {
        let text = bounded_read::bytes_in(directory, &directory.join(MARK), MOST_MARK).ok().flatten()?;
        Some(String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// Records a build of an added version, replacing an earlier record; `fill` writes the files into an empty directory.
    pub fn keep<E: From<io::Error>>(
        &self,
        built: &DkmsBuild,
        key: &str,
        fill: &dyn Fn(&Path) -> Result<(), E>,
    ) -> Result<(), E> {
        let of_version = make_directory(&make_directory(self.dir(), &built.what.name)?, &built.what.version)?;
        let of_kernel = make_directory(&of_version, &built.kernel)?;
        let draft = of_kernel.join(format!(".tmp_{}_kcache", built.arch));
        let place =
            super::below(&of_kernel, &built.arch).ok_or_else(|| io::Error::other("no architecture"))?;
        remove_all(&draft)?;
        fs::create_dir(&draft)?;
        fill(&draft)?;
        put(&draft.join(MARK), format!("{key}\n").as_bytes())?;
        remove_all(&place)?;
        Ok(fs::rename(&draft, &place)?)
    }

    /// Notes which version is installed for a kernel.
    pub fn activate(&self, built: &DkmsBuild) -> io::Result<()> {
        make_directory(self.dir(), &built.what.name)?;
        let link = self.link(&built.what, &built.kernel, &built.arch);
        match fs::remove_file(&link) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(PathBuf::from(&built.what.version).join(&built.kernel).join(&built.arch), link)
    }

    /// Notes that a version is no longer installed for a kernel.
    pub fn deactivate(&self, what: &Version, kernel: &str, arch: &str) -> io::Result<()> {
        let own = self.directory(&[&what.name, &what.version, kernel, arch]);
        let active = self.active(what, kernel, arch);
        match own {
            Some(own) if active.is_some() && active == fs::canonicalize(&own).ok() => {
                fs::remove_file(self.link(what, kernel, arch))
            }
            _ => Ok(()),
        }
    }

    /// Keeps the log of a failed build of an added version where DKMS has it, and returns its path.
    pub fn keep_log(&self, what: &Version, log: &[u8]) -> io::Result<PathBuf> {
        let path = self.directory_for(what, "build")?.join("make.log");
        put(&path, log)?;
        Ok(path)
    }
}

/// Deletes whatever is there. A link is deleted itself.
fn remove_all(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built(version: &str) -> DkmsBuild {
        let what = Version { name: "a".into(), version: version.into() };
        DkmsBuild { what, kernel: "6.1".into(), arch: "x86_64".into(), installed: false, key: None }
    }

    fn keep(records: &Records, built: &DkmsBuild, text: &str) -> io::Result<()> {
        records.keep(built, "key", &|draft| {
            fs::create_dir(draft.join("module"))?;
            fs::write(draft.join("module/a.ko"), text)
        })
    }

    #[test]
    fn a_record_says_whose_it_is_and_does_not_count_as_installed_by_dkms() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::at(dir.path());
        let (one, two) = (built("1.0"), built("2.0"));
        records.add(&one.what, Path::new("/usr/src/a-1.0")).unwrap();
        records.add(&two.what, Path::new("/usr/src/a-2.0")).unwrap();
        keep(&records, &one, "old").unwrap();
        keep(&records, &one, "new").unwrap();
        records.activate(&one).unwrap();
        let path = dir.path().join("a/kernel-6.1-x86_64/module/a.ko");
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        let found = records.built(&one.what).unwrap();
        assert_eq!(found, [DkmsBuild { key: Some("key".into()), ..one.clone() }]);
        assert!(records.installed("6.1").unwrap().is_empty());
        // Another version takes the link, so the first one no longer has it.
        keep(&records, &two, "other").unwrap();
        records.activate(&two).unwrap();
        records.deactivate(&one.what, "6.1", "x86_64").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "other");
        records.forget_build(&records.built(&two.what).unwrap()[0]).unwrap();
        assert!(!dir.path().join("a/kernel-6.1-x86_64").is_symlink());
        let log = records.keep_log(&one.what, b"text").unwrap();
        assert_eq!(log, dir.path().join("a/1.0/build/make.log"));
    }

    #[test]
    fn links_in_the_way_of_a_record_lead_nowhere() {
        for name in
            ["a", "a/1.0", "a/1.0/6.1", "a/1.0/6.1/x86_64", "a/1.0/6.1/.tmp_x86_64_kcache", "a/1.0/build"]
        {
            let (dir, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            fs::write(out.path().join("make.log"), "theirs").unwrap();
            let link = dir.path().join(name);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(out.path(), &link).unwrap();
            let records = Records::at(dir.path());
            let _ = keep(&records, &built("1.0"), "text"); // an error is fine
            let _ = records.keep_log(&built("1.0").what, b"text");
            let _ = records.activate(&built("1.0"));
            let left: Vec<_> = fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, ["make.log"], "{name}");
            assert_eq!(fs::read_to_string(out.path().join("make.log")).unwrap(), "theirs", "{name}");
        }
    }
}
