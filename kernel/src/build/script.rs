//! The bash script of a build, made from a recipe's steps.

use crate::recipe::{Modules, Recipe, RecipeModule, Step, StepKind, dkms};
use crate::sandbox::MachineNames;

/// Shell functions that the steps call.
const STEPS: &str = include_str!("steps.bash");

/// The script of a build. Results for other packages are copied before the package's own post-build script runs,
/// because some clean up. Of attempts, the first that makes a module is the last that runs.
pub(super) fn script(machine: &MachineNames, recipe: &Recipe) -> String {
    let mut script = dkms::variables(&recipe.name, &recipe.version, &machine.release, &machine.arch);
    script.push_str(STEPS);
    let last = recipe.steps.iter().rposition(|step| matches!(step.kind, StepKind::Make | StepKind::Attempt));
    let is_attempt = |step: &Step| step.kind == StepKind::Attempt;
    let before = recipe.steps.iter().position(is_attempt);
    for (at, step) in recipe.steps.iter().enumerate() {
        let function = match step.kind {
            StepKind::Patch => "apply",
            StepKind::Hook => "hook",
            // Each attempt runs it.
            StepKind::Clean if before.is_some_and(|first| at < first) => continue,
            StepKind::Clean => "clean",
            StepKind::Make => "run",
            StepKind::Attempt => {
                let cleaning = recipe.steps[..at].iter().filter(|step| step.kind == StepKind::Clean);
                let cleaning: String =
                    cleaning.map(|step| format!("clean {}; ", quote(&step.command))).collect();
                script.push_str(&format!("if fresh; then {cleaning}attempt {}; fi\n", quote(&step.command)));
                if Some(at) == last {
                    script.push_str(&format!(
                        "attempted\n{}keep_symvers_below\n",
                        strip_lines(&recipe.modules)
                    ));
                }
                continue;
            }
        };
        script.push_str(&format!("{function} {}\n", quote(&step.command)));
        if step.kind == StepKind::Make {
            script.push_str(&strip_lines(&recipe.modules));
        }
        if Some(at) == last {
            script.push_str(&keep_lines(&recipe.modules));
        }
    }
    script
}

fn strip_lines(modules: &Modules) -> String {
    let strip = |module: &RecipeModule| format!("strip_one {} {}\n", built(module), installed(module));
    match modules {
        Modules::Found => "strip_all\n".to_owned(),
        Modules::Listed(modules) => modules.iter().filter(|module| module.strip).map(strip).collect(),
    }
}

fn keep_lines(modules: &Modules) -> String {
    let keep = |module: &RecipeModule| format!("keep {} {}\n", built(module), installed(module));
    let listed = match modules {
        Modules::Found => String::new(),
        Modules::Listed(modules) => modules.iter().map(keep).collect(),
    };
    format!("keep_symvers\n{listed}")
}

fn built(module: &RecipeModule) -> String {
    quote(&format!("{}.ko", module.built))
}

fn installed(module: &RecipeModule) -> String {
    quote(&format!("{}.ko", module.name))
}

fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
