//! Explaining why a build is found or not: the fields of its key, and the differences from the nearest entry.

use kcache_kernel::kernels::BuildTree;
use kcache_store::tree::{FileChange, Listing};
use kcache_store::{Digest, Entry, Field, Key, Manifest, Observed, Outcome, Store};

use crate::error::Result;
use crate::inputs::difference::{Difference, differences};
use crate::inputs::identify::{self, Identified};
use crate::inputs::{key, kin, undeclared};
use crate::run::request::Request;
use crate::run::session::Session;

/// Entries of a package that are compared to find the nearest, newest first. The nearest is hardly ever older than
/// this many builds.
const COMPARED: usize = 200;

/// An explained key.
pub struct Explanation {
    /// The key itself.
    pub key: Key,
    /// The fields that were hashed into it.
    pub fields: Vec<Field>,
    /// Why the package does not support this kernel; `None` if it does.
    pub excluded: Option<String>,
    /// The digest of the inputs without the tools.
    pub kin: Digest,
    /// The key's entry, if the store has it.
    pub entry: Option<Entry>,
    /// The undeclared inputs of that entry, and whether each is the same here.
    pub observed: Vec<(Observed, bool)>,
    /// If there is no entry, the entry of the package with the fewest differences.
    pub nearest: Option<Nearest>,
}

/// The entry of another key.
pub struct Nearest {
    /// The entry.
    pub entry: Entry,
    /// The fields that differ.
    pub differences: Vec<Difference>,
    /// Why it is used although it differs, if it is.
    pub stands_in: Option<StandsIn>,
}

impl Nearest {
    /// An entry from elsewhere, compared with an explained key. The files of its trees are known as far as the store has lists of
    /// them.
    pub fn of(session: &Session, explanation: &Explanation, entry: Entry) -> Nearest {
        let fields = &explanation.fields;
        let mut differences = differences(&entry.manifest().fields, fields);
        if let Some(store) = &session.store {
            for difference in &mut differences {
                difference.files =
                    files(store, difference, &entry.manifest().fields, fields).unwrap_or_default();
            }
        }
        Nearest { entry, differences, stands_in: None }
    }
}

/// Why a build by other tools is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandsIn {
    /// It is installed: `install` leaves it alone.
    Installed,
    /// The setting `other-tools` allows it.
    Allowed,
}

/// Explains the key of one package for one kernel.
pub fn explain(session: &Session, request: &Request, tree: &BuildTree) -> Result<Explanation> {
    let id = identify::identify(session, request, tree)?;
    let mut entry = None;
    let mut nearest = None;
    if let Some(store) = &session.store {
        entry = store.lookup(&id.key)?;
        if entry.is_none() {
            nearest = find_nearest(store, &request.package.name, &id.fields)?;
        }
    }
    if let (Some(store), Some(nearest)) = (&session.store, &mut nearest) {
        for difference in &mut nearest.differences {
            difference.files = files(store, difference, &nearest.entry.manifest().fields, &id.fields)?;
        }
        nearest.stands_in = stands_in(session, request, tree, &id, nearest.entry.manifest());
    }
    let read = entry.iter().flat_map(|entry| &entry.manifest().observed);
    let observed = read.map(|file| (file.clone(), undeclared::is_same(&id.facts, file))).collect();
    Ok(Explanation {
        observed,
        key: id.key,
        kin: id.kin,
        fields: id.fields,
        excluded: id.recipe.excluded,
        entry,
        nearest,
    })
}

fn find_nearest(store: &Store, package: &str, fields: &[Field]) -> Result<Option<Nearest>> {
    let mut nearest: Option<Nearest> = None;
    for row in store.find(&[("package", package)])?.iter().take(COMPARED) {
        let Ok(Some(entry)) = store.lookup(&row.key) else { continue };
        let differences = differences(&entry.manifest().fields, fields);
        if nearest.as_ref().is_none_or(|best| differences.len() < best.differences.len()) {
            nearest = Some(Nearest { entry, differences, stands_in: None });
        }
    }
    Ok(nearest)
}

fn stands_in(
    session: &Session,
    request: &Request,
    tree: &BuildTree,
    id: &Identified,
    manifest: &Manifest,
) -> Option<StandsIn> {
    if manifest.outcome != Outcome::Built || key::kin(&manifest.fields) != id.kin {
        return None;
    }
    let installed = session.installed(request.kernel);
    let key = manifest.key.to_string();
    if installed.iter().flat_map(|generation| &generation.set.packages).any(|package| package.key == key) {
        return Some(StandsIn::Installed);
    }
    let policy = session.context.other_tools;
    kin::may_stand_in(policy, &manifest.fields, &id.fields, tree.compiler()).then_some(StandsIn::Allowed)
}

/// The files in which the trees of a field differ, where it is of trees and the store knows both.
fn files(
    store: &Store,
    difference: &Difference,
    before: &[Field],
    now: &[Field],
) -> Result<Vec<(FileChange, String)>> {
    let name = difference.field.to_string();
    let listing = |fields: &[Field]| {
        let digest =
            fields.iter().find(|field| field.name == name).and_then(|field| field.value.parse().ok());
        digest.map(|digest| Listing::of(store, &digest)).transpose().map(Option::flatten)
    };
    Ok(match (listing(before)?, listing(now)?) {
        (Some(before), Some(now)) => before.changes(&now),
        _ => Vec::new(),
    })
}
