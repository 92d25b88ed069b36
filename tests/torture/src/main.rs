//! Tortures kcache: kills it at every system call, cuts its power there, lets its calls fail, fills its disks.
//!
//! ```text
//! torture check ROOT STORE RELEASE                  looks once, at a tree and a store that are there
//! torture run --kcache FILE --fixtures DIR ...      makes a room of its own and goes through the suites
//!     --suite NAME ...     kill, recovery, errors, power, space, or dkms alone; without: all but dkms
//!     --scenario NAME ...  install, remove, ...; without: all
//!     --every N            every Nth call only, beginning with a random one
//!     --seconds N          so long, at random calls
//!     --seed N             the same random calls as with that seed; a run says which it has
//!     --jobs N             so many processes, each with a room of its own; without: as many as there are CPUs
//!     --share I/N          does the Ith of N shares and prints JSON: what those processes are started with
//! ```
//!
//! What is run and what came of it stands in docs/reliability.md. The table goes to stdout, violations to stderr as they are
//! found; exit 0 without any, 1 with some. Needs root: ptrace, mounts and kcache's sandbox. Everything lies in one directory
//! under $TMPDIR and in a mount namespace of its own; after a violation the directory stays.

use std::process::ExitCode;

#[cfg(target_arch = "x86_64")]
mod calls;
mod check;
#[cfg(target_arch = "x86_64")]
mod dkms;
#[cfg(target_arch = "x86_64")]
mod power;
#[cfg(target_arch = "x86_64")]
mod room;
#[cfg(target_arch = "x86_64")]
mod scenario;
#[cfg(target_arch = "x86_64")]
mod space;
#[cfg(target_arch = "x86_64")]
mod suites;
#[cfg(target_arch = "x86_64")]
mod sweep;
mod tally;
#[cfg(target_arch = "x86_64")]
mod tracer;

use tally::say;

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1).peekable();
    #[cfg(target_arch = "x86_64")]
    if words.next_if(|word| word == tracer::AS_CHILD).is_some() {
        say(&format!("torture: {}", tracer::become_command(words)));
        return ExitCode::from(2);
    }
    let words: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let clean = match words.as_slice() {
        ["check", root, store, release] => Ok(check(root, store, release)),
        #[cfg(target_arch = "x86_64")]
        ["run", words @ ..] => suites::run(words),
        _ => Err("torture check ROOT STORE RELEASE, or torture run --kcache FILE --fixtures DIR ...".into()),
    };
    match clean {
        Ok(clean) => ExitCode::from(u8::from(!clean)),
        Err(error) => {
            say(&format!("torture: {error}"));
            ExitCode::from(2)
        }
    }
}

/// Whether nothing is wrong; says what is.
fn check(root: &str, store: &str, release: &str) -> bool {
    let places = check::Places {
        root: root.into(),
        release: release.into(),
        store: store.into(),
        cache: "/nonexistent/cache".into(),
        export: "/nonexistent/export/set.tar".into(),
    };
    let found = check::look(&places);
    let litter = check::litter(&places).into_iter().map(|path| format!("left behind: {}", path.display()));
    let wrong: Vec<String> = found.faults.into_iter().chain(litter).collect();
    say(&format!("{} modules and {} entries", found.state.modules.len(), found.state.entries.len()));
    wrong.iter().for_each(|wrong| say(wrong));
    wrong.is_empty()
}
