//! The command line as it is typed. [`crate::settings`] and the commands determine what it means.
//!
//! The arguments of each command are in the file of its task, as in [`GROUPS`].

mod authors;
mod caches;
mod every_day;
mod secure_boot;
mod upkeep;

use std::ffi::OsString;
use std::fmt::Write;
use std::path::PathBuf;

use clap::{Args as ClapArgs, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::settings::choices::Depmod;
use crate::units;

pub use authors::{Init, Lint};
pub use caches::{Export, Import, Keys, KeysCommand, Pull, Push, Use};
pub use every_day::{BootTest, Build, Building, Check, Install, Metrics, Remove, Report, Status};
pub use secure_boot::{DebugInfo, Signatures, SignaturesCommand};
pub use upkeep::{Adopt, Family, Gc, Hooks, HooksCommand, Verify};

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
    ("Caches and fleets", &["use", "push", "pull", "export", "import", "keys"]),
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
    Status(Status),
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
    /// Use a shared cache, and trust the key of its builder
    Use(Use),
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
