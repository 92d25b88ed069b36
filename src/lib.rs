//! The flow of kcache: what joins facts about kernels with a store of bytes.
//!
//! ```text
//! packages x kernels ─ facts ─ key ─ look-up ─┬─ hit ────────────────────────────────────────────┐
//!                                             └─ miss ─┬─ fetch from a shared cache ─────────────┤
//!                                                      └─ build ─ admit ─ store ─ sign and share ┴─ install ─ report
//! ```
//!
//! `kcache_kernel` knows kernels and has never heard of a cache, `kcache_store` knows bytes and has never heard of a
//! kernel; here they meet. Nothing here prints, or reads the environment or the clock: [`world::World`] is passed in.

pub mod admit;
pub mod adopt;
pub mod author;
pub mod boot;
pub mod boot_test;
pub mod debuginfo;
pub mod dependencies;
pub mod detached;
pub mod ensure;
pub mod error;
pub mod explain;
pub mod facts;
pub mod fetch;
pub mod gc;
pub mod install;
pub mod key;
pub mod large_objects;
mod launcher;
pub mod log;
pub mod make;
pub mod marks;
pub mod observed;
pub mod origin;
pub mod policy;
pub mod reproduce;
pub mod rooms;
pub mod schedule;
pub mod scripts;
pub mod select;
pub mod share;
pub mod signing;
pub mod tally;
pub mod verdict;
pub mod verify;
pub mod world;

pub use kcache_kernel as kernel;
pub use kcache_store as store;
