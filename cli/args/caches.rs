//! Arguments of the commands for shared caches, exported files and keys.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

use super::Selection;

#[derive(Debug, ClapArgs)]
pub struct Use {
    /// URL of the shared cache
    #[arg(value_name = "URL")]
    pub url: String,
    /// The builder's key: its id, the first 16 digits of it or more, or a file [default: ask at a terminal]
    #[arg(long, value_name = "ID|FILE")]
    pub key: Option<String>,
    /// PEM certificates to trust for TLS, in addition to the system's; an absolute path, under --root DIR
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Want the packages of the builder's site file: write `packages = "@site"` [default: ask at a terminal]
    #[arg(long)]
    pub site: bool,
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
