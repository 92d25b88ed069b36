//! The circuit breaker of one shared cache, which stops queries to a cache that does not answer.
//!
//! The first request of a run is a probe, and the others wait for its result. So an unreachable cache costs the time
//! of one request, however many packages query it concurrently.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{CacheState, LIES};
use crate::transport::TransportError;

/// State of a shared cache in this run.
#[derive(Default)]
pub(super) struct Breaker {
    state: Mutex<State>,
    changed: Condvar,
    answered: AtomicBool,
}

#[derive(Default)]
enum State {
    /// No request yet.
    #[default]
    Untried,
    /// The first request is in progress.
    Probing,
    /// It answers; `odd` counts unusable answers.
    Working { odd: u32 },
    /// It is not queried any more, for this reason.
    Broken(TransportError),
}

impl Breaker {
    /// Calls `act` unless the breaker is open. The flag says whether this call opened it.
    pub(super) fn call<T>(
        &self,
        act: impl FnOnce() -> Result<T, TransportError>,
    ) -> (Result<T, TransportError>, bool) {
        let mut state = self.state();
        while matches!(*state, State::Probing) {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match &*state {
            State::Broken(trouble) => return (Err(trouble.clone()), false),
            State::Untried => *state = State::Probing,
            State::Probing | State::Working { .. } => {}
        }
        drop(state);
        let _probe = Probe(self);
        let result = act();
        let broke = match &result {
            Ok(_) => self.worked(),
            Err(trouble) => self.failed(trouble),
        };
        (result, broke)
    }

    /// Closes the breaker if the cache was too slow, or could not be reached, as a server that restarts; false otherwise.
    pub(super) fn forgive(&self) -> bool {
        let mut state = self.state();
        let slow = matches!(&*state, State::Broken(trouble) if trouble.may_pass());
        if slow {
            *state = State::Untried;
        }
        slow
    }

    /// What became of the cache in this run.
    pub(super) fn state_now(&self) -> CacheState {
        match &*self.state() {
            State::Broken(trouble) => CacheState::Unreachable(trouble.to_string()),
            State::Untried | State::Probing if !self.has_answered() => CacheState::NotAsked,
            State::Untried | State::Probing | State::Working { .. } => CacheState::Answered,
        }
    }

    /// Whether the cache has answered in this run.
    pub(super) fn has_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Whether the cache is not queried any more.
    pub(super) fn is_broken(&self) -> bool {
        matches!(*self.state(), State::Broken(_))
    }

    /// Whether the cache has answered before and is still queried.
    pub(super) fn works(&self) -> bool {
        matches!(*self.state(), State::Working { .. })
    }

    /// Records an unusable answer; true if this opened the breaker.
    pub(super) fn lied(&self) -> bool {
        self.odd(TransportError::Odd("too many unusable files".to_owned()))
    }

    fn worked(&self) -> bool {
        self.answered.store(true, Ordering::Relaxed);
        let mut state = self.state();
        if matches!(*state, State::Probing) {
            *state = State::Working { odd: 0 };
        }
        false
    }

    fn failed(&self, trouble: &TransportError) -> bool {
        match trouble {
            // The fault of the file or of the request.
            TransportError::TooLong(_) | TransportError::Odd(_) | TransportError::Busy(_) => {
                self.odd(trouble.clone())
            }
            // It can still be read.
            TransportError::ReadOnly(_) | TransportError::Cancelled => self.worked(),
            _ => self.breaks(trouble.clone()),
        }
    }

    fn odd(&self, trouble: TransportError) -> bool {
        let mut state = self.state();
        let odd = match *state {
            State::Working { odd } => odd + 1,
            State::Broken(_) => return false,
            State::Untried | State::Probing => 1,
        };
        *state = if odd >= LIES { State::Broken(trouble) } else { State::Working { odd } };
        odd >= LIES
    }

    fn breaks(&self, trouble: TransportError) -> bool {
        let mut state = self.state();
        let first = !matches!(*state, State::Broken(_));
        if first {
            *state = State::Broken(trouble);
        }
        first
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Releases threads that wait for the probe, even if it panics.
struct Probe<'a>(&'a Breaker);

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if matches!(*state, State::Probing) && std::thread::panicking() {
            *state = State::Untried;
        }
        drop(state);
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    fn fail(breaker: &Breaker, trouble: &TransportError) -> bool {
        breaker.call(|| Err::<(), _>(trouble.clone())).1
    }

    #[test]
    fn an_unreachable_cache_is_queried_once_by_all_threads() {
        let breaker = Breaker::default();
        let asked = AtomicU32::new(0);
        let dead = || {
            asked.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_millis(50));
            Err::<(), _>(TransportError::Silent(Duration::from_secs(3)))
        };
        let broke: Vec<bool> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| breaker.call(dead).1)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(broke.iter().filter(|broke| **broke).count(), 1);
    }

    #[test]
    fn a_cache_that_fails_later_is_not_queried_again() {
        let breaker = Breaker::default();
        assert_eq!(breaker.call(|| Ok(1)), (Ok(1), false));
        assert!(fail(&breaker, &TransportError::Unreachable("reset".to_owned())));
        assert_eq!(breaker.call(|| Ok(1)), (Err(TransportError::Unreachable("reset".to_owned())), false));
    }

    #[test]
    fn three_invalid_responses_open_the_breaker() {
        let breaker = Breaker::default();
        let odd = TransportError::Odd("503".to_owned());
        assert_eq!([(); 3].map(|()| fail(&breaker, &odd)), [false, false, true]);
        assert!(breaker.call(|| Ok(())).0.is_err());
    }

    #[test]
    fn a_cache_that_was_slow_or_away_can_be_queried_again_one_that_denied_cannot() {
        for (trouble, forgiven) in [
            (TransportError::Silent(Duration::from_secs(3)), true),
            (TransportError::Denied("403".to_owned()), false),
            (TransportError::Unreachable("Connection refused (os error 111)".to_owned()), true),
            (TransportError::Unreachable("/srv/nothing does not exist".to_owned()), false),
        ] {
            let breaker = Breaker::default();
            assert!(!breaker.forgive());
            assert!(fail(&breaker, &trouble));
            assert_eq!(breaker.forgive(), forgiven);
            assert_eq!(breaker.call(|| Ok(())).0.is_ok(), forgiven);
        }
    }

    #[test]
    fn a_cache_that_cannot_be_written_can_be_read() {
        let breaker = Breaker::default();
        for _ in 0..5 {
            assert!(!fail(&breaker, &TransportError::ReadOnly("405".to_owned())));
        }
        assert!(breaker.call(|| Ok(())).0.is_ok());
    }

    #[test]
    fn a_probe_that_panics_does_not_lock_the_others_out() {
        let breaker = Breaker::default();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            breaker.call::<()>(|| panic!("on purpose"))
        }));
        assert!(panicked.is_err());
        assert!(breaker.call(|| Ok(())).0.is_ok());
    }
}
