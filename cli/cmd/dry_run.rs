//! `--dry-run` of `install`, `build` and `pull`.

use std::collections::BTreeMap;

use kcache::deploy::{self, generation};
use kcache::run::context::Context;
use kcache::run::session::Session;
use kcache::verdict::{self, state::State};

use super::say_oddities;
use super::task::Task;
use crate::exit::{Exit, Failure};
use crate::out::Out;
/// What `install` or `build` would do: nothing is written, not even a store is made.
pub fn dry_run(context: &Context, out: &Out, task: &Task) -> Result<Exit, Failure> {
    let session = Session::new(context, context.open_existing_store()?)?;
    let packages = super::packages(context, out, &task.which.packages)?;
    let kernels = super::kernels(context, &task.which.kernels, session.store.as_ref())?;
    say_oddities(out, context, &packages, &kernels);
    let mut resigned = BTreeMap::new();
    for kernel in kernels.iter().filter(|_| task.install) {
        deploy::may_install(&session, kernel)?;
        resigned.insert(&kernel.release, generation::signs_anew(&session, kernel)?);
    }
    let survey = verdict::survey(&session, &packages, &kernels)?;
    for verdict in &survey.verdicts {
        let kernel = verdict.kernel;
        for (package, standing) in survey.packages.iter().zip(&verdict.standings) {
            let is_built = standing.built && !task.rebuild;
            let state = match standing.state {
                State::Ready if resigned.get(&kernel.release) == Some(&true) => "would sign anew",
                State::Ready | State::Excluded | State::NoHeaders => standing.state.word(),
                State::Fails if !task.rebuild => "would fail",
                State::Broken if task.install => "would repair",
                _ if is_built && task.install => "would install",
                _ if is_built => "is built",
                _ if task.fetch_only && !task.install => "would fetch",
                _ if task.fetch_only || !package.has_source() => "would fetch and install",
                _ if context.caches.is_empty() && task.install => "would build and install",
                _ if context.caches.is_empty() => "would build",
                _ if task.install => "would fetch or build, and install",
                _ => "would fetch or build",
            };
            if out.json {
                out.record(&serde_json::json!({
                    "type": "plan", "kernel": kernel.release, "package": package.name, "version": package.version,
                    "act": state, "reason": standing.reason.clone(),
                }));
            } else {
                let reason = standing.reason.as_ref().map_or(String::new(), |reason| format!("  {reason}"));
                out.data(&format!("{}  {package}  {state}{reason}", kernel.release));
            }
        }
    }
    Ok(Exit::Done)
}
