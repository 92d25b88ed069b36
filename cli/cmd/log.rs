//! `kcache log`: the log of a build, failed or not.

use std::io::IsTerminal;

use kcache::ensure::Wish;
use kcache::kernel::build::printable;
use kcache::log;
use kcache::store::Outcome;
use kcache::world::World;

use crate::args::{Kernels, One, Selection};
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::Out;

use super::looking;

/// One package for one kernel, as a selection.
pub fn selection(one: &One) -> Selection {
    Selection { packages: vec![one.package.clone()], kernels: Kernels { kernels: vec![one.kernel.clone()] } }
}

pub fn run(world: &World, out: &Out, one: &One) -> Result<Exit, Failure> {
    let (session, packages, kernels) = looking(world, out, &selection(one))?;
    for kernel in &kernels {
        for package in &packages.chosen {
            let (manifest, log) = log::last(&session, &Wish { package, kernel, all: &packages.all })?;
            if !out.json {
                show(out, &log);
                continue;
            }
            out.record(&json::Log {
                package: package.name.clone(),
                kernel: kernel.release.clone(),
                key: manifest.key.to_string(),
                result: if manifest.outcome == Outcome::Built { "built" } else { "failed" },
                log: String::from_utf8_lossy(&log).into_owned(),
            });
        }
    }
    Ok(Exit::Done)
}

/// To a file or pipe as it is; to a terminal without what would steer it.
fn show(out: &Out, log: &[u8]) {
    if std::io::stdout().is_terminal() {
        String::from_utf8_lossy(log).lines().for_each(|line| out.data(&printable(line)));
    } else {
        out.raw(log);
    }
}
