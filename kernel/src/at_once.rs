//! Two things at once.

use std::panic::resume_unwind;
use std::thread;

/// Does two things at once; a panic of either is one here.
pub fn both<A, B: Send>(a: impl FnOnce() -> A, b: impl FnOnce() -> B + Send) -> (A, B) {
    thread::scope(|scope| {
        let other = scope.spawn(b);
        let a = a();
        (a, other.join().unwrap_or_else(|panic| resume_unwind(panic)))
    })
}
