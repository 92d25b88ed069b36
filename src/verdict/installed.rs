//! The state of what is installed for one kernel, file by file: kcache's generation, foreign modules, and copies of either in
//! the initramfs.

use std::cell::LazyCell;
use std::path::{Path, PathBuf};

use kcache_kernel::bounded_read;
use kcache_kernel::index::DepIndex;
use kcache_kernel::install::{self, Base, Fault, Generation};
use kcache_kernel::kernels::{Headers, Kernel};
use kcache_kernel::module_name::ModuleName;
use kcache_kernel::modules::{self, InstalledModule, Loader};
use kcache_kernel::signing::{self, KnownKeys};

use super::in_initramfs;
use super::state::{Foreign, Standing, State};
use crate::error::Result;
use crate::inputs::change::InputChange;
use crate::run::session::Session;

/// The modules installed for one kernel, and their faults.
pub(super) struct Installed {
    /// The generation, if kcache installed one.
    pub(super) generation: Option<Generation>,
    /// Foreign modules.
    pub(super) foreign: Vec<Foreign>,
    /// See [`super::Verdict`].
    pub(super) warnings: Vec<String>,
    pub(super) details: Vec<String>,
    /// Faults of the generation's files and indexes.
    faults: Vec<Fault>,
    /// Modules that the kernel would not load: package and reason.
    unloadable: Vec<(String, String)>,
    /// Packages whose copy in the initramfs is of another build or missing: package and reason.
    outdated: Vec<(String, String)>,
    /// The image is of another build of the kernel than the one that the generation was made for: both `uname -v`
    /// texts.
    other_build: Option<(String, String)>,
    /// Why the installed set is unknown.
    unknown: Option<Fault>,
    interrupted: bool,
}

impl Installed {
    /// Reads and checks it.
    pub(super) fn read(session: &Session, kernel: &Kernel) -> Result<Installed> {
        let mut found = Installed {
            generation: None,
            foreign: Vec::new(),
            warnings: about_builds(kernel),
            details: Vec::new(),
            faults: Vec::new(),
            unloadable: Vec::new(),
            outdated: Vec::new(),
            other_build: None,
            unknown: None,
            interrupted: false,
        };
        let Some(tree) = &kernel.modules else { return Ok(found) };
        found.interrupted = install::interrupted(tree)?;
        if found.interrupted {
            found.warnings.push(
                "an installation was interrupted; the next `kcache install` or the next boot will complete or undo it".into(),
            );
        }
        let Base { generation, fault, .. } = install::base(tree)?;
        found.generation = generation;
        found.unknown = fault;
        if let Some(generation) = &found.generation {
            found.faults = install::verify(tree, generation)?;
            found.other_build = other_build(kernel, generation);
        }
        found.judge_modules(session, kernel, tree)?;
        found.look_into_initramfs(session, kernel)?;
        Ok(found)
    }

    /// Names of the installed packages.
    pub(super) fn packages(&self) -> impl Iterator<Item = &str> {
        self.generation
            .iter()
            .flat_map(|generation| &generation.set.packages)
            .map(|package| package.name.as_str())
    }

    /// The key of a package's installed build.
    pub(super) fn key(&self, package: &str) -> Option<&str> {
        let packages = &self.generation.as_ref()?.set.packages;
        packages.iter().find(|installed| installed.name == package).map(|installed| installed.key.as_str())
    }

    /// The version of a package's installed build.
    pub(super) fn version(&self, package: &str) -> Option<&str> {
        let packages = &self.generation.as_ref()?.set.packages;
        packages
            .iter()
            .find(|installed| installed.name == package)
            .map(|installed| installed.version.as_str())
    }

    /// The faults of one package's installed modules: of its files first, then the reasons why the kernel would not
    /// load them.
    pub(super) fn fault(&self, package: &str) -> Option<String> {
        let own =
            self.generation.as_ref()?.set.packages.iter().find(|installed| installed.name == package)?;
        let concerns = |fault: &&Fault| match fault {
            Fault::NoIndex { .. } | Fault::Index { .. } | Fault::Unlike { .. } | Fault::Record { .. } => true,
            Fault::Missing { path } | Fault::Changed { path, .. } => {
                own.modules.iter().any(|module| path.ends_with(&module.path))
            }
            Fault::Unlisted { module }
            | Fault::Shadowed { module, .. }
            | Fault::NoDependency { module, .. } => {
                own.modules.iter().any(|installed| installed.spec.name == *module)
            }
        };
        let of_files: Vec<String> = self.faults.iter().filter(concerns).map(Fault::to_string).collect();
        if !of_files.is_empty() {
            return summary(&of_files);
        }
        let of_kernel = self.unloadable.iter().filter(|(name, _)| name == package);
        summary(&of_kernel.map(|(_, reason)| reason.clone()).collect::<Vec<_>>())
    }

    /// Why an installed and intact package is not what will be loaded.
    pub(super) fn outdated(&self, package: &str) -> Option<Standing> {
        let stale = |changed, reason: String| Standing {
            changed: vec![changed],
            ..Standing::because(State::Stale, reason)
        };
        if let Some((image, made_for)) = &self.other_build {
            let reason = format!("changed: kernel.version: image '{image}', built for '{made_for}'");
            return Some(stale(InputChange::KernelVersion, reason));
        }
        let (_, reason) = self.outdated.iter().find(|(name, _)| name == package)?;
        Some(stale(InputChange::Initramfs, reason.clone()))
    }

    /// Why something is not installed, if a fault explains it.
    pub(super) fn why_missing(&self) -> Option<String> {
        if let Some(fault) = &self.unknown {
            return Some(fault.to_string());
        }
        self.interrupted.then(|| "an installation was interrupted".to_owned())
    }

    fn judge_modules(&mut self, session: &Session, kernel: &Kernel, tree: &Path) -> Result<()> {
        let own: Vec<(String, PathBuf)> = self.own_files();
        let strange = modules::foreign(tree)?;
        if own.is_empty() && strange.is_empty() {
            return Ok(());
        }
        self.look_for_built_in(tree)?;
        let signers = self.signers(session, &kernel.release);
        let this_module = session.this_module(kernel);
        let Some(loader) = Loader::of(&session.context.root, kernel, signers, this_module)? else {
            let what = "kernel configuration not found; modules are not compared with it";
            self.warnings.push(what.to_owned());
            return Ok(());
        };
        if !loader.knows_symbols() {
            self.details.push("symbols and their versions not compared: no headers".to_owned());
        }
        let paths = own.iter().map(|(_, path)| path.clone()).chain(strange);
        // A missing file has been reported already.
        let present = paths.filter(|path| tree.join(path).symlink_metadata().is_ok());
        let modules =
            present.map(|path| loader.read(tree, path)).collect::<std::io::Result<Vec<InstalledModule>>>()?;
        let index = LazyCell::new(|| {
            let bytes = bounded_read::bytes(tree.join("modules.dep.bin"), bounded_read::MOST_DATA).ok();
            bytes.and_then(|bytes| DepIndex::parse(&bytes).ok()).unwrap_or_default()
        });
        let package_of = |module: &InstalledModule| {
            own.iter().find(|(_, path)| *path == module.path).map(|(name, _)| name)
        };
        let is_installed = |module: &str| index.lookup(module).is_some();
        let faults = loader.judge(&modules, &is_installed, &|module| package_of(module).is_some());
        for (module, faults) in modules.iter().zip(faults) {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            match package_of(module) {
                Some(package) => {
                    self.unloadable.extend(faults.into_iter().map(|fault| (package.clone(), fault)))
                }
                None => self
                    .foreign
                    .push(Foreign { path: module.path.display().to_string(), fault: summary(&faults) }),
            }
        }
        Ok(())
    }

    /// A module that the kernel has built in is never loaded, however well it is installed.
    fn look_for_built_in(&mut self, tree: &Path) -> Result<()> {
        let Some(generation) = &self.generation else { return Ok(()) };
        let own: Vec<(String, ModuleName)> = generation
            .modules()
            .map(|(package, module)| (package.name.clone(), ModuleName::new(&module.spec.name)))
            .collect();
        let built_in = modules::built_in(tree, &own.iter().map(|(_, name)| name.clone()).collect())?;
        let of_kernel = own.into_iter().filter(|(_, name)| built_in.contains(name));
        let faults = of_kernel.map(|(package, name)| (package, modules::never_loaded(&name)));
        self.unloadable.extend(faults);
        Ok(())
    }

    /// The certificates for verifying signatures. One that a user may not read does not make modules suspect.
    fn signers(&mut self, session: &Session, release: &str) -> KnownKeys {
        let mut known =
            KnownKeys { enrolled: signing::enrolled(&session.context.root), ..KnownKeys::default() };
        match session
            .context
            .services
            .signing
            .as_ref()
            .map(|signing| signing.of_kernel(release).certificate())
        {
            Some(Ok(certificate)) => known.configured.push(certificate),
            Some(Err(error)) => {
                known.incomplete = true;
                self.details.push(format!("signatures not verified: {}", crate::error::chain(&error)));
            }
            None => {}
        }
        known
    }

    /// Every module file of the generation, relative to the tree, with its package.
    fn own_files(&self) -> Vec<(String, PathBuf)> {
        let Some(generation) = &self.generation else { return Vec::new() };
        let directory = Path::new("updates").join(generation.dir_name());
        generation
            .modules()
            .map(|(package, module)| (package.name.clone(), directory.join(&module.path)))
            .collect()
    }

    fn look_into_initramfs(&mut self, session: &Session, kernel: &Kernel) -> Result<()> {
        let Some(generation) = &self.generation else { return Ok(()) };
        let compared = in_initramfs::compare(session, kernel, generation)?;
        self.outdated.extend(compared.outdated);
        self.details.extend(compared.details);
        Ok(())
    }
}

/// Warns if image and headers, or image and modules, are of two builds of one release.
fn about_builds(kernel: &Kernel) -> Vec<String> {
    let differ = match &kernel.headers {
        Headers::OtherBuild { image, headers } => Some((image.as_str(), headers.as_str())),
        _ => kernel.builds_differ(),
    };
    let differ = differ.map(|(image, headers)| {
        format!("image and headers are from different builds: image '{image}', headers '{headers}'; install matching packages")
    });
    differ.into_iter().collect()
}

fn other_build(kernel: &Kernel, generation: &Generation) -> Option<(String, String)> {
    let (image, made_for) = (kernel.image_version.clone()?, &generation.set.kernel_version);
    (!made_for.is_empty() && image != *made_for).then(|| (image, made_for.clone()))
}

/// The first of several faults, and the number of others.
fn summary(faults: &[String]) -> Option<String> {
    let first = faults.first()?;
    Some(match faults.len() - 1 {
        0 => first.clone(),
        more => format!("{first} (and {more} more)"),
    })
}
