//! A prepared kernel build tree. It is rarely one directory. Debian's consists of three:
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
use std::path::{Path, PathBuf};

use fs_err as fs;

use super::Error;
use crate::bounded_read::{self, MOST_DATA};
use crate::kconfig::Kconfig;
use crate::rootfs::Root;

/// A prepared kernel build tree, with all directories it refers to.
#[derive(Clone, Debug)]
pub struct BuildTree {
    /// Path in the sandbox.
    pub inside: PathBuf,
    /// Target of `/lib/modules/R/source` in the sandbox: the tree itself if the kernel has no separate source.
    pub source: PathBuf,
    /// Every directory that belongs to it, the tree itself first.
    pub mounts: Vec<Mount>,
    /// Links by which it refers to some of them, with their targets: those that no directory of it contains.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Its configuration.
    pub config: Kconfig,
    /// Path of the configuration's file in the tree.
    pub config_place: &'static str,
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

impl BuildTree {
    /// Path of the tree's own directory on this machine.
    pub fn outside(&self) -> &Path {
        &self.mounts[0].outside
    }

    /// Path of its configuration's file on this machine.
    pub fn config_file(&self) -> PathBuf {
        self.outside().join(self.config_place)
    }

    /// Whether the tree's own files are unchanged since they were read.
    pub fn is_current(&self) -> Result<bool, Error> {
        let now = describe(self.inside.clone(), self.source.clone(), self.mounts.clone(), Vec::new())?;
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

/// The release that a build tree was prepared for. Modules are compiled with `utsrelease.h`, so it takes precedence:
/// Debian's `kernel.release` contains the upstream version.
pub(super) fn tree_release(dir: &Path) -> Option<String> {
    if let Ok(header) = bounded_read::config(&dir.join("include/generated/utsrelease.h")) {
        return define(&header, "UTS_RELEASE").map(str::to_owned);
    }
    let text = bounded_read::config(&dir.join("include/config/kernel.release")).ok()?;
    Some(text.trim().to_owned())
}

/// The file in a tree with the configuration that modules are built with. The packages that the kernel's own targets make
/// (`bindeb-pkg`, `binrpm-pkg`: scripts/package/install-extmod-build) have no `.config`, only what Kbuild made of it:
/// every symbol that is set, in the same form. `None` if there is neither.
pub(super) fn config_in(dir: &Path) -> Option<&'static str> {
    [".config", "include/config/auto.conf"].into_iter().find(|place| dir.join(place).exists())
}

/// Target of the link or directory `source` in a directory: `/lib/modules/R` (Makefile, `modules_install`), or a build
/// tree separate from its source (`O=`). `None` if it contains no kernel source, as when the link was copied to
/// another machine than the one that built the kernel.
pub(super) fn source_in(root: &Root, dir: &Path) -> Option<PathBuf> {
    let source = root.resolve(dir.join("source")).ok()?;
    let has = |name: &str| root.find(source.join(name)).is_some();
    (has("Makefile") && has("include")).then_some(source)
}

/// The first file that a tree under the root lacks and no build can do without: a Makefile that its own includes, or the
/// directory of Kbuild's programs.
pub(super) fn missing_in(root: &Root, inside: &Path) -> Result<Option<PathBuf>, Error> {
    let makefiles = included_makefiles(&root.outside(inside), inside)?;
    let needed = makefiles.into_iter().map(|directory| directory.join("Makefile"));
    let link = inside.join("scripts");
    let scripts = root.outside(&link).is_symlink().then(|| {
        let target = fs::read_link(root.outside(&link)).unwrap_or_default();
        lexical(&inside.join(target))
    });
    Ok(needed.chain(scripts).find(|path| root.find(path).is_none()))
}

/// Reads a tree under the root, at its own path `inside`, with the kernel's source if that is another directory.
pub(super) fn read_tree(root: &Root, inside: PathBuf, source: Option<PathBuf>) -> Result<BuildTree, Error> {
    let source = source.unwrap_or_else(|| inside.clone());
    let (mut mounts, mut links) = (Vec::new(), Vec::new());
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
            if inside != reached {
                links.push((reached, inside.clone()));
            }
            add(&mut mounts, inside);
        }
        next += 1;
    }
    describe(inside, source, mounts, links)
}

/// Reads a tree elsewhere. It is mounted at a canonical path, unless it refers to directories outside itself: then its
/// paths are absolute or relative to its location, and it keeps its own path.
pub(super) fn read_foreign_tree(path: &Path, canonical: PathBuf) -> Result<BuildTree, Error> {
    if reaches(path, path)?.iter().any(|reached| !reached.starts_with(path)) {
        let root = Root::new("/");
        return read_tree(&root, path.to_owned(), source_in(&root, path));
    }
    describe(
        canonical.clone(),
        canonical.clone(),
        vec![Mount { outside: path.to_owned(), inside: canonical }],
        Vec::new(),
    )
}

fn describe(
    inside: PathBuf,
    source: PathBuf,
    mounts: Vec<Mount>,
    links: Vec<(PathBuf, PathBuf)>,
) -> Result<BuildTree, Error> {
    let dir = &mounts[0].outside;
    // Where there is neither, the error names the one that all know.
    let config_place = config_in(dir).unwrap_or(".config");
    let config = Kconfig::new(bounded_read::config(&dir.join(config_place))?);
    let generated =
        |name: &str| bounded_read::config(&dir.join("include/generated").join(name)).unwrap_or_default();
    let (uts, compile) = (generated("utsversion.h"), generated("compile.h"));
    let version = define(&uts, "UTS_VERSION")
        .or_else(|| define(&compile, "UTS_VERSION"))
        .unwrap_or_default()
        .to_owned();
    let arch = define(&compile, "UTS_MACHINE").unwrap_or_else(|| self::arch(&config)).to_owned();
    Ok(BuildTree { inside, source, mounts, links, config, config_place, arch, version })
}

/// Directories that a build tree refers to: targets of its links, and directories of the Makefiles that its own
/// includes. Paths are as in the sandbox; they need not exist.
fn reaches(outside: &Path, inside: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = included_makefiles(outside, inside)?;
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

/// Directories of the Makefiles outside a tree that its own includes: by absolute path as in Debian's header packages and in
/// a tree of `make O=`, or by one relative to the tree as in SUSE's (`include ../../../linux-6.4.0-150600/Makefile`).
fn included_makefiles(outside: &Path, inside: &Path) -> Result<Vec<PathBuf>, Error> {
    let text = match bounded_read::config(&outside.join("Makefile")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e.into()),
    };
    let included = |line: &str| {
        let path = line.strip_prefix("include ")?.trim();
        let leads_out = path.starts_with('/') || path.starts_with("../");
        leads_out.then(|| lexical(&inside.join(path)).parent().map(Path::to_owned))?
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
