//! Cache statistics: how each look-up of a run was answered, and the build time that this saved.
//!
//! A key counts once per run, by its first answer: a build dependency is looked up again for each of its dependents. At the end
//! of a run, [`Counters::keep`] adds its numbers to the store's counters in one write; a command that only looks has none and
//! writes nothing. An interrupted run counts nothing. Counters are in the store's index, which is derived: if it is lost, they
//! restart at 0. Their names are stored: add, never rename.
//!
//! Time counts as saved if modules are installed that were not compiled in the same run. Reinstalling saves nothing. A build by
//! an earlier `kcache build` counts: its time was spent before the update.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use kcache_kernel::install::{Act, PackageChange};
use kcache_store::{Key, Manifest, Outcome, Store};

use crate::run::labels::Labels;
use crate::run::request::Source;

/// Look-ups that the store answered, by a build or a remembered failure.
pub const HITS_STORE: &str = "hits-store";
/// Look-ups that a shared cache answered.
pub const HITS_SHARED: &str = "hits-shared";
/// Look-ups that no cache could answer, whether or not a build followed.
pub const MISSES: &str = "misses";
/// Builds that succeeded.
pub const BUILT: &str = "builds-built";
/// Builds that failed.
pub const FAILED: &str = "builds-failed";
/// Duration of builds in milliseconds, including failed ones.
pub const COMPILED: &str = "milliseconds-compiled";
/// Duration in milliseconds of installed builds that were made elsewhere or earlier.
pub const SPARED: &str = "milliseconds-spared";

/// Limit in seconds on a build's duration: eleven days. Other hosts' durations are signed, not measured here.
const MAX_SECONDS: f64 = 1e6;

/// How a look-up was answered.
pub enum Answered<'a> {
    /// By an entry, which may be a remembered failure.
    By(&'a Manifest, &'a Source),
    /// By no cache.
    Nothing,
    /// It was not a question for the caches.
    NotMeant,
}

/// The counts of one run.
#[derive(Debug, Default)]
pub struct Counters(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    counts: BTreeMap<&'static str, u64>,
    /// Keys that were answered, and whether by a cache.
    answered: BTreeMap<Key, bool>,
    /// Requests without an answer so far. They may be asked again, so they are counted at the end.
    unanswered: BTreeSet<String>,
}

impl Counters {
    /// Counts the answer to the request `name`; `asked` says that caches were queried before anything was built.
    pub fn note(&self, name: &str, answered: &Answered, asked: bool) {
        let mut noted = self.noted();
        match answered {
            Answered::By(manifest, source) => {
                noted.unanswered.remove(name);
                noted.answer(manifest, source, asked);
            }
            Answered::Nothing => drop(noted.unanswered.insert(name.to_owned())),
            Answered::NotMeant => {}
        }
    }

    /// Counts what a transaction installed.
    pub fn installed(&self, changes: &[PackageChange], manifests: &[Manifest]) {
        let mut noted = self.noted();
        let is_new = |change: &&PackageChange| matches!(change.act, Act::Add | Act::Replace);
        for change in changes.iter().filter(is_new) {
            let is_it = |manifest: &&Manifest| Labels::of(manifest).package == change.package;
            let Some(manifest) = manifests.iter().find(is_it) else { continue };
            if noted.answered.get(&manifest.key) == Some(&true) {
                noted.add(SPARED, milliseconds(manifest));
            }
        }
    }

    /// Adds all counts to the store's counters, and resets them.
    pub fn keep(&self, store: &Store) -> kcache_store::Result<()> {
        let mut noted = std::mem::take(&mut *self.noted());
        let unanswered = noted.unanswered.len() as u64;
        noted.add(MISSES, unanswered);
        noted.counts.retain(|_, count| *count > 0);
        if noted.counts.is_empty() { Ok(()) } else { store.count(&noted.counts) }
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Noted {
    fn answer(&mut self, manifest: &Manifest, found: &Source, asked: bool) {
        if self.answered.contains_key(&manifest.key) {
            return;
        }
        self.answered.insert(manifest.key, *found != Source::Built);
        match found {
            Source::Store => self.add(HITS_STORE, 1),
            Source::Shared(_) => self.add(HITS_SHARED, 1),
            Source::Built => {
                let built = manifest.outcome == Outcome::Built;
                self.add(MISSES, u64::from(asked));
                self.add(if built { BUILT } else { FAILED }, 1);
                self.add(COMPILED, milliseconds(manifest));
            }
        }
    }

    fn add(&mut self, name: &'static str, more: u64) {
        *self.counts.entry(name).or_default() += more;
    }
}

/// Duration of a build in seconds, if its entry has a plausible one.
pub fn seconds(manifest: &Manifest) -> Option<f64> {
    manifest.facts.get("seconds")?.as_f64().filter(|seconds| (0.0..=MAX_SECONDS).contains(seconds))
}

fn milliseconds(manifest: &Manifest) -> u64 {
    (seconds(manifest).unwrap_or(0.0) * 1000.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(package: &str, outcome: Outcome, seconds: f64) -> Manifest {
        Manifest {
            format: kcache_store::FORMAT,
            key: Key::from_bytes(*blake3::hash(package.as_bytes()).as_bytes()),
            labels: [("package".to_owned(), package.to_owned())].into(),
            fields: Vec::new(),
            outcome,
            outputs: Vec::new(),
            observed: Vec::new(),
            facts: [("seconds".to_owned(), seconds.into())].into_iter().collect(),
            builder: "test".to_owned(),
            created: 0,
        }
    }

    fn built(package: &str) -> Manifest {
        manifest(package, Outcome::Built, 1.5)
    }

    fn shared() -> Source {
        Source::Shared("https://cache.example/".to_owned())
    }

    /// Checks the counters of a new store after a run.
    #[track_caller]
    fn check(run: impl FnOnce(&Counters), expect: &[(&str, u64)]) {
        let dir = tempfile::tempdir().unwrap();
        let waiting = kcache_store::Waiting { limit: std::time::Duration::ZERO, print: &|_| () };
        let store = Store::open(dir.path(), &waiting).unwrap();
        let counters = Counters::default();
        run(&counters);
        counters.keep(&store).unwrap();
        counters.keep(&store).unwrap(); // saving again adds nothing
        let expect = expect.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        assert_eq!(store.counts().unwrap(), expect);
    }

    #[test]
    fn a_key_counts_once_by_its_first_answer() {
        check(
            |counters| {
                counters.note("a", &Answered::By(&built("a"), &Source::Built), true);
                counters.note("a", &Answered::By(&built("a"), &Source::Store), true);
                counters.note("b", &Answered::By(&built("b"), &Source::Store), true);
                counters.note("c", &Answered::By(&built("c"), &shared()), true);
            },
            &[(BUILT, 1), (COMPILED, 1500), (HITS_SHARED, 1), (HITS_STORE, 1), (MISSES, 1)],
        );
    }

    #[test]
    fn a_forced_rebuild_is_not_a_miss() {
        check(
            |counters| counters.note("a", &Answered::By(&built("a"), &Source::Built), false),
            &[(BUILT, 1), (COMPILED, 1500)],
        );
    }

    #[test]
    fn a_request_without_answer_is_one_miss() {
        check(
            |counters| {
                for name in ["a", "a", "b"] {
                    counters.note(name, &Answered::Nothing, true);
                }
                counters.note("b", &Answered::By(&built("b"), &shared()), true);
                counters.note("c", &Answered::NotMeant, true);
            },
            &[(HITS_SHARED, 1), (MISSES, 1)],
        );
    }

    #[test]
    fn a_new_failure_is_a_miss_and_a_remembered_one_a_hit() {
        let failed = Outcome::Failed { status: Some(2), command: "make".into(), first_error: "no".into() };
        let failed = manifest("a", failed, 0.25);
        check(
            |counters| counters.note("a", &Answered::By(&failed, &Source::Built), true),
            &[(COMPILED, 250), (FAILED, 1), (MISSES, 1)],
        );
        check(
            |counters| counters.note("a", &Answered::By(&failed, &Source::Store), true),
            &[(HITS_STORE, 1)],
        );
    }

    #[test]
    fn time_is_saved_by_installed_builds_of_earlier_runs() {
        let change =
            |package: &str, act| PackageChange { package: package.to_owned(), act, from: None, to: None };
        let changes = [
            change("built", Act::Add),
            change("found", Act::Add),
            change("fetched", Act::Replace),
            change("kept", Act::Keep),
        ];
        let founds = [
            ("built", Source::Built),
            ("found", Source::Store),
            ("fetched", shared()),
            ("kept", Source::Store),
        ];
        // Binary fractions, so that sums are exact.
        let mut seconds = 1.0;
        let manifests = founds.each_ref().map(|(name, _)| {
            seconds *= 2.0;
            manifest(name, Outcome::Built, seconds)
        });
        let run = |counters: &Counters| {
            founds
                .iter()
                .for_each(|(name, found)| counters.note(name, &Answered::By(&built(name), found), true));
            counters.installed(&changes, &manifests);
        };
        check(
            run,
            &[(BUILT, 1), (COMPILED, 1500), (HITS_SHARED, 1), (HITS_STORE, 2), (MISSES, 1), (SPARED, 12_000)],
        );
    }

    #[test]
    fn an_implausible_duration_is_ignored() {
        let of = |seconds| super::seconds(&manifest("a", Outcome::Built, seconds));
        assert_eq!(of(1.5), Some(1.5));
        assert_eq!((of(-1.0), of(1e300)), (None, None));
    }
}
