//! Which sandbox a kernel's recipes, questions and builds run in.

use std::path::{Path, PathBuf};

use kcache_kernel::kernels::{BuildTree, Kernel, Mount};
use kcache_kernel::packages::Package;
use kcache_kernel::recipe::dkms;
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::{Machine, Sandbox};

use crate::world::World;

/// A sandbox that claims to run `kernel` on `cpus` CPUs, with the programs of `tools` and the kernel's headers in it.
pub fn room(
    world: &World,
    kernel: &Kernel,
    tree: &BuildTree,
    tools: &Root,
    own: PathBuf,
    cpus: usize,
) -> Sandbox {
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
        cpus,
        links: Vec::new(),
        own,
    }
}

/// Shows a package's source tree, which lies at `outside`, where DKMS has it; returns its path in the sandbox.
pub fn show_source(sandbox: &mut Sandbox, package: &Package, outside: &Path) -> PathBuf {
    let inside = PathBuf::from(format!("/usr/src/{}-{}", package.name, package.version));
    sandbox.read_only.push(Mount { outside: outside.to_owned(), inside: inside.clone() });
    let dkms = Path::new("/var/lib/dkms").join(&package.name).join(&package.version);
    sandbox.links.push((dkms.join("source"), inside.clone()));
    inside
}

/// Shows what evaluating a package's recipe may read: its source as far as the source's digest goes, and the
/// administrator's overrides for just this package and kernel.
pub fn show_recipe(sandbox: &mut Sandbox, root: &Root, package: &Package) -> PathBuf {
    let inside = show_source(sandbox, package, &package.source);
    let git = package.source.join(".git");
    let (directory, file) = sandbox.blanks();
    if git.exists() {
        let outside = if git.is_dir() { directory } else { file };
        sandbox.read_only.push(Mount { outside, inside: inside.join(".git") });
    }
    let Machine { release, arch, .. } = &sandbox.machine;
    let overrides = dkms::override_files(&package.name, &package.version, release, arch);
    for inside in overrides {
        if let Some(outside) = root.find(&inside) {
            sandbox.read_only.push(Mount { outside, inside });
        }
    }
    inside
}
