//! The flow of kcache: it joins knowledge of kernels with a store of bytes.
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
//! Each word is a folder, and imports run one way: `deploy` and `authoring` import `verdict`, which imports `resolve`, and so on
//! down to `run`, which imports none of the others. Tests in `layers.rs` verify that.
//!
//! `kcache_kernel` knows kernels and no cache. `kcache_store` knows bytes: kernels and packages are only names in paths of
//! pointers and in labels. Here they meet. Nothing here prints, or reads the environment or the wall clock:
//! [`run::context::Context`] is passed in. The monotonic clock is read for time limits, pauses and durations.

pub mod authoring;
pub mod build;
pub mod deploy;
pub mod error;
pub mod inputs;
#[cfg(test)]
mod layers;
pub mod resolve;
pub mod run;
pub mod shell;
pub mod verdict;

pub use kcache_kernel as kernel;
pub use kcache_store as store;
