//! Arguments of the commands for upkeep.

use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::Kernels;
use crate::units;

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
        /// kernel-installed, headers-installed, kernel-removed, boot, booted or retry
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
pub struct Adopt {
    #[command(flatten)]
    pub kernels: Kernels,
    /// Give back the files that were taken over from DKMS
    #[arg(long)]
    pub undo: bool,
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

#[derive(Debug, ClapArgs)]
pub struct Verify {
    /// Repair corruption: fetch from shared caches, delete so that it is rebuilt, or reinstall modules
    #[arg(long)]
    pub repair: bool,
}
