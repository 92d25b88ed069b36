//! `journal.json`: what is about to be done to the live tree.
//!
//! It is on stable storage before the first change and gone after the last one. It names everything that going on or
//! going back needs; whether to go on or back is not in it but in the tree: in the live `modules.dep.bin`.

use serde::{Deserialize, Serialize};

use super::checked_json::hex;
use super::checked_json::{self, Record, Unreadable};
use super::foreign_files::ForeignFiles;
use super::generation::is_index;
use super::names::DIR_PREFIX;
use super::tree::{DEP_BIN, Tree};
use super::{Error, disk};

/// Stored: add fields, never rename them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Journal {
    pub(super) format: u32,
    /// The kernel whose tree it is about; earlier versions of this program did not say.
    #[serde(default)]
    pub(super) kernel: Option<String>,
    /// The generation to be renamed in; `None`: the last package goes.
    pub(super) new: Option<String>,
    /// The digest of its `generation.json`.
    pub(super) new_manifest: Option<Hash>,
    /// The generation that was installed.
    pub(super) old: Option<String>,
    /// Directories under `updates/` to be taken away after the commit.
    pub(super) retire: Vec<String>,
    /// `updates/` is made for this generation: going back takes it away.
    pub(super) makes_updates: bool,
    /// `updates/` was made for kcache and goes with the last package.
    pub(super) drops_updates: bool,
    /// `modules.dep.bin` last.
    pub(super) indexes: Vec<IndexChange>,
    /// What becomes of files of others.
    #[serde(default)]
    pub(super) others: ForeignFiles,
    /// The digest of `modules.dep.bin` before; `None`: there was none.
    pub(super) old_index: Option<Hash>,
    /// The digest of `modules.dep.bin` after; `None`: it goes.
    pub(super) new_index: Option<Hash>,
}

/// What happens to one of kmod's indexes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct IndexChange {
    pub(super) name: String,
    /// There is one now; it is kept in `old/`.
    pub(super) before: bool,
    /// There will be one; it lies in the staged base. If not, it is deleted.
    pub(super) after: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Hash(#[serde(with = "hex")] pub(super) blake3::Hash);

impl Record for Journal {
    const CONTEXT: &'static str = "kcache 2026-11 journal.json checksum v1";
}

impl Journal {
    /// Reads the journal of an interrupted transaction, or its copy where it is damaged. `None`: there is none.
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

    /// A name with which files elsewhere would be moved or deleted: the journal may have come with a foreign image.
    fn stray(&self) -> Option<&str> {
        let is_dir = |name: &str| name.starts_with(DIR_PREFIX) && !name.contains('/');
        let mut generations = [&self.new, &self.old].into_iter().flatten();
        let stray = self.indexes.iter().map(|change| &change.name).find(|name| !is_index(name));
        let stray = stray.or_else(|| self.retire.iter().find(|name| !is_dir(name)));
        stray.or_else(|| generations.find(|name| name.contains('/'))).map(String::as_str)
    }

    /// Puts the journal on stable storage, with all names on the way to it. The copy first: it says nothing by itself.
    pub(super) fn open(&self, tree: &Tree) -> Result<(), Error> {
        let text = checked_json::encode(self)?;
        disk::write_file(&checked_json::copy(&tree.journal()), &text)?;
        let draft = tree.staging.join("journal.json.new");
        disk::write_file(&draft, &text)?;
        fs_err::rename(draft, tree.journal())?;
        disk::sync_dir(&tree.staging)?;
        Ok(disk::sync_dir(tree.parent())?)
    }

    /// Declares the transaction finished or undone; what is left in the staging directory is litter then.
    pub(super) fn close(tree: &Tree) -> Result<(), Error> {
        disk::if_found(fs_err::remove_file(tree.journal()))?;
        Ok(disk::sync_dir(&tree.staging)?)
    }

    /// The changes of all indexes but the one that commits, and that one.
    pub(super) fn split_commit(&self) -> (&[IndexChange], Option<&IndexChange>) {
        match self.indexes.split_last() {
            Some((commit, others)) if commit.name == DEP_BIN => (others, Some(commit)),
            _ => (&self.indexes, None),
        }
    }
}
