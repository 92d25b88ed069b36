//! Loads modules into the kernel that they are for, in a VM, before anybody reboots into it.
//!
//! The VM is `kcache_kernel::boot_test`'s. Here it gets its modules: for an installed package, the files that `modprobe` would
//! load; for any other, the build that `install` would install, from the store, a shared cache, or built now. Nothing is
//! installed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kcache_kernel::boot_test::{
    self, BootTest, LoadPlan, OwnProgram, Parameter, TestModule, TestOutcome, TestWatch, machine,
};
use kcache_kernel::install::{self, Generation, Installed, InstalledPackage as Set};
use kcache_kernel::kernels::{self, Kernel};
use kcache_kernel::packages::Package;

use crate::build::check_modules;
use crate::error::{Error, Result};
use crate::inputs::identify;
use crate::resolve;
use crate::resolve::resolution::Resolution;
use crate::run::labels::Labels;
use crate::run::request::{Options, Request};
use crate::run::select;
use crate::run::session::Session;

/// A package whose modules are to be tested.
pub struct Subject {
    /// Name of the package.
    pub package: String,
    /// Version of the package.
    pub version: String,
    /// Its modules, or why there are none.
    pub modules: TestedModules,
}

/// The modules of a [`Subject`].
pub enum TestedModules {
    /// Modules as installed.
    Installed(Vec<TestModule>),
    /// Modules as built.
    Built(Vec<TestModule>),
    /// There are none; the resolution.
    None(Box<Resolution>),
    /// Obtaining them failed.
    Error(Error),
    /// Not obtained in a dry run.
    Unbuilt,
}

impl Subject {
    /// The modules to load.
    pub fn to_load(&self) -> &[TestModule] {
        match &self.modules {
            TestedModules::Installed(modules) | TestedModules::Built(modules) => modules,
            TestedModules::None(_) | TestedModules::Error(_) | TestedModules::Unbuilt => &[],
        }
    }
}

/// The packages among `named` that are installed for a kernel, and the remaining words. If `named` is empty, all
/// installed ones.
pub fn installed(kernel: &Kernel, named: &[String]) -> Result<(Vec<Subject>, Vec<String>)> {
    let Some(tree) = &kernel.modules else { return Ok((Vec::new(), named.to_vec())) };
    let Some(generation) = install::current(tree)? else { return Ok((Vec::new(), named.to_vec())) };
    let is = |package: &Set<Installed>, word: &String| {
        *word == package.name || *word == format!("{}/{}", package.name, package.version)
    };
    let mut subjects = Vec::new();
    for package in &generation.set.packages {
        if named.is_empty() || named.iter().any(|word| is(package, word)) {
            subjects.push(as_installed(tree, &generation, package)?);
        }
    }
    let known = |word: &&String| generation.set.packages.iter().any(|package| is(package, word));
    Ok((subjects, named.iter().filter(|word| !known(word)).cloned().collect()))
}

fn as_installed(tree: &Path, generation: &Generation, package: &Set<Installed>) -> Result<Subject> {
    let directory = tree.join("updates").join(generation.dir_name());
    let modules = package.modules.iter().map(|module| TestModule::read(&directory.join(&module.path)));
    Ok(Subject {
        package: package.name.clone(),
        version: package.version.clone(),
        modules: TestedModules::Installed(modules.collect::<std::io::Result<_>>()?),
    })
}

/// Adds the build of a package that is not installed, with its build dependencies.
pub fn add_build(
    session: &Session,
    request: &Request,
    options: &Options,
    dry: bool,
    subjects: &mut Vec<Subject>,
) {
    if subjects.iter().any(|subject| subject.package == request.package.name) {
        return;
    }
    match build(session, request, options, dry) {
        Ok(Some((version, modules))) => {
            let package = request.package.name.clone();
            subjects.push(Subject { package, version, modules });
            for package in builds_against(session, request) {
                add_build(session, &Request { package, ..*request }, &Options::default(), dry, subjects);
            }
        }
        Ok(None) => {}
        Err(error) => subjects.push(Subject {
            package: request.package.name.clone(),
            version: request.package.version.clone(),
            modules: TestedModules::Error(error),
        }),
    }
}

/// A package's version and modules; `None` if it is not installed automatically and was not named.
fn build(
    session: &Session,
    request: &Request,
    options: &Options,
    dry: bool,
) -> Result<Option<(String, TestedModules)>> {
    let version = request.package.version.clone();
    let answer = match request.kernel.build_tree() {
        Some(tree) if dry => {
            let id = identify::identify(session, request, tree)?;
            if options.automatic_only && !id.recipe.automatic {
                return Ok(None);
            }
            match resolve::look_up(session, request, tree, &id)? {
                Some(answer) => answer,
                None => return Ok(Some((version, TestedModules::Unbuilt))),
            }
        }
        None if dry => return Ok(Some((version, TestedModules::Unbuilt))),
        _ => resolve::obtain(session, request, options)?,
    };
    Ok(match answer {
        Resolution::NotAutomatic => None,
        Resolution::Ready { manifest, .. } => {
            let version =
                Some(Labels::of(&manifest).version.to_owned()).filter(|it| !it.is_empty()).unwrap_or(version);
            let modules = check_modules::outputs(session, &manifest)?.unwrap_or_default().modules.into_iter();
            let module = |candidate: check_modules::Candidate| -> Result<TestModule> {
                let name = candidate.name.strip_suffix(".ko").unwrap_or(&candidate.name).to_owned();
                Ok(TestModule { name, bytes: candidate.content.read(session)? })
            };
            Some((version, TestedModules::Built(modules.map(module).collect::<Result<_>>()?)))
        }
        answer => Some((version, TestedModules::None(Box::new(answer)))),
    })
}

/// The packages that a package builds against; none if they cannot be determined.
fn builds_against<'a>(session: &Session, request: &Request<'a>) -> Vec<&'a Package> {
    let identified = request.kernel.build_tree().map(|tree| identify::identify(session, request, tree));
    let Some(Ok(id)) = identified else { return Vec::new() };
    id.dependencies.iter().filter_map(|(name, _)| select::find(request.all, name)).collect()
}

/// Options of a boot.
pub struct Guest<'a> {
    /// This program.
    pub program: &'a OwnProgram,
    /// Finds a program by its name.
    pub find: &'a dyn Fn(&str) -> PathBuf,
    /// Path of QEMU, if given.
    pub qemu: Option<&'a Path>,
    /// Path of the image, if not the installed one.
    pub image: Option<&'a Path>,
    /// Memory in MiB; by default as much as needed.
    pub memory: Option<u64>,
    /// Time limit.
    pub limit: Duration,
    /// Parameters for modules.
    pub parameters: &'a [Parameter],
    /// Whether the kernel must load signed modules only.
    pub sig_enforce: bool,
    /// Whether to try KVM.
    pub kvm: bool,
}

/// A prepared boot test.
pub struct Boot {
    /// The modules to load, in order.
    pub plan: LoadPlan,
    /// Path of the image.
    pub image: PathBuf,
    /// Path of QEMU.
    pub qemu: PathBuf,
    machine: &'static machine::VirtualMachine,
}

/// Plans a boot test of a kernel for these packages.
pub fn plan(session: &Session, kernel: &Kernel, subjects: &[Subject], guest: &Guest) -> Result<Boot> {
    let root = &session.context.root;
    let arch = match kernel.build_tree() {
        Some(tree) => tree.arch.clone(),
        None => kernels::config(root, kernel)?
            .map_or(std::env::consts::ARCH, |config| kernels::arch(&config))
            .to_owned(),
    };
    // The guest's first process is this program, so it must be built for that architecture.
    let machine = machine::of_arch(&arch)
        .filter(|machine| machine.arch == std::env::consts::ARCH)
        .ok_or(boot_test::Error::NoMachine { arch })?;
    let image = match guest.image {
        Some(image) => image.to_owned(),
        None => kernels::image(root, &kernel.release)
            .ok_or_else(|| Error::NoImage { release: kernel.release.clone(), root: root.dir().to_owned() })?,
    };
    let qemu = guest.qemu.map_or_else(|| (guest.find)(machine.program), Path::to_owned);
    let modules = subjects.iter().flat_map(Subject::to_load).cloned().collect();
    let plan = LoadPlan::new(modules, kernel.modules.as_deref(), guest.parameters)?;
    Ok(Boot { plan, image, qemu, machine })
}

/// Runs a boot test. The verdicts are those of all modules of all subjects, in order.
pub fn run(session: &Session, kernel: &Kernel, subjects: &[Subject], guest: &Guest) -> Result<TestOutcome> {
    let context = session.context;
    let Boot { plan, image, qemu, machine } = plan(session, kernel, subjects, guest)?;
    let scratch = session.scratch()?;
    let test = BootTest {
        machine,
        qemu: &qemu,
        setpriv: &(guest.find)("setpriv"),
        identity: &context.services.identities.take(),
        kvm: guest.kvm,
        image: &image,
        release: &kernel.release,
        program: guest.program,
        memory: guest.memory,
        sig_enforce: guest.sig_enforce,
        limit: guest.limit,
        scratch: scratch.path(),
        cancel: &context.services.cancel,
    };
    let names = subjects.iter().flat_map(Subject::to_load).map(|module| module.name.as_str()).collect();
    context.progress().begin(&kernel.release, DOING);
    let mut told = Told { session, kernel, names };
    let outcome = test.run(plan, &mut told);
    context.progress().end(&kernel.release);
    Ok(outcome?)
}

/// The progress message while a kernel is booted.
const DOING: &str = "boot-testing";

/// Passes a guest's events on as progress.
struct Told<'a> {
    session: &'a Session<'a>,
    kernel: &'a Kernel,
    names: Vec<&'a str>,
}

impl TestWatch for Told<'_> {
    fn console(&mut self, line: &str) {
        self.session.context.progress().detail(line);
    }

    fn testing(&mut self, number: usize) {
        if let Some(name) = self.names.get(number) {
            self.session.context.progress().line(&self.kernel.release, &format!("loading {name}"));
        }
    }

    fn note(&mut self, text: &str) {
        self.session.context.progress().detail(text);
    }
}
