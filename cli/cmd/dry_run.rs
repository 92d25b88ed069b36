//! `--dry-run` of `install`, `build` and `pull`.

use std::collections::BTreeMap;

use kcache::deploy::{self, generation};
use kcache::run::context::Context;
use kcache::run::session::Session;
use kcache::verdict::{self, state::State};

use super::report_oddities;
use super::status::of_version;
use super::task::Task;
use crate::exit::{Exit, Failure};
use crate::json::{self, Action};
use crate::out::{Cell, Out, PLAIN, columns};

/// What `install` or `build` would do: nothing is written, not even a store is made.
pub fn dry_run(context: &Context, out: &Out, task: &Task) -> Result<Exit, Failure> {
    let session = Session::new(context, context.open_existing_store()?)?;
    let packages = super::packages(context, out, &task.which.packages)?;
    let kernels = super::kernels(context, &task.which.kernels, session.store.as_ref())?;
    report_oddities(out, context, &packages, &kernels);
    let mut resigned = BTreeMap::new();
    for kernel in kernels.iter().filter(|_| task.install) {
        deploy::may_install(&session, kernel)?;
        resigned.insert(&kernel.release, generation::signs_anew(&session, kernel)?);
    }
    let survey = verdict::survey(&session, &packages, &kernels)?;
    let mut rows: Vec<Vec<Cell>> = Vec::new();
    for verdict in &survey.verdicts {
        let kernel = verdict.kernel;
        for (package, standing) in survey.packages.iter().zip(&verdict.standings) {
            let is_built = standing.built && !task.rebuild;
            let action = match standing.state {
                State::Ready if resigned.get(&kernel.release) == Some(&true) => Action::Resign,
                State::Ready => Action::Ready,
                State::Excluded => Action::Excluded,
                State::NoHeaders => Action::NoHeaders,
                State::Fails if !task.rebuild => Action::Fail,
                State::Broken if task.install => Action::Repair,
                _ if is_built && task.install => Action::Install,
                _ if is_built => Action::AlreadyBuilt,
                _ if task.fetch_only && !task.install => Action::Fetch,
                _ if task.fetch_only || !package.has_source() => Action::FetchAndInstall,
                _ if context.caches().is_empty() && task.install => Action::BuildAndInstall,
                _ if context.caches().is_empty() => Action::Build,
                _ if task.install => Action::FetchOrBuildAndInstall,
                _ => Action::FetchOrBuild,
            };
            if out.json {
                out.record(&json::Planned {
                    r#type: "plan",
                    kernel: &kernel.release,
                    package: &package.name,
                    version: &standing.version,
                    act: action.act(true),
                    action,
                    reason: Some(standing.reason.as_deref()),
                });
            } else {
                let reason = standing.reason.clone().unwrap_or_default();
                let cells = [
                    kernel.release.clone(),
                    of_version(package, standing).to_string(),
                    action.words(true).to_owned(),
                    reason,
                ];
                rows.push(cells.map(|cell| (cell, PLAIN)).into());
            }
        }
    }
    if !rows.is_empty() {
        out.data(&columns(&rows));
    }
    Ok(Exit::Done)
}
