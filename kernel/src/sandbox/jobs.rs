//! The jobs of a run, and each build's share of them.
//!
//! `--jobs N` limits all builds of a run together. Every build has one job of its own, and the others are lent through
//! GNU make's jobserver protocol ("POSIX Jobserver Interaction" in its manual): a byte in a pipe for each further job.
//! Builds do not trust each other, so each has its own pipe:
//!
//! ```text
//! Jobs ──  Seat ── broker ── pipe ── make, gcc, cargo of one build
//!     └──  Seat ── broker ── pipe ── those of another
//! ```
//! A broker is a thread that lends tokens to its build, and takes unread ones back as builds come and go. With `b`
//! builds, each is lent at most `ceil(N / b) - 1` tokens, and all together at most `N - b`. Tokens that are not given
//! back stay lent until the build ends, and bytes that a build writes into its pipe never count as more than it was
//! lent.
//!
//! A new build waits until a job is free. If others keep their tokens for longer than `PATIENCE`, it begins
//! nevertheless with its own job: then the run has as many additional jobs as there are builds that began in this way,
//! and fewer than twice `N` in all.
//!
//! A build may do anything to its pipe: fill it, drain it, write other bytes, make it non-blocking, or block it with
//! splice(2), which holds its lock. The broker's ends are separate open file descriptions and do not block; it accesses
//! the pipe without holding a lock, and nobody waits for it. So a build that disturbs the pipe only loses its own tokens.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};

/// Time for which a new build waits for tokens of others to be given back. Compiling one file takes less.
const PATIENCE: Duration = Duration::from_secs(10);
/// Interval at which conditions without an event are checked: cancellation, a token in a pipe, room in it.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
const TOKEN: &[u8] = b"+";

/// The jobs of a run.
pub struct Jobs {
    shared: Arc<Shared>,
}

/// A build's seat among those of the run; its jobs are given back on drop.
pub struct Seat {
    shared: Arc<Shared>,
    id: u64,
}

struct Shared {
    jobs: usize,
    patience: Duration,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: u64,
    seats: BTreeMap<u64, Share>,
}

/// The share of one build.
#[derive(Default)]
struct Share {
    /// Whether it has its own job.
    began: bool,
    /// Whether a broker serves it.
    served: bool,
    lent: usize,
}

/// The next action of a broker.
#[derive(Debug, PartialEq, Eq)]
enum Task {
    Lend,
    TakeBack,
    Wait,
    End,
}

impl Jobs {
    /// Makes a pool of this many jobs, at least one.
    pub fn new(jobs: usize) -> Jobs {
        Jobs::patient(jobs, PATIENCE)
    }

    fn patient(jobs: usize, patience: Duration) -> Jobs {
        let (state, changed) = (Mutex::default(), Condvar::new());
        Jobs { shared: Arc::new(Shared { jobs: jobs.max(1), patience, state, changed }) }
    }

    /// A seat for a build that will begin soon: its job is not lent to others from now on.
    pub fn seat(&self) -> Seat {
        let mut state = self.shared.lock();
        let id = state.next;
        state.next += 1;
        state.seats.insert(id, Share::default());
        self.shared.changed.notify_all();
        Seat { shared: self.shared.clone(), id }
    }
}

impl Seat {
    /// Waits for the build's own job; false if it was cancelled.
    pub fn begin(&self, cancel: &AtomicBool) -> bool {
        let start = Instant::now();
        let mut state = self.shared.lock();
        while !cancel.load(Ordering::Relaxed) {
            let (began, lent) = (state.began(), state.lent());
            let is_late = start.elapsed() >= self.shared.patience;
            if began + lent < self.shared.jobs || is_late && began < self.shared.jobs {
                state.share(self.id).began = true;
                return true;
            }
            state = self.shared.wait(state);
        }
        false
    }

    /// Passes the build's pipe to a program, and serves it until the result is dropped.
    pub(super) fn serve(&self, command: &mut Command) -> io::Result<Served<'_>> {
        let client = jobserver::Client::new(0)?;
        client.configure_make(command);
        let mut broker = self.broker(command)?;
        self.shared.lock().share(self.id).served = true;
        std::thread::Builder::new().name("jobs".to_owned()).spawn(move || broker.work())?;
        Ok(Served { seat: self, _client: client })
    }

    /// The broker for the pipe that a program will get, with its own ends.
    fn broker(&self, command: &Command) -> io::Result<Broker> {
        let flags =
            command.get_envs().find(|(name, _)| *name == "MAKEFLAGS").and_then(|(_, value)| value?.to_str());
        let auth =
            flags.and_then(|flags| flags.split(' ').find_map(|flag| flag.strip_prefix("--jobserver-auth=")));
        let ends = auth.and_then(|auth| auth.split_once(','));
        let (read, write) = ends.ok_or_else(|| io::Error::other("the jobserver is not a pipe"))?;
        let open = |fd: &str, access| {
            let flags = access | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::open(Path::new("/proc/self/fd").join(fd), flags, Mode::empty())
        };
        let (read, write) = (open(read, OFlags::RDONLY)?, open(write, OFlags::WRONLY)?);
        Ok(Broker { shared: self.shared.clone(), id: self.id, read, write })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.lock().seats.remove(&self.id);
        self.shared.changed.notify_all();
    }
}

/// Serves a build's pipe while it exists.
pub(super) struct Served<'a> {
    seat: &'a Seat,
    /// The descriptors that the program gets.
    _client: jobserver::Client,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let Seat { shared, id } = self.seat;
        let mut state = shared.lock();
        let share = state.share(*id);
        (share.served, share.lent) = (false, 0);
        shared.changed.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, at most for a while.
    fn wait<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        let limit = Duration::from_nanos(TICK.tv_nsec as u64);
        self.changed.wait_timeout(state, limit).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl State {
    fn share(&mut self, id: u64) -> &mut Share {
        self.seats.entry(id).or_default()
    }

    fn began(&self) -> usize {
        self.seats.values().filter(|share| share.began).count()
    }

    fn lent(&self) -> usize {
        self.seats.values().map(|share| share.lent).sum()
    }

    fn task(&self, jobs: usize, id: u64) -> Task {
        let Some(share) = self.seats.get(&id).filter(|share| share.served) else { return Task::End };
        let builds = self.seats.len();
        let most = jobs.div_ceil(builds).saturating_sub(1);
        let spoken_for = self.lent() + builds;
        if share.lent > 0 && (share.lent > most || spoken_for > jobs) {
            Task::TakeBack
        } else if share.lent < most && spoken_for < jobs {
            Task::Lend
        } else {
            Task::Wait
        }
    }
}

/// Serves one build's pipe.
struct Broker {
    shared: Arc<Shared>,
    id: u64,
    read: OwnedFd,
    write: OwnedFd,
}

impl Broker {
    fn work(&mut self) {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            match state.task(shared.jobs, self.id) {
                Task::End => return,
                Task::Wait => {
                    state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Task::Lend => {
                    state.share(self.id).lent += 1;
                    drop(state);
                    let has_room = self.put();
                    state = shared.lock();
                    if !has_room {
                        self.gone_back(&mut state);
                    }
                }
                Task::TakeBack => {
                    drop(state);
                    let came = self.take();
                    state = shared.lock();
                    if came {
                        self.gone_back(&mut state);
                    }
                }
            }
        }
    }

    /// Records that a token is no longer lent, if the build has not ended.
    fn gone_back(&self, state: &mut State) {
        if let Some(share) = state.seats.get_mut(&self.id) {
            share.lent = share.lent.saturating_sub(1);
        }
        self.shared.changed.notify_all();
    }

    /// Waits briefly for room in the pipe and writes a token.
    fn put(&self) -> bool {
        is_ready(&self.write, PollFlags::OUT) && rustix::io::write(&self.write, TOKEN).is_ok()
    }

    /// Waits briefly for a token in the pipe, whatever byte it is, and reads it.
    fn take(&self) -> bool {
        is_ready(&self.read, PollFlags::IN) && rustix::io::read(&self.read, &mut [0; 1]).is_ok_and(|n| n == 1)
    }
}

fn is_ready(end: &OwnedFd, how: PollFlags) -> bool {
    poll(&mut [PollFd::new(end, how)], Some(&TICK)).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    static NEVER: AtomicBool = AtomicBool::new(false);
    /// Longer than anything that a test waits for.
    const LONG: Duration = Duration::from_secs(20);

    /// The pipe of a build that has begun.
    fn served(seat: &Seat) -> Served<'_> {
        assert!(seat.begin(&NEVER));
        seat.serve(&mut Command::new("true")).unwrap()
    }

    /// Waits until this many tokens are in a build's pipe.
    #[track_caller]
    fn has(served: &Served, tokens: usize) {
        let start = Instant::now();
        while served._client.available().unwrap() != tokens {
            assert!(start.elapsed() < LONG, "{} tokens, not {tokens}", served._client.available().unwrap());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    #[test]
    fn a_single_build_has_all_jobs_and_shares_them_with_later_ones() {
        let jobs = Jobs::new(8);
        let first = jobs.seat();
        let first_pipe = served(&first);
        has(&first_pipe, 7);
        let second = jobs.seat();
        has(&first_pipe, 3);
        let second_pipe = served(&second);
        has(&second_pipe, 3);
        let third = jobs.seat();
        let third_pipe = served(&third);
        for pipe in [&first_pipe, &second_pipe, &third_pipe] {
            assert!(pipe._client.available().unwrap() <= 2 + 1);
        }
        drop(third_pipe);
        drop((third, second_pipe));
        drop(second);
        has(&first_pipe, 7);
    }

    #[test]
    fn no_build_gets_more_than_its_share_of_jobs() {
        for jobs in 1..9 {
            for builds in 1..12 {
                let share = || Share { began: true, served: true, lent: 0 };
                let mut state =
                    State { next: 0, seats: (0..builds as u64).map(|id| (id, share())).collect() };
                for _ in 0..2 * jobs {
                    for id in 0..builds as u64 {
                        match state.task(jobs, id) {
                            Task::Lend => state.share(id).lent += 1,
                            other => assert_eq!(other, Task::Wait),
                        }
                    }
                }
                assert_eq!(state.lent(), jobs.saturating_sub(builds), "{jobs} jobs, {builds} builds");
                assert!(state.seats.values().all(|share| share.lent < jobs.div_ceil(builds).max(1)));
            }
        }
    }

    #[test]
    fn a_build_that_disturbs_its_pipe_affects_no_other() {
        let jobs = Jobs::new(4);
        let (full, good) = (jobs.seat(), jobs.seat());
        let full_pipe = served(&full);
        has(&full_pipe, 1);
        // Other bytes, and no more room: as many as a pipe holds, of which one is a token.
        (1..64 << 10).for_each(|_| full_pipe._client.release_raw().unwrap());
        // Other builds do not wait for it, and it gives back only as many tokens as it was lent.
        let good_pipe = served(&good);
        has(&good_pipe, 1);
        let third = jobs.seat();
        let third_pipe = served(&third);
        drop(third_pipe);
        drop(third);
        drop(full_pipe);
        drop(full);
        has(&good_pipe, 3);
    }

    #[test]
    fn forged_tokens_are_not_jobs() {
        let jobs = Jobs::new(4);
        let seat = jobs.seat();
        let pipe = served(&seat);
        has(&pipe, 3);
        (0..50).for_each(|_| pipe._client.release_raw().unwrap());
        let others: Vec<Seat> = (0..3).map(|_| jobs.seat()).collect();
        has(&pipe, 50);
        assert_eq!(jobs.shared.lock().lent(), 0);
        drop(others);
        has(&pipe, 53);
    }

    #[test]
    fn a_build_that_keeps_tokens_does_not_block_others() {
        let jobs = Jobs::patient(3, Duration::from_millis(200));
        let greedy = jobs.seat();
        let greedy_pipe = served(&greedy);
        (0..2).for_each(|_| greedy_pipe._client.acquire_raw().unwrap());
        let (second, third, fourth) = (jobs.seat(), jobs.seat(), jobs.seat());
        assert!(second.begin(&NEVER) && third.begin(&NEVER));
        // Three have begun; the fourth waits for one of them, however long that takes.
        std::thread::scope(|scope| {
            let begins = scope.spawn(|| fourth.begin(&NEVER));
            std::thread::sleep(Duration::from_millis(600));
            assert!(!begins.is_finished());
            drop(second);
            assert!(begins.join().unwrap());
        });
    }

    #[test]
    fn a_cancellation_ends_the_wait() {
        let jobs = Jobs::new(1);
        let (first, second) = (jobs.seat(), jobs.seat());
        assert!(first.begin(&NEVER));
        assert!(!second.begin(&AtomicBool::new(true)));
    }
}
