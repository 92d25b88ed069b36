//! `kcache log`: show the log of a build, whether it failed or not.

use kcache::inputs::version;
use kcache::resolve::log;
use kcache::run::context::Context;
use kcache::store::Outcome;

use super::looking;
use crate::args::{Kernels, One, Selection};
use crate::exit::{Exit, Failure};
use crate::json;
use crate::out::Out;

/// One package for one kernel, as a selection.
pub fn selection(one: &One) -> Selection {
    Selection { packages: vec![one.package.clone()], kernels: Kernels { kernels: vec![one.kernel.clone()] } }
}

pub fn run(context: &Context, out: &Out, one: &One) -> Result<Exit, Failure> {
    let (session, packages, kernels) = looking(context, out, &selection(one))?;
    for kernel in &kernels {
        for package in &packages.chosen {
            let (manifest, log) =
                log::last(&session, &version::request(&session, &packages, package, kernel))?;
            if !out.json {
                out.raw(&log);
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
