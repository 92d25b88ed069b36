//! Which sweeps are made of which scenarios, and how many of each: whole, or a sample.

use std::error::Error;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use crate::dkms;
use crate::power::{Disk, FILE_SYSTEMS, VARIANTS};
use crate::room::Room;
use crate::scenario::{self, Scenario};
use crate::space::{self, LACKS};
use crate::sweep::{Pick, errors, kills};
use crate::tally::{Tally, say};
use crate::tracer::Act;

const SUITES: [&str; 5] = ["kill", "recovery", "errors", "power", "space"];
/// The scenarios in which each call fails with each error it may give, one run each; in others another error from call to
/// call: they share most of their calls.
const EACH_ERROR: [&str; 2] = ["install", "remove"];

/// What was asked for.
#[derive(Default)]
struct Options {
    kcache: PathBuf,
    fixtures: PathBuf,
    suites: Vec<String>,
    scenarios: Vec<String>,
    every: Option<usize>,
    seconds: Option<u64>,
    seed: Option<u64>,
}

/// Runs what the words ask for and prints the table; whether nothing was wrong.
pub fn run(words: &[&str]) -> Result<bool, Box<dyn Error>> {
    let options = parse(words)?;
    let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |now| now.as_nanos() as u64);
    let mut dice = Dice(options.seed.unwrap_or_else(clock));
    say(&format!("seed {}", dice.0));
    let dir = tempfile::Builder::new().prefix("kcache-torture-").tempdir()?;
    fs_err::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    let mut room = Room::make(dir.path(), &options.fixtures, &options.kcache)?;
    let mut tally = Tally::default();
    if options.suites == ["dkms"] {
        of_dkms(&mut room, &options, &mut dice, &mut tally)?;
        tally.print()?;
        // What is found is to be told, and fails nobody.
        return Ok(true);
    }
    match options.seconds {
        Some(seconds) => sample(&room, &options, Duration::from_secs(seconds), &mut dice, &mut tally)?,
        None => whole(&room, &options, &mut dice, &mut tally)?,
    }
    tally.print()?;
    if !tally.is_clean() {
        say(&format!("the room is left in {}", dir.keep().display()));
        return Ok(false);
    }
    Ok(true)
}

fn parse(words: &[&str]) -> Result<Options, Box<dyn Error>> {
    let mut options = Options::default();
    for pair in words.chunks(2) {
        let [name, value] = pair else { return Err(format!("{pair:?} lacks a value").into()) };
        match *name {
            "--kcache" => options.kcache = value.into(),
            "--fixtures" => options.fixtures = value.into(),
            "--suite" if SUITES.contains(value) || *value == "dkms" => {
                options.suites.push((*value).to_owned())
            }
            "--scenario" => options.scenarios.push((*value).to_owned()),
            "--every" => options.every = Some(value.parse()?),
            "--seconds" => options.seconds = Some(value.parse()?),
            "--seed" => options.seed = Some(value.parse()?),
            _ => return Err(format!("{name} {value}: not understood").into()),
        }
    }
    let is_there = |path: &Path| path.exists();
    if !is_there(&options.kcache) || !is_there(&options.fixtures.join("env")) {
        return Err("--kcache and --fixtures are needed, and have to be there".into());
    }
    Ok(options)
}

impl Options {
    fn wants(&self, suite: &str) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|wanted| wanted == suite)
    }

    fn scenarios(&self, room: &Room) -> io::Result<Vec<Scenario>> {
        let mut scenarios = scenario::all(room)?;
        if self.wants("recovery") {
            let install = scenarios.iter().position(|scenario| scenario.name == "install");
            let recoveries = install.map(|found| scenario::recoveries(room, &scenarios[found]));
            scenarios.extend(recoveries.transpose()?.unwrap_or_default());
        }
        let wanted = |name: &String| self.scenarios.is_empty() || self.scenarios.contains(name);
        scenarios.retain(|scenario| wanted(&scenario.name));
        Ok(scenarios)
    }
}

/// A suite that kills takes the recoveries too if those are wanted; other suites do without.
fn is_of(suite: &str, scenario: &Scenario) -> bool {
    (suite == "recovery") == scenario.name.starts_with("recovery")
}

fn whole(room: &Room, options: &Options, dice: &mut Dice, tally: &mut Tally) -> io::Result<()> {
    let scenarios = options.scenarios(room)?;
    let every = options.every.unwrap_or(1);
    for suite in SUITES.into_iter().filter(|suite| options.wants(suite)) {
        for scenario in scenarios.iter().filter(|scenario| is_of(suite, scenario)) {
            let pick = Pick { first: 1 + dice.below(every), every, most: usize::MAX };
            match suite {
                "kill" | "recovery" => {
                    tally.begin(&format!("kill: {}", scenario.name), scenario.calls);
                    kills(room, scenario, pick, Act::Kill, tally)?;
                }
                "errors" => {
                    tally.begin(&format!("errors: {}", scenario.name), scenario.calls);
                    let each = EACH_ERROR.contains(&scenario.name.as_str());
                    errors(room, scenario, pick, each, tally)?;
                }
                "space" => fill_disks(room, scenario, every, tally)?,
                _ => {}
            }
        }
    }
    if options.wants("power") {
        cut_power(room, &scenarios, every, dice, tally)?;
    }
    Ok(())
}

/// Kills and power cuts, for comparison. In a process of its own: nothing else can be done in this room after it.
fn of_dkms(room: &mut Room, options: &Options, dice: &mut Dice, tally: &mut Tally) -> io::Result<()> {
    let scenarios = dkms::scenarios(room)?;
    let every = options.every.unwrap_or(1);
    for scenario in &scenarios {
        tally.begin(&format!("kill: {}", scenario.name), scenario.calls);
        let pick = Pick { first: 1 + dice.below(every), every, most: usize::MAX };
        kills(room, scenario, pick, Act::Kill, tally)?;
    }
    cut_power(room, &scenarios, every, dice, tally)
}

fn fill_disks(room: &Room, scenario: &Scenario, every: usize, tally: &mut Tally) -> io::Result<()> {
    for lack in LACKS {
        tally.begin(&format!("full disk, {lack:?}: {}", scenario.name), scenario.calls);
        space::sweep(room, scenario, lack, every, tally)?;
    }
    Ok(())
}

fn cut_power(
    room: &Room,
    scenarios: &[Scenario],
    every: usize,
    dice: &mut Dice,
    tally: &mut Tally,
) -> io::Result<()> {
    for kind in &FILE_SYSTEMS {
        let disk = Disk::make(room, kind)?;
        for scenario in scenarios.iter().filter(|scenario| is_of("power", scenario)) {
            for before in VARIANTS {
                tally.begin(&format!("power, {}, {before:?}: {}", kind.name, scenario.name), scenario.calls);
                let pick = Pick { first: 1 + dice.below(every), every, most: usize::MAX };
                disk.cuts(scenario, pick, before, tally)?;
            }
        }
    }
    Ok(())
}

/// Kills and errors in turn, each at a random call of a random scenario, until the time is over.
fn sample(
    room: &Room,
    options: &Options,
    time: Duration,
    dice: &mut Dice,
    tally: &mut Tally,
) -> io::Result<()> {
    let scenarios = options.scenarios(room)?;
    let start = Instant::now();
    while start.elapsed() < time {
        let scenario = &scenarios[dice.below(scenarios.len())];
        let pick = Pick { first: 1 + dice.below(scenario.calls), every: 1, most: 1 };
        if dice.below(2) == 0 {
            tally.begin(&format!("kill: {}", scenario.name), scenario.calls);
            kills(room, scenario, pick, Act::Kill, tally)?;
        } else {
            tally.begin(&format!("errors: {}", scenario.name), scenario.calls);
            errors(room, scenario, pick, false, tally)?;
        }
    }
    Ok(())
}

/// xorshift64: the same seed, the same throws.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}
