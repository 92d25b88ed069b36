//! Recovery after a crash: completes or undoes the interrupted transaction.

use super::commit::{back, displace, finish, forward, sweep};
use super::journal::{Hash, Journal};
use super::recover_without_journal::Recovered;
use super::tree::{DEP_BIN, Tree};
use super::{Error, Recovery, Step, disk, recover_without_journal};

/// Recovers the tree. The caller holds the lock.
pub(super) fn recover(tree: &Tree, step: &Step<'_>) -> Result<Recovered, Error> {
    let done = |recovery| Recovered { recovery, reindex: false };
    if !disk::exists(&tree.staging)? {
        return Ok(done(Recovery::Nothing));
    }
    let journal = match Journal::read(tree) {
        Ok(Some(journal)) => journal,
        Ok(None) => {
            sweep(tree)?;
            return Ok(done(Recovery::Litter));
        }
        // Neither the journal nor its copy is intact.
        Err(Error::Damaged { .. }) => return recover_without_journal::recover(tree, step),
        Err(error) => return Err(error),
    };
    let live = disk::digest(&tree.index(DEP_BIN))?.map(Hash);
    if live == journal.new_index {
        forward(tree, &journal, step)?;
        finish(tree, &journal, step)?;
        return Ok(done(Recovery::Finished));
    }
    if live == journal.old_index {
        back(tree, &journal, step)?;
        return Ok(done(Recovery::Undone));
    }
    after_foreign_depmod(tree, &journal, step)
}

/// The indexes do not show whether the commit happened, so what counts is whether the old set is complete. The
/// generation leaves the tree only after the commit, as a whole; of foreign modules to be removed, the first missing
/// one shows it.
fn after_foreign_depmod(tree: &Tree, journal: &Journal, step: &Step<'_>) -> Result<Recovered, Error> {
    let generation_is_there = match &journal.old {
        Some(old) => disk::exists(&tree.generation(old))?,
        None => true,
    };
    let old_is_there = generation_is_there && journal.others.all_there(tree)?;
    let recovery = if old_is_there {
        displace(tree, journal, step)?;
        Recovery::Undone
    } else {
        finish(tree, journal, step)?;
        Recovery::Finished
    };
    Ok(Recovered { recovery, reindex: true })
}
