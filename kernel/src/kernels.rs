//! The kernels of a system: those installed under a root, or a build tree given by path.
//!
//! A kernel is a directory `/lib/modules/R` (or `/usr/lib/modules/R`), and, if its headers are installed, a build tree
//! to which `build` leads ([`BuildTree`]).

mod boot_image;
mod build_tree;
mod headers_hint;

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::bounded_read;
use crate::compress::Compression;
use crate::kconfig::Kconfig;
use crate::modules_dir::{ModulesDir, has_kernel};
use crate::release;
use crate::rootfs::Root;

use boot_image::image_version;
pub use boot_image::{image, image_release, images, release_of_image};
pub use build_tree::{BuildTree, Mount, arch};
use build_tree::{config_in, missing_in, read_foreign_tree, read_tree, source_in, tree_release};
pub use headers_hint::headers_hint;

/// Why a kernel could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The path is not a kernel build tree.
    #[error("{} is not a kernel build tree: it has no {missing}", path.display())]
    NotABuildTree {
        /// Path of the directory.
        path: PathBuf,
        /// A file that every prepared build tree has.
        missing: &'static str,
    },
    /// A build tree contains a release that cannot be one.
    #[error("{} is not a kernel build tree: invalid release '{}'", path.display(), text.escape_debug())]
    NoRelease {
        /// Path of the directory.
        path: PathBuf,
        /// The invalid release.
        text: String,
    },
}

/// A kernel of the system, or a build tree.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// Release, as `uname -r` prints it.
    pub release: String,
    /// `/lib/modules/R` on this machine; `None` for a build tree of a kernel that is not installed.
    pub modules: Option<ModulesDir>,
    /// The build tree, or why there is none.
    pub headers: Headers,
    /// The image's build, as `uname -v` prints it, if there is an image that contains it.
    pub image_version: Option<String>,
    /// Whether nothing of the kernel itself is there: package managers leave such directories behind.
    pub is_leftover: bool,
}

/// Whether modules can be compiled for a kernel.
#[derive(Clone, Debug)]
pub enum Headers {
    /// They can, against this build tree.
    Present(Box<BuildTree>),
    /// No build tree is installed.
    Missing {
        /// Target of a dangling link `build`, as of a kernel that was built on another machine.
        leads_to: Option<PathBuf>,
    },
    /// The build tree is of another build of the same release than the installed image.
    OtherBuild {
        /// `uname -v` of the image.
        image: String,
        /// `uname -v` of the build tree.
        headers: String,
    },
    /// The build tree lacks a file that every build needs.
    Incomplete {
        /// Path of the missing file, in the system.
        missing: PathBuf,
    },
    /// The build tree belongs to another kernel.
    Wrong {
        /// Path of the build tree.
        path: PathBuf,
        /// The release it was prepared for.
        found: String,
    },
}

impl Kernel {
    /// The build tree, if it belongs to this kernel.
    pub fn build_tree(&self) -> Option<&BuildTree> {
        match &self.headers {
            Headers::Present(tree) => Some(tree),
            _ => None,
        }
    }

    /// Passes over headers of another build than the image: modules that are installed must be for the image.
    pub fn keep_to_image(&mut self) {
        if let Some((image, headers)) = self.builds_differ() {
            self.headers = Headers::OtherBuild { image: image.to_owned(), headers: headers.to_owned() };
        }
    }

    /// Why there is no build tree, in a few words.
    pub fn why_no_headers(&self) -> String {
        match &self.headers {
            Headers::Missing { leads_to: Some(target) } => format!(
                "no headers installed: /lib/modules/{}/build leads to {}, where there is no build tree",
                self.release,
                target.display()
            ),
            Headers::Wrong { path, found } => {
                format!("no headers installed: {} contains headers of {found}", path.display())
            }
            Headers::OtherBuild { image, headers } => format!(
                "the headers are of another build of this kernel than its image (image '{image}', headers '{headers}')"
            ),
            Headers::Incomplete { missing } => {
                format!("the headers are incomplete: {} is missing", missing.display())
            }
            Headers::Missing { leads_to: None } | Headers::Present(_) => "no headers installed".to_owned(),
        }
    }

    /// The versions of image and headers, if they are from two builds of one release: distributions rebuild kernels
    /// without renaming them.
    pub fn builds_differ(&self) -> Option<(&str, &str)> {
        let (image, headers) = (self.image_version.as_deref()?, self.build_tree()?.version.as_str());
        (image != headers && !headers.is_empty()).then_some((image, headers))
    }
}

/// A kernel's configuration: from its build tree, else the one installed beside its image.
pub fn config(root: &Root, kernel: &Kernel) -> Result<Option<Kconfig>, Error> {
    if let Some(tree) = kernel.build_tree() {
        return Ok(Some(tree.config.clone()));
    }
    let release = &kernel.release;
    let places = [format!("/boot/config-{release}"), format!("/lib/modules/{release}/config")];
    match places.iter().find_map(|path| root.find(path)) {
        Some(path) => Ok(Some(Kconfig::new(bounded_read::config(&path)?))),
        None => Ok(None),
    }
}

/// The compression of in-tree modules (kernel/module/Kconfig). Since 6.12 a kernel may support a compression without
/// using it for its own modules; `CONFIG_MODULE_COMPRESS_ALL` shows that. `auto.conf` does not mention it if it is not set.
pub fn compression(config: &Kconfig) -> Compression {
    let all = "CONFIG_MODULE_COMPRESS_ALL";
    let has_it = config.mentions(all) || config.version().is_some_and(|version| version >= (6, 12));
    if has_it && !config.yes(all) {
        return Compression::None;
    }
    [("GZIP", Compression::Gz), ("XZ", Compression::Xz), ("ZSTD", Compression::Zst)]
        .into_iter()
        .find(|(name, _)| config.yes(&format!("CONFIG_MODULE_COMPRESS_{name}")))
        .map_or(Compression::None, |(_, compression)| compression)
}

/// Every kernel under the root's `/lib/modules` and `/usr/lib/modules`, oldest first.
pub fn installed(root: &Root) -> Result<Vec<Kernel>, Error> {
    trees(root)?.into_iter().map(|dir| read_installed(root, dir)).collect()
}

/// The installed kernel of exactly this release.
pub fn of_release(root: &Root, release: &str) -> Result<Option<Kernel>, Error> {
    let found = trees(root)?.into_iter().find(|dir| dir.release() == release);
    found.map(|dir| read_installed(root, dir)).transpose()
}

/// The directories of installed or removed kernels' modules, with their releases, oldest first. Directories whose name
/// cannot be a release are ignored. Links are followed within the root.
pub fn trees(root: &Root) -> Result<Vec<ModulesDir>, Error> {
    let mut found: Vec<ModulesDir> = Vec::new();
    for parent in modules_dirs(root) {
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_known = found.iter().any(|dir| dir.release() == name);
            if is_known || !release::is_plain(&name) {
                continue;
            }
            let kind = entry.file_type()?;
            let path = match kind.is_symlink() {
                true => root.inside(&entry.path()).and_then(|inside| root.find(inside)),
                false => Some(entry.path()),
            };
            found.extend(path.filter(|path| path.is_dir()).map(|path| ModulesDir::new(path, &name)));
        }
    }
    found.sort_by(|a, b| release::compare(a.release(), b.release()));
    Ok(found)
}

/// Paths on this machine of the root's `/lib/modules` and `/usr/lib/modules`, usually one directory.
pub fn modules_dirs(root: &Root) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> =
        ["/lib/modules", "/usr/lib/modules"].iter().filter_map(|dir| root.find(dir)).collect();
    dirs.dedup();
    dirs
}

/// Reads a kernel build tree given by path. If the kernel is installed under the root, its modules are installed
/// there.
///
/// # Errors
///
/// [`Error::NotABuildTree`] or [`Error::NoRelease`] if the path is not a prepared build tree.
pub fn at_path(root: &Root, path: &Path) -> Result<Kernel, Error> {
    let path = fs::canonicalize(path)?;
    let release = tree_release(&path).ok_or_else(|| Error::NotABuildTree {
        path: path.clone(),
        missing: "include/config/kernel.release",
    })?;
    if !release::is_plain(&release) {
        return Err(Error::NoRelease { path, text: release });
    }
    let canonical = PathBuf::from(format!("/usr/src/linux-headers-{release}"));
    let modules = ["/lib/modules", "/usr/lib/modules"]
        .iter()
        .find_map(|parent| root.find(format!("{parent}/{release}")))
        .filter(|dir| dir.is_dir())
        .map(|dir| ModulesDir::new(dir, &release));
    let inside = root.inside(&path).filter(|_| packaged(root, &path));
    let missing = match &inside {
        Some(inside) => missing_in(root, inside)?,
        None => missing_in(&Root::new("/"), &path)?,
    };
    let image_version = image_version(root, &release);
    if let Some(missing) = missing {
        let headers = Headers::Incomplete { missing };
        return Ok(Kernel { release, modules, headers, image_version, is_leftover: false });
    }
    let tree = match inside {
        Some(inside) => {
            let beside = modules
                .as_ref()
                .and_then(|dir| root.inside(dir))
                .filter(|dir| root.resolve(dir.join("build")).is_ok_and(|build| build == inside));
            let source = source_in(root, beside.as_deref().unwrap_or(&inside));
            read_tree(root, inside, source)?
        }
        None => read_foreign_tree(&path, canonical)?,
    };
    Ok(Kernel {
        release,
        modules,
        headers: Headers::Present(Box::new(tree)),
        image_version,
        is_leftover: false,
    })
}

/// Whether a path is where packages install build trees: there a tree keeps its own path in the sandbox.
fn packaged(root: &Root, path: &Path) -> bool {
    ["/usr/src", "/usr/lib", "/lib"].iter().filter_map(|dir| root.find(dir)).any(|dir| path.starts_with(dir))
}

fn read_installed(root: &Root, modules: ModulesDir) -> Result<Kernel, Error> {
    let release = modules.release().to_owned();
    let inside = root.inside(&modules).unwrap_or_else(|| modules.to_path_buf());
    let places = [
        inside.join("build"),
        PathBuf::from(format!("/usr/src/linux-headers-{release}")),
        PathBuf::from(format!("/usr/src/kernels/{release}")),
    ];
    let tree = places
        .iter()
        .filter_map(|place| root.resolve(place).ok())
        .find(|dir| root.outside(dir.join("Makefile")).exists() && config_in(&root.outside(dir)).is_some());
    let headers = match tree {
        None => Headers::Missing { leads_to: fs::read_link(modules.join("build")).ok() },
        Some(dir) => match tree_release(&root.outside(&dir)) {
            Some(found) if found != release => Headers::Wrong { path: root.outside(&dir), found },
            _ => match missing_in(root, &dir)? {
                Some(missing) => Headers::Incomplete { missing },
                None => Headers::Present(Box::new(read_tree(root, dir, source_in(root, &inside))?)),
            },
        },
    };
    let image_version = image_version(root, &release);
    let has_image = boot_image::image(root, &release).is_some();
    let is_leftover = !has_image && matches!(headers, Headers::Missing { .. }) && !has_kernel(&modules)?;
    Ok(Kernel { release, modules: Some(modules), headers, image_version, is_leftover })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn modules_are_compressed_like_in_tree_ones() {
        let check = |config: &str, expect| {
            assert_eq!(compression(&Kconfig::new(config.to_owned())), expect, "{config}")
        };
        check("CONFIG_MODULE_COMPRESS_NONE=y\n", Compression::None);
        check("CONFIG_MODULE_COMPRESS_GZIP=y\n", Compression::Gz);
        check("CONFIG_MODULE_COMPRESS_XZ=y\n", Compression::Xz);
        check("CONFIG_MODULE_COMPRESS_ZSTD=y\n", Compression::Zst);
        let since_6_12 = "CONFIG_MODULE_COMPRESS=y\nCONFIG_MODULE_COMPRESS_ZSTD=y\n";
        check(&format!("{since_6_12}CONFIG_MODULE_COMPRESS_ALL=y\n"), Compression::Zst);
        let auto_conf = format!("#\n# Linux/x86 6.12.1 Kernel Configuration\n#\n{since_6_12}");
        check(&auto_conf, Compression::None);
        check(&format!("{auto_conf}CONFIG_MODULE_COMPRESS_ALL=y\n"), Compression::Zst);
        check("# Linux/x86 6.1.9 Kernel Configuration\nCONFIG_MODULE_COMPRESS_XZ=y\n", Compression::Xz);
        check(&format!("{since_6_12}# CONFIG_MODULE_COMPRESS_ALL is not set\n"), Compression::None);
    }

    /// A root with one Debian kernel, whose headers are in three directories.
    fn debian() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for path in ["lib/modules/6.1.0-9-x", "usr/lib/linux-kbuild-6.1/scripts", "usr/src/h-common/include"]
        {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::create_dir_all(at("usr/src/h-x/include/config")).unwrap();
        fs::create_dir_all(at("usr/src/h-x/include/generated")).unwrap();
        fs::write(at("usr/src/h-common/Makefile"), "").unwrap();
        fs::write(at("usr/src/h-x/Makefile"), "include /usr/src/h-common/Makefile\n").unwrap();
        fs::write(at("usr/src/h-x/.config"), "CONFIG_X86_64=y\nCONFIG_MODULE_COMPRESS_XZ=y\n").unwrap();
        fs::write(at("usr/src/h-x/include/config/kernel.release"), "6.1.0-9-x\n").unwrap();
        fs::write(at("usr/src/h-x/include/generated/utsversion.h"), "#define UTS_VERSION \"#1 SMP\"\n")
            .unwrap();
        symlink("../../lib/linux-kbuild-6.1/scripts", at("usr/src/h-x/scripts")).unwrap();
        symlink("/usr/src/h-x", at("lib/modules/6.1.0-9-x/build")).unwrap();
        let root = Root::new(dir.path());
        (dir, root)
    }

    #[test]
    fn a_debian_tree_includes_its_common_headers_and_scripts() {
        let (_dir, root) = debian();
        let kernels = installed(&root).unwrap();
        let tree = kernels[0].build_tree().unwrap();
        let inside: Vec<_> = tree.mounts.iter().map(|mount| mount.inside.to_str().unwrap()).collect();
        assert_eq!(inside, ["/usr/src/h-x", "/usr/lib/linux-kbuild-6.1/scripts", "/usr/src/h-common"]);
        assert_eq!((tree.arch.as_str(), tree.version.as_str()), ("x86_64", "#1 SMP"));
        assert_eq!(compression(&tree.config), Compression::Xz);
    }

    /// SUSE's `kernel-default-devel` and `kernel-devel`.
    #[test]
    fn a_makefile_may_include_the_sources_by_a_relative_path() {
        let (dir, root) = debian();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("usr/src/obj/x86_64")).unwrap();
        fs::rename(at("usr/src/h-x"), at("usr/src/obj/x86_64/default")).unwrap();
        symlink("obj/x86_64/default", at("usr/src/h-x")).unwrap();
        // SUSE's has its programs itself.
        fs::remove_file(at("usr/src/h-x/scripts")).unwrap();
        fs::create_dir(at("usr/src/h-x/scripts")).unwrap();
        fs::write(at("usr/src/obj/x86_64/default/Makefile"), "include ../../../h-common/Makefile\n").unwrap();
        assert!(source_of(&root).1.contains(&"/usr/src/h-common".to_owned()));
        fs::remove_file(at("usr/src/h-common/Makefile")).unwrap();
        let headers = &installed(&root).unwrap()[0].headers;
        let missing = Path::new("/usr/src/h-common/Makefile");
        assert!(matches!(headers, Headers::Incomplete { missing: found } if found == missing), "{headers:?}");
    }

    /// As packages of the kernel's own targets leave it (scripts/package/install-extmod-build).
    #[test]
    fn a_tree_without_a_config_is_read_from_auto_conf() {
        let (dir, root) = debian();
        let headers = dir.path().join("usr/src/h-x");
        fs::rename(headers.join(".config"), headers.join("include/config/auto.conf")).unwrap();
        let kernel = installed(&root).unwrap().remove(0);
        let tree = kernel.build_tree().unwrap();
        assert_eq!(tree.config_file(), headers.join("include/config/auto.conf"));
        assert_eq!(compression(&tree.config), Compression::Xz);
        fs::remove_file(tree.config_file()).unwrap();
        assert!(installed(&root).unwrap()[0].build_tree().is_none());
    }

    /// Target of `source`, and the mounts.
    fn source_of(root: &Root) -> (String, Vec<String>) {
        let kernel = installed(root).unwrap().remove(0);
        let tree = kernel.build_tree().unwrap();
        let mounts = tree.mounts.iter().map(|mount| mount.inside.display().to_string()).collect();
        (tree.source.display().to_string(), mounts)
    }

    #[test]
    fn source_has_the_target_of_the_kernels_own_link() {
        let reached = ["/usr/src/h-x", "/usr/lib/linux-kbuild-6.1/scripts", "/usr/src/h-common"];
        let (dir, root) = debian();
        let link = dir.path().join("lib/modules/6.1.0-9-x/source");
        let check = |target: &str, expect: &str, more: &[&str]| {
            let _ = fs::remove_file(&link);
            symlink(target, &link).unwrap();
            let (source, mounts) = source_of(&root);
            assert_eq!(source, expect, "source -> {target}");
            assert_eq!(mounts, [&reached[..], more].concat(), "source -> {target}");
        };
        for (tree, file) in [("usr/src/h-common", "Makefile"), ("home/me/linux", "Makefile")] {
            fs::create_dir_all(dir.path().join(tree).join("include")).unwrap();
            fs::write(dir.path().join(tree).join(file), "").unwrap();
        }
        fs::create_dir_all(dir.path().join("opt/tools")).unwrap();
        symlink("/opt/tools", dir.path().join("home/me/linux/tools")).unwrap();
        check("/usr/src/h-common", "/usr/src/h-common", &[]);
        check("../../../usr/src/h-common", "/usr/src/h-common", &[]);
        check("/home/me/linux", "/home/me/linux", &["/home/me/linux", "/opt/tools"]);
        // As `make modules_install` leaves it, and what remains on a machine that did not build the kernel.
        check("build", "/usr/src/h-x", &[]);
        check("/build/elsewhere", "/usr/src/h-x", &[]);
        check("/opt", "/usr/src/h-x", &[]);
    }

    #[test]
    fn source_can_be_a_directory_or_missing() {
        let (dir, root) = debian();
        assert_eq!(source_of(&root).0, "/usr/src/h-x");
        let own = dir.path().join("lib/modules/6.1.0-9-x/source");
        fs::create_dir_all(own.join("include")).unwrap();
        fs::write(own.join("Makefile"), "").unwrap();
        let (source, mounts) = source_of(&root);
        assert_eq!(source, "/lib/modules/6.1.0-9-x/source");
        assert_eq!(mounts.last(), Some(&source));
    }

    #[test]
    fn a_tree_given_by_path_has_its_own_source_unless_installed() {
        let (dir, root) = debian();
        let at = |path: &str| dir.path().join(path);
        fs::write(at("usr/src/h-common/Makefile"), "").unwrap();
        symlink("/usr/src/h-common", at("lib/modules/6.1.0-9-x/source")).unwrap();
        let source = |path: &str| at_path(&root, &at(path)).unwrap().build_tree().unwrap().source.clone();
        assert_eq!(source("usr/src/h-x"), Path::new("/usr/src/h-common"));

        // Built with O=: `source` is in the tree itself.
        fs::create_dir_all(at("usr/src/out/include/config")).unwrap();
        fs::write(at("usr/src/out/include/config/kernel.release"), "6.1.0-9-x\n").unwrap();
        fs::write(at("usr/src/out/.config"), "").unwrap();
        assert_eq!(source("usr/src/out"), Path::new("/usr/src/out"));
        symlink("../h-common", at("usr/src/out/source")).unwrap();
        assert_eq!(source("usr/src/out"), Path::new("/usr/src/h-common"));
    }

    #[test]
    fn headers_of_another_release_are_wrong() {
        let (dir, root) = debian();
        fs::write(dir.path().join("usr/src/h-x/include/config/kernel.release"), "6.1.0-8-x\n").unwrap();
        let kernels = installed(&root).unwrap();
        assert!(matches!(&kernels[0].headers, Headers::Wrong { found, .. } if found == "6.1.0-8-x"));
    }

    #[test]
    fn an_image_of_another_build_is_detected() {
        let (_dir, root) = debian();
        let mut kernel = installed(&root).unwrap().remove(0);
        assert_eq!(kernel.builds_differ(), None);
        kernel.image_version = Some("#1 SMP".into());
        assert_eq!(kernel.builds_differ(), None);
        kernel.image_version = Some("#2 SMP".into());
        assert_eq!(kernel.builds_differ(), Some(("#2 SMP", "#1 SMP")));
    }

    #[test]
    fn a_tree_elsewhere_is_mounted_at_a_canonical_path() {
        let (dir, root) = debian();
        let tree = dir.path().join("home/me/linux");
        fs::create_dir_all(tree.join("include/config")).unwrap();
        fs::write(tree.join("include/config/kernel.release"), "6.9.1\n").unwrap();
        fs::write(tree.join(".config"), "").unwrap();
        let kernel = at_path(&root, &tree).unwrap();
        assert_eq!(kernel.build_tree().unwrap().inside, Path::new("/usr/src/linux-headers-6.9.1"));
        assert_eq!(kernel.modules, None);
    }

    /// A tree under `--root`, and a kernel build tree given by path, are untrusted.
    #[test]
    fn what_cannot_be_a_release_is_no_kernel() {
        let (dir, root) = debian();
        let before = trees(&root).unwrap().len();
        for name in ["6.1$(id)", "6.1;id", "6.1 x", "6.1\nx", "-k", "6.1`id`", "6.1'"] {
            fs::create_dir(dir.path().join("lib/modules").join(name)).unwrap();
        }
        assert_eq!(trees(&root).unwrap().len(), before);
        for name in ["6.1.0_1", "6.6.0-rc1+", "6.13~rc4-1", "4.18.0-372.el8.x86_64+debug"] {
            fs::create_dir(dir.path().join("lib/modules").join(name)).unwrap();
            assert!(of_release(&root, name).unwrap().is_some(), "{name}");
        }
        let tree = dir.path().join("usr/src/hostile");
        fs::create_dir_all(tree.join("include/config")).unwrap();
        for text in ["../../etc", "6.1/../..", "6.1$(id)", "."] {
            fs::write(tree.join("include/config/kernel.release"), text).unwrap();
            assert!(matches!(at_path(&root, &tree), Err(Error::NoRelease { .. })), "{text}");
        }
    }
}
