//! Verifying that the index equals the entries.
//!
//! Rows may be missing, because a crash between writing an entry and its row leaves that. No look-up depends on them,
//! but listings do, so this is reported and repaired.

use std::sync::atomic::AtomicBool;

use super::must_go_on;
use crate::index::Row;
use crate::{Result, Store, entry, shards};

/// Rows to read at a time.
const PAGE: u32 = 1024;

/// What is wrong with the index, as text, if anything.
pub(super) fn wrong(store: &Store, cancel: &AtomicBool) -> Result<Option<String>> {
    match store.with_index(|index| Ok(index.is_sound()))? {
        None => return Ok(None),
        Some(false) => return Ok(Some("SQLite reports corrupt pages".to_owned())),
        Some(true) => {}
    }
    let (lost, stale) = (lost_rows(store, cancel)?, stale_rows(store, cancel)?);
    // A row is written after its entry and deleted after it, so on a second look a change in progress is complete.
    let (lost, stale) = match lost + stale {
        0 => return Ok(None),
        _ => (lost.min(lost_rows(store, cancel)?), stale.min(stale_rows(store, cancel)?)),
    };
    Ok((lost + stale > 0)
        .then(|| format!("{lost} entries are missing or outdated in it, {stale} rows have no entry")))
}

/// Counts entries without a row, or with a wrong one.
fn lost_rows(store: &Store, cancel: &AtomicBool) -> Result<u64> {
    let mut lost = 0;
    shards::entries(store, &mut |key, _, _| {
        must_go_on(cancel)?;
        let Ok(Some(entry)) = store.lookup(&key) else { return Ok(()) };
        let expected = Row::of(entry.manifest());
        let row = store.with_index(|index| index.row(&expected.key))?.flatten();
        let is_same = row.is_some_and(|row| Row { used: expected.used, ..row } == expected);
        lost += u64::from(!is_same);
        Ok(())
    })?;
    Ok(lost)
}

/// Counts rows without an entry.
fn stale_rows(store: &Store, cancel: &AtomicBool) -> Result<u64> {
    let (mut stale, mut last) = (0, None);
    loop {
        must_go_on(cancel)?;
        let keys = store.with_index(|index| index.keys_after(last.as_ref(), PAGE))?.unwrap_or_default();
        let Some(key) = keys.last() else { return Ok(stale) };
        last = Some(*key);
        stale += keys.iter().filter(|key| !entry::path(&store.entries(), key).exists()).count() as u64;
    }
}
