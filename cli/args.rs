//! The command line as it is typed. [`crate::settings`] and the commands determine what it means.

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use kcache::kernel::boot_test::Parameter;

use crate::settings::choices::Depmod;
use crate::units;

/// Widest line of the help.
const WIDTH: usize = 80;

/// The commands by task, as `kcache --help` lists them; the same order as in docs/commands.md.
const GROUPS: [(&str, &[&str]); 5] = [
    (
        "Every day",
        &[
            "install",
            "build",
            "check",
            "status",
            "boot-test",
            "remove",
            "rollback",
            "explain",
            "log",
            "report",
            "metrics",
        ],
    ),
    ("Caches and fleets", &["push", "pull", "export", "import", "keys"]),
    ("Secure Boot and debugging", &["signatures", "debuginfo"]),
    ("Upkeep", &["hooks", "adopt", "gc", "verify", "config"]),
    ("For module authors", &["init", "lint"]),
];

/// Parses what was typed after the program's name.
pub fn parse(words: &[OsString]) -> Result<Args, clap::Error> {
    let mut command = command();
    let matches =
        command.try_get_matches_from_mut(std::iter::once("kcache".into()).chain(words.iter().cloned()))?;
    Args::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// The command line with its help grouped by task, for which clap has no headings.
pub fn command() -> clap::Command {
    let command = Args::command();
    let header = *command.get_styles().get_header();
    let literal = *command.get_styles().get_literal();
    let mut list = String::new();
    for (task, names) in GROUPS {
        let _ = write!(list, "\n{header}{task}:{header:#}\n"); // a String takes everything
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let about = about.map_or(String::new(), ToString::to_string);
            let _ = writeln!(list, "  {literal}{name:<10}{literal:#}  {about}");
        }
    }
    command.help_template(format!(
        "{{about-with-newline}}\n{{usage-heading}} {{usage}}\n{list}\n{header}Options:{header:#}\n{{options}}{{after-help}}"
    ))
}

/// Build cache and installer for third-party Linux kernel modules
#[derive(Debug, Parser)]
#[command(name = "kcache", version, max_term_width = WIDTH, disable_help_subcommand = true)]
#[command(arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 unexpected error, 2 wrong usage, 3 not ready, 4 build failed, 5 no headers and no \
cached build, 6 refused (signature, digest, vermagic, symbols), 7 not reproducible, 8 busy, 130 interrupted"
)]
pub struct Args {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, ClapArgs)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Work on the system under DIR instead of this machine's
    #[arg(long, global = true, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// Keep builds in DIR [default: /var/cache/kcache; for users ~/.cache/kcache]
    #[arg(long, global = true, value_name = "DIR")]
    pub store: Option<PathBuf>,
    /// Also fetch from the shared cache at URL, before any other; can be repeated
    #[arg(long, global = true, value_name = "URL")]
    pub cache: Vec<String>,
    /// Read FILE instead of /etc/kcache/config.toml and /etc/kcache/config.d
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Run at most N compilers at once, over all builds [default: number of CPUs, limited by memory]
    #[arg(short, long, global = true, value_name = "N", value_parser = units::whole(1..=4096))]
    pub jobs: Option<u64>,
    /// Print results as JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Use no shared cache: only the store and local builds
    #[arg(long, global = true)]
    pub offline: bool,
    /// Print what would be done; change nothing
    #[arg(short = 'n', long, global = true)]
    pub dry_run: bool,
    /// Print only results, warnings and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Print more; -vv also prints build logs
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to run depmod: always, or only if the indexes cannot be updated without it [default: auto]
    #[arg(long, global = true, value_name = "WHEN")]
    pub depmod: Option<Depmod>,
    /// Use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch or build modules, verify and install them
    Install(Install),
    /// Fetch or build modules, into the store only
    Build(Build),
    /// Check whether kernels have all their modules and may be booted
    Check(Check),
    /// Show the state of each package for each kernel
    Status(Selection),
    /// Boot a kernel in a disposable VM and load its modules there
    BootTest(BootTest),
    /// Write an HTML report: states, reasons, failure logs, provenance
    Report(Report),
    /// Print Prometheus metrics: readiness, cache hits, times, sizes
    Metrics(Metrics),
    /// Show the fields of a build's key, and why it is found or not
    Explain(One),
    /// Show the log of a build
    Log(One),
    /// Remove packages' modules from kernels
    Remove(Remove),
    /// Take over modules that DKMS installed, or give them back
    Adopt(Adopt),
    /// Return to the previous generation of modules
    Rollback(Kernels),
    /// Push builds to shared caches
    Push(Push),
    /// Fetch builds from shared caches, into the store only
    Pull(Pull),
    /// Export builds to a file, for air-gapped hosts
    Export(Export),
    /// Import builds from an exported file into the store
    Import(Import),
    /// Garbage-collect the store
    Gc(Gc),
    /// Verify the store and installed modules, byte by byte
    Verify(Verify),
    /// Manage builders' keys, and a module signing key for Secure Boot
    Keys(Keys),
    /// Exchange modules and signatures with a signing service
    Signatures(Signatures),
    /// Install the debug information of modules for debuggers
    #[command(name = "debuginfo")]
    DebugInfo(DebugInfo),
    /// Manage the hooks that install modules with new kernels and at boot
    Hooks(Hooks),
    /// Write a first kcache.toml from a Makefile or a dkms.conf
    Init(Init),
    /// Report problems with a package, for its author
    Lint(Lint),
    /// Show each setting and where it comes from
    Config,
}

/// Which kernels.
#[derive(Debug, ClapArgs)]
pub struct Kernels {
    /// A release, a glob, `all`, `newest`, `running`, `default` (the kernel that the boot loader starts), or the path of a
    /// kernel build tree; can be repeated
    /// [default: every kernel with headers or a cached build; for `check`, `status` and `report`, every installed kernel]
    #[arg(short = 'k', long = "kernel", value_name = "K")]
    pub kernels: Vec<String>,
}

/// Which packages for which kernels.
#[derive(Debug, ClapArgs)]
pub struct Selection {
    /// A package's name, NAME/VERSION, or source directory [default: all that are installed automatically]
    #[arg(value_name = "PACKAGE|DIR")]
    pub packages: Vec<String>,
    #[command(flatten)]
    pub kernels: Kernels,
}

#[derive(Debug, ClapArgs)]
pub struct Install {
    #[command(flatten)]
    pub which: Selection,
    #[command(flatten)]
    pub building: Building,
    /// Do not build: install only what is in the store or a shared cache
    #[arg(long, conflicts_with_all = ["rebuild", "verify"])]
    pub no_build: bool,
    /// Allow a shared cache's pointer to lead to an older build than before
    #[arg(long)]
    pub allow_rollback: bool,
}

/// How `install` and `build` obtain builds.
#[derive(Debug, ClapArgs)]
pub struct Building {
    /// Build even if a build or a remembered failure exists
    #[arg(long)]
    pub rebuild: bool,
    /// Replace builds by other tools (compiler, kbuild) than this host's
    #[arg(long)]
    pub refresh_tools: bool,
    /// Build whatever is found in the store or a cache again and compare; KCACHE_VERIFY=1 does the same
    #[arg(long)]
    pub verify: bool,
    /// Override a directive of every dkms.conf in this run; use /etc/dkms/NAME.conf for a permanent override
    #[arg(long = "directive", value_name = "NAME=VALUE", value_parser = directive)]
    pub directives: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Check {
    #[command(flatten)]
    pub which: Selection,
    /// Build what is missing first, without installing it, to find build failures
    #[arg(long)]
    pub build: bool,
    /// Create /run/kcache/ready/RELEASE for kernels that are ready, delete it for others
    #[arg(long, conflicts_with = "packages")]
    pub mark: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Report {
    /// Write the report to FILE; - for standard output
    #[arg(long, value_name = "FILE")]
    pub html: PathBuf,
    #[command(flatten)]
    pub which: Selection,
}

#[derive(Debug, ClapArgs)]
pub struct Metrics {
    /// Write FILE, which ends in .prom, for node_exporter's textfile collector
    #[arg(long, value_name = "FILE")]
    pub textfile: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Push {
    #[command(flatten)]
    pub which: Selection,
    /// Push to the shared cache at URL instead of those that are configured with `write = true`
    #[arg(long, value_name = "URL")]
    pub to: Vec<String>,
    /// Push every entry of the store
    #[arg(long, conflicts_with_all = ["packages", "kernels"])]
    pub all: bool,
    /// Also sign fetched entries that other trusted keys signed, after replacing this host's key
    #[arg(long)]
    pub adopt: bool,
    /// Also push unsigned entries, which no host will use
    #[arg(long)]
    pub unsigned: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Pull {
    #[command(flatten)]
    pub which: Selection,
    /// Allow a shared cache's pointer to lead to an older build than before
    #[arg(long)]
    pub allow_rollback: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Export {
    /// The file to write; - for standard output
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    #[command(flatten)]
    pub which: Selection,
    /// Export every entry of the store
    #[arg(long, conflicts_with_all = ["packages", "kernels"])]
    pub all: bool,
    /// Also sign fetched entries that other trusted keys signed, after replacing this host's key
    #[arg(long)]
    pub adopt: bool,
    /// Also export unsigned entries, which no host will use
    #[arg(long)]
    pub unsigned: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Import {
    /// The file to read; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Accept pointers that are older than those followed before
    #[arg(long)]
    pub allow_rollback: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Keys {
    #[command(subcommand)]
    pub command: KeysCommand,
}

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Generate this host's signing key and trust it: makes this host a builder
    Generate {
        /// Name of the key [default: the host's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Generate a key for signing modules at installation, for Secure Boot
    Mok {
        /// Directory for the key and the certificate
        #[arg(long, value_name = "DIR", default_value = "/etc/kcache/mok")]
        dir: PathBuf,
        /// Name of the key [default: the host's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// List trusted and revoked keys, and this host's own
    List,
    /// Trust builds signed with a key
    Trust {
        /// The public key: PEM, as `openssl pkey -pubout` writes it
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Name of the key [default: the file's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Revoke a key: never use anything signed with it
    Revoke {
        /// The key's name, its id or a prefix of the id, or a key file
        #[arg(value_name = "KEY")]
        key: String,
    },
}

#[derive(Debug, ClapArgs)]
pub struct Signatures {
    #[command(subcommand)]
    pub command: SignaturesCommand,
}

#[derive(Debug, Subcommand)]
pub enum SignaturesCommand {
    /// Export modules that have no signature yet, each as DIGEST.ko
    Export {
        /// The directory to write to
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        #[command(flatten)]
        which: Selection,
    },
    /// Import signatures from files named DIGEST.p7s or DIGEST.ko.p7s into the store and shared caches
    Import {
        /// A file, or a directory of such files
        #[arg(value_name = "FILE|DIR", required = true)]
        from: Vec<PathBuf>,
    },
}

#[derive(Debug, ClapArgs)]
pub struct DebugInfo {
    /// A package's name, or NAME/VERSION [default: all that kcache has installed for the kernel]
    #[arg(value_name = "PACKAGE")]
    pub packages: Vec<String>,
    /// A kernel, as for `install`; can be repeated. For packages that are not installed, use the build in the store
    /// [default: every kernel for which the packages are installed]
    #[arg(short = 'k', long = "kernel", value_name = "K")]
    pub kernels: Vec<String>,
    /// Write to DIR/.build-id/ [default: /usr/lib/debug]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub struct Hooks {
    #[command(subcommand)]
    pub command: HooksCommand,
}

#[derive(Debug, Subcommand)]
pub enum HooksCommand {
    /// Install the hooks that package managers and systemd call
    Install {
        #[command(flatten)]
        which: Families,
        /// Path of the kcache binary that the hooks call [default: this one]
        #[arg(long, value_name = "PATH")]
        program: Option<String>,
        /// Write to the directories for packages under /usr instead of /etc
        #[arg(long)]
        vendor: bool,
        /// Also replace files that were changed or are not kcache's
        #[arg(long)]
        force: bool,
    },
    /// Remove the hooks
    Remove {
        #[command(flatten)]
        which: Families,
        /// Also remove files that were changed or are not kcache's
        #[arg(long)]
        force: bool,
    },
    /// Show whether each hook is installed
    Status(Families),
    /// Handle an event; called by the hooks
    #[command(hide = true)]
    Run {
        /// kernel-installed, headers-installed, kernel-removed, boot or booted
        // Hooks may be newer than this program: what it does not know must not break a package manager's transaction.
        #[arg(value_name = "EVENT")]
        event: String,
        /// The kernel's release
        #[arg(value_name = "RELEASE")]
        release: Option<String>,
    },
}

#[derive(Debug, ClapArgs)]
pub struct Families {
    /// debian, kernel-install, pacman or boot [default: those that this system uses]
    #[arg(value_name = "FAMILY")]
    pub families: Vec<Family>,
}

/// Hooks that are called by the same program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Family {
    Debian,
    KernelInstall,
    Pacman,
    Boot,
}

#[derive(Debug, ClapArgs)]
pub struct Build {
    #[command(flatten)]
    pub which: Selection,
    #[command(flatten)]
    pub building: Building,
    /// Build again, in another directory and as another user, and compare the bits
    #[arg(long)]
    pub check: bool,
}

fn directive(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

/// What is loaded into which kernel, and how that is booted.
#[derive(Debug, ClapArgs)]
pub struct BootTest {
    /// A package's name, NAME/VERSION, or source directory [default: all that are installed for the kernel; if none are, all
    /// that are installed automatically]
    #[arg(value_name = "PACKAGE|DIR")]
    pub packages: Vec<String>,
    #[command(flatten)]
    pub kernels: Kernels,
    /// Load a module with a parameter; can be repeated
    #[arg(long = "param", value_name = "MODULE.NAME=VALUE")]
    pub params: Vec<Parameter>,
    /// Boot with module.sig_enforce=1: the kernel loads only signed modules
    #[arg(long)]
    pub sig_enforce: bool,
    /// Boot FILE [default: /boot/vmlinuz-K, /lib/modules/K/vmlinuz]
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Use this QEMU [default: the one for the kernel's architecture]
    #[arg(long, value_name = "PROGRAM")]
    pub qemu: Option<PathBuf>,
    /// Guest memory in MiB [default: 512, or more if the modules need it]
    #[arg(long, value_name = "MIB", value_parser = units::whole(128..=65536))]
    pub memory: Option<u64>,
    /// Time limit for each kernel in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = units::whole(1..=86400))]
    pub timeout: u64,
}

/// The limits of a garbage collection.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Deletes unreferenced data and, to meet the limits, the least recently used builds. Installed builds, \
previous generations and pinned builds ([gc] in the configuration) are kept"
)]
pub struct Gc {
    /// Delete least recently used builds until the store is no larger than SIZE, such as 2G
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub max_size: Option<u64>,
    /// Delete builds not used for AGE, such as 30d
    #[arg(long, value_name = "AGE", value_parser = units::seconds)]
    pub max_age: Option<u64>,
    /// Delete least recently used builds until SIZE is free on the store's file system
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub min_free: Option<u64>,
    /// Grace period: keep everything stored or used within AGE
    #[arg(long, value_name = "AGE", default_value = "1h", value_parser = units::seconds)]
    pub grace: u64,
}

/// What is done about corruption.
#[derive(Debug, ClapArgs)]
pub struct Verify {
    /// Repair corruption: fetch from shared caches, delete so that it is rebuilt, or reinstall modules
    #[arg(long)]
    pub repair: bool,
}

/// One package for one kernel.
#[derive(Debug, ClapArgs)]
pub struct One {
    /// A package's name, NAME/VERSION, or source directory
    #[arg(value_name = "PACKAGE|DIR")]
    pub package: String,
    /// A release, a glob, `newest`, `running`, `default`, or the path of a kernel build tree
    #[arg(short = 'k', long = "kernel", value_name = "K", default_value = "newest")]
    pub kernel: String,
}

#[derive(Debug, ClapArgs)]
pub struct Adopt {
    #[command(flatten)]
    pub kernels: Kernels,
    /// Give back the files that were taken over from DKMS
    #[arg(long)]
    pub undo: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Remove {
    /// Packages to remove
    #[arg(value_name = "PACKAGE", required_unless_present = "all")]
    pub packages: Vec<String>,
    /// Remove everything that kcache installed
    #[arg(long, conflicts_with = "packages")]
    pub all: bool,
    #[command(flatten)]
    pub kernels: Kernels,
}

#[derive(Debug, ClapArgs)]
pub struct Init {
    /// The source directory
    #[arg(value_name = "DIR", default_value = ".")]
    pub dir: PathBuf,
    /// A kernel to evaluate dkms.conf for, or whose build shows which command works; can be repeated [default: the
    /// newest with headers; without dkms.conf all with headers]
    #[arg(short = 'k', long = "kernel", value_name = "K")]
    pub kernels: Vec<String>,
    /// Replace an existing kcache.toml
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Lint {
    /// A package's name, NAME/VERSION, or source directory [default: .]
    #[arg(value_name = "PACKAGE|DIR")]
    pub packages: Vec<String>,
    /// A kernel to evaluate the recipe for, as for `install`; can be repeated [default: every kernel with headers]
    #[arg(short = 'k', long = "kernel", value_name = "K")]
    pub kernels: Vec<String>,
    /// Silence RULE, such as `uname-r`; can be repeated
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<String>,
    /// Exit with 3 for warnings too
    #[arg(long)]
    pub strict: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_command_once_under_its_task() {
        let mut listed: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        listed.sort_unstable();
        let command = Args::command();
        let mut known: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
        known.sort_unstable();
        assert_eq!(listed, known);
    }

    #[test]
    fn help_fits_into_80_columns() {
        let help = command().render_help().to_string();
        let wide: Vec<&str> = help.lines().filter(|line| line.chars().count() > WIDTH).collect();
        assert!(wide.is_empty(), "{}", wide.join("\n"));
        let gc = "  gc          Garbage-collect the store\n";
        assert!(help.contains("\nUpkeep:\n") && help.contains(gc), "{help}");
    }
}
