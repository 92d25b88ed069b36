//! The flow of kcache, which joins knowledge of kernels with a store of bytes.
//!
//! ```text
//! run ── inputs ──── resolve ─┬─ found in the local store ──────────────┬── deploy ── report
//!        a key of   one build │                                         │   one transaction
//!        all that   for each  ├─ fetched from a shared cache ───────────┤   for each kernel
//!        it depends package   │                                         │
//!        on         and       └─ build ── modules checked ── published ─┘── verdict
//!                   kernel                                                  is a kernel ready?
//! ```
//!
//! Each word is a folder, and imports go one way: `deploy` and `authoring` import from `verdict`, which imports from
//! `resolve`, and so on down to `run`, which imports from none of the others. The tests in `layers.rs` verify that.
//!
//! `kcache_kernel` knows kernels and no cache. `kcache_store` knows bytes: for it, kernels and packages are names in
//! labels and in paths of pointers. Here they are joined. Nothing here prints, reads the environment, or reads the
//! wall clock: [`run::context::Context`] is passed in. The monotonic clock is read for time limits, pauses and
//! durations.

pub mod authoring;
pub mod build;
pub mod deploy;
pub mod error;
pub mod inputs;
#[cfg(test)]
mod layers;
pub mod resolve;
pub mod run;
pub mod verdict;

pub use kcache_kernel as kernel;
pub use kcache_store as store;
