//! The inputs of a build, and its key.
//!
//! ```text
//! headers    the kernel's headers, configuration and symbols
//! source     the package's source, and the administrator's overrides
//! recipe     the package's recipe for this kernel, evaluated in the sandbox
//! tools      the programs that affect the modules
//! undeclared files of the system that a build read without declaring them: not in the key, but compared before an entry is used
//! identify   all inputs of one package for one kernel  ->  key
//! change     a changed input
//! explain    two keys, field by field
//! ```

pub mod change;
pub mod explain;
mod headers;
pub mod identify;
pub mod key;
mod recipe;
mod source;
mod tools;
pub mod undeclared;
