//! The asynchronous runtime, and the time limit of every wait for it.
//!
//! Clients of HTTP, S3 and the like are asynchronous; their callers are ordinary threads. [`Deadline::run`] blocks its
//! thread for one call, at the longest until
//! - there was no sign of life for `silence`: the call beats a [`Heartbeat`] at each;
//! - the call took longer than its size allows;
//! - the run is cancelled, which is checked some twenty times per second.
//!
//! One runtime serves the process, started by the first call. It is never shut down, so that the process can exit
//! while a thread hangs in a file system call on a dead NFS mount.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};

use super::{Bounds, Location, TransportError};

/// Interval at which a call's limits are checked.
const LOOK: Duration = Duration::from_millis(50);
/// Threads for file system calls and name look-ups. Hanging ones are not replaced; calls that find no free thread end
/// as silent.
const BLOCKING: usize = 64;

static RUNTIME: LazyLock<io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING)
        .thread_name("kcache-transport")
        .enable_all()
        .build()
});

/// Time limits of a caller.
#[derive(Debug, Clone)]
pub(super) struct Deadline {
    bounds: Bounds,
    cancel: Arc<AtomicBool>,
}

/// Records a call's signs of life.
pub(super) struct Heartbeat {
    bounds: Bounds,
    end: Instant,
    due: Cell<Instant>,
    looked: Cell<Instant>,
}

impl Deadline {
    pub(super) fn of(location: &Location) -> Deadline {
        Deadline { bounds: location.bounds, cancel: location.cancel.clone() }
    }

    /// Waits for a call that moves at most `size` bytes. Dropping the future must end the call.
    pub(super) fn run<T>(
        &self,
        size: u64,
        call: impl AsyncFnOnce(&Heartbeat) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let runtime = RUNTIME
            .as_ref()
            .map_err(|e| TransportError::Unreachable(format!("cannot start a thread: {e}")))?;
        let total = self.bounds.total(size);
        let heartbeat = Heartbeat::new(self.bounds, total);
        runtime.block_on(async {
            let mut call = pin!(call(&heartbeat));
            // The first check comes after the call was polled once.
            let mut look = tokio::time::interval_at(tokio::time::Instant::now() + LOOK, LOOK);
            loop {
                // Check first: a future that is always ready would otherwise prevent the check.
                tokio::select! {
                    biased;
                    _ = look.tick() => self.look(&heartbeat, total)?,
                    result = &mut call => return result,
                }
            }
        })
    }

    fn look(&self, heartbeat: &Heartbeat, total: Duration) -> Result<(), TransportError> {
        let now = Instant::now();
        heartbeat.forgive(now);
        if self.cancel.load(Ordering::Relaxed) {
            Err(TransportError::Cancelled)
        } else if now >= heartbeat.end {
            Err(TransportError::Slow(total))
        } else if now >= heartbeat.due.get() {
            Err(TransportError::Silent(self.bounds.silence))
        } else {
            Ok(())
        }
    }
}

impl Heartbeat {
    fn new(bounds: Bounds, total: Duration) -> Heartbeat {
        let now = Instant::now();
        Heartbeat { bounds, end: now + total, due: Cell::new(now + bounds.silence), looked: Cell::new(now) }
    }

    /// Records a sign of life.
    pub(super) fn beat(&self) {
        self.due.set(Instant::now() + self.bounds.silence);
    }

    /// Time in which this thread itself did not run does not count as silence, as on an overloaded machine.
    fn forgive(&self, now: Instant) {
        let asleep = now.duration_since(self.looked.replace(now)).saturating_sub(2 * LOOK);
        self.due.set(self.due.get() + asleep);
    }

    /// Allows for the time in which this many bytes are sent without a sign of life.
    pub(super) fn sending(&self, size: usize) {
        let at_worst = Duration::from_secs(size as u64 / self.bounds.rate.max(1));
        self.due.set(Instant::now() + self.bounds.silence + at_worst);
    }

    /// Suspends the limit on silence until the call is done.
    pub(super) fn holding(&self) {
        self.due.set(self.end);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    fn deadline(silence: u64, base: u64) -> Deadline {
        let bounds =
            Bounds { silence: Duration::from_millis(silence), base: Duration::from_millis(base), rate: 1 };
        Deadline { bounds, cancel: Arc::default() }
    }

    async fn every(milliseconds: u64, beat: impl Fn()) -> Result<(), TransportError> {
        loop {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            beat();
        }
    }

    #[test]
    fn a_call_is_waited_for_until_it_is_done() {
        assert_eq!(deadline(100_000, 100_000).run(0, async |_| Ok(7)), Ok(7));
        let slow = async |heartbeat: &Heartbeat| {
            heartbeat.holding();
            tokio::time::sleep(Duration::from_millis(120)).await;
            Ok(7)
        };
        assert_eq!(deadline(1, 100_000).run(0, slow), Ok(7), "silence was announced");
    }

    #[test]
    fn a_silent_call_ends() {
        let silent = Err(TransportError::Silent(Duration::from_millis(60)));
        assert_eq!(deadline(60, 100_000).run::<()>(0, async |_| pending().await), silent);
        let then_silent = async |heartbeat: &Heartbeat| {
            heartbeat.beat();
            pending().await
        };
        assert_eq!(deadline(60, 100_000).run::<()>(0, then_silent), silent);
    }

    #[test]
    fn a_slow_call_ends() {
        let slow = async |heartbeat: &Heartbeat| every(1, || heartbeat.beat()).await;
        assert_eq!(
            deadline(100_000, 120).run(0, slow),
            Err(TransportError::Slow(Duration::from_millis(120)))
        );
    }

    #[test]
    fn a_future_that_is_always_ready_ends() {
        let busy = async |heartbeat: &Heartbeat| {
            loop {
                heartbeat.beat();
                tokio::task::coop::consume_budget().await;
            }
        };
        let end: Result<(), TransportError> = deadline(100_000, 120).run(0, busy);
        assert_eq!(end, Err(TransportError::Slow(Duration::from_millis(120))));
    }

    #[test]
    fn cancellation_ends_a_wait() {
        let deadline = deadline(100_000, 100_000);
        let cancel = deadline.cancel.clone();
        std::thread::spawn(move || cancel.store(true, Ordering::Relaxed));
        assert_eq!(deadline.run::<()>(0, async |_| pending().await), Err(TransportError::Cancelled));
    }
}
