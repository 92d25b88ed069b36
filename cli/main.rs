//! `kcache`: what was typed ([`args`]), what it means ([`settings`], [`cmd`]), what is printed ([`out`], [`progress`]),
//! and which exit code says so ([`exit`]). As the first process of a guest of `boot-test` it is none of that, and
//! under the name `dkms` it is [`dkms`].

mod args;
mod cmd;
mod dkms;
mod exit;
mod exposition;
mod file;
mod journal;
mod json;
mod memory;
mod out;
mod progress;
mod report;
mod settings;
mod units;

use std::process::ExitCode;

use clap::Parser;
use kcache::kernel::boot_test::guest;

/// Lets others read what is made, and nobody else write it. What nobody else may read is made so where it is made.
const UMASK: rustix::fs::Mode = rustix::fs::Mode::from_raw_mode(0o022);

fn main() -> ExitCode {
    // Set, not inherited: a service or container with 000 would have everybody write the store that root installs from.
    rustix::process::umask(UMASK);
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let name = words.next().unwrap_or_default();
    if guest::is_guest(&name) {
        return guest::run(&words.collect::<Vec<_>>());
    }
    if dkms::is_dkms(&name) {
        return dkms::run(&name, &words.collect::<Vec<_>>());
    }
    let args = args::Args::parse(); // ends the process itself: 2 for a mistake, 0 for --help
    let out = std::sync::Arc::new(out::Out::new(&args.global));
    let exit = cmd::run(&args, &out).unwrap_or_else(|failure| {
        out.failure(&failure);
        failure.exit
    });
    exit.into()
}
