//! DKMS's command line. Its options may stand anywhere, take `=` or the next word, and can be abbreviated. No declarative
//! parser does all that, so this is a separate one, in the order of DKMS's own.

use std::path::{Path, PathBuf};

use super::{DkmsError, LIKE};

pub const USAGE: &str = "\
Usage: dkms [action] [options]
  [action]  = { add | remove | build | install | uninstall | unbuild | match | autoinstall |
                mktarball | ldtarball | status | kernel_preinst | kernel_postinst | kernel_prerm }
  [options] = [-m module] [-v module-version] [-k kernel-version] [-a arch]
              [-q] [--force] [--all] [--templatekernel=kernel] [--archive=tarball-location]
              [--directive='NAME=VALUE'] [--kernelsourcedir=source-location]
              [--sourcetree=path] [--dkmstree=path]
              [--binaries-only] [--source-only] [--verbose] [-j number] [--version] [--help]
This is kcache. Its documentation (dkms.md) lists the options of DKMS that it supports.";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Add,
    Remove,
    Build,
    Install,
    Uninstall,
    Unbuild,
    Match,
    Autoinstall,
    Mktarball,
    Ldtarball,
    Status,
    GenerateMok,
    KernelPreinst,
    KernelPostinst,
    KernelPrerm,
}

impl Action {
    const ALL: [(&str, Action); 15] = [
        ("add", Action::Add),
        ("remove", Action::Remove),
        ("build", Action::Build),
        ("install", Action::Install),
        ("uninstall", Action::Uninstall),
        ("unbuild", Action::Unbuild),
        ("match", Action::Match),
        ("autoinstall", Action::Autoinstall),
        ("mktarball", Action::Mktarball),
        ("ldtarball", Action::Ldtarball),
        ("status", Action::Status),
        ("generate_mok", Action::GenerateMok),
        ("kernel_preinst", Action::KernelPreinst),
        ("kernel_postinst", Action::KernelPostinst),
        ("kernel_prerm", Action::KernelPrerm),
    ];

    fn of(word: &str) -> Option<Action> {
        Action::ALL.iter().find(|(name, _)| *name == word).map(|(_, action)| *action)
    }

    /// The action with the most similar name.
    pub fn nearest(word: &str) -> Option<String> {
        kcache::run::select::nearest(word, Action::ALL.iter().map(|(name, _)| *name))
    }

    /// Whether the action changes a kernel's modules.
    pub fn wants_root(self) -> bool {
        use Action::{Autoinstall, Install, KernelPostinst, KernelPrerm, Match, Uninstall};
        matches!(self, Install | Uninstall | Autoinstall | Match | KernelPostinst | KernelPrerm)
    }

    /// Whether the action removes modules.
    pub fn removes(self) -> bool {
        matches!(self, Action::Uninstall | Action::Unbuild | Action::Remove | Action::KernelPrerm)
    }

    /// Whether the action writes to DKMS's records.
    pub fn wants_records(self) -> bool {
        matches!(self, Action::Add | Action::Build | Action::Remove | Action::Unbuild | Action::Ldtarball)
    }

    /// Those that DKMS takes no `--all` for.
    fn refuses_all(self) -> Option<&'static str> {
        match self {
            Action::Add => Some("add"),
            Action::Build => Some("build"),
            Action::Install => Some("install"),
            Action::Match => Some("match"),
            Action::Autoinstall => Some("autoinstall"),
            _ => None,
        }
    }
}

/// The parsed command line.
#[derive(Debug, Default)]
pub struct Typed {
    pub action: Option<Action>,
    pub module: Option<String>,
    pub version: Option<String>,
    pub kernels: Vec<String>,
    pub arches: Vec<String>,
    pub template: Option<String>,
    /// A source tree to add.
    pub source: Option<PathBuf>,
    pub archive: Option<PathBuf>,
    /// A recipe: taken only if it is the package's own.
    pub conf: Option<PathBuf>,
    /// `NAME=VALUE`, for every recipe that is read.
    pub directives: Vec<String>,
    pub kernel_source: Option<PathBuf>,
    pub dkms_tree: Option<PathBuf>,
    pub source_tree: Option<PathBuf>,
    pub jobs: Option<String>,
    pub all: bool,
    pub force: bool,
    pub quiet: bool,
    pub verbose: bool,
    pub binaries_only: bool,
    pub source_only: bool,
    pub rpm_safe_upgrade: bool,
    /// The initramfs stays as it is.
    pub no_initrd: bool,
    /// Install whatever version the kernel has of a module.
    pub version_override: bool,
    /// Load modules once they are installed for the running kernel.
    pub modprobe: bool,
    shows: Option<Shows>,
    stray: Option<String>,
}

#[derive(Debug)]
enum Shows {
    Version,
    Help,
}

/// Options that take a value and change nothing here.
const WITHOUT_EFFECT_WITH_VALUE: [&str; 1] = ["--config"];

/// Options that change nothing here.
const WITHOUT_EFFECT: [&str; 6] =
    ["--no-depmod", "--no-clean-kernel", "--no-prepare-kernel", "--symlink-modules", "--debug", "--delayed"];

impl Typed {
    /// The output of an action that only prints: help or the version.
    pub fn answer(&self) -> Option<String> {
        match self.shows.as_ref()? {
            Shows::Version => Some(format!("dkms-{LIKE}")),
            Shows::Help => Some(USAGE.to_owned()),
        }
    }

    pub fn unknown_action(&self) -> &str {
        self.module.as_deref().unwrap_or_default()
    }

    fn module_and_version(&mut self, text: &str) {
        let (module, version) = split(text);
        self.module = Some(module).filter(|module| !module.is_empty());
        self.version = version.or(self.version.take());
    }

    fn kernel(&mut self, text: &str) {
        let (kernel, arch) = split(text);
        self.kernels.push(kernel);
        self.arches.extend(arch);
    }
}

pub fn parse(words: &[String]) -> Result<Typed, DkmsError> {
    let mut typed = Typed::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let (name, value) = match word.split_once('=').filter(|_| word.starts_with('-')) {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let mut value = || value.clone().or_else(|| rest.next().cloned()).unwrap_or_default();
        match name {
            "-m" | "--module" => typed.module_and_version(&value()),
            "-v" => typed.version = Some(value()).filter(|version| !version.is_empty()),
            "-k" | "--kernelver" => typed.kernel(&value()),
            "-a" | "--arch" => typed.arches.push(value()),
            "-j" => typed.jobs = Some(value()).filter(|jobs| jobs != "0"),
            "--templatekernel" => typed.template = Some(value()),
            "--archive" => typed.archive = Some(value().into()),
            "--kernelsourcedir" => typed.kernel_source = Some(value().into()),
            "--dkmstree" => typed.dkms_tree = Some(value().into()),
            "--sourcetree" => typed.source_tree = Some(value().into()),
            "-c" => typed.conf = Some(value().into()),
            "--directive" => typed.directives.push(directive(&value())?),
            "--installtree" => install_tree(&value())?,
            "--all" => typed.all = true,
            "--force" => typed.force = true,
            "-q" | "--quiet" => typed.quiet = true,
            "--verbose" => typed.verbose = true,
            "--binaries-only" => typed.binaries_only = true,
            "--source-only" => typed.source_only = true,
            "--force-version-override" => typed.version_override = true,
            "--modprobe-on-install" => typed.modprobe = true,
            "--rpm_safe_upgrade" => typed.rpm_safe_upgrade = true,
            "--no-initrd" => typed.no_initrd = true,
            "-V" | "--version" => typed.shows = Some(Shows::Version),
            "-h" | "--help" => typed.shows = Some(Shows::Help),
            name if WITHOUT_EFFECT_WITH_VALUE.contains(&name) => drop(value()),
            name if WITHOUT_EFFECT.contains(&name) => {}
            _ if word.starts_with('-') => {
                return Err(DkmsError::new(2, &[&format!(" Unknown option: {word}"), USAGE]));
            }
            _ => plain(&mut typed, word)?,
        }
    }
    check(typed)
}

/// A word without a dash: an action, a source tree, an archive, or a module.
fn plain(typed: &mut Typed, word: &str) -> Result<(), DkmsError> {
    let path = Path::new(word);
    if let Some(action) = Action::of(word) {
        if typed.action.replace(action).is_some() {
            return Err(DkmsError::new(4, &["Cannot specify more than one action."]));
        }
    } else if path.is_file() && word.ends_with("dkms.conf") {
        typed.source = Some(path.parent().unwrap_or(path).join("."));
    } else if path.is_dir() && path.join("dkms.conf").is_file() {
        typed.source = Some(path.to_owned());
    } else if path.is_file() {
        typed.archive = Some(path.to_owned());
    } else if word.starts_with(['/', '.']) {
        return Err(DkmsError::new(1, &[&format!("{word} must contain a dkms.conf file!")]));
    } else if typed.module.is_none() {
        // DKMS 3 takes NAME/VERSION; people also write NAME/VERSION/KERNEL, as `status` once printed it.
        match word.splitn(3, '/').collect::<Vec<_>>()[..] {
            [name, version, kernel] => {
                typed.module_and_version(&format!("{name}/{version}"));
                typed.kernel(kernel);
            }
            _ => typed.module_and_version(word),
        }
    } else {
        typed.stray = Some(word.to_owned());
    }
    Ok(())
}

fn directive(text: &str) -> Result<String, DkmsError> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err(DkmsError::new(2, &[&format!("--directive takes NAME=VALUE, not {text:?}.")])),
    }
}

fn install_tree(path: &str) -> Result<(), DkmsError> {
    match path.trim_end_matches('/') {
        "/lib/modules" | "/usr/lib/modules" => Ok(()),
        _ => Err(refused("--installtree", path, "Modules are installed to /lib/modules only.")),
    }
}

/// An option of DKMS's with a value that is not taken here.
pub fn refused(name: &str, value: &str, instead: &str) -> DkmsError {
    DkmsError::new(2, &[&format!("The option {name} is not taken by kcache: {value}"), instead])
}

/// What DKMS refuses of a command line as a whole.
fn check(typed: Typed) -> Result<Typed, DkmsError> {
    if let Some(word) = typed.stray.as_ref().filter(|_| typed.action.is_some()) {
        super::print::warn(&format!("I do not know how to handle {word}."));
    }
    if typed.binaries_only && typed.source_only {
        let lines = [" You have specified both --binaries-only and --source-only.", "You cannot do this."];
        return Err(DkmsError::new(8, &lines));
    }
    if typed.arches.len() > 1 && typed.arches.len() != typed.kernels.len() {
        let lines = [
            " If more than one arch is specified on the command line, then there",
            "must be an equal number of kernel versions also specified (1:1 relationship).",
        ];
        return Err(DkmsError::new(1, &lines));
    }
    let acts = typed.action.is_some_and(|action| action != Action::Status);
    for (name, words) in [("kernelver", &typed.kernels), ("arch", &typed.arches)] {
        if let Some(at) = words.iter().position(String::is_empty).filter(|_| acts) {
            return Err(DkmsError::new(16, &[&format!("Empty {name}[{at}]")]));
        }
    }
    if typed.all && !typed.kernels.is_empty() {
        let lines = [" You cannot specify a kernel version and also specify", "--all on the command line."];
        return Err(DkmsError::new(2, &lines));
    }
    if typed.all && !typed.arches.is_empty() {
        let lines = [" You cannot specify an arch and also specify", "--all on the command line."];
        return Err(DkmsError::new(3, &lines));
    }
    if let Some(name) = typed.action.and_then(Action::refuses_all).filter(|_| typed.all) {
        let line = format!("The action {name} does not support the --all parameter.");
        return Err(DkmsError::new(5, &[&line]));
    }
    Ok(typed)
}

fn split(text: &str) -> (String, Option<String>) {
    match text.split_once('/') {
        Some((first, second)) => (first.to_owned(), Some(second.to_owned())),
        None => (text.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Typed, DkmsError> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_may_stand_anywhere_and_be_written_in_every_way() {
        for line in [
            "install -m a -v 1.0 -k 6.1/x86_64",
            "-k=6.1/x86_64 a/1.0 install",
            "--kernelver 6.1 -m a/1.0 install --arch=x86_64 --no-depmod",
            "install a/1.0/6.1 -a x86_64",
        ] {
            let typed = typed(line).unwrap();
            assert_eq!(typed.action, Some(Action::Install), "{line}");
            assert_eq!(
                (typed.module.as_deref(), typed.version.as_deref()),
                (Some("a"), Some("1.0")),
                "{line}"
            );
            assert_eq!((typed.kernels, typed.arches), (vec!["6.1".into()], vec!["x86_64".into()]), "{line}");
        }
    }

    #[test]
    fn what_cannot_be_meant_ends_with_dkms_s_codes() {
        for (line, code) in [
            ("--bogus", 2),
            ("add build", 4),
            ("add /no/such", 1),
            ("status -k 6.1 --all", 2),
            ("status -a x --all", 3),
            ("install a/1 --all", 5),
            ("mktarball --binaries-only --source-only", 8),
            ("build -k 1 -a x -a y", 1),
            ("build -k=", 16),
            ("build -k 1 -a=", 16),
            ("build --directive=A", 2),
            ("build --installtree /mnt", 2),
        ] {
            assert_eq!(typed(line).unwrap_err().code, code, "{line}");
        }
    }
}
