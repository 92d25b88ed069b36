//! The roots of garbage collection: installed builds, the previous generations, and pinned builds.
//!
//! ```text
//! every kernel under the root:  generation.json -> keys and digests of the installed set, and of the previous one
//! the settings:                 pins, keys
//! ```
//! Digests are roots as well as keys: after a rebuild, the entry names other modules than the installed ones, and a rollback
//! still needs the old ones. Builds installed in an image are known only if `--root` names that image; pins are for those. If
//! one set cannot be read, its builds are unknown, and nothing is collected.
//!
//! The grace period protects a concurrent install: whatever it finds, it also claims (`kcache_store::gc`).

use kcache_kernel::install::{self, Generation, ModuleSpec, Set};
use kcache_kernel::kernels;
use kcache_store::gc::Keep;
use kcache_store::{Digest, Key, Store};

use crate::error::{Error, Result};
use crate::run::context::Context;

/// What stays for the kernels under the root. Sets to go back to count only where `keep_previous` says so.
pub fn keep(context: &Context, store: &Store, keep_previous: bool, pins: &[Key]) -> Result<Keep> {
    let mut keep = Keep { keys: pins.iter().copied().collect(), ..Keep::default() };
    for tree in kernels::trees(&context.root)? {
        let release = tree.release().to_owned();
        let unknown = |source| Error::Unreachable { release: release.clone(), source };
        for generation in install::generations(&tree).map_err(unknown)? {
            add(&mut keep, &generation.wanted());
            add_newest(&mut keep, store, &release, &generation)?;
            if let Some(previous) = generation.previous.as_ref().filter(|_| keep_previous) {
                add(&mut keep, previous);
            }
        }
        keep.releases.insert(release);
    }
    Ok(keep)
}

/// The newest build of each installed package. It may have come to the same modules under another key: that is how it is known that
/// the installed ones are those of today's inputs.
fn add_newest(keep: &mut Keep, store: &Store, release: &str, generation: &Generation) -> Result<()> {
    for package in &generation.set.packages {
        let rows = store.find(&[("package", &package.name), ("kernel", release)])?;
        keep.keys.extend(rows.iter().find(|row| row.built).map(|row| row.key));
    }
    Ok(())
}

fn add(keep: &mut Keep, set: &Set<ModuleSpec>) {
    for package in &set.packages {
        keep.keys.extend(package.key.parse::<Key>());
        let digests = package.modules.iter().map(|module| Digest::from_bytes(*module.digest.as_bytes()));
        keep.objects.extend(digests);
    }
}
