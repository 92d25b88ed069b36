//! Which version of a package is meant for a kernel: the newest whose recipe does not exclude it.
//!
//! Packages for several kernel series often come in several versions, side by side in `/usr/src`, each with its own
//! `BUILD_EXCLUSIVE_KERNEL`, `OBSOLETE_BY` or `[kernels]`. A kernel that the newest version is not for gets the next older one that is.
//! Who names a version or a directory means that one.

use kcache_kernel::kernels::{BuildTree, Kernel};
use kcache_kernel::packages::Package;

use crate::run::request::Request;
use crate::run::select::{self, Packages};
use crate::run::session::Session;

/// A request for a package, in the version that is meant for a kernel; the newest, where none is, or where that cannot be told
/// for want of headers.
pub fn request<'a>(
    session: &Session,
    packages: &'a Packages,
    package: &'a Package,
    kernel: &'a Kernel,
) -> Request<'a> {
    let exact = packages.is_exact(package);
    let request = Request { package, kernel, all: &packages.all, exact };
    match kernel.build_tree() {
        Some(tree) if !exact => Request { package: meant(session, &request, package, tree), ..request },
        _ => request,
    }
}

/// All versions of a package, the newest first; one alone of a package that was asked for in a version.
pub fn versions<'a>(request: &Request<'a>) -> Vec<&'a Package> {
    let mut versions: Vec<&Package> = match request.exact {
        true => Vec::new(),
        false => request.all.iter().rev().filter(|other| other.name == request.package.name).collect(),
    };
    if !versions.iter().any(|other| other.version == request.package.version) {
        versions.insert(0, request.package);
    }
    versions
}

/// The newest version of this package, or of this name, that its recipe does not exclude; else the package itself.
fn meant<'a>(
    session: &Session,
    request: &Request<'a>,
    package: &'a Package,
    tree: &BuildTree,
) -> &'a Package {
    let versions = versions(&Request { package, ..*request });
    if versions.len() < 2 {
        return package;
    }
    // A recipe that cannot be read is that of a version that fails, and says so.
    let is_meant = |version: &&&Package| !matches!(excluded(session, request, version, tree), Ok(Some(_)));
    versions.iter().find(is_meant).copied().unwrap_or(package)
}

/// The package of this name that another one is built against for a kernel; `None` if there is none.
pub fn dependency<'a>(
    session: &Session,
    request: &Request<'a>,
    name: &str,
    tree: &BuildTree,
) -> Option<&'a Package> {
    let newest = select::find(request.all, name)?;
    Some(meant(session, &Request { exact: false, ..*request }, newest, tree))
}

/// Each version and why it is not meant for the kernel, where there are several and none is.
pub fn considered(session: &Session, request: &Request, tree: &BuildTree) -> Vec<(String, String)> {
    let versions = versions(request);
    let reason = |package: &&Package| {
        let excluded = excluded(session, request, package, tree).ok().flatten()?;
        Some((package.version.clone(), excluded))
    };
    if versions.len() < 2 { Vec::new() } else { versions.iter().filter_map(reason).collect() }
}

fn excluded(
    session: &Session,
    request: &Request,
    package: &Package,
    tree: &BuildTree,
) -> crate::error::Result<Option<String>> {
    let source = session.seen_source(package)?;
    Ok(session.recipe(package, source, request.kernel, tree)?.excluded)
}
