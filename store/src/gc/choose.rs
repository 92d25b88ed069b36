//! Choosing the entries to delete to meet the limits: least recently used first.

use super::plan_db::{Candidate, PlanDb};
use super::survey::{named, read};
use super::{GcReason, GcRules, Going, must_go_on};
use crate::error::at;
use crate::{Error, Outcome, Result, Store, entry};

/// Sizes as they will be after deleting everything chosen so far.
struct Room {
    bytes: u64,
    free: u64,
}

impl Room {
    fn gain(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.free = self.free.saturating_add(bytes);
    }

    /// A limit that is still exceeded.
    fn exceeds(&self, rules: &GcRules) -> Option<GcReason> {
        if rules.caps.max_size.is_some_and(|most| self.bytes > most) {
            return Some(GcReason::Size);
        }
        rules.caps.min_free.is_some_and(|least| self.free < least).then_some(GcReason::Free)
    }
}

/// Chooses entries to delete. Returns a limit that is exceeded nevertheless.
pub(super) fn entries(store: &Store, rules: &GcRules, plan_db: &PlanDb) -> Result<Option<GcReason>> {
    let (bytes, unnamed) = plan_db.bytes()?;
    let mut room = Room { bytes, free: free(store)? };
    room.gain(unnamed);
    let mut last = None;
    loop {
        let mut page = plan_db.candidates(last.as_ref())?;
        for candidate in &page {
            must_go_on(rules.cancel)?;
            // Candidates come oldest first, so none of the following exceeds the age limit either.
            let Some(reason) = reason(rules, &room, candidate) else { return Ok(None) };
            if let Some(going) = go(store, plan_db, candidate, reason)? {
                room.gain(going.bytes);
            }
        }
        last = page.pop();
        if last.is_none() {
            return Ok(room.exceeds(rules));
        }
    }
}

fn reason(rules: &GcRules, room: &Room, candidate: &Candidate) -> Option<GcReason> {
    let unused = rules.now.saturating_sub(candidate.used);
    match rules.caps.max_age {
        Some(most) if unused > most => Some(GcReason::Age),
        _ => room.exceeds(rules),
    }
}

/// Chooses an entry, unless its file changed since the survey; then it counts as young.
fn go(store: &Store, plan_db: &PlanDb, candidate: &Candidate, reason: GcReason) -> Result<Option<Going>> {
    let key = candidate.key;
    let entry = match read(&entry::path(&store.entries(), &key), &key) {
        Ok(Some((stamp, _, entry))) if stamp == candidate.stamp => entry,
        Ok(_) | Err(Error::Damaged { .. } | Error::Entry { .. }) => {
            plan_db.stay(&key)?;
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let manifest = entry.manifest();
    let going = Going {
        key,
        labels: manifest.labels.clone(),
        built: manifest.outcome == Outcome::Built,
        used: candidate.used,
        bytes: candidate.stamp.size + plan_db.unname(named(manifest).iter())?,
        reason,
    };
    plan_db.go(&going)?;
    Ok(Some(going))
}

/// Bytes available to unprivileged users on the store's file system (`f_bavail` of statvfs(3)).
fn free(store: &Store) -> Result<u64> {
    let found = rustix::fs::statvfs(store.dir());
    let found = found.map_err(|e| at("determine the file system of", store.dir())(e.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
