//! In-tree modules that DKMS moved out of the way: `/var/lib/dkms/NAME/original_module/KERNEL/ARCH/MODULE.ko`.
//!
//! On some distributions DKMS does so when it installs a module of the same name, and moves the module back when the package
//! is removed. It is the kernel's only copy, so whoever removes the package gives it back.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fs_err as fs;
use fs_err::os::unix::fs::OpenOptionsExt;

use super::Records;
use crate::bounded_read::{self, MOST_DATA};
use crate::module_name::ModuleName;

/// DKMS's directory for them, beside the versions of a package.
pub(super) const DIRECTORY: &str = "original_module";

/// A module that DKMS keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    /// Path of the kept file.
    pub kept: PathBuf,
    /// Path of its place in the kernel's tree, relative to the tree.
    pub place: PathBuf,
}

impl Records {
    /// Whether DKMS keeps any for a package and kernel.
    pub fn has_originals(&self, package: &str, release: &str, arch: &str) -> bool {
        self.directory(&[package, DIRECTORY, release, arch]).is_some()
    }

    /// The in-tree modules that DKMS keeps of a kernel because of a package. `tree` is the kernel's.
    pub fn originals(
        &self,
        package: &str,
        release: &str,
        arch: &str,
        tree: &Path,
    ) -> io::Result<Vec<Original>> {
        let Some(directory) = self.directory(&[package, DIRECTORY, release, arch]) else {
            return Ok(Vec::new());
        };
        let order = match bounded_read::bytes(tree.join("modules.order"), MOST_DATA) {
            Ok(text) => String::from_utf8_lossy(&text).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(e),
        };
        let mut found = Vec::new();
        for name in super::names(&directory)? {
            let kept = directory.join(&name);
            let is_file = fs::symlink_metadata(&kept)?.is_file();
            let Some(module) = ModuleName::of_file(Path::new(&name)).filter(|_| is_file) else { continue };
            found.push(Original { kept, place: place(&order, &module).join(&name) });
        }
        Ok(found)
    }
}

/// The directory of an in-tree module: modules.order of the kernel's build lists it. A module that is not of the kernel's
/// build was in `extra`, where distributions have such.
fn place(order: &str, module: &ModuleName) -> PathBuf {
    let is_plain = |path: &&Path| {
        path.starts_with("kernel")
            && path.components().all(|part| matches!(part, std::path::Component::Normal(_)))
    };
    let mut paths = order.lines().map(|line| Path::new(line.trim())).filter(is_plain);
    let is_it = |path: &&Path| {
        let of_build = path.with_extension("ko");
        ModuleName::of_file(path).or_else(|| ModuleName::of_file(&of_build)).as_ref() == Some(module)
    };
    paths.find(is_it).and_then(Path::parent).unwrap_or(Path::new("extra")).to_owned()
}

/// Puts a kept module back into a kernel's tree, durably; the kept file stays. An existing file is left alone. Directories are
/// created, and links in the way are an error.
pub fn give_back(tree: &Path, original: &Original) -> io::Result<()> {
    let live = tree.join(&original.place);
    if fs::symlink_metadata(&live).is_ok() {
        return Ok(());
    }
    let records = original.kept.parent().unwrap_or(Path::new("/"));
    let Some(bytes) = bounded_read::bytes_in(records, &original.kept, MOST_DATA)? else {
        return Err(io::Error::other(format!("{} is not a module", original.kept.display())));
    };
    let mut directory = tree.to_owned();
    for part in original.place.parent().into_iter().flat_map(Path::components) {
        directory.push(part);
        match fs::symlink_metadata(&directory) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(io::Error::other(format!("{} is not a directory", directory.display()))),
            Err(_) => fs::create_dir(&directory)?,
        }
    }
    let draft =
        directory.join(format!(".kcache-{}", original.place.file_name().unwrap_or_default().display()));
    // What lies there may be a link.
    match fs::remove_file(&draft) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(&draft)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&draft, &live)?;
    fs::File::open(&directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_module_goes_back_to_where_the_kernel_had_it() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, records) = (dir.path().join("tree"), dir.path().join("dkms"));
        let kept = records.join("hd/original_module/6.1/x86_64");
        fs::create_dir_all(&kept).unwrap();
        fs::create_dir_all(&tree).unwrap();
        fs::write(tree.join("modules.order"), "kernel/a/other.ko\nkernel/drivers/hd/hd-x.ko\n").unwrap();
        for name in ["hd_x.ko.xz", "strange.ko", "README"] {
            fs::write(kept.join(name), name).unwrap();
        }
        let found = Records::at(&records).originals("hd", "6.1", "x86_64", &tree).unwrap();
        let places: Vec<_> = found.iter().map(|original| original.place.display().to_string()).collect();
        assert_eq!(places, ["kernel/drivers/hd/hd_x.ko.xz", "extra/strange.ko"]);
        for original in &found {
            give_back(&tree, original).unwrap();
            give_back(&tree, original).unwrap();
        }
        assert_eq!(fs::read_to_string(tree.join("kernel/drivers/hd/hd_x.ko.xz")).unwrap(), "hd_x.ko.xz");
        assert!(Records::at(&records).originals("other", "6.1", "x86_64", &tree).unwrap().is_empty());
    }

    #[test]
    fn a_link_in_the_tree_leads_nothing_out_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let (tree, out) = (dir.path().join("tree"), dir.path().join("out"));
        fs::create_dir_all(&tree).unwrap();
        fs::create_dir(&out).unwrap();
        fs::write(dir.path().join("a.ko"), "a").unwrap();
        fs_err::os::unix::fs::symlink(&out, tree.join("extra")).unwrap();
        let original = Original { kept: dir.path().join("a.ko"), place: "extra/a.ko".into() };
        assert!(give_back(&tree, &original).is_err());
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
        // In the draft's place.
        fs::remove_file(tree.join("extra")).unwrap();
        fs::create_dir(tree.join("extra")).unwrap();
        fs::write(out.join("file"), "theirs").unwrap();
        fs_err::os::unix::fs::symlink(out.join("file"), tree.join("extra/.kcache-a.ko")).unwrap();
        give_back(&tree, &original).unwrap();
        assert_eq!(fs::read_to_string(out.join("file")).unwrap(), "theirs");
        assert_eq!(fs::read_to_string(tree.join("extra/a.ko")).unwrap(), "a");
        // In the place of the kept file, since it was listed.
        fs::remove_file(tree.join("extra/a.ko")).unwrap();
        fs::remove_file(&original.kept).unwrap();
        fs_err::os::unix::fs::symlink(out.join("file"), &original.kept).unwrap();
        assert!(give_back(&tree, &original).is_err());
        assert!(!tree.join("extra/a.ko").exists());
    }
}
