//! Where asynchronous code is waited for, and what ends the wait.
//!
//! Clients of HTTP, S3 and the like are asynchronous; their callers here are ordinary threads. [`Patience::run`] blocks
//! its thread for one call, and comes back at the latest when
//! - nothing was heard for `silence`: the call beats a [`Pulse`] at each sign of life;
//! - the call took longer than its size grants it;
//! - the run is cancelled, which is looked at some twenty times a second.
//!
//! One runtime serves the process, started by its first call. It is never shut down, so that the end of the process
//! does not wait for it: a thread may hang for good in a file system call on a dead NFS mount.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::{Bounds, Location, Trouble};

/// How often a call is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Threads for file system calls and name look-ups. Those that hang stay; the calls that find none end as silent.
const BLOCKING: usize = 64;

static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING)
        .thread_name("kcache-transport")
        .enable_all()
        .build()
});

/// How long a caller waits.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    bounds: Bounds,
    cancel: Arc<AtomicBool>,
}

/// A call's signs of life.
pub(super) struct Pulse {
    bounds: Bounds,
    end: Instant,
    due: Cell<Instant>,
    looked: Cell<Instant>,
}

impl Patience {
    pub(super) fn of(location: &Location) -> Patience {
        Patience { bounds: location.bounds, cancel: location.cancel.clone() }
    }

    /// Waits for a call that moves at most `size` bytes. Dropping it must end it.
    pub(super) fn run<T>(
        &self,
        size: u64,
        call: impl AsyncFnOnce(&Pulse) -> Result<T, Trouble>,
    ) -> Result<T, Trouble> {
        let runtime =
            RUNTIME.as_ref().map_err(|e| Trouble::Unreachable(format!("cannot start a thread: {e}")))?;
        let total = self.bounds.total(size);
        let pulse = Pulse::new(self.bounds, total);
        runtime.block_on(async {
            let mut call = pin!(call(&pulse));
            // Not before the call has had its first turn.
            let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
            loop {
                // Looking comes first: what is always ready would never let it have its turn.
                tokio::select! {
                    biased;
                    _ = look.tick() => self.look(&pulse, total)?,
                    result = &mut call => return result,
                }
            }
        })
    }

    fn look(&self, pulse: &Pulse, total: Duration) -> Result<(), Trouble> {
        let now = Instant::now();
        pulse.forgive(now);
        if self.cancel.load(Ordering::Relaxed) {
            Err(Trouble::Cancelled)
        } else if now >= pulse.end {
            Err(Trouble::Slow(total))
        } else if now >= pulse.due.get() {
            Err(Trouble::Silent(self.bounds.silence))
        } else {
            Ok(())
        }
    }
}

impl Pulse {
    fn new(bounds: Bounds, total: Duration) -> Pulse {
        let now = Instant::now();
        Pulse { bounds, end: now + total, due: Cell::new(now + bounds.silence), looked: Cell::new(now) }
    }

    /// Something was heard.
    pub(super) fn beat(&self) {
        self.due.set(Instant::now() + self.bounds.silence);
    }

    /// Time in which nobody listened was not silence: on a machine with too much to do this thread may have slept itself.
    fn forgive(&self, now: Instant) {
        let asleep = now.duration_since(self.looked.replace(now)).saturating_sub(2 * LOOK);
        self.due.set(self.due.get() + asleep);
    }

    /// Nothing will be heard while so many bytes are sent.
    pub(super) fn sending(&self, size: usize) {
        let at_worst = Duration::from_secs(size as u64 / self.bounds.rate.max(1));
        self.due.set(Instant::now() + self.bounds.silence + at_worst);
    }

    /// Nothing will be heard until it is done.
    pub(super) fn holding(&self) {
        self.due.set(self.end);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn patience(silence: u64, base: u64) -> Patience {
        let bounds =
            Bounds { silence: Duration::from_millis(silence), base: Duration::from_millis(base), rate: 1 };
        Patience { bounds, cancel: Arc::default() }
    }

    async fn every(milliseconds: u64, beat: impl Fn()) -> Result<(), Trouble> {
        loop {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            beat();
        }
    }

    #[test]
    fn a_call_is_waited_for_until_it_is_done() {
        assert_eq!(patience(100_000, 100_000).run(0, async |_| Ok(7)), Ok(7));
        let slow = async |pulse: &Pulse| {
            pulse.holding();
            tokio::time::sleep(Duration::from_millis(120)).await;
            Ok(7)
        };
        assert_eq!(patience(1, 100_000).run(0, slow), Ok(7), "silence was announced");
    }

    #[test]
    fn silence_ends_it() {
        let silent = Err(Trouble::Silent(Duration::from_millis(60)));
        assert_eq!(patience(60, 100_000).run::<()>(0, async |_| pending().await), silent);
        let then_silent = async |pulse: &Pulse| {
            pulse.beat();
            pending().await
        };
        assert_eq!(patience(60, 100_000).run::<()>(0, then_silent), silent);
    }

    #[test]
    fn slowness_ends_it() {
        let slow = async |pulse: &Pulse| every(1, || pulse.beat()).await;
        assert_eq!(patience(100_000, 120).run(0, slow), Err(Trouble::Slow(Duration::from_millis(120))));
    }

    #[test]
    fn what_is_always_ready_is_ended_too() {
        let busy = async |pulse: &Pulse| {
            loop {
                pulse.beat();
                tokio::task::coop::consume_budget().await;
            }
        };
        let end: Result<(), Trouble> = patience(100_000, 120).run(0, busy);
        assert_eq!(end, Err(Trouble::Slow(Duration::from_millis(120))));
    }

    #[test]
    fn the_end_of_the_run_ends_it() {
        let patience = patience(100_000, 100_000);
        let cancel = patience.cancel.clone();
        std::thread::spawn(move || cancel.store(true, Ordering::Relaxed));
        assert_eq!(patience.run::<()>(0, async |_| pending().await), Err(Trouble::Cancelled));
    }
}
