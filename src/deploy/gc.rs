//! What is to stay when the store is collected: what is installed, what can be gone back to, and what is pinned.
//!
//! ```text
//! every kernel under the root:  generation.json -> keys and digests of the installed set, and of the set before it
//! the settings:                 pins, keys
//! ```
//! The digests count besides the keys: where a package was built again, the entry names other modules than are installed, and
//! going back still takes the old ones. Which builds an image under another root holds is known only when that root is named;
//! for those there are pins. Where one set cannot be read, its builds are not known, and nothing is collected.
//!
//! An install that runs meanwhile is safe by the grace: what it finds it also uses (`kcache_store::gc`).

use kcache_kernel::install::{self, ModuleSpec, Set};
use kcache_kernel::kernels;
use kcache_store::gc::Keep;
use kcache_store::{Digest, Key};

use crate::error::{Error, Result};
use crate::run::context::Context;

/// What stays for the kernels under the root. Sets to go back to count only where `keep_previous` says so.
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
