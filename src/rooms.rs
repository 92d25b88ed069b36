//! Which sandbox a kernel's recipes, questions and builds run in.

use std::path::{Path, PathBuf};

use kcache_kernel::kernels::{BuildTree, Kernel, Mount};
use kcache_kernel::packages::Package;
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::{Machine, Sandbox};

use crate::world::World;

/// A sandbox that claims to run `kernel`, with the programs of `tools` and the kernel's headers in it.
pub fn room(world: &World, kernel: &Kernel, tree: &BuildTree, tools: &Root, own: PathBuf) -> Sandbox {
    Sandbox {
        bwrap: world.bwrap.clone(),
        tools: tools.clone(),
        machine: Machine {
            release: kernel.release.clone(),
            version: tree.version.clone(),
            arch: tree.arch.clone(),
            build: Some(tree.inside.clone()),
        },
        identity: world.identity,
        read_only: tree.mounts.clone(),
        writable: Vec::new(),
        links: Vec::new(),
        own,
    }
}

/// Shows a package's source in a sandbox, where DKMS has it, and the administrator's overrides; returns its path there.
pub fn show_source(sandbox: &mut Sandbox, root: &Root, package: &Package) -> PathBuf {
    let inside = PathBuf::from(format!("/usr/src/{}-{}", package.name, package.version));
    sandbox.read_only.push(Mount { outside: package.source.clone(), inside: inside.clone() });
    if let Some(overrides) = root.find("/etc/dkms").filter(|path| path.is_dir()) {
        sandbox.read_only.push(Mount { outside: overrides, inside: PathBuf::from("/etc/dkms") });
    }
    let dkms = Path::new("/var/lib/dkms").join(&package.name).join(&package.version);
    sandbox.links.push((dkms.join("source"), inside.clone()));
    inside
}
