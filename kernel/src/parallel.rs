//! Running things in parallel on threads of their own: a thread of a shared pool could run other work while it waits.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle};

/// Runs two functions in parallel. A panic of either is propagated.
pub fn both<A, B: Send>(a: impl FnOnce() -> A, b: impl FnOnce() -> B + Send) -> (A, B) {
    thread::scope(|scope| {
        let other = scope.spawn(b);
        let a = a();
        (a, joined(other))
    })
}

/// Calls a function for all items, at most `at_once` in parallel; returns the results in order.
pub fn each<'a, T: Sync, R: Send>(all: &'a [T], at_once: usize, work: impl Fn(&'a T) -> R + Sync) -> Vec<R> {
    if all.len().min(at_once) < 2 {
        return all.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(one) = all.get(at) else { return done };
            done.push((at, work(one)));
        }
    };
    let mut done: Vec<(usize, R)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.min(all.len())).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(joined).collect()
    });
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn each_item_is_processed_once_with_results_in_order() {
        for at_once in [0, 1, 3, 100] {
            let all: Vec<usize> = (0..50).collect();
            assert_eq!(each(&all, at_once, |n| n * 2), all.iter().map(|n| n * 2).collect::<Vec<_>>());
        }
        assert!(each(&[], 2, |n: &usize| *n).is_empty());
    }

    #[test]
    fn at_most_the_given_number_run_in_parallel() {
        let (barrier, all) = (Barrier::new(3), [(); 3]);
        let threads = each(&all, 3, |()| {
            barrier.wait();
            format!("{:?}", thread::current().id())
        });
        assert_eq!(threads.into_iter().collect::<BTreeSet<_>>().len(), 3);
    }
}
