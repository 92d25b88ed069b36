//! The verdict as hooks give it: printed as `kcache check` prints it, and left as ready files.

use kcache::kernel::install::has_kernel;
use kcache::kernel::kernels;
use kcache::run::context::Context;

use super::super::check;
use crate::args::{Check, Kernels, Selection};
use crate::exit::{Exit, Failure};
use crate::out::Out;

/// Releases of the kernels that could be booted. A directory without a kernel is none: headers alone, or leftovers.
pub fn bootable(context: &Context) -> Result<Vec<String>, Failure> {
    let mut releases = Vec::new();
    for tree in kernels::trees(&context.root).map_err(kcache::error::Error::from)? {
        if has_kernel(&tree)? {
            releases.push(tree.release().to_owned());
        }
    }
    Ok(releases)
}

/// Prints whether these kernels are ready, and sets their ready files.
pub fn print(context: &Context, out: &Out, releases: &[String]) -> Result<Exit, Failure> {
    let which = of_releases(releases);
    check::check(context, out, &Check { which, build: false, remote: false, mark: true }, false)
}

/// Every package for these kernels.
pub fn of_releases(releases: &[String]) -> Selection {
    Selection { packages: Vec::new(), kernels: Kernels { kernels: releases.to_vec() } }
}
