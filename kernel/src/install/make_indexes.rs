//! Generating the indexes of the staged base, with [`super::reindex`] or depmod, and verifying the result.
//!
//! Everything that either wrote is read again before any of it is published: each binary index completely,
//! `modules.dep` against `modules.dep.bin`, each of kcache's modules at its own file, and each foreign module that is
//! listed now.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::depmod::{self, written};
use super::foreign_files::ForeignFiles;
use super::indexes::may_be_empty;
use super::names::DIR_PREFIX;
use super::reindex::{Reindexed, reindex};
use super::stage::StagedFacts;
use super::tree::{DEP_BIN, Tree};
use super::{Error, Indexed, Remark, Site, disk};
use crate::bounded_read::{self, MOST_DATA};
use crate::index::{self, DepIndex};
use crate::module_name::ModuleName;

/// The indexes of the staged base.
pub(super) struct Made {
    /// Names of the files to publish, `modules.dep.bin` last.
    pub(super) names: Vec<String>,
    /// `modules.dep.bin`, read again.
    pub(super) index: DepIndex,
    /// BLAKE3 digest of `modules.dep.bin`.
    pub(super) digest: blake3::Hash,
    /// Warnings of depmod.
    pub(super) remarks: Vec<Remark>,
    /// Whether depmod generated them.
    pub(super) by: Indexed,
}

/// Generates the indexes of the staged base, with depmod if necessary, and verifies them.
pub(super) fn run(
    site: &Site<'_>,
    tree: &Tree,
    new: Option<(&str, &StagedFacts)>,
    others: &ForeignFiles,
) -> Result<Made, Error> {
    let (by, remarks) = match reindex(site, tree, new)? {
        Reindexed::Written(read) => (Indexed::Here { read }, Vec::new()),
        Reindexed::Not(reason) => (Indexed::ByDepmod { reason }, depmod::call(site, tree)?),
        Reindexed::Compare(expected) => {
            let remarks = depmod::call(site, tree)?;
            (Indexed::ByDepmod { reason: expected.compare(site, tree)? }, remarks)
        }
    };
    let names = written(&tree.base_tree())?;
    for name in &names {
        check_whole(tree, name)?;
        disk::settle_file(&tree.base_tree().join(name))?;
    }
    disk::sync_dir(&tree.base_tree())?;
    let bytes = bounded_read::bytes(tree.base_tree().join(DEP_BIN), MOST_DATA)?;
    let index =
        DepIndex::parse(&bytes).map_err(|source| Error::Index { name: DEP_BIN.to_owned(), source })?;
    check_agreement(&index, &bounded_read::config(&tree.base_tree().join("modules.dep"))?)?;
    check_others(tree, &index, others)?;
    others.check_index(&index)?;
    Ok(Made { names, index, digest: blake3::hash(&bytes), remarks, by })
}

fn check_whole(tree: &Tree, name: &str) -> Result<(), Error> {
    if !name.ends_with(".bin") {
        return Ok(());
    }
    let bytes = bounded_read::bytes(tree.base_tree().join(name), MOST_DATA)?;
    let listed = disk::if_found(bounded_read::bytes(tree.index("modules.builtin"), MOST_DATA))?;
    if bytes.is_empty() && may_be_empty(name, listed.as_deref()) {
        return Ok(());
    }
    index::verify(&bytes).map_err(|source| Error::Index { name: name.to_owned(), source })
}

/// Checks that `modules.dep` and `modules.dep.bin` agree: they are written one after the other, so both are complete
/// then.
fn check_agreement(index: &DepIndex, text: &str) -> Result<(), Error> {
    let textual: HashMap<&str, &str> = text.lines().filter_map(|line| line.split_once(':')).collect();
    let differs = |entry: &index::IndexEntry<'_>| {
        !textual.get(entry.path).is_some_and(|needs| needs.split_ascii_whitespace().eq(entry.depends()))
    };
    let binary: HashSet<&str> = index.iter().map(|entry| entry.path).collect();
    let different = index.iter().find(differs).map(|entry| entry.path);
    let only_text = || textual.keys().copied().filter(|path| !binary.contains(path)).min();
    match different.or_else(only_text) {
        Some(path) => Err(Error::Disagree { module: path.to_owned() }),
        None => Ok(()),
    }
}

/// Checks that each foreign module that is listed now and still exists remains listed, unless it is to be removed.
fn check_others(tree: &Tree, index: &DepIndex, others: &ForeignFiles) -> Result<(), Error> {
    let Some(Ok(live)) = tree.dep_index()? else { return Ok(()) };
    let ours = format!("updates/{DIR_PREFIX}");
    // By file name: the key in the live index may be corrupt.
    let is_listed = |e: &index::IndexEntry<'_>| {
        ModuleName::of_file(Path::new(e.path)).is_some_and(|m| index.lookup(&m).is_some())
    };
    let gone = |e: &index::IndexEntry<'_>| !e.path.starts_with(&ours) && !is_listed(e);
    match live.iter().find(|e| gone(e) && !others.lets_go(e.path) && tree.path.join(e.path).exists()) {
        Some(entry) => Err(Error::Lost { path: entry.path.to_owned() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_indexes_are_reported() {
        let empty = DepIndex::default();
        assert!(check_agreement(&empty, "").is_ok());
        let error = check_agreement(&empty, "kernel/a.ko: kernel/b.ko\n").unwrap_err();
        assert!(error.to_string().ends_with("differ at kernel/a.ko"), "{error}");
    }
}
