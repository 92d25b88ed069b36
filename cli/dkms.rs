//! kcache under the name `dkms`: accepts the command lines of DKMS 3 and carries them out in kcache's way.
//!
//! ```text
//! args        the command line, as DKMS reads it: options and actions in any order
//! place       the context, DKMS's records, the selected kernels and packages
//! status      added, built, installed, broken
//! build       add, build, install, match, autoinstall
//! sanity      whether a module is newer than what the kernel has
//! source      source trees and DKMS's records of them
//! record      copies of modules and logs, in DKMS's places
//! remove      uninstall, unbuild, remove
//! tarball     mktarball, ldtarball
//! upgrade     --rpm_safe_upgrade
//! afterwards  post_transaction, modprobe_on_install
//! postinst    /usr/lib/dkms/common.postinst, which the scripts of -dkms packages call
//! ```
//!
//! *Added*, in DKMS's terms, is its own record, a link under `/var/lib/dkms`; *built* is a record there, with copies of the
//! modules and the log; *installed* is part of the kernel's generation. What DKMS itself had built and installed before counts
//! too, until it is removed or taken over (`kcache adopt`). Output and exit codes are those of DKMS 3.2.2 where scripts may depend on them; docs/dkms.md has the
//! table. kcache's own messages go to stderr, so that `$(dkms status)` contains nothing else.

mod afterwards;
mod args;
mod build;
mod place;
mod postinst;
mod print;
mod record;
mod remove;
mod sanity;
mod source;
mod status;
mod tarball;
mod upgrade;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use args::Action;
use place::Place;

use crate::confined;
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// The version of DKMS that this is like: what it prints of itself, and what the Debian package provides.
const LIKE: &str = "3.2.2";

/// The name of the maintainer scripts' program.
const POSTINST: &str = "common.postinst";

/// An error with DKMS's message and exit code.
#[derive(Debug)]
pub struct DkmsError {
    code: u8,
    lines: Vec<String>,
}

impl DkmsError {
    fn new(code: u8, lines: &[&str]) -> DkmsError {
        DkmsError { code, lines: lines.iter().map(|line| (*line).to_owned()).collect() }
    }
}

/// kcache's exit codes in DKMS's.
impl From<Failure> for DkmsError {
    fn from(failure: Failure) -> DkmsError {
        let code = match failure.exit {
            Exit::Done => 0,
            Exit::BuildFailed | Exit::NotReproducible => 10,
            Exit::Refused | Exit::NotReady => 6,
            Exit::Unexpected | Exit::Usage | Exit::NoHeaders | Exit::Busy => 1,
            Exit::Interrupted => 130,
        };
        let hint = failure.hint.map(|hint| format!("hint: {hint}"));
        DkmsError { code, lines: std::iter::once(failure.message).chain(hint).collect() }
    }
}

impl From<kcache::error::Error> for DkmsError {
    fn from(error: kcache::error::Error) -> DkmsError {
        Failure::from(error).into()
    }
}

impl From<std::io::Error> for DkmsError {
    fn from(error: std::io::Error) -> DkmsError {
        Failure::from(error).into()
    }
}

/// Whether a program of this name is DKMS or a part of it.
pub fn is_dkms(name: &str) -> bool {
    let name = Path::new(name).file_name();
    name.is_some_and(|name| name == "dkms" || name == POSTINST)
}

/// Runs kcache as DKMS.
pub fn run(name: &str, words: &[String]) -> ExitCode {
    let given: Vec<OsString> = words.iter().map(OsString::from).collect();
    if let Some(exit) = confined::in_another(place::root().as_deref(), name, &given, &Out::default()) {
        return exit;
    }
    upgrade::see_caller();
    let done = if name.ends_with(POSTINST) { postinst::run(words) } else { typed(words) };
    match done {
        Ok(code) => ExitCode::from(code),
        Err(trouble) => {
            print::complain(&trouble.lines);
            ExitCode::from(trouble.code)
        }
    }
}

fn typed(words: &[String]) -> Result<u8, DkmsError> {
    let typed = args::parse(words)?;
    if let Some(text) = typed.answer() {
        print::answer(&text);
        return Ok(0);
    }
    let Some(action) = typed.action else {
        // DKMS says so and ends with 0; a script that mistypes an action should notice.
        let word = typed.unknown_action();
        let meant = Action::nearest(word).map(|meant| format!("hint: did you mean '{meant}'?"));
        let line = match word {
            "" => "No action specified.".to_owned(),
            word => format!("Unknown action specified: \"{word}\""),
        };
        let lines = [Some(line.as_str()), meant.as_deref(), Some(args::USAGE)];
        return Err(DkmsError::new(2, &lines.into_iter().flatten().collect::<Vec<_>>()));
    };
    let place = Place::new(&typed)?;
    if action.wants_root() || action.wants_records() {
        place.check_exposed()?;
    }
    if action.wants_root() {
        place.check_root()?;
    } else if action.wants_records() {
        place.check_records()?;
    }
    let done = act(&place, action)?;
    if done == 0 {
        afterwards::act(&place, action);
    }
    Ok(done)
}

fn act(place: &Place, action: Action) -> Result<u8, DkmsError> {
    match action {
        Action::Status => status::show(place),
        Action::Add => build::add(place),
        Action::Build => build::each(place, build::build),
        Action::Install => build::each(place, build::install),
        Action::Autoinstall => build::autoinstall(place),
        Action::KernelPostinst => build::of_kernel(place),
        Action::Match => build::match_kernel(place),
        Action::Uninstall => remove::each(place, remove::uninstall),
        Action::Unbuild => remove::each(place, remove::unbuild),
        Action::Remove => remove::remove(place),
        Action::KernelPrerm => remove::of_kernel(place),
        Action::KernelPreinst => Ok(0),
        Action::Mktarball => tarball::make(place),
        Action::Ldtarball => tarball::load(place).map(|_| 0),
        Action::GenerateMok => {
            Err(DkmsError::new(1, &["DKMS's keys are not used.", "See `kcache keys --help` for kcache's."]))
        }
    }
}
