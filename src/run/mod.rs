//! One run: its context, what it has determined, and which kernels and packages are selected.

pub mod context;
pub mod counters;
pub mod labels;
pub mod large_objects;
pub mod policy;
pub mod progress;
pub mod request;
pub mod sandbox;
pub mod select;
pub mod services;
pub mod session;
pub mod signing;
