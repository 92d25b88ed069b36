//! The order of a run's requests, and how many run at once.
//!
//! First all requests are looked up: key, store, shared caches. Misses are queued, and built when nothing is left to look up: the
//! longest first, so that none starts when all others have ended, but build dependencies before their dependents. As many builds
//! run as there are jobs; the jobserver limits the compilers that they run. While the results of one build are checked and
//! compressed, the other builds have all its jobs. A few extra threads continue with look-ups while all jobs are building.
//!
//! Expected build times are those of `build_times`.

use std::cmp::Reverse;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::resolve::resolution::{Lookup, Missing, Resolution};
use crate::resolve::{self, build_times};
use crate::run::progress::Outlook;
use crate::run::request::{Options, Request};
use crate::run::session::Session;

/// Number of threads in addition to the jobs.
const BESIDE: usize = 2;
/// Available memory in bytes below which no second build begins: gcc takes up to 300 MiB for one file, and another
/// like it may follow.
const MEMORY: u64 = 768 << 20;
/// How long builds wait for the last look-up, so that they begin in the right order. A large fetch takes longer.
const GRACE: Duration = Duration::from_secs(5);
/// Interval at which available memory and cancellation are checked.
const TICK: Duration = Duration::from_millis(500);

/// Processes all requests and returns the results of `then`, in order; after a cancellation, only of those that were
/// resolved.
pub fn all<'a, T: Send>(
    session: &Session,
    requests: &[Request<'a>],
    options: &Options,
    then: impl Fn(&Request<'a>, Result<Resolution>, Duration) -> T + Sync,
) -> Vec<T> {
    let state =
        State { next: 0, looking: 0, last_look: Instant::now(), waiting: Vec::new(), running: Vec::new() };
    let line = Line { session, requests, state: Mutex::new(state), changed: Condvar::new() };
    let results: Mutex<Vec<(usize, T)>> = Mutex::default();
    let end = |at: usize, answer, took| {
        let result = then(&requests[at], answer, took);
        results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
    };
    let work = || {
        while let Some((next, turn)) = line.next() {
            let start = Instant::now();
            let (at, answer, before) = match next {
                Next::Look(at) => match resolve::look(session, &requests[at], options) {
                    Ok(Lookup::Missing(missing)) => {
                        let expected = build_times::expected(session, requests[at].package);
                        line.put_aside(Waits { at, expected, looked: start.elapsed(), missing });
                        continue;
                    }
                    Ok(Lookup::Answered(answer)) => (at, Ok(answer), Duration::ZERO),
                    Err(error) => (at, Err(error), Duration::ZERO),
                },
                Next::Build(Waits { at, looked, missing, .. }) => {
                    (at, resolve::build(session, &requests[at], *missing, options), looked)
                }
            };
            drop(turn);
            end(at, answer, before + start.elapsed());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..(session.context.jobs + BESIDE).min(requests.len()) {
            scope.spawn(work);
        }
    });
    // After a cancellation some are left; nothing more is reported about them.
    session.context.progress().outlook(&Outlook { waiting: 0, left: Duration::ZERO });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The shared state of the threads.
struct Line<'a, 's> {
    session: &'a Session<'s>,
    requests: &'a [Request<'a>],
    state: Mutex<State<'a>>,
    changed: Condvar,
}

struct State<'a> {
    /// Index of the first request that was not looked up.
    next: usize,
    looking: usize,
    last_look: Instant,
    waiting: Vec<Waits<'a>>,
    running: Vec<Running>,
}

/// A request to be built.
struct Waits<'a> {
    at: usize,
    expected: f64,
    looked: Duration,
    missing: Box<Missing<'a>>,
}

struct Running {
    at: usize,
    expected: f64,
    since: Instant,
}

enum Next<'a> {
    Look(usize),
    Build(Waits<'a>),
}

/// A thread's current task, which ends on drop, even after a panic, because others wait for it.
struct Turn<'l, 'a> {
    state: &'l Mutex<State<'a>>,
    changed: &'l Condvar,
    /// Index of the build; `None` for a look-up.
    builds: Option<usize>,
}

impl Drop for Turn<'_, '_> {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.builds {
            Some(at) => state.running.retain(|running| running.at != at),
            None => state.looking -= 1,
        }
        self.changed.notify_all();
    }
}

impl<'a> Line<'a, '_> {
    /// Waits for the next task of a thread; `None` if there will be none.
    fn next(&self) -> Option<(Next<'a>, Turn<'_, 'a>)> {
        let turn = |builds| Turn { state: &self.state, changed: &self.changed, builds };
        let mut state = self.lock();
        loop {
            if self.session.context.services.cancelled() {
                return None;
            }
            if state.next < self.requests.len() {
                state.looking += 1;
                state.next += 1;
                state.last_look = Instant::now();
                return Some((Next::Look(state.next - 1), turn(None)));
            }
            if state.waiting.is_empty() && state.looking == 0 {
                return None;
            }
            if let Some(at) = self.first(&state).filter(|_| self.has_room(&state)) {
                let waits = state.waiting.swap_remove(at);
                state.running.push(Running { at: waits.at, expected: waits.expected, since: Instant::now() });
                self.session.context.progress().outlook(&state.outlook(self.session.context.jobs));
                let turn = turn(Some(waits.at));
                return Some((Next::Build(waits), turn));
            }
            let waited = self.changed.wait_timeout(state, TICK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
            // Time passes while builds run.
            if !state.waiting.is_empty() && !state.running.is_empty() {
                self.session.context.progress().outlook(&state.outlook(self.session.context.jobs));
            }
        }
    }

    /// Whether another build may begin.
    fn has_room(&self, state: &State) -> bool {
        if state.looking > 0 && state.last_look.elapsed() < GRACE {
            return false;
        }
        let enough = || (self.session.context.services.available_memory)().is_none_or(|free| free >= MEMORY);
        state.running.is_empty() || state.running.len() < self.session.context.jobs && enough()
    }

    /// The longest build that waits for no other one of the run.
    fn first(&self, state: &State) -> Option<usize> {
        let unfinished: Vec<&Request> = state
            .waiting
            .iter()
            .map(|waits| waits.at)
            .chain(state.running.iter().map(|running| running.at))
            .map(|at| &self.requests[at])
            .collect();
        let comes_first = |waits: &Waits| {
            let release = &self.requests[waits.at].kernel.release;
            let is_needed = |request: &&Request| {
                request.kernel.release == *release && waits.missing.needs(&request.package.name)
            };
            !unfinished.iter().any(is_needed)
        };
        let able = state.waiting.iter().enumerate().filter(|(_, waits)| comes_first(waits));
        let longest = able.min_by_key(|(_, waits)| (Reverse((waits.expected * 1e3) as u64), waits.at));
        longest.map(|(at, _)| at)
    }

    /// Called before the look-up's task ends, otherwise the other threads would exit.
    fn put_aside(&self, waits: Waits<'a>) {
        self.lock().waiting.push(waits);
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State<'_> {
    fn outlook(&self, jobs: usize) -> Outlook {
        let waiting = self.waiting.iter().map(|waits| waits.expected);
        let running = self.running.iter();
        let running = running.map(|running| running.expected - running.since.elapsed().as_secs_f64());
        let rest: Vec<f64> = waiting.chain(running).map(|seconds| seconds.max(0.0)).collect();
        let at_once = jobs.min(rest.len()).max(1) as f64;
        let longest = rest.iter().copied().fold(0.0, f64::max);
        let left = (rest.iter().sum::<f64>() / at_once).max(longest);
        Outlook { waiting: self.waiting.len(), left: Duration::from_secs_f64(left) }
    }
}
