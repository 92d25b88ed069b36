//! Builds put into a kernel's tree.

pub mod adopt;
pub mod boot_repair;
pub mod debuginfo;
pub mod detached_signature;
pub mod gc;
pub mod generation;
pub mod scripts;
pub mod verify;
