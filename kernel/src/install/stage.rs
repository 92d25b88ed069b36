//! Staging the next generation beside the live tree.
//!
//! A module that the installed generation has in the same form is copied from there, so a package can be removed
//! although the cache is lost; its bytes are hashed on the way, and a corrupt file is replaced from the source. A
//! module in another form is unpacked and converted: a change of key needs no cache. Other modules come from the
//! source, and are hashed when they are received. Modules are signed, then compressed, because the kernel
//! decompresses first.

use crate::bounded_read::{self, MOST_DATA};
use fs_err::os::unix::fs::symlink;
use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use super::generation::{Generation, Installed, InstalledPackage, ModuleSpec, Set};
use super::names::{DIR_PREFIX, dir_name};
use super::tree::Tree;
use super::{Error, ModuleSource, SignModule, Site, checked_json, disk, generation};
use crate::compress::Compression;
use crate::index::Facts;
use crate::ko::split_signature;
use crate::parallel::both;

/// Limit in bytes on a signature.
const SIGNATURE_MAX: u64 = 64 << 10;

/// Files of the kernel package, other than modules, that depmod reads.
const LISTS: [&str; 3] = ["modules.order", "modules.builtin", "modules.builtin.modinfo"];

/// The modules of the next generation, written and synced.
pub(super) struct Staged {
    pub(super) set: Set<Installed>,
    pub(super) facts: StagedFacts,
}

/// What depmod reads from staged modules, by their paths in the generation. It is taken from the bytes in memory, because
/// reading 65 MB back takes as long as writing them. Modules that were copied are not listed.
pub(super) type StagedFacts = HashMap<String, Result<Facts, String>>;

/// Writes the modules of a set into the staging directory, durably except for `generation.json`.
pub(super) fn stage_modules(
    site: &Site<'_>,
    tree: &Tree,
    wanted: &Set,
    installed: Option<&Generation>,
    source: &mut ModuleSource<'_>,
) -> Result<Staged, Error> {
    let dir = tree.new_generation(&wanted.generation_name());
    disk::make_dir(&dir)?;
    let (mut packages, mut facts) = (Vec::new(), StagedFacts::new());
    for package in &wanted.packages {
        let package_dir = dir.join(&package.name);
        disk::make_dir(&package_dir)?;
        let mut modules = Vec::new();
        for module in &package.modules {
            let path = format!("{}/{}.ko{}", package.name, module.name, wanted.compression.extension());
            let file = dir.join(&path);
            let installed_digest = match reuse(tree, wanted, installed, module)? {
                Some((bytes, digest)) => {
                    disk::write_file(&file, &bytes)?;
                    digest
                }
                None => {
                    let built = match unpack(tree, installed, module)? {
                        Some(built) => built,
                        None => fetch(module, source)?,
                    };
                    let write = || write_in_form(site.sign, wanted, module, &built, &file);
                    let (digest, read) = both(write, || Facts::parse(&built));
                    facts.insert(path.clone(), read);
                    digest?
                }
            };
            modules.push(Installed { spec: module.clone(), path, installed_digest });
        }
        disk::sync_dir(&package_dir)?;
        let InstalledPackage { name, version, key, .. } = package.clone();
        packages.push(InstalledPackage { name, version, key, modules });
    }
    let Set { kernel_version, compression, signer, .. } = wanted.clone();
    Ok(Staged { set: Set { kernel_version, compression, signer, packages }, facts })
}

/// Writes a module in the form of the set; returns the digest of the file.
fn write_in_form(
    sign: Option<&SignModule<'_>>,
    wanted: &Set,
    module: &ModuleSpec,
    built: &[u8],
    file: &Path,
) -> Result<blake3::Hash, Error> {
    if wanted.signer.is_none() && wanted.compression == Compression::None {
        disk::write_file(file, built)?;
        return Ok(module.digest); // hashed when it was received
    }
    let bytes = wanted.compression.compress(&signed(sign, wanted, module, built)?)?;
    disk::write_file(file, &bytes)?;
    Ok(blake3::hash(&bytes))
}

/// The installed file of the same module in the same form, with its digest, if its bytes are intact.
fn reuse(
    tree: &Tree,
    wanted: &Set,
    installed: Option<&Generation>,
    module: &ModuleSpec,
) -> Result<Option<(Vec<u8>, blake3::Hash)>, Error> {
    let same_form =
        |g: &&Generation| (g.set.compression, &g.set.signer) == (wanted.compression, &wanted.signer);
    let Some(generation) = installed.filter(same_form) else { return Ok(None) };
    let Some((_, found)) = generation.modules().find(|(_, found)| found.spec == *module) else {
        return Ok(None);
    };
    let bytes = disk::if_found(bounded_read::bytes(
        tree.generation(&generation.generation).join(&found.path),
        MOST_DATA,
    ))?;
    let whole = bytes.filter(|bytes| blake3::hash(bytes) == found.installed_digest);
    Ok(whole.map(|bytes| (bytes, found.installed_digest)))
}

/// The module as it was built, from an installed file in another form.
fn unpack(
    tree: &Tree,
    installed: Option<&Generation>,
    module: &ModuleSpec,
) -> Result<Option<Vec<u8>>, Error> {
    let Some(generation) = installed else { return Ok(None) };
    let Some((_, found)) = generation.modules().find(|(_, found)| found.spec == *module) else {
        return Ok(None);
    };
    let path = tree.generation(&generation.generation).join(&found.path);
    let Some(file) = disk::if_found(bounded_read::bytes(path, MOST_DATA))? else { return Ok(None) };
    let most = module.size.saturating_add(SIGNATURE_MAX);
    // If anything is wrong with the file, the source has a good one.
    let Ok(whole) = generation.set.compression.decompress(&file, most) else { return Ok(None) };
    let built = if generation.set.signer.is_some() { split_signature(&whole).0 } else { &whole };
    Ok((blake3::hash(built) == module.digest).then(|| built.to_vec()))
}

/// The module as it will be loaded: with a signature, if the set has a signer.
fn signed<'a>(
    sign: Option<&SignModule<'_>>,
    wanted: &Set,
    module: &ModuleSpec,
    built: &'a [u8],
) -> Result<Cow<'a, [u8]>, Error> {
    let Some(signer) = &wanted.signer else { return Ok(Cow::Borrowed(built)) };
    let failed = |source| Error::Sign { module: module.name.clone(), source };
    let sign = sign.ok_or_else(|| failed(format!("no key of {}", signer.subject).into()))?;
    let signed = sign(signer, module, built).map_err(failed)?;
    match split_signature(&signed) {
        (body, Some(_)) if body == split_signature(built).0 => Ok(Cow::Owned(signed)),
        _ => Err(failed("the signer did not return the module with a signature".into())),
    }
}

/// The bytes of a module from the source, verified.
fn fetch(module: &ModuleSpec, source: &mut ModuleSource<'_>) -> Result<Vec<u8>, Error> {
    let bytes = source(module).map_err(|source| Error::Source { module: module.name.clone(), source })?;
    let found = blake3::hash(&bytes);
    if found != module.digest {
        return Err(Error::Digest { module: module.name.clone(), expected: module.digest, found });
    }
    Ok(bytes)
}

/// Creates the tree that depmod reads: links, so that it looks as the live one will after the commit. `updates/` alone
/// is a real directory, in which the new generation replaces the old ones.
pub(super) fn stage_base(tree: &Tree, new: Option<&str>) -> io::Result<()> {
    let base = tree.base_tree();
    fs_err::create_dir_all(&base)?;
    // depmod reads lib/modules or usr/lib/modules, depending on how it was built.
    symlink("usr/lib", tree.base().join("lib"))?;
    for list in LISTS.iter().map(|list| tree.path.join(list)) {
        // depmod would block on a FIFO, and read a sparse file to its end.
        if let Some(file) = disk::if_found(bounded_read::open(&list))?
            && file.metadata()?.len() > MOST_DATA
        {
            return Err(io::Error::other(format!("{} has more than {MOST_DATA} bytes", list.display())));
        }
    }
    disk::link_children(&tree.path, &base, |name| name != "updates" && is_read_by_depmod(name))?;
    let updates = base.join("updates");
    fs_err::create_dir(&updates)?;
    disk::link_children(&tree.updates(), &updates, |name| !name.starts_with(DIR_PREFIX))?;
    if let Some(new) = new {
        symlink(tree.new_generation(new), updates.join(dir_name(new)))?;
    }
    Ok(())
}

/// Deletes the base and the generated indexes.
pub(super) fn drop_indexes(tree: &Tree, new: Option<&str>) -> io::Result<()> {
    for dir in [tree.base(), tree.old_dir(), tree.depmod_dir()] {
        disk::if_found(fs_err::remove_dir_all(dir))?;
    }
    if let Some(new) = new {
        let path = tree.new_generation(new).join(generation::FILE);
        for path in [checked_json::copy(&path), path] {
            disk::if_found(fs_err::remove_file(path))?;
        }
    }
    disk::make_dir(&tree.old_dir())
}

/// Whether depmod reads a name at the top: it ignores `build` and `source`, and reads three `modules.*` files; it
/// writes the others.
fn is_read_by_depmod(name: &str) -> bool {
    match name {
        "build" | "source" => false,
        name if LISTS.contains(&name) => true,
        name => !name.starts_with("modules.") || Compression::of_file_name(name).is_some(),
    }
}

/// Keeps the live indexes of these names for undoing.
pub(super) fn keep_indexes(tree: &Tree, names: impl Iterator<Item = impl AsRef<Path>>) -> io::Result<()> {
    for name in names {
        let live: PathBuf = tree.path.join(&name);
        fs_err::hard_link(live, tree.old_dir().join(&name))?;
    }
    disk::sync_dir(&tree.old_dir())
}
