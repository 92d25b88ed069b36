//! One run: what it was given, what it has found out, and what is meant by the words that were typed.

pub mod context;
pub mod counters;
pub mod labels;
pub mod large_objects;
pub mod policy;
pub mod progress;
pub mod request;
pub mod sandbox;
pub mod select;
pub mod session;
pub mod signing;
