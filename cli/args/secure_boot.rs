//! Arguments of the commands for Secure Boot and debugging.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::Selection;

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
