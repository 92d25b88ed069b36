//! What kcache is doing when it is tortured.

use std::collections::BTreeSet;
use std::io;
use std::process::Command;

use crate::calls::Call;
use crate::check::{Findings, State, look};
use crate::dkms;
use crate::room::{COPIED, DAMAGED, PACKAGE, Room};
use crate::tracer::{Act, run};

/// One command on one state.
pub struct Scenario {
    pub name: String,
    /// The state of the room that it begins with.
    pub before: String,
    /// The text of the package's source meanwhile.
    text: &'static str,
    pub words: Vec<String>,
    /// What is run where a run that was cut off had come to the end: the same, unless that would do it once more.
    pub again: Vec<String>,
    /// What that may end with too: there is nothing to remove any more.
    pub again_code: i32,
    pub old: State,
    pub new: State,
    /// What is damaged in the state it begins with, and to be put right.
    damaged: BTreeSet<String>,
    /// How many calls a run makes that is left alone.
    pub calls: usize,
    program: Program,
}

/// Who is tortured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Kcache,
    Dkms,
}

impl Scenario {
    /// Runs the command once, unharmed, to see what it makes of the state.
    fn of(room: &Room, name: &str, before: &str, text: &'static str, words: &[&str]) -> io::Result<Scenario> {
        Scenario::with(Program::Kcache, room, name, before, text, words)
    }

    /// The same with dkms.
    pub fn of_dkms(room: &Room, name: &str, before: &str, words: &[&str]) -> io::Result<Scenario> {
        Scenario::with(Program::Dkms, room, name, before, "first", words)
    }

    fn with(
        program: Program,
        room: &Room,
        name: &str,
        before: &str,
        text: &'static str,
        words: &[&str],
    ) -> io::Result<Scenario> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let again = match name {
            "rollback" => ["install", PACKAGE, "-k", &room.places.release].map(str::to_owned).to_vec(),
            _ => words.clone(),
        };
        let again_code = if name == "remove" { 2 } else { 0 };
        let mut scenario = Scenario {
            name: name.into(),
            before: before.into(),
            text,
            words,
            again,
            again_code,
            old: State::default(),
            new: State::default(),
            damaged: BTreeSet::new(),
            calls: 0,
            program,
        };
        scenario.prepare(room)?;
        let found = look(&room.places);
        scenario.old = if before == DAMAGED {
            scenario.damaged = found.faults.iter().map(|fault| subject(fault).to_owned()).collect();
            found.state
        } else {
            sound(found, name)?
        };
        let ended = run(&scenario.command(room, &scenario.words), &room.watched(), |_, _| Act::Go)?;
        if ended.code != Some(0) {
            return Err(io::Error::other(format!("{name}: {ended:?}")));
        }
        scenario.calls = ended.calls;
        scenario.new = sound(look(&room.places), name)?;
        Ok(scenario)
    }

    /// What is wrong that was not wrong before.
    pub fn new_faults(&self, found: &Findings) -> Vec<String> {
        let known = |fault: &&String| self.damaged.contains(subject(fault));
        found.faults.iter().filter(|fault| !known(fault)).cloned().collect()
    }

    pub fn command(&self, room: &Room, words: &[String]) -> Command {
        match self.program {
            Program::Kcache => room.kcache(words),
            Program::Dkms => dkms::command(words),
        }
    }

    /// Brings back what the command begins with.
    pub fn prepare(&self, room: &Room) -> io::Result<()> {
        room.restore(&self.before)?;
        self.write(room)
    }

    /// The part of it that is not in a state: the package's source.
    pub fn write(&self, room: &Room) -> io::Result<()> {
        room.write(self.text)
    }
}

/// The file that a fault is about.
fn subject(fault: &str) -> &str {
    fault.split(": ").next().unwrap_or_default()
}

fn sound(found: Findings, name: &str) -> io::Result<State> {
    if found.faults.is_empty() {
        return Ok(found.state);
    }
    Err(io::Error::other(format!("{name}, left alone: {:?}", found.faults)))
}

/// All of them.
pub fn all(room: &Room) -> io::Result<Vec<Scenario>> {
    let k = room.places.release.as_str();
    let (url, export) = (room.cache_url(), room.places.export.display().to_string());
    let scenarios = [
        ("install", "first", "second", vec!["install", PACKAGE, "-k", k]),
        ("install, depmod", "first", "second", vec!["--depmod", "always", "install", PACKAGE, "-k", k]),
        ("first install", "built", "first", vec!["install", PACKAGE, "-k", k]),
        ("remove", "first", "first", vec!["remove", PACKAGE, "-k", k]),
        ("rollback", "second", "first", vec!["rollback", "-k", k]),
        ("build", "first", "first", vec!["build", COPIED, "-k", k]),
        ("first build", "bare", "first", vec!["build", COPIED, "-k", k]),
        ("push", "first", "first", vec!["push", "--to", &url, PACKAGE, "-k", k]),
        ("pull", "received", "first", vec!["--cache", &url, "pull", PACKAGE, "-k", k]),
        ("export", "first", "first", vec!["export", &export, PACKAGE, "-k", k]),
        ("import", "received", "first", vec!["import", &export]),
        ("upgrade", "version 1", "first", vec!["build", PACKAGE, "-k", k]),
        ("gc", "built", "first", vec!["gc", "--max-size", "0", "--grace", "0s"]),
        ("verify", DAMAGED, "first", vec!["--cache", &url, "verify", "--repair"]),
    ];
    scenarios
        .iter()
        .map(|(name, before, text, words)| Scenario::of(room, name, before, text, words))
        .collect()
}

/// A call of an install that begins a stage of the protocol, and what the stage is called.
const STAGES: &[(&str, &str, &str)] = &[
    ("staging", "mkdir", "/new"),
    ("depmod", "openat", "/modules.dep"),
    ("journal", "rename", "/journal.json"),
    ("placing", "fsync", "/new"),
    ("indexes", "rename", "/modules.alias.bin"),
    ("commit", "rename", "/modules.dep.bin"),
    ("retiring", "rename", "/old/kcache-"),
    ("closing", "unlink", "/journal.json"),
];

/// The recovery of an install that was killed at each stage: states made by killing, and installs on them.
pub fn recoveries(room: &Room, of: &Scenario) -> io::Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for (stage, name, path) in STAGES {
        of.prepare(room)?;
        let begins = |call: &Call| call.name == *name && call.path.to_string_lossy().contains(path);
        let kill = |_, call: &Call| if begins(call) { Act::KillAfter } else { Act::Go };
        let ended = run(&of.command(room, &of.words), &room.watched(), kill)?;
        if ended.code.is_some() {
            return Err(io::Error::other(format!("an install makes no call {name} {path}")));
        }
        let before = format!("killed at {stage}");
        room.save(&before)?;
        let words: Vec<&str> = of.words.iter().map(String::as_str).collect();
        let mut scenario = Scenario::of(room, &format!("recovery at {stage}"), &before, of.text, &words)?;
        // Whichever it was that the first kill left, going back and forward both are right.
        scenario.old = of.old.clone();
        scenarios.push(scenario);
    }
    Ok(scenarios)
}
