//! Roots for garbage collection: installed sets, those to roll back to, and pins.
//!
//! ```text
//! every kernel under the root:  generation.json -> keys and digests of the installed set, and of the set before it
//! the settings:                 pins, keys
//! ```
//! Digests count in addition to keys: if a package was built again, its entry references other modules than the
//! installed ones, and a rollback still needs the old ones. Builds used by an image under another root are known only
//! if that root is named; otherwise pin them. If one set cannot be read, its builds are unknown, and nothing is
//! deleted.
//!
//! A concurrent install is protected by the grace period, because it marks the entries that it finds as used
//! (`kcache_store::gc`).

use kcache_kernel::install::{self, ModuleSpec, Set};
use kcache_kernel::kernels;
use kcache_store::gc::Keep;
use kcache_store::{Digest, Key};

use crate::error::{Error, Result};
use crate::run::context::Context;

/// The roots for the kernels under the context's root. Previous sets count only if `keep_previous` is set.
///
/// # Errors
///
/// [`Error::Unreachable`] if a kernel's set cannot be read.
pub fn keep(context: &Context, keep_previous: bool, pins: &[Key]) -> Result<Keep> {
    let mut keep = Keep { keys: pins.iter().copied().collect(), ..Keep::default() };
    for (release, tree) in kernels::trees(&context.root)? {
        let unknown = |source| Error::Unreachable { release: release.clone(), source };
        for generation in install::generations(&tree).map_err(unknown)? {
            add(&mut keep, &generation.wanted());
            if let Some(previous) = generation.previous.as_ref().filter(|_| keep_previous) {
                add(&mut keep, previous);
            }
        }
        keep.releases.insert(release);
    }
    Ok(keep)
}

fn add(keep: &mut Keep, set: &Set<ModuleSpec>) {
    for package in &set.packages {
        keep.keys.extend(package.key.parse::<Key>());
        let digests = package.modules.iter().map(|module| Digest::from_bytes(*module.digest.as_bytes()));
        keep.objects.extend(digests);
    }
}
