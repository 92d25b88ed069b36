//! What a build depends on, and the key that is made of it.
//!
//! ```text
//! headers    the kernel's headers, configuration and symbols
//! source     the package's source, and the administrator's overrides
//! recipe     what the package's recipe says to this kernel, evaluated in the sandbox
//! tools      the programs that shape the bits
//! undeclared files of the system that a build read without saying so: not in the key, compared with an entry's
//! identify   all of them, of one package for one kernel  ->  key
//! change     an input that is another than before
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
