//! Newer builds in shared caches than the installed ones, on hosts that fetch.
//!
//! Without headers or source there are no inputs that could have changed: an installed build stays `ready` for ever. But a builder may
//! have built a fixed package for the same kernel since, and points to it. Only pointers and entries are fetched, no modules; the
//! accepted pointers are stored, as when they are followed. A cache that does not answer changes no verdict.

use kcache_kernel::kernels::Kernel;
use kcache_kernel::packages::Package;
use kcache_kernel::parallel::each;
use kcache_store::Manifest;

use crate::error::{Result, chain};
use crate::inputs::version;
use crate::resolve::by_pointer;
use crate::run::labels::Labels;
use crate::run::select::Packages;
use crate::run::session::Session;
use crate::verdict::Survey;
use crate::verdict::state::{Standing, State};

/// Marks the packages of a survey as outdated for which a builder points to a newer build.
pub fn look(session: &Session, packages: &Packages, survey: &mut Survey) {
    let fetches = |kernel: &Kernel, package: &Package| kernel.build_tree().is_none() || !package.has_source();
    let mut jobs = Vec::new();
    for (row, verdict) in survey.verdicts.iter().enumerate() {
        for (at, package) in survey.packages.iter().enumerate() {
            let is_ready = verdict.standings[at].state == State::Ready;
            if is_ready && fetches(verdict.kernel, package) {
                jobs.push((row, at, package, verdict.kernel));
            }
        }
    }
    let found = each(&jobs, session.context.jobs, |(_, _, package, kernel)| {
        newer(session, packages, package, kernel).unwrap_or_else(|error| {
            let progress = session.context.progress();
            progress.warn(&format!("{package} for {}: {}", kernel.release, chain(&error)));
            None
        })
    });
    let found: Vec<(usize, usize, String)> =
        jobs.iter().zip(found).filter_map(|((row, at, _, _), reason)| Some((*row, *at, reason?))).collect();
    for (row, at, reason) in found {
        let standing = &mut survey.verdicts[row].standings[at];
        *standing = Standing { state: State::Outdated, reason: Some(reason), ..standing.clone() };
    }
}

/// What a newer build is, in words; `None` if there is none.
fn newer(
    session: &Session,
    packages: &Packages,
    package: &Package,
    kernel: &Kernel,
) -> Result<Option<String>> {
    let Some(generation) = session.installed(kernel) else { return Ok(None) };
    let set = generation.wanted();
    let Some(installed) = set.packages.iter().find(|installed| installed.name == package.name) else {
        return Ok(None);
    };
    let request = version::request(session, packages, package, kernel);
    let newer = by_pointer::newer(session, &request, &installed.key, &installed.modules)?;
    Ok(newer.map(|newer| difference_of(&newer, &installed.version, &kernel.release)))
}

fn difference_of(newer: &Manifest, installed: &str, release: &str) -> String {
    let version = Labels::of(newer).version;
    let what = match version == installed {
        true => format!("a shared cache has a newer build of {version}"),
        false => format!("a shared cache has {version}, and {installed} is installed"),
    };
    format!("{what}; `kcache install -k {release}` installs it")
}
