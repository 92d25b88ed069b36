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
            | store::Error::KeyReadable { .. }
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
            "create a key with `kcache keys mok` and configure [signing] in /etc/kcache/config.toml, see docs/signing.md".into(),
        ),
        Error::Signing(error) => hint_of_key(error),
        Error::NoSignature { .. } => {
            Some("run `kcache signatures export DIR` to export modules for signing, see docs/signing.md".into())
        }
        Error::NoDebugInfo { lack: Lack::NoEntry | Lack::NoObject, .. } => Some(
            "run `kcache build --rebuild` on the builder, then `kcache push`".into(),
        ),
        Error::NoDebugInfo { lack: Lack::OtherBuild, .. } => {
            Some("run `kcache install` to install the build in the store".into())
        }
        Error::NoKernel { nearest: Some(name), .. } | Error::NoPackage { nearest: Some(name), .. } => {
            Some(format!("did you mean '{name}'?"))
        }
        Error::NoKernel { .. } => Some("run `kcache status` to list installed kernels".into()),
        Error::NoPackage { .. } => {
            Some("packages are found in /usr/src/*/dkms.conf and /etc/kcache/packages.d; give a directory as a path, such as ./DIR".into())
        }
        Error::NoDefault(_) => {
            Some("set `default-kernel` in /etc/kcache/config.toml to a release or the path of the booted image".into())
        }
        Error::Unknown { package, release } => {
            Some(format!("run `kcache build {} -k {}`", word(package), word(release)))
        }
        Error::Install(install::Error::Io(error)) if is_for_root(error) => Some("run kcache as root".into()),
        Error::NotInstalled { .. } => Some("use `kcache build` for a kernel that is not installed".into()),
        error if error.lacks_bubblewrap() => Some("install the package bubblewrap".into()),
        Error::Toolchain(toolchain::Error::Missing { program, .. }) => {
            let package = toolchain::debian_package(program);
            Some(format!("install {program} (Debian package: {package})"))
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
            Some(format!("remove the other module of this name first: {winner}"))
        }
        Error::Store(store::Error::Unsigned { .. }) => {
            Some("run `kcache keys generate`, or use --unsigned to push entries that no host will use".into())
        }
        Error::Store(store::Error::Exposed(exposed)) => Some(format!(
            "if nobody else has written there, run `chown root {0}` and `chmod -R go-w {0}`; otherwise use another store with --store DIR",
            path_word(&exposed.path)
        )),
        Error::Store(store::Error::NetworkFs { .. }) => Some("use a store on a local disk".into()),
        Error::Store(store::Error::KeyReadable { path, .. }) => {
            Some(format!("run `chmod 600 {}`; if others may have read the key, create a new one", path_word(path)))
        }
        Error::Store(store::Error::NotStore { .. }) => Some("delete it, or use another store with --store DIR".into()),
        Error::Distrusted { .. } => Some("run `kcache build --rebuild`".into()),
        Error::Changed { .. } => Some("run the command again".into()),
        Error::Unreachable { release, source: install::Error::Damaged { .. } } => {
            Some(format!("run `kcache install -k {release}` to reinstall its modules"))
        }
        Error::Install(install::Error::Damaged { .. }) => {
            Some("run `kcache verify --repair`".into())
        }
        Error::Install(install::Error::Forgotten { lost, .. }) => {
            let words: Vec<_> = lost.iter().map(|name| word(name)).collect();
            let words = words.join(" ");
            Some(format!("name all packages of the set: `kcache install {words} ...`; or run `kcache remove --all`"))
        }
        Error::Install(install::Error::Source { .. }) => {
            Some("run `kcache install` to fetch or rebuild missing objects".into())
        }
        Error::Install(install::Error::Crowded { .. }) => {
            Some("run the command again when the other program has finished".into())
        }
        _ => None,
    }
}

/// Whether a file operation failed that root may do and this user may not.
fn is_for_root(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied && !rustix::process::geteuid().is_root()
}

fn path_word(path: &Path) -> String {
    word(&path.to_string_lossy()).into_owned()
}

fn hint_of_key(error: &signing::Error) -> Option<String> {
    match error {
        signing::Error::Exposed { path, .. } => Some(format!(
            "run `chmod 600 {0}`; if others may have read the key, create a new one",
            path_word(path)
        )),
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
