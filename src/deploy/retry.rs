//! Asking again: which packages may still come without anybody's doing, and when shared caches are asked for them next.
//!
//! ```text
//! DIR/retry.json      DIR is the store; 0644
//! {"situation": "<64 hex digits>", "attempts": 3, "last": 1795000000, "wait": 14400}
//! ```
//! An attempt that leaves something open doubles the wait, from an hour to a day; if no reason may pass, it is a day at once. The
//! wait belongs to a situation: the installed kernels, what is open for each, the caches and the trusted keys. Another situation
//! starts anew, and if nothing is open the file is deleted.
//!
//! The file is written before an attempt, so that one that is killed counts, and again after it. A file that cannot be read
//! counts as none: the worst that follows is a request too many. So do two processes at once.

use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use fs_err as fs;
use kcache_kernel::bounded_read;
use kcache_kernel::kernels::Kernel;
use kcache_kernel::packages::Package;
use kcache_store::Digest;
use serde::{Deserialize, Serialize};

use crate::inputs::change::InputChange;
use crate::run::context::Context;
use crate::run::policy::Need;
use crate::verdict::Survey;
use crate::verdict::state::{Standing, State};

/// The first wait, in seconds: as often as the timer elapses.
const FIRST: u64 = 3600;
/// The longest wait, in seconds.
const LONGEST: u64 = 24 * 3600;
/// Seconds by which an attempt may come too early: an hour of the timer's is not one of this clock.
const EARLY: u64 = 300;

/// The releases for which something may still come, with the packages' names, each kernel once.
pub fn open<'a>(context: &Context, survey: &'a Survey) -> Vec<(&'a str, Vec<&'a str>)> {
    let of_kernel = |verdict: &'a crate::verdict::Verdict| {
        let each = survey.packages.iter().zip(&verdict.standings);
        let open = each.filter(|(package, standing)| may_come(context, verdict.kernel, package, standing));
        (verdict.kernel.release.as_str(), open.map(|(package, _)| package.name.as_str()).collect())
    };
    survey.verdicts.iter().map(of_kernel).filter(|(_, open): &(_, Vec<_>)| !open.is_empty()).collect()
}

/// Whether a package that is not ready may become so: from the store, a shared cache, or a build that nobody has tried yet.
fn may_come(context: &Context, kernel: &Kernel, package: &Package, standing: &Standing) -> bool {
    let asks = !context.caches().is_empty() && context.caches().trust().keys().next().is_some();
    let builds = kernel.build_tree().is_some() && package.has_source();
    let is_open = match standing.state {
        // Outdated is only what caches were asked for.
        State::Missing | State::NoHeaders | State::Outdated => true,
        // Another initramfs is all that lacks there.
        State::Stale => !standing.changed.contains(&InputChange::Initramfs),
        State::Ready | State::Excluded | State::Fails | State::Broken => false,
    };
    is_open && standing.need != Need::Ignored && (standing.built || asks || builds)
}

/// The attempts of one situation.
pub struct Attempts {
    path: PathBuf,
    situation: String,
    kept: Option<Kept>,
}

/// The file's content. Stored: add, never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    situation: String,
    /// Attempts that left something open.
    attempts: u32,
    /// When the last one began, in seconds since 1970.
    last: u64,
    /// Seconds from then to the next one.
    wait: u64,
}

impl Attempts {
    /// Reads what is known of the situation that a survey shows.
    pub fn of(context: &Context, survey: &Survey) -> Attempts {
        Attempts::read(&context.store, situation(context, survey))
    }

    fn read(store: &Path, situation: String) -> Attempts {
        let path = store.join("retry.json");
        let text = bounded_read::config(&path).ok();
        let kept: Option<Kept> = text.and_then(|text| serde_json::from_str(&text).ok());
        Attempts { path, kept: kept.filter(|kept| kept.situation == situation), situation }
    }

    /// Seconds until the next attempt; 0 if it is due.
    pub fn due_in(&self, now: u64) -> u64 {
        match &self.kept {
            // A last attempt in the future was before the clock was set.
            Some(kept) if kept.last <= now && now + EARLY < kept.last.saturating_add(kept.wait) => {
                kept.last + kept.wait - now
            }
            _ => 0,
        }
    }

    /// Records that an attempt begins.
    ///
    /// # Errors
    ///
    /// If the store cannot be written.
    pub fn begin(&mut self, now: u64) -> io::Result<()> {
        let attempts = self.kept.as_ref().map_or(0, |kept| kept.attempts).saturating_add(1);
        let wait = FIRST.checked_shl(attempts - 1).filter(|_| attempts < 32).unwrap_or(LONGEST).min(LONGEST);
        self.keep(Kept { situation: self.situation.clone(), attempts, last: now, wait })
    }

    /// Records that no reason for what is left open may pass: the next attempt is in a day, unless something changes.
    ///
    /// # Errors
    ///
    /// If the store cannot be written.
    pub fn postpone(&mut self) -> io::Result<()> {
        match self.kept.clone() {
            Some(kept) => self.keep(Kept { wait: LONGEST, ..kept }),
            None => Ok(()),
        }
    }

    /// Deletes the record.
    ///
    /// # Errors
    ///
    /// If the store cannot be written.
    pub fn end(self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn keep(&mut self, kept: Kept) -> io::Result<()> {
        let draft = self.path.with_extension("json.new");
        match fs::remove_file(&draft) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        // A store with files that others could change is refused, and the umask may let them.
        let options = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o644).to_owned();
        let mut file = fs::OpenOptions::from_options(options).open(&draft)?;
        file.write_all(&serde_json::to_vec(&kept).map_err(io::Error::from)?)?;
        drop(file);
        fs::rename(&draft, &self.path)?;
        self.kept = Some(kept);
        Ok(())
    }
}

/// A digest of everything whose change makes another attempt worth it at once.
fn situation(context: &Context, survey: &Survey) -> String {
    let caches = context.caches();
    let mut lines: Vec<String> = Vec::new();
    for verdict in &survey.verdicts {
        let kernel = verdict.kernel;
        let headers = kernel.build_tree().map(|tree| tree.version.as_str());
        lines.push(format!("kernel {} {:?} {headers:?}", kernel.release, kernel.image_version));
        let each = survey.packages.iter().zip(&verdict.standings);
        for (package, standing) in
            each.filter(|(package, standing)| may_come(context, kernel, package, standing))
        {
            let Standing { version, state, built, .. } = standing;
            lines.push(format!("open {} {version} {} {built}", package.name, state.word()));
        }
    }
    lines.extend(caches.states().iter().map(|(url, _)| format!("cache {url}")));
    lines.extend(caches.trust().keys().map(|key| format!("key {}", key.key.id())));
    Digest::of(lines.join("\n").as_bytes()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits between attempts, each made as soon as it is due, in minutes.
    fn waits(store: &Path, situation: &str, attempts: usize, from: u64) -> Vec<u64> {
        let mut now = from;
        let wait = |_| {
            let mut attempts = Attempts::read(store, situation.to_owned());
            assert_eq!(attempts.due_in(now), 0);
            attempts.begin(now).unwrap();
            let wait = Attempts::read(store, situation.to_owned()).due_in(now);
            now += wait;
            wait / 60
        };
        (0..attempts).map(wait).collect()
    }

    #[test]
    fn attempts_become_rarer_up_to_one_a_day_and_a_new_situation_starts_anew() {
        let dir = tempfile::tempdir().unwrap();
        let hours =
            waits(dir.path(), "one", 7, 1_000_000).iter().map(|minutes| minutes / 60).collect::<Vec<_>>();
        assert_eq!(hours, [1, 2, 4, 8, 16, 24, 24]);
        assert_eq!(waits(dir.path(), "two", 2, 2_000_000), [60, 120]);
        let many = Kept { situation: "many".into(), attempts: u32::MAX, last: 0, wait: 0 };
        fs::write(dir.path().join("retry.json"), serde_json::to_vec(&many).unwrap()).unwrap();
        assert_eq!(waits(dir.path(), "many", 1, 5), [24 * 60]);
    }

    #[test]
    fn what_cannot_pass_is_asked_once_a_day_and_a_broken_record_counts_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let read = || Attempts::read(dir.path(), "s".to_owned());
        let mut attempts = read();
        attempts.begin(100).unwrap();
        attempts.postpone().unwrap();
        assert_eq!(read().due_in(100), LONGEST);
        // The timer may be a little early, and the clock may have been set back.
        assert_eq!((read().due_in(100 + LONGEST - EARLY), read().due_in(50)), (0, 0));
        fs::write(dir.path().join("retry.json"), "{").unwrap();
        assert_eq!(read().due_in(100), 0);
        read().end().unwrap();
        read().end().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
