//! Arguments of the commands of every day.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use kcache::kernel::boot_test::Parameter;

use super::{Kernels, Selection};
use crate::units;

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

fn directive(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, _)) if !name.is_empty() => Ok(text.to_owned()),
        _ => Err("must be NAME=VALUE".to_owned()),
    }
}

#[derive(Debug, ClapArgs)]
pub struct Check {
    #[command(flatten)]
    pub which: Selection,
    /// Build what is missing first, without installing it, to find build failures
    #[arg(long)]
    pub build: bool,
    /// Ask shared caches for newer builds of what was fetched: state `outdated`
    #[arg(long)]
    pub remote: bool,
    /// Create /run/kcache/ready/RELEASE for kernels that are ready, delete it for others
    #[arg(long, conflicts_with = "packages")]
    pub mark: bool,
}

#[derive(Debug, ClapArgs)]
pub struct Status {
    #[command(flatten)]
    pub which: Selection,
    /// Ask shared caches for newer builds of what was fetched: state `outdated`
    #[arg(long)]
    pub remote: bool,
}

/// The modules to load, and the VM to load them in.
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

#[derive(Debug, ClapArgs)]
pub struct Remove {
    /// Packages to remove; not needed for a leftover of a removed kernel
    #[arg(value_name = "PACKAGE", required_unless_present_any = ["all", "kernels"])]
    pub packages: Vec<String>,
    /// Remove everything that kcache installed
    #[arg(long, conflicts_with = "packages")]
    pub all: bool,
    #[command(flatten)]
    pub kernels: Kernels,
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
