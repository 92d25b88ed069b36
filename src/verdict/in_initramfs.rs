//! The initramfs of a kernel, compared with what is installed for it.
//!
//! A copy in the initramfs is what will be loaded, so it must be the installed module. A missing one that belongs there, as
//! ZFS's for a root file system on ZFS, is not loaded when it is needed. A copy of a module that was removed is loaded all
//! the same.

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fs_err as fs;
use kcache_kernel::initramfs::{self, Copy};
use kcache_kernel::install::{Generation, Installed, base};
use kcache_kernel::kernels::Kernel;
use kcache_kernel::module_name::ModuleName;
use kcache_kernel::rootfs::Root;

use crate::error::Result;
use crate::run::session::Session;
use crate::shell::word;

/// What [`compare`] found.
#[derive(Default)]
pub struct Compared {
    /// Packages whose copy is of another build or missing: package and reason.
    pub outdated: Vec<(String, String)>,
    /// Whether the initramfs cannot be read, as with a compression that is not supported.
    pub is_unread: bool,
    /// Why it could not be compared.
    pub details: Vec<String>,
}

/// Compares a kernel's initramfs, if it has one, with a generation.
///
/// # Errors
///
/// If the state of the file cannot be read.
pub fn compare(session: &Session, kernel: &Kernel, generation: &Generation) -> Result<Compared> {
    let mut compared = Compared::default();
    let root = &session.context.root;
    let files = initramfs::of_kernel(root, &kernel.release);
    if files.is_empty() {
        return Ok(compared);
    }
    let names = names(generation);
    let wanted = initramfs::wanted(root, &names).unwrap_or_else(|error| {
        compared.details.push(format!("initramfs configuration not read: {error}"));
        Default::default()
    });
    let again = LazyCell::new(|| how_to_regenerate(root, &kernel.release));
    for path in files {
        let copies = match copies(session, &path, &names) {
            Ok(copies) => copies,
            Err(error) => {
                compared.is_unread = true;
                compared.details.push(format!("initramfs not checked: {}", crate::error::chain(&error)));
                continue;
            }
        };
        for (package, module) in generation.modules() {
            if let Some(why) = why_outdated(module, &copies, &wanted) {
                let reason = format!("{} {why}; {}", path.display(), *again);
                compared.outdated.push((package.name.clone(), reason));
            }
        }
    }
    Ok(compared)
}

/// Whether a kernel's initramfs lacks a module that is installed now and belongs there, or has another build of one; or has
/// a module of the generation `before` that is installed no more. One that cannot be read is, if modules have `changed`.
///
/// # Errors
///
/// If the tree, or the state of the initramfs, cannot be read.
pub fn is_outdated(
    session: &Session,
    kernel: &Kernel,
    before: Option<&Generation>,
    changed: bool,
) -> Result<bool> {
    let Some(tree) = &kernel.modules else { return Ok(false) };
    let files = initramfs::of_kernel(&session.context.root, &kernel.release);
    if files.is_empty() {
        return Ok(false);
    }
    // What did not change is as it was first read.
    let now = if changed { base(tree)?.generation.map(Arc::new) } else { session.installed(kernel) };
    if let Some(generation) = &now {
        let compared = compare(session, kernel, generation)?;
        if !compared.outdated.is_empty() || (compared.is_unread && changed) {
            return Ok(true);
        }
    }
    let kept = now.as_deref().map(names).unwrap_or_default();
    let gone: BTreeSet<ModuleName> =
        before.map(names).unwrap_or_default().difference(&kept).cloned().collect();
    let has_any = |path: &PathBuf| copies(session, path, &gone).map_or(changed, |copies| !copies.is_empty());
    Ok(!gone.is_empty() && files.iter().any(has_any))
}

/// What an administrator does about an outdated initramfs.
fn how_to_regenerate(root: &Root, release: &str) -> String {
    match initramfs::command(root, release) {
        Some(command) => {
            let words: Vec<_> = command.iter().map(|text| word(text)).collect();
            format!("regenerate the initramfs with `{}`", words.join(" "))
        }
        None => format!(
            "regenerate the initramfs with the program that made it, as `update-initramfs -u -k {release}` or `dracut --force --kver {release}`"
        ),
    }
}

/// What is wrong with a module in an initramfs: it is missing there, or a copy is of another build.
fn why_outdated(
    module: &Installed,
    copies: &[Copy],
    wanted: &BTreeMap<ModuleName, PathBuf>,
) -> Option<String> {
    let name = ModuleName::new(&module.spec.name);
    let (file, body) = (module.installed_digest.to_string(), module.spec.digest.to_string());
    let mut own = copies.iter().filter(|copy| copy.module == name).peekable();
    if own.peek().is_none() {
        return wanted.get(&name).map(|file| format!("lacks {name}, which {} includes", file.display()));
    }
    let other = own.find(|copy| copy.file != file && copy.body.as_ref() != Some(&body))?;
    Some(format!("contains a different build, {}", other.path))
}

fn names(generation: &Generation) -> BTreeSet<ModuleName> {
    generation.modules().map(|(_, module)| ModuleName::new(&module.spec.name)).collect()
}

/// What an initramfs holds of these modules; remembered, since it takes decompressing all of it.
fn copies(session: &Session, path: &Path, names: &BTreeSet<ModuleName>) -> Result<Vec<Copy>> {
    let names_text = names.iter().map(|name| &**name).collect::<Vec<_>>().join(",");
    let is_settled = session.context.now() > fs::metadata(path)?.ctime().unsigned_abs() + 2;
    let read = || Ok(initramfs::copies(path, names)?);
    if is_settled { session.remembered_of_file("initramfs", path, &names_text, read) } else { read() }
}
