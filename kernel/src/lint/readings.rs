//! The makefiles that a recipe's commands read, and how: by make for some goals, or by Kbuild.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::calls::{self, Call, Place};
use crate::makefile::{self, Given, Line, Makefile, What};
use crate::recipe::objects::{self, Objects};
use crate::recipe::{Recipe, Step, StepKind, build_dir};

/// Limit on makefiles that are followed; real packages have a dozen.
const MOST: usize = 200;

/// All makefiles that the commands read.
#[derive(Default)]
pub struct Readings {
    /// The makefiles, each once for every way in which it is read.
    pub makefiles: Vec<Reading>,
    /// The modules that Kbuild builds in each module directory.
    pub objects: Vec<Objects>,
}

/// A makefile, as read by one call.
pub struct Reading {
    /// Path relative to the source's top.
    pub file: PathBuf,
    /// Directory of the makefile, relative to the source's top.
    pub dir: String,
    /// Path of the source's top during a build.
    pub build: String,
    /// The parsed text.
    pub makefile: Makefile,
    /// The goals; `None` for Kbuild, which runs none of its commands.
    pub goals: Option<Vec<String>>,
    given: Given,
}

/// Follows the recipes' commands from makefile to makefile.
pub fn read(top: &Path, recipes: &[&Recipe]) -> io::Result<Readings> {
    let mut readings = Readings::default();
    let mut seen = BTreeSet::new();
    for recipe in recipes {
        let build = build_dir(&recipe.name, &recipe.version).display().to_string();
        let mut open: Vec<Call> = building(recipe)
            .flat_map(|step| calls::calls(&step.command, "", &build, &Given::default()))
            .collect();
        while let Some(call) = open.pop() {
            if seen.len() < MOST && seen.insert(format!("{build} {call:?}")) {
                let from = readings.makefiles.len();
                follow(top, &build, call, &mut readings)?;
                open.extend(readings.makefiles[from..].iter().flat_map(Reading::calls));
            }
        }
    }
    Ok(readings)
}

/// The commands that build. Of attempts, the first is the one that is meant to; Kbuild's own runs nothing of the tree.
fn building(recipe: &Recipe) -> impl Iterator<Item = &Step> {
    let mut first = true;
    recipe.steps.iter().filter(move |step| match step.kind {
        StepKind::Make => true,
        StepKind::Attempt => std::mem::take(&mut first) || step.command.starts_with("make -C /lib/modules/"),
        _ => false,
    })
}

fn follow(top: &Path, build: &str, call: Call, readings: &mut Readings) -> io::Result<()> {
    let reading = |file: PathBuf, dir: &str, given: &Given, goals| -> io::Result<Reading> {
        let makefile = makefile::read(&super::read(top, &file)?, given);
        Ok(Reading {
            file,
            dir: dir.to_owned(),
            build: build.to_owned(),
            makefile,
            goals,
            given: given.clone(),
        })
    };
    if let Some(Place::Inside(dir)) = &call.module {
        let given = call.given.clone().kbuild();
        let objects = objects::read(top, dir, &given)?;
        for file in &objects.files {
            let dir = file.parent().map_or(String::new(), |dir| dir.display().to_string());
            readings.makefiles.push(reading(file.clone(), &dir, &given, None)?);
        }
        readings.objects.push(objects);
    } else if let (Place::Inside(dir), None) = (&call.place, &call.module) {
        let names = ["GNUmakefile", "makefile", "Makefile"].map(|name| Path::new(dir).join(name));
        if let Some(file) = names.into_iter().find(|file| top.join(file).is_file()) {
            readings.makefiles.push(reading(file, dir, &call.given, Some(call.goals))?);
        }
    }
    Ok(())
}

impl Reading {
    /// Calls of make among the reached commands.
    pub fn calls(&self) -> Vec<Call> {
        self.commands()
            .flat_map(|(_, text)| calls::calls(&text, &self.dir, &self.build, &self.given))
            .collect()
    }

    /// The reached commands, as the shell receives them.
    pub fn commands(&self) -> impl Iterator<Item = (&Line, String)> {
        self.live().into_iter().filter_map(|line| match &line.what {
            What::Command { text, .. } => {
                Some((line, self.as_shell(text.trim_start_matches(['@', '-', '+']))))
            }
            _ => None,
        })
    }

    /// A text of this makefile as the shell receives it.
    pub fn as_shell(&self, text: &str) -> String {
        calls::as_shell(&self.makefile, text, &self.dir, &self.build)
    }

    /// The lines with an effect: reached commands, Kbuild's variables, and the variables that these refer to.
    pub fn live(&self) -> Vec<&Line> {
        let reached = self.goals.as_ref().map(|goals| {
            let default = || self.makefile.default_goal().map(str::to_owned).into_iter().collect();
            self.makefile.reached(&if goals.is_empty() { default() } else { goals.clone() })
        });
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        let mut live: Vec<bool> = vec![false; self.makefile.lines.len()];
        loop {
            let mut grown = false;
            for (line, live) in self.makefile.lines.iter().zip(&mut live) {
                let text = match &line.what {
                    _ if *live => continue,
                    What::Command { targets, text } if is_reached(targets, reached.as_ref()) => text,
                    What::Assignment { name, value, .. } if reached.is_none() && is_kbuilds(name) => value,
                    What::Assignment { name, value, .. } if wanted.contains(name) => value,
                    What::Other(text) if !asks_whether_set(text) => text,
                    _ => continue,
                };
                (*live, grown) = (true, true);
                wanted.extend(Makefile::references(text).map(str::to_owned));
            }
            if !grown {
                break;
            }
        }
        self.makefile.lines.iter().zip(live).filter(|(_, live)| *live).map(|(line, _)| line).collect()
    }
}

fn is_reached(targets: &[String], reached: Option<&BTreeSet<String>>) -> bool {
    reached.is_some_and(|reached| targets.iter().any(|target| reached.contains(target)))
}

/// Whether a condition only tests if a variable is set, so that its value does not matter.
fn asks_whether_set(condition: &str) -> bool {
    let is_test = ["ifdef", "ifndef"].iter().any(|word| condition.starts_with(word));
    is_test || condition.starts_with("if") && (condition.ends_with(",)") || condition.contains("(,"))
}

/// Whether Kbuild uses a variable (Documentation/kbuild/makefiles.rst).
fn is_kbuilds(name: &str) -> bool {
    let begins =
        ["obj-", "ccflags-", "asflags-", "ldflags-", "subdir-", "EXTRA_", "CFLAGS_", "AFLAGS_", "KBUILD_"];
    begins.iter().any(|begin| name.starts_with(begin)) || name.ends_with("-y") || name.ends_with("-objs")
}
