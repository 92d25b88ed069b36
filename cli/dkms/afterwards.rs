//! What DKMS's configuration asks for after modules were installed or removed: `post_transaction`, `modprobe_on_install`
//! (dkms(8), "framework.conf"), and `--modprobe-on-install`.
//!
//! Both run on this machine only, as root, for at most ten minutes, and a failure is a warning. Under `KCACHE_ROOT` nothing is run.

use std::process::{Command, Stdio};

use kcache::kernel::rootfs::put;

use super::args::Action;
use super::place::Place;
use super::print::warn;
use crate::cmd;
use crate::cmd::context;

/// Time limit in seconds, as for packages' scripts.
const LIMIT: &str = "600";

/// Loads the modules that devices ask for, as DKMS does.
const MODPROBE: &str =
    "find /sys/devices -name modalias -print0 | xargs -0 cat | sort -u | xargs -r modprobe -a -b -q
[ ! -f /lib/systemd/system/systemd-modules-load.service ] || systemctl restart systemd-modules-load.service";

/// Runs what is configured after an action that succeeded.
pub fn act(place: &Place, action: Action) {
    if !place.context.root.is_host() || !rustix::process::geteuid().is_root() {
        return;
    }
    let installs = matches!(action, Action::Install | Action::Autoinstall | Action::KernelPostinst);
    let loads = place.typed.modprobe || place.framework.get("modprobe_on_install").is_some();
    if installs && loads && place.releases().contains(&cmd::running()) {
        let mut load = bounded(MODPROBE);
        load.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if !load.status().is_ok_and(|status| status.success()) {
            warn("modprobe_on_install: some modules were not loaded");
        }
    }
    let is_transaction = !matches!(action, Action::KernelPostinst) && (installs || action.removes());
    if let Some(command) = place.framework.get("post_transaction").filter(|_| is_transaction) {
        place.print("Executing post-transaction command...");
        if let Err(why) = post_transaction(place, command) {
            warn(&format!("post_transaction: {why}"));
        }
    }
}

/// Its output is where DKMS has it.
fn post_transaction(place: &Place, command: &str) -> Result<(), String> {
    let release = place.releases().into_iter().next().unwrap_or_default();
    let output = bounded(command).env("kernelver", release).stdin(Stdio::null()).output();
    let output = output.map_err(|e| e.to_string())?;
    let mut log = format!("\nExecuting post-transaction command\n# command: {command}\n").into_bytes();
    log.extend(output.stdout.iter().chain(&output.stderr));
    log.extend(format!("\n# exit code: {}\n", output.status.code().unwrap_or(-1)).bytes());
    put(&place.records.dir().join("post_transaction.log"), &log).map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{command} failed; see {}/post_transaction.log", place.records.dir().display())),
    }
}

fn bounded(script: &str) -> Command {
    let mut command = context::command("timeout");
    command
        .args(["--kill-after=10", LIMIT, "bash", "--norc", "--noprofile", "-c", script])
        .env("HOME", "/root");
    command
}
