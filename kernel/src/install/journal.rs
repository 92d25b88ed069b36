//! `journal.json`: the intended changes to the live tree.
//!
//! It is durable before the first change and deleted after the last one. It contains everything needed to complete or
//! undo the transaction; which of the two is decided by the live `modules.dep.bin`.

use serde::{Deserialize, Serialize};

use super::checked_json::hex;
use super::checked_json::{self, Record, Unreadable};
use super::foreign_files::ForeignFiles;
use super::generation::is_index;
use super::names::DIR_PREFIX;
use super::tree::{DEP_BIN, Tree};
use super::{Error, disk};

/// The journal's document. Stored: add fields, never rename them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) format: u32,
    /// Release of the kernel; earlier versions did not record it.
    #[serde(default)]
    pub(super) kernel: Option<String>,
    /// Name of the generation to install; `None` if the last package is removed.
    pub(super) new: Option<String>,
    /// BLAKE3 digest of its `generation.json`.
    pub(super) new_manifest: Option<Hash>,
    /// Name of the generation that was installed.
    pub(super) old: Option<String>,
    /// Directories under `updates/` to remove after the commit.
    pub(super) retire: Vec<String>,
    /// `updates/` is created for this generation; undoing deletes it.
    pub(super) makes_updates: bool,
    /// `updates/` was created by kcache and is deleted with the last package.
    pub(super) drops_updates: bool,
    /// Changes of indexes, `modules.dep.bin` last.
    pub(super) indexes: Vec<IndexChange>,
    /// Changes of foreign modules.
    #[serde(default)]
    pub(super) others: ForeignFiles,
    /// BLAKE3 digest of `modules.dep.bin` before; `None` if it did not exist.
    pub(super) old_index: Option<Hash>,
    /// BLAKE3 digest of `modules.dep.bin` after; `None` if it is deleted.
    pub(super) new_index: Option<Hash>,
}

/// The change of one of kmod's indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IndexChange {
    pub(super) name: String,
    /// Whether it exists before; then `old/` has a copy.
    pub(super) before: bool,
    /// Whether it exists after; then it is in the staged base. If not, it is deleted.
    pub(super) after: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hash(#[serde(with = "hex")] pub(super) blake3::Hash);

impl Record for Journal {
    const CONTEXT: &'static str = "kcache 2026-11 journal.json checksum v1";
}

impl Journal {
    /// Reads the journal of an interrupted transaction, or its copy if it is corrupt. `None` if there is none.
    pub(super) fn read(tree: &Tree) -> Result<Option<Self>, Error> {
        let path = tree.journal();
        let parse = |bytes: &[u8]| Self::parse(bytes, &tree.release);
        let journal = match checked_json::read(&path, parse) {
            Ok(Some(journal)) => journal,
            Ok(None) => return Ok(None),
            Err(error @ Error::Newer { .. }) => return Err(error),
            Err(error) => match checked_json::read(&checked_json::copy(&path), parse) {
                Ok(Some(journal)) => journal,
                _ => return Err(error),
            },
        };
        tree.check_staging()?;
        journal.others.check_ways(tree)?;
        Ok(Some(journal))
    }

    fn parse(bytes: &[u8], release: &str) -> Result<Self, Unreadable> {
        let journal: Self = checked_json::decode(bytes)?;
        if let Some(kernel) = journal.kernel.as_ref().filter(|kernel| *kernel != release) {
            return Err(Unreadable::because(format_args!("it belongs to kernel {kernel}")));
        }
        if let Some(name) = journal.stray() {
            return Err(Unreadable::because(format_args!("{name:?} points outside")));
        }
        journal.others.check_names().map_err(Unreadable::because)?;
        Ok(journal)
    }

    /// A name that would lead to files elsewhere, if any: the journal may be part of an untrusted image.
    fn stray(&self) -> Option<&str> {
        let is_dir = |name: &str| name.starts_with(DIR_PREFIX) && !name.contains('/');
        let mut generations = [&self.new, &self.old].into_iter().flatten();
        let stray = self.indexes.iter().map(|change| &change.name).find(|name| !is_index(name));
        let stray = stray.or_else(|| self.retire.iter().find(|name| !is_dir(name)));
        stray.or_else(|| generations.find(|name| name.contains('/'))).map(String::as_str)
    }

    /// Writes the journal durably. The copy is written first, because it means nothing by itself.
    pub(super) fn open(&self, tree: &Tree) -> Result<(), Error> {
        let text = checked_json::encode(self)?;
        disk::write_file(&checked_json::copy(&tree.journal()), &text)?;
        let draft = tree.staging.join("journal.json.new");
        disk::write_file(&draft, &text)?;
        fs_err::rename(draft, tree.journal())?;
        disk::sync_dir(&tree.staging)?;
        Ok(disk::sync_dir(tree.parent())?)
    }

    /// Ends the transaction; what remains in the staging directory is garbage.
    pub(super) fn close(tree: &Tree) -> Result<(), Error> {
        disk::if_found(fs_err::remove_file(tree.journal()))?;
        Ok(disk::sync_dir(&tree.staging)?)
    }

    /// The changes of all indexes except the committing one, and that one.
    pub(super) fn split_commit(&self) -> (&[IndexChange], Option<&IndexChange>) {
        match self.indexes.split_last() {
            Some((commit, others)) if commit.name == DEP_BIN => (others, Some(commit)),
            _ => (&self.indexes, None),
        }
    }
}
