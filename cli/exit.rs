//! Exit codes, and whose fault it was: the one place that decides blame, code and hint.

use std::path::Path;
use std::process::ExitCode;

use kcache::error::{Error, Lack, chain};
use kcache::kernel::build::kept;
use kcache::kernel::{boot_test, install, packages, recipe, signing, toolchain};
use kcache::store;

use crate::visible::word;

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

/// An error as it is told: in words, with what to do next.
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

    /// An error of the flow, told.
    pub fn of(error: &Error) -> Failure {
        Failure { exit: exit(error), hint: hint(error), message: chain(error) }
    }
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

/// The error for which a module was not signed.
fn of_signing(error: &Error) -> Option<&Error> {
    let Error::Install(install::Error::Sign { source, .. }) = error else { return None };
    source.downcast_ref()
}

fn exit(error: &Error) -> Exit {
    if let Some(cause) = of_signing(error) {
        return exit(cause);
    }
    match error {
        Error::Cancelled
        | Error::Store(store::Error::Interrupted)
        | Error::Recipe(recipe::Error::Cancelled)
        | Error::Toolchain(toolchain::Error::Cancelled)
        | Error::BootTest(boot_test::Error::Cancelled) => Exit::Interrupted,
        Error::NoKernel { .. }
        | Error::NoSource { .. }
        | Error::NoPackage { .. }
        | Error::NoDefault(_)
        | Error::NotInstalled { .. }
        | Error::Unknown { .. }
        | Error::NoPrevious { .. }
        | Error::BootTest(boot_test::Error::NoModule { .. })
        | Error::Package(packages::Error::NoRecipe { .. } | packages::Error::Io(_))
        | Error::Kernel(_) => Exit::Usage,
        // The sandbox or a disk stood in the way, not the package.
        Error::Recipe(recipe::Error::Sandbox(_) | recipe::Error::Io(_))
        | Error::Toolchain(toolchain::Error::Sandbox(_)) => Exit::Unexpected,
        Error::Package(_)
        | Error::Recipe(_)
        | Error::NotUtf8 { .. }
        | Error::Changed { .. }
        | Error::Dependency { .. }
        | Error::Script { .. }
        | Error::Environment { .. }
        | Error::Store(store::Error::NotPlain { .. })
        | Error::Toolchain(_) => Exit::BuildFailed,
        Error::Store(store::Error::Busy { .. })
        | Error::Install(install::Error::Busy { .. } | install::Error::Crowded { .. }) => Exit::Busy,
        Error::NoDebugInfo { lack: Lack::OtherModule(_), .. } => Exit::Refused,
        Error::NoDebugInfo { .. } => Exit::NotReady,
        Error::Signing(error) => exit_of_key(error),
        Error::NoSignature { .. }
        | Error::Unsigned { .. }
        | Error::Kept {
            source: kept::Error::TooMuch | kept::Error::TooDeep | kept::Error::Hostile(_), ..
        }
        | Error::Distrusted { .. }
        | Error::Store(
            store::Error::Unsigned { .. }
            | store::Error::KeyFile { .. }
            | store::Error::Exposed(_)
            | store::Error::NotStore { .. },
        )
        | Error::BootTest(boot_test::Error::OtherKernel { .. })
        | Error::Install(
            install::Error::Digest { .. } | install::Error::Unresolved(_) | install::Error::InTheWay { .. },
        ) => Exit::Refused,
        Error::Io(_)
        | Error::Kept { source: kept::Error::Io(_), .. }
        | Error::NoStore
        | Error::Unreachable { .. }
        | Error::NoImage { .. }
        | Error::Store(_)
        | Error::Sandbox(_)
        | Error::BootTest(_)
        | Error::Install(_) => Exit::Unexpected,
    }
}

fn exit_of_key(error: &signing::Error) -> Exit {
    match error {
        signing::Error::Io(_)
        | signing::Error::Malformed { .. }
        | signing::Error::NoPassphrase { .. }
        | signing::Error::NoCertificate
        | signing::Error::NoKey => Exit::Usage,
        signing::Error::Command { .. } | signing::Error::Token { .. } | signing::Error::Key { .. } => {
            Exit::Unexpected
        }
        _ => Exit::Refused,
    }
}

fn hint(error: &Error) -> Option<String> {
    if let Some(cause) = of_signing(error) {
        return hint(cause);
    }
    match error {
        Error::Unsigned { .. } => Some(
            "`kcache keys mok` makes a key, and [signing] in /etc/kcache/config.toml names it: docs/signing.md".into(),
        ),
        Error::Signing(error) => hint_of_key(error),
        Error::NoSignature { .. } => {
            Some("`kcache signatures export DIR` writes what is to be signed: docs/signing.md".into())
        }
        Error::NoDebugInfo { lack: Lack::NoEntry | Lack::NoObject, .. } => Some(
            "`kcache build --rebuild` makes it anew where the package is built, and `kcache push` shares it".into(),
        ),
        Error::NoDebugInfo { lack: Lack::OtherBuild, .. } => {
            Some("`kcache install` installs the build that the store has".into())
        }
        Error::NoKernel { nearest: Some(name), .. } | Error::NoPackage { nearest: Some(name), .. } => {
            Some(format!("did you mean {name}?"))
        }
        Error::NoKernel { .. } => Some("`kcache status` lists the kernels that are installed".into()),
        Error::NoPackage { .. } => {
            Some("packages are looked for in /usr/src/*/dkms.conf and /etc/kcache/packages.d; a directory can be given by path, as ./DIR".into())
        }
        Error::NoDefault(_) => {
            Some("`default-kernel` in /etc/kcache/config.toml names a release, or the path of the image that is booted".into())
        }
        Error::NotInstalled { .. } => Some("`kcache build` builds for a kernel that is not installed".into()),
        error if error.lacks_bubblewrap() => Some("install the package bubblewrap".into()),
        Error::Toolchain(toolchain::Error::Missing { program, .. }) => {
            let package = toolchain::debian_package(program);
            Some(format!("install the package {package} (Debian's name), or another that has {program}"))
        },
        Error::NoImage { release, .. } => {
            Some(format!("install the kernel's image (Debian: linux-image-{release}), or name it with --image FILE"))
        }
        Error::BootTest(boot_test::Error::NoQemu { package, .. }) => {
            Some(format!("install the package {package}, or name the program with --qemu PROGRAM"))
        }
        Error::Install(install::Error::InTheWay { path }) => {
            // Not `dkms uninstall`: kcache's own would delete what is kept, too.
            Some(format!("move it out of the kernel's tree first: mv {} /root/", path_word(path)))
        }
        Error::Install(install::Error::NoDepmod { .. }) => Some("install the package kmod".into()),
        Error::Install(install::Error::Unresolved(install::Fault::Shadowed { winner, .. })) => {
            Some(format!("another module of the same name is installed at {winner}: remove it first"))
        }
        Error::Store(store::Error::Unsigned { .. }) => {
            Some("`kcache keys generate` makes a key; --unsigned pushes without, and nobody will use it".into())
        }
        Error::Store(store::Error::Exposed(exposed)) => Some(format!(
            "if nobody else has written there, `chown root {0}` and `chmod -R go-w {0}`; else another with --store DIR",
            path_word(&exposed.path)
        )),
        Error::Store(store::Error::NotStore { .. }) => Some("delete it, or name another store with --store DIR".into()),
        Error::Distrusted { .. } => Some("`kcache build --rebuild` builds it anew".into()),
        Error::Changed { .. } => Some("run the command again".into()),
        Error::Unreachable { release, source: install::Error::Damaged { .. } } => {
            Some(format!("`kcache install -k {release}` installs its modules anew"))
        }
        Error::Install(install::Error::Damaged { .. }) => {
            Some("`kcache verify --repair` puts right what can be".into())
        }
        Error::Install(install::Error::Forgotten { lost, .. }) => {
            let words: Vec<_> = lost.iter().map(|name| word(name)).collect();
            let words = words.join(" ");
            Some(format!("name them, too, so that the set is complete: `kcache install {words} ...`; or `kcache remove --all`"))
        }
        Error::Install(install::Error::Source { .. }) => {
            Some("`kcache install` fetches or builds again what the store has lost".into())
        }
        Error::Install(install::Error::Crowded { .. }) => {
            Some("run the command again when that program is done".into())
        }
        _ => None,
    }
}

fn path_word(path: &Path) -> String {
    word(&path.to_string_lossy()).into_owned()
}

fn hint_of_key(error: &signing::Error) -> Option<String> {
    match error {
        signing::Error::Exposed { path, .. } => {
            Some(format!("chmod 600 {0}; if others may have read it, make another", path_word(path)))
        }
        signing::Error::NoPassphrase { .. } => {
            Some("set passphrase-file or passphrase-command in [signing]".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_way_is_to_be_moved_and_not_uninstalled() {
        let path = "/lib/modules/6.1/updates/dkms/one.ko".into();
        let failure = Failure::of(&Error::Install(install::Error::InTheWay { path }));
        assert_eq!(failure.exit, Exit::Refused);
        let hint = failure.hint.unwrap();
        assert!(
            hint.contains("mv /lib/modules/6.1/updates/dkms/one.ko ") && !hint.contains("dkms uninstall")
        );
    }

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
