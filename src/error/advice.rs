//! Of what kind an error is, and what to do next: one table.

use std::path::Path;

use kcache_kernel::build::kept;
use kcache_kernel::{boot_test, install, packages, recipe, sandbox, signing, toolchain};
use kcache_store as store;

use super::{Error, Lack};
use crate::shell::word;

/// Whose turn it is. `kcache` has an exit code for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// What was asked for or configured is wrong.
    Usage,
    /// What was asked about is not there yet.
    NotReady,
    /// The package.
    BuildFailed,
    /// Something was not to be trusted, or would have broken what there is.
    Refused,
    /// Another program is at work.
    Busy,
    /// The run was ended from outside.
    Interrupted,
    /// This machine.
    Unexpected,
}

/// What comes of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    /// Its kind.
    pub kind: ErrorKind,
    /// What to do next, in a sentence with the command to type, where something can be done.
    pub hint: Option<String>,
}

impl ErrorKind {
    fn hint(self, text: impl Into<String>) -> Advice {
        Advice { kind: self, hint: Some(text.into()) }
    }
}

impl From<ErrorKind> for Advice {
    fn from(kind: ErrorKind) -> Advice {
        Advice { kind, hint: None }
    }
}

/// What comes of an error of the flow.
pub(super) fn of(error: &Error) -> Advice {
    use ErrorKind::{BuildFailed, Interrupted, NotReady, Refused, Unexpected, Usage};
    match error {
        error if error.lacks_bubblewrap() => Unexpected.hint("install the package bubblewrap"),
        Error::Cancelled => Interrupted.into(),
        Error::Store(error) => of_store(error),
        Error::Install(error) => of_install(error),
        Error::Signing(error) => of_signing(error),
        Error::BootTest(error) => of_boot_test(error),
        Error::Toolchain(error) => of_toolchain(error),
        Error::Recipe(recipe::Error::Cancelled) => Interrupted.into(),
        // The sandbox or a disk stood in the way, not the package.
        Error::Recipe(recipe::Error::Sandbox(error)) => of_sandbox(error),
        Error::Recipe(recipe::Error::Io(_)) => Unexpected.into(),
        Error::Recipe(_) => BuildFailed.into(),
        Error::Package(packages::Error::NoRecipe { .. } | packages::Error::Io(_)) => Usage.into(),
        Error::Package(packages::Error::Below { path, below }) => {
            Usage.hint(format!("give that directory: {}", path_word(&path.join(below))))
        }
        Error::Package(packages::Error::Placeholder { path, is_alone: true, .. }) => {
            let directory = path.parent().unwrap_or(path);
            BuildFailed.hint(format!(
                "or call the directory {}-VERSION, which then is the version",
                path_word(directory)
            ))
        }
        Error::Package(packages::Error::Several { path, parts }) => Usage.hint(format!(
            "give one of them, such as {}, or write a kcache.toml with the commands that build all",
            path_word(&path.join(&parts[0]))
        )),
        Error::Package(_) => BuildFailed.into(),
        Error::NoKernel { nearest: Some(name), .. } | Error::NoPackage { nearest: Some(name), .. } => {
            Usage.hint(format!("did you mean '{name}'?"))
        }
        Error::SameModule { package, others, stays: true, .. } => Refused.hint(format!(
            "run `kcache remove {others}` first to install {package}, or say in a [[policy]] that {package} is ignored"
        )),
        Error::SameModule { package, others, .. } => Refused.hint(format!(
            "run `kcache install {}` to install that one, and say in a [[policy]] that {others} is ignored",
            word(package)
        )),
        Error::NoExec { .. } => {
            Unexpected.hint("use a store elsewhere with --store DIR, or remount it: mount -o remount,exec DIR")
        }
        Error::NoToolPath { .. } | Error::ReservedToolPath { .. } => Usage.hint("run `kcache config` to see which file sets it"),
        Error::NoKernel { .. } => Usage.hint("run `kcache status` to list installed kernels"),
        Error::NoPackage { .. } => Usage.hint(
            "packages are found in /usr/src/*/dkms.conf and /etc/kcache/packages.d; give a directory as a path, such as ./DIR",
        ),
        Error::NoDefault(_) => Usage.hint(
            "set `default-kernel` in /etc/kcache/config.toml to a release or the path of the booted image",
        ),
        Error::NotInstalled { .. } => Usage.hint("use `kcache build` for a kernel that is not installed"),
        Error::Unknown { package, release } => {
            Usage.hint(format!("run `kcache build {} -k {}`", word(package), word(release)))
        }
        Error::NoSource { .. } | Error::NoPrevious { .. } | Error::Kernel(_) => Usage.into(),
        Error::Changed { .. } => BuildFailed.hint("run the command again"),
        Error::NotUtf8 { .. } | Error::Dependency { .. } | Error::Script { .. } | Error::Environment { .. } => {
            BuildFailed.into()
        }
        Error::NoDebugInfo { lack: Lack::OtherModule(_), .. } => Refused.into(),
        Error::NoDebugInfo { lack: Lack::NoEntry | Lack::NoObject, .. } => {
            NotReady.hint("run `kcache build --rebuild` on the builder, then `kcache push`")
        }
        Error::NoDebugInfo { lack: Lack::OtherBuild, .. } => {
            NotReady.hint("run `kcache install` to install the build in the store")
        }
        Error::NoDebugInfo { lack: Lack::NotMade, .. } => NotReady.into(),
        Error::NoSignature { .. } => {
            Refused.hint("run `kcache signatures export DIR` to export modules for signing, see docs/signing.md")
        }
        Error::Unsigned { of_dkms: Some(found), .. } => Refused.hint(format!(
            "DKMS signs with {0} on this host; to use the same key, set `key = \"{0}\"` and `certificate = \"{1}\"` in [signing] in /etc/kcache/config.toml, see docs/signing.md",
            found.key.display(),
            found.certificate.display()
        )),
        Error::Unsigned { .. } => Refused.hint(
            "create a key with `kcache keys mok` and configure [signing] in /etc/kcache/config.toml, see docs/signing.md",
        ),
        Error::ForOneCpu { .. } => {
            Refused.hint("run `kcache lint` to find the flags, and build without them")
        }
        Error::Distrusted { .. } => Refused.hint("run `kcache build --rebuild`"),
        Error::Kept { source: kept::Error::Io(_), .. } => Unexpected.into(),
        Error::Kept { .. } => Refused.into(),
        Error::NoImage { release, .. } => Unexpected.hint(format!(
            "install the kernel's image (Debian: linux-image-{release}), or name it with --image FILE"
        )),
        Error::Unreachable { release, source: install::Error::Damaged { .. } } => {
            Unexpected.hint(format!("run `kcache install -k {release}` to reinstall its modules"))
        }
        Error::Sandbox(error) => of_sandbox(error),
        Error::Io(_) | Error::NoStore | Error::Unreachable { .. } => Unexpected.into(),
    }
}

/// What stands in the way of the sandbox, by bubblewrap's words.
fn of_sandbox(error: &sandbox::Error) -> Advice {
    let sandbox::Error::NotMade { said } = error else { return ErrorKind::Unexpected.into() };
    let is = |words: &[&str]| words.iter().any(|word| said.contains(word));
    // A chroot whose `/` is no mount point (pivot_root(2), mount_namespaces(7)).
    let is_chroot = is(&["pivot_root", "Failed to make / slave", "make / slave"]);
    let hint = if is_chroot {
        "in a plain chroot the directory must be a mount point: run `mount --bind DIR DIR` before `chroot DIR`"
    } else if is(&["namespace", "Operation not permitted", "Permission denied", "mount proc", "Can't mount"])
    {
        "builds need namespaces: start the container with --privileged, or with --cap-add SYS_ADMIN --security-opt seccomp=unconfined --security-opt apparmor=unconfined; \
         for a user, allow user namespaces (kernel.unprivileged_userns_clone, kernel.apparmor_restrict_unprivileged_userns); fetching from a cache needs neither"
    } else {
        return ErrorKind::Unexpected.into();
    };
    ErrorKind::Unexpected.hint(hint)
}

fn of_store(error: &store::Error) -> Advice {
    use store::Error::{
        Busy, Exposed, Interrupted, KeyFile, KeyReadable, NetworkFs, NotPlain, NotStore, Unsigned,
    };
    match error {
        Interrupted => ErrorKind::Interrupted.into(),
        NotPlain { .. } => ErrorKind::BuildFailed.into(),
        Busy { .. } => ErrorKind::Busy.into(),
        Unsigned { .. } => ErrorKind::Refused.hint(
            "run `kcache keys generate`, or use --unsigned to push entries that no host will use",
        ),
        Exposed(exposed) => ErrorKind::Refused.hint(format!(
            "if nobody else has written there, run `chown root {0}` and `chmod -R go-w {0}`; otherwise use another store with --store DIR",
            path_word(&exposed.path)
        )),
        KeyReadable { path, .. } => ErrorKind::Refused.hint(chmod(path)),
        KeyFile { .. } => ErrorKind::Refused.into(),
        NotStore { .. } => ErrorKind::Refused.hint("delete it, or use another store with --store DIR"),
        NetworkFs { .. } => ErrorKind::Unexpected.hint("use a store on a local disk"),
        _ => ErrorKind::Unexpected.into(),
    }
}

fn of_install(error: &install::Error) -> Advice {
    use install::Error::{
        Busy, Crowded, Damaged, Digest, Forgotten, InTheWay, NoDepmod, Sign, Source, Unresolved,
    };
    match error {
        // The flow signs, and says why it did not.
        Sign { source, .. } => source.downcast_ref().map_or(ErrorKind::Unexpected.into(), of),
        Busy { .. } => ErrorKind::Busy.into(),
        Crowded { .. } => ErrorKind::Busy.hint("run the command again when the other program has finished"),
        Digest { .. } => ErrorKind::Refused.into(),
        // Not `dkms uninstall`: kcache's own would delete what is kept, too.
        InTheWay { path } => ErrorKind::Refused
            .hint(format!("move it out of the kernel's tree first: mv {} /root/", path_word(path))),
        Unresolved(install::Fault::Shadowed { winner, .. }) => {
            ErrorKind::Refused.hint(format!("remove the other module of this name first: {winner}"))
        }
        Unresolved(_) => ErrorKind::Refused.into(),
        NoDepmod { .. } => ErrorKind::Unexpected.hint("install the package kmod"),
        Damaged { .. } => ErrorKind::Unexpected.hint("run `kcache verify --repair`"),
        Forgotten { lost, .. } => {
            let words: Vec<_> = lost.iter().map(|name| word(name)).collect();
            let words = words.join(" ");
            ErrorKind::Unexpected.hint(format!(
                "name all packages of the set: `kcache install {words} ...`; or run `kcache remove --all`"
            ))
        }
        Source { .. } => {
            ErrorKind::Unexpected.hint("run `kcache install` to fetch or rebuild missing objects")
        }
        _ => ErrorKind::Unexpected.into(),
    }
}

fn of_signing(error: &signing::Error) -> Advice {
    use signing::Error::{Command, Exposed, Io, Key, Malformed, NoCertificate, NoKey, NoPassphrase, Token};
    match error {
        NoPassphrase { .. } => {
            ErrorKind::Usage.hint("set passphrase-file or passphrase-command in [signing]")
        }
        Io(_) | Malformed { .. } | NoCertificate | NoKey => ErrorKind::Usage.into(),
        Command { .. } | Token { .. } | Key { .. } => ErrorKind::Unexpected.into(),
        Exposed { path, .. } => ErrorKind::Refused.hint(chmod(path)),
        _ => ErrorKind::Refused.into(),
    }
}

fn of_boot_test(error: &boot_test::Error) -> Advice {
    use boot_test::Error::{Cancelled, NoModule, NoQemu, OtherKernel};
    match error {
        Cancelled => ErrorKind::Interrupted.into(),
        NoModule { .. } => ErrorKind::Usage.into(),
        OtherKernel { .. } => ErrorKind::Refused.into(),
        NoQemu { package, .. } => ErrorKind::Unexpected
            .hint(format!("install the package {package}, or name the program with --qemu PROGRAM")),
        _ => ErrorKind::Unexpected.into(),
    }
}

fn of_toolchain(error: &toolchain::Error) -> Advice {
    use toolchain::Error::{Cancelled, Missing, Sandbox};
    match error {
        Cancelled => ErrorKind::Interrupted.into(),
        Sandbox(error) => of_sandbox(error),
        Missing { program, .. } => {
            let package = toolchain::debian_package(program);
            ErrorKind::BuildFailed.hint(format!("install {program} (Debian package: {package})"))
        }
        _ => ErrorKind::BuildFailed.into(),
    }
}

fn chmod(path: &Path) -> String {
    format!("run `chmod 600 {}`; if others may have read the key, create a new one", path_word(path))
}

fn path_word(path: &Path) -> String {
    word(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_the_way_is_to_be_moved_and_not_uninstalled() {
        let path = "/lib/modules/6.1/updates/dkms/one.ko".into();
        let advice = Error::Install(install::Error::InTheWay { path }).advice();
        assert_eq!(advice.kind, ErrorKind::Refused);
        let hint = advice.hint.unwrap();
        assert!(
            hint.contains("mv /lib/modules/6.1/updates/dkms/one.ko ") && !hint.contains("dkms uninstall")
        );
    }
}
