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
//!
//! ```no_run
//! use kcache::deploy::{self, Job};
//! use kcache::error::Result;
//! use kcache::resolve::resolution::Resolution;
//! use kcache::run::context::Context;
//! use kcache::run::request::Options;
//! use kcache::run::select;
//! use kcache::run::session::Session;
//!
//! /// Builds or fetches zfs for every installed kernel with headers, and installs it.
//! fn install_zfs(context: &Context) -> Result<()> {
//!     let kernels = select::kernels(&context.root, &[], "", &|kernel| kernel.build_tree().is_some())?;
//!     let packages = select::packages(&context.root, &["zfs".to_owned()], &context.elsewhere)?;
//!     let session = Session::new(context, Some(context.open_store()?))?;
//!     let options = Options::default();
//!     let job = Job { packages: &packages, kernels: &kernels, options, check: false, install: true };
//!     for report in deploy::run(&session, &job)?.kernels {
//!         for result in report.packages {
//!             match result.answer? {
//!                 Resolution::Ready { manifest, .. } => println!("{}: {}", result.request.name(), manifest.key),
//!                 Resolution::Fails { .. } => println!("{}: does not build", result.request.name()),
//!                 Resolution::Excluded(reason) => println!("{}: {reason}", result.request.name()),
//!                 _ => println!("{}: no build", result.request.name()),
//!             }
//!         }
//!         if let Some(done) = report.transaction.transpose()? {
//!             println!("{}: generation {:?}", report.kernel.release, done.generation);
//!         }
//!     }
//!     Ok(())
//! }
//! ```

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
