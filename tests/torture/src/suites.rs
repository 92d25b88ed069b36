//! Which sweeps are made of which scenarios, and how many of each: whole, or a sample.
//!
//! The whole is a list of works, each a sweep of its own in a room of its own making. Several processes share it, each every
//! n-th work: most of the time goes into waiting for processes that are stopped and for images that are copied.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::dkms;
use crate::power::{Before, Disk, FILE_SYSTEMS, FileSystem, VARIANTS};
use crate::room::Room;
use crate::scenario::{self, Scenario};
use crate::space::{self, LACKS, Lack};
use crate::sweep::{Pick, errors, kills};
use crate::tally::{Column, Tally, say};
use crate::tracer::Act;

const SUITES: [&str; 5] = ["kill", "recovery", "errors", "power", "space"];
/// Not one of those that have to come out clean: for comparison, in a room of which nothing else can be made.
const DKMS: &str = "dkms";
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
    jobs: Option<usize>,
    /// This process is one of so many.
    share: Option<(usize, usize)>,
}

/// Runs what the words ask for and prints the table; whether nothing was wrong.
pub fn run(words: &[&str]) -> Result<bool, Box<dyn Error>> {
    let mut options = parse(words)?;
    let clock = || SystemTime::UNIX_EPOCH.elapsed().map_or(1, |now| now.as_nanos() as u64);
    let seed = *options.seed.get_or_insert_with(clock);
    let tally = match (options.share, options.seconds) {
        (None, None) => share_out(words, &options, seed)?,
        _ => work(&options)?,
    };
    match options.share {
        Some(_) => tally.print_json()?,
        None => tally.print()?,
    }
    // What dkms leaves is to be told, and fails nobody.
    Ok(tally.is_clean() || options.is_dkms())
}

/// Lets as many processes as there are CPUs do it together.
fn share_out(words: &[&str], options: &Options, seed: u64) -> Result<Tally, Box<dyn Error>> {
    let jobs = options.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    say(&format!("seed {seed}, {jobs} processes"));
    let start = |share: usize| {
        let mut worker = Command::new("/proc/self/exe");
        worker.arg("run").args(words).args([
            "--seed",
            &seed.to_string(),
            "--share",
            &format!("{share}/{jobs}"),
        ]);
        worker.stdout(Stdio::piped()).spawn()
    };
    let workers: Vec<_> = (0..jobs).map(start).collect::<io::Result<_>>()?;
    let mut sum = Tally::default();
    for worker in workers {
        let output = worker.wait_with_output()?;
        let tally = serde_json::from_slice(&output.stdout);
        sum.add(tally.map_err(|_| format!("one of the processes ended with {}", output.status))?);
    }
    Ok(sum)
}

fn work(options: &Options) -> Result<Tally, Box<dyn Error>> {
    let mut dice = Dice(options.seed.unwrap_or(1));
    let dir = tempfile::Builder::new().prefix("kcache-torture-").tempdir()?;
    fs_err::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
    let mut room = Room::make(dir.path(), &options.fixtures, &options.kcache)?;
    let scenarios = options.scenarios(&mut room)?;
    let mut tally = Tally::default();
    scenarios.iter().for_each(|scenario| tally.row(&scenario.name, scenario.calls));
    let mut disks = Disks { room: &room, made: BTreeMap::new() };
    match options.seconds {
        Some(seconds) => sample(
            &mut disks,
            &options.works(&scenarios),
            Duration::from_secs(seconds),
            &mut dice,
            &mut tally,
        )?,
        None => whole(&mut disks, options, &options.works(&scenarios), &mut dice, &mut tally)?,
    }
    drop(disks);
    if !tally.is_clean() && !options.is_dkms() {
        say(&format!("the room is left in {}", dir.keep().display()));
    }
    Ok(tally)
}

fn parse(words: &[&str]) -> Result<Options, Box<dyn Error>> {
    let mut options = Options::default();
    for pair in words.chunks(2) {
        let [name, value] = pair else { return Err(format!("{pair:?} lacks a value").into()) };
        match *name {
            "--kcache" => options.kcache = value.into(),
            "--fixtures" => options.fixtures = value.into(),
            "--suite" if SUITES.contains(value) || *value == DKMS => options.suites.push((*value).to_owned()),
            "--scenario" => options.scenarios.push((*value).to_owned()),
            "--every" => options.every = Some(value.parse()?),
            "--seconds" => options.seconds = Some(value.parse()?),
            "--seed" => options.seed = Some(value.parse()?),
            "--jobs" => options.jobs = Some(value.parse()?),
            "--share" => {
                let (share, of) = value.split_once('/').ok_or("--share takes I/N")?;
                options.share = Some((share.parse()?, of.parse()?));
            }
            _ => return Err(format!("{name} {value}: not understood").into()),
        }
    }
    let is_there = |path: &Path| path.exists();
    if !is_there(&options.kcache) || !is_there(&options.fixtures.join("env")) {
        return Err("--kcache and --fixtures are needed, and have to be there".into());
    }
    if options.suites.len() > 1 && options.suites.iter().any(|suite| suite == DKMS) {
        return Err("--suite dkms goes alone: nothing else can be done in its room".into());
    }
    Ok(options)
}

impl Options {
    fn wants(&self, suite: &str) -> bool {
        self.suites.is_empty() || self.suites.iter().any(|wanted| wanted == suite)
    }

    fn is_dkms(&self) -> bool {
        self.suites == [DKMS]
    }

    fn scenarios(&self, room: &mut Room) -> io::Result<Vec<Scenario>> {
        if self.is_dkms() {
            return dkms::scenarios(room);
        }
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

    /// All that is to be done, in a fixed order.
    fn works<'a>(&self, scenarios: &'a [Scenario]) -> Vec<Work<'a>> {
        let suites: Vec<&str> = match self.is_dkms() {
            true => vec!["kill", "power"],
            false => SUITES.into_iter().filter(|suite| self.wants(suite)).collect(),
        };
        let mut works = Vec::new();
        for suite in suites {
            // A suite that kills takes the recoveries too if those are wanted; other suites do without.
            for scenario in
                scenarios.iter().filter(|s| (suite == "recovery") == s.name.starts_with("recovery"))
            {
                works.extend(ways(suite).into_iter().map(|way| Work { scenario, way }));
            }
        }
        works
    }
}

/// One scenario, tortured in one way.
struct Work<'a> {
    scenario: &'a Scenario,
    way: Way,
}

#[derive(Clone, Copy)]
enum Way {
    Kill,
    Errors,
    Power(&'static FileSystem, Before),
    Space(Lack),
}

fn ways(suite: &str) -> Vec<Way> {
    let power = |kind: &'static FileSystem| VARIANTS.map(|before| Way::Power(kind, before));
    match suite {
        "kill" | "recovery" => vec![Way::Kill],
        "errors" => vec![Way::Errors],
        "power" => FILE_SYSTEMS.iter().flat_map(power).collect(),
        _ => LACKS.map(Way::Space).to_vec(),
    }
}

impl Way {
    fn column(self) -> Column {
        match self {
            Way::Kill => Column::Kill,
            Way::Errors => Column::Errors,
            Way::Power(kind, _) => kind.column,
            Way::Space(Lack::Pages) => Column::Pages,
            Way::Space(Lack::Inodes) => Column::Inodes,
        }
    }
}

/// The images of file systems that are needed, each made once.
struct Disks<'a> {
    room: &'a Room,
    made: BTreeMap<&'static str, Disk<'a>>,
}

impl Work<'_> {
    fn perform(&self, disks: &mut Disks<'_>, pick: Pick, tally: &mut Tally) -> io::Result<()> {
        let (room, scenario) = (disks.room, self.scenario);
        tally.begin(&scenario.name, self.way.column());
        match self.way {
            Way::Kill => kills(room, scenario, pick, Act::Kill, tally),
            Way::Errors => {
                let each = pick.most > 1 && EACH_ERROR.contains(&scenario.name.as_str());
                errors(room, scenario, pick, each, tally)
            }
            Way::Power(kind, before) => disks.of(kind)?.cuts(scenario, pick, before, tally),
            Way::Space(lack) => space::sweep(room, scenario, lack, pick, tally),
        }
    }
}

impl<'a> Disks<'a> {
    fn of(&mut self, kind: &'static FileSystem) -> io::Result<&Disk<'a>> {
        if !self.made.contains_key(kind.name) {
            self.made.insert(kind.name, Disk::make(self.room, kind)?);
        }
        Ok(&self.made[kind.name])
    }
}

fn whole(
    disks: &mut Disks<'_>,
    options: &Options,
    works: &[Work<'_>],
    dice: &mut Dice,
    tally: &mut Tally,
) -> io::Result<()> {
    let every = options.every.unwrap_or(1);
    let (share, of) = options.share.unwrap_or((0, 1));
    for (number, work) in works.iter().enumerate() {
        let pick = Pick { first: 1 + dice.below(every), every, most: usize::MAX };
        if number % of == share {
            say(&format!(
                "{} of {}: {:?}, {}",
                number + 1,
                works.len(),
                work.way.column(),
                work.scenario.name
            ));
            work.perform(disks, pick, tally)?;
        }
    }
    Ok(())
}

/// Single places, each of a random work of a random column, until the time is over.
fn sample(
    disks: &mut Disks<'_>,
    works: &[Work<'_>],
    time: Duration,
    dice: &mut Dice,
    tally: &mut Tally,
) -> io::Result<()> {
    let start = Instant::now();
    let mut columns = BTreeMap::<Column, Vec<&Work<'_>>>::new();
    works.iter().for_each(|work| columns.entry(work.way.column()).or_default().push(work));
    let columns: Vec<_> = columns.into_values().collect();
    while start.elapsed() < time && !columns.is_empty() {
        let works = &columns[dice.below(columns.len())];
        let work = works[dice.below(works.len())];
        let places = match work.way {
            Way::Space(_) => space::USUAL,
            _ => work.scenario.calls,
        };
        let pick = Pick { first: 1 + dice.below(places), every: 1, most: 1 };
        work.perform(disks, pick, tally)?;
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
