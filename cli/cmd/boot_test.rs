//! `kcache boot-test`: load modules into their kernel in a VM, and print one line for each.

use std::path::Path;
use std::time::Duration;

use kcache::inputs::version;
use kcache::kernel::boot_test::{KVM, LoadPlan, TestState, TestVerdict};
use kcache::kernel::build::printable;
use kcache::kernel::kernels::Kernel;
use kcache::kernel::packages::Package;
use kcache::resolve::resolution::Resolution;
use kcache::run::context::Context;
use kcache::run::policy::Need;
use kcache::run::request::Options;
use kcache::run::session::Session;
use kcache::shell::word;
use kcache::store::Outcome;
use kcache::verdict::boot_test::{self, Boot, Guest, Subject, TestedModules};

use super::context::program;
use anstyle::Style;

use crate::args::BootTest;
use crate::exit::{Exit, Failure};
use crate::json::{self, Action};
use crate::out::{BAD, Cell, GOOD, ODD, Out, PLAIN, of_packages};
use crate::own_program::own_program;

/// Lines of the kernel's log below a module that is not good; `--json` has all.
const SHOWN: usize = 12;

pub fn run(context: &Context, out: &Out, args: &BootTest, dry: bool) -> Result<Exit, Failure> {
    let store = if dry { context.open_existing_store()? } else { Some(context.open_store()?) };
    let session = Session::new(context, store)?;
    let kernels = super::kernels(context, &args.kernels, session.store.as_ref())?;
    if args.image.is_some() && kernels.len() != 1 {
        return Err(Failure::usage("--image needs exactly one kernel", Some("select it with -k".into())));
    }
    if kernels.is_empty() {
        out.warn(&format!("no kernel is installed under {}", context.root.dir().display()));
    }
    let own = own_program()?;
    let guest = Guest {
        program: &own,
        find: &program,
        qemu: args.qemu.as_deref(),
        image: args.image.as_deref(),
        memory: args.memory,
        limit: Duration::from_secs(args.timeout),
        parameters: &args.params,
        sig_enforce: args.sig_enforce,
        kvm: Path::new(KVM).exists(),
    };
    let (mut exit, mut acceleration) = (Exit::Done, None);
    for kernel in &kernels {
        super::interrupted(context)?;
        let (subjects, lacking) = subjects(&session, out, kernel, &args.packages, dry)?;
        exit = exit.or(lacking);
        if dry {
            say_plan(out, kernel, &subjects, &boot_test::plan(&session, kernel, &subjects, &guest)?);
        } else if subjects.iter().any(|subject| !subject.to_load().is_empty()) {
            let outcome = boot_test::run(&session, kernel, &subjects, &guest)?;
            acceleration = Some(outcome.acceleration.word());
            exit = exit.or(report(out, kernel, &subjects, &outcome.verdicts));
        }
    }
    if out.json && !dry {
        out.record(&json::BootTested { r#type: "summary", exit: exit as u8, acceleration });
    }
    Ok(exit)
}

/// What is to be tested for a kernel. What cannot be had is told at once.
fn subjects(
    session: &Session,
    out: &Out,
    kernel: &Kernel,
    named: &[String],
    dry: bool,
) -> Result<(Vec<Subject>, Exit), Failure> {
    let (mut subjects, words) = boot_test::installed(kernel, named)?;
    if subjects.is_empty() || !words.is_empty() {
        let packages = super::packages(session.context, out, &words)?;
        let options = Options { automatic_only: !packages.named, ..Options::default() };
        let need = |name: &str| session.context.policy.need(name, &kernel.release);
        let wanted = |package: &&Package| packages.named || need(&package.name) != Need::Ignored;
        for package in packages.chosen.iter().filter(wanted) {
            let request = version::request(session, &packages, package, kernel);
            boot_test::add_build(session, &request, &options, dry, &mut subjects);
            super::interrupted(session.context)?;
        }
    }
    if subjects.is_empty() {
        out.warn(&format!("{}: no package to test", kernel.release));
    }
    let exit = subjects.iter().fold(Exit::Done, |exit, subject| exit.or(lacking(out, kernel, subject)));
    Ok((subjects, exit))
}

/// Tells why there is nothing to be loaded of a package, if that is so.
fn lacking(out: &Out, kernel: &Kernel, subject: &Subject) -> Exit {
    let (state, failure) = match &subject.modules {
        TestedModules::Installed(_) | TestedModules::Built(_) | TestedModules::Unbuilt => return Exit::Done,
        TestedModules::None(answer) => no_build(answer, kernel, subject),
        TestedModules::Error(error) => ("untested", Failure::of(error)),
    };
    let mut record = record(kernel, subject, None);
    (record.state, record.error) = (state, Some(failure.message.clone()));
    print(out, std::slice::from_ref(&record));
    let exit = failure.exit;
    if exit != Exit::Done {
        let called = super::called(&subject.package, &subject.version);
        let message = format!("{called} for {}: {}", kernel.release, failure.message);
        out.failure(&Failure { message, ..failure });
    }
    exit
}

/// Why there is no build, and how that is to be called.
fn no_build(answer: &Resolution, kernel: &Kernel, subject: &Subject) -> (&'static str, Failure) {
    let untested = |exit, message, hint| ("untested", Failure { exit, message, hint });
    match answer {
        Resolution::Excluded(reason) => {
            ("excluded", Failure { exit: Exit::Done, message: reason.clone(), hint: None })
        }
        Resolution::Fails { manifest, .. } => {
            let error = match &manifest.outcome {
                Outcome::Failed { first_error, .. } => first_error.clone(),
                Outcome::Built => String::new(),
            };
            let log = format!(
                "run `kcache log {} -k {}` for the whole log",
                word(&subject.package),
                kernel.release
            );
            untested(Exit::BuildFailed, error, Some(log))
        }
        Resolution::NoHeaders(lack) => {
            let message = "no build available, and no headers or source to build from".to_owned();
            untested(Exit::NoHeaders, message, Some(lack.hint.clone()))
        }
        Resolution::Refused(faults) => {
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            untested(Exit::Refused, faults.join("; "), None)
        }
        Resolution::NotCached | Resolution::NotAutomatic | Resolution::Ready { .. } => {
            untested(Exit::NotReady, "no build available".to_owned(), None)
        }
    }
}

/// A line for each module; the exit code that they are worth.
fn report(out: &Out, kernel: &Kernel, subjects: &[Subject], verdicts: &[TestVerdict]) -> Exit {
    let modules =
        subjects.iter().flat_map(|subject| subject.to_load().iter().map(move |module| (subject, module)));
    let (mut exit, mut records) = (Exit::Done, Vec::new());
    for ((subject, module), verdict) in modules.zip(verdicts) {
        let record = json::Module {
            state: verdict.state.word(),
            error: verdict.error.as_deref().map(printable),
            log: verdict.log.iter().map(|line| printable(line)).collect(),
            taints: verdict.taints.clone(),
            unloaded: verdict.unloaded,
            seconds: verdict.seconds,
            ..record(kernel, subject, Some(module.name.clone()))
        };
        if !verdict.state.is_good() {
            exit = Exit::NotReady;
        }
        records.push(record);
    }
    print(out, &records);
    exit
}

fn record(kernel: &Kernel, subject: &Subject, module: Option<String>) -> json::Module {
    json::Module {
        r#type: "module",
        package: subject.package.clone(),
        version: subject.version.clone(),
        module,
        kernel: kernel.release.clone(),
        state: TestState::Untested.word(),
        error: None,
        log: Vec::new(),
        taints: String::new(),
        unloaded: false,
        seconds: 0.0,
    }
}

/// Prints records; below a module that is not good, what the kernel said.
fn print(out: &Out, records: &[json::Module]) {
    if out.json {
        return records.iter().for_each(|record| out.record(record));
    }
    let rows: Vec<Vec<Cell>> = records.iter().map(row).collect();
    for (record, line) in records.iter().zip(of_packages(&rows)) {
        out.data(&line);
        if style(record) != BAD {
            continue;
        }
        record.log.iter().take(SHOWN).for_each(|line| out.data(&format!("    {line}")));
        if record.log.len() > SHOWN {
            out.data(&format!("    ... {} more lines, see --json", record.log.len() - SHOWN));
        }
    }
}

fn style(record: &json::Module) -> Style {
    match record.state {
        "loads" => GOOD,
        "no-device" | "excluded" => ODD,
        _ => BAD,
    }
}

fn row(record: &json::Module) -> Vec<Cell> {
    let plain = |text: String| (text, PLAIN);
    let package = plain(super::called(&record.package, &record.version));
    let module = record.module.clone().map(plain);
    let rest = [(record.state.to_owned(), style(record)), plain(record.error.clone().unwrap_or_default())];
    [plain(record.kernel.clone()), package].into_iter().chain(module).chain(rest).collect()
}

/// What would be booted, and what would be loaded there.
fn say_plan(out: &Out, kernel: &Kernel, subjects: &[Subject], boot: &Boot) {
    let release = &kernel.release;
    out.print(&format!("{release}: would boot {} in {}", boot.image.display(), boot.qemu.display()));
    let mut number = 0;
    for subject in subjects {
        let called = super::called(&subject.package, &subject.version);
        if matches!(subject.modules, TestedModules::Unbuilt) {
            plan_line(out, kernel, subject, None, Action::BuildRequired, &[]);
        }
        for module in subject.to_load() {
            let needs = needs(&boot.plan, number);
            plan_line(out, kernel, subject, Some(&module.name), Action::Load, &needs);
            number += 1;
        }
        out.detail(&format!("{called}: {}", origin(subject)));
    }
}

fn origin(subject: &Subject) -> &'static str {
    match subject.modules {
        TestedModules::Installed(_) => "installed modules",
        TestedModules::Built(_) => "built modules, not installed",
        TestedModules::None(_) | TestedModules::Error(_) => "no modules to load",
        TestedModules::Unbuilt => "neither installed nor built",
    }
}

/// The names of what is loaded before a module that is to be tested.
fn needs(plan: &LoadPlan, number: usize) -> Vec<String> {
    let step = plan.steps.iter().find(|step| step.tested == Some(number));
    let needs = step.map_or(&[][..], |step| &step.needs);
    needs.iter().map(|need| plan.steps[need.step].name.clone()).collect()
}

fn plan_line(
    out: &Out,
    kernel: &Kernel,
    subject: &Subject,
    module: Option<&str>,
    action: Action,
    needs: &[String],
) {
    if out.json {
        return out.record(&serde_json::json!({
            "type": "plan", "kernel": kernel.release, "package": subject.package, "version": subject.version,
            "module": module, "act": action.act(true), "action": action, "needs": needs,
        }));
    }
    let after = if needs.is_empty() { String::new() } else { format!(" after {}", needs.join(", ")) };
    let module = module.map_or(String::new(), |name| format!("  {name}"));
    let called = super::called(&subject.package, &subject.version);
    out.data(&format!("{}  {called}{module}  {}{after}", kernel.release, action.words(true)));
}
