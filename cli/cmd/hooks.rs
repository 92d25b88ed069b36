//! `kcache hooks`: the hooks that package managers call when kernels are installed or removed, and systemd at boot.
//!
//! [`files`] knows the hooks and their state on a system, [`placing`] writes and deletes them, [`event`] is what they call, of which
//! [`retry`] has a file of its own.
//! The hooks themselves are in `cli/hooks/`, one file each.

mod event;
mod files;
mod placing;
mod retry;
mod timer;
mod verdict;

use std::sync::Arc;

use kcache::kernel::rootfs::Root;

use super::context;
use crate::args::{Args, HooksCommand};
use crate::confined::{self, Caller};
use crate::exit::{Exit, Failure};
use crate::out::Out;

pub fn run(args: &Args, command: &HooksCommand, out: &Arc<Out>) -> Result<Exit, Failure> {
    if let HooksCommand::Run { event, release } = command {
        return event::run(&args.global, event, release.as_deref(), out);
    }
    let settings = context::settings(&args.global)?;
    settings.warnings.iter().for_each(|warning| out.warn(warning));
    let caller = Caller::Command { command: &args.command, dry: args.global.dry_run };
    confined::confine(&settings, caller, out);
    let root = Root::new(settings.root.value);
    if !root.dir().is_dir() {
        return Err(Failure::usage(format!("{} is not a directory", root.dir().display()), None));
    }
    let placing = placing::Placing { root, out, dry: args.global.dry_run };
    match command {
        HooksCommand::Install { which, program, vendor, force } => {
            placing.install(&which.families, program.as_deref(), *vendor, *force)
        }
        HooksCommand::Remove { which, force } => placing.remove(&which.families, *force),
        HooksCommand::Status(which) => placing.status(&which.families),
        HooksCommand::Run { .. } => Ok(Exit::Done),
    }
}
