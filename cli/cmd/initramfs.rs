//! Regenerates a kernel's initramfs if its modules changed after it was generated.
//!
//! Only the initramfs generator knows which modules belong in it. So the hooks of headers call it whenever modules changed, but
//! not if they are installed before the kernel's own hooks generate the first one. Commands that an administrator types call it
//! if a copy of a changed module is in it, or its configuration names one ([`follow`]).
//!
//! It looks at this machine's devices and file systems to find what the root file system needs. A hardened unit shows it none, and
//! the initramfs would lack what unlocks the disk. So there systemd runs it, outside of the unit.

use std::path::Path;
use std::process::{Command, Stdio};

use kcache::kernel::install::Generation;
use kcache::kernel::kernels::Kernel;
use kcache::kernel::{initramfs, sandbox};
use kcache::run::context::Context;
use kcache::run::session::Session;
use kcache::shell::word;
use kcache::verdict::in_initramfs;

use crate::exit::Exit;
use crate::json::{self, Action};
use crate::out::Out;

/// systemd is running (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
/// Runs a command as a service of its own.
const SYSTEMD_RUN: &str = "/usr/bin/systemd-run";

/// Regenerates the initramfs of a kernel that was changed by hand, if a changed module belongs in it: other modules are of no
/// concern to it. `before` is what was installed before, if that may be gone now. The exit code says whether it failed.
pub fn follow(
    session: &Session,
    out: &Out,
    kernel: &Kernel,
    before: Option<&Generation>,
    changed: bool,
) -> Exit {
    match in_initramfs::is_outdated(session, kernel, before, changed) {
        Ok(false) => Exit::Done,
        Ok(true) if initramfs::command(&session.context.root, &kernel.release).is_none() => {
            out.warn(&format!("{}: initramfs is older than the modules", kernel.release));
            out.hint("regenerate it with the program that made it");
            Exit::Done
        }
        Ok(true) => make_anew(session.context, out, &kernel.release, false),
        Err(error) => {
            out.warn(&format!("{}: initramfs not checked: {}", kernel.release, kcache::error::chain(&error)));
            Exit::Done
        }
    }
}

/// Regenerates the initramfs of a kernel, if it has one already. `in_unit`: this process may be in a hardened unit.
pub fn make_anew(context: &Context, out: &Out, release: &str, in_unit: bool) -> Exit {
    let Some(command) = initramfs::command(&context.root, release) else { return Exit::Done };
    let words: Vec<_> = command.iter().map(|text| word(text)).collect();
    let line = words.join(" ");
    let report = |action, error| {
        if out.json {
            let (kernel, command) = (release.to_owned(), line.clone());
            out.record(&json::Initramfs { r#type: "initramfs", kernel, action, command, error });
        }
    };
    if !context.root.is_host() {
        // The tree's programs are not run with this machine's privileges.
        report(Action::RegenerationRequired, None);
        out.hint(&format!("{release}: initramfs is older than the modules; run `{line}` in that system"));
        return Exit::Done;
    }
    out.print(&format!("{release}: regenerating the initramfs: {line}"));
    let leaves = in_unit && Path::new(BOOTED).is_dir() && Path::new(SYSTEMD_RUN).exists();
    let mut program = called(&if leaves { outside(command) } else { command });
    program.stdout(std::io::stderr());
    let failed = match program.status() {
        Ok(status) if status.success() => {
            report(Action::Regenerate, None);
            return Exit::Done;
        }
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    report(Action::Regenerate, Some(failed.clone()));
    out.warn(&format!(
        "{release}: cannot regenerate the initramfs ({failed}): it lacks kcache's modules, or has old ones"
    ));
    out.hint(&format!("run `{line}`"));
    Exit::NotReady
}

/// The same command outside of the unit of this process, waited for.
fn outside(command: Vec<String>) -> Vec<String> {
    let before = [SYSTEMD_RUN, "--quiet", "--wait", "--collect", "--"].map(str::to_owned);
    before.into_iter().chain(command).collect()
}

/// The call, as at a login of root's: a package manager's variables name descriptors that are its own (debconf), and some
/// have shells run files (`BASH_ENV`).
fn called(command: &[String]) -> Command {
    let mut program = Command::new(&command[0]);
    program.env_clear().env("PATH", sandbox::PATH).env("HOME", "/root").env("LANG", "C");
    program.args(&command[1..]).stdin(Stdio::null());
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_it_gets_nothing_of_the_callers_environment() {
        let output = called(&["/usr/bin/env".to_owned()]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["HOME=/root", "LANG=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
    }
}
