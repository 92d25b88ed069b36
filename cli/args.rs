//! What can be typed. What it means is worked out in [`crate::settings`] and by each command.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use kcache::kernel::boot_test::Parameter;

use crate::units;

/// Modules for kernels that are not running: a content-addressed build cache and installer for third-party Linux kernel
/// modules.
#[derive(Debug, Parser)]
#[command(name = "kcache", version, max_term_width = 110, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 done, 1 unexpected error, 2 wrong usage, 3 not ready, 4 a build failed, 5 no headers and no \
cached build, 6 refused (signature, digest, vermagic, symbols), 7 not reproducible, 8 busy, 130 interrupted."
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
    /// Fetch builds from the shared cache at URL too, before any other; can be repeated
    #[arg(long, global = true, value_name = "URL")]
    pub cache: Vec<String>,
    /// Read FILE instead of /etc/kcache/config.toml and /etc/kcache/config.d
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Run N compilers at once, over all builds [default: the number of CPUs]
    #[arg(short, long, global = true, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub jobs: Option<u64>,
    /// Print results as JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Use no network: only what is in the store and what can be built
    #[arg(long, global = true)]
    pub offline: bool,
    /// Say what would be done; change nothing
    #[arg(short = 'n', long, global = true)]
    pub dry_run: bool,
    /// Say nothing but results and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more; twice: also the logs of builds
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to run depmod instead of making module indexes from those that are there [default: auto]
    #[arg(long, global = true, value_name = "WHEN")]
    pub depmod: Option<Depmod>,
    /// Use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Color,
}

/// When depmod runs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Depmod {
    /// Where indexes cannot be made without it
    Auto,
    Always,
}

impl Depmod {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Depmod::Auto => "auto",
            Depmod::Always => "always",
        }
    }
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
    /// Look modules up or build them, verify and install them
    Install(Install),
    /// Look modules up or build them, into the store only
    Build(Build),
    /// Say whether kernels have all their modules: may I reboot?
    Check(Check),
    /// Show packages x kernels
    Status(Selection),
    /// Boot a kernel in a virtual machine and load modules there
    BootTest(BootTest),
    /// Write a page to show: packages x kernels, why, logs of failures, where builds come from
    Report(Report),
    /// Print figures for Prometheus: readiness, cache hits, build times, sizes
    Metrics(Metrics),
    /// Show what a build's key is made of, and why it is found or not
    Explain(One),
    /// Show the log of a build, failed or not
    Log(One),
    /// Take packages' modules out of kernels again
    Remove(Remove),
    /// Take over the modules that DKMS has installed, or give them back
    Adopt(Adopt),
    /// Go back to the modules that were installed before
    Rollback(Kernels),
    /// Put builds into shared caches
    Push(Push),
    /// Fetch builds from shared caches, into the store only
    Pull(Pull),
    /// Write builds to one file, for hosts without a network
    Export(Export),
    /// Take builds from such a file into the store
    Import(Import),
    /// Delete from the store what is not wanted: builds unused for longest, as far as caps ask for it, and what is of no use
    Gc(Gc),
    /// Look at all that is stored and installed again, byte by byte
    Verify(Verify),
    /// Make, list, trust and revoke the keys that builds are signed with, and a key for modules under Secure Boot
    Keys(Keys),
    /// Have modules signed by a service that alone has the key
    Signatures(Signatures),
    /// Put modules' debug information where debuggers look for it
    #[command(name = "debuginfo")]
    DebugInfo(DebugInfo),
    /// Have kernels made ready when they are installed, and at boot
    Hooks(Hooks),
    /// Write a first kcache.toml for a source tree, from its Makefile or its dkms.conf
    Init(Init),
    /// Tell a package's author what will go wrong with it
    Lint(Lint),
    /// Show each setting and where it comes from
    Config,
}

/// Which kernels.
#[derive(Debug, ClapArgs)]
pub struct Kernels {
    /// A release, a glob, `all`, `newest`, `running`, `default` (what the boot loader will take), or the path of a kernel
    /// build tree; can be repeated
    /// [default: every kernel that has headers or a cached build; of `check` and `status` every one]
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
    /// Build although a build, or the knowledge that it fails, is there
    #[arg(long)]
    pub rebuild: bool,
    /// Build nothing: install only what is in the store or a shared cache
    #[arg(long, conflicts_with = "rebuild")]
    pub no_build: bool,
    /// Follow a shared cache's pointer also to an older build than the one followed before
    #[arg(long)]
    pub allow_rollback: bool,
    /// A directive for every dkms.conf of this run, before all that files say; /etc/dkms/NAME.conf does it for good
    #[arg(long = "directive", value_name = "NAME=VALUE", value_parser = directive)]
    pub directives: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub struct Check {
    #[command(flatten)]
    pub which: Selection,
    /// Build what is missing first, without installing it, to know whether it builds
    #[arg(long)]
    pub build: bool,
    /// Make /run/kcache/ready/RELEASE for kernels that are ready, and take it away for those that are not
    #[arg(long, conflicts_with = "packages")]
    pub mark: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Report {
    /// The file to write, one page of HTML that needs no other; - for standard output
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
    /// Sign also what other trusted keys have signed and this host has fetched, as when its own key was replaced
    #[arg(long)]
    pub adopt: bool,
    /// Push also what nobody has signed: nobody will use it
    #[arg(long)]
    pub unsigned: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Pull {
    #[command(flatten)]
    pub which: Selection,
    /// Follow a shared cache's pointer also to an older build than the one followed before
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
    /// Sign also what other trusted keys have signed and this host has fetched, as when its own key was replaced
    #[arg(long)]
    pub adopt: bool,
    /// Export also what nobody has signed: nobody will use it
    #[arg(long)]
    pub unsigned: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Import {
    /// The file to read; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Take also pointers that are older than those followed before
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
    /// Make this host a builder: make its signing key, and trust it
    Generate {
        /// What to call the key among trusted keys [default: the host's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Make a key that modules are signed with when they are installed, for kernels under Secure Boot
    Mok {
        /// Where to put key and certificate
        #[arg(long, value_name = "DIR", default_value = "/etc/kcache/mok")]
        dir: PathBuf,
        /// What to call the key [default: the host's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// List the keys that are trusted, revoked, and this host's own
    List,
    /// Trust the builds of whoever has the private half of a public key
    Trust {
        /// The public key: PEM, as `openssl pkey -pubout` writes it
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// What to call the key [default: the file's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Never use again what a key has signed
    Revoke {
        /// The key's name, its id or the beginning of it
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
    /// Write the modules that have no signature yet, each as DIGEST.ko
    Export {
        /// The directory to write to
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        #[command(flatten)]
        which: Selection,
    },
    /// Take signatures from files named DIGEST.p7s, or DIGEST.ko.p7s: into the store, and into shared caches
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
    /// A kernel, as for `install`; can be repeated. Packages that are not installed for it are taken as the store has them
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
    /// Write the hooks that package managers and systemd call
    Install {
        #[command(flatten)]
        which: Families,
        /// The path of kcache that the hooks call [default: that of this program]
        #[arg(long, value_name = "PATH")]
        program: Option<String>,
        /// Write where packages have their files, under /usr, instead of /etc where there is a choice
        #[arg(long)]
        vendor: bool,
        /// Replace also files that were changed or that are not kcache's
        #[arg(long)]
        force: bool,
    },
    /// Take the hooks away again
    Remove {
        #[command(flatten)]
        which: Families,
        /// Take also files away that were changed or that are not kcache's
        #[arg(long)]
        force: bool,
    },
    /// Tell of each hook whether it is installed
    Status(Families),
    /// What hooks call: does what is to be done after an event. Written for them, not for people
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
    /// debian, kernel-install, pacman or boot [default: those that the system has programs for]
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
    /// Build although a build, or the knowledge that it fails, is there
    #[arg(long)]
    pub rebuild: bool,
    /// Build once more, elsewhere and as another user, and compare the bits
    #[arg(long)]
    pub check: bool,
    /// A directive for every dkms.conf of this run, before all that files say; /etc/dkms/NAME.conf does it for good
    #[arg(long = "directive", value_name = "NAME=VALUE", value_parser = directive)]
    pub directives: Vec<String>,
}

fn directive(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("it must be NAME=VALUE".to_owned()),
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
    /// Boot with module.sig_enforce=1: the kernel loads signed modules only
    #[arg(long)]
    pub sig_enforce: bool,
    /// Boot this image [default: /boot/vmlinuz-K, /lib/modules/K/vmlinuz]
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// Boot it in this QEMU [default: the one for the kernel's architecture]
    #[arg(long, value_name = "PROGRAM")]
    pub qemu: Option<PathBuf>,
    /// Give the guest so many MiB of memory [default: 512, or what its modules take]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(128..=65536))]
    pub memory: Option<u64>,
    /// Spend no more than so many seconds on a kernel
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub timeout: u64,
}

/// Which caps are to hold.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "What is installed for a kernel, can be gone back to, or is pinned in [gc] of the settings stays."
)]
pub struct Gc {
    /// Delete builds, those unused for longest first, until the store takes no more than SIZE, as 2G
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub max_size: Option<u64>,
    /// Delete builds that were not used for AGE, as 30d
    #[arg(long, value_name = "AGE", value_parser = units::seconds)]
    pub max_age: Option<u64>,
    /// Delete builds, those unused for longest first, until SIZE is free on the store's file system
    #[arg(long, value_name = "SIZE", value_parser = units::bytes)]
    pub min_free: Option<u64>,
    /// Leave alone what was stored or used within AGE: somebody may be about to use it
    #[arg(long, value_name = "AGE", default_value = "1h", value_parser = units::seconds)]
    pub grace: u64,
}

/// What is done about damage.
#[derive(Debug, ClapArgs)]
pub struct Verify {
    /// Put right what can be: fetch it from shared caches, or delete it, so that it is built again; put installed modules back
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
    /// Give DKMS back what was taken over: the same files, in the same places
    #[arg(long)]
    pub undo: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Remove {
    /// Names of packages
    #[arg(value_name = "PACKAGE", required_unless_present = "all")]
    pub packages: Vec<String>,
    /// Take out everything that kcache installed
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
    /// A kernel that dkms.conf is asked about, as for `install`; can be repeated [default: the newest with headers]
    #[arg(short = 'k', long = "kernel", value_name = "K")]
    pub kernels: Vec<String>,
    /// Replace a kcache.toml that is there
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Lint {
    /// A package's name, NAME/VERSION, or source directory [default: .]
    #[arg(value_name = "PACKAGE|DIR")]
    pub packages: Vec<String>,
    /// A kernel that the recipe is asked about, as for `install`; can be repeated [default: every one with headers]
    #[arg(short = 'k', long = "kernel", value_name = "K")]
    pub kernels: Vec<String>,
    /// Be silent about a rule, as `uname-r`; can be repeated
    #[arg(long, value_name = "RULE")]
    pub allow: Vec<String>,
    /// End with 3 for warnings, too
    #[arg(long)]
    pub strict: bool,
}
