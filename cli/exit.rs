//! Exit codes, and errors as they are printed.

use std::process::ExitCode;

use kcache::error::{Advice, Error, ErrorKind, chain};
use kcache::kernel::install;
use kcache::store;

/// How a run ends. Documented in docs/exit-codes.md: never renumbered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Unexpected = 1,
    Usage = 2,
    NotReady = 3,
    BuildFailed = 4,
    NoHeaders = 5,
    Refused = 6,
    NotReproducible = 7,
    Busy = 8,
    Interrupted = 130,
}

impl Exit {
    /// The graver of two: what must not be overlooked wins.
    pub fn or(self, other: Exit) -> Exit {
        let gravity = |exit: Exit| match exit {
            Exit::Done => 0,
            Exit::NotReady => 1,
            Exit::NoHeaders => 2,
            Exit::BuildFailed => 3,
            Exit::NotReproducible => 4,
            Exit::Refused => 5,
            Exit::Busy => 6,
            Exit::Usage => 7,
            Exit::Unexpected => 8,
            Exit::Interrupted => 9,
        };
        if gravity(other) > gravity(self) { other } else { self }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// An error as it is printed: what happened, and what to do next.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
}

impl Failure {
    /// A mistake in what was typed or configured.
    pub fn usage(message: impl Into<String>, hint: Option<String>) -> Failure {
        Failure { exit: Exit::Usage, message: message.into(), hint }
    }

    /// An error of the flow, as it is printed.
    pub fn of(error: &Error) -> Failure {
        let Advice { kind, hint } = error.advice();
        let hint = hint.or_else(|| is_for_root(error).then(|| "run kcache as root".to_owned()));
        Failure { exit: kind.into(), hint, message: chain(error) }
    }
}

/// Whether root may change a kernel's tree and this user may not.
fn is_for_root(error: &Error) -> bool {
    let Error::Install(install::Error::Io(error)) = error else { return false };
    error.kind() == std::io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root()
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::of(&error)
    }
}

impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Failure {
        Error::from(error).into()
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Error::from(error).into()
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Exit {
        match kind {
            ErrorKind::Usage => Exit::Usage,
            ErrorKind::NotReady => Exit::NotReady,
            ErrorKind::BuildFailed => Exit::BuildFailed,
            ErrorKind::Refused => Exit::Refused,
            ErrorKind::Busy => Exit::Busy,
            ErrorKind::Interrupted => Exit::Interrupted,
            ErrorKind::Unexpected => Exit::Unexpected,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graver_exit_wins_whatever_the_order() {
        for (a, b, expect) in [
            (Exit::Done, Exit::NoHeaders, Exit::NoHeaders),
            (Exit::NoHeaders, Exit::BuildFailed, Exit::BuildFailed),
            (Exit::BuildFailed, Exit::Refused, Exit::Refused),
        ] {
            assert_eq!(a.or(b), expect);
            assert_eq!(b.or(a), expect);
        }
    }
}
