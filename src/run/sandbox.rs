//! Sets up the sandbox for a kernel's recipes, toolchain queries and builds.

use std::io;
use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache_kernel::bounded_read;
use kcache_kernel::kernels::{BuildTree, Kernel, Mount};
use kcache_kernel::packages::Package;
use kcache_kernel::recipe::{dkms, kept_dir};
use kcache_kernel::rootfs::Root;
use kcache_kernel::sandbox::{MachineNames, Sandbox};

use crate::run::context::Context;

/// A sandbox that shows `kernel` as running on `cpus` CPUs, with the programs of `tools` and the kernel's headers.
pub fn room(
    context: &Context,
    kernel: &Kernel,
    tree: &BuildTree,
    tools: &Root,
    own: PathBuf,
    cpus: usize,
) -> Sandbox {
    // Recipes also look for the configuration in /boot. The headers' own is shown there, because the key covers that
    // one.
    let config = Mount {
        outside: tree.config_file(),
        inside: PathBuf::from(format!("/boot/config-{}", kernel.release)),
    };
    Sandbox {
        bwrap: context.bwrap.clone(),
        tools: tools.clone(),
        machine: MachineNames {
            release: kernel.release.clone(),
            version: tree.version.clone(),
            arch: tree.arch.clone(),
            build: Some(tree.inside.clone()),
            source: Some(tree.source.clone()),
        },
        entrance: context.services.entrance.clone(),
        identity: context.services.identities.take(),
        limits: context.limits,
        groups: context.services.groups().cloned(),
        read_only: tree.mounts.iter().cloned().chain([config]).collect(),
        files: Vec::new(),
        tool_paths: context.tool_paths.iter().filter_map(|path| tool_path(context, tools, path)).collect(),
        called: Vec::new(),
        writable: Vec::new(),
        cpus,
        links: Vec::new(),
        tree_links: tree.links.clone(),
        installed: Vec::new(),
        launcher: None,
        own,
    }
}

/// A directory of the setting `tool-paths`: that of the system whose tools are used, or the target's, where that is another.
pub fn tool_path(context: &Context, tools: &Root, path: &Path) -> Option<Mount> {
    let found = [tools, &context.root].into_iter().filter_map(|root| root.find(path));
    let outside = found.into_iter().find(|outside| outside.is_dir())?;
    Some(Mount { outside, inside: path.to_owned() })
}

/// Shows a package's source tree, which is at `outside`, at DKMS's path; returns its path in the sandbox.
pub fn show_source(sandbox: &mut Sandbox, package: &Package, outside: &Path) -> PathBuf {
    let inside = link_source(sandbox, package);
    sandbox.read_only.push(Mount { outside: outside.to_owned(), inside: inside.clone() });
    inside
}

/// Shows a private copy of a package's source tree at DKMS's path, where root may write: some packages build helpers there.
/// Whoever runs the sandbox gives the copy to its user.
pub fn show_writable_source(sandbox: &mut Sandbox, package: &Package, copy: &Path) -> PathBuf {
    let inside = link_source(sandbox, package);
    sandbox.writable.push(Mount { outside: copy.to_owned(), inside: inside.clone() });
    inside
}

/// Links DKMS's record of a package to the place of its source, also under the names in its `dkms.conf`.
fn link_source(sandbox: &mut Sandbox, package: &Package) -> PathBuf {
    let inside = PathBuf::from(format!("/usr/src/{}-{}", package.name, package.version));
    let records = Path::new("/var/lib/dkms");
    sandbox.links.push((records.join(&package.name).join(&package.version).join("source"), inside.clone()));
    if let Some((name, version)) = &package.declared {
        let own = records.join(&package.name).join(&package.version);
        sandbox.links.push((records.join(name).join(version), own));
        sandbox.links.push((PathBuf::from(format!("/usr/src/{name}-{version}")), inside.clone()));
    }
    inside
}

/// Shows the results of another package's build, which are at `outside`, at DKMS's path for an installed package, and
/// its modules of these names as installed.
pub fn show_kept<'a>(
    sandbox: &mut Sandbox,
    package: &Package,
    outside: &Path,
    modules: impl Iterator<Item = &'a str>,
) {
    let MachineNames { release, arch, .. } = &sandbox.machine;
    let (release, arch) = (release.clone(), arch.clone());
    let inside = kept_dir(&package.name, &package.version, &release, &arch);
    let link = Path::new("/var/lib/dkms").join(&package.name).join(format!("kernel-{release}-{arch}"));
    sandbox.links.push((link, Path::new(&package.version).join(release).join(arch)));
    sandbox.installed.extend(modules.map(|name| inside.join("module").join(name)));
    sandbox.read_only.push(Mount { outside: outside.to_owned(), inside });
}

/// The administrator's directory for a package: patches and scripts that replace the package's.
pub fn overrides_dir(package: &Package) -> PathBuf {
    Path::new("/etc/dkms").join(&package.name)
}

/// Shows the files that evaluating a package's recipe may read: its source as far as its digest covers it, and the
/// administrator's overrides for exactly this package and kernel. `copy` is one of the source that may be written.
pub fn show_recipe(
    sandbox: &mut Sandbox,
    root: &Root,
    package: &Package,
    copy: Option<&Path>,
) -> io::Result<PathBuf> {
    let inside = match copy {
        Some(copy) => show_writable_source(sandbox, package, copy),
        None => show_source(sandbox, package, &package.source),
    };
    let git = package.source.join(".git");
    let (directory, file) = sandbox.blanks();
    if copy.is_none() && git.exists() {
        let outside = if git.is_dir() { directory } else { file };
        sandbox.read_only.push(Mount { outside, inside: inside.join(".git") });
    }
    let MachineNames { release, arch, .. } = &sandbox.machine;
    let mut recipes: Vec<Mount> = dkms::override_files(&package.name, &package.version, release, arch)
        .into_iter()
        .filter_map(|inside| Some(Mount { outside: root.find(&inside)?, inside }))
        .collect();
    for mount in &mut recipes {
        let text = bounded_read::text(&mount.outside, bounded_read::MOST)?.unwrap_or_default();
        mount.outside = plain_copy(text.into_bytes(), &mount.inside, &sandbox.own)?;
    }
    if let Some(outside) = without_cr(package.dkms_conf()?, Path::new("dkms.conf"), &sandbox.own)? {
        recipes.push(Mount { outside, inside: inside.join("dkms.conf") });
    }
    sandbox.read_only.extend(recipes);
    Ok(inside)
}

/// Whether lines end with CR LF, which bash would treat as part of the text.
pub fn has_cr(recipe: &[u8]) -> bool {
    recipe.windows(2).any(|pair| pair == b"\r\n")
}

/// Makes a copy of a recipe with lines that bash can read; `None` if it needs none.
fn without_cr(text: Vec<u8>, recipe: &Path, own: &Path) -> io::Result<Option<PathBuf>> {
    if !has_cr(&text) {
        return Ok(None);
    }
    plain_copy(text, recipe, own).map(Some)
}

/// Makes a copy of a recipe, without CR, that the build's user can read: the file itself may be for root alone.
fn plain_copy(mut text: Vec<u8>, recipe: &Path, own: &Path) -> io::Result<PathBuf> {
    if has_cr(&text) {
        text.retain(|&byte| byte != b'\r');
    }
    let copies = own.join("recipes");
    fs::create_dir_all(&copies)?;
    let copy = copies.join(recipe.file_name().unwrap_or_default());
    fs::write(&copy, text)?;
    // Explicitly, whatever the umask.
    fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o644))?;
    Ok(copy)
}
