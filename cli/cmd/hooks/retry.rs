//! `kcache hooks run retry`: asks shared caches again for what is not ready, and installs it.
//!
//! Every installed kernel is judged first, as `kcache check` does, from what is on disk: if nothing is open, no cache is asked and
//! nothing is printed. With `refresh = true`, caches are asked for newer builds of what was fetched, which are open too. Each kernel
//! with an open package gets what a hook of its own would give it, if its turn has come ([`Attempts`]). Ready files are set in any
//! case, and metrics written if the setting `metrics-textfile` says where.

use kcache::deploy::retry::{self, Attempts};
use kcache::inputs::change::InputChange;
use kcache::run::context::Context;
use kcache::verdict::{self, ready_file};

use super::super::task::Ran;
use super::super::{initramfs, install, judging, look_remotely, metrics};
use super::timer;
use super::verdict::{bootable, of_releases, print};
use crate::exit::{Exit, Failure};
use crate::out::Out;
use crate::settings::Settings;
use crate::settings::choices::Refresh;

pub fn run(context: &Context, settings: &Settings, out: &Out) -> Result<Exit, Failure> {
    let releases = bootable(context)?;
    let tried = if releases.is_empty() { Ok(Exit::Done) } else { again(context, settings, out, &releases) };
    if let Some(path) = &settings.metrics_textfile {
        metrics::write(context, out, &path.value)?;
    }
    tried
}

fn again(context: &Context, settings: &Settings, out: &Out, releases: &[String]) -> Result<Exit, Failure> {
    let refreshes = settings.refresh.value == Refresh::True && !context.caches().is_empty();
    let Judged { open, mut attempts } = judge(context, out, releases, refreshes)?;
    if open.is_empty() {
        attempts.end()?;
        out.detail("nothing to ask for again");
        return Ok(Exit::Done);
    }
    let names: Vec<String> = open.iter().map(|(release, names)| format!("{names} for {release}")).collect();
    let wait = attempts.due_in(context.now());
    if wait > 0 {
        let (names, minutes) = (names.join("; "), wait.div_ceil(60));
        out.detail(&format!("not ready: {names}; asking again in {minutes} min"));
        return Ok(Exit::NotReady);
    }
    drop(context.open_store()?); // the record of attempts is in there
    attempts.begin(context.now())?;
    let (mut exit, mut may_pass) = (Exit::Done, false);
    for (release, names) in &open {
        out.print(&format!("{release}: asking again for {names}"));
        let ran = for_kernel(context, out, release)?;
        exit = exit.or(ran.exit);
        may_pass |= ran.may_pass;
    }
    if exit == Exit::Done {
        attempts.end()?;
    } else if !may_pass {
        attempts.postpone()?;
    }
    Ok(exit)
}

/// What the installed kernels lack.
struct Judged {
    /// Releases with the names of their open packages.
    open: Vec<(String, String)>,
    attempts: Attempts,
}

/// Judges the installed kernels, and sets their ready files.
fn judge(context: &Context, out: &Out, releases: &[String], refreshes: bool) -> Result<Judged, Failure> {
    let (session, packages, kernels) = judging(context, out, &of_releases(releases))?;
    let mut survey = verdict::survey(&session, &packages, &kernels)?;
    if refreshes {
        look_remotely(context, &packages, &mut survey, false)?;
    }
    survey.verdicts.iter().try_for_each(|verdict| ready_file::set(&context.root, verdict))?;
    let open = retry::open(context, &survey).into_iter();
    let open = open.map(|(release, names)| (release.to_owned(), names.join(", "))).collect();
    Ok(Judged { open, attempts: Attempts::of(context, &survey) })
}

/// Installs what can be had for a kernel by now; then its initramfs and its verdict.
fn for_kernel(context: &Context, out: &Out, release: &str) -> Result<Ran, Failure> {
    let ran = install::for_kernel(context, out, release, true)?;
    let own = [release.to_owned()];
    if ran.changed && is_in_initramfs(context, out, &own)? {
        initramfs::make_anew(context, out, release, true);
    }
    if print(context, out, &own)? != Exit::Done {
        out.warn(&format!("do not reboot into {release} (not ready: {})", ran.failed.join(", ")));
        timer::report_what_follows(context, out, release, &ran);
    }
    Ok(ran)
}

/// Whether the initramfs has another build of a module than the one that was installed, or lacks one that belongs there.
fn is_in_initramfs(context: &Context, out: &Out, releases: &[String]) -> Result<bool, Failure> {
    let (session, packages, kernels) = judging(context, out, &of_releases(releases))?;
    let survey = verdict::survey(&session, &packages, &kernels)?;
    let mut standings = survey.verdicts.iter().flat_map(|verdict| &verdict.standings);
    Ok(standings.any(|standing| standing.changed.contains(&InputChange::Initramfs)))
}
