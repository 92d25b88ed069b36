//! Arguments of the commands for module authors.

use std::path::PathBuf;

use clap::Args as ClapArgs;

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
