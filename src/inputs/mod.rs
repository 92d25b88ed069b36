//! The inputs of a build, and the key that is computed from them.
//!
//! ```text
//! headers    the kernel's headers, configuration and symbols
//! source     the package's source, and the administrator's overrides
//! recipe     the package's recipe, evaluated for this kernel in the sandbox
//! tools      the programs that determine the modules' bits
//! system_files  files that tell the distribution, and System.map, for packages that mention them
//! undeclared files of the system that a build read: not in the key, but recorded in the entry and compared
//! identify   all inputs of one package for one kernel  ->  key
//! version    which version of a package is meant for a kernel
//! change     a changed input
//! difference two keys, field by field
//! explain    why a build is found or not: the nearest build, and the files that differ
//! kin        builds of the same thing by other tools, and which may stand in for one another
//! ```

pub mod change;
pub mod difference;
pub mod explain;
mod headers;
pub mod identify;
pub mod key;
pub mod kin;
mod recipe;
mod source;
pub mod system_files;
mod tools;
pub mod undeclared;
pub mod version;
