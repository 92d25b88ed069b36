//! `kcache`: what was typed ([`args`]), what it means ([`settings`], [`cmd`]), what is printed ([`out`], [`progress`]),
//! and which exit code says so ([`exit`]).

mod args;
mod cmd;
mod exit;
mod json;
mod out;
mod progress;
mod settings;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let args = args::Args::parse(); // ends the process itself: 2 for a mistake, 0 for --help
    let out = std::sync::Arc::new(out::Out::new(&args.global));
    let exit = cmd::run(&args, &out).unwrap_or_else(|failure| {
        out.failure(&failure);
        failure.exit
    });
    exit.into()
}
