//! Repairs at boot, before modules are loaded. It uses no network and builds nothing.
//!
//! - Every kernel's tree: completes or undoes an interrupted installation, and deletes kcache's files of a kernel that was
//!   removed. On a healthy host this looks for a few names and writes nothing.
//! - The running kernel: installs wanted modules that are missing or corrupt, if the store has them. Others stay as they are: a
//!   package that does not build must not delay a boot.
//!
//! If it is killed at any moment, the next boot continues.

use std::collections::BTreeSet;

use kcache_kernel::install::{self as tree, Generation};
use kcache_kernel::kernels::{self, Kernel};
use kcache_kernel::packages::Package;
use kcache_store::Manifest;

use crate::deploy::generation::{self, Done, SetChange};
use crate::error::{Error, Result};
use crate::inputs::version;
use crate::resolve;
use crate::resolve::resolution::Resolution;
use crate::run::context::Context;
use crate::run::policy::Need;
use crate::run::request::Options;
use crate::run::select::Packages;
use crate::run::session::Session;

/// Recovers every kernel's tree; returns the errors with their releases. One error does not prevent the others.
pub fn settle(context: &Context) -> Result<Vec<(String, Error)>> {
    let mut failed = Vec::new();
    for dir in kernels::trees(&context.root)? {
        let settled = match tree::is_orphaned(&dir) {
            Ok(true) => generation::retire(context, dir.release()).map(|_| ()),
            Ok(false) => generation::recover(context, &dir),
            Err(error) => Err(error.into()),
        };
        failed.extend(settled.err().map(|error| (dir.release().to_owned(), error)));
    }
    Ok(failed)
}

/// Installs what is missing or corrupt in a kernel's tree, as far as the store has it. `None` if nothing was missing.
pub fn complete(session: &Session, kernel: &Kernel, packages: &Packages) -> Result<Option<Done>> {
    let dir = generation::tree(session, kernel)?;
    let tree::Base { generation, fault, .. } = tree::base(dir)?;
    let missing = missing(session, kernel, packages, generation.as_ref())?;
    let is_corrupt = match &generation {
        Some(generation) => !tree::verify(dir, generation)?.is_empty(),
        None => fault.is_some(),
    };
    if missing.is_empty() && !is_corrupt {
        return Ok(None);
    }
    generation::apply(session, kernel, &SetChange::Add(&missing)).map(Some)
}

/// Builds in the store of packages that are wanted and not installed.
fn missing(
    session: &Session,
    kernel: &Kernel,
    packages: &Packages,
    installed: Option<&Generation>,
) -> Result<Vec<Manifest>> {
    let Some(store) = &session.store else { return Ok(Vec::new()) };
    let sets = installed.into_iter().flat_map(|generation| &generation.set.packages);
    let present: BTreeSet<&str> = sets.map(|package| package.name.as_str()).collect();
    let options = Options { automatic_only: !packages.named, fetch_only: true, ..Options::default() };
    let mut found = Vec::new();
    let need = |package: &Package| session.context.policy.need(&package.name, &kernel.release);
    let is_wanted =
        |package: &&Package| need(package) != Need::Ignored && !present.contains(package.name.as_str());
    for package in packages.chosen.iter().filter(is_wanted) {
        // Computing a key requires reading all headers, so do it only if there is a build.
        let rows = store.find(&[("package", &package.name), ("kernel", &kernel.release)])?;
        if !rows.iter().any(|row| row.built) {
            continue;
        }
        let request = version::request(session, packages, package, kernel);
        match resolve::obtain(session, &request, &options) {
            Ok(Resolution::Ready { manifest, .. }) => found.push(*manifest),
            Ok(_) => {}
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            // An unreadable one does not prevent others from being installed.
            Err(error) => {
                let progress = session.context.progress();
                progress.warn(&format!("{}: {}", request.name(), crate::error::chain(&error)));
            }
        }
    }
    Ok(found)
}
