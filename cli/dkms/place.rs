//! What the actions work on: the context and its session, DKMS's records, and the selected packages and kernels.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Parser;
use fs_err as fs;
use kcache::error::Error;
use kcache::kernel::dkms::framework::Framework;
use kcache::kernel::dkms::{DkmsBuild, Records, Version};
use kcache::kernel::install::{self, ForeignFile, Generation, ModulesDir};
use kcache::kernel::kernels::{self, Kernel};
use kcache::kernel::packages::{self, Package};
use kcache::kernel::recipe::{is_flat_name, is_version};
use kcache::kernel::rootfs::Root;
use kcache::run::context::Context;
use kcache::run::select;
use kcache::run::session::Session;
use kcache::store::Exposed;

use super::DkmsError;
use super::args::{Typed, refused};
use super::print::answer;
use crate::args::Args;
use crate::cmd::{self, context::Asked};
use crate::confined::{self, Caller};
use crate::dkms_key;
use crate::out::Out;
use crate::settings::choices::OnFailure;

/// The system under another directory, for tests and images: DKMS has no option for it.
const ROOT: &str = "KCACHE_ROOT";

/// A key is made of the package's own recipe and what /etc/dkms adds to it.
const INSTEAD_OF_CONF: &str = "A package is built by the dkms.conf in its source; /etc/dkms/NAME-VERSION.conf, or --directive, changes that.";

/// With this file DKMS does nothing by itself.
pub const NO_AUTOINSTALL: &str = "/etc/dkms/no-autoinstall";

pub struct Place<'a> {
    pub typed: &'a Typed,
    pub context: Context,
    pub out: Arc<Out>,
    pub records: Records,
    /// `/usr/src`, as the system itself names it.
    source_tree: PathBuf,
    /// DKMS's own settings.
    pub framework: Framework,
    /// A failure for a kernel that a package manager installs is a warning (`on-failure`).
    pub forgives: bool,
}

/// The builds and installations of a version for one kernel.
pub struct Standing {
    pub kernel: String,
    pub installed: bool,
    /// The record of a build: DKMS's own, or that of `dkms build` under kcache.
    pub built: Option<DkmsBuild>,
    /// kcache has installed it.
    pub by_kcache: Option<Generation>,
}

/// The root under `KCACHE_ROOT`; `None` for this machine.
pub fn root() -> Option<PathBuf> {
    std::env::var_os(ROOT).filter(|root| !root.is_empty()).map(PathBuf::from)
}

impl<'a> Place<'a> {
    pub fn new(typed: &'a Typed) -> Result<Place<'a>, DkmsError> {
        let mut words = vec!["kcache".to_owned()];
        if let Some(root) = root() {
            words.extend(["--root".to_owned(), root.to_string_lossy().into_owned()]);
        }
        let is_number = |jobs: &&str| jobs.parse::<u16>().is_ok_and(|jobs| jobs > 0);
        // Another system does not decide how much of this machine it gets.
        let of_host = match root() {
            None => Framework::of(&Root::new("/")),
            Some(_) => Framework::default(),
        };
        if let Some(jobs) = typed.jobs.as_deref().or_else(|| of_host.get("parallel_jobs").filter(is_number)) {
            words.extend(["--jobs".to_owned(), jobs.to_owned()]);
        }
        words.extend(typed.quiet.then(|| "--quiet".to_owned()));
        let verbose = typed.verbose || of_host.get("verbose").is_some();
        words.extend(verbose.then(|| "--verbose".to_owned()));
        words.push("config".to_owned());
        let global = Args::try_parse_from(words).map_err(|e| DkmsError::new(1, &[&e.to_string()]))?.global;
        let out = Arc::new(Out::new(&global));
        let mut settings = cmd::context::settings(&global)?;
        let installs = typed.action.is_none_or(|action| action.wants_root() && !action.removes());
        if installs && dkms_key::carry_over(&settings, &global, &out)? {
            settings = cmd::context::settings(&global)?;
        }
        settings.warnings.iter().for_each(|warning| out.warn(warning));
        confined::confine(&settings, Caller::Dkms { archive: typed.archive.as_deref() }, &out);
        let asked =
            Asked { directives: &typed.directives, without_dependencies: typed.force, ..Asked::default() };
        let context = cmd::context::context(&settings, &out, &asked)?;
        let framework = Framework::of(&context.root);
        let tree = |name: &str| framework.get(name).map(PathBuf::from).filter(|dir| dir.is_absolute());
        let dkms_tree = typed.dkms_tree.clone().or_else(|| tree("dkms_tree"));
        let records = match &dkms_tree {
            Some(dir) => Records::at(context.root.place(dir)?),
            None => Records::of(&context.root)?,
        };
        let source_tree = typed.source_tree.clone().or_else(|| tree("source_tree"));
        let source_tree = source_tree.unwrap_or_else(|| PathBuf::from("/usr/src"));
        let forgives = settings.on_failure.value == OnFailure::Warn;
        Ok(Place { typed, context, out, records, source_tree, framework, forgives })
    }

    /// Refuses what only root may do to this system; another one, under `KCACHE_ROOT`, is whoever's it is.
    pub fn check_root(&self) -> Result<(), DkmsError> {
        if self.context.root.is_host() && !rustix::process::geteuid().is_root() {
            return Err(DkmsError::new(1, &["You must be root to use this command."]));
        }
        Ok(())
    }

    /// Refuses records that root would change on the word of whoever else can change them.
    pub fn check_exposed(&self) -> Result<(), DkmsError> {
        if !self.context.root.is_host() || !rustix::process::geteuid().is_root() {
            return Ok(());
        }
        match Exposed::above(&self.records.dir().join("record"))? {
            Some(exposed) => Err(DkmsError::new(1, &[&format!("Cannot use the DKMS tree: {exposed}")])),
            None => Ok(()),
        }
    }

    /// Refuses early what could not be recorded in the end.
    pub fn check_records(&self) -> Result<(), DkmsError> {
        let dir = self.records.dir();
        match rustix::fs::access(dir, rustix::fs::Access::WRITE_OK) {
            Err(rustix::io::Errno::ACCESS) => {
                Err(DkmsError::new(1, &[&format!("No write access to DKMS tree at {}", dir.display())]))
            }
            _ => Ok(()),
        }
    }

    /// Prints a line of results, unless `-q` was given.
    pub fn print(&self, line: &str) {
        if !self.typed.quiet {
            answer(line);
        }
    }

    /// The one version that an action is about.
    pub fn version(&self, action: &str) -> Result<Version, DkmsError> {
        match (&self.typed.module, &self.typed.version) {
            (Some(name), Some(version)) if is_flat_name(name) && is_version(version) => {
                Ok(Version { name: name.clone(), version: version.clone() })
            }
            (Some(name), Some(version)) => {
                let line = format!("{name:?}, {version:?}: this is no name and version of a module.");
                Err(DkmsError::new(1, &[&line]))
            }
            _ => Err(DkmsError::new(
                1,
                &[
                    "Arguments <module> and <module-version> are not specified.",
                    &format!("Usage: {action} <module>/<module-version> or"),
                    &format!("       {action} -m <module>/<module-version> or"),
                    &format!("       {action} -m <module> -v <module-version>"),
                ],
            )),
        }
    }

    /// Where a version's source lies, as the system itself names it.
    pub fn source(&self, what: &Version) -> PathBuf {
        self.source_tree.join(format!("{}-{}", what.name, what.version))
    }

    /// The same directory, as this machine names it.
    pub fn source_here(&self, what: &Version) -> Result<PathBuf, DkmsError> {
        Ok(self.context.root.place(self.source(what))?)
    }

    /// The package of a version, and all others, for what it builds against.
    pub fn package(&self, what: &Version) -> Result<(Package, Vec<Package>), DkmsError> {
        let all = packages::installed(&self.context.root)?.0;
        let listed = select::find(&all, &format!("{}/{}", what.name, what.version)).cloned();
        let package = match (self.named_source(what)?, listed) {
            (Some(source), Some(listed)) if is_same(&source, &listed.source) => listed,
            (None, Some(listed)) => listed,
            (Some(source), _) => package_at(&source, what)?,
            (None, None) => package_at(&self.source_here(what)?, what)?,
        };
        self.check_conf(&package)?;
        Ok((package, all))
    }

    /// Where the record or the command line says that a version's source is.
    fn named_source(&self, what: &Version) -> Result<Option<PathBuf>, DkmsError> {
        let link = self.records.place(what).join("source");
        let root = &self.context.root;
        match root.inside(&link).and_then(|inside| root.find(inside)) {
            Some(source) => Ok(Some(source)),
            None => self.typed.source_tree.is_some().then(|| self.source_here(what)).transpose(),
        }
    }

    /// Refuses a recipe other than the package's own: `-c` names one.
    fn check_conf(&self, package: &Package) -> Result<(), DkmsError> {
        let Some(conf) = &self.typed.conf else { return Ok(()) };
        match self.context.root.find(conf) {
            Some(conf) if is_same(&conf, &package.source.join("dkms.conf")) => Ok(()),
            _ => Err(refused("-c", &conf.display().to_string(), INSTEAD_OF_CONF)),
        }
    }

    /// The releases that were named, else the running kernel's.
    pub fn releases(&self) -> Vec<String> {
        if self.typed.kernels.is_empty() { vec![cmd::running()] } else { self.typed.kernels.clone() }
    }

    /// The release that was named, else the running kernel's, where only one can be meant.
    pub fn one_release(&self, action: &str) -> Result<String, DkmsError> {
        match &self.releases()[..] {
            [release] => Ok(release.clone()),
            _ => Err(DkmsError::new(
                4,
                &[&format!(
                    "The action {action} does not support multiple kernel version parameters on the command line."
                )],
            )),
        }
    }

    /// The one release that was named: what a kernel's installation or removal is for must not be guessed.
    pub fn named_release(&self, action: &str) -> Result<String, DkmsError> {
        match &self.typed.kernels[..] {
            [release] => Ok(release.clone()),
            _ => Err(DkmsError::new(
                4,
                &[&format!(
                    "The action {action} requires exactly one kernel version parameter on the command line."
                )],
            )),
        }
    }

    /// What is called so, installed or by its build tree.
    pub fn kernel(&self, release: &str) -> Result<Option<Kernel>, DkmsError> {
        let found = match &self.typed.kernel_source {
            Some(path) => {
                Some(kernels::at_path(&self.context.root, path).map_err(kcache::error::Error::from)?)
            }
            None => kernels::of_release(&self.context.root, release).map_err(kcache::error::Error::from)?,
        };
        match found {
            Some(kernel) if kernel.release != release => Err(DkmsError::new(
                1,
                &[&format!("--kernelsourcedir leads to kernel {}, not {release}.", kernel.release)],
            )),
            found => Ok(found),
        }
    }

    /// Releases of installed kernels, oldest first, with their directories of modules.
    pub fn installed_kernels(&self) -> Result<Vec<ModulesDir>, DkmsError> {
        Ok(kernels::trees(&self.context.root).map_err(kcache::error::Error::from)?)
    }

    /// Whether a version's records have lost its source: DKMS asks for a person then.
    pub fn is_broken(&self, what: &Version) -> bool {
        let link = self.records.place(what).join("source");
        let root = &self.context.root;
        if !self.records.has(what) || link.is_dir() && !link.is_symlink() {
            return false;
        }
        if link.is_symlink() {
            return root.inside(&link).and_then(|inside| root.find(inside)).is_none_or(|dir| !dir.is_dir());
        }
        self.source_here(what).is_ok_and(|source| source.is_dir())
    }

    /// Refuses a version whose records have lost its source.
    pub fn check_broken(&self, what: &Version) -> Result<(), DkmsError> {
        if !self.is_broken(what) {
            return Ok(());
        }
        let lines = [
            &format!("{}/{} is broken!", what.name, what.version),
            "Missing the source directory or the symbolic link pointing to it.",
            "Manual intervention is required!",
        ];
        Err(DkmsError::new(4, &lines))
    }

    /// Every version that is added, or was before its source was lost, or is installed without that.
    pub fn known(&self) -> Result<Vec<Version>, DkmsError> {
        let mut known = self.records.versions()?;
        known.retain(|what| self.records.is_added(what) || self.is_broken(what));
        for tree in self.installed_kernels()? {
            let generation = install::current(&tree).map_err(kcache::error::Error::from)?;
            let packages = generation.into_iter().flat_map(|generation| generation.set.packages);
            known.extend(packages.map(|package| Version { name: package.name, version: package.version }));
        }
        known.sort();
        known.dedup();
        Ok(known)
    }

    /// How a version stands for each kernel that has it built or installed, in the order of DKMS: by name.
    pub fn standings(&self, what: &Version) -> Result<Vec<Standing>, DkmsError> {
        let records = self.records.built(what)?;
        let mut found = Vec::new();
        for tree in self.installed_kernels()? {
            let kernel = tree.release().to_owned();
            let generation = install::current(&tree).map_err(kcache::error::Error::from)?;
            let has = |g: &Generation| {
                g.set.packages.iter().any(|p| p.name == what.name && p.version == what.version)
            };
            let by_kcache = generation.filter(has);
            let built = records.iter().find(|built| built.kernel == kernel).cloned();
            let installed = by_kcache.is_some() || built.as_ref().is_some_and(|built| built.installed);
            if installed || built.is_some() {
                found.push(Standing { kernel, installed, built, by_kcache });
            }
        }
        found.sort_by(|a, b| a.kernel.cmp(&b.kernel));
        Ok(found)
    }

    /// The architecture, as DKMS names it.
    pub fn arch(&self) -> String {
        machine()
    }

    /// Refuses what is to be built for another machine.
    pub fn check_arch(&self) -> Result<(), DkmsError> {
        let own = machine();
        match self.typed.arches.iter().find(|arch| **arch != own && debian_name(&own) != Some(arch.as_str()))
        {
            Some(arch) => {
                Err(DkmsError::new(1, &[&format!("kcache builds for {own} here, not for {arch}.")]))
            }
            None => Ok(()),
        }
    }
}

fn package_at(source: &Path, what: &Version) -> Result<Package, DkmsError> {
    match packages::called(source, &what.name, &what.version) {
        Ok(package) => Ok(package),
        Err(_) => {
            let file = format!("File: {}/dkms.conf does not exist.", source.display());
            Err(DkmsError::new(4, &["Could not locate dkms.conf file.", &file]))
        }
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    fs::canonicalize(one).is_ok_and(|one| fs::canonicalize(other).is_ok_and(|other| one == other))
}

/// `uname -m`.
fn machine() -> String {
    rustix::system::uname().machine().to_string_lossy().into_owned()
}

/// What Debian calls an architecture: some of its packages' scripts pass that on.
fn debian_name(machine: &str) -> Option<&'static str> {
    match machine {
        "x86_64" => Some("amd64"),
        "aarch64" => Some("arm64"),
        "armv7l" => Some("armhf"),
        "ppc64le" => Some("ppc64el"),
        _ => None,
    }
}

pub fn session<'a>(place: &'a Place) -> Result<Session<'a>, DkmsError> {
    Ok(Session::new(&place.context, Some(place.context.open_store().map_err(Error::from)?))?)
}

/// What DKMS has installed of a package for a kernel, in any version, and the files that are there of it.
pub fn of_dkms(
    place: &Place,
    name: &str,
    kernel: &Kernel,
) -> Result<Vec<(DkmsBuild, Vec<ForeignFile>)>, DkmsError> {
    let Some(tree) = &kernel.modules else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for built in place.records.installed(&kernel.release)? {
        if built.what.name == name {
            let files = place.records.files(&built, tree)?;
            found.push((built, files));
        }
    }
    Ok(found)
}
