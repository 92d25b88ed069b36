//! A kernel's directory of modules: `/lib/modules/R`, or where it leads.

use std::io;
use std::path::{Path, PathBuf};

/// Files of kernel packages that depmod does not write.
const OF_KERNELS: [&str; 4] = ["modules.builtin", "modules.order", "vmlinuz", "kernel"];

/// So deep are directories looked into for a file. A kernel's modules are up to six deep.
const DEEPEST: usize = 12;

/// A kernel's directory of modules, with the release that it is for: `/lib/modules/R` may be a link to a directory of any
/// name. Made of a path alone, it is named after the release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModulesDir {
    path: PathBuf,
    release: String,
}

impl ModulesDir {
    /// The directory of the kernel with this release.
    pub fn new(path: impl Into<PathBuf>, release: &str) -> Self {
        Self { path: path.into(), release: release.to_owned() }
    }

    /// Release of the kernel.
    pub fn release(&self) -> &str {
        &self.release
    }
}

impl std::ops::Deref for ModulesDir {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl AsRef<Path> for ModulesDir {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl From<&ModulesDir> for ModulesDir {
    fn from(dir: &ModulesDir) -> Self {
        dir.clone()
    }
}

impl From<&Path> for ModulesDir {
    fn from(path: &Path) -> Self {
        Self::new(path, &path.file_name().unwrap_or_default().to_string_lossy())
    }
}

impl From<&PathBuf> for ModulesDir {
    fn from(path: &PathBuf) -> Self {
        path.as_path().into()
    }
}

/// Whether the kernel's own files exist: package managers leave directories behind that contain only foreign files, and empty
/// ones.
pub fn has_kernel(tree: &Path) -> io::Result<bool> {
    for name in OF_KERNELS {
        if has_file(&tree.join(name), DEEPEST)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a path is anything but a directory, or one with such a thing in it. What is deeper counts as one.
fn has_file(path: &Path, depth: usize) -> io::Result<bool> {
    match fs_err::symlink_metadata(path) {
        Ok(metadata) if !metadata.is_dir() || depth == 0 => return Ok(true),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    }
    for entry in fs_err::read_dir(path)? {
        if has_file(&entry?.path(), depth - 1)? {
            return Ok(true);
        }
    }
    Ok(false)
}
