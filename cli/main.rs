//! `kcache`: parses the command line ([`args`]), resolves settings ([`settings`]), runs a command ([`cmd`]), prints ([`out`],
//! [`progress`]) and sets the exit code ([`exit`]). As the first process of a `boot-test` guest or of a sandbox it does
//! something else, and under the name `dkms` it is [`dkms`].

mod args;
mod cmd;
mod confined;
mod dkms;
mod dkms_key;
mod exit;
mod exposition;
mod file;
mod journal;
mod json;
mod memory;
mod out;
mod own_program;
mod own_root;
mod progress;
mod report;
mod screen;
mod settings;
mod site;
mod temporary;
mod units;
mod visible;
#[cfg(test)]
mod words;

use std::ffi::OsString;
use std::process::ExitCode;

use kcache::kernel::boot_test::guest;
use kcache::kernel::sandbox::enter;

/// Lets others read what is made, and nobody else write it. What nobody else may read is made so where it is made.
const UMASK: rustix::fs::Mode = rustix::fs::Mode::from_raw_mode(0o022);

/// The first descriptor that is not stdin, stdout or stderr. What a caller has left open, package managers their locks and
/// shells their files, no program that kcache starts has: a directory among them would lead out of every sandbox.
const FIRST_OTHER: i32 = 3;

/// Ends a run that was typed wrong, with 2, or that asked for help, with 0. The words of a mistake are whoever's.
fn misunderstood(mistake: &clap::Error) -> ExitCode {
    match mistake.use_stderr() {
        true => out::Out::default().print(mistake.render().to_string().trim_end()),
        false => drop(mistake.print()),
    }
    ExitCode::from(u8::try_from(mistake.exit_code()).unwrap_or(1))
}

fn main() -> ExitCode {
    // Set, not inherited: a service or container with 000 would have everybody write the store that root installs from.
    rustix::process::umask(UMASK);
    // What a panic says may quote anything.
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::capture();
        out::stderr_line(&format!("{panic}\n{trace}"));
    }));
    let mut words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let name = words.next().unwrap_or_default();
    if guest::is_guest(&name) {
        return guest::run(&words.collect::<Vec<_>>());
    }
    if enter::is_entering(&name) {
        return enter::run(&words.collect::<Vec<_>>());
    }
    // Whoever enters a sandbox was given the ends of make's jobserver; here nothing was given that is for others.
    close_fds::set_fds_cloexec(FIRST_OTHER, &[]);
    own_root::ensure();
    let second = confined::second_of(&name);
    let called = second.unwrap_or(&name);
    if dkms::is_dkms(called) {
        return dkms::run(called, &words.collect::<Vec<_>>());
    }
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    let args = match args::parse(&words) {
        Ok(args) => args,
        Err(mistake) => return misunderstood(&mistake),
    };
    let out = std::sync::Arc::new(out::Out::new(&args.global));
    if let Some(exit) = confined::in_another(args.global.root.as_deref(), called, &words, &out) {
        return exit;
    }
    let exit = cmd::run(&args, &out).unwrap_or_else(|failure| {
        out.failure(&failure);
        failure.exit
    });
    exit.into()
}
