//! `kcache metrics`: Prometheus metrics of the verdict and the store. docs/metrics.md describes each.

use std::collections::BTreeMap;
use std::path::Path;

use kcache::kernel::install;
use kcache::run::context::Context;
use kcache::run::policy::Need;
use kcache::run::session::Session;
use kcache::run::{counters, select};
use kcache::store::Usage;
use kcache::verdict::provenance::{self, Origin};
use kcache::verdict::state::State;
use kcache::verdict::{self, Survey, Verdict};

use super::judging;
use crate::args::{Kernels, Metrics, Selection};
use crate::exit::{Exit, Failure};
use crate::exposition::{Exposition, Kind, Sample, sample};
use crate::file;
use crate::out::Out;

pub fn run(context: &Context, out: &Out, args: &Metrics, dry: bool) -> Result<Exit, Failure> {
    if out.json {
        let hint = "use `kcache status --json`";
        return Err(Failure::usage("metrics has no JSON output", Some(hint.into())));
    }
    if let Some(path) = &args.textfile {
        must_be_collected(path)?;
    }
    let text = collect(context, out)?;
    match &args.textfile {
        None => out.raw(text.text().as_bytes()),
        Some(path) if dry => out.print(&format!("would write {}", path.display())),
        Some(path) => file::write(path, |to| to.write_all(text.text().as_bytes()))?,
    }
    Ok(Exit::Done)
}

/// Writes them to a file for node_exporter, as `--textfile` does.
pub fn write(context: &Context, out: &Out, path: &Path) -> Result<(), Failure> {
    must_be_collected(path)?;
    let text = collect(context, out)?;
    file::write(path, |to| to.write_all(text.text().as_bytes()))
}

fn collect(context: &Context, out: &Out) -> Result<Exposition, Failure> {
    let everything = Selection { packages: Vec::new(), kernels: Kernels { kernels: Vec::new() } };
    let (session, packages, kernels) = judging(context, out, &everything)?;
    let survey = verdict::survey(&session, &packages, &kernels)?;
    let mut text = Exposition::default();
    about_verdicts(&mut text, context, &survey, packages.broken.len());
    about_installed(&mut text, &session, &survey)?;
    about_store(&mut text, &session)?;
    Ok(text)
}

/// node_exporter passes over files of other names, in silence.
fn must_be_collected(path: &Path) -> Result<(), Failure> {
    match path.extension().is_some_and(|extension| extension == "prom") {
        true => Ok(()),
        false => Err(Failure::usage(
            format!("{} does not end in .prom", path.display()),
            Some(
                "use another name: node_exporter's textfile collector reads only files that end in .prom"
                    .into(),
            ),
        )),
    }
}

fn about_verdicts(text: &mut Exposition, context: &Context, survey: &Survey, broken: usize) {
    let ready = |verdict: &Verdict| verdict.ready && broken == 0;
    let of_kernel = |value: &dyn Fn(&Verdict) -> f64| -> Vec<Sample> {
        let of = |verdict| sample(value(verdict)).with("kernel", &verdict.kernel.release);
        survey.verdicts.iter().map(of).collect()
    };
    // What cannot be told has no value; what will be booted and is not there is not ready.
    let default =
        select::default_kernel(&context.root, context.default_kernel.as_deref()).ok().map(|release| {
            let verdict = survey.verdicts.iter().find(|verdict| verdict.kernel.release == release);
            sample(verdict.is_some_and(ready)).with("kernel", &release)
        });
    let foreign = |verdict: &Verdict| verdict.foreign.len() as f64;
    let of_no_use =
        |verdict: &Verdict| verdict.foreign.iter().filter(|foreign| foreign.fault.is_some()).count() as f64;
    let version = sample(1).with("version", env!("CARGO_PKG_VERSION"));
    text.family("kcache_build_info", Kind::Gauge, "Always 1; version of kcache.", [version]);
    gauge(
        text,
        "kcache_verdict_timestamp_seconds",
        "When the metrics were collected, in seconds since 1970.",
        [sample(context.now() as f64)],
    );
    gauge(
        text,
        "kcache_ready",
        "1 if `kcache check` would report the kernel as ready.",
        of_kernel(&|verdict| f64::from(ready(verdict))),
    );
    gauge(
        text,
        "kcache_default_kernel_ready",
        "The same for the kernel that the boot loader starts.",
        default,
    );
    gauge(text, "kcache_unreadable_packages", "Packages that cannot be read.", [sample(broken as f64)]);
    gauge(
        text,
        "kcache_package_state",
        "1 for the state that the package has for the kernel, 0 for the others.",
        states(survey),
    );
    gauge(text, "kcache_package_required", "1 if the package is required.", required(survey));
    gauge(text, "kcache_foreign_modules", "Foreign modules in the kernel's tree.", of_kernel(&foreign));
    gauge(
        text,
        "kcache_foreign_broken",
        "Foreign modules that the kernel would not load.",
        of_kernel(&of_no_use),
    );
}

fn states(survey: &Survey) -> Vec<Sample> {
    let mut samples = Vec::new();
    for verdict in &survey.verdicts {
        for (package, standing) in survey.packages.iter().zip(&verdict.standings) {
            samples.extend(State::ALL.map(|state| {
                sample(state == standing.state)
                    .with("kernel", &verdict.kernel.release)
                    .with("package", &package.name)
                    .with("state", state.word())
            }));
        }
    }
    samples
}

fn required(survey: &Survey) -> Vec<Sample> {
    let mut samples = Vec::new();
    for verdict in &survey.verdicts {
        samples.extend(survey.packages.iter().zip(&verdict.standings).map(|(package, standing)| {
            sample(standing.need == Need::Required)
                .with("kernel", &verdict.kernel.release)
                .with("package", &package.name)
        }));
    }
    samples
}

fn about_installed(text: &mut Exposition, session: &Session, survey: &Survey) -> Result<(), Failure> {
    let (mut interrupted, mut modules, mut bytes, mut seconds) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for kernel in survey.verdicts.iter().map(|verdict| verdict.kernel) {
        let of_kernel = |value: f64| sample(value).with("kernel", &kernel.release);
        let Some(tree) = &kernel.modules else { continue };
        interrupted
            .push(of_kernel(f64::from(install::interrupted(tree).map_err(kcache::error::Error::from)?)));
        let origins = provenance::of_kernel(session, kernel)?;
        modules.push(of_kernel(origins.iter().map(|origin| origin.modules).sum::<u64>() as f64));
        bytes.push(of_kernel(origins.iter().map(|origin| origin.bytes).sum::<u64>() as f64));
        let took = |origin: &Origin| {
            Some(of_kernel(origin.made.as_ref()?.seconds?).with("package", &origin.package))
        };
        seconds.extend(origins.iter().filter_map(took));
    }
    gauge(
        text,
        "kcache_install_interrupted",
        "1 if an installation was interrupted and not yet completed or undone.",
        interrupted,
    );
    gauge(text, "kcache_installed_modules", "Modules that kcache has installed for the kernel.", modules);
    gauge(text, "kcache_installed_bytes", "Size of their files.", bytes);
    gauge(text, "kcache_build_seconds", "Build time of the installed build, wherever it was built.", seconds);
    Ok(())
}

fn about_store(text: &mut Exposition, session: &Session) -> Result<(), Failure> {
    let (mut counts, mut usage) = (BTreeMap::new(), Usage::default());
    if let Some(store) = &session.store {
        (counts, usage) = (store.counts()?, store.usage()?);
    }
    let count = |name: &str| sample(counts.get(name).copied().unwrap_or(0) as f64);
    let seconds = |name: &str| sample(counts.get(name).copied().unwrap_or(0) as f64 / 1000.0);
    let hits = [
        count(counters::HITS_STORE).with("cache", "store"),
        count(counters::HITS_SHARED).with("cache", "shared"),
    ];
    let builds =
        [count(counters::BUILT).with("result", "built"), count(counters::FAILED).with("result", "failed")];
    let mut counter = |name, help, samples: &[Sample]| {
        text.family(name, Kind::Counter, help, samples.iter().cloned());
    };
    counter("kcache_hits_total", "Look-ups answered by a build or a remembered failure.", &hits);
    counter("kcache_misses_total", "Look-ups that no cache could answer.", &[count(counters::MISSES)]);
    counter("kcache_builds_total", "Builds on this host.", &builds);
    counter(
        "kcache_compile_seconds_total",
        "Compile time of builds on this host.",
        &[seconds(counters::COMPILED)],
    );
    counter(
        "kcache_saved_seconds_total",
        "Compile time of installed builds that were compiled elsewhere or in an earlier run.",
        &[seconds(counters::SPARED)],
    );
    gauge(text, "kcache_store_entries", "Entries in the store.", [sample(usage.entries as f64)]);
    gauge(text, "kcache_store_objects", "Objects in the store.", [sample(usage.objects as f64)]);
    gauge(text, "kcache_store_bytes", "Compressed size of both.", [sample(usage.bytes as f64)]);
    Ok(())
}

fn gauge(text: &mut Exposition, name: &str, help: &str, samples: impl IntoIterator<Item = Sample>) {
    text.family(name, Kind::Gauge, help, samples);
}
